"""Chapter 5's claims about IVON: its Hessian estimate, positivity, fixed point, squared gradients, and Theorem 1."""

import itertools
import math

import numpy as np
import pytest
import sympy as sp
import torch
from sklearn.datasets import load_breast_cancer

from vlls import GLM, IVON, Bernoulli, GaussianPosterior, Ridge, variational_gd_step
from vlls.optim.alg1 import hess_estimate, ivon_update, sample_statistic

N = 569
DELTA = 1 / N  # ess * weight_decay = 1, the ridge of the GLM


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def patients():
    data = load_breast_cancer()
    table = data.data[:, [0, 1, 4, 6]]  # radius, texture, smoothness and concavity
    x = np.c_[(table - table.mean(0)) / table.std(0), np.ones(N)]
    return GLM(Bernoulli(), x, data.target)


def diagonal(m, h):
    return GaussianPosterior(m, precision=torch.diag(N * (h + DELTA)))


@pytest.fixture(scope="module")
def diagonal_von(patients):
    """Return mean and Hessian of diagonal VON's fixed point, by quadrature."""
    m, h = torch.zeros(5, dtype=torch.float64), torch.full((5,), 0.1, dtype=torch.float64)
    for _ in range(60):
        q = diagonal(m, h)
        hessian = patients.expected_hessian(q)
        m = m - torch.linalg.solve(hessian, patients.expected_gradient(q))
        h = hessian.diagonal() / N - DELTA
    assert patients.expected_gradient(diagonal(m, h)).abs().max() < 1e-10
    return m, h


def gradients(glm, theta, batch, g):
    """Return the mean loss's gradient at each row of theta, each on its own minibatch, drawn without replacement."""
    if batch == N:
        return ((theta @ glm.features.T).sigmoid() - glm.targets) @ glm.features / N
    rows = torch.rand(len(theta), N, generator=g).topk(batch).indices
    residual = torch.einsum("sbp,sp->sb", glm.features[rows], theta).sigmoid() - glm.targets[rows]
    return torch.einsum("sb,sbp->sp", residual, glm.features[rows]) / batch


def errors(samples, expected=0.0):
    """Return the distance of the samples' mean from the expected one, in standard errors."""
    return (samples.mean(0) - expected) / (samples.std(0) / math.sqrt(len(samples)))


def run(glm, steps, batch=N, chains=16, seed=0, **options):
    """Return mean and Hessian of independent chains of IVON, averaged over the second half."""
    given = {"ess": N, "hess_init": 0.1, "beta2": 0.998, "weight_decay": DELTA, "rescale_lr": False, **options}
    g = generator(seed)
    theta = torch.zeros(chains, 5, dtype=torch.float64, requires_grad=True)
    optimizer, tail = IVON([theta], 0.2, generator=g, **given), []
    for step in range(steps):
        if 4 * step >= steps:
            optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / steps)
        with optimizer.sampled_params(train=True):
            theta.grad = gradients(glm, theta.detach(), batch, g)
        optimizer.step()
        if 2 * step >= steps:
            tail.append(torch.stack([theta.detach().clone(), optimizer.state[theta]["hess"].clone()]))
    return torch.stack(tail).mean(0)


# ------------------------------------------------------------------ line 3
@pytest.mark.guards("lem-ivon-hessian")
@pytest.mark.parametrize("batch", [N, 16])
def test_one_estimate_has_the_hessian_as_its_expectation(patients, batch):
    """Away from the optimum and with unequal variances; the right side by quadrature."""
    m = torch.tensor([-1.0, 0.5, 0.0, -2.0, 1.0], dtype=torch.float64)
    q = GaussianPosterior(m, torch.diag(torch.tensor([0.3, 0.05, 1.0, 0.1, 0.6], dtype=torch.float64)))
    g = generator()
    theta = q.sample(10_000, generator=g)
    h_hat = gradients(patients, theta, batch, g) * (theta - m) / q.variance
    expected = (patients.expected_hessian(q).diagonal() - 1) / N
    assert errors(h_hat, expected).abs().max() < 4
    if batch == N:  # a wrong power of sigma would fail
        assert errors(h_hat * q.variance.sqrt(), expected).abs().max() > 20


