"""Expectations under a Gaussian: trapezoidal rules for a scalar, Sobol points for a vector.

The trapezoidal rule on the whole real line converges exponentially for integrands that are analytic in a
strip around it (Trefethen and Weideman, 2014): with step h and the nearest singularity at distance d the error
is of order exp(-2 pi d / h). Gauss-Hermite has no such rate for the logistic function at large variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 17  # elements of one (nodes, rows) temporary: about a megabyte, which stays in cache
_TOLERANCE = 1e-13  # largest accepted change of the last halving, relative to max(1, |value|)
_MOST_NODES = 1 << 16
_CROSSOVER = 2.5  # std above which the logistic density is the narrower of the two factors
_LOG_2PI = math.log(2 * math.pi)


# --------------------------------------------------------------------------------------- any analytic function
def gaussian_expectation(function: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor) -> Tensor:
    """Return E[function(mean + std e)], e ~ N(0, 1), elementwise, for an analytic ``function``.

    The range is widened until both ends are negligible and the step halved until the sum converges; a ValueError is
    raised if it does not. ``mean`` and ``std`` are float64 and broadcast.
    """
    mean, std = torch.broadcast_tensors(mean, std)
    shape = mean.shape
    mean, std = mean.reshape(-1), std.reshape(-1)

    def weighted_sum(nodes: Tensor) -> Tensor:
        total = torch.zeros_like(mean)
        block = max(1, _BLOCK // max(1, mean.numel()))
        for e in nodes.split(block):
            weight = torch.exp(-0.5 * e * e) / math.sqrt(2 * math.pi)
            total += weight @ function(mean + e[:, None] * std)
        return total

    if mean.numel() == 0:
        return mean.reshape(shape)
    half_width = 9.0
    while True:
        total = weighted_sum(torch.arange(-half_width, half_width + 0.5, dtype=mean.dtype, device=mean.device))
        tails = [weighted_sum(mean.new_tensor([end])).abs() for end in (-half_width, half_width)]
        if bool((torch.maximum(*tails) <= 1e-17 * total.abs().clamp_min(1.0)).all()):
            break
        half_width *= 1.5
        if half_width > 36.0:  # the Gaussian weight underflows soon after
            raise ValueError(
                "the Gaussian expectation did not converge: the function outgrows the Gaussian's tails, or overflows; "
                "use a smaller variance, or give the family its closed-form expectation"
            )
    step, value = 1.0, total
    while True:
        midpoints = torch.arange(-half_width + step / 2, half_width, step, dtype=mean.dtype, device=mean.device)
        total = total + weighted_sum(midpoints)
        step /= 2
        previous, value = value, step * total
        if bool(((value - previous).abs() <= _TOLERANCE * value.abs().clamp_min(1.0)).all()):
            return value.reshape(shape)
        if 4 * half_width / step > _MOST_NODES:
            raise ValueError(
                f"the Gaussian expectation did not settle with {_MOST_NODES} nodes: the function is not smooth at the "
                "scale of the variance, or the expectation is infinite; give the family its closed-form expectation"
            )


# --------------------------------------------------------------------------------------- the logistic function
@lru_cache(maxsize=2)
def _hermite_rule(number: int) -> tuple[Tensor, Tensor]:
    """Return the nodes >= 0 of a Gauss-Hermite rule of odd size, and their weights, added up for each pair +-e."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(number)
    weights[number // 2] /= 2
    half = slice(number // 2, None)
    return torch.from_numpy(nodes[half].copy()), torch.from_numpy(2 * weights[half] / math.sqrt(2 * math.pi))


@lru_cache(maxsize=64)
def _narrow_rule(tier: int) -> tuple[Tensor, Tensor]:
    """Positive nodes and weights of the trapezoidal rule in e for std up to tier / 4."""
    s = tier / 4
    step = 0.75  # Gaussian factor: exp(-2 pi^2 / h^2) < 1e-15
    if s > step / 2:  # the pole of the logistic function, at distance pi / s, comes first
        step = min(step, 2 * math.pi**2 / (s * (36 + math.pi**2 / (2 * s * s))))
    nodes = step * torch.arange(math.ceil((8.5 + s) / step) + 1, dtype=torch.float64)
    weights = 2 * step * torch.exp(-0.5 * (nodes * nodes + _LOG_2PI))
    weights[0] /= 2
    return nodes, weights


@lru_cache(maxsize=4)
def _wide_rule() -> tuple[Tensor, Tensor]:
    """Nodes and weights of the trapezoidal rule against the logistic density, exact to 1e-16 for std > 2.5."""
    step = 0.5
    x = step * torch.arange(-80, 81, dtype=torch.float64)
    return x, step * torch.sigmoid(x) * torch.sigmoid(-x)


def _narrow_moments(mean: Tensor, std: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Moments for std <= 2.5, from pairs of nodes +-e in which nothing cancels.

    With a = |mean|, d = std e, C = cosh a and D = cosh d, the average of the values at mean + d and mean - d is

        sigma:  sigma(mean) - tanh(mean / 2) / 2 * (D - 1) / (C + D)
        sigma': (1 + C D) / (2 (C + D)^2)
        log(1 + e^f): log(1 + e^mean) + log(1 + (D - 1) / (C + 1)) / 2

    and all of it is scaled by 2 e^{-a} e^{-d}, so that nothing overflows.
    """
    largest = float(std.max())
    # the error of n points is n! / (2n)! std^2n times the derivative 2n, below 2 (2n)! / pi^(2n+1): 1e-15 here
    rule = _hermite_rule(7 if largest < 1 / 8 else 11) if largest < 1 / 4 else _narrow_rule(math.ceil(4 * largest))
    nodes, weights = (t.to(mean.device) for t in rule)
    a = mean.abs()
    ea = torch.exp(-a)
    ea2 = 1 + ea * ea
    out = {name: torch.empty_like(mean) for name in names}
    rows = max(1, _BLOCK // nodes.numel())
    for start in range(0, mean.numel(), rows):
        part = slice(start, start + rows)
        u = torch.expm1(torch.outer(nodes, -std[part])).neg_()  # 1 - e^{-d}
        ed = 1 - u
        ea_part, c = ea[part], ea2[part]
        d = (ed * ed).add_(1).mul_(ea_part)  # D, scaled as C is below by 2 e^{-a} e^{-d}
        c_plus_d = torch.addcmul(d, ed, c)
        if "noise" in out:  # the label noise: tanh(mean / 2) / 2 * E[(D - 1) / (C + D)]
            ratio = (u * u).mul_(ea_part).div_(c_plus_d)
            out["noise"][part] = 0.5 * torch.tanh(0.5 * mean[part]) * (weights @ ratio)
        if "curvature" in out:
            numerator = torch.addcmul(4 * (ed * ea_part).square_(), d * c, ed)
            out["curvature"][part] = 0.5 * (weights @ numerator.div_(c_plus_d.square()))
        if "softplus" in out:  # (D - 1) / (C + 1)
            growth = (u * u).mul_(ea_part).div_(ed * (1 + ea_part).square())
            out["softplus"][part] = torch.logaddexp(mean[part], torch.zeros_like(mean[part])) + 0.5 * (
                weights @ growth.log1p_()
            )
    return out


def _wide_moments(mean: Tensor, std: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Moments for std > 2.5: sigma(f) is the CDF of a logistic variable x, so integrate over x instead of f.

    E[sigma(f)] = E_x[Phi((mean - x) / std)], E[sigma'(f)] = E_x[N(x | mean, std^2)] and
    E[log(1 + e^f)] = E_x[std psi((mean - x) / std)] with psi(t) = t Phi(t) + phi(t).
    """
    x, weights = (t.to(mean.device) for t in _wide_rule())
    out = {name: torch.empty_like(mean) for name in names}
    rows = max(1, _BLOCK // x.numel())
    for start in range(0, mean.numel(), rows):
        part = slice(start, start + rows)
        mu, s = mean[part], std[part]
        t = (mu - x[:, None]) / s
        if "noise" in out:  # at a = |mean|, so that it is odd to the last bit: E_x[Phi((x - a) / std)] - sigma(-a)
            a = mu.abs()
            tail = 0.5 * (weights @ torch.erfc((a - x[:, None]) / (s * math.sqrt(2))))
            out["noise"][part] = (tail - torch.sigmoid(-a)).clamp_min(0) * mu.sign()
        density = torch.exp(-0.5 * (t * t + _LOG_2PI)) if len(out) > ("noise" in out) else t
        if "curvature" in out:
            out["curvature"][part] = (weights @ density) / s
        if "softplus" in out:
            out["softplus"][part] = s * (weights @ (t * torch.special.ndtr(t) + density))
    return out


def logistic_moments(mean: Tensor, var: Tensor, *names: str) -> tuple[Tensor, ...]:
    """Return the named moments of the logistic function under f ~ N(mean, var), in the order of the names.

    They are "noise" for sigma(mean) - E[sigma(f)], "curvature" for E[sigma'(f)], "softplus" for E[log(1 + e^f)]. The
    absolute error is below 1e-13 at any mean and variance (n,) in float64; the noise keeps its relative accuracy where
    it is small.
    """
    std = var.sqrt()
    wide = std > _CROSSOVER
    if std.numel() and not bool(wide.any()):
        return tuple(_narrow_moments(mean, std, names).values())
    out = {name: torch.empty_like(mean) for name in names}
    for mask, rule in ((~wide, _narrow_moments), (wide, _wide_moments)):
        if bool(mask.any()):
            for name, value in rule(mean[mask], std[mask], names).items():
                out[name][mask] = value
    return tuple(out[name] for name in names)


# --------------------------------------------------------------------------------------- vectors
@lru_cache(maxsize=16)
def sobol_normal(dim: int, num_points: int, replicates: int, seed: int) -> Tensor:
    """Return (replicates, num_points, dim) standard normal points for quasi-Monte Carlo, float64.

    Each replicate is an independently scrambled Sobol sequence, completed by its mirror image and, where it has
    enough points, whitened, so that first and second moments are exact. The spread over replicates gives a
    standard error.
    """
    half = num_points // 2
    points = []
    for r in range(replicates):
        engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed + r)
        uniform = engine.draw(half, dtype=torch.float64) + 2.0**-32  # off the lattice of 31 bits: never 0 or 1
        e = torch.special.ndtri(uniform)
        if half >= 2 * dim:
            second_moment = e.T @ e / half
            e = torch.linalg.solve_triangular(torch.linalg.cholesky(second_moment), e.T, upper=False).T
        points.append(torch.cat([e, -e]))
    return torch.stack(points)
