"""Theorem 1 and the label noise of GLMs: sympy, plain references and the package; guards Chapters 2 and 3."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
from scipy import optimize, special, stats

from vlls import (
    GLM,
    Bernoulli,
    Binomial,
    Categorical,
    Family,
    Gaussian,
    GaussianPosterior,
    Poisson,
    Ridge,
    gd_step,
    second_order_label_noise,
    taylor_label_noise,
    variational_gd_step,
)
from vlls.regularizers import CallableRegularizer

N, P, STEPS, LR = 500, 20, 100, 0.02


class TruncatedPoisson(Family):
    """Counts from 1: the family that Chapter 3 adds by writing A alone."""

    def log_partition(self, f):
        rate = torch.exp(f)
        return rate + torch.log(-torch.expm1(-rate))


FAMILIES = {
    "bernoulli": Bernoulli(),
    "binomial": Binomial(7),
    "gaussian": Gaussian(),
    "poisson": Poisson(),
    "categorical": Categorical(4, num_points=8, replicates=2),
    "truncated poisson": TruncatedPoisson(),
}
SCALAR = [name for name in FAMILIES if name != "categorical"]
every_family = pytest.mark.parametrize("name", FAMILIES)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def problem(name, n=N, p=P, regularizer=None):
    """A model of the family with targets that the features explain in part; variances of f around one half."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, p)) / math.sqrt(2 * p)
    f = features @ rng.normal(size=p)
    targets = {
        "bernoulli": lambda: rng.random(n) < special.expit(f),
        "binomial": lambda: rng.binomial(7, special.expit(f)),
        "gaussian": lambda: f + rng.normal(size=n),
        "poisson": lambda: rng.poisson(np.exp(f)),
        "categorical": lambda: (f[:, None] + rng.gumbel(size=(n, 4))).argmax(1),
        "truncated poisson": lambda: 1 + rng.poisson(np.exp(f)),
    }[name]()
    return GLM(FAMILIES[name], features, targets.astype(float), regularizer)


def full_covariance(glm, seed=1):
    """Some covariance that is far from a multiple of the identity, with variances around one."""
    d = math.prod(glm.parameter_shape)
    root = np.random.default_rng(seed).normal(size=(d, d)) / math.sqrt(d)
    return torch.from_numpy(0.2 * np.eye(d) + root @ root.T)


def with_noise(glm, covariance, steps=STEPS, lr=LR):
    """Iterate the right side of Theorem 1: gradient descent on noisy labels. Returns iterates and noise."""
    theta, path, noise = torch.zeros(glm.parameter_shape, dtype=torch.float64), [], []
    for _ in range(steps):
        noise.append(glm.label_noise(GaussianPosterior(theta, covariance)))
        theta = gd_step(glm, theta, lr, label_noise=noise[-1])
        path.append(theta)
    return torch.stack(path), torch.stack(noise)


# ------------------------------------------------------------------ references that know nothing of label noise
NODES = np.arange(-9.0, 9.05, 0.1)
WEIGHTS = 0.1 * np.exp(-NODES * NODES / 2) / math.sqrt(2 * math.pi)


def plain_mean(name, f):
    """A'(f), in numpy."""
    return {
        "bernoulli": special.expit,
        "binomial": lambda f: 7 * special.expit(f),
        "gaussian": lambda f: f,
        "poisson": np.exp,
        "truncated poisson": lambda f: np.exp(f) / -np.expm1(-np.exp(f)),
    }[name](f)


def plain_expectation(function, mean, var):
    """E[function(f)] for f ~ N(mean, var), by a dense sum."""
    return function(mean[:, None] + np.sqrt(var)[:, None] * NODES) @ WEIGHTS


def plain_variational_gd(name, glm, covariance, steps=STEPS, lr=LR):
    """The left side of Theorem 1 for a scalar family, by numpy alone."""
    features, targets, sigma = glm.features.numpy(), glm.targets.numpy(), np.asarray(covariance)
    var = np.einsum("np,pq,nq->n", features, sigma, features)
    theta, path = np.zeros(features.shape[1]), []
    for _ in range(steps):
        expected = plain_expectation(lambda f: plain_mean(name, f), features @ theta, var)
        theta = theta - lr * (features.T @ (expected - targets) + theta)
        path.append(theta)
    return torch.from_numpy(np.stack(path))


def autograd_variational_gd(glm, covariance, steps=STEPS, lr=LR):
    """The left side of Theorem 1 by differentiating the objective of Eq. 7, whose integrand is A and not A'."""
    theta, path = torch.zeros(glm.parameter_shape, dtype=torch.float64), []
    for _ in range(steps):
        mean = theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(-glm.elbo(GaussianPosterior(mean, covariance)), mean)
        theta = theta - lr * gradient
        path.append(theta)
    return torch.stack(path)


