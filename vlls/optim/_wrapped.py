"""Wrappers that imitate an optimizer's class, as Lightning's do, and hand only reads of attributes on to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

__all__ = ["itself", "on_itself"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def itself(optimizer: S) -> S:
    """Return the optimizer inside of such a wrapper, or the optimizer as it is."""
    inner: Any = optimizer
    return optimizer if "param_groups" in optimizer.__dict__ else inner.optimizer  # type: ignore[no-any-return]


def on_itself(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Let a method that changes attributes change the optimizer's, not those of a wrapper."""

    @wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        return method(itself(self), *args, **kwargs)

    return call
