"""Optimizer state that torch's own tools for checkpoints save and load."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

__all__ = ["only_makes_state", "saved_generator"]


def only_makes_state(optimizer: Optimizer) -> bool:
    """Whether a step without a closure is the one by which torch.distributed.checkpoint has the state made.

    It sets every learning rate and every gradient to zero, so that the step changes nothing else.
    """
    if any(float(group["lr"]) != 0.0 for group in optimizer.param_groups):
        return False
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return bool(grads) and not any(bool(grad.any()) for grad in grads)


def saved_generator(state_dict: dict[str, Any]) -> Tensor | None:
    """The generator's state in what an optimizer saved, also where a tool has kept the parameters' state only."""
    states = [state_dict, *state_dict["state"].values()]
    found: list[Tensor] = [state["generator"] for state in states if state and "generator" in state]
    return found[0].cpu() if found else None
