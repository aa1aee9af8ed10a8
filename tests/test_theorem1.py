"""Theorem 1: sympy, plain references and the package; guards Chapters 2 and 3."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
from scipy import stats
from theorem1_references import (
    FAMILIES,
    LR,
    SCALAR,
    STEPS,
    P,
    autograd_variational_gd,
    every_family,
    full_covariance,
    plain_expectation,
    plain_variational_gd,
    problem,
    tensor,
    with_noise,
)

from vlls import (
    GLM,
    Bernoulli,
    Categorical,
    Family,
    GaussianPosterior,
    Ridge,
    gd_step,
    variational_gd_step,
)
from vlls._regularizers import CallableRegularizer


# ------------------------------------------------------------------ Theorem 1 (Chapters 2 and 3)
@pytest.mark.guards("thm-variational-gd", "thm-glm-label-noise")
@every_family
def test_theorem_1_over_100_steps(name):
    glm, steps = problem(name), 25 if name == "truncated poisson" else STEPS  # a user's family, by autograd
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
    missing = float((torch.stack(plain) - noisy).abs().max())  # the effect of the noise
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
    """The objective averages the loss over draws instead of taking its expectation; the divergence is exact."""
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
    """Both updates for an abstract family A, with the expectation left as an integral."""
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


# ------------------------------------------------------------------ softmax
def softmax_noise(mean, scale, k, points=1 << 14):
    """Return the noise of K classes at covariance scale * I, and its standard error, by fine quasi-Monte Carlo."""
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


def relative_variances(s, cov):
    """Return each class's variance of logit minus mean logit, by a loop: (e_k - S)' V (e_k - S)."""
    found = torch.zeros_like(s)
    for i, (p, v) in enumerate(zip(s, cov, strict=True)):
        for k in range(len(p)):
            row = -p.clone()
            row[k] += 1
            found[i, k] = row @ v @ row
    return found


@pytest.mark.guards("prop-softmax-any-covariance")
def test_softmax_noise_of_any_covariance_to_second_order():
    """The noise is S_k / 2 times the average variance minus the class's own; the rest falls like the square."""
    generator = torch.Generator().manual_seed(5)
    mean = torch.randn(12, 3, dtype=torch.float64, generator=generator)
    root = torch.randn(12, 3, 3, dtype=torch.float64, generator=generator)
    s, cov = torch.softmax(mean, 1), root @ root.mT
    d = relative_variances(s, cov)
    leading = s * ((s * d).sum(1, keepdim=True) - d) / 2
    assert float(leading.sum(1).abs().max()) < 1e-14
    errors = []
    for scale in (0.04, 0.02, 0.01):
        noise = torch.stack([tensor_noise(m, scale * v) for m, v in zip(mean, cov, strict=True)])
        errors.append(float((noise - scale * leading).abs().max()))
    assert all(1.8 < math.log2(a / b) < 2.2 for a, b in itertools.pairwise(errors)), errors
    # a random shift that correlates with the logits changes nothing
    c = torch.randn(12, 3, 1, dtype=torch.float64, generator=generator)
    shifted = torch.eye(3, dtype=torch.float64) + c + c.mT
    assert torch.allclose(relative_variances(s, shifted), relative_variances(s, torch.eye(3).double().expand(12, 3, 3)))


def tensor_noise(mean, cov, order=24):
    """Return the noise of three classes by a product of Gauss-Hermite rules, without the package."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(order))
    values, vectors = torch.linalg.eigh(cov)
    points = torch.cartesian_prod(nodes, nodes, nodes) @ (vectors * values.clamp_min(0).sqrt()).T
    weights = torch.cartesian_prod(weights, weights, weights).prod(1)
    return torch.softmax(mean, 0) - (weights / weights.sum()) @ torch.softmax(mean + points, 1)


@pytest.mark.guards("prop-softmax-any-covariance")
@pytest.mark.parametrize("correlation", [0.95, 1.0])
def test_the_predicted_class_is_lowered_where_the_others_move_together(correlation):
    """Chapter 3's example: class 1 is predicted and the least uncertain, and its noise is -0.022."""
    mean = torch.tensor([1.0, 0.9, 0.9], dtype=torch.float64)
    cov = torch.tensor([[0.05, 0, 0], [0, 1, correlation], [0, correlation, 1]], dtype=torch.float64)
    family = Categorical(3, num_points=1 << 12)
    value, error = family.expected_mean_with_error(mean[None], cov[None])
    noise, reference = (family.mean(mean[None]) - value)[0], tensor_noise(mean, cov, 40)
    assert bool(((noise - reference).abs() <= 5 * error[0]).all())
    assert float(noise[0]) < -0.02 and mean.argmax() == 0 and cov.diagonal().argmin() == 0
    if correlation == 1.0:  # the other two act as one class, which has more than half of the probability
        as_one = Bernoulli().label_noise(mean[0] - mean[1:].logsumexp(0), torch.tensor(1.05))
        assert float(reference[0]) == pytest.approx(float(as_one), rel=1e-6)
        likely = torch.tensor([3.0, 0.9, 0.9], dtype=torch.float64)  # more than half: on its side
        assert torch.softmax(likely, 0)[0] > 0.5 and tensor_noise(likely, cov)[0] > 0.01
    else:
        assert float(reference[0]) == pytest.approx(-0.0217, abs=5e-5)
        independent = tensor_noise(mean, torch.eye(3, dtype=torch.float64))
        assert independent[0] > 0  # with equal variances it is on the side of the prediction


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
    assert float((left - right).abs().max()) > 1e-2  # the theorem as stated fails
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
