"""Exponential families: A and its derivatives, their Gaussian expectations against 50-digit references, bad input."""

import math

import mpmath
import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlls import Bernoulli, Binomial, Categorical, Family, Gaussian, Poisson, VectorFamily
from vlls._quadrature import sobol_normal

SCALAR = [Bernoulli(), Binomial(7), Gaussian(), Poisson()]
VARIANCES_TO_10 = [1e-6, 0.3, 1.0, 4.0, 6.2, 6.3, 10.0]
VARIANCES_BEYOND = [100.0, 1e6]
MEANS = [0.3, -3.0, 30.0, -1e4]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def logistic_reference(mean, var):
    """E[sigma], E[sigma'] and E[log(1 + e^f)] to 50 digits, by Gauss-Legendre on pieces around both peaks."""
    with mpmath.workdps(50):
        mean, std = mpmath.mpf(mean), mpmath.sqrt(mpmath.mpf(var))
        knee = [(offset - mean) / std for offset in (-60, -25, -8, -2, 0, 2, 8, 25, 60)]
        breaks = sorted({mpmath.mpf(b) for b in (-14, -9, -5, -2, 0, 2, 5, 9, 14)} | {k for k in knee if -14 < k < 14})

        def sigma(x):
            return 1 / (1 + mpmath.exp(-x)) if x > -500 else mpmath.exp(x)

        def softplus(x):
            return max(x, mpmath.mpf(0)) + mpmath.log1p(mpmath.exp(-abs(x)))

        functions = (sigma, lambda x: sigma(x) * sigma(-x), softplus)
        return [mpmath.quad(lambda e, g=g: g(mean + std * e) * mpmath.npdf(e), breaks) for g in functions]


@pytest.mark.slow
@pytest.mark.parametrize(("variances", "tolerance"), [(VARIANCES_TO_10, 1e-12), (VARIANCES_BEYOND, 1e-8)])
def test_logistic_expectations_agree_with_50_digits(variances, tolerance):
    family = Bernoulli()
    for var in variances:
        for mean in MEANS:
            m, v = tensor(mean), tensor(var)
            expected = family.expected_mean(m, v), family.expected_curvature(m, v), family.expected_log_partition(m, v)
            for value, reference in zip(expected, logistic_reference(mean, var), strict=True):
                error = abs(mpmath.mpf(float(value)) - reference) / max(1, abs(reference))
                assert error < tolerance, (mean, var, float(value))


@pytest.mark.slow
@pytest.mark.parametrize("var", [1e-6, 1e-2, 1.0, 6.0])
def test_logistic_noise_keeps_relative_accuracy_where_it_is_small(var):
    for mean in (1e-3, 1.0, 8.0, 25.0):
        with mpmath.workdps(50):
            reference = 1 / (1 + mpmath.exp(-mpmath.mpf(mean))) - logistic_reference(mean, var)[0]
        noise = float(Bernoulli().label_noise(tensor(mean), tensor(var)))
        assert abs(noise / float(reference) - 1) < 1e-11


