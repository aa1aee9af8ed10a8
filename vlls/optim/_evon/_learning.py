"""Learning of the bases: running averages of the gradients' products, and their eigenvectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from vlls._bases import in_full, matrices_of, widened
from vlls.optim._evon._state import EigenState

SAMPLES = 10  # gradients that enter a factor between two changes of its basis
AT_ONCE = 2**19  # entries of the factors whose bases are found at once


def new_buffers(state: EigenState) -> list[Tensor]:
    return [state.flat(state.empty()) for _ in range(2)]


def learn_bases(states: Sequence[EigenState], buffers: Callable[[EigenState], list[Tensor]]) -> None:
    """Add this step's gradients to the factors, and update the bases, where either is due."""
    due: list[tuple[EigenState, int]] = []
    for state in states:
        state.count += 1
        step, interval = state.count, state.group["interval"]
        every = max(1, interval // SAMPLES)
        axes = state.turning
        if step % every == 0 and axes and state.grad is not None:
            entries = state.flat(state.grad.to(state.dtype))
            matrices = matrices_of(entries, [state.axes[axis] for axis in state.order], buffers(state))
            for axis, rows in zip(state.order, matrices, strict=True):
                if axis in axes:
                    with in_full(rows):
                        gram = rows @ rows.T
                    state.learned(axis)[0].lerp_(gram, 1.0 - state.group["basis_decay"] ** every)
        if step % interval == 0:
            due += [(state, axis) for axis in axes]
    with in_full(states[0].hess) if due else nullcontext():
        for (state, axis), basis in _follow(due):
            state.turn(axis, basis, buffers(state))


def _follow(due: Sequence[tuple[EigenState, int]]) -> Iterator[tuple[tuple[EigenState, int], Tensor]]:
    """Yield new bases, small ones of one size computed at once; none for a factor that is zero or not finite."""
    alike: dict[Any, list[tuple[EigenState, int]]] = {}
    for state, axis in due:
        factor, basis = state.learned(axis)[0], state.basis(axis)
        total = float(factor.diagonal().sum())
        if not math.isfinite(total):  # the square of a gradient was too large: the average begins again
            factor.zero_()
        elif total > 0:
            alike.setdefault((basis is None, factor.shape, factor.dtype, factor.device), []).append((state, axis))
    for (first, (size, _), *_), members in alike.items():
        at_once = max(1, AT_ONCE // size**2)
        for part in (members[k : k + at_once] for k in range(0, len(members), at_once)):
            factors = torch.stack([state.lasting[f"factor_{axis}"] for state, axis in part])
            if first:
                bases = _eigenvectors(factors)
            else:
                bases = _power_iteration(factors, torch.stack([state.sound_basis(axis) for state, axis in part]))
            yield from zip(part, bases, strict=True)


def _eigenvectors(factors: Tensor) -> Tensor:
    return torch.linalg.eigh(factors)[1].flip(-1)  # largest first


def _power_iteration(factors: Tensor, bases: Tensor) -> Tensor:
    """One step of orthogonal iteration from bases, (N, d, d), by Cholesky-QR; eigenvectors where that fails."""
    size = factors.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    moved = factors @ bases
    order = (bases * moved).sum(-2).argsort(-1, descending=True)  # by the Rayleigh quotients
    moved.addcmul_(size, bases, value=1e-6)  # vectors in a factor's null space stay
    moved = moved.gather(-1, order[:, None].expand_as(moved))
    for wide in (False, True):  # the second pass corrects the first one's rounding
        moved = widened(moved) if wide else moved
        moved /= moved.norm(dim=-2, keepdim=True)
        root, info = torch.linalg.cholesky_ex(moved.mT @ moved)
        moved = torch.linalg.solve_triangular(root.mT, moved, upper=True, left=False)
        failed = (info > 0) | ~torch.isfinite(moved).all(-1).all(-1)
        if bool(failed.any()):
            moved[failed] = _eigenvectors(factors[failed]).to(moved.dtype)
    return moved.to(bases.dtype)
