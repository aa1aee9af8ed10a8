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

_POINTS = Categorical(2)  # the points of a family that brings none
_ROOM = 1 << 19  # numbers of one temporary


class Moments(NamedTuple):
    """Of the noise A'(mu) - A'(f): mean (B, K), covariance (B, K, K), standard error of the mean (B, K), float64."""

    shift: Tensor
    covariance: Tensor
    error: Tensor


def the_family(family: Family | None, num_outputs: int) -> Family:
    """The family given, or Categorical for several logits and Bernoulli for one."""
    if family is None:
        return Categorical(num_outputs) if num_outputs > 1 else Bernoulli()
    if not isinstance(family, Family):
        raise ValueError(f"family is {kind_of(family)}; pass one of vlls.families, such as Categorical(10)")
    if family.num_outputs not in (None, num_outputs):
        raise ValueError(f"the model returns {num_outputs} logits and {family!r} needs {family.num_outputs}")
    return family


def curvature(family: Family, logits: Tensor) -> Tensor:
    """A'' as (B, K, K) matrices: diagonal where every logit has a label of its own."""
    value = family.curvature(logits)
    return value if isinstance(family, VectorFamily) else torch.diag_embed(value)


def mean_curvature(family: Family, logits: Tensor, root: Tensor, moments: Moments) -> Tensor:
    """E[A''(f)] as (B, K, K) matrices, the derivative of E[A'(f)] by the mean of the logits; arguments as of push."""
    if isinstance(family, Categorical):  # diag E[p] - E[p pᵀ], of which push has the moments
        p = family.mean(logits) - moments.shift
        return torch.diag_embed(p) - moments.covariance - p[:, :, None] * p[:, None, :]
    if isinstance(family, VectorFamily):
        return family.expected_curvature(logits, root @ root.mT)
    return torch.diag_embed(family.expected_curvature(logits, root.square().sum(-1)))


def symmetric_root(covariance: Tensor) -> Tensor:
    """The symmetric square root of positive semi-definite matrices; rounding below zero is cut off."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return (vectors * eigenvalues.clamp_min(0).sqrt()[..., None, :]) @ vectors.mT


def push(family: Family, logits: Tensor, root: Tensor) -> Moments:
    """Moments of the noise for Gaussian logits: (B, K) means and a (B, K, R) root of their covariance, in float64."""
    k = logits.shape[1]
    if not isinstance(family, VectorFamily):
        var = root.square().sum(-1)
        shift = family.label_noise(logits, var)
        if k == 1:
            centre = (family.mean(logits) - shift).flatten()  # E[A'(f)]
            std = var.flatten().sqrt()
            variance = gaussian_expectation(lambda f: (family.mean(f) - centre).square(), logits.flatten(), std)
            return Moments(shift, variance.reshape(*logits.shape, 1), torch.zeros_like(shift))
    source = family if isinstance(family, VectorFamily) else _POINTS
    points = sobol_normal(root.shape[-1], source.num_points, source.replicates, source.seed).to(root)
    points = points.reshape(-1, points.shape[-1])  # (R * S, ...)
    centre = family.mean(logits)
    rows = max(1, _ROOM // (len(points) * k))
    shifts, covariances, errors = [], [], []
    for f, b, c in zip(logits.split(rows), root.split(rows), centre.split(rows), strict=True):
        noise = c[:, None] - family.mean(f[:, None] + points @ b.mT)  # (B, R * S, K)
        mean = noise.mean(1)
        by_replicate = noise.unflatten(1, (source.replicates, -1)).mean(2)
        noise -= mean[:, None]
        shifts.append(mean)
        errors.append(by_replicate.std(1) / math.sqrt(source.replicates))
        covariances.append(noise.mT @ noise / noise.shape[1])
    covariance = torch.cat(covariances)
    if isinstance(family, VectorFamily):
        return Moments(torch.cat(shifts), covariance, torch.cat(errors))
    return Moments(shift, covariance, torch.zeros_like(shift))
