"""The claims of Chapter 6: Eq. 20, its moments, their layers, and the label noise of SAM."""

import pytest
import torch
from cases import jacobian, vector
from torch import nn
from torch.func import functional_call, hessian, jacrev

from vlls import Bernoulli, Categorical, DiagonalPosterior
from vlls.noise import label_noise_moments, logit_covariance, sam_label_noise

CATEGORICAL = Categorical(3)


def network(outputs=3, seed=0):
    """Return a smooth network in float64, its posterior, and its inputs and labels."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs)).double()
    mean = {name: p.detach().clone() for name, p in model.named_parameters()}
    std = {name: 0.05 + 0.1 * torch.rand_like(p) for name, p in mean.items()}
    return model, mean, std, torch.randn(5, 4, dtype=torch.float64), torch.randint(0, outputs, (5,))


def draw(mean, std, scale, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {n: scale * std[n] * torch.randn(std[n].shape, dtype=torch.float64, generator=generator) for n in mean}


@pytest.mark.guards("prop-two-noises")
def test_a_gradient_at_a_draw_is_label_noise_plus_feature_noise():
    """The split is exact at any width; the left side is autograd's gradient of the cross-entropy."""
    model, mean, std, x, labels = network()
    y = nn.functional.one_hot(labels, 3).double()
    for scale in (0.1, 1.0, 10.0):
        weights = {name: mean[name] + step for name, step in draw(mean, std, scale).items()}
        f, moved = functional_call(model, mean, (x,)), functional_call(model, weights, (x,))
        at_mean, at_draw = jacobian(model, mean, x), jacobian(model, weights, x)
        noise = f.softmax(1) - moved.softmax(1)
        label = (at_mean.mT @ (f.softmax(1) - (y + noise))[..., None])[..., 0]
        feature = ((at_draw - at_mean).mT @ (moved.softmax(1) - y)[..., None])[..., 0]
        for i in range(len(x)):
            grown = {name: w.clone().requires_grad_() for name, w in weights.items()}
            loss = nn.functional.cross_entropy(functional_call(model, grown, (x[i : i + 1],)), labels[i : i + 1])
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(grown.values()))])
            assert float((gradient - label[i] - feature[i]).abs().max()) < 1e-13


@pytest.mark.guards("prop-two-noises")
def test_eq_20_is_the_first_order():
    """Both first-order terms have errors that fall by four as the step is halved, and are of the same order."""
    model, mean, std, x, labels = network()
    y = nn.functional.one_hot(labels, 3).double()
    f, at_mean = functional_call(model, mean, (x,)), jacobian(model, mean, x)
    errors, sizes = [], []
    for scale in (0.02, 0.01):
        step = draw(mean, std, scale)
        weights = {name: mean[name] + step[name] for name in mean}
        moved = functional_call(model, weights, (x,))
        noise = f.softmax(1) - moved.softmax(1)
        eq20 = -(CATEGORICAL.curvature(f) @ (at_mean @ vector(step))[..., None])[..., 0]
        feature = ((jacobian(model, weights, x) - at_mean).mT @ (moved.softmax(1) - y)[..., None])[..., 0]
        second = torch.zeros_like(feature)
        for k in range(3):
            blocks = hessian(lambda w, k=k: functional_call(model, w, (x,))[:, k])(mean)
            rows = [
                sum(blocks[a][b].reshape(len(x), mean[a].numel(), -1) @ step[b].flatten() for b in mean) for a in mean
            ]
            second += torch.cat(rows, 1) * (f.softmax(1) - y)[:, k : k + 1]
        errors.append([float((noise - eq20).abs().max()), float((feature - second).abs().max())])
        sizes.append([float(noise.norm()), float(feature.norm())])
    for i in range(2):
        assert errors[0][i] / errors[1][i] == pytest.approx(4, rel=0.1)
        assert sizes[0][i] / sizes[1][i] == pytest.approx(2, rel=0.05)
        assert sizes[1][i] > 0


