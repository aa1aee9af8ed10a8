r"""Whether the loss of a GLM has a minimum, or falls forever in some direction: separated classes, counts of zero.

A loss :math:`-yf + A(f)` falls, or stays, along :math:`s = \phi^\top d` if and only if y is the largest mean that the
family has and s >= 0, or the smallest and s <= 0, or s = 0. So there is no minimum if and only if a direction d, zero
where a ridge penalises, has :math:`a_m^\top d \ge 0` for all such conditions, = 0 for those of the other examples, and
> 0 for one. By Stiemke's lemma that is so if and only if no u >= 1 has :math:`\sum_m u_m a_m = 0` on the directions
that are left; the shortest such sum is found by non-negative least squares, and it is such a d.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NULL, _ZERO = 1e-12, 1e-10


def falling_direction(features: Tensor, rows: Tensor, weights: Tensor, strict: Tensor, free: Tensor) -> Tensor | None:
    """Return a direction along which the loss falls without end, or None if it has a minimum.

    Condition m of M is on ``weights[m] @ (features @ d)[rows[m]]``, of the features (N, P) and weights (M, K): it may
    be positive if ``strict``, and must be zero otherwise. ``free`` (P, K) is True where no ridge holds the parameter.
    """
    scale = features.norm(dim=0).clamp_min(torch.finfo(features.dtype).tiny)
    x = features / scale
    basis = _null_space(x, rows[~strict], weights[~strict], free)
    rows, weights = rows[strict], weights[strict]
    if not len(rows) or not basis.shape[1]:
        return None
    lengths = (x.norm(dim=1)[rows] * weights.norm(dim=1)).clamp_min(torch.finfo(x.dtype).tiny)
    weights = weights / lengths[:, None]

    def along(z: Tensor) -> Tensor:
        return ((x @ (basis @ z).view_as(free))[rows] * weights).sum(1)

    def column(m: Tensor) -> Tensor:
        return (x[rows[m]][:, None] * weights[m]).flatten() @ basis

    summed = x.new_zeros(len(x), weights.shape[1]).index_add_(0, rows, weights)
    start = (x.T @ summed).flatten() @ basis
    shortest, used = start, 0.0
    passive: list[int] = []
    columns = x.new_zeros(len(start), 0)
    u = x.new_zeros(0)
    for _ in range(10 * len(start) + 10):
        if float(shortest.norm()) <= _ZERO * (len(rows) + used):
            return None
        slack = along(shortest)
        slack[passive] = 0.0
        worst = slack.argmin()
        if float(slack[worst]) >= -_ZERO * float(shortest.norm()):
            break
        passive.append(int(worst))
        columns = torch.cat([columns, column(worst)[:, None]], dim=1)
        u = torch.cat([u, u.new_zeros(1)])
        while len(passive):
            goal = torch.linalg.lstsq(columns, -start[:, None], driver="gelsd").solution[:, 0]
            if bool((goal > 0).all()):
                u = goal
                break
            falls = goal <= 0
            share = (u / (u - goal).clamp_min(torch.finfo(u.dtype).tiny))[falls].min()
            u = u + share * (goal - u)
            kept = ~(falls & (u <= _NULL * u.max().clamp_min(1.0)))
            passive = [m for m, keep in zip(passive, kept.tolist(), strict=True) if keep]
            columns, u = columns[:, kept], u[kept]
        shortest, used = start + columns @ u, float(u.sum())
    found = basis @ (shortest / shortest.norm())
    slack = along(shortest / shortest.norm())
    if float(slack.max()) <= 1e-7 or float(slack.min()) < -1e-7:
        return None  # lost in rounding: nothing is claimed
    return found.view_as(free) / scale[:, None]


def _null_space(x: Tensor, rows: Tensor, weights: Tensor, free: Tensor) -> Tensor:
    """Return directions (P K, Q), orthonormal, that are zero where not free and for which these conditions are zero."""
    places = free.flatten().nonzero()[:, 0]
    whole = torch.eye(free.numel(), dtype=x.dtype, device=x.device)[:, places]
    if not len(rows) or not len(places):
        return whole
    gram = x.new_zeros(len(places), len(places))
    for at in range(0, len(rows), 1024):
        n, w = rows[at : at + 1024], weights[at : at + 1024]
        block = (x[n][:, :, None] * w[:, None]).flatten(1)[:, places]
        gram += block.T @ block
    values, vectors = torch.linalg.eigh(gram)
    return whole @ vectors[:, values <= _NULL * values[-1].clamp_min(torch.finfo(x.dtype).tiny)]
