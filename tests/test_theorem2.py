"""Theorem 2 and what Chapter 4 claims around it: Newton's method, VON, their surrogates, real data."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
import sympy as sp
import torch
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_digits

from vlls import (
    GLM,
    Bernoulli,
    Binomial,
    Categorical,
    Gaussian,
    GaussianPosterior,
    Poisson,
    Ridge,
    fit,
    newton_step,
    von_step,
)

FAMILIES = [Bernoulli(), Binomial(7), Categorical(3), Gaussian(), Poisson()]


def problem(family, n=500, p=20, **options):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, p)) / math.sqrt(p)
    f = features @ rng.normal(size=p)
    targets = {
        "Bernoulli": lambda: rng.binomial(1, expit(f)),
        "Binomial": lambda: rng.binomial(7, expit(f)),
        "Categorical": lambda: rng.integers(0, 3, n),
        "Gaussian": lambda: f + rng.normal(size=n),
        "Poisson": lambda: rng.poisson(np.exp(f)),
    }[type(family).__name__]()
    return GLM(family, features, targets, **options)


def start(glm):
    return GaussianPosterior(torch.zeros(glm.parameter_shape), 1.0)


def standardized(x):
    """Columns that vary, standardised, and a one for the intercept."""
    x = np.asarray(x, dtype=float)
    x = x[:, x.std(0) > 0]
    return np.c_[(x - x.mean(0)) / x.std(0), np.ones(len(x))]


@pytest.fixture(scope="module")
def breast_cancer():
    x, y = load_breast_cancer(return_X_y=True)
    return GLM(Bernoulli(), standardized(x), y)


@pytest.fixture(scope="module")
def doctor_visits():
    data = sm.datasets.randhie.load_pandas()
    return GLM(Poisson(), standardized(data.exog), data.endog.to_numpy())


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x = x[:, x.std(0) > 0] / 16
    return GLM(Categorical(10, num_points=64, replicates=4), np.c_[x, np.ones(len(x))], y)


def laplace(glm):
    mode = fit(glm, newton_step).final
    return GaussianPosterior(mode, precision=glm.hessian(mode))


# ------------------------------------------------------------------ the theorem
@pytest.mark.guards("thm-von-newton")
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_theorem_2_over_10_steps(family):
    """VON at rho = 1 beside Newton's method on noisy labels with the averaged Hessian, each on its own path."""
    glm = problem(family)
    q, theta = start(glm), start(glm).mean
    precision = start(glm).precision
    for _ in range(10):
        other = GaussianPosterior(theta, precision=precision)
        noise, precision = glm.label_noise(other), glm.expected_hessian(other)
        theta = newton_step(glm, theta, label_noise=noise, hessian=precision)
        q = von_step(glm, q)
        assert (q.mean - theta).abs().max() < 1e-9
        assert (q.precision - precision).abs().max() < 1e-9 * precision.abs().max()
    if not isinstance(family, Gaussian):
        assert (newton_step(glm, theta) - theta).abs().max() > 1e-4  # Newton's own fixed point is elsewhere


@pytest.mark.guards("thm-von-newton")
@pytest.mark.parametrize("family", [Bernoulli(), Poisson()], ids=repr)
def test_von_agrees_with_a_plain_reference(family):
    """Eq. 18 in numpy with explicit inverses; E[A'] and E[A''] by a dense sum over a thousand nodes."""
    glm = problem(family)
    x, y = glm.features.numpy(), glm.targets.numpy()
    nodes = np.arange(-12, 12, 0.02)
    weights = 0.02 * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
    derivatives = (expit, lambda f: expit(f) * expit(-f)) if isinstance(family, Bernoulli) else (np.exp, np.exp)
    mean, covariance, q = np.zeros(20), np.eye(20), start(glm)
    for rho in (1.0, 1.0, 0.5, 0.25, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0):
        f = (x @ mean)[:, None] + np.sqrt(np.einsum("np,pr,nr->n", x, covariance, x))[:, None] * nodes
        first, second = (d(f) @ weights for d in derivatives)
        gradient = x.T @ (first - y) + mean
        hessian = x.T @ (second[:, None] * x) + np.eye(20)
        covariance = np.linalg.inv((1 - rho) * np.linalg.inv(covariance) + rho * hessian)
        mean = mean - rho * covariance @ gradient
        q = von_step(glm, q, lr=rho)
        assert np.abs(q.mean.numpy() - mean).max() < 1e-9
        assert np.abs(q.covariance.numpy() - covariance).max() < 1e-9