# ------------------------------------------------------------------ Theorem 1 (Chapters 2 and 3)
@pytest.mark.guards("thm-variational-gd", "thm-glm-label-noise")
@every_family
def test_theorem_1_over_100_steps(name):
    glm, steps = problem(name), 25 if name == "truncated poisson" else STEPS  # one's own family, by autograd
    noisy, noise = with_noise(glm, 1.0, steps)
    q, path = GaussianPosterior(torch.zeros(glm.parameter_shape), 1.0), []
    for _ in range(steps):
        q = variational_gd_step(glm, q, LR)
        path.append(q.mean)
    sides = [torch.stack(path), autograd_variational_gd(glm, 1.0, steps)]
    if name in SCALAR:
        sides.append(plain_variational_gd(name, glm, np.eye(P), steps))
    for side in sides:
        assert side.shape == noisy.shape == (steps, *glm.parameter_shape)
        assert float((side - noisy).abs().max()) < 1e-10
    plain, theta = [], torch.zeros(glm.parameter_shape, dtype=torch.float64)
    for _ in range(steps):
        theta = gd_step(glm, theta, LR)
        plain.append(theta)
    missing = float((torch.stack(plain) - noisy).abs().max())  # what the noise is worth
    assert missing == 0 if name == "gaussian" else missing > 1e-3
    assert float(noise.abs().max()) == 0 if name == "gaussian" else float(noise.abs().max()) > 1e-3


@pytest.mark.guards("cor-fixed-covariance", "thm-glm-label-noise")
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "truncated poisson"])
def test_theorem_1_with_any_fixed_covariance(name):
    glm = problem(name)
    covariance = full_covariance(glm)
    noisy, _ = with_noise(glm, covariance)
    side = autograd_variational_gd(glm, covariance) if name == "categorical" else None
    side = plain_variational_gd(name, glm, covariance) if side is None else side
    assert float((side - noisy).abs().max()) < 1e-10
    if name != "gaussian":
        assert float((with_noise(glm, 1.0)[0] - noisy).abs().max()) > 1e-4  # the covariance matters


@pytest.mark.guards("cor-sampled-expectation")
@pytest.mark.parametrize("draws", [1, 3])
@every_family
def test_theorem_1_holds_draw_by_draw(name, draws):
    """The objective with the expected loss replaced by an average over draws; the divergence stays exact."""
    glm = problem(name, n=50, p=4)
    bare = GLM(glm.family, glm.features, glm.targets, Ridge(0.0))
    generator = torch.Generator().manual_seed(draws)
    theta = torch.randn(glm.parameter_shape, dtype=torch.float64, generator=generator)
    e = torch.randn(draws, *glm.parameter_shape, dtype=torch.float64, generator=generator)
    mean = theta.clone().requires_grad_()
    objective = sum(bare.loss(mean + e_s) for e_s in e) / draws + 0.5 * (mean * mean).sum()
    left = theta - LR * torch.autograd.grad(objective, mean)[0]
    average = sum(glm.family.mean(glm.features @ (theta + e_s)) for e_s in e) / draws
    noise = glm.family.mean(glm.features @ theta) - average
    assert float(noise.abs().max()) > 0.1  # with few draws even the Gaussian family has noise
    assert float((gd_step(glm, theta, LR, label_noise=noise) - left).abs().max()) < 1e-13


@pytest.mark.guards("thm-variational-gd", "thm-glm-label-noise")
def test_theorem_1_for_an_abstract_family():
    """Both updates for a family A of which nothing is known, with the expectation left as an integral."""
    x, e = sp.symbols("x e", real=True)
    rho, a = sp.symbols("rho a", positive=True)
    m, phi, y = sp.symbols("m1:3", real=True), sp.symbols("phi1:3", real=True), sp.symbols("y")
    family = sp.Function("A")
    density = sp.exp(-(e**2) / 2) / sp.sqrt(2 * sp.pi)

    def expected(g):
        return sp.Integral(density * g, (e, -sp.oo, sp.oo))

    def derivative(u):
        return family(x).diff(x).subs(x, u)

    f = phi[0] * m[0] + phi[1] * m[1]
    objective = -y * f + expected(family(f + a * e)) + (m[0] ** 2 + m[1] ** 2) / 2
    noise = derivative(f) - expected(derivative(f + a * e))
    for j in range(2):
        left = m[j] - rho * objective.diff(m[j])
        right = (1 - rho) * m[j] - rho * phi[j] * (derivative(f) - (y + noise))
        assert sp.simplify(left - right) == 0
    # the divergence of one coordinate is m^2 / 2
    kl = expected(-(e**2) / 2 + (m[0] + e) ** 2 / 2).doit()
    assert sp.simplify(kl - m[0] ** 2 / 2) == 0


