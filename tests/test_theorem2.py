"""Theorem 2 and Chapter 4's other claims: Newton's method, VON, their surrogates, real data."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
import sympy as sp
import torch
from glm_problems import FAMILIES, problem
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_digits

from vlls import (
    GLM,
    Bernoulli,
    Categorical,
    Gaussian,
    GaussianPosterior,
    Poisson,
    Ridge,
    fit,
    newton_step,
    von_step,
)
from vlls._quadrature import sobol_normal


def start(glm):
    return GaussianPosterior(torch.zeros(glm.parameter_shape), 1.0)


def standardized(x):
    """Return the columns that vary, standardised, and a column of ones for the intercept."""
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
    return GLM(Categorical(10, num_points=64, replicates=2), np.c_[x, np.ones(len(x))], y)


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


@pytest.mark.guards("thm-von-newton")
def test_theorem_2_in_symbols():
    """VON's step from the objective equals Newton's from the loss for an abstract A, with unevaluated integrals."""
    x, e = sp.symbols("x e", real=True)
    y1, phi1, phi2, v = sp.symbols("y1 phi1 phi2 v", positive=True)
    partition, mean = sp.Function("A"), sp.Matrix([m1, m2])

    def expected(g):
        return sp.Integral(sp.exp(-(e**2) / 2) / sp.sqrt(2 * sp.pi) * g, (e, -sp.oo, sp.oo))

    def derivative(at, order):
        return partition(x).diff(x, order).subs(x, at)

    def tidy(matrix):
        return matrix.applyfunc(lambda entry: sp.expand(sp.factor_terms(entry)))

    f, phi = phi1 * m1 + phi2 * m2, sp.Matrix([phi1, phi2])
    drawn = f + sp.sqrt(v) * e
    objective = -y1 * f + expected(partition(drawn)) + (m1**2 + m2**2) / 2
    slope, curvature = tidy(sp.Matrix([objective]).jacobian(mean).T), tidy(sp.hessian(objective, mean))
    noise = derivative(f, 1) - expected(derivative(drawn, 1))
    noisy = tidy(phi * (derivative(f, 1) - (y1 + noise)) + mean)
    averaged = tidy(phi * phi.T * expected(derivative(drawn, 2)) + sp.eye(2))
    von = mean - curvature.adjugate() / curvature.det() * slope
    newton = mean - averaged.adjugate() / averaged.det() * noisy
    assert von - newton == sp.zeros(2, 1)
    plain = tidy(phi * (derivative(f, 1) - y1) + mean)  # without the noise they differ
    assert mean - averaged.adjugate() / averaged.det() * plain - von != sp.zeros(2, 1)


@pytest.mark.guards("prop-newton-limit")
@pytest.mark.parametrize("family", [Bernoulli(), Poisson()], ids=repr)
def test_newton_is_von_at_temperature_zero(family):
    """For the loss divided by tau, VON's distance from Newton falls like tau, and so does its noise."""
    glm = problem(family, n=80, p=5)
    newton = [start(glm).mean]
    for _ in range(4):
        newton.append(newton_step(glm, newton[-1]))
    distances, third = [], []
    for tau in (1e-3, 1e-4, 1e-5):
        theta, s = start(glm).mean, torch.eye(5, dtype=torch.float64)
        for _ in range(4):
            q = GaussianPosterior(theta, covariance=tau * s)
            noise = glm.label_noise(q)
            precision = glm.expected_hessian(q) / tau  # Eq. 18 for the loss divided by tau
            theta = theta - torch.linalg.solve(precision, glm.expected_gradient(q) / tau)
            s = torch.linalg.inv(precision) / tau
        distances.append(float((theta - newton[-1]).abs().max()))
        f = (glm.features @ q.mean).requires_grad_()
        (bend,) = torch.autograd.grad(glm.family.curvature(f).sum(), f)  # A'''
        leading = -bend * ((glm.features @ q.covariance) * glm.features).sum(1) / 2
        third.append(float((noise - leading).abs().max() / leading.abs().max()))
    assert 0.98 < math.log10(distances[1] / distances[2]) < 1.02
    assert third[2] < 1e-3 and 0.9 < math.log10(third[1] / third[2]) < 1.1


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
    """The step contains E[grad R] - grad R besides the label noise; without this term the two sides differ."""
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
@pytest.mark.parametrize("name", ["breast_cancer", "doctor_visits", pytest.param("digits", marks=pytest.mark.slow)])
def test_von_at_convergence_is_stationary_and_above_laplace(name, request):
    glm = request.getfixturevalue(name)
    reference = laplace(glm)
    run = fit(glm, von_step, reference, lr=0.85, tol=1e-10, max_iter=150)
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