@pytest.mark.guards("lem-ivon-hessian")
def test_the_optimizer_forms_line_3():
    """At beta2 = 0 the new Hessian is the estimate plus half its squared distance over h + delta."""
    theta = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = IVON([theta], 0.1, 50, hess_init=0.3, beta2=0.0, weight_decay=0.01, generator=generator())
    with optimizer.sampled_params(train=True):
        noise = theta.detach().clone()
        theta.grad = torch.linspace(-1, 1, 5, dtype=torch.float64)
    optimizer.step()
    h_hat = torch.linspace(-1, 1, 5, dtype=torch.float64) * noise * 50 * 0.31
    expected = h_hat + 0.5 * (0.3 - h_hat) ** 2 / 0.31
    assert (optimizer.state[theta]["hess"] - expected).abs().max() < 1e-13


@pytest.mark.guards("prop-ivon-hessian-variance")
def test_the_variance_of_one_estimate_on_a_quadratic_loss():
    g = generator()
    root = torch.randn(4, 4, dtype=torch.float64, generator=g)
    hessian, slope = root @ root.T, torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=torch.float64)
    sigma = torch.tensor([0.2, 0.5, 1.0, 0.7], dtype=torch.float64)
    noise = torch.tensor([0.5, 0.0, 1.0, 2.0], dtype=torch.float64)  # std of the gradient noise
    e, r = (torch.randn(400_000, 4, dtype=torch.float64, generator=g) for _ in range(2))
    h_hat = (slope + noise * r + (e * sigma) @ hessian) * e / sigma
    cross = (hessian.square() * sigma.square()).sum(1) / sigma.square() - hessian.diagonal().square()
    expected = (slope.square() + noise.square()) / sigma.square() + 2 * hessian.diagonal().square() + cross
    deviation = (h_hat - hessian.diagonal()).square()
    assert errors(deviation, expected).abs().max() < 4
    for part in (slope.square() / sigma.square(), noise.square() / sigma.square(), cross):  # none can be left out
        assert errors(deviation, expected - part).abs().max() > 10


# ------------------------------------------------------------------ line 5
@pytest.mark.guards("lem-ivon-positivity")
@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.9, 0.99999, 1.0])
def test_the_precision_at_most_halves_whatever_the_estimate(beta2):
    h = torch.logspace(-6, 3, 40, dtype=torch.float64)[:, None].expand(-1, 2001)
    wild = (
        torch.cat([-torch.logspace(-6, 8, 1000), torch.zeros(1), torch.logspace(-6, 8, 1000)]).double().expand(40, -1)
    )
    worst = h - (h + 1e-4) / max(1 - beta2, 1e-3)  # z = -1
    zero = torch.zeros_like(h)
    for h_hat in (wild, worst):
        _, _, new = ivon_update(zero, zero, h, zero, h_hat, lr=0.1, beta1=0.9, beta2=beta2, weight_decay=1e-4)
        z = (1 - beta2) * (h_hat - h) / (h + 1e-4)
        factor = (new + 1e-4) / (h + 1e-4)
        claimed = 0.5 + 0.5 * (1 + z) ** 2
        assert ((factor - claimed).abs() <= 1e-9 * claimed).all()
        assert factor.min() >= 0.5 - 1e-9
    if beta2 < 1 - 1e-3:
        assert factor.max() < 0.5 + 1e-9  # attained


