"""Generalized linear models: derivatives, blocks, iteration, bad input. test_theorem1.py and 2 have the theorems."""

import math
import warnings

import numpy as np
import pytest
import torch
from glm_problems import FAMILIES, problem
from hypothesis import given, settings
from hypothesis import strategies as st

import vlls.glm
from vlls import (
    GLM,
    Bernoulli,
    Categorical,
    Gaussian,
    GaussianPosterior,
    Poisson,
    Ridge,
    fit,
    gd_step,
    newton_step,
    variational_gd_step,
    von_step,
)


def posterior(glm, seed=0):
    generator = torch.Generator().manual_seed(seed)
    d = math.prod(glm.parameter_shape)
    a = torch.randn(d, d, dtype=torch.float64, generator=generator)
    mean = torch.randn(glm.parameter_shape, dtype=torch.float64, generator=generator)
    return GaussianPosterior(mean, a @ a.T / d + 0.2 * torch.eye(d))


def smooth_l1(theta):
    return (theta.square() + 0.1).sqrt().sum()


@pytest.mark.parametrize("regularizer", [None, Ridge(0.3), smooth_l1], ids=["default", "ridge", "callable"])
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_derivatives_are_those_of_the_loss(family, regularizer):
    glm = problem(family, n=40, p=4, regularizer=regularizer)
    theta = posterior(glm).mean
    d = theta.numel()
    gradient = torch.func.grad(glm.loss)(theta)
    hessian = torch.func.jacfwd(torch.func.grad(glm.loss))(theta).reshape(d, d)
    assert torch.allclose(glm.gradient(theta), gradient, atol=1e-11)
    assert torch.allclose(glm.hessian(theta), hessian, atol=1e-11)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_loss_and_gradient_are_equations_6_and_9(family):
    """Plain loops over the examples, written from the paper."""
    glm = problem(family, n=40, p=4, regularizer=Ridge(0.7))
    theta, noise = posterior(glm).mean, torch.randn_like(glm.targets)
    loss, gradient = 0.35 * theta.square().sum(), 0.7 * theta
    for phi, y, eps in zip(glm.features, glm.targets, noise, strict=True):
        f = phi @ theta
        loss = loss - (y * f).sum() + family.log_partition(f)
        residual = family.mean(f) - (y + eps)
        gradient = gradient + (torch.outer(phi, residual) if residual.ndim else phi * residual)
    assert torch.allclose(glm.loss(theta), loss, rtol=1e-12)
    assert torch.allclose(glm.gradient(theta, noise), gradient, atol=1e-11)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_expectations_lie_within_monte_carlo_standard_errors(family):
    """E_q of loss, gradient and Hessian against draws of the parameters, |t| < 8 (see test_families)."""
    glm = problem(family, n=12, p=2)
    q = posterior(glm)
    draws = q.sample(4000, generator=torch.Generator().manual_seed(3))
    gradients = torch.stack([glm.gradient(t).flatten() for t in draws])
    hessians = torch.stack([glm.hessian(t).flatten() for t in draws])
    losses = torch.stack([glm.loss(t) for t in draws])
    expected_loss = -glm.elbo(q) + q.entropy() - 0.5 * q.num_parameters * math.log(2 * math.pi)
    for samples, exact in (
        (gradients, glm.expected_gradient(q).flatten()),
        (hessians, glm.expected_hessian(q).flatten()),
        (losses, expected_loss),
    ):
        error = samples.std(0) / math.sqrt(len(samples))
        assert ((samples.mean(0) - exact).abs() <= 8 * error + 1e-9).all()


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_elbo_is_expected_loss_and_kl(family):
    """Eq. 7 with the KL of two Gaussians from vlls.posterior gives the same number."""
    glm = problem(family, n=40, p=4, regularizer=Ridge(2.5))
    q = posterior(glm)
    prior = GaussianPosterior(torch.zeros(glm.parameter_shape), precision=2.5)
    mean, var = q.marginal(glm.features)
    expected_loss = (family.expected_log_partition(mean, var).sum()) - (glm.targets * mean).sum()
    assert float(glm.elbo(q)) == pytest.approx(float(-expected_loss - q.kl(prior)), rel=1e-11)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_blocks_of_rows_change_nothing(family, monkeypatch):
    glm = problem(family, n=300, p=4)
    q = posterior(glm)
    whole = glm.label_noise(q), glm.expected_gradient(q), glm.expected_hessian(q), glm.elbo(q), glm.hessian(q.mean)
    monkeypatch.setattr(vlls.glm, "_CHUNK", 1)  # the smallest block: 64 rows
    parts = glm.label_noise(q), glm.expected_gradient(q), glm.expected_hessian(q), glm.elbo(q), glm.hessian(q.mean)
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_an_unpenalised_intercept_is_a_flat_prior():
    glm = problem(Poisson(), n=40, p=4, regularizer=Ridge(torch.tensor([0.0, 1.0, 1.0, 1.0])))
    theta = fit(glm, newton_step).final
    residual = glm.family.mean(glm.features @ theta) - glm.targets
    assert abs(float(glm.features[:, 0] @ residual)) < 1e-9  # the score is zero: no ridge pulls to the prior
    assert math.isfinite(float(glm.elbo(GaussianPosterior(theta, precision=glm.hessian(theta)))))


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_fit_reaches_stationary_points(family):
    glm = problem(family, n=40, p=4)
    theta = fit(glm, newton_step).final
    assert glm.gradient(theta).abs().max() < 1e-9
    q = fit(glm, von_step, lr=0.9).final
    assert glm.expected_gradient(q).abs().max() < 1e-8
    assert (glm.expected_hessian(q) - q.precision).abs().max() / q.precision.abs().max() < 1e-8
    slow = fit(glm, variational_gd_step, lr=0.02, tol=1e-9, max_iter=5000)
    assert slow.converged
    assert glm.expected_gradient(slow.final).abs().max() < 1e-6
    assert torch.equal(slow.final.covariance, torch.eye(q.num_parameters, dtype=torch.float64))


