"""Label noise of networks whose layers do other things than their kind says, are hidden from autograd, or mix examples.

The reference moves one weight after the other and looks at the logits: it needs neither autograd nor rules.
"""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import IMAGE, SEQUENCE, VECTOR, D, Net, built, posterior_of
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from vlls import DiagonalPosterior, label_noise, label_noise_moments, rank_examples
from vlls.noise import logit_covariance, sam_label_noise
from vlls.noise._options import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def chain(*layers):
    """Layers and three logits of what they return, not linear."""
    model = nn.Sequential(*layers, nn.Flatten(), nn.Tanh())
    model.append(nn.LazyLinear(3))
    return model


def hidden(call, width=4, **modules):
    """A body whose output three logits look at."""
    return Net(lambda m, x: m.out(torch.tanh(call(m, x))), out=nn.Linear(width, 3), **modules)


def linear(outputs=4):
    return nn.Linear(4, outputs)


def uneven(model, scale=0.01):
    return posterior_of(model, scale, spread=True)


def by_differences(model, posterior, x, size=1e-5):
    """J Sigma J^T from how the logits of each example move with each weight."""
    rows = []
    with torch.no_grad():
        for name, std in posterior.std.items():
            for i in range(std.numel()):
                step = torch.zeros_like(std).flatten()
                step[i] = size
                ends = []
                for sign in (1, -1):
                    moved = {**posterior.mean, name: posterior.mean[name] + sign * step.reshape(std.shape)}
                    ends.append(torch.cat([functional_call(model, moved, (one[None],)) for one in x]))
                rows.append(std.flatten()[i] * (ends[0] - ends[1]) / (2 * size))
    jacobian = torch.stack(rows, -1)
    return jacobian @ jacobian.mT


# ---------------------------------------------------------------------- layers that are not what their rule reads
def pruned(module, name="weight", amount=0.4):
    prune.random_unstructured(module, name, amount=amount)
    return module


def scaled_by_hook():
    layer = linear()
    layer.register_parameter("scale", nn.Parameter(torch.tensor(1.7)))
    layer.register_forward_hook(lambda module, inputs, output: output * module.scale)
    return layer


def scaled_before():
    """Its weight is computed before every call, as old weight norm does it."""
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
    """Has a parameter of its own, and the forward of its class."""

    def __init__(self):
        super().__init__(4, 4)
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.register_forward_hook(lambda module, inputs, output: output + module.gain * inputs[0])


class LowRank(nn.Module):
    """A layer and a correction of low rank beside it."""

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


def embedding(change=lambda module: module, **options):
    return hidden(lambda m, t: m.a(t).cumsum(1).tanh().sum(1), a=change(nn.Embedding(6, 4, **options)))


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
    """A hook on every module of the process, taken off by the fixture."""
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
    q = uneven(model)
    q = DiagonalPosterior({n: m + 0.1 for n, m in q.mean.items()}, q.std)  # not the weights that the model has
    attributes = [{k: v for k, v in vars(m).items() if isinstance(v, torch.Tensor)} for m in model.modules()]
    found = logit_covariance(model, q, x)
    left = [{k: v for k, v in vars(m).items() if isinstance(v, torch.Tensor)} for m in model.modules()]
    assert all(a.keys() == b.keys() and all(a[k] is b[k] for k in a) for a, b in zip(attributes, left, strict=True))
    exact = by_differences(model, q, x)
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-6
    single = logit_covariance(model.float(), q, x if shape_of(name) is None else x.float())
    assert float((single - exact).abs().max() / exact.abs().max()) < 1e-4


def shape_of(name):
    return UNREAD[name][1]


@pytest.mark.parametrize("name", ["pruned linear", "weight computed before", "sparse tied", "checkpoint"])
def test_the_noise_is_that_of_drawn_weights(name):
    model, x = built(*UNREAD[name])
    q, one = uneven(model), x[:1]
    drawn = label_noise_moments(
        model, q, one, method="monte_carlo", num_samples=600, generator=torch.Generator().manual_seed(3)
    )
    exact = label_noise_moments(model, q, one)
    assert float((exact.magnitude - drawn.magnitude).abs() / drawn.magnitude_error) < 3


