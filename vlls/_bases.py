"""Orthonormal bases of a tensor's axes, and changes of coordinates into them and back.

A basis is a (d, d) matrix with its vectors as columns, or None for the axis as it is. With fewer bases than axes, the
last stands for all remaining ones: filters (O, I, 3, 3) of a convolution have bases of sizes O, I and 9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

Bases = Sequence[Tensor | None]


def axes_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of the axes that have a basis: outputs, inputs, and all others as one."""
    return tuple(shape) if len(shape) < 3 else (shape[0], shape[1], math.prod(shape[2:]))


def project(tensor: Tensor, bases: Bases, lead: int = 0) -> Tensor:
    r"""Return :math:`X \times_1 Q_1^\top \times_2 Q_2^\top \cdots`: the coordinates in the bases.

    Args:
        tensor: of any layout, with ``lead`` axes in front that have no basis.
        bases: of the axes behind them.
        lead: number of the axes in front.
    """
    return _turn(tensor, bases, lead, 0)


def back(tensor: Tensor, bases: Bases, lead: int = 0) -> Tensor:
    r"""Return :math:`X \times_1 Q_1 \times_2 Q_2 \cdots`, the inverse of :func:`project`."""
    return _turn(tensor, bases, lead, 1)


def _turn(tensor: Tensor, bases: Bases, lead: int, side: int) -> Tensor:
    shape = tensor.shape
    front, own = shape[:lead], shape[lead:]
    num = math.prod(front)
    turned = tensor.reshape(num, *own[: len(bases) - 1], -1).movedim(0, -1)
    with in_full(tensor):
        for basis in bases:  # the first axis becomes the last, until all are where they were: no product needs a copy
            turned = turned.movedim(0, -1) if basis is None else torch.tensordot(turned, basis, ([0], [side]))
    return turned.reshape(shape)


def turn_alike(
    rows: Sequence[Tensor], axes: Sequence[tuple[int, Sequence[Tensor | None]]], side: int
) -> tuple[Tensor, ...]:
    """Return :func:`project` (side 0) or :func:`back` (side 1) of tensors of one shape, by products of all at once.

    Args:
        rows: the entries of each tensor, a contiguous vector.
        axes: size, and basis in each tensor; all of them or none has one.
        side: 0 or 1.
    """
    turned = _stacked(rows)
    num, numel = turned.shape
    with in_full(turned):
        for size, of_axis in axes:
            columns = turned.view(num, size, -1).mT  # the first axis becomes the last, until all are where they were
            if bases := [basis for basis in of_axis if basis is not None]:
                matrices = _stacked(bases)
                turned = torch.bmm(columns, matrices.mT if side else matrices)
            else:
                turned = columns.contiguous()
    return turned.view(num, numel).unbind()


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stack the tensors; a single one is not copied."""
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0][None]


def turn_flat(entries: Tensor, axes: Sequence[tuple[int, Tensor | None]], side: int, free: list[Tensor]) -> Tensor:
    """Return :func:`project` (side 0) or :func:`back` (side 1) of a tensor whose entries are given in a row.

    Args:
        entries: a contiguous vector.
        axes: size and basis of each axis.
        side: 0 or 1.
        free: at least two vectors of that length. The products are written to them in turns, and the one with the
            result is removed from the list.
    """
    last = None
    with in_full(entries):
        for size, basis in axes:
            if size == 1:
                continue
            columns, out = entries.view(size, -1).T, free.pop()
            if basis is None:
                out.view(-1, size).copy_(columns)
            else:
                torch.mm(columns, basis.T if side else basis, out=out.view(-1, size))
            if last is not None:
                free.append(last)
            entries = last = out
    return entries


def in_full(tensor: Tensor) -> AbstractContextManager[None]:
    """Keep a surrounding autocast from computing products of a tensor in half precision."""
    return torch.autocast(tensor.device.type, enabled=False)


def matrices_of(entries: Tensor, sizes: Sequence[int], free: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield a tensor's (d, rest) matrix for each axis, from its entries in a row; two free rows hold the copies."""
    for number, size in enumerate(sizes):
        matrix = entries.view(size, -1)
        yield matrix
        if number + 1 < len(sizes):
            entries = free[number % 2]
            entries.view(-1, size).copy_(matrix.T)


def widened(tensor: Tensor) -> Tensor:
    """Return the tensor in float64, where no setting reduces products to TF32 or bfloat16; on MPS in float32."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def distance_from_orthonormal(basis: Tensor) -> float:
    """Return the largest entry of :math:`|Q^\\top Q - I|`, NaN if an entry is."""
    wide = widened(basis)
    product = wide.T @ wide
    product.diagonal().sub_(1)
    return float(product.abs().max())