@pytest.mark.guards("thm-glm-label-noise")
def test_theorem_1_for_an_abstract_vector_family():
    """Two outputs, A(f1, f2) abstract, the expectation a weighted average over two arbitrary perturbations."""
    rho, phi = sp.symbols("rho phi")
    m, y = sp.symbols("m1:3"), sp.symbols("y1:3")
    weights, shifts = sp.symbols("w1:3"), [sp.symbols(f"e{s}_1:3") for s in (1, 2)]
    x = sp.symbols("x1:3")
    family = sp.Function("A")
    gradient = [family(*x).diff(x_k) for x_k in x]

    def derivative(k, point):
        return gradient[k].subs(dict(zip(x, point, strict=True)), simultaneous=True)

    def at(e=(0, 0)):
        return [phi * (m[k] + e[k]) for k in range(2)]

    f = at()
    objective = -sum(y[k] * f[k] for k in range(2)) + sum(m_k**2 for m_k in m) / 2
    objective += sum(w * family(*at(e)) for w, e in zip(weights, shifts, strict=True))
    for k in range(2):
        noise = derivative(k, f) - sum(w * derivative(k, at(e)) for w, e in zip(weights, shifts, strict=True))
        left = m[k] - rho * objective.diff(m[k])
        right = (1 - rho) * m[k] - rho * phi * (derivative(k, f) - (y[k] + noise))
        assert sp.simplify((left - right).doit()) == 0


@pytest.mark.guards("lem-bonnet", "lem-convex-bonnet")
@pytest.mark.parametrize("name", SCALAR)
def test_gradient_of_the_expected_loss_is_the_expected_gradient(name):
    """d/dm E[A(m + e)] by high-precision differences, against E[A'(m + e)] of the package."""
    log_partition = {
        "bernoulli": lambda f: mpmath.log1p(mpmath.exp(f)),
        "binomial": lambda f: 7 * mpmath.log1p(mpmath.exp(f)),
        "gaussian": lambda f: f * f / 2,
        "poisson": mpmath.exp,
        "truncated poisson": lambda f: mpmath.log(mpmath.expm1(mpmath.exp(f))),
    }[name]
    with mpmath.workdps(25):
        for mean, std in ((-1.3, 0.5), (0.7, 1.5)):

            def expected(m, std=std):
                return mpmath.quad(lambda e: log_partition(m + std * e) * mpmath.npdf(e), [-14, -4, 0, 4, 14])

            h = mpmath.mpf("1e-6")
            slope = (expected(mean + h) - expected(mean - h)) / (2 * h)
            value = float(FAMILIES[name].expected_mean(tensor(mean), tensor(std**2)))
            assert value == pytest.approx(float(slope), rel=1e-10)


# ------------------------------------------------------------------ the Bernoulli noise (Chapter 2)
def mp_noise(mean, var):
    """sigma(mean) - E[sigma(f)] to 40 digits, as the plain difference."""
    with mpmath.workdps(40):
        mean, std = mpmath.mpf(mean), mpmath.sqrt(mpmath.mpf(var))
        breaks = sorted({mpmath.mpf(b) for b in (-14, -6, -2, 0, 2, 6, 14)} | {max(-13.9, min(13.9, -mean / std))})
        average = mpmath.quad(lambda e: mpmath.npdf(e) / (1 + mpmath.exp(-mean - std * e)), breaks)
        return 1 / (1 + mpmath.exp(-mean)) - average


@pytest.mark.guards("prop-noise-closed-form")
def test_pair_identity():
    mu, d = sp.symbols("mu d", real=True)
    pair = (1 / (1 + sp.exp(-mu - d)) + 1 / (1 + sp.exp(-mu + d))) / 2 - 1 / (1 + sp.exp(-mu))
    closed = -sp.tanh(mu / 2) / 2 * (sp.cosh(d) - 1) / (sp.cosh(mu) + sp.cosh(d))
    assert sp.simplify((pair - closed).rewrite(sp.exp)) == 0
    for mean, var in ((0.4, 0.1), (2.0, 1.0), (-3.0, 5.0), (12.0, 2.0)):
        d = math.sqrt(var) * NODES
        ratio = (np.cosh(d) - 1) / (math.cosh(mean) + np.cosh(d))
        closed = 0.5 * math.tanh(mean / 2) * float(ratio @ WEIGHTS)
        reference = float(mp_noise(mean, var))
        assert closed == pytest.approx(reference, rel=1e-12)
        assert float(Bernoulli().label_noise(tensor(mean), tensor(var))) == pytest.approx(reference, rel=1e-12)