# ---------------------------------------------------------------------- weights that autograd does not see
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
    "everything without gradient": lambda: Net(lambda m, x: no_grad_call(m.a, x), a=nn.Linear(4, 3)),
}


# no_grad and padding change reverse mode only
FORWARD = ("no_grad backbone", "no_grad in a branch", "everything without gradient", "padding by hand")


def no_grad_call(layer, x):
    with torch.no_grad():
        return layer(x)


@pytest.mark.parametrize("dtype", [D, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", UNSEEN)
def test_what_autograd_does_not_see_is_refused(name, dtype):
    model, x = built(UNSEEN[name], VECTOR, dtype)
    q = uneven(model, 0.03)
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
    q, generator = uneven(model), torch.Generator().manual_seed(0)
    noise = label_noise_moments(model, q, x, method="direction", num_samples=1, generator=generator)
    generator.manual_seed(0)
    step = {n: s * torch.randn(s.shape, dtype=D, generator=generator) for n, s in q.std.items()}
    ends = [functional_call(model, {n: m + sign * step[n] for n, m in q.mean.items()}, (x,)) for sign in (1e-4, -1e-4)]
    slope = (ends[0] - ends[1]) / 2e-4
    assert torch.allclose(noise.logit_covariance, slope[:, :, None] * slope[:, None, :], rtol=1e-6, atol=1e-12)


def test_weights_that_a_layer_shortens_in_place():
    """Draws are made around the posterior's mean, not around what a call before left of it."""
    model, x = built(lambda: embedding(max_norm=0.5), None)
    q = uneven(model, 0.1)
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
        logit_covariance(model, uneven(model, std), x)


def test_weights_without_noise_may_be_hidden():
    """A frozen backbone that is no part of the posterior is seen as it is."""
    model, x = built(UNSEEN["no_grad backbone"], VECTOR)
    q = uneven(model)
    head = DiagonalPosterior(*({n: t for n, t in of.items() if n.startswith("out")} for of in (q.mean, q.std)))
    found, exact = logit_covariance(model, head, x), by_differences(model, head, x)
    assert torch.allclose(found, exact, rtol=1e-6)
    still = DiagonalPosterior(q.mean, {n: s * n.startswith("out") for n, s in q.std.items()})
    assert torch.allclose(logit_covariance(model, still, x), exact, rtol=1e-6)


def test_sam_takes_the_gradient_that_autograd_has_and_says_where_it_is_no_slope():
    model, x = built(UNSEEN["rounded by a function"], VECTOR)
    labels = [0, 1, 2, 0]
    assert sam_label_noise(model, x, labels).shape == (4, 3)  # what the optimizer does with such a gradient
    with pytest.raises(ValueError, match="otherwise than .* says.*use linear=False"):
        sam_label_noise(model, x, labels, linear=True)
    with pytest.raises(ValueError, match="otherwise than autograd says.*use per_example=False"):
        sam_label_noise(model, x, labels, per_example=True)


# ---------------------------------------------------------------------- examples that see each other
def together(call):
    return lambda: hidden(call, a=linear(), b=nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0))


MIXED = {
    "centred": (together(lambda m, x: (h := m.a(x)) - h.mean(0)), VECTOR),
    "batch norm by hand": (together(lambda m, x: F.batch_norm(m.a(x), None, None, training=True)), VECTOR),
    "batch norm of images": (
        lambda: chain(Net(lambda m, x: F.batch_norm(m.c(x), None, None, training=True), c=nn.Conv2d(2, 2, 3))),
        IMAGE,
    ),
    "attention over the batch": (together(lambda m, x: m.b(x)[:, 0]), SEQUENCE),
    "sums over the batch": (together(lambda m, x: m.a(x).cumsum(0)), VECTOR),
    "sums from the end": (together(lambda m, x: m.a(x).flip(0).cumsum(0).flip(0)), VECTOR),
    "shares of the batch": (together(lambda m, x: m.a(x).softmax(0)), VECTOR),
    "divided by the largest": (together(lambda m, x: m.a(x) / m.a(x).abs().max()), VECTOR),
    "divided by the number": (together(lambda m, x: m.a(x) / len(x)), VECTOR),
    "compared with the first": (together(lambda m, x: m.a(x) - m.a(x[:1])), VECTOR),
    "neighbours": (together(lambda m, x: m.a(x) + x.roll(1, 0)), VECTOR),
    "distances": (together(lambda m, x: (m.a(x)[:, None] - m.a(x)).abs().sum(1)), VECTOR),
    "tokens of the batch": (
        lambda: hidden(lambda m, t: m.a(t).mean(1) - m.a(t).mean((0, 1)), a=nn.Embedding(6, 4)),
        None,
    ),
}


@pytest.mark.parametrize("dtype", [D, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MIXED)
def test_examples_that_see_each_other_are_refused(name, dtype):
    model, x = built(*MIXED[name], D)
    model, x = model.to(dtype), x.to(dtype) if x.is_floating_point() else x
    q = uneven(model)
    calls = [functools.partial(label_noise, method=m) for m in METHODS]
    for some in (x, x[:1], x[[0, 0]]):  # alone, and twice over, it has no other example to be compared with
        for call in (*calls, label_noise_moments, logit_covariance):
            with pytest.raises(ValueError, match="the logits of an example change with the others of its batch"):
                call(model, q, some)
        labels = np.zeros(len(some), dtype=np.uint8)
        with pytest.raises(ValueError, match="change with the others of its batch"):
            rank_examples(model, q, some, labels, method="monte_carlo")
        with pytest.raises(ValueError, match="change with the others of its batch"):
            sam_label_noise(model, some, labels)


# ---------------------------------------------------------------------- ordinary networks
def zero_head():
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    return model


def images():
    """A network as it is made: black pixels are exactly at the kink of every ReLU and tie in every maximum."""
    return nn.Sequential(
        *(nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    )


class InSingle(nn.Module):
    """A norm that is computed in float32, whatever comes in, as language models do it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x):
        h = x.float()
        return self.weight * (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


ORDINARY = {
    "relu": (
        lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)),
        VECTOR,
    ),
    "a head of zeros": (zero_head, VECTOR),
    "one logit": (lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1)), VECTOR),
    "images": (images, IMAGE),
    "transformer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 3)),
        SEQUENCE,
    ),
    "norms": (
        lambda: nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.SiLU(), nn.GroupNorm(4, 16), nn.Linear(16, 3)),
        VECTOR,
    ),
    "a norm in float32": (lambda: nn.Sequential(nn.Linear(4, 16), InSingle(), nn.SiLU(), nn.Linear(16, 3)), VECTOR),
    "tokens": (embedding, None),
    "kinks": (
        lambda: nn.Sequential(nn.Linear(4, 32), nn.Hardtanh(), nn.Linear(32, 32), nn.LeakyReLU(), nn.Linear(32, 3)),
        VECTOR,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [D, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_networks_pass(name, dtype):
    make, shape = ORDINARY[name]
    model, x = built(make, shape)
    if name == "images":
        x[:, :, :3] = 0
        x[0] = 0
    model, x = model.to(dtype), x.to(dtype) if x.is_floating_point() else x
    for scale in (1e-6, 1e-2, 1.0):
        q = uneven(model.float(), scale)
        model = model.to(dtype)
        for some in (x, x[:1]):
            labels = torch.zeros(len(some), dtype=torch.uint16)
            for method in METHODS:
                label_noise(model, q, some, method=method, num_samples=2, curvature_pairs=0)
            sam_label_noise(model, some, labels, linear=True, rho=scale)
            sam_label_noise(model, some, labels, per_example=True)


@pytest.mark.parametrize("seed", [0, 4, 10])
def test_a_step_too_short_for_float32_is_no_fault(seed):
    """A step of 1e-10 does not reach the logits of a norm in float32, however often it is repeated."""
    torch.manual_seed(seed)
    x = torch.randn(4, 4)
    model = nn.Sequential(nn.Linear(4, 16), InSingle(), nn.SiLU(), nn.Linear(16, 3)).eval()
    for some in (x, x[:1]):
        labels = [0] * len(some)
        assert sam_label_noise(model, some, labels, linear=True, rho=1e-6).shape == (len(some), 3)