@pytest.mark.guards("cor-damped-von")
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_damped_von_is_damped_newton_with_an_averaged_precision(family):
    glm = problem(family, n=200, p=6)
    q, precisions, weights = start(glm), [start(glm).precision], [1.0]
    for rho in (0.3, 1.0, 0.05, 0.7):
        noise = glm.label_noise(q)
        precisions.append(glm.expected_hessian(q))
        weights = [w * (1 - rho) for w in weights] + [rho]
        moved = von_step(glm, q, lr=rho)
        newton = newton_step(glm, q.mean, lr=rho, label_noise=noise, hessian=moved.precision)
        assert (moved.mean - newton).abs().max() < 1e-9
        average = sum(w * s for w, s in zip(weights, precisions, strict=True))
        assert (moved.precision - average).abs().max() < 1e-9 * average.abs().max()
        q = moved


@pytest.mark.guards("prop-von-regularizer")
def test_a_regularizer_that_is_not_quadratic_keeps_its_own_average():
    """Beside the label noise stands E[grad R] - grad R, and without it the two sides differ."""
    glm = problem(Bernoulli(), n=100, p=5, regularizer=lambda theta: (theta.square() + 0.1).sqrt().sum())
    q = GaussianPosterior(torch.full((5,), 0.3), 0.5)
    noise, precision = glm.label_noise(q), glm.expected_hessian(q)
    newton = newton_step(glm, q.mean, label_noise=noise, hessian=precision)
    extra = glm.regularizer.expected_gradient(q) - glm.regularizer.gradient(q.mean)
    corrected = newton - torch.linalg.solve(precision, extra)
    von = von_step(glm, q).mean
    assert (von - corrected).abs().max() < 1e-9
    assert (von - newton).abs().max() > 1e-3


# ------------------------------------------------------------------ derivations
g1, g2, h11, h12, h22, m1, m2, t1, t2, rho = sp.symbols("g1 g2 h11 h12 h22 m1 m2 t1 t2 rho", real=True)
s11, s12, s22 = sp.symbols("s11 s12 s22", real=True)
G, H, M, T = sp.Matrix([g1, g2]), sp.Matrix([[h11, h12], [h12, h22]]), sp.Matrix([m1, m2]), sp.Matrix([t1, t2])
S = sp.Matrix([[s11, s12], [s12, s22]])


def zero(expression):
    return sp.simplify(expression) == sp.zeros(*expression.shape)


@pytest.mark.guards("lem-newton-surrogate")
def test_newton_minimises_its_surrogate():
    surrogate = (T.T * G)[0] + ((T - M).T * H * (T - M))[0] / 2  # Eq. 23
    stationary = sp.solve([surrogate.diff(t1), surrogate.diff(t2)], [t1, t2])
    assert zero(T.subs(stationary) - (M - H.inv() * G))


@pytest.mark.guards("lem-von-surrogate")
def test_von_is_the_gaussian_of_equation_24():
    """The first and second line of Eq. 24 differ by a constant, and both are the Gaussian of Eq. 18, for any rho."""
    prior = -((T - M).T * S * (T - M))[0] / 2
    first = (T.T * (-G + H * M))[0] - (T.T * H * T)[0] / 2
    second = -(T.T * G)[0] - ((T - M).T * H * (T - M))[0] / 2
    difference = sp.expand(first - second)
    assert difference.free_symbols <= {h11, h12, h22, m1, m2}
    assert sp.expand(difference - (M.T * H * M)[0] / 2) == 0
    log_density = (1 - rho) * prior + rho * second
    precision = -sp.hessian(log_density, [t1, t2])
    assert zero(precision - ((1 - rho) * S + rho * H))
    mode = M - rho * precision.inv() * G
    gradient = sp.Matrix([log_density.diff(t1), log_density.diff(t2)])
    assert zero(gradient.subs({t1: mode[0], t2: mode[1]}, simultaneous=True))


