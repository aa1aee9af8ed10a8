"""The logistic function under narrow Gaussians, on both sides of the variance at which the quadrature adds nodes."""

import mpmath
import pytest
import torch

from vlls._quadrature import logistic_moments

MEANS = (0.0, 0.3, -2.0, 5.0, -30.0)


def by_digits(mean, std):
    """Return noise, curvature and softplus to 40 digits: a sum of step 1/4 is exact to exp(-32 pi^2)."""
    with mpmath.workdps(40):
        m, s = mpmath.mpf(mean), mpmath.mpf(std)
        at_mean, noise, curvature, softplus = 1 / (1 + mpmath.exp(-m)), 0, 0, 0
        for i in range(-52, 53):
            e = mpmath.mpf(i) / 4
            weight = mpmath.exp(-e * e / 2) / mpmath.sqrt(2 * mpmath.pi) / 4
            p = 1 / (1 + mpmath.exp(-(m + s * e)))
            noise += weight * (at_mean - p)
            curvature += weight * p * (1 - p)
            softplus += weight * mpmath.log1p(mpmath.exp(m + s * e))
        return [float(noise), float(curvature), float(softplus)]


@pytest.mark.parametrize("std", [0.0, 1e-4, 0.02, 0.1249, 0.1251, 0.2499, 0.2501, 0.6])
def test_narrow_gaussians_against_forty_digits(std):
    exact = torch.tensor([by_digits(mean, std) for mean in MEANS], dtype=torch.float64).T
    mean = torch.tensor(MEANS, dtype=torch.float64)
    var = torch.full_like(mean, std).square()
    found = torch.stack(logistic_moments(mean, var, "noise", "curvature", "softplus"))
    assert float((found - exact).abs().max()) < 2e-15
    assert torch.allclose(found, exact, rtol=1e-12, atol=1e-30)


def test_no_numbers_at_all_and_narrow_beside_wide():
    empty = torch.zeros(0, dtype=torch.float64)
    assert [len(t) for t in logistic_moments(empty, empty, "noise", "curvature")] == [0, 0]
    mean, var = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64), torch.tensor([0.01, 9.0, 0.04], dtype=torch.float64)
    together = logistic_moments(mean, var, "noise")[0]
    alone = torch.cat([logistic_moments(m, v, "noise")[0] for m, v in zip(mean.split(1), var.split(1), strict=True)])
    assert torch.allclose(together, alone, rtol=1e-12)
