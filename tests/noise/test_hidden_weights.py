"""Label noise of weights that autograd does not see: methods that need a gradient refuse it."""

import functools

import pytest
import torch
import torch.nn.functional as F
from cases import VECTOR, D, Net, built, by_differences, embedding, hidden, linear, posterior_of
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from vlls import DiagonalPosterior, label_noise, label_noise_moments, rank_examples
from vlls.noise import logit_covariance, sam_label_noise

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


class Rounded(torch.autograd.Function):
    """Rounds to a grid and lets the gradient through, also forward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(w):
        return (w / 0.2).round() * 0.2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def jvp(ctx, t):
        return t.clone()


class Reversed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return -g

    @staticmethod
    def jvp(ctx, t):
        return -t


def without_gradient(m, x):
    with torch.no_grad():
        return m.a(x)


def partly_without_gradient(m, x):
    with torch.no_grad():
        h = m.b(x).tanh()
    return m.a(x) + h


def through_numpy(m, x):
    weight = torch.from_numpy(m.a.weight.detach().float().numpy().copy()).to(x)
    return F.linear(x, weight, m.a.bias)


def reentrant(first):
    def call(m, x):
        h = x if first else torch.tanh(m.b(x))
        return checkpoint(lambda h: m.a(h).tanh(), h, use_reentrant=True)

    return lambda: hidden(call, a=linear(), b=linear())


def straight_through(m, x):
    w = m.a.weight
    return F.linear(x, w + ((w / 0.2).round() * 0.2 - w).detach())


def faked(m, x):
    return F.linear(x, torch.fake_quantize_per_tensor_affine(m.a.weight.float(), 0.1, 0, -8, 7).to(x))


def two(call):
    return lambda: hidden(call, a=linear(), b=linear())


UNSEEN = {
    "no_grad backbone": two(without_gradient),
    "no_grad in a branch": two(partly_without_gradient),
    "detached features": two(lambda m, x: m.a(x).detach()),
    "detached weight": two(lambda m, x: F.linear(x, m.a.weight.detach(), m.a.bias)),
    "a weight used twice, once detached": two(lambda m, x: m.a(x) + F.linear(x.sin(), m.a.weight.detach())),
    "data of a weight": two(lambda m, x: m.b(x) * F.linear(x, m.a.weight.data).sigmoid()),
    "through NumPy": two(through_numpy),
    "a number of a weight": two(lambda m, x: m.b(x) * float(m.a.weight.detach().norm())),
    "detached scale": two(lambda m, x: m.b(x) / m.b(x).detach().norm(dim=1, keepdim=True)),
    "reentrant checkpoint first": reentrant(True),
    "reentrant checkpoint later": reentrant(False),
    "rounded by a function": two(lambda m, x: F.linear(x, Rounded.apply(m.a.weight))),
    "rounded activations": two(lambda m, x: Rounded.apply(m.a(x))),
    "rounded with a detach": two(straight_through),
    "fake quantisation": two(faked),
    "gradient reversed": two(lambda m, x: Reversed.apply(m.a(x))),
    "padding by hand": lambda: hidden(
        lambda m, x: F.embedding((7 * x.abs()).long() % 3, m.a.weight, padding_idx=0).tanh().sum(1),
        a=nn.Embedding(6, 4),
    ),
    "everything without gradient": lambda: Net(without_gradient, a=nn.Linear(4, 3)),
}


# no_grad and padding change reverse mode only
FORWARD = ("no_grad backbone", "no_grad in a branch", "everything without gradient", "padding by hand")


@pytest.mark.parametrize("dtype", [D, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", UNSEEN)
def test_what_autograd_does_not_see_is_refused(name, dtype):
    model, x = built(UNSEEN[name], VECTOR, dtype)
    q = posterior_of(model, 0.03, spread=True)
    methods = ("exact", "rank", "direction")[: 2 if name in FORWARD else 3]
    for call in (logit_covariance, *(functools.partial(label_noise, method=m) for m in methods)):
        with pytest.raises(ValueError, match="monte_carlo"):
            call(model, q, x)
    with pytest.raises(ValueError, match="monte_carlo"):
        rank_examples(model, q, x, [0, 1, 2, 0])
    noise = label_noise_moments(model, q, x, method="monte_carlo", num_samples=8)
    assert bool((noise.magnitude > 0).all())


@pytest.mark.parametrize("name", FORWARD)
def test_a_direction_goes_through_no_grad(name):
    model, x = built(UNSEEN[name], VECTOR)
    q, generator = posterior_of(model, 0.01, spread=True), torch.Generator().manual_seed(0)
    noise = label_noise_moments(model, q, x, method="direction", num_samples=1, generator=generator)
    generator.manual_seed(0)
    step = {n: s * torch.randn(s.shape, dtype=D, generator=generator) for n, s in q.std.items()}
    ends = [functional_call(model, {n: m + sign * step[n] for n, m in q.mean.items()}, (x,)) for sign in (1e-4, -1e-4)]
    slope = (ends[0] - ends[1]) / 2e-4
    assert torch.allclose(noise.logit_covariance, slope[:, :, None] * slope[:, None, :], rtol=1e-6, atol=1e-12)


def test_weights_that_a_layer_shortens_in_place():
    """Draws are made around the posterior's mean, not around the weights that an earlier call has shortened."""
    model, x = built(lambda: embedding(max_norm=0.5), None)
    q = posterior_of(model, 0.1, spread=True)
    q = DiagonalPosterior({**q.mean, "a.weight": 4 * torch.randn(6, 4, dtype=D)}, q.std)
    for call in (logit_covariance, functools.partial(label_noise, method="direction")):
        with pytest.raises(ValueError, match="monte_carlo"):
            call(model, q, x)
    generator, logits = torch.Generator().manual_seed(0), []
    found = label_noise_moments(model, q, x, method="monte_carlo", num_samples=8, generator=generator)
    generator.manual_seed(0)
    for _ in range(8):
        step = {n: s * torch.randn(s.shape, dtype=D, generator=generator) for n, s in q.std.items()}
        logits.append(functional_call(model, {n: m + step[n] for n, m in q.mean.items()}, (x,)).detach())
    centre = functional_call(model, {n: m.clone() for n, m in q.mean.items()}, (x,)).detach().softmax(1)
    assert torch.allclose(found.mean_shift, centre - torch.stack(logits).softmax(2).mean(0), rtol=1e-10)