@pytest.mark.guards("prop-noise-odd")
@pytest.mark.parametrize("var", [0.01, 1.0, 6.2, 6.3, 30.0, 1000.0])
def test_noise_is_odd_with_one_peak_on_each_side(var):
    family = Bernoulli()
    means = torch.linspace(0, 12 + 5 * math.sqrt(var), 4001, dtype=torch.float64)
    v = torch.full_like(means, var)
    noise = family.label_noise(means, v)
    assert torch.allclose(noise, -family.label_noise(-means, v), rtol=1e-12, atol=1e-16)
    assert float(noise[0]) == 0 and bool((noise[1:] > 0).all())
    assert float(noise[-1]) < 1e-3 * float(noise.max())
    peak = int(noise.argmax())
    slack = 1e-14  # the wide rule sums to about this accuracy
    assert bool((noise[: peak + 1].diff() > -slack).all()) and bool((noise[peak:].diff() < slack).all())
    assert 0 < peak < len(means) - 1
    # the peak is where sigma' equals its expectation
    gap = family.curvature(means) - family.expected_curvature(means, v)
    assert bool((gap[: peak - 1] > 0).all()) and bool((gap[peak + 2 :] < 0).all())


@pytest.mark.guards("prop-noise-odd")
def test_the_ratio_that_makes_the_peak_unique():
    """The proof's h(C, D): it is the paired ratio, increases in C, and ends at D."""
    mu, d = sp.symbols("mu d", real=True)
    c, big_d = sp.symbols("C D", positive=True)

    def kappa(u):
        return 1 / (2 * (1 + sp.cosh(u)))

    x = sp.symbols("x", real=True)
    sigma = 1 / (1 + sp.exp(-x))
    assert sp.simplify((sigma.diff(x) - kappa(x)).rewrite(sp.exp)) == 0
    h = (1 + c) * (1 + c * big_d) / (c + big_d) ** 2
    ratio = (kappa(mu + d) + kappa(mu - d)) / (2 * kappa(mu))
    assert sp.simplify((ratio - h.subs({c: sp.cosh(mu), big_d: sp.cosh(d)})).rewrite(sp.exp)) == 0
    slope = (big_d - 1) * (2 * c * big_d + c + big_d + 2) / (c + big_d) ** 3
    assert sp.simplify(h.diff(c) - slope) == 0
    assert sp.limit(h, c, sp.oo) == big_d
    assert sp.simplify(h.subs(c, 1) - 2 / (1 + big_d)) == 0  # at mu = 0: below one


def peak_of(var):
    """Position and height of the peak, by root finding on 40-digit-checked package values."""
    family, v = Bernoulli(), tensor(var)

    def gap(mean):
        return float(family.curvature(tensor(mean)) - family.expected_curvature(tensor(mean), v))

    where = optimize.brentq(gap, 0.5, 30, xtol=1e-12)
    return where, float(family.label_noise(tensor(where), v))


@pytest.mark.guards("prop-noise-peak")
def test_limits_of_the_peak():
    p = sp.symbols("p")
    noise = p * (1 - p) * (2 * p - 1) / 2
    top = sp.Rational(1, 2) + 1 / (2 * sp.sqrt(3))
    assert sp.simplify(noise.diff(p).subs(p, top)) == 0
    assert sp.simplify(noise.subs(p, top) - 1 / (12 * sp.sqrt(3))) == 0
    limit = math.log(2 + math.sqrt(3))
    distances = [abs(peak_of(var)[0] - limit) for var in (0.1, 0.01, 0.001)]
    assert distances[0] < 0.05 and all(b < 0.15 * a for a, b in itertools.pairwise(distances))
    assert peak_of(1e-4)[1] == pytest.approx(1e-4 / (12 * math.sqrt(3)), rel=1e-4)
    for var, slack in ((1e2, 0.1), (1e4, 0.01), (1e6, 0.001)):
        where, height = peak_of(var)
        assert math.exp(where) / math.sqrt(2 * math.pi * var) == pytest.approx(1, abs=slack)
        assert 0 < 0.5 - height < math.log(2 * math.pi * var) / math.sqrt(var)
    peaks = [peak_of(var)[0] for var in np.logspace(-3, 5, 25)]
    assert all(a < b for a, b in itertools.pairwise(peaks))


@pytest.mark.guards("prop-noise-bounds")
def test_noise_grows_with_the_variance_up_to_its_bounds():
    family = Bernoulli()
    means, variances = torch.linspace(0.05, 25, 200, dtype=torch.float64)[:, None], torch.logspace(-3, 4, 71).double()
    noise = family.label_noise(means, variances)
    assert bool((noise.diff(dim=1) > -1e-14).all()) and bool((noise[:, :30].diff(dim=1) > 0).all())
    half = torch.tanh(means / 2) / 2
    tail = torch.tanh(means / 2) * family.curvature(means) * torch.expm1(variances / 2)
    assert bool((noise < half).all()) and bool((noise <= tail * (1 + 1e-12)).all())
    assert float((noise / torch.minimum(half, tail)).max()) > 0.999  # both bounds are approached
    far = family.label_noise(tensor(30.0), tensor(2.0)) / family.curvature(tensor(30.0))
    assert float(far) == pytest.approx(math.expm1(1.0), rel=1e-10)
    wide = family.label_noise(tensor(1.0), tensor(1e10))
    assert float(wide) == pytest.approx(0.5 * math.tanh(0.5), abs=1e-5)
    big_c, big_d = sp.symbols("C D", positive=True)
    assert sp.simplify(((big_d - 1) / (big_c + big_d)).diff(big_d) - (big_c + 1) / (big_c + big_d) ** 2) == 0