# ------------------------------------------------------------------ the fixed point
def rest(beta2, chains=1000, slope=0.1, noise=0.1, ess=100, delta=1e-3, curvature=0.1):
    """Return each chain's tail averages of h and of its second-order term, on a quadratic with the mean fixed at 0."""
    g = generator()
    theta = torch.zeros(chains, dtype=torch.float64, requires_grad=True)
    optimizer = IVON([theta], 0.0, ess, hess_init=curvature, beta2=beta2, weight_decay=delta, generator=g)
    h, tail, length = torch.full((chains,), curvature, dtype=torch.float64), [], int(12 / (1 - beta2))
    for step in range(length):
        with optimizer.sampled_params(train=True):
            deviation = theta.detach().clone()
            r = noise * torch.randn(chains, dtype=torch.float64, generator=g)
            theta.grad = slope + r + curvature * deviation
        h_hat = theta.grad * deviation * ess * (h + delta)
        if 2 * step >= length:
            tail.append(torch.stack([h, 0.5 * (1 - beta2) * (h - h_hat) ** 2 / (h + delta)]))
        optimizer.step()
        h = optimizer.state[theta]["hess"].clone()
    return torch.stack(tail).mean(0)


@pytest.mark.guards("prop-ivon-fixed-point")
@pytest.mark.parametrize("beta2", [0.8, 0.95])
def test_the_hessian_at_rest_balances_its_second_order_term(beta2):
    h, extra = rest(beta2)
    assert errors(h - 0.1 - extra).abs() < 4
    assert errors(h - 0.1) > 10  # biased upwards


@pytest.mark.slow
@pytest.mark.guards("prop-ivon-fixed-point")
def test_the_bias_has_the_limit_of_the_proposition():
    """The gradient, its noise and the curvature each contribute; the first two are switched off in turn."""
    for slope, noise in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.2)):
        h, _ = rest(0.99, slope=slope, noise=noise, chains=2000)
        limit = 0.5 * (100 * (slope**2 + noise**2) + 2 * 0.1**2 / 0.101)
        bias, error = (float(f) for f in ((h - 0.1).mean() / 0.01, h.std() / math.sqrt(len(h)) / 0.01))
        assert abs(bias - limit) < 4 * error + 0.03 * limit  # 3 %: the distance of beta2 = 0.99 from the limit


@pytest.mark.slow
def test_ivon_ends_at_diagonal_von(patients, diagonal_von):
    """Means within sampling error, standard deviations within 3 %, and neither is full VON's."""
    m, h = diagonal_von
    means, hessians = run(patients, 3000, hess_init=0.03)
    assert errors(means, m).abs().max() < 4
    assert ((means.mean(0) - m) / diagonal(m, h).variance.sqrt()).abs().max() < 0.03
    ratio = ((hessians.mean(0) + DELTA) / (h + DELTA)).rsqrt()
    assert (ratio - 1).abs().max() < 0.03


# ------------------------------------------------------------------ squared gradients
@pytest.mark.guards("prop-ivon-gradsq")
def test_the_second_moment_of_a_minibatch_gradient():
    """All batches of five examples, exactly; then expectations over q on a quadratic loss."""
    a = sp.symbols("a1:6", real=True)
    for batch in range(1, 6):
        batches = list(itertools.combinations(a, batch))
        moment = sum((sum(b) / sp.Integer(batch)) ** 2 for b in batches) / len(batches)
        c = sp.Rational(5 - batch, batch * 4)
        mean = sum(a) / 5
        assert sp.expand(moment - c * sum(g**2 for g in a) / 5 - (1 - c) * mean**2) == 0
    g = generator()
    root = torch.randn(3, 3, dtype=torch.float64, generator=g)
    hessian, slope = root @ root.T, torch.tensor([0.3, 0.0, -1.0], dtype=torch.float64)
    sigma = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    gradient = slope + (sigma * torch.randn(50_000, 3, dtype=torch.float64, generator=g)) @ hessian
    expected = slope.square() + hessian.square() @ sigma.square()
    assert errors(gradient.square(), expected).abs().max() < 4


