"""A fixed variance, one variance for all weights, pair flips, and Table 1 (Chapter 10)."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import cross_entropy

from vlls import DiagonalPosterior
from vlls.data.corruption import corrupt, transition_matrix
from vlls.noise import label_noise_moments
from vlls.optim import IVON
from vlls.smoothing import smooth_labels
from vlls.train import RunConfig
from vlls.train._presets import hyperparameters
from vlls.train.methods import make_optimizer

LAMBDA = 50.0


# ---------------------------------------------------------------------- IVON with a fixed Hessian
def problem(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()
    return model, torch.randn(20, 4, dtype=torch.float64), torch.randint(3, (20,))


def ivon_steps(model, optimizer, x, y, lrs):
    """Train with IVON, a new batch each step, and return the noise that each step saw."""
    seen = []
    for t, lr in enumerate(lrs):
        optimizer.param_groups[0]["lr"] = lr
        means = [p.detach().clone() for p in model.parameters()]
        batch = slice(5 * (t % 4), 5 * (t % 4) + 5)
        with optimizer.sampled_params(train=True):
            seen.append([p.detach() - m for p, m in zip(model.parameters(), means, strict=True)])
            cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return seen


def sgd_steps(model, params, x, y, lrs, noise, *, beta1, decay, debias=True, scale=1.0):
    """Train with torch's SGD at the same noise; the decay is applied outside its buffer."""
    names = [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.SGD(params, 0.1, momentum=beta1)
    for t, lr in enumerate(lrs):
        batch = slice(5 * (t % 4), 5 * (t % 4) + 5)
        moved = {n: p + e for n, p, e in zip(names, params, noise[t], strict=True)}
        cross_entropy(torch.func.functional_call(model, moved, x[batch]), y[batch]).backward()
        with torch.no_grad():
            torch._foreach_mul_(params, 1 - scale * lr * decay)
        optimizer.param_groups[0]["lr"] = scale * lr * (1 - beta1) / (1 - beta1 ** (t + 1) if debias else 1)
        optimizer.step()
        optimizer.zero_grad()


def largest_gap(model, params):
    return max(float((p.detach() - q.detach()).abs().max()) for p, q in zip(model.parameters(), params, strict=True))


@pytest.mark.guards("prop-fixed-variance")
@pytest.mark.parametrize("h0", [0.05, 0.9, 30.0])
@pytest.mark.parametrize(("beta1", "decay"), [(0.9, 0.01), (0.9, 0.0), (0.0, 0.3), (0.5, 0.1)])
@pytest.mark.parametrize(("debias", "rescale_lr"), [(True, True), (False, True), (True, False)])
def test_ivon_with_a_fixed_hessian_is_sgd_with_momentum_on_the_same_draws(h0, beta1, decay, debias, rescale_lr):
    model, x, y = problem()
    params = [p.detach().clone().requires_grad_() for p in model.parameters()]
    options = {"debias": debias, "rescale_lr": rescale_lr}
    lrs = [0.03 * (1 - t / 60) for t in range(60)]
    optimizer = IVON(
        model.parameters(), 0.1, LAMBDA, hess_init=h0, beta1=beta1, beta2=1.0, weight_decay=decay, **options
    )
    noise = ivon_steps(model, optimizer, x, y, lrs)
    scale = 1.0 if rescale_lr else 1 / (h0 + decay)
    sgd_steps(model, params, x, y, lrs, noise, beta1=beta1, decay=decay, debias=debias, scale=scale)
    assert largest_gap(model, params) < 1e-12
    sigma = 1 / math.sqrt(LAMBDA * (h0 + decay))
    for std in optimizer.posterior(model).std.values():
        assert std.numpy() == pytest.approx(sigma, rel=1e-14)
    if beta1 and decay and rescale_lr:  # torch's own weight decay goes through the buffer
        other, x, y = problem()
        own = list(other.parameters())
        inside = torch.optim.SGD(own, 0.1, momentum=beta1, weight_decay=decay)
        names = [name for name, _ in other.named_parameters()]
        for t, lr in enumerate(lrs):
            batch = slice(5 * (t % 4), 5 * (t % 4) + 5)
            moved = {n: p + e for n, p, e in zip(names, own, noise[t], strict=True)}
            cross_entropy(torch.func.functional_call(other, moved, x[batch]), y[batch]).backward()
            inside.param_groups[0]["lr"] = scale * lr * (1 - beta1) / (1 - beta1 ** (t + 1) if debias else 1)
            inside.step()
            inside.zero_grad()
        assert largest_gap(model, own) > 1e-6


@pytest.mark.guards("prop-fixed-variance")
def test_the_method_ivon_fixed_does_not_depend_on_h0_but_for_sigma():
    means, stds = [], []
    for h0 in (0.1, 10.0):
        config = RunConfig(method="ivon_fixed", hess_init=h0, ess=1e30).resolved()  # so sharp that no noise is left
        torch.manual_seed(0)
        model = problem()[0].float()
        x, y = (value.float() if value.is_floating_point() else value for value in problem()[1:])
        optimizer = make_optimizer(config, model, 20)
        group = optimizer.param_groups[0]
        assert (group["beta2"], group["clip_radius"], group["rescale_lr"], group["debias"]) == (1, math.inf, True, True)
        ivon_steps(model, optimizer, x, y, [0.3] * 20)
        means.append([p.detach().clone() for p in model.parameters()])
        stds.append(float(next(iter(optimizer.posterior(model).std.values())).flatten()[0]))
    for first, second in zip(*means, strict=True):
        assert first.numpy() == pytest.approx(second.numpy(), rel=1e-4, abs=1e-5)
    decay = group["weight_decay"]
    assert stds[0] / stds[1] == pytest.approx(math.sqrt((10 + decay) / (0.1 + decay)), rel=1e-5)


@pytest.mark.guards("prop-fixed-variance")
def test_the_mean_gradient_is_that_of_the_smoothed_loss():
    number, h0, decay = 200_000, 0.4, 0.1
    start = torch.full((number,), 0.7, dtype=torch.float64)  # as many chains of one weight
    weight = torch.nn.Parameter(start.clone())
    optimizer = IVON(
        [weight], 1.0, 1.0, hess_init=h0, beta1=0.0, beta2=1.0, weight_decay=decay,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with optimizer.sampled_params(train=True):
        weight.cos().sum().backward()
    optimizer.step()
    gradient = start - weight.detach() - decay * start
    variance = 1 / (h0 + decay)
    smoothed = -math.exp(-variance / 2) * math.sin(0.7)  # E cos(m + σe) = exp(-σ²/2) cos m
    standard_error = float(gradient.std()) / number**0.5
    assert abs(float(gradient.mean()) - smoothed) < 4.5 * standard_error
    assert abs(smoothed + math.sin(0.7)) > 50 * standard_error  # not the gradient at the mean


@pytest.mark.guards("prop-fixed-variance")
@pytest.mark.parametrize("beta2", [0.9, 0.99, 1.0])
def test_the_start_of_the_hessian_keeps_its_share(beta2):
    weight = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    h0, decay, curvature = 2.0, 0.1, torch.tensor([0.0, 0.1, 1.0, 2.0, 5.0], dtype=torch.float64)
    optimizer = IVON([weight], 0.0, LAMBDA, hess_init=h0, beta2=beta2, weight_decay=decay)
    before, total = torch.full((5,), h0, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for _ in range(30):
        with optimizer.sampled_params(train=True):
            noise = weight.detach().clone()
            (0.5 * curvature * weight.square()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        estimate = curvature * noise.square() * LAMBDA * (before + decay)
        correction = 0.5 * (1 - beta2) ** 2 * (before - estimate).square() / (before + decay)
        assert (correction >= 0).all()
        total = beta2 * total + (1 - beta2) * estimate + correction
        before = optimizer.state[weight]["hess"].clone()
    assert before.numpy() == pytest.approx((beta2**30 * h0 + total).numpy(), rel=1e-12)


# ---------------------------------------------------------------------- one variance for all weights
@pytest.mark.guards("prop-one-variance")
def test_the_noise_of_eq_20_is_linear_in_sigma_and_the_exact_one_bounded():
    model, x, _ = problem()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    sizes = []
    for sigma in (1e-3, 0.1, 20.0):
        same = DiagonalPosterior(weights, {name: torch.full_like(p, sigma) for name, p in weights.items()})
        linear = label_noise_moments(model, same, x, linear=True).magnitude
        draws = {"num_samples": 400, "generator": torch.Generator().manual_seed(1)}
        exact = label_noise_moments(model, same, x, method="monte_carlo", **draws)
        sizes.append(linear)
        assert linear.numpy() == pytest.approx((sigma / 1e-3 * sizes[0]).numpy(), rel=1e-10)
        assert float(exact.magnitude.max()) <= math.sqrt(2)
        if sigma == 1e-3:
            assert float(((exact.magnitude - linear) / exact.magnitude_error).abs().max()) < 4.5
    assert float(sizes[-1].min()) > math.sqrt(2)  # Eq. 20 goes beyond the bound
    uneven = {name: 1e-3 * torch.rand_like(p) ** 3 for name, p in weights.items()}
    other = label_noise_moments(model, DiagonalPosterior(weights, uneven), x, linear=True).magnitude
    ratio = other / sizes[0]
    assert float(ratio.max() / ratio.min()) > 1.1  # unequal variances change the examples' ratios


def quadratic(seed=0, number=400, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    curvature = (spread * torch.randn(number, generator=generator, dtype=torch.float64) - 2).exp()
    curvature[:20] = 0.0 if spread else curvature[0]
    return curvature, 0.01


def objective(variances, curvature, decay):
    """Return the variational objective divided by λ, at the mean 0 of a quadratic loss that is 0 there."""
    prior = Normal(0.0, torch.tensor(1 / (LAMBDA * decay), dtype=torch.float64).sqrt())
    divergence = kl_divergence(Normal(torch.zeros_like(variances), variances.sqrt()), prior).sum()
    return float((variances * curvature).sum() / 2 + divergence / LAMBDA)


@pytest.mark.guards("prop-one-variance")
@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_the_best_fixed_variance_falls_short_by_the_ratio_of_means(spread):
    curvature, decay = quadratic(spread=spread)
    learned = 1 / (LAMBDA * (curvature + decay))
    mean = float(curvature.mean())
    fixed = torch.full_like(curvature, 1 / (LAMBDA * (mean + decay)))
    least, best = objective(learned, curvature, decay), objective(fixed, curvature, decay)
    gap = float(((mean + decay) / (curvature + decay)).log().sum() / (2 * LAMBDA))
    assert best - least == pytest.approx(gap, abs=1e-12)
    assert gap > 0.1 if spread else gap == pytest.approx(0, abs=1e-12)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert objective(factor * fixed, curvature, decay) > best
        one = learned.clone()
        one[-1] *= factor
        assert objective(one, curvature, decay) > least


@pytest.mark.guards("prop-one-variance")
def test_a_learned_variance_costs_each_weight_a_bounded_loss():
    curvature, decay = quadratic(number=50)
    curvature = torch.cat([curvature, torch.tensor([1e3, 1e6], dtype=torch.float64)])
    learned = 1 / (LAMBDA * (curvature + decay))
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(20_000, len(curvature), generator=generator, dtype=torch.float64)
    costs = curvature * learned * e.square() / 2
    expected = curvature / (2 * LAMBDA * (curvature + decay))
    assert (expected <= 1 / (2 * LAMBDA)).all()
    off = (costs.mean(0) - expected).abs() / (costs.std(0) / len(e) ** 0.5).clamp_min(1e-30)
    assert float(off[curvature > 0].max()) < 4.5
    fixed = float(learned.mean()) * curvature / 2  # the cost of a single variance
    assert float(fixed.max()) > 1e3 / (2 * LAMBDA)


# ---------------------------------------------------------------------- pair flips
@pytest.mark.guards("prop-pair-flips")
@pytest.mark.parametrize("k", [3, 10, 100])
@pytest.mark.parametrize("rate", [0.2, 0.45, 0.55])
def test_a_certain_class_is_lost_at_one_half(k, rate):
    matrix = torch.tensor(transition_matrix("pair_flip", k, rate))
    lead = matrix.diagonal() - matrix[torch.arange(k), (torch.arange(k) + 1) % k]
    assert lead.numpy() == pytest.approx(1 - 2 * rate, abs=1e-14)
    assert (matrix.argmax(1) == torch.arange(k)).all() == (rate < 0.5)
    even = torch.tensor(transition_matrix("symmetric", k, rate))
    assert float(even[0, 0] - even[0, 1]) == pytest.approx(1 - rate * k / (k - 1), abs=1e-14)
    # the last class is followed by the first
    drawn = corrupt([k - 1] * 20_000, "pair_flip", rate=rate, num_classes=k, seed=0)
    share = float((drawn == 0).mean())
    assert abs(share - rate) < 4.5 * math.sqrt(rate * (1 - rate) / 20_000)
    assert set(drawn.tolist()) == {0, k - 1}


@pytest.mark.guards("prop-pair-flips")
@pytest.mark.parametrize("k", [3, 10])
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4, 0.49])
def test_in_doubt_with_the_next_class_the_threshold_is_lower(k, rate):
    matrix = torch.tensor(transition_matrix("pair_flip", k, rate))
    threshold = (1 - rate) / (2 - 3 * rate)
    assert 0.5 < threshold < 1
    for p in (0.501, threshold - 1e-6, threshold + 1e-6, 0.999):
        after, before = torch.zeros(2, 1, k, dtype=torch.float64)
        after[0, 1], after[0, 2] = p, 1 - p
        before[0, 1], before[0, 0] = p, 1 - p
        for smoothing in (0.0, 0.5, 0.9):
            assert int(smooth_labels(after @ matrix, smoothing).argmax()) == (2 if p < threshold else 1)
            assert int(smooth_labels(before @ matrix, smoothing).argmax()) == 1


# ---------------------------------------------------------------------- Table 1
@pytest.mark.parametrize(
    ("corruption", "rate", "column"),
    [
        ("symmetric", 0.2, (2e-4, 0.1, 0.05, 0.8, 0.2)),
        ("symmetric", 0.4, (2e-4, 0.1, 0.1, 0.8, 0.2)),
        ("pair_flip", 0.2, (5e-4, 0.1, 0.1, 0.5, 0.5)),
    ],
)
def test_presets_are_table_1(corruption, rate, column):
    ls, sam, ivon = (hyperparameters("cifar100", name, corruption, rate) for name in ("ls", "sam", "ivon"))
    assert (ls["weight_decay"], ls["lr"], sam["lr"], ivon["lr"], ivon["hess_init"]) == column
    assert ls["weight_decay"] == sam["weight_decay"] == ivon["weight_decay"]
