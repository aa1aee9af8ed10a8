"""Label noise of layers whose computation differs from their class's.

The reference moves one weight after the other and compares the logits: it needs neither autograd nor rules.
"""

import functools

import pytest
import torch
import torch.nn.functional as F
from cases import IMAGE, SEQUENCE, VECTOR, Net, built, by_differences, chain, embedding, hidden, linear, posterior_of
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from vlls import DiagonalPosterior, label_noise_moments
from vlls.noise import logit_covariance

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def pruned(module, name="weight", amount=0.4):
    prune.random_unstructured(module, name, amount=amount)
    return module


def scaled_by_hook():
    layer = linear()
    layer.register_parameter("scale", nn.Parameter(torch.tensor(1.7)))
    layer.register_forward_hook(lambda module, inputs, output: output * module.scale)
    return layer


def scaled_before():
    """Return a layer whose weight is computed before every call, as in the old weight norm."""
    layer = linear()
    layer.raw = nn.Parameter(layer.weight.detach().clone())
    layer.scale = nn.Parameter(torch.linspace(0.5, 2, 4)[:, None])
    del layer.weight
    layer.register_forward_pre_hook(lambda module, inputs: setattr(module, "weight", module.raw * module.scale))
    layer.weight = layer.raw.detach() * layer.scale.detach()
    return layer


def shifted_before():
    layer = linear()
    layer.shift = nn.Parameter(torch.ones(4))
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] * module.shift,))
    return layer


def overridden(module, forward):
    module.forward = functools.partial(forward, module)
    return module


class Doubled(nn.Linear):
    """A layer with an additional parameter and the forward of its class."""

    def __init__(self):
        super().__init__(4, 4)
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.register_forward_hook(lambda module, inputs, output: output + module.gain * inputs[0])


class LowRank(nn.Module):
    """A layer plus a correction of low rank."""

    def __init__(self):
        super().__init__()
        self.base, self.down, self.up = linear(), nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x):
        return self.base(x) + 0.5 * self.up(self.down(x))


class FusedLowRank(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        return F.linear(x, self.weight + self.up @ self.down, self.bias)


class Square(nn.Module):
    def forward(self, weight):
        return weight * weight.abs()


def parametrized():
    layer = linear()
    nn.utils.parametrize.register_parametrization(layer, "weight", Square())
    return layer


def attention(change=lambda module: module, **options):
    return hidden(
        lambda m, x: m.a(x, x, x)[0].mean(1), a=change(nn.MultiheadAttention(4, 2, batch_first=True, **options))
    )


def tied(**options):
    def call(m, t):
        return F.linear(m.out(m.a(t).tanh().mean(1)), m.a.weight)[:, :3]

    return Net(call, a=nn.Embedding(6, 4, **options), out=linear())


def batchnorm(change=lambda module: module):
    norm = nn.BatchNorm2d(2)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.weight)
    return chain(change(norm))


def recomputed(m, x):
    h = torch.tanh(m.a(x))
    return checkpoint(lambda h: m.b(torch.tanh(m.norm(h))), h, use_reentrant=False)


def globally_hooked():
    """A hook on every module of the process, which the fixture removes."""
    nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: output * 1.5 if isinstance(module, nn.Linear) else None
    )
    return chain(linear(), nn.Tanh(), linear())


