"""A check that gradients are finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vlls._compiled import capturing


def mesh_of(tensor: Tensor) -> Any:
    """Return the mesh of processes that share a DTensor, None for a plain tensor: no operation takes both."""
    return getattr(tensor, "device_mesh", None)


def are_finite(grads: Sequence[Tensor]) -> bool:
    """Whether no gradient holds a NaN or an infinity; waits for the devices, and is True while a graph is captured."""
    if capturing(grads):
        return True
    parts: dict[Any, list[Tensor]] = {}
    for grad in grads:
        parts.setdefault((grad.device, grad.dtype, mesh_of(grad)), []).append(grad)

    def are_norms(order: float) -> bool:
        norms = [torch.stack(torch._foreach_norm(part, order)) for part in parts.values()]
        return all(bool(torch.isfinite(of_part).all()) for of_part in norms)

    return are_norms(2) or are_norms(math.inf)  # slow on a CPU, but no square of it overflows
