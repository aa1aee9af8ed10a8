r"""The directions of the logits along which the curvature A'' is largest: those that the label noise sees most of."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import torch
from torch import Tensor

from vlls._native import Kernel
from vlls.families import Categorical, Family, VectorFamily

STEPS = 9  # to find an eigenvalue of A''; no probabilities were found that need more than seven
KERNEL = Kernel(
    Path(__file__).with_name("_directions.c"),
    "leading_directions",
    *(ctypes.c_void_p, *[ctypes.c_int64] * 4, *[ctypes.c_void_p] * 3),
)


def leading_directions(family: Family, logits: Tensor, rank: int) -> Tensor:
    """Return orthonormal eigenvectors of the ``rank`` largest eigenvalues of A'', (B, K, rank); rank < K."""
    num, k = logits.shape
    if isinstance(family, Categorical):
        if rank == k - 1:  # all but the vector of ones, which A'' takes to 0: Householder's reflection moves it last
            mirror = logits.new_full((k, 1), 1 / math.sqrt(k))
            mirror[-1] += 1
            mirror /= mirror.norm()
            return (torch.eye(k).to(logits) - 2 * mirror @ mirror.T)[:, :-1].expand(num, -1, -1)
        p = family.mean(logits)
        return (_by_kernel if p.is_cpu and KERNEL.available() else _by_torch)(p, rank).mT
    value = family.curvature(logits)
    if isinstance(family, VectorFamily):
        return torch.linalg.eigh(value)[1][..., -rank:]
    largest = value.topk(rank).indices
    return torch.nn.functional.one_hot(largest, k).mT.to(value)


def _by_kernel(p: Tensor, rank: int) -> Tensor:
    """Do the same as :func:`_by_torch` on a CPU."""
    num, k = p.shape
    p = p.contiguous()
    vectors, numbers, places = p.new_empty(num, rank, k), p.new_empty(2, k), torch.empty(k, dtype=torch.int64)
    after = (vectors.data_ptr(), numbers.data_ptr(), places.data_ptr())
    KERNEL.function()(p.data_ptr(), num, k, rank, STEPS, *after)
    return vectors


def _by_torch(p: Tensor, rank: int) -> Tensor:
    r"""The leading eigenvectors of diag(p) - p pᵀ, (B, R, K), for (B, K) probabilities in float64.

    It is a diagonal minus a matrix of rank one, so that between two neighbours of :math:`p_1 > p_2 > \cdots` there is
    exactly one eigenvalue, the root of the increasing function :math:`\sum_k p_k / (p_k - \lambda)`, whose summands are
    the eigenvector's entries (Golub, 1973). It is found as its distance from :math:`p_{i+1}`, to full relative
    accuracy, so that the vectors are orthogonal: each step replaces the summands left of the root, and those right of
    it, by one pole each and a constant that have their value and slope (Li, 1993), which doubles the digits. Equal
    probabilities are first separated by a relative 1e-13.
    """
    top, order = p.topk(rank + 1)
    steps = torch.arange(rank + 1, 0, -1, dtype=p.dtype, device=p.device)
    top = top * (1 + 1e-13 * steps) + 1e-100 * steps
    p, upper, lower = p.scatter(1, order, top)[:, None], top[:, :-1, None], top[:, 1:, None]
    gap, distance, right = upper - lower, p - lower, p * (p >= upper)  # (B, R, 1), (B, R, K), (B, R, K)
    places, left = distance / gap, p - right
    low, high = lower / upper / (4 * rank), torch.ones_like(gap)  # of t = (eigenvalue - lower) / gap
    t = lower / (lower + upper)
    for _ in range(STEPS):
        shares = 1 / (places - t)
        value = (shares * p).sum(-1, keepdim=True)
        shares *= shares
        of_right, of_left = ((shares * side).sum(-1, keepdim=True) for side in (right, left))
        low, high = torch.where(value > 0, low, t), torch.where(value > 0, t, high)
        # the root in (0, 1) of c - s / t + r / (1 - t), that is of c t² - b t + s
        s, r = t * t * of_left, (1 - t) ** 2 * of_right
        c = value + t * of_left - (1 - t) * of_right
        b = c + s + r
        root = (b * b - 4 * c * s).clip(0) ** 0.5
        before, t = t, torch.clip(torch.where(b > 0, 2 * s / (b + root), (b - root) / (2 * c)), low, high)
        if p.is_cpu and bool(((t - before).abs() <= 1e-15 * before).all()):  # a GPU would have to be waited for
            break
    return torch.nn.functional.normalize(p / (distance - t * gap), dim=-1)
