"""The label noise of each family: sympy, plain references and the package; guards Chapters 2 and 3."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
from scipy import optimize, special, stats
from theorem1_references import (
    FAMILIES,
    LR,
    NODES,
    WEIGHTS,
    TruncatedPoisson,
    full_covariance,
    plain_expectation,
    problem,
    tensor,
)

from vlls import (
    Bernoulli,
    Binomial,
    Family,
    Gaussian,
    GaussianPosterior,
    Poisson,
    second_order_label_noise,
    taylor_label_noise,
    variational_gd_step,
)


# ------------------------------------------------------------------ the Bernoulli noise (Chapter 2)
def mp_noise(mean, var):
    """Return sigma(mean) - E[sigma(f)] to 40 digits, as the plain difference."""
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
    """The proof's h(C, D) is the paired ratio, increases in C, and tends to D."""
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
    """Return the peak's position and height, by root finding on package values that are checked to 40 digits."""
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


@pytest.mark.guards("prop-sampled-noise")
def test_a_draw_takes_one_of_the_two_labels_out_of_the_interval():
    rng, draws = np.random.default_rng(0), 100_000
    for mean, var in ((0.0, 1.0), (1.5, 2.0), (-4.0, 0.3), (3.0, 30.0)):
        noise = special.expit(mean) - special.expit(mean + math.sqrt(var) * rng.standard_normal(draws))
        outside = np.array([(y + noise < 0) | (y + noise > 1) for y in (0, 1)])
        assert (outside.sum(0) == 1).all()
        assert np.abs(outside.mean(1) - 0.5).max() < 4 * 0.5 / math.sqrt(draws)
        assert special.expit(mean) - 1 < noise.min() and noise.max() < special.expit(mean)
        exact = float(Bernoulli().label_noise(tensor(mean), tensor(var)))
        assert abs(noise.mean() - exact) < 4 * noise.std() / math.sqrt(draws)


@pytest.mark.guards("prop-sampled-noise")
def test_the_size_of_the_sampled_noise_at_a_tie():
    """The squared noise has the second derivative E[3 t^4 - 2 t^2] / 8, which changes sign once in the variance."""
    mu, d = sp.symbols("mu d", real=True)
    sigma, t = 1 / (1 + sp.exp(-mu)), sp.tanh(d / 2)
    bend = ((sigma - sigma.subs(mu, mu + d)) ** 2).diff(mu, 2).subs(mu, 0)
    assert sp.simplify((bend - (3 * t**4 - 2 * t**2) / 8).rewrite(sp.exp)) == 0

    def size(mean, var):
        return math.sqrt((special.expit(mean) - special.expit(mean + math.sqrt(var) * NODES)) ** 2 @ WEIGHTS)

    def bends(var):
        squares = np.tanh(math.sqrt(var) * NODES / 2) ** 2
        return float((3 * squares**2 - 2 * squares) @ WEIGHTS)

    turn = optimize.brentq(bends, 1.0, 20.0, xtol=1e-12)
    assert turn == pytest.approx(4.633564669, abs=1e-8)
    for var in (0.1, 1.0, 0.9 * turn):
        assert bends(var) < 0 and size(0.0, var) > size(0.2, var) == pytest.approx(size(-0.2, var))
    for var in (1.1 * turn, 9.0, 100.0):
        assert bends(var) > 0 and size(0.0, var) < size(0.2, var) == pytest.approx(size(-0.2, var))


@pytest.mark.guards("prop-second-order")
@pytest.mark.parametrize("name", ["bernoulli", "poisson", "truncated poisson"])
def test_second_order_term_converges_at_the_right_order(name):
    """The error of -A''' v / 2 is quartered as v is halved: its order is two, neither one nor three."""
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
    """The noise is not positive if A' is convex, not negative if A' is concave; the logistic A' is neither."""

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