# ------------------------------------------------------------------ VON without Eq. 18: natural gradients by autograd
NODES = torch.arange(-12, 12, 0.02, dtype=torch.float64)
WEIGHTS = 0.02 * torch.exp(-(NODES**2) / 2) / math.sqrt(2 * math.pi)
PARTITIONS = {
    "Bernoulli": lambda f: torch.nn.functional.softplus(f, threshold=40),
    "Binomial": lambda f: 7 * torch.nn.functional.softplus(f, threshold=40),
    "Gaussian": lambda f: f * f / 2,
    "Poisson": torch.exp,
}
SCALAR = [family for family in FAMILIES if family.num_outputs is None]


def plain_objective(glm, mean, covariance):
    """Return L(q) up to a constant, by a dense sum over the marginals of f; only the data are the package's."""
    x, y = glm.features, glm.targets
    mu, v = x @ mean, ((x @ covariance) * x).sum(1)
    f = mu[:, None] + v.sqrt()[:, None] * NODES
    loss = (PARTITIONS[type(glm.family).__name__](f) @ WEIGHTS - y * mu).sum()
    return loss + (mean @ mean + covariance.trace() - torch.logdet(covariance)) / 2


@pytest.mark.guards("prop-von-natural-gradient", "thm-von-newton")
@pytest.mark.parametrize("family", SCALAR, ids=repr)
def test_von_is_natural_gradient_descent(family):
    """Ten steps on the natural parameters along autograd's gradient in the expectation parameters; no Hessian of l."""
    glm = problem(family)
    q = start(glm)
    linear, quadratic = torch.zeros(20, dtype=torch.float64), -0.5 * torch.eye(20, dtype=torch.float64)
    for rho in (0.5, 1.0, 1.0, 0.1, 0.9, 1.0, 1.0, 0.3, 1.0, 1.0):
        covariance = torch.linalg.inv(-2 * quadratic)
        mean = covariance @ linear
        first = mean.clone().requires_grad_()
        second = (covariance + torch.outer(mean, mean)).requires_grad_()
        objective = plain_objective(glm, first, second - torch.outer(first, first))
        slopes = torch.autograd.grad(objective, (first, second))
        linear = linear - rho * slopes[0]
        quadratic = quadratic - rho * (slopes[1] + slopes[1].T) / 2
        q = von_step(glm, q, lr=rho)
        precision = -2 * quadratic
        assert (q.mean - torch.linalg.solve(precision, linear)).abs().max() < 1e-9
        assert (q.precision - precision).abs().max() < 1e-9 * precision.abs().max()