def test_trajectory_tells_what_happened():
    glm = problem(Bernoulli(), n=40, p=4)
    seen = []
    run = fit(glm, gd_step, lr=0.1, max_iter=2000, callback=lambda t, theta: seen.append((t, theta)))
    assert run.converged and len(run) == len(seen) == len(run.states) - 1
    assert torch.equal(run.states[0], torch.zeros(4, dtype=torch.float64))
    assert run.objective.shape == (len(run) + 1,)
    assert (run.objective.diff() <= 1e-12).all()
    assert float(run.objective[-1]) == pytest.approx(float(glm.loss(run.final)))
    von = fit(glm, von_step)
    assert float(von.objective[-1]) == pytest.approx(-float(glm.elbo(von.final)))
    with pytest.warns(UserWarning, match="stopped after max_iter=2 steps with a change of"):
        short = fit(glm, gd_step, lr=0.1, max_iter=2)
    assert not short.converged


def test_own_step_functions_can_be_fitted():
    glm = problem(Bernoulli(), n=40, p=4)
    noise = glm.label_noise(GaussianPosterior(torch.ones(4), 1.0))
    noisy = fit(glm, lambda model, theta: newton_step(model, theta, label_noise=noise)).final
    assert glm.gradient(noisy, noise).abs().max() < 1e-9
    assert glm.gradient(noisy).abs().max() > 1e-3


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 8),
    p=st.integers(1, 5),
    scale=st.floats(1e-8, 1e3),
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.float16]),
    family=st.sampled_from([Bernoulli(), Gaussian(), Categorical(3, num_points=16)]),
)
def test_theorem_1_for_any_shape_dtype_and_scale(n, p, scale, dtype, family):
    rng = np.random.default_rng(n * 10 + p)
    features = (scale * rng.normal(size=(n, p))).clip(-6e4, 6e4).astype(dtype)
    glm = GLM(family, features, rng.integers(0, 2, n))
    q = GaussianPosterior(np.zeros(glm.parameter_shape), 1.0)
    left = variational_gd_step(glm, q, 0.1).mean
    right = gd_step(glm, q.mean, 0.1, label_noise=glm.label_noise(q))
    assert left.dtype == torch.float64
    assert (left - right).abs().max() <= 1e-12 * max(1.0, float(left.abs().max()))