@pytest.mark.slow
@pytest.mark.guards("prop-noise-moments")
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_moments_to_second_order(outputs):
    """Both formulas against antithetic draws of the weights, within standard errors, at a small s^4."""
    model, mean, std, x, _ = network(outputs)
    family = Bernoulli() if outputs == 1 else CATEGORICAL
    scale = 0.05
    small = {name: scale * sigma for name, sigma in std.items()}
    f, rows = functional_call(model, mean, (x,)), jacobian(model, mean, x)
    variance = vector(small).square()
    v = rows * variance @ rows.mT
    bend = family.curvature(f)
    bend = bend if outputs > 1 else torch.diag_embed(bend)
    third = torch.stack([hessian(lambda t, k=k: family.mean(t)[k])(logits) for logits in f for k in range(outputs)])
    third = third.reshape(len(x), outputs, outputs, outputs)
    trace = torch.zeros_like(f)
    for name in mean:
        own = hessian(lambda w, name=name: functional_call(model, {**mean, name: w}, (x,)))(mean[name])
        size = mean[name].numel()
        trace += own.reshape(len(x), outputs, size, size).diagonal(dim1=2, dim2=3) @ small[name].flatten().square()
    shift = -0.5 * (torch.einsum("bkij,bij->bk", third, v) + (bend @ trace[..., None])[..., 0])
    only_label = -0.5 * torch.einsum("bkij,bij->bk", third, v)
    found = label_noise_moments(
        model,
        DiagonalPosterior(mean, small),
        x,
        method="monte_carlo",
        family=family,
        num_samples=8000,
        antithetic=True,
        generator=torch.Generator().manual_seed(0),
    )
    t = (found.mean_shift - shift) / found.standard_error
    assert float(t.abs().max()) < 4
    assert float(((found.mean_shift - only_label) / found.standard_error).abs().max()) > 20  # the part that is missed
    linear = bend @ v @ bend
    spread = found.covariance.diagonal(dim1=1, dim2=2) / linear.diagonal(dim1=1, dim2=2)
    assert float((spread - 1).abs().max()) < 5 * (2 / 4000) ** 0.5  # of a variance over 4000 pairs