@pytest.mark.guards("prop-noise-side")
def test_noise_sides_with_the_model():
    rng = np.random.default_rng(0)
    f, v = torch.from_numpy(rng.uniform(-6, 6, 500)), torch.from_numpy(rng.uniform(0.01, 40, 500))
    y = torch.from_numpy(rng.integers(0, 2, 500).astype(float))
    label = y + Bernoulli().label_noise(f, v)
    right = (2 * y - 1) * f > 0
    assert 100 < int(right.sum()) < 400
    beyond = (label - y) * (2 * y - 1)  # how far past the true label, seen from 1/2
    assert bool((beyond[right] > 0).all()) and bool((beyond[right] < 0.5).all())
    assert bool((beyond[~right] < 0).all()) and bool((beyond[~right] > -0.5).all())


@pytest.mark.guards("prop-second-order")
@pytest.mark.parametrize("name", ["bernoulli", "poisson", "truncated poisson"])
def test_second_order_term_converges_at_the_right_order(name):
    """Halving v quarters the error of -A''' v / 2: the order is two, neither one nor three."""
    family = FAMILIES[name]
    for mean in (-2.0, 0.8, 1.9):
        variances = (0.04, 0.02, 0.01)
        errors = [
            float(family.label_noise(tensor(mean), tensor(v)) - second_order_label_noise(family, tensor(mean), v))
            for v in variances
        ]
        orders = [math.log2(abs(a / b)) for a, b in itertools.pairwise(errors)]
        assert all(1.9 < order < 2.1 for order in orders), orders


@pytest.mark.guards("prop-second-order")
def test_bound_on_the_second_order_error():
    p, x = sp.symbols("p x", real=True)
    fourth = p * (p - 1) * (2 * p - 1) * (12 * p**2 - 12 * p + 1)
    sigma = 1 / (1 + sp.exp(-x))
    assert sp.simplify(sigma.diff(x, 4) - fourth.subs(p, sigma)) == 0
    assert sp.simplify((sigma.diff(x, 2) + sigma.diff(x) * sp.tanh(x / 2)).rewrite(sp.exp)) == 0
    largest = max(abs(float(fourth.subs(p, root))) for root in sp.solve(fourth.diff(p), p))
    assert 8 / largest > 62
    means = torch.linspace(-10, 10, 401, dtype=torch.float64)[:, None]
    variances = torch.logspace(-2, 2, 41).double()
    family = Bernoulli()
    error = family.label_noise(means, variances) - second_order_label_noise(family, means, variances)
    scaled = error.abs() / variances**2
    assert 0.6 * largest / 8 < float(scaled.max()) <= largest / 8