@pytest.mark.parametrize("std", [1e-5, 0.01, 1.0])
def test_a_wide_or_a_sharp_posterior_hides_nothing(std):
    model, x = built(UNSEEN["no_grad in a branch"], VECTOR, torch.float32)
    with pytest.raises(ValueError, match="no gradient reaches 'b.weight'.*monte_carlo"):
        logit_covariance(model, posterior_of(model, std, spread=True), x)


def test_weights_without_noise_may_be_hidden():
    """A frozen backbone outside the posterior may be hidden."""
    model, x = built(UNSEEN["no_grad backbone"], VECTOR)
    q = posterior_of(model, 0.01, spread=True)
    head = DiagonalPosterior(*({n: t for n, t in of.items() if n.startswith("out")} for of in (q.mean, q.std)))
    found, exact = logit_covariance(model, head, x), by_differences(model, head, x)
    assert torch.allclose(found, exact, rtol=1e-6)
    still = DiagonalPosterior(q.mean, {n: s * n.startswith("out") for n, s in q.std.items()})
    assert torch.allclose(logit_covariance(model, still, x), exact, rtol=1e-6)


def test_sam_takes_the_gradient_that_autograd_has_and_says_where_it_is_no_slope():
    model, x = built(UNSEEN["rounded by a function"], VECTOR)
    labels = [0, 1, 2, 0]
    assert sam_label_noise(model, x, labels).shape == (4, 3)  # the optimizer takes this gradient too
    with pytest.raises(ValueError, match="otherwise than .* says.*use linear=False"):
        sam_label_noise(model, x, labels, linear=True)
    with pytest.raises(ValueError, match="otherwise than autograd says.*use per_example=False"):
        sam_label_noise(model, x, labels, per_example=True)