@pytest.mark.guards("prop-layerwise")
def test_layerwise_covariance():
    """Both forms of the proposition and the package against per-example Jacobians; layers add up."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)).double()
    x = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    mean = {name: p.detach() for name, p in model.named_parameters()}
    std = {name: torch.rand_like(p) for name, p in mean.items()}
    rows = jacobian(model, mean, x) * vector(std)
    reference = rows @ rows.mT
    assert float((logit_covariance(model, DiagonalPosterior(mean, std), x) - reference).abs().max()) < 1e-12
    parts = 0
    for layer in ("0", "3"):
        own = [name for name in mean if name.startswith(layer)]
        parts = parts + logit_covariance(model, DiagonalPosterior(*({n: d[n] for n in own} for d in (mean, std))), x)
    assert float((parts - reference).abs().max()) < 1e-12
    u = nn.functional.unfold(x, 2)  # (B, J, T)
    z = model[0](x).detach()
    model.requires_grad_(False)
    g = torch.stack([jacrev(lambda a: model[1:](a[None])[0])(one) for one in z]).flatten(3)  # (B, K, O, T)
    var = std["0.weight"].flatten(1) ** 2
    by_weight = torch.einsum("oj,bkoj,bloj->bkl", var, *(2 * [torch.einsum("bkot,bjt->bkoj", g, u)]))
    m = torch.einsum("oj,bjt,bjs->bots", var, u, u)
    by_position = torch.einsum("bkot,blos,bots->bkl", g, g, m)
    bias = torch.einsum("o,bko,blo->bkl", std["0.bias"] ** 2, g.sum(-1), g.sum(-1))
    own = DiagonalPosterior(*({n: d[n] for n in ("0.weight", "0.bias")} for d in (mean, std)))
    package = logit_covariance(model, own, x)
    assert float((by_weight + bias - package).abs().max()) < 1e-12
    assert float((by_position + bias - package).abs().max()) < 1e-12


@pytest.mark.guards("prop-sam-noise")
@pytest.mark.parametrize("outputs", [1, 3])
def test_sam_noise_of_one_example(outputs):
    """The formula against SAM's own steps, one example at a time: the error falls by four as rho is halved."""
    model, mean, _, x, labels = network(outputs)
    family = Bernoulli() if outputs == 1 else CATEGORICAL
    labels = torch.tensor([0, 1, 1, 0, 1]) if outputs == 1 else labels
    errors = []
    for rho in (0.02, 0.01):
        formula = sam_label_noise(model, x, labels, rho=rho, per_example=True, linear=True, family=family)
        steps = []
        for i in range(len(x)):
            f = model(x[i : i + 1])
            y = labels[i : i + 1].double()
            loss = (
                nn.functional.binary_cross_entropy_with_logits(f[:, 0], y)
                if outputs == 1
                else nn.functional.cross_entropy(f, labels[i : i + 1])
            )
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            length = torch.cat([g.flatten() for g in gradients]).norm()
            moved = {name: mean[name] + rho * g / length for name, g in zip(mean, gradients, strict=True)}
            steps.append(family.mean(f) - family.mean(functional_call(model, moved, (x[i : i + 1],))))
        errors.append(float((formula - torch.cat(steps).detach()).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


@pytest.mark.guards("prop-sam-noise")
def test_sam_noise_makes_a_binary_residual_longer():
    model, mean, _, x, _ = network(1)
    labels = torch.tensor([0, 1, 1, 0, 1])
    rho = 0.3
    noise = sam_label_noise(model, x, labels, rho=rho, per_example=True, linear=True)[:, 0]
    f = model(x)[:, 0].detach()
    residual = f.sigmoid() - labels
    assert torch.allclose((residual - noise).abs(), residual.abs() + noise.abs(), atol=1e-14)
    norm = jacobian(model, mean, x)[:, 0].norm(dim=1)
    assert torch.allclose(noise, -rho * f.sigmoid() * (-f).sigmoid() * norm * residual.sign(), atol=1e-14)
    unit = DiagonalPosterior(mean, {name: torch.full_like(p, rho) for name, p in mean.items()})
    assert torch.allclose(label_noise_moments(model, unit, x, linear=True).std[:, 0], noise.abs(), atol=1e-13)


@pytest.mark.guards("prop-sam-bound")
def test_penalised_sam_bounds_the_expected_loss():
    """The bound against draws for several widths, and its gradient against differences."""
    model, mean, _, x, labels = network()
    m = torch.cat([p.flatten() for p in mean.values()])

    def loss(theta):
        parts = theta.split([p.numel() for p in mean.values()])
        weights = {name: part.reshape(p.shape) for part, (name, p) in zip(parts, mean.items(), strict=True)}
        return nn.functional.cross_entropy(functional_call(model, weights, (x,)), labels, reduction="sum")

    def supremum(at, sigma):
        delta = torch.zeros_like(at)
        for _ in range(300):
            delta = sigma**2 * torch.func.grad(loss)(at + delta)
        return delta, loss(at + delta) - delta.square().sum() / (2 * sigma**2)

    direction, h = torch.randn_like(m), 1e-5
    for sigma in (0.05, 0.1, 0.2):
        delta, value = supremum(m, sigma)
        slope = torch.func.grad(loss)(m + delta)
        assert torch.allclose(delta, sigma**2 * slope, rtol=0, atol=1e-12)
        nearby = delta + 0.3 * sigma * torch.randn(200, len(m), dtype=torch.float64)  # no better δ around it
        others = torch.func.vmap(loss)(m + nearby) - nearby.square().sum(1) / (2 * sigma**2)
        assert bool((others < value).all())
        drawn = torch.func.vmap(loss)(m + sigma * torch.randn(4000, len(m), dtype=torch.float64))
        error = drawn.std() / 4000**0.5
        assert loss(m) < drawn.mean() < value + len(m) / 2 - 5 * error
        ahead, behind = (supremum(m + step * direction, sigma)[1] for step in (h, -h))
        assert float((ahead - behind) / (2 * h)) == pytest.approx(float(direction @ slope), rel=1e-6)


@pytest.mark.guards("prop-sam-noise")
def test_sam_noise_can_make_a_residual_of_three_classes_shorter():
    p = torch.tensor([0.1, 0.7, 0.2], dtype=torch.float64)

    class OneWeight(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, x):
            return p.log() + self.weight * torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64) * x

    noise = sam_label_noise(OneWeight(), torch.ones(1, 1, dtype=torch.float64), torch.tensor([0]), rho=0.01)
    residual = p - torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert (residual - noise[0]).norm() < residual.norm() - 1e-4