@pytest.mark.guards("prop-taylor-noise")
def test_equation_14_averages_to_zero():
    family, draws = Bernoulli(), 40_000
    means, v = tensor(-3.0, -1.0, 0.0, 0.5, 1.5, 4.0), tensor(0.5, 1.0, 2.0, 1.0, 1.0, 3.0)
    e = torch.randn(draws, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = taylor_label_noise(family, means, v, e)
    exact = family.label_noise(means, v)
    standard_error = family.curvature(means) * (v / draws).sqrt()
    average = values.mean(0)
    assert bool((average.abs() < 4 * standard_error).all())
    assert torch.allclose(values.std(0) / math.sqrt(draws), standard_error, rtol=4 / math.sqrt(2 * draws))
    far = exact != 0
    assert bool(((average - exact).abs() > 8 * standard_error)[far].all())  # and not to the noise
    # normal with the stated deviation, and ten times the draws shrink it by the root of ten
    blocks = values[:, 4].reshape(200, -1).mean(1) / (family.curvature(means)[4] * math.sqrt(200 / draws))
    assert stats.kstest(blocks.numpy(), "norm").pvalue > 1e-3
    # largest where the exact noise is zero; alike in the tails
    grid = torch.linspace(-5, 5, 201, dtype=torch.float64)
    assert int(taylor_label_noise(family, grid, torch.ones_like(grid), torch.ones(())).argmax()) == 100
    tail = family.label_noise(tensor(25.0), tensor(3.0)) / taylor_label_noise(family, tensor(25.0), tensor(3.0), 1.0)
    assert float(tail) == pytest.approx(math.expm1(1.5) / math.sqrt(3), rel=1e-8)


# ------------------------------------------------------------------ the other families (Chapter 3)
@pytest.mark.guards("prop-noise-jensen")
def test_sign_of_the_noise_is_that_of_jensen():
    """A' convex means noise that is not positive; A' concave, not negative; the logistic A' is neither."""

    class Mirrored(Family):
        """A(f) = e^-f, whose A' = -e^-f is concave."""

        def log_partition(self, f):
            return torch.exp(-f)

    means, variances = torch.linspace(-4, 3, 57, dtype=torch.float64)[:, None], tensor(0.01, 0.5, 3.0)
    for family, sign in ((Poisson(), -1), (TruncatedPoisson(), -1), (Mirrored(), 1)):
        slope = family.curvature(means.flatten()).diff()
        assert bool((sign * slope < 0).all())  # A'' falls where A' is concave
        noise = family.label_noise(means, variances)
        assert bool((sign * noise > 0).all())
    logistic = Bernoulli().label_noise(means, variances)
    assert bool((logistic > 0).any()) and bool((logistic < 0).any())


@pytest.mark.guards("prop-binomial-noise")
def test_binomial_noise_is_that_of_its_trials():
    rng = np.random.default_rng(0)
    means, v = rng.uniform(-6, 6, 100), rng.uniform(0, 5, 100)
    plain = special.expit(means) - plain_expectation(special.expit, means, v)
    for trials in (1, 7, 40):
        noise = Binomial(trials).label_noise(torch.from_numpy(means), torch.from_numpy(v)).numpy()
        assert np.abs(noise - trials * plain).max() < 1e-13 * trials


@pytest.mark.guards("prop-gaussian-zero")
def test_gaussian_noise_is_zero_and_no_other_family_s_is():
    m, s, e, a, b, c = sp.symbols("m s e a b c", real=True)
    slope = sp.diff(a * e**2 / 2 + b * e + c, e)  # A' of any quadratic A
    density = sp.exp(-(e**2) / 2) / sp.sqrt(2 * sp.pi)
    expected = sp.integrate(density * slope.subs(e, m + s * e), (e, -sp.oo, sp.oo))
    assert sp.simplify(slope.subs(e, m) - expected) == 0
    means, v = tensor(-1e3, -0.5, 0.3, 4.0), tensor(1e-3, 1.0, 5.0, 1e6)
    assert torch.equal(Gaussian().label_noise(means, v), torch.zeros(4, dtype=torch.float64))

    class Quadratic(Family):
        def log_partition(self, f):
            return 1.5 * f * f - 2 * f + 3

    assert float(Quadratic().label_noise(means[1:3], v[1:3]).abs().max()) < 1e-13
    for name in ("bernoulli", "binomial", "poisson", "truncated poisson"):
        assert float(FAMILIES[name].label_noise(tensor(0.7), tensor(0.5)).abs()) > 1e-3
    # the heat equation behind the converse: d/dv E[A'] = E[A'''] / 2
    v0, h = 0.8, 1e-4
    for name in ("bernoulli", "poisson"):
        family, mean = FAMILIES[name], tensor(0.4)
        slope_v = (family.expected_mean(mean, tensor(v0 + h)) - family.expected_mean(mean, tensor(v0 - h))) / (2 * h)
        ends = [family.expected_mean(mean + t, tensor(v0)) for t in (-1e-3, 0.0, 1e-3)]
        bend = (ends[0] - 2 * ends[1] + ends[2]) / 1e-6
        assert float(slope_v) == pytest.approx(float(bend) / 2, rel=1e-5)


@pytest.mark.guards("prop-poisson-noise")
def test_poisson_noise_is_an_offset_of_half_the_variance():
    m, e = sp.symbols("m e", real=True)
    v = sp.symbols("v", positive=True)
    density = sp.exp(-(e**2) / 2) / sp.sqrt(2 * sp.pi)
    expected = sp.integrate(density * sp.exp(m + sp.sqrt(v) * e), (e, -sp.oo, sp.oo))
    assert sp.simplify(sp.exp(m) - expected - sp.exp(m) * (1 - sp.exp(v / 2))) == 0
    rng = np.random.default_rng(0)
    means, var = rng.uniform(-4, 3, 100), rng.uniform(0.001, 4, 100)
    noise = Poisson().label_noise(torch.from_numpy(means), torch.from_numpy(var)).numpy()
    assert (noise < 0).all()
    np.testing.assert_allclose(noise, np.exp(means) - plain_expectation(np.exp, means, var), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(noise, np.exp(means) - np.exp(means + var / 2), rtol=1e-9)  # the offset
    glm = problem("poisson", n=60, p=5)
    q = GaussianPosterior(torch.linspace(-1, 1, 5), full_covariance(glm))
    mean, variance = q.marginal(glm.features)
    offset = glm.features.T @ (torch.exp(mean + variance / 2) - glm.targets) + q.mean
    assert torch.allclose(variational_gd_step(glm, q, LR).mean, q.mean - LR * offset, rtol=0, atol=1e-14)
    assert float((glm.targets + glm.label_noise(q)).min()) < 0  # a count below zero


# ------------------------------------------------------------------ softmax
def softmax_noise(mean, scale, k, points=1 << 14):
    """Noise of K classes with covariance scale * I, and its standard error, by a fine quasi-Monte Carlo rule."""
    family = Categorical(k, num_points=points, replicates=8)
    cov = scale * torch.eye(k, dtype=torch.float64).expand(len(mean), k, k)
    value, error = family.expected_mean_with_error(mean, cov)
    return family.mean(mean) - value, error


@pytest.mark.guards("prop-softmax-noise")
def test_softmax_noise_sums_to_zero_and_contains_the_logistic():
    generator = torch.Generator().manual_seed(0)
    mean = 2 * torch.randn(6, 5, dtype=torch.float64, generator=generator)
    root = torch.randn(6, 5, 5, dtype=torch.float64, generator=generator)
    family = Categorical(5)
    noise = family.label_noise(mean, root @ root.mT)
    assert float(noise.sum(1).abs().max()) < 1e-14 and 0.05 < float(noise.abs().max()) < 1
    # a common shift of all logits, fixed or random, changes nothing
    shifted = family.label_noise(mean + 3.7, root @ root.mT)
    assert torch.allclose(shifted, noise, rtol=0, atol=1e-13)
    # equal logits with exchangeable covariance: no noise, within the standard error of the rule
    noise, error = softmax_noise(torch.full((1, 5), 1.3, dtype=torch.float64), 2.0, 5)
    assert bool((noise.abs() <= 6 * error + 1e-14).all())
    # two classes are one logit with variance V11 + V22 - 2 V12
    family = Categorical(2, num_points=1 << 14)
    mean, root = mean[:, :2], root[:, :2, :2]
    cov = root @ root.mT
    value, error = family.expected_mean_with_error(mean, cov)
    variance = cov[:, 0, 0] + cov[:, 1, 1] - 2 * cov[:, 0, 1]
    logistic = Bernoulli().label_noise(mean[:, 0] - mean[:, 1], variance)
    two = family.mean(mean) - value
    assert bool(((two[:, 0] - logistic).abs() <= 8 * error[:, 0] + 1e-12).all())
    assert bool(((two[:, 1] + logistic).abs() <= 8 * error[:, 1] + 1e-12).all())
    assert float(error.max()) < 1e-4 < float(logistic.abs().min())


@pytest.mark.guards("prop-softmax-side")
def test_softmax_noise_raises_the_top_class_and_lowers_the_last():
    mean = 1.5 * torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    top, last = mean.argmax(1, keepdim=True), mean.argmin(1, keepdim=True)
    before_top = before_last = torch.zeros(40, 1, dtype=torch.float64)
    for scale in (0.05, 0.3, 1.0, 4.0, 20.0):
        noise, error = softmax_noise(mean, scale, 4, points=1 << 11)
        slack = 6 * error.amax(1, keepdim=True)
        assert bool((noise.gather(1, top) > before_top - slack).all())
        assert bool((noise.gather(1, last) < before_last + slack).all())
        before_top, before_last = noise.gather(1, top), noise.gather(1, last)
        assert float(slack.max()) < 0.02
    assert float(before_top.min()) > 0.02 and float(before_last.max()) < -0.001
    # the algebra of the proof: the Laplacian of a softmax entry
    f = sp.symbols("f1:4", real=True)
    s = [sp.exp(f_k) / sum(map(sp.exp, f)) for f_k in f]
    laplacian = sum(sp.diff(s[0], f_k, 2) for f_k in f)
    assert sp.simplify(laplacian - 2 * sum(s[0] * s_j * (s_j - s[0]) for s_j in s)) == 0


@pytest.mark.guards("prop-softmax-second-order")
def test_softmax_noise_to_second_order():
    mean = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    s = torch.softmax(mean, 1)
    leading = s * (s - (s * s).sum(1, keepdim=True))
    assert float(leading.sum(1).abs().max()) < 1e-15
    f = sp.symbols("f1:4", real=True)
    softmax = [sp.exp(f_k) / sum(map(sp.exp, f)) for f_k in f]
    laplacian = sum(sp.diff(softmax[0], f_k, 2) for f_k in f)
    assert sp.simplify(-laplacian / 2 - softmax[0] * (softmax[0] - sum(s_j**2 for s_j in softmax))) == 0
    errors = []
    for v in (0.08, 0.04, 0.02):
        noise, error = softmax_noise(mean, v, 4)
        difference = (noise - v * leading).abs().max()
        assert float(error.max()) < 0.02 * float(difference)
        errors.append(float(difference))
    assert all(1.8 < math.log2(a / b) < 2.2 for a, b in itertools.pairwise(errors)), errors
    ties = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25] * 4], dtype=torch.float64)
    assert float((ties * (ties - (ties * ties).sum(1, keepdim=True))).abs().max()) == 0


