r"""Gaussian logits pushed through A': the moments of :math:`A'(f)` for :math:`f \sim \mathcal N(\mu, B B^\top)`.

No pass through the network is needed, and the curvature of A' is not linearised away.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vlls._names import kind_of
from vlls._quadrature import gaussian_expectation, sobol_normal
from vlls.families import Bernoulli, Categorical, Family, VectorFamily
from vlls.noise._layers import MOVE

_POINTS = Categorical(2)  # for families without their own points
_ROOM = 1 << 19  # numbers of one temporary
_STEPS = 9  # to find an eigenvalue of A''; no probabilities were found that need more than seven


class Moments(NamedTuple):
    """Of the noise A'(mu) - A'(f), float64; the last is (B, K, K), or its product with (B, K, M) vectors."""

    shift: Tensor  # the mean, (B, K)
    variance: Tensor  # the diagonal of the covariance, (B, K)
    error: Tensor  # standard error of the mean, (B, K)
    covariance: Tensor


def the_family(family: Family | None, num_outputs: int) -> Family:
    """Return the given family, or Categorical for several logits and Bernoulli for one."""
    if family is None:
        return Categorical(num_outputs) if num_outputs > 1 else Bernoulli()
    if not isinstance(family, Family):
        raise ValueError(f"family is {kind_of(family)}; pass one of vlls.families, such as Categorical(10)")
    if family.num_outputs not in (None, num_outputs):
        raise ValueError(f"the model returns {num_outputs} logits and {family!r} needs {family.num_outputs}")
    return family


def curvature(family: Family, logits: Tensor) -> Tensor:
    """Return A'' as (B, K, K) matrices, diagonal if each logit has its own label."""
    value = family.curvature(logits)
    return value if isinstance(family, VectorFamily) else torch.diag_embed(value)


def bend(family: Family, logits: Tensor, vectors: Tensor) -> Tensor:
    """Return A'' times (B, K, M) vectors; for families with a simple A'' no (K, K) matrix is formed."""
    if isinstance(family, Categorical):  # diag p - p pᵀ
        return _bend(family.mean(logits), vectors)
    value = family.curvature(logits)
    return value @ vectors if isinstance(family, VectorFamily) else value[..., None] * vectors


def mean_bend(family: Family, logits: Tensor, root: Tensor, moments: Moments, vectors: Tensor) -> Tensor:
    """Return E[A''(f)], the derivative of E[A'(f)] by the mean of the logits, times vectors; arguments as in push."""
    if isinstance(family, Categorical):  # diag E[p] - E[p pᵀ], from the moments of push
        return _bend(family.mean(logits) - moments.shift, vectors) - moments.covariance
    if isinstance(family, VectorFamily):
        return family.expected_curvature(logits, root @ root.mT) @ vectors
    return family.expected_curvature(logits, root.square().sum(-1))[..., None] * vectors


def _bend(p: Tensor, vectors: Tensor) -> Tensor:
    weighted = p[..., None] * vectors
    return weighted - p[..., None] * weighted.sum(1, keepdim=True)


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
        return _leading_directions(p, rank, np if p.is_cpu and k <= 100 else torch)  # NumPy is faster for few classes
    value = family.curvature(logits)
    if isinstance(family, VectorFamily):
        return torch.linalg.eigh(value)[1][..., -rank:]
    largest = value.topk(rank).indices
    return torch.nn.functional.one_hot(largest, k).mT.to(value)


def operations(family: Family, k: int, rank: int) -> int:
    """Count the multiplications of an example's root of a covariance seen along leading directions, or whole."""
    points = _points_of(family)
    total = 10 * rank**3 + points.num_points * points.replicates * k * rank  # eigenvectors and the root, the push
    if rank < k:
        total += k * rank**2
        if isinstance(family, Categorical):
            total += (_STEPS * 6 * MOVE * k * rank) * (rank < k - 1)  # six operations on (K, R) numbers in a step
        elif isinstance(family, VectorFamily):
            total += 10 * k**3
    return total


def _leading_directions(p: Tensor, rank: int, xp: Any) -> Tensor:
    r"""The leading eigenvectors of diag(p) - p pᵀ for (B, K) probabilities in float64, by NumPy or torch.

    It is a diagonal minus a matrix of rank one, so that between two neighbours of :math:`p_1 > p_2 > \cdots` there is
    exactly one eigenvalue, the root of the increasing function :math:`\sum_k p_k / (p_k - \lambda)`, whose summands are
    the eigenvector's entries (Golub, 1973). It is found as its distance from :math:`p_{i+1}`, to full relative
    accuracy, so that the vectors are orthogonal: each step replaces the summands left of the root, and those right of
    it, by one pole each and a constant that have their value and slope (Li, 1993), which doubles the digits. Equal
    probabilities are first separated by a relative 1e-13.
    """
    on_cpu = p.is_cpu
    top, order = p.topk(rank + 1)
    steps = torch.arange(rank + 1, 0, -1, dtype=p.dtype, device=p.device)
    top = top * (1 + 1e-13 * steps) + 1e-100 * steps
    p, upper, lower = (xp.asarray(a) for a in (p.scatter(1, order, top)[:, None], top[:, :-1, None], top[:, 1:, None]))
    gap, distance, right = upper - lower, p - lower, p * (p >= upper)  # (B, R, 1), (B, R, K), (B, R, K)
    places, left = distance / gap, p - right
    low, high = lower / upper / (4 * rank), xp.ones_like(gap)  # of t = (eigenvalue - lower) / gap
    t = lower / (lower + upper)
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(_STEPS):
            shares = 1 / (places - t)
            value = (shares * p).sum(-1, keepdims=True)
            shares *= shares
            of_right, of_left = ((shares * side).sum(-1, keepdims=True) for side in (right, left))
            low, high = xp.where(value > 0, low, t), xp.where(value > 0, t, high)
            # the root in (0, 1) of c - s / t + r / (1 - t), that is of c t² - b t + s
            s, r = t * t * of_left, (1 - t) ** 2 * of_right
            c = value + t * of_left - (1 - t) * of_right
            b = c + s + r
            root = (b * b - 4 * c * s).clip(0) ** 0.5
            before, t = t, xp.clip(xp.where(b > 0, 2 * s / (b + root), (b - root) / (2 * c)), low, high)
            if on_cpu and (abs(t - before) <= 1e-15 * before).all():  # on a GPU the check would wait for the device
                break
    vectors = torch.as_tensor(p / (distance - t * gap))
    return torch.nn.functional.normalize(vectors, dim=-1).mT


def symmetric_root(covariance: Tensor) -> Tensor:
    """Return the symmetric square root of positive semi-definite matrices; negative eigenvalues become 0."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return (vectors * eigenvalues.clamp_min(0).sqrt()[..., None, :]) @ vectors.mT


def _points_of(family: Family) -> VectorFamily:
    return family if isinstance(family, VectorFamily) else _POINTS


def push(family: Family, logits: Tensor, root: Tensor, vectors: Tensor | None = None) -> Moments:
    """Return moments of the noise for Gaussian logits: (B, K) means and a (B, K, R) root of their covariance, float64.

    With (B, K, M) vectors, return their products with the noise's covariance instead of the covariance.
    """
    k = logits.shape[1]
    known: dict[str, Tensor] = {}  # without points
    if not isinstance(family, VectorFamily):
        var = root.square().sum(-1)
        shift = family.label_noise(logits, var)
        if k == 1:
            centre = (family.mean(logits) - shift).flatten()  # E[A'(f)]
            std = var.flatten().sqrt()
            variance = gaussian_expectation(lambda f: (family.mean(f) - centre).square(), logits.flatten(), std)
            covariance = variance[:, None, None] * (1 if vectors is None else vectors)
            return Moments(shift, variance[:, None], torch.zeros_like(shift), covariance)
        known = {"shift": shift, "error": torch.zeros_like(shift)}
    source = _points_of(family)
    points = sobol_normal(root.shape[-1], source.num_points, source.replicates, source.seed).to(root)
    points = points.reshape(-1, points.shape[-1])  # (R * S, ...)
    centre = family.mean(logits)
    rows = max(1, _ROOM // (len(points) * k))
    parts = []
    for start in range(0, len(logits), rows):
        here = slice(start, start + rows)
        across = root[here]
        f = torch.baddbmm(logits[here, :, None], across, points.T.expand(len(across), -1, -1))  # (B, K, R * S)
        if isinstance(family, Categorical):  # its mean along another axis, which is faster for few classes
            change = torch.softmax(f, 1).sub_(centre[here, :, None])
        else:
            change = family.mean(f.mT).mT - centre[here, :, None]
        by_replicate = change.unflatten(2, (source.replicates, -1)).mean(3)
        mean = by_replicate.mean(2)
        change -= mean[:, :, None]
        variance = torch.linalg.vector_norm(change, dim=2).square() / len(points)
        products = change @ (change.mT if vectors is None else change.mT @ vectors[here]) / len(points)
        parts.append(Moments(-mean, variance, by_replicate.std(2) / math.sqrt(source.replicates), products))
    moments = Moments(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return moments._replace(**known)