@pytest.mark.guards("prop-stationarity")
@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_gradients_of_the_objective_are_bonnet_s_and_price_s(family):
    """Finite differences of L(q) along random directions, in the mean and in the covariance."""
    glm = problem(family, n=60, p=3)
    d = start(glm).num_parameters
    a = torch.randn(d, d, dtype=torch.float64)
    mean = 0.3 * torch.randn(glm.parameter_shape, dtype=torch.float64)
    covariance = a @ a.T / d + 0.5 * torch.eye(d)
    q, h = GaussianPosterior(mean, covariance), 1e-5
    u = torch.randn_like(mean)
    slope = -(
        glm.elbo(GaussianPosterior(mean + h * u, covariance)) - glm.elbo(GaussianPosterior(mean - h * u, covariance))
    )
    assert float(slope) / (2 * h) == pytest.approx(float((u * glm.expected_gradient(q)).sum()), rel=1e-6)
    if family.num_outputs is None:  # quasi-Monte Carlo meets Price's identity only to its own accuracy
        w = torch.randn(d, d, dtype=torch.float64)
        w = w + w.T
        up, down = (GaussianPosterior(mean, covariance + s * h * w) for s in (1, -1))
        price = 0.5 * ((glm.expected_hessian(q) - q.precision) * w).sum()
        assert float(glm.elbo(down) - glm.elbo(up)) / (2 * h) == pytest.approx(float(price), rel=1e-5)


# ------------------------------------------------------------------ real data
def test_newton_is_statsmodels_glm_on_doctor_visits():
    data = sm.datasets.randhie.load_pandas()
    x, y = standardized(data.exog), data.endog.to_numpy()
    ours = fit(GLM(Poisson(), x, y, regularizer=Ridge(0.0)), newton_step).final.numpy()
    theirs = sm.GLM(y, x, family=sm.families.Poisson()).fit(tol=1e-14, maxiter=100).params
    assert np.abs(ours - theirs).max() < 1e-8


def test_newton_is_statsmodels_glm_on_breast_cancer(breast_cancer):
    """statsmodels' score and Hessian, the ridge added by hand."""
    model = sm.GLM(breast_cancer.targets.numpy(), breast_cancer.features.numpy(), family=sm.families.Binomial())
    theta = np.zeros(31)
    for _ in range(30):
        theta = theta - np.linalg.solve(model.hessian(theta) - np.eye(31), model.score(theta) - theta)
    assert np.abs(fit(breast_cancer, newton_step).final.numpy() - theta).max() < 1e-8


def test_newton_is_statsmodels_multinomial_logit_on_digits(digits):
    """MNLogit has parameters relative to class 0: beta_k = theta_k - theta_0; the ridge is added in theta."""
    x = digits.features.numpy()
    p = x.shape[1]
    model = sm.MNLogit(digits.targets.argmax(1).numpy(), x)
    contrast = np.kron(np.c_[-np.ones(9), np.eye(9)], np.eye(p))  # theta by class -> beta by class
    theta = np.zeros(10 * p)
    for _ in range(12):
        beta = contrast @ theta
        gradient = contrast.T @ model.score(beta) - theta
        hessian = contrast.T @ model.hessian(beta) @ contrast - np.eye(10 * p)
        theta = theta - np.linalg.solve(hessian, gradient)
    assert np.abs(gradient).max() < 1e-8
    ours = fit(digits, newton_step).final.numpy()
    assert np.abs(ours - theta.reshape(10, p).T).max() < 1e-8


@pytest.mark.guards("prop-stationarity")
@pytest.mark.parametrize("name", ["breast_cancer", "doctor_visits", "digits"])
def test_von_at_convergence_is_stationary_and_above_laplace(name, request):
    glm = request.getfixturevalue(name)
    reference = laplace(glm)
    run = fit(glm, von_step, reference, lr=0.8, tol=1e-11, max_iter=150)
    q = run.final
    assert run.converged
    assert float(glm.expected_gradient(q).abs().max()) < 1e-8
    precision = glm.expected_hessian(q)
    assert (precision - q.precision).abs().max() < 1e-8 * precision.abs().max()
    if glm.family.num_outputs is None:
        assert glm.elbo(q) > glm.elbo(reference)
    else:  # the ELBO is itself an estimate: the difference over independent scramblings, with its standard error
        gains = []
        for seed in (1000, 2000, 3000, 4000):
            other = GLM(Categorical(10, num_points=64, replicates=2, seed=seed), glm.features, glm.targets.argmax(1))
            gains.append(float(other.elbo(q) - other.elbo(reference)))
        assert np.mean(gains) > 8 * np.std(gains, ddof=1) / 2