# ------------------------------------------------------------------ where the theorem ends
@pytest.mark.guards("prop-bounded-domain")
def test_bounded_domains_have_no_gaussian_expectation():
    class Exponential(Family):
        domain = (-math.inf, 0.0)

        def log_partition(self, f):
            return -torch.log(-f)

    class NeymanA(Family):
        """Cumulants of a Poisson number of Poisson counts: finite everywhere, without Gaussian expectation."""

        def log_partition(self, f):
            return torch.exp(torch.exp(f) - 1) - 1

    features, targets = torch.ones(3, 1), tensor(0.5, 1.0, 2.0)
    q = GaussianPosterior([-3.0], 0.25)
    glm = GLM(Exponential(), features, targets)
    assert torch.isfinite(glm.loss(q.mean)) and torch.isfinite(glm.gradient(q.mean)).all()
    for call in (glm.label_noise, glm.expected_gradient, glm.elbo, lambda q: variational_gd_step(glm, q, 0.1)):
        with pytest.raises(ValueError, match=r"Exponential.*\(-inf, 0.0\).*no Gaussian expectation"):
            call(q)
    # the share of draws outside the domain is the normal tail that the proof uses
    draws = q.sample(100_000, generator=torch.Generator().manual_seed(0)).flatten()
    share = float((GaussianPosterior([-0.5], 0.25).sample(100_000).flatten() >= 0).double().mean())
    assert abs(share - stats.norm.cdf(-1)) < 4 * math.sqrt(0.16 * 0.84 / 100_000)
    assert float((draws >= 0).double().mean()) < 1e-3
    with pytest.raises(ValueError, match="expectation did not"):
        NeymanA().expected_mean(tensor(0.0), tensor(0.25))
    # partial integrals of e^{e^f} against the Gaussian grow without bound
    with mpmath.workdps(30):
        parts = [mpmath.quad(lambda f: mpmath.exp(mpmath.exp(f) - 2 * f * f), [0, b / 2, b]) for b in (3, 5, 6)]
    assert parts[1] > 1e6 * parts[0] and parts[2] > 1e6 * parts[1]


