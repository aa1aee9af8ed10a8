r"""Gaussian logits pushed through A': the moments of :math:`A'(f)` for :math:`f \sim \mathcal N(\mu, B B^\top)`.

No pass through the network is needed, and the curvature of A' is not linearised away.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vlls._names import kind_of
from vlls._quadrature import gaussian_expectation, sobol_normal
from vlls.families import Bernoulli, Categorical, Family, VectorFamily
from vlls.families._softmax import softmax_moments
from vlls.noise._directions import STEPS
from vlls.noise._layers import MOVE

_POINTS = Categorical(2)  # for families without their own points
_ROOM = 1 << 19  # numbers of one temporary


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


def operations(family: Family, k: int, rank: int) -> int:
    """Count the multiplications of an example's root of a covariance seen along leading directions, or whole."""
    points = _points_of(family)
    total = 10 * rank**3 + points.num_points * points.replicates * k * rank  # eigenvectors and the root, the push
    if rank < k:
        total += k * rank**2
        if isinstance(family, Categorical):
            total += (STEPS * 6 * MOVE * k * rank) * (rank < k - 1)  # six operations on (K, R) numbers in a step
        elif isinstance(family, VectorFamily):
            total += 10 * k**3
    return total


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
    if isinstance(family, Categorical):
        by_replicate, variance, covariance = softmax_moments(logits, root, points, vectors)
        return Moments(-by_replicate.mean(1), variance, by_replicate.std(1) / math.sqrt(source.replicates), covariance)
    points = points.reshape(-1, points.shape[-1])  # (R * S, ...)
    centre = family.mean(logits)
    rows = max(1, _ROOM // (len(points) * k))
    parts = []
    for start in range(0, len(logits), rows):
        here = slice(start, start + rows)
        change = family.mean(logits[here, None] + points @ root[here].mT) - centre[here, None]  # (B, R * S, K)
        by_replicate = change.unflatten(1, (source.replicates, -1)).mean(2)
        mean = by_replicate.mean(1)
        change -= mean[:, None]
        variance = change.square().mean(1)
        products = change.mT @ (change if vectors is None else change @ vectors[here]) / len(points)
        parts.append(Moments(-mean, variance, by_replicate.std(1) / math.sqrt(source.replicates), products))
    moments = Moments(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return moments._replace(**known)
