r"""Moments of :math:`\operatorname{softmax}(f)` for :math:`f \sim \mathcal N(\mu, B B^\top)` by given normal points."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from vlls._native import Kernel, in_parallel

_ROOM = 1 << 19  # numbers of one temporary
_POINTS = 64  # of _softmax.c
KERNEL = Kernel(
    Path(__file__).with_name("_softmax.c"), "softmax_moments", *[ctypes.c_int64] * 7, *[ctypes.c_void_p] * 9
)


class SoftmaxMoments(NamedTuple):
    """Of softmax(f) - softmax(mean), float64; the last is (B, K, K), or its product with (B, K, M) vectors."""

    by_replicate: Tensor  # means, (B, R, K)
    variance: Tensor  # (B, K)
    covariance: Tensor


def softmax_moments(mean: Tensor, root: Tensor, points: Tensor, vectors: Tensor | None = None) -> SoftmaxMoments:
    """Average over R replicates of S points, (R, S, D), for (B, K) means and (B, K, D) roots.

    With (B, K, M) vectors, return their products with the covariance instead of the covariance.
    """
    by_kernel = all(_is_plain(tensor) for tensor in (mean, root, vectors) if tensor is not None) and KERNEL.available()
    by_replicate, squares, products = (_by_kernel if by_kernel else _by_torch)(mean, root, points, vectors)
    average = by_replicate.mean(1)
    across = average if vectors is None else (average[:, None] @ vectors)[:, 0]
    variance = (squares - average.square()).clamp_min(0)
    return SoftmaxMoments(by_replicate, variance, products - average[:, :, None] * across[:, None])


def _is_plain(tensor: Tensor) -> bool:
    """Whether the kernel can read the numbers, and neither torch.compile nor a derivative follows them."""
    return (
        tensor.is_cpu
        and tensor.dtype == torch.float64
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and unpack_dual(tensor).tangent is None
    )


def _by_kernel(mean: Tensor, root: Tensor, points: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same as :func:`_by_torch` on a CPU."""
    num, k = mean.shape
    replicates, size, dim = points.shape
    number = -1 if vectors is None else vectors.shape[2]
    columns = k if vectors is None else number
    by_replicate, squares = mean.new_empty(num, replicates, k), mean.new_empty(num, k)
    products = mean.new_empty(num, k, columns)
    given = [mean, root, points.reshape(-1, dim).T, mean.softmax(1)] + ([] if vectors is None else [vectors])
    given = [tensor.contiguous() for tensor in given]
    threads = max(1, min(torch.get_num_threads(), num * k * replicates * size // 50_000))
    scratch = mean.new_empty(threads, (k + columns + 2) * _POINTS)
    addresses = [tensor.data_ptr() for tensor in given] + ([None] if vectors is None else [])
    addresses += [tensor.data_ptr() for tensor in (by_replicate, squares, products)]
    run = KERNEL.function()

    def part(i: int) -> None:
        first, last = num * i // threads, num * (i + 1) // threads
        run(first, last, k, dim, replicates, size, number, *addresses, scratch[i].data_ptr())

    in_parallel(part, threads)
    return by_replicate, squares, products


def _by_torch(mean: Tensor, root: Tensor, points: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return means by replicate, mean squares and mean outer products of the change, these or times vectors."""
    replicates, size, dim = points.shape
    points = points.reshape(-1, dim).T
    centre = mean.softmax(1)[:, :, None]
    rows = max(1, _ROOM // (points.shape[1] * mean.shape[1]))
    parts = []
    for start in range(0, max(1, len(mean)), rows):
        here = slice(start, start + rows)
        across = root[here]
        f = torch.baddbmm(mean[here, :, None], across, points.expand(len(across), -1, -1))  # (B, K, R * S)
        change = torch.softmax(f, 1) - centre[here]  # along this axis softmax is faster for few classes
        by_replicate = change.unflatten(2, (replicates, size)).mean(3).mT
        squares = change.square().mean(2)
        products = change @ (change.mT if vectors is None else change.mT @ vectors[here]) / points.shape[1]
        parts.append((by_replicate, squares, products))
    by_replicate, squares, products = (torch.cat(column) for column in zip(*parts, strict=True))
    return by_replicate, squares, products