def smooth_l1(theta):
    return 5 * torch.sqrt(theta * theta + 0.01).sum()


@pytest.mark.guards("prop-regularizer")
@pytest.mark.parametrize("name", ["bernoulli", "poisson", "categorical"])
def test_a_general_regularizer_adds_a_term_of_its_own(name):
    glm = problem(name, n=80, p=3, regularizer=smooth_l1)
    q = GaussianPosterior(0.1 * torch.arange(1.0, 1 + math.prod(glm.parameter_shape)).reshape(glm.parameter_shape), 0.3)
    left = variational_gd_step(glm, q, LR).mean
    right = gd_step(glm, q.mean, LR, label_noise=glm.label_noise(q))
    term = glm.regularizer.expected_gradient(q) - glm.regularizer.gradient(q.mean)
    assert float((left - right).abs().max()) > 1e-2  # the theorem as it stands fails
    assert torch.allclose(left, right - LR * term, rtol=0, atol=1e-14)
    # the term is E[R'] - R', coordinate by coordinate; the package's rule is a quasi-Monte Carlo one
    mean = q.mean.flatten().numpy()
    expected = plain_expectation(lambda t: 5 * t / np.sqrt(t * t + 0.01), mean, np.full(len(mean), 0.3))
    plain = expected - 5 * mean / np.sqrt(mean * mean + 0.01)
    draws = q.sample(200_000, generator=torch.Generator().manual_seed(0)).flatten(1).numpy()
    values = 5 * draws / np.sqrt(draws * draws + 0.01)
    standard_error = values.std(0) / math.sqrt(1024)  # of as many independent draws; the package's rule is better
    assert (np.abs(term.flatten().numpy() - plain) < 3 * standard_error).all()
    assert np.abs(plain).max() > 20 * standard_error.max()


@pytest.mark.guards("prop-regularizer")
def test_only_quadratic_regularizers_add_nothing():
    def quadratic(theta):
        return 1.5 * (theta * theta).sum() + theta.sum() + 0.3 * theta[0] * theta[1]

    q = GaussianPosterior([0.4, -1.0, 2.0], full_covariance(problem("bernoulli", p=3)))
    for function, vanishes in ((quadratic, True), (smooth_l1, False), (lambda t: (t**4).sum(), False)):
        regularizer = CallableRegularizer(function)
        term = regularizer.expected_gradient(q) - regularizer.gradient(q.mean)
        assert (float(term.abs().max()) < 1e-12) == vanishes
    # for small Sigma the term is half the gradient of tr(Sigma Hess R): zero for all Sigma only if R''' is
    t, v = sp.symbols("t v", real=True)
    e = sp.symbols("e", real=True)
    density = sp.exp(-(e**2) / 2) / sp.sqrt(2 * sp.pi)
    quartic = t**4
    slope = sp.integrate(density * quartic.diff(t).subs(t, t + v * e), (e, -sp.oo, sp.oo))
    assert sp.simplify(slope - quartic.diff(t) - v**2 * quartic.diff(t, 3) / 2) == 0