UNREAD = {
    "pruned linear": (lambda: chain(pruned(linear()), nn.Tanh(), linear()), VECTOR),
    "pruned bias": (lambda: chain(pruned(linear(), "bias"), nn.Tanh(), linear()), VECTOR),
    "pruned twice": (lambda: chain(pruned(pruned(linear()), "weight", 0.5)), VECTOR),
    "pruned channels": (
        lambda: chain(prune.ln_structured(nn.Conv2d(2, 3, 3), "weight", amount=1, n=2, dim=0)),
        IMAGE,
    ),
    "pruned batch norm": (lambda: batchnorm(pruned), IMAGE),
    "pruned layer norm": (lambda: chain(pruned(nn.LayerNorm(4)), linear()), VECTOR),
    "pruned embedding": (lambda: embedding(pruned), None),
    "pruned embedding with padding": (lambda: embedding(pruned, padding_idx=0), None),
    "pruned attention": (lambda: attention(lambda module: pruned(module, "in_proj_weight")), SEQUENCE),
    "old weight norm": (lambda: chain(weight_norm(linear()), nn.Tanh(), linear()), VECTOR),
    "old spectral norm": (lambda: chain(spectral_norm(linear()), nn.Tanh(), linear()), VECTOR),
    "spectral norm": (lambda: chain(parametrizations.spectral_norm(linear())), VECTOR),
    "parametrized": (lambda: chain(parametrized()), VECTOR),
    "scale in a hook": (lambda: chain(scaled_by_hook(), nn.Tanh(), linear()), VECTOR),
    "weight computed before": (lambda: chain(scaled_before(), nn.Tanh(), linear()), VECTOR),
    "input changed before": (lambda: chain(linear(), shifted_before()), VECTOR),
    "a parameter more": (lambda: chain(Doubled(), nn.Tanh(), linear()), VECTOR),
    "hooks on every module": (globally_hooked, VECTOR),
    "forward of the instance": (
        lambda: chain(overridden(linear(), lambda m, x: F.linear(x, m.weight**2, 3 * m.bias)), nn.Tanh(), linear()),
        VECTOR,
    ),
    "attention's forward of the instance": (
        lambda: attention(lambda a: overridden(a, lambda m, q, *_: (F.linear(q, m.in_proj_weight[:4] ** 2), None))),
        SEQUENCE,
    ),
    "low rank beside": (lambda: chain(LowRank(), nn.Tanh(), linear()), VECTOR),
    "low rank within": (lambda: chain(FusedLowRank(), nn.Tanh(), linear()), VECTOR),
    "weight used by hand": (lambda: hidden(lambda m, x: F.linear(x, m.a.weight), a=linear()), VECTOR),
    "tied with padding": (lambda: tied(padding_idx=2), None),
    "embedding with padding": (lambda: embedding(padding_idx=0), None),
    "embedding scaled by frequency": (lambda: embedding(scale_grad_by_freq=True), None),
    "sparse embedding": (lambda: embedding(sparse=True), None),
    "sparse tied": (lambda: tied(sparse=True), None),
    "sparse bag": (lambda: hidden(lambda m, t: m.a(t), a=nn.EmbeddingBag(6, 4, sparse=True)), None),
    "compiled layer": (lambda: chain(torch.compile(linear(), backend="eager"), nn.Tanh(), linear()), VECTOR),
    "checkpoint": (lambda: hidden(recomputed, a=linear(), b=linear(), norm=nn.LayerNorm(4)), VECTOR),
    "attention in a checkpoint": (
        lambda: hidden(
            lambda m, x: checkpoint(lambda h: m.b(h, h, h)[0], torch.tanh(m.a(x)), use_reentrant=False).mean(1),
            a=linear(),
            b=nn.MultiheadAttention(4, 2, batch_first=True),
        ),
        SEQUENCE,
    ),
    "a function with the true derivative": (lambda: hidden(lambda m, x: Sine.apply(m.a(x)), a=linear()), VECTOR),
}


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


@pytest.fixture(autouse=True)
def _no_global_hooks():
    yield
    nn.modules.module._global_forward_hooks.clear()


@pytest.mark.parametrize("name", UNREAD)
def test_the_covariance_is_that_of_the_logits_whatever_the_layer_does(name):
    model, x = built(*UNREAD[name])
    q = posterior_of(model, 0.01, spread=True)
    q = DiagonalPosterior({n: m + 0.1 for n, m in q.mean.items()}, q.std)  # a mean other than the model's weights
    attributes = [{k: v for k, v in vars(m).items() if isinstance(v, torch.Tensor)} for m in model.modules()]
    found = logit_covariance(model, q, x)
    left = [{k: v for k, v in vars(m).items() if isinstance(v, torch.Tensor)} for m in model.modules()]
    assert all(a.keys() == b.keys() and all(a[k] is b[k] for k in a) for a, b in zip(attributes, left, strict=True))
    exact = by_differences(model, q, x)
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-6
    single = logit_covariance(model.float(), q, x.float() if x.is_floating_point() else x)
    assert float((single - exact).abs().max() / exact.abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["pruned linear", "weight computed before", "sparse tied", "checkpoint"])
def test_the_noise_is_that_of_drawn_weights(name):
    model, x = built(*UNREAD[name])
    q, one = posterior_of(model, 0.01, spread=True), x[:1]
    drawn = label_noise_moments(
        model, q, one, method="monte_carlo", num_samples=600, generator=torch.Generator().manual_seed(3)
    )
    exact = label_noise_moments(model, q, one)
    assert float((exact.magnitude - drawn.magnitude).abs() / drawn.magnitude_error) < 3