def test_von_step_stays_positive_definite_at_extreme_features():
    glm = GLM(Bernoulli(), np.diag([1e-8, 1.0, 1e6]), [0, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        q = fit(glm, von_step, lr=0.5, max_iter=50).final
    assert torch.isfinite(q.mean).all()
    assert (q.precision.diagonal() >= 1 - 1e-9).all()


# ------------------------------------------------------------------ bad input
X = np.ones((3, 2))
FINE = GLM(Bernoulli(), np.eye(2), [0, 1])
Q = GaussianPosterior(np.zeros(2), 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GLM(Bernoulli(), [[1.0, math.nan]], [1]), r"features holds? 1 value\(s\) .* first at \[0, 1\]"),
        (lambda: GLM(Bernoulli(), np.ones(3), [1, 1, 1]), r"matrix \(N, P\)"),
        (lambda: GLM(Bernoulli(), np.ones((0, 3)), []), r"matrix \(N, P\)"),
        (lambda: GLM(Bernoulli(), X, [1, 0]), r"3 rows of features need \(3,\)"),
        (lambda: GLM(Bernoulli(), X, [1, 0, 3]), "outside the support of Bernoulli"),
        (lambda: GLM(Bernoulli(), X, [1, 0, 0], regularizer=1.0), "pass Ridge"),
        (lambda: GLM(Bernoulli(), X, [1, 0, 0], regularizer=lambda t: t), "must return a scalar"),
        (lambda: Ridge(-1.0), "must be >= 0"),
        (lambda: Ridge(math.inf), "NaN or infinite"),
        (lambda: FINE.loss(torch.zeros(3)), r"theta has shape \(3,\); this model needs \(2,\)"),
        (lambda: FINE.gradient(torch.zeros(2), torch.zeros(3)), r"label_noise has shape \(3,\)"),
        (lambda: FINE.label_noise(GaussianPosterior(np.zeros(3), 1.0)), r"needs \(2,\)"),
        (lambda: gd_step(FINE, torch.zeros(2), 0.0), "must be a positive number"),
        (lambda: variational_gd_step(FINE, Q, math.nan), "must be a positive number"),
        (lambda: newton_step(FINE, torch.zeros(2), hessian=torch.eye(3)), r"hessian has shape \(3, 3\)"),
        (lambda: von_step(FINE, Q, lr=0.0), r"lr=0.0 is outside \(0, 1\]"),
        (lambda: von_step(FINE, Q, lr=1.5), r"lr=1.5 is outside \(0, 1\]"),
        (lambda: von_step(FINE, Q, lr=math.nan), r"outside \(0, 1\]"),
        (lambda: fit(FINE, newton_step, tol=0.0), "tol=0.0 is not allowed; choose a number > 0"),
        (lambda: fit(FINE, newton_step, max_iter=0), "max_iter=0 is not allowed; choose a whole number >= 1"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_singular_hessian_names_the_regularizer_as_the_remedy():
    collinear = np.array([[1.0, 2.0], [2.0, 4.0], [0.5, 1.0]])
    for step in (newton_step, von_step):
        glm = GLM(Bernoulli(), collinear, [0, 1, 1], regularizer=Ridge(0.0))
        with pytest.raises(ValueError, match=r"Hessian is singular .* regularizer=Ridge"):
            fit(glm, step)
        fixed = GLM(Bernoulli(), collinear, [0, 1, 1], regularizer=Ridge(1e-3))
        assert fit(fixed, step, lr=0.5, max_iter=1000).converged


def test_divergence_is_said_not_returned():
    glm = problem(Poisson(), n=40, p=4)
    with pytest.raises(ValueError, match=r"smaller lr|left the finite numbers"):
        fit(glm, gd_step, lr=1e6)
