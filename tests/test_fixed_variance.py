"""IVON with a Hessian that is held fixed, and what learning it can add; guards Chapter 10."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

from vlls import IVON

DOUBLE = torch.float64
ESS, H0, DECAY, LR, BETA1 = 400.0, 0.2, 0.03, 0.1, 0.8
SIGMA = (ESS * (H0 + DECAY)) ** -0.5


def start(size=40):
    """A parameter, and a smooth function of it whose gradient depends on where it is taken."""
    matrix = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    p = torch.nn.Parameter(matrix.flip(0).clone())
    return p, lambda weights: (matrix * weights + 0.1 * weights**3).sin().sum()


def ivon(p, beta2=1.0, seed=1, **options):
    generator = torch.Generator().manual_seed(seed)
    given = {"hess_init": H0, "weight_decay": DECAY, "beta1": BETA1, **options}
    return IVON([p], LR, ESS, beta2=beta2, generator=generator, **given)


def train(optimizer, p, loss, steps):
    for _ in range(steps):
        optimizer.step(lambda: (optimizer.zero_grad(), loss(p).backward()))


@pytest.mark.guards("prop-fixed-variance")
def test_with_beta2_one_ivon_is_sgd_on_the_smoothed_loss():
    """Plain momentum and decoupled weight decay, written out, at the same draws; a Hessian that moves is another."""
    steps = 150
    ends = {}
    for beta2 in (1.0, 0.999):
        p, loss = start()
        optimizer = ivon(p, beta2)
        train(optimizer, p, loss, steps)
        ends[beta2] = p.detach()
        assert bool((optimizer.state[p]["hess"] == H0).all()) == (beta2 == 1.0)
    w, average = start()[0].detach(), 0.0
    draws = torch.Generator().manual_seed(1)
    for t in range(1, steps + 1):
        at = (w + SIGMA * torch.randn(len(w), generator=draws, dtype=DOUBLE)).requires_grad_()
        average = BETA1 * average + (1 - BETA1) * torch.autograd.grad(loss(at), at)[0]
        w = (1 - LR * DECAY) * w - LR / (1 - BETA1**t) * average
    assert float((ends[1.0] - w).abs().max()) < 1e-12 < 1e-4 < float((ends[0.999] - w).abs().max())


@pytest.mark.guards("prop-fixed-variance")
def test_h0_enters_through_the_standard_deviation_alone():
    """Two settings with one sigma take the same steps; two with the same h0 and another sigma do not."""
    ends = []
    for ess, h0 in ((ESS, H0), (ESS / 4, 4 * (H0 + DECAY) - DECAY), (ESS / 4, H0)):
        p, loss = start()
        optimizer = IVON(
            [p], LR, ess, hess_init=h0, weight_decay=DECAY, beta2=1.0, generator=torch.Generator().manual_seed(1)
        )
        train(optimizer, p, loss, 50)
        ends.append(p.detach())
    assert float((ends[0] - ends[1]).abs().max()) < 1e-12 < 1e-3 < float((ends[0] - ends[2]).abs().max())


@pytest.mark.guards("prop-fixed-variance")
def test_the_mean_gradient_is_that_of_the_smoothed_loss():
    """Of sin(a m) the smoothed gradient is a exp(-a²σ²/2) cos(a m); draws agree within four standard errors."""
    a, m, sigma = torch.tensor([0.5, 2.0, 6.0], dtype=DOUBLE), 0.7, 0.4
    at = (
        m + sigma * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    ).requires_grad_()
    gradients = torch.autograd.grad((a * at).sin().sum(), at)[0]
    expected = a * (-((a * sigma) ** 2) / 2).exp() * (a * m).cos()
    errors = gradients.std(0) / len(gradients) ** 0.5
    assert bool(((gradients.mean(0) - expected).abs() < 4 * errors).all())
    assert float((expected - a * (a * m).cos()).abs()[2] / errors[2]) > 20  # it is not that of the loss


@pytest.mark.guards("prop-fixed-variance")
def test_it_rests_where_the_elbo_is_stationary():
    """A quartic in one weight: the smoothed loss is known, and the mean of a long run lies at its optimum."""
    shift, sigma = 1.5, SIGMA
    stationary = minimize_scalar(
        # E[(m + σe - s)^4] = (m-s)^4 + 6 (m-s)² σ² + 3 σ^4, and the prior's square
        lambda m: ((m - shift) ** 4 + 6 * (m - shift) ** 2 * sigma**2) / 4 + DECAY * m**2 / 2,
        bounds=(0, 3),
        method="bounded",
        options={"xatol": 1e-10},
    ).x
    copies = 4000
    p = torch.nn.Parameter(torch.full((copies,), 1.0, dtype=DOUBLE))
    optimizer = IVON([p], 0.02, ESS, hess_init=H0, weight_decay=DECAY, beta2=1.0, beta1=0.0,
                     generator=torch.Generator().manual_seed(1))  # fmt: skip
    train(optimizer, p, lambda w: ((w - shift) ** 4).sum() / 4, 1500)
    means = torch.zeros_like(p)
    for _ in range(500):
        train(optimizer, p, lambda w: ((w - shift) ** 4).sum() / 4, 1)
        means += p.detach() / 500
    error = float(means.std() / copies**0.5)
    unsmoothed = minimize_scalar(lambda m: (m - shift) ** 4 / 4 + DECAY * m**2 / 2, bounds=(0, 3), method="bounded").x
    assert abs(float(means.mean()) - stationary) < 0.005 and error < 0.001
    assert abs(unsmoothed - stationary) > 0.01


@pytest.mark.guards("prop-one-variance")
@pytest.mark.parametrize("seed", range(3))
def test_the_price_of_one_variance(seed):
    """Both optima found numerically, for a Hessian with off-diagonal entries, against the formulas."""
    random = np.random.default_rng(seed)
    size, delta, ess = 5, 0.05, 30.0
    root = random.normal(size=(size, size))
    hessian = root @ root.T
    c = np.diag(hessian)

    def negative_elbo(log_variances):
        v = np.exp(log_variances)
        expected_loss = np.trace(hessian @ np.diag(v)) / 2
        return ess * expected_loss + ess * delta * v.sum() / 2 - log_variances.sum() / 2

    own = minimize(negative_elbo, np.zeros(size), tol=1e-12)
    one = minimize_scalar(lambda x: negative_elbo(np.full(size, x)), tol=1e-12)
    assert np.exp(own.x) == pytest.approx(1 / (ess * (c + delta)), rel=1e-4)
    assert np.exp(one.x) == pytest.approx(1 / (ess * (c.mean() + delta)), rel=1e-4)
    price = np.log((c.mean() + delta) / (c + delta)).sum() / 2
    assert one.fun - own.fun == pytest.approx(price, abs=1e-6) and price > 0.1


@pytest.mark.guards("prop-one-variance")
@pytest.mark.parametrize("beta2", [0.999, 1 - 1e-5])
def test_what_is_left_of_the_start(beta2):
    """Hessians whose starts differ by one differ by beta2^T after T steps with the same estimates."""
    steps, hessians = 50, []
    for h0 in (H0, H0 + 1.0):
        p = torch.nn.Parameter(torch.zeros(6, dtype=DOUBLE))
        optimizer = ivon(p, beta2, hess_init=h0, hess_approx="gradsq")  # estimates that do not depend on sigma
        train(optimizer, p, lambda w: (w * torch.linspace(0, 0.01, 6, dtype=DOUBLE)).sum(), steps)
        hessians.append(optimizer.state[p]["hess"])
    left_out = 2 * steps * (1 - beta2) ** 2  # of line 5: at most (1 - beta2)² (h - ĥ)² / (h + delta) / 2 a step
    assert (hessians[1] - hessians[0]).numpy() == pytest.approx(np.full(6, beta2**steps), rel=0, abs=left_out)
    assert 1 - beta2**steps > 10 * left_out