@pytest.mark.parametrize("family", [*SCALAR, Categorical(4)], ids=repr)
def test_derivatives_are_those_of_the_log_partition(family):
    f = torch.linspace(-6, 6, 13, dtype=torch.float64)
    if family.num_outputs:
        f = torch.randn(13, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    base = VectorFamily if family.num_outputs else Family
    assert torch.allclose(family.mean(f), base.mean(family, f), rtol=1e-12, atol=1e-13)
    assert torch.allclose(family.curvature(f), base.curvature(family, f), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("family", SCALAR, ids=repr)
def test_closed_forms_are_sympy_s(family):
    x = sympy.Symbol("x", real=True)
    log_partition = {
        "Bernoulli()": sympy.log(1 + sympy.exp(x)),
        "Binomial(7)": 7 * sympy.log(1 + sympy.exp(x)),
        "Gaussian()": x**2 / 2,
        "Poisson()": sympy.exp(x),
    }[repr(family)]
    for order, function in enumerate((family.log_partition, family.mean, family.curvature)):
        exact = sympy.diff(log_partition, x, order)
        for value in (sympy.Rational(-7, 2), sympy.Rational(0), sympy.Rational(5, 3)):
            got = float(function(tensor(float(value))))
            assert got == pytest.approx(float(exact.subs(x, sympy.Float(float(value), 30)).evalf(30)), rel=1e-13)


@pytest.mark.parametrize("family", SCALAR, ids=repr)
def test_expectations_agree_with_the_generic_rule(family):
    """The closed forms against the trapezoidal rule, which needs only A."""
    mean, var = torch.meshgrid(tensor(-3.0, 0.0, 1.7), tensor(0.0, 0.2, 1.0, 5.0), indexing="ij")

    class Plain(Family):
        def log_partition(self, f):
            return family.log_partition(f)

    for name in ("expected_log_partition", "expected_mean", "expected_curvature", "label_noise"):
        fast, generic = getattr(family, name)(mean, var), getattr(Plain(), name)(mean, var)
        assert torch.allclose(fast, generic, rtol=1e-11, atol=1e-11), name
    for together, alone in zip(
        family.expected_derivatives(mean, var),
        (family.expected_mean(mean, var), family.expected_curvature(mean, var)),
        strict=True,
    ):
        assert torch.allclose(together, alone, rtol=1e-13)


@pytest.mark.parametrize("family", [Bernoulli(), Binomial(7), Gaussian()], ids=repr)
def test_values_stay_finite_at_the_extremes(family):
    f = tensor(-1e4, -745.0, -40.0, 0.0, 40.0, 745.0, 1e4)
    y = torch.ones_like(f)
    for value in (family.log_partition(f), family.mean(f), family.curvature(f), family.nll(f, y)):
        assert torch.isfinite(value).all()
    for var in (0.0, 1.0, 1e6):
        v = torch.full_like(f, var)
        for name in ("expected_log_partition", "expected_mean", "expected_curvature", "label_noise"):
            assert torch.isfinite(getattr(family, name)(f, v)).all(), (name, var)


def test_poisson_is_finite_wherever_its_value_is():
    family = Poisson()
    assert float(family.expected_mean(tensor(-1e4), tensor(1.9e4))) == pytest.approx(math.exp(-500), rel=1e-12)
    assert float(family.expected_mean(tensor(-5e5), tensor(1e6))) == 1.0
    assert math.isinf(float(family.expected_mean(tensor(0.0), tensor(1e6))))


def test_logistic_nll_has_no_cancellation():
    loss = Bernoulli().nll(tensor(50.0, -50.0), tensor(1.0, 0.0))
    assert torch.allclose(loss, tensor(math.exp(-50), math.exp(-50)), rtol=1e-12)


# ------------------------------------------------------------------ vector families
def test_softmax_expectation_lies_within_its_standard_error():
    """Against plain Monte Carlo: 8 replicates leave 7 degrees of freedom, so |t| > 8 has probability 1e-4."""
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(8, 5, dtype=torch.float64, generator=generator)
    factor = torch.randn(8, 5, 5, dtype=torch.float64, generator=generator) * 0.7
    value, error = Categorical(5).expected_mean_with_error(mean, factor @ factor.mT)
    t = []
    for i in range(8):
        draws = torch.randn(400_000, 5, dtype=torch.float64, generator=generator) @ factor[i].T + mean[i]
        p = torch.softmax(draws, 1)
        t.append((value[i] - p.mean(0)) / (error[i] ** 2 + p.var(0) / len(p)).sqrt())
    t = torch.stack(t)
    assert float(t.abs().max()) < 8
    assert 0.5 < float(t.square().mean().sqrt()) < 2  # neither too small an error nor too large a one
    assert float(error.max()) < 5e-3


def test_two_classes_are_a_bernoulli_of_the_difference():
    """softmax over 2 classes is the logistic function of f_1 - f_0: quasi-Monte Carlo against quadrature."""
    mean = tensor(0.3, -1.2)[None]
    cov = tensor(0.8, 0.2, 0.2, 0.5).reshape(1, 2, 2)
    value, error = Categorical(2, num_points=4096).expected_mean_with_error(mean, cov)
    exact = Bernoulli().expected_mean(mean[:, 1] - mean[:, 0], tensor(0.8 + 0.5 - 0.4))
    assert abs(float(value[0, 1] - exact)) <= 8 * float(error[0, 1])
    assert float(error.max()) < 1e-4


def test_vector_family_from_its_log_partition_alone():
    class Softmax(VectorFamily):
        def log_partition(self, f):
            return torch.logsumexp(f, -1)

    mean = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    var = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    own, ours = Softmax(4), Categorical(4)
    for name in ("expected_log_partition", "expected_mean", "expected_curvature", "label_noise"):
        assert torch.allclose(getattr(own, name)(mean, var), getattr(ours, name)(mean, var), atol=1e-13), name
    full = torch.diag_embed(var)
    assert torch.allclose(ours.expected_mean(mean, var), ours.expected_mean(mean, full), atol=1e-13)


def test_sobol_points_have_exact_moments_and_replicates_differ():
    points = sobol_normal(3, 128, 4, 0)
    assert points.shape == (4, 128, 3)
    assert points.mean(1).abs().max() < 1e-14
    assert torch.allclose(points.mT @ points / 128, torch.eye(3, dtype=torch.float64).expand(4, 3, 3), atol=1e-12)
    assert (points[0] - points[1]).abs().max() > 0.1
    assert torch.equal(points, sobol_normal.__wrapped__(3, 128, 4, 0))


def test_quasi_monte_carlo_beats_monte_carlo():
    """With as many draws, its reported error is several times smaller than the error of independent draws."""
    family, mean = Categorical(10), torch.zeros(1, 10, dtype=torch.float64)
    mean[0, 0] = 1.0
    cov = torch.eye(10, dtype=torch.float64)[None] * 0.5
    _, error = family.expected_mean_with_error(mean, cov)
    draws = family.num_points * family.replicates
    plain = torch.softmax(torch.randn(20_000, 10, dtype=torch.float64) * math.sqrt(0.5) + mean, 1).std(0)
    assert float((error[0] / (plain / math.sqrt(draws))).max()) < 0.5


# ------------------------------------------------------------------ properties
@settings(max_examples=60, deadline=None)
@given(
    mean=st.floats(-1e4, 1e4),
    var=st.floats(0, 1e6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    shape=st.sampled_from([(), (1,), (3,), (2, 3), (0,)]),
)
def test_logistic_moments_have_their_properties(mean, var, dtype, shape):
    m, v = torch.full(shape, mean, dtype=dtype), torch.full(shape, var, dtype=dtype)
    family = Bernoulli()
    value, curvature, noise = family.expected_mean(m, v), family.expected_curvature(m, v), family.label_noise(m, v)
    assert value.shape == shape and value.dtype == dtype
    assert ((value >= 0) & (value <= 1)).all()
    assert ((curvature >= 0) & (curvature <= 0.25 + 1e-12)).all()
    assert (noise * m.sign() >= 0).all() and (noise.abs() <= 0.5).all()
    assert torch.equal(family.label_noise(-m, v), -noise)
    rounding = 1e-6 * family.log_partition(m) + 1e-13 * (1 + v.sqrt())
    assert (family.expected_log_partition(m, v) >= family.log_partition(m) - rounding).all()  # Jensen


@settings(max_examples=30, deadline=None)
@given(k=st.integers(2, 12), n=st.integers(1, 4), scale=st.floats(0, 100), seed=st.integers(0, 1000))
def test_softmax_moments_have_their_properties(k, n, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    mean = scale * torch.randn(n, k, dtype=torch.float64, generator=generator)
    root = scale * torch.randn(n, k, k, dtype=torch.float64, generator=generator)
    family = Categorical(k, num_points=32, replicates=2)
    value, curvature = family.expected_derivatives(mean, root @ root.mT)
    assert torch.allclose(value.sum(1), torch.ones(n, dtype=torch.float64))
    assert (value >= 0).all()
    assert curvature.sum(2).abs().max() < 1e-12
    assert torch.linalg.eigvalsh(curvature).min() > -1e-12
    assert family.label_noise(mean, root @ root.mT).sum(1).abs().max() < 1e-12


def test_derivatives_flow_through_the_expectations():
    """d E[A(f)] / d mean = E[A'(f)] and d/d var = E[A''(f)] / 2: Bonnet and Price, by finite differences."""
    mean, var, h = tensor(-0.7, 0.4, 3.0), tensor(0.3, 2.0, 9.0), 1e-5
    family = Bernoulli()
    a = family.expected_log_partition
    by_mean = (a(mean + h, var) - a(mean - h, var)) / (2 * h)
    by_var = (a(mean, var + h) - a(mean, var - h)) / (2 * h)
    assert torch.allclose(by_mean, family.expected_mean(mean, var), atol=1e-9)
    assert torch.allclose(by_var, 0.5 * family.expected_curvature(mean, var), atol=1e-9)


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        (Bernoulli(), [0, 2], r"targets hold 2, outside the support of Bernoulli"),
        (Bernoulli(), [-1, 1], r"targets hold -1"),
        (Binomial(3), [4, 0], r"whole numbers from 0 to 3"),
        (Binomial(3), [0.5, 0], r"targets hold 0.5"),
        (Poisson(), [1.5, 0], r"whole numbers from 0"),
        (Poisson(), [-1, 0], r"targets hold -1"),
        (Categorical(3), [3, 0], r"classes 0 to 2"),
        (Categorical(3), [[0.5, 0.4, 0.0], [1, 0, 0]], r"sum to 0.9; soft labels must sum to 1"),
        (Categorical(3), [[-0.5, 1.5, 0.0], [1, 0, 0]], r"at least 0"),
        (Categorical(3), [[0.5, 0.5], [1, 0]], r"need \(2,\) classes or \(2, 3\) probabilities"),
        (Gaussian(), [1.0, math.nan], r"NaN or infinite, the first at \[1\]"),
        (Gaussian(), [1.0], r"2 rows of features need \(2,\)"),
        (Gaussian(), ["a", "b"], r"pass numbers"),
        (Gaussian(), [1j, 2j], r"complex"),
    ],
)
def test_targets_outside_the_support_are_refused(family, targets, message):
    with pytest.raises(ValueError, match=message):
        family.check_targets(np.array(targets), 2)


@pytest.mark.parametrize("make", [lambda: Binomial(0), lambda: Binomial(2.5), lambda: Binomial(True)])
def test_trials_must_be_a_positive_whole_number(make):
    with pytest.raises(ValueError, match="trials=.* is not allowed; choose a whole number >= 1"):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical(1), "num_classes=1 is not allowed; choose a whole number >= 2"),
        (lambda: Categorical(3, num_points=3), "even number from 2"),
        (lambda: Categorical(3, replicates=0), "even number from 2"),
        (lambda: Bernoulli().expected_mean(tensor(0.0), tensor(-1.0)), "variance must be >= 0"),
        (lambda: Bernoulli().expected_mean(tensor(0.0), tensor(math.nan)), "var holds nan"),
        (lambda: Categorical(2).expected_mean(torch.zeros(1, 2), torch.full((1, 2), math.nan)), "var holds 2 value"),
        (lambda: Bernoulli().expected_mean(tensor(0.0, 1.0), tensor(1.0, 1.0, 1.0)), "do not broadcast"),
        (lambda: Categorical(3).expected_mean(torch.zeros(2, 4), torch.ones(2, 4)), "do not fit Categorical"),
        (lambda: Categorical(2).expected_mean(torch.zeros(1, 2), -torch.eye(2)[None]), "negative eigenvalue"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bounded_domains_and_infinite_expectations_are_refused():
    class Exponential(Family):
        domain = (-math.inf, 0.0)

        def log_partition(self, f):
            return -torch.log(-f)

    class TooFast(Family):
        def log_partition(self, f):
            return torch.exp(f * f)

    class Kinked(Family):
        def log_partition(self, f):
            return torch.relu(f)

    with pytest.raises(ValueError, match="A has no Gaussian expectation"):
        Exponential().expected_mean(tensor(-1.0), tensor(0.1))
    with pytest.raises(ValueError, match="did not converge"):
        TooFast().expected_mean(tensor(0.0), tensor(2.0))
    with pytest.raises(ValueError, match="did not settle"):
        Kinked().expected_mean(tensor(0.1), tensor(1.0))