@pytest.mark.guards("thm-von-newton")
def test_von_of_a_vector_family_agrees_with_plain_loops():
    """Eq. 18 for three classes, example by example in numpy, on the package's own quadrature points."""
    glm = problem(Categorical(3), n=500, p=20)
    x, y, q = glm.features.numpy(), glm.targets.numpy(), start(glm)
    points = sobol_normal(3, 128, 8, 0).flatten(0, 1).numpy()
    mean, covariance = np.zeros((20, 3)), np.eye(60)
    for _ in range(3):
        gradient, precision = mean.copy(), np.eye(60)
        for phi, label in zip(x, y, strict=True):
            lift = np.kron(phi[:, None], np.eye(3))  # theta.flatten() @ lift = f
            values, vectors = np.linalg.eigh(lift.T @ covariance @ lift)
            f = phi @ mean + points @ (vectors * np.sqrt(values)) @ vectors.T
            p = np.exp(f - f.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            gradient += np.outer(phi, p.mean(0) - label)
            precision += lift @ (np.diag(p.mean(0)) - p.T @ p / len(p)) @ lift.T
        covariance = np.linalg.inv(precision)
        mean = mean - (covariance @ gradient.ravel()).reshape(20, 3)
        q = von_step(glm, q)
        assert np.abs(q.mean.numpy() - mean).max() < 1e-9
        assert np.abs(q.covariance.numpy() - covariance).max() < 1e-9


@pytest.mark.guards("lem-price")
def test_a_gaussian_density_solves_the_heat_equation():
    """The derivative in the covariance is half of the second derivative in the mean; two dimensions, exact."""
    x1, x2 = sp.symbols("x1 x2", real=True)
    shift = sp.Matrix([x1 - m1, x2 - m2])
    density = sp.exp(-(shift.T * S.inv() * shift)[0] / 2) / sp.sqrt(S.det())
    for entry, half, (a, b) in ((s11, 2, (m1, m1)), (s22, 2, (m2, m2)), (s12, 1, (m1, m2))):
        assert sp.simplify((density.diff(entry) - density.diff(a, b) / half) / density) == 0


@pytest.mark.guards("lem-price")
def test_price_s_theorem_for_a_vector_family():
    """Differences of E[A] in the covariance against E[A''] / 2, by tensor Gauss-Hermite and by the package."""
    family, mean = Categorical(3), torch.tensor([[0.3, -0.5, 0.1]], dtype=torch.float64)
    root = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.9, 0.0], [-0.3, 0.2, 0.8]], dtype=torch.float64)
    nodes, weights = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(40))
    points = torch.cartesian_prod(nodes, nodes, nodes)
    weights = torch.cartesian_prod(weights, weights, weights).prod(1) / (2 * math.pi) ** 1.5

    def expected(function, covariance):
        f = mean + points @ torch.linalg.cholesky(covariance).T
        return torch.tensordot(weights, function(f), 1)

    covariance, h = root @ root.T, 1e-4
    curvature = expected(family.curvature, covariance)
    direction = torch.tensor([[1.0, 0.2, -0.4], [0.2, 0.5, 0.3], [-0.4, 0.3, -0.8]], dtype=torch.float64)
    up, down = (expected(family.log_partition, covariance + s * h * direction) for s in (1, -1))
    assert float(up - down) / (2 * h) == pytest.approx(float((curvature * direction).sum() / 2), rel=1e-6)
    replicates = torch.stack(
        [Categorical(3, seed=8 * s).expected_curvature(mean, covariance[None])[0] for s in range(16)]
    )
    error = replicates.std(0) / 4
    assert ((replicates.mean(0) - curvature).abs() < 5 * error).all()


# ------------------------------------------------------------------ convergence
def flat(q):
    rows, columns = torch.tril_indices(q.num_parameters, q.num_parameters)
    return torch.cat([q.mean, q.precision[rows, columns]])


def unflatten(values, p):
    precision = torch.zeros(p, p, dtype=torch.float64)
    rows, columns = torch.tril_indices(p, p)
    precision[rows, columns] = precision[columns, rows] = values[p:]
    return GaussianPosterior(values[:p], precision=precision)


def jacobian(function, at, h=1e-4):
    steps = h * torch.eye(len(at), dtype=torch.float64)
    return torch.stack([(function(at + s) - function(at - s)) / (2 * h) for s in steps], 1)