@pytest.mark.guards("prop-ivon-gradsq")
def test_the_factor_is_the_batch_size():
    """In a linear model with orthogonal features whose noise has variance one: F = h, and E[g²] = h / B."""
    b, n = sp.symbols("B N", positive=True)
    c = (n - b) / (b * (n - 1))
    assert sp.simplify(c + (1 - c) / n - 1 / b) == 0
    g = generator()
    draws, n, h = 20_000, 8, 1.0  # loss (f - y)²/2 with one feature that is 1: every gradient is theta - y_i
    y = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1], dtype=torch.float64) * math.sqrt(1 - 1 / n)  # E_q[F] = 1 = h
    theta = torch.randn(draws, dtype=torch.float64, generator=g) / math.sqrt(n * h)
    for batch in (1, 2, 4, 8):
        rows = torch.rand(draws, n, generator=g).argsort(1)[:, :batch]
        gradient = (theta[:, None] - y[rows]).mean(1)
        statistic = sample_statistic(gradient, theta, hess_approx="gradsq")
        assert errors(batch * statistic, h).abs() < 4
        found = hess_estimate(statistic, torch.ones(1).double(), ess=n, weight_decay=0.0, hess_approx="gradsq")
        assert errors(found, n / batch * h).abs() < 4  # the package's estimate: N / B times too large
        price = hess_estimate(gradient * theta, torch.ones(1).double(), ess=n, weight_decay=0.0, hess_approx="price")
        assert errors(price, h).abs() < 4


@pytest.mark.slow
@pytest.mark.guards("prop-ivon-gradsq")
def test_gradsq_with_ess_makes_the_posterior_too_narrow(patients, diagonal_von):
    """By about sqrt(B/N); ess = sqrt(N B), as advised, restores the width. Labels are drawn from the model."""
    m, _ = diagonal_von
    coin = torch.rand(N, dtype=torch.float64, generator=generator())
    glm = GLM(Bernoulli(), patients.features, (coin < (patients.features @ m).sigmoid()).double())
    q = GaussianPosterior(m, covariance=0.01)
    scale = ((glm.expected_hessian(q).diagonal() - 1) / N).rsqrt()  # rough width times sqrt(N)
    for ess, expected in ((N, math.sqrt(32 / N)), (math.sqrt(N * 32), 1.0)):
        hessian = run(glm, 1500, batch=32, chains=4, ess=ess, hess_approx="gradsq")[1].mean(0)
        width = (ess * (hessian + DELTA)).rsqrt() / (scale / math.sqrt(N))
        assert 0.7 * expected < width.median() < 1.4 * expected


# ------------------------------------------------------------------ beta2 = 1
@pytest.mark.guards("prop-ivon-fixed-covariance")
@pytest.mark.parametrize("batch", [N, 16])
@pytest.mark.parametrize("ridge", [1.0, 0.2])
def test_a_fixed_covariance_is_variational_gradient_descent(patients, batch, ridge):
    glm = GLM(Bernoulli(), patients.features, patients.targets, regularizer=Ridge(ridge))
    variance, start, g = 0.5, torch.linspace(-1, 1, 5, dtype=torch.float64), generator()
    q = GaussianPosterior(start, covariance=variance)
    target = variational_gd_step(glm, q, lr=0.3 / N).mean
    count = 20_000 if batch == N else 8_000
    theta = start.repeat(count, 1).requires_grad_()
    options = {"ess": N, "weight_decay": ridge / N, "hess_init": 1 / (N * variance) - ridge / N}
    optimizer = IVON([theta], 0.3, beta1=0.0, beta2=1.0, generator=g, **options)
    with optimizer.sampled_params(train=True):
        theta.grad = gradients(glm, theta.detach(), batch, g)
    optimizer.step()
    assert (optimizer.state[theta]["hess"] == options["hess_init"]).all()
    assert errors(theta.detach(), target).abs().max() < 4
    if batch == N:  # gradient descent at the mean, without the label noise, is somewhere else
        plain = start - 0.3 / N * glm.gradient(start)
        assert errors(theta.detach(), plain).abs().max() > 20
