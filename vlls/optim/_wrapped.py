"""Optimizers inside other tools.

Wrappers that imitate an optimizer's class, as Lightning's do, forward only reads of attributes to it, and
torch.distributed.checkpoint takes a step that changes nothing in order to create the state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch.optim import Optimizer

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def itself(optimizer: S) -> S:
    """Return the optimizer inside of such a wrapper, or the optimizer as it is."""
    inner: Any = optimizer
    return optimizer if "param_groups" in optimizer.__dict__ else inner.optimizer


def on_itself(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Make a method that changes attributes change the optimizer's, not a wrapper's."""

    @wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        return method(itself(self), *args, **kwargs)

    return call


def only_makes_state(optimizer: Optimizer) -> bool:
    """Whether a step without a closure is torch.distributed.checkpoint's: learning rates and gradients are zero."""
    if any(float(group["lr"]) != 0.0 for group in optimizer.param_groups):
        return False
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return bool(grads) and not any(bool(grad.any()) for grad in grads)
