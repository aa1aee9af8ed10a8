"""Gaussian posteriors: both forms, marginals, draws within standard errors, divergences, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlls import GaussianPosterior


def spd(size, seed=0):
    a = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return a @ a.T / size + 0.1 * torch.eye(size, dtype=torch.float64)


def both_forms(mean, covariance):
    return GaussianPosterior(mean, covariance), GaussianPosterior(mean, precision=torch.linalg.inv(covariance))


@pytest.mark.parametrize("shape", [(4,), (3, 2)])
def test_both_forms_are_one_posterior(shape):
    mean, covariance = torch.randn(shape, dtype=torch.float64), spd(math.prod(shape))
    features = torch.randn(7, shape[0], dtype=torch.float64)
    q, same = both_forms(mean, covariance)
    for a, b in [
        (q.covariance, same.covariance),
        (q.precision, same.precision),
        (q.variance, same.variance),
        (q.entropy(), same.entropy()),
        (q.log_det_covariance, torch.logdet(covariance)),
        (q.variance.flatten(), covariance.diagonal()),
        *zip(q.marginal(features), same.marginal(features), strict=True),
    ]:
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_marginals_are_equations_12_and_19():
    """phi^T Sigma phi by a plain loop, for a scalar family and for a vector family in row-major order."""
    features = torch.randn(5, 3, dtype=torch.float64)
    covariance = spd(3)
    q = GaussianPosterior(torch.randn(3), covariance)
    mean, var = q.marginal(features)
    for i, phi in enumerate(features):
        assert float(mean[i]) == pytest.approx(float(phi @ q.mean), rel=1e-12)
        assert float(var[i]) == pytest.approx(float(phi @ covariance @ phi), rel=1e-12)
    identity = GaussianPosterior(torch.zeros(3), 1.0).marginal(features)[1]
    assert torch.allclose(identity, features.square().sum(1))

    covariance = spd(6)
    q = GaussianPosterior(torch.randn(3, 2), covariance)
    mean, var = q.marginal(features)
    for i, phi in enumerate(features):
        jacobian = torch.kron(phi[None], torch.eye(2, dtype=torch.float64))  # f = J vec(Theta), row-major
        assert torch.allclose(mean[i], jacobian @ q.mean.flatten())
        assert torch.allclose(var[i], jacobian @ covariance @ jacobian.T)


@pytest.mark.parametrize("form", [0, 1])
def test_draws_have_the_moments_within_standard_errors(form):
    covariance, n = spd(4), 200_000
    q = both_forms(torch.arange(4.0), covariance)[form]
    draws = q.sample(n, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (n, 4)
    error = (covariance.diagonal() / n).sqrt()
    assert ((draws.mean(0) - q.mean).abs() < 5 * error).all()
    c = covariance
    error = ((c * c + torch.outer(c.diagonal(), c.diagonal())) / n).sqrt()  # of a Gaussian's sample covariance
    assert ((draws.T.cov() - c).abs() < 5 * error).all()


def test_kl_agrees_with_torch_and_vanishes_at_itself():
    from torch.distributions import MultivariateNormal, kl_divergence

    a, b = spd(5, 1), spd(5, 2)
    m, n = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    reference = float(kl_divergence(MultivariateNormal(m, a), MultivariateNormal(n, b)))
    for q in both_forms(m, a):
        for p in both_forms(n, b):
            assert float(q.kl(p)) == pytest.approx(reference, rel=1e-10)
        assert abs(float(q.kl(q))) < 1e-12


@settings(max_examples=40, deadline=None)
@given(
    p=st.integers(1, 6),
    n=st.integers(1, 5),
    scale=st.floats(1e-6, 1e6),
    dtype=st.sampled_from([np.float32, np.float64, np.int64]),
)
def test_any_shape_dtype_and_scale(p, n, scale, dtype):
    mean = np.arange(p).astype(dtype)
    q = GaussianPosterior(mean, precision=scale * np.eye(p))
    features = np.ones((n, p), dtype=dtype)
    f, var = q.marginal(features)
    assert f.dtype == torch.float64 and f.shape == (n,)
    assert torch.allclose(var, torch.full((n,), p / scale, dtype=torch.float64))
    assert torch.allclose(q.entropy(), torch.tensor(0.5 * p * math.log(2 * math.pi * math.e / scale)).double())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianPosterior(torch.zeros(2)), "neither of covariance and precision"),
        (lambda: GaussianPosterior(torch.zeros(2), 1.0, precision=1.0), "both of covariance and precision"),
        (lambda: GaussianPosterior(torch.zeros(2), [[1.0, 2.0], [2.0, 1.0]]), "smallest eigenvalue is -1"),
        (lambda: GaussianPosterior(torch.zeros(2), 0.0), "not positive definite"),
        (lambda: GaussianPosterior(torch.zeros(2), precision=-1.0), "precision is not positive definite"),
        (lambda: GaussianPosterior(torch.zeros(2), [[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (lambda: GaussianPosterior(torch.zeros(2), torch.eye(3)), r"need \(2, 2\)"),
        (lambda: GaussianPosterior(torch.zeros(2), [[math.nan, 0], [0, 1]]), "NaN or infinite"),
        (lambda: GaussianPosterior([math.inf], 1.0), "mean holds 1 value"),
        (lambda: GaussianPosterior(torch.zeros(0), 1.0), r"\(P,\) or \(P, K\)"),
        (lambda: GaussianPosterior(torch.zeros(2), 1.0).marginal(torch.zeros(3, 3)), r"needs \(N, 2\)"),
        (
            lambda: GaussianPosterior(torch.zeros(2), 1.0).sample(0),
            "num_samples=0 is not allowed; choose a whole number >= 1",
        ),
        (lambda: GaussianPosterior([0.0], 1.0).kl(GaussianPosterior([0.0, 1.0], 1.0)), "both must agree"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