@pytest.mark.guards("prop-damping")
@pytest.mark.parametrize("family", SCALAR, ids=repr)
def test_the_step_size_scales_the_rates_of_convergence(family):
    """VON's map has the eigenvalues 1 - rho kappa at the fixed point, with kappa those of the Fisher matrix and L."""
    p = 2
    glm = problem(family, n=40, p=p)
    fixed = fit(glm, von_step, lr=0.7, tol=1e-13, max_iter=300).final

    def eigenvalues(rho):
        map_ = jacobian(lambda values: flat(von_step(glm, unflatten(values, p), lr=rho)), flat(fixed))
        values = torch.linalg.eigvals(map_)
        assert values.imag.abs().max() < 1e-6
        return values.real.sort().values

    def natural(values):  # L as a function of the natural parameters (Sigma^-1 m, the lower half of -Sigma^-1 / 2)
        lower = torch.zeros(p, p, dtype=torch.float64)
        rows, columns = torch.tril_indices(p, p)
        lower = lower.index_put((rows, columns), values[p:])
        precision = -(lower + lower.T)
        covariance = torch.linalg.inv(precision)
        return covariance @ values[:p], covariance

    def log_normalizer(values):
        mean, covariance = natural(values)
        return (mean @ values[:p] + torch.logdet(covariance)) / 2

    # theta' Q theta with Q symmetric: off the diagonal each entry of the lower half counts once in (Q + Q') / 2
    rows, columns = torch.tril_indices(p, p)
    quadratic = -fixed.precision / 2
    at = torch.cat([fixed.precision @ fixed.mean, (quadratic * (2 - torch.eye(p)))[rows, columns]])
    fisher = torch.func.hessian(log_normalizer)(at)
    curvature = torch.func.hessian(lambda values: plain_objective(glm, *natural(values)))(at)
    kappa = torch.linalg.eigvals(torch.linalg.solve(fisher, curvature)).real.sort(descending=True).values
    assert kappa.min() > 0
    for rho in (1.0, 0.6, 0.25):
        assert (eigenvalues(rho) - (1 - rho * kappa)).abs().max() < 1e-5
    if isinstance(family, Gaussian):
        assert (kappa - 1).abs().max() < 1e-9


@pytest.mark.guards("prop-von-laplace")
@pytest.mark.parametrize("family", SCALAR, ids=repr)
def test_the_objective_is_strictly_convex_in_mean_and_cholesky_factor(family):
    """So the fixed point of VON is its only minimum; midpoints of random pairs lie strictly below the chord."""
    glm = problem(family, n=60, p=4)
    for _ in range(50):
        means, factors = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, 4, dtype=torch.float64).tril()
        factors.diagonal(dim1=1, dim2=2).abs_().add_(0.05)
        ends = [-glm.elbo(GaussianPosterior(m, c @ c.T)) for m, c in zip(means, factors, strict=True)]
        middle = factors.mean(0)
        assert -glm.elbo(GaussianPosterior(means.mean(0), middle @ middle.T)) < sum(ends) / 2


@pytest.mark.guards("prop-von-laplace")
def test_von_finds_the_same_posterior_from_every_start_and_none_is_better(breast_cancer):
    starts = [laplace(breast_cancer), start(breast_cancer), GaussianPosterior(torch.full((31,), 2.0), 0.01)]
    ends = [fit(breast_cancer, von_step, q, lr=0.8, tol=1e-11, max_iter=200).final for q in starts]
    best = ends[0]
    for other in ends[1:]:
        assert (other.mean - best.mean).abs().max() < 1e-8
        assert (other.precision - best.precision).abs().max() < 1e-8 * best.precision.abs().max()
    for scale in (1e-3, 1e-1):  # neighbours: a shifted mean, a stretched covariance
        shifted = GaussianPosterior(best.mean + scale * torch.randn(31), precision=best.precision)
        stretched = GaussianPosterior(best.mean, precision=best.precision * (1 + scale))
        assert max(breast_cancer.elbo(shifted), breast_cancer.elbo(stretched)) < breast_cancer.elbo(best)
