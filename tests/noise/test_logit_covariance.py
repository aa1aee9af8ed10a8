"""The covariance of a network's logits, layer by layer, against Jacobians of torch.func."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from cases import covariance_of, posterior_of
from torch import nn
from torch.func import jacfwd, jacrev

from vlls import DiagonalPosterior
from vlls.models._networks import build
from vlls.noise import _layers, _linearization, logit_covariance
from vlls.noise._attention import attend
from vlls.noise._linearization import Linearization

TOKENS = torch.tensor([[0, 1, 1, 3], [2, 2, 2, 2], [0, 0, 5, 4]])
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Head(nn.Module):
    """Three nonlinear logits of any input, without parameters."""

    def forward(self, x):
        x = torch.tanh(x.flatten(1))
        return x @ torch.sin(1.7 * torch.arange(3 * x.shape[1], dtype=torch.float64)).reshape(-1, 3).to(x.dtype)


class Net(nn.Module):
    """Named modules, and a function that calls them."""

    def __init__(self, call, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.call, self.head = call, Head()

    def forward(self, x):
        return self.head(self.call(self, x))


def net(*modules):
    return nn.Sequential(*modules, Head())


def prepare(model, dtype=torch.float64):
    """Give parameters and running statistics other values than their initial ones."""
    for tensor in model.parameters():
        nn.init.normal_(tensor, std=0.6)
    for name, tensor in model.named_buffers():
        if "running_mean" in name:
            nn.init.normal_(tensor)
        elif "running_var" in name:
            nn.init.uniform_(tensor, 0.5, 2.0)
    return model.eval().to(dtype)


def uneven(model, names=None):
    return posterior_of(model, 0.6, spread=True, names=names)


def relative_error(value, exact):
    return float((value - exact).abs().max() / exact.abs().max())


def check(model, x, posterior=None, jacobian=jacrev, **options):
    posterior = posterior or uneven(model)
    found = logit_covariance(model, posterior, x, **options)
    assert found.shape == (len(x), 3, 3) and not found.requires_grad
    assert torch.equal(found, found.mT)
    assert relative_error(found, covariance_of(model, posterior, x, jacobian)) < 1e-10
    return found


@pytest.fixture
def no_fallback(monkeypatch):
    """Fail if a parameter is computed without its layer's rule."""

    def refuse(*_):
        raise AssertionError("a layer that has a rule went without it")

    monkeypatch.setattr(Linearization, "_of_others", refuse)


# ---------------------------------------------------------------------- every layer
VECTOR, SEQUENCE, LINE, IMAGE, VOLUME = (3, 4), (3, 5, 4), (3, 4, 9), (3, 4, 7, 6), (3, 4, 5, 4, 3)
LAYERS = {
    "linear": (lambda: nn.Linear(4, 5), VECTOR),
    "linear without bias": (lambda: nn.Linear(4, 5, bias=False), VECTOR),
    "linear on a sequence": (lambda: nn.Linear(4, 5), SEQUENCE),
    "linear on a sequence without bias": (lambda: nn.Linear(4, 5, bias=False), SEQUENCE),
    "linear on as many positions as examples": (lambda: nn.Linear(4, 5), (3, 3, 4)),
    "linear on a grid": (lambda: nn.Linear(4, 2), (3, 2, 3, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), LINE),
    "conv1d depthwise": (lambda: nn.Conv1d(4, 8, 3, groups=4), LINE),
    "conv1d same": (lambda: nn.Conv1d(4, 5, 4, padding="same"), LINE),
    "conv1d circular": (lambda: nn.Conv1d(4, 5, 3, padding=2, padding_mode="circular"), LINE),
    "conv1d reflect": (lambda: nn.Conv1d(4, 5, 3, stride=2, padding=2, padding_mode="reflect"), LINE),
    "conv1d kernel 1": (lambda: nn.Conv1d(4, 5, 1, bias=False), LINE),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2), IMAGE),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), IMAGE),
    "conv2d same": (lambda: nn.Conv2d(4, 5, (3, 4), padding="same", dilation=2), IMAGE),
    "conv2d same circular": (lambda: nn.Conv2d(4, 5, (3, 2), padding="same", padding_mode="circular"), IMAGE),
    "conv2d valid": (lambda: nn.Conv2d(4, 5, 3, padding="valid"), IMAGE),
    "conv2d reflect": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=(2, 1), padding_mode="reflect", groups=2), IMAGE),
    "conv2d replicate": (lambda: nn.Conv2d(4, 5, 3, padding=1, dilation=2, padding_mode="replicate"), IMAGE),
    "conv2d kernel 1": (lambda: nn.Conv2d(4, 5, 1), IMAGE),
    "conv2d down to one position": (lambda: nn.Conv2d(4, 5, (7, 6)), IMAGE),
    "conv3d": (lambda: nn.Conv3d(4, 6, (3, 2, 1), stride=(2, 1, 1), padding=(2, 1, 0), groups=2), VOLUME),
    "conv3d dilated": (lambda: nn.Conv3d(4, 2, 2, dilation=(2, 1, 2), bias=False), VOLUME),
    "conv3d circular": (lambda: nn.Conv3d(4, 2, 3, padding=1, padding_mode="circular"), VOLUME),
    "batchnorm1d": (lambda: nn.BatchNorm1d(4), VECTOR),
    "batchnorm1d on a line": (lambda: nn.BatchNorm1d(4), LINE),
    "batchnorm2d": (lambda: nn.BatchNorm2d(4), IMAGE),
    "batchnorm3d": (lambda: nn.BatchNorm3d(4), VOLUME),
    "groupnorm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "groupnorm on vectors": (lambda: nn.GroupNorm(2, 4), VECTOR),
    "layernorm": (lambda: nn.LayerNorm(4), SEQUENCE),
    "layernorm on vectors": (lambda: nn.LayerNorm(4), VECTOR),
    "layernorm of two axes": (lambda: nn.LayerNorm((5, 4)), (3, 2, 5, 4)),
    "layernorm without bias": (lambda: nn.LayerNorm(4, bias=False), SEQUENCE),
    "rmsnorm": (lambda: nn.RMSNorm(4), SEQUENCE),
    "rmsnorm of two axes": (lambda: nn.RMSNorm((5, 4)), (3, 2, 5, 4)),
    "instancenorm1d": (lambda: nn.InstanceNorm1d(4, affine=True), LINE),
    "instancenorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), IMAGE),
    "instancenorm2d tracked": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGE),
    "instancenorm3d": (lambda: nn.InstanceNorm3d(4, affine=True), VOLUME),
    "embedding": (lambda: nn.Embedding(7, 3), None),
    "embedding with padding": (lambda: nn.Embedding(7, 3, padding_idx=0), None),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_equals_its_jacobian(layer, no_fallback):
    make, shape = LAYERS[layer]
    model = prepare(net(make()))
    x = TOKENS if shape is None else torch.randn(shape, dtype=torch.float64)
    posterior = uneven(model)
    # Reverse mode drops the gradient of the padding row, forward mode does not: the row is as random as the others.
    exact = covariance_of(model, posterior, x, jacfwd if shape is None else jacrev)
    found = logit_covariance(model, posterior, x)
    assert found.dtype == torch.float64 and torch.equal(found, found.mT)
    assert relative_error(found, exact) < 1e-10
    small = logit_covariance(model.float(), posterior, x if shape is None else x.float())
    assert small.dtype == torch.float32
    assert relative_error(small.double(), exact) < 1e-5


def test_the_padding_row_counts():
    model = prepare(net(nn.Embedding(7, 3, padding_idx=0)))
    q = uneven(model)
    q.std["0.weight"][1:] = 0
    assert [bool(v.any()) for v in logit_covariance(model, q, TOKENS)] == [True, False, True]


# ---------------------------------------------------------------------- attention
def causal(n, dtype=torch.bool):
    mask = torch.ones(n, n).triu(1).bool()
    return mask if dtype == torch.bool else torch.zeros(n, n, dtype=dtype).masked_fill(mask, -2.5)


PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
MASKS = {
    "none": {},
    "no weights": {"need_weights": False},
    "weights of each head": {"average_attn_weights": False},
    "key padding": {"key_padding_mask": PADDED},
    "bool mask": {"attn_mask": causal(5)},
    "causal hint": {"attn_mask": causal(5), "is_causal": True, "need_weights": False},
    "float mask": {"attn_mask": causal(5, torch.float64)},
    "mask of each head": {"attn_mask": 0.4 * torch.arange(150, dtype=torch.float64).sin().reshape(6, 5, 5)},
    "bool mask of each head": {"attn_mask": torch.stack([causal(5).roll(i, 1) for i in range(6)])},
    "mask and padding": {"attn_mask": causal(5), "key_padding_mask": PADDED},
}
KINDS = {
    "self": ({}, False),
    "self without bias": ({"bias": False}, False),
    "cross": ({}, True),
    "cross of other widths": ({"kdim": 3, "vdim": 2}, True),
    "cross of other widths without bias": ({"kdim": 3, "vdim": 2, "bias": False}, True),
}


def three(module, x, cross):
    """Return query, key and value in the module's layout: one tensor, or three, with 5 positions for 4 queries."""
    query, key, value = (x[:, :4], torch.sin(2 * x), torch.cos(x)) if cross else (x, x, x)
    key, value = key[..., : module.kdim], value[..., : module.vdim]
    return (query, key, value) if module.batch_first else tuple(t.transpose(0, 1) for t in (query, key, value))


def masks(name, num, queries):
    """Return the mask options for ``num`` examples and ``queries`` of 5 queries."""
    cut = {
        "key_padding_mask": lambda m: m[:num],
        "attn_mask": lambda m: m[..., :queries, :][: 2 * num if m.ndim == 3 else 5],
    }
    return {key: cut[key](value) if key in cut else value for key, value in MASKS[name].items()}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mask", MASKS)
def test_the_stand_in_returns_what_torch_returns(mask, kind, batch_first):
    arguments, cross = KINDS[kind]
    module = prepare(nn.MultiheadAttention(4, 2, batch_first=batch_first, **arguments))
    inputs = three(module, torch.randn(3, 5, 4, dtype=torch.float64), cross)
    options = masks(mask, 3, 4 if cross else 5)
    tapped = []
    out, weights = attend(module, lambda part, a, z: tapped.append(part), *inputs, **options)
    torch_out, torch_weights = module(*inputs, **options)
    assert torch.allclose(out, torch_out, rtol=0, atol=1e-12)
    assert (weights is None) == (torch_weights is None)
    assert weights is None or torch.allclose(weights, torch_weights, rtol=0, atol=1e-12)
    assert sorted(tapped) == ["k", "out", "q", "v"]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_equals_its_jacobian(kind, batch_first, no_fallback):
    arguments, cross = KINDS[kind]

    def call(model, x):
        out = model.attention(*three(model.attention, x, cross))[0]
        return out if batch_first else out.transpose(0, 1)

    attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, **arguments)
    for positions in (5, 3, 1) if not cross else (5,):  # 3: as many as examples
        check(prepare(Net(call, attention=attention)), torch.randn(3, positions, 4, dtype=torch.float64))


@pytest.mark.parametrize("mask", MASKS)
def test_attention_with_masks_equals_its_jacobian(mask, no_fallback):
    def call(model, x):  # the same masks for every example: the reference gets one example at a time
        options = masks(mask, 2, 5)
        if "key_padding_mask" in options:
            options["key_padding_mask"] = options["key_padding_mask"][1:].expand(len(x), -1)
        if options.get("attn_mask", x[0]).ndim == 3:
            options["attn_mask"] = options["attn_mask"][:2].repeat(len(x), 1, 1)
        return model.attention(x, x, x, **options)[0]

    model = prepare(Net(call, attention=nn.MultiheadAttention(4, 2, batch_first=True)))
    check(model, torch.randn(3, 5, 4, dtype=torch.float64))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("positions", [5, 3, 1])
def test_transformer_layer_equals_its_jacobian(positions, batch_first, norm_first, no_fallback):
    def call(model, x):
        return model.layer(x) if batch_first else model.layer(x.transpose(0, 1)).transpose(0, 1)

    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=batch_first, norm_first=norm_first, activation="gelu")
    check(prepare(Net(call, layer=layer)), torch.randn(3, positions, 4, dtype=torch.float64))


def test_attention_with_learned_keys_goes_without_a_rule():
    for option in ("add_bias_kv", "add_zero_attn"):
        attention = nn.MultiheadAttention(4, 2, batch_first=True, **{option: True})
        model = prepare(Net(lambda model, x: model.attention(x, x, x)[0], attention=attention))
        check(model, torch.randn(3, 5, 4, dtype=torch.float64))


# ---------------------------------------------------------------------- the two orders of summation, and chunks
@pytest.mark.parametrize("positions", [1, 4])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("block", [1, 700, 1 << 30])
@pytest.mark.parametrize("total", [_layers._by_weight, _layers._by_position])
def test_both_sums_over_weights(total, block, groups, positions):
    u = torch.randn(5, groups, 6, positions, dtype=torch.float64)
    g = torch.randn(2, 5, groups, 4, positions, dtype=torch.float64)
    var = torch.rand(groups, 4, 6, dtype=torch.float64)
    rows = torch.einsum("rbgot,bgjt->brgoj", g, u)
    exact = torch.einsum("brgoj,bsgoj,goj->brs", rows, rows, var)
    assert relative_error(total(u, g, var, block), exact) < 1e-13


@pytest.mark.parametrize(
    ("r", "out", "inputs", "positions", "few"),
    [(3, 512, 4608, 4, True), (3, 512, 4608, 16, False), (10, 512, 4608, 16, True), (10, 256, 2304, 64, False)],
)
def test_the_sum_over_weights_comes_first_where_positions_are_few(r, out, inputs, positions, few, monkeypatch):
    """As in the last layers of a ResNet."""
    taken = []
    for name in ("_by_weight", "_by_position"):
        monkeypatch.setattr(_layers, name, lambda *given, name=name: taken.append(name) or 0)
    a, g = torch.zeros(1, positions, inputs), torch.zeros(r, 1, positions, out)
    _layers.Linear().covariance(a, g, {"weight": torch.zeros(out, inputs)}, 1 << 20)
    assert taken == ["_by_position" if few else "_by_weight"]


@pytest.mark.parametrize("total", ["_by_weight", "_by_position"])
@pytest.mark.parametrize("layer", ["linear", "linear on a sequence", "conv1d", "conv2d depthwise", "conv3d"])
def test_each_sum_serves_every_layer_that_multiplies(layer, total, monkeypatch, no_fallback):
    make, shape = LAYERS[layer]
    for name in ("_by_weight", "_by_position"):
        monkeypatch.setattr(_layers, name, getattr(_layers, total))
    check(prepare(net(make())), torch.randn(shape, dtype=torch.float64))


def test_a_small_memory_limit_takes_one_example_at_a_time():
    model = prepare(net(nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)))
    x, q = torch.randn(5, 2, 6, 6, dtype=torch.float64), uneven(model)
    line = Linearization(model, q, x, memory_limit=0.1)
    assert [len(part) for part, _ in line.parts(x)] == [1] * 5
    assert line._block < 8 * 8 * 9 * 8 * 3  # bytes of one layer's gradients of one example
    assert len(list(Linearization(model, q, x).parts(x))) == 1
    small, whole = check(model, x, q, memory_limit=0.1), check(model, x, q)
    assert relative_error(small, whole) < 1e-13


# ---------------------------------------------------------------------- networks
def residual(model, x):
    z = model.first(x)
    z += x
    return F.relu_(model.second(F.relu_(z)).add_(x))


def linear():
    return nn.Linear(4, 4)


def weights(*shape):
    return nn.Parameter(torch.zeros(shape))


SHARED = linear()
RULED = {
    "in-place ReLU": (lambda: net(linear(), nn.ReLU(inplace=True), linear(), nn.ReLU(inplace=True)), VECTOR),
    "in-place ReLU after conv and norm": (
        lambda: net(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), nn.ReLU(True)),
        IMAGE,
    ),
    "residual connections in place": (lambda: Net(residual, first=linear(), second=linear()), VECTOR),
    "two branches": (lambda: Net(lambda m, x: m.a(x).tanh() * m.b(x).sigmoid(), a=linear(), b=linear()), VECTOR),
    "positions first": (lambda: Net(lambda m, x: m.a(x.transpose(0, 1)).transpose(0, 1), a=linear()), (3, 3, 4)),
    "unused layer": (lambda: Net(lambda m, x: m.a(x), a=linear(), b=linear()), VECTOR),
    "a layer named as attention's": (lambda: Net(lambda m, x: m.out_proj(x), out_proj=linear()), VECTOR),
}


def tied():
    model = Net(lambda m, t: m.out(m.embed(t).sum(1).tanh()), embed=nn.Embedding(7, 4), out=nn.Linear(4, 7))
    model.out.weight = model.embed.weight
    return model


def raw(model, x):
    return model.out(torch.tanh(torch.cat([model.token.expand(len(x), -1, -1), x], 1) + model.place).mean(1))


UNRULED = {
    "called twice": (lambda: Net(lambda m, x: m.a(m.a(x).tanh()), a=linear()), VECTOR),
    "shared by two names": (lambda: Net(lambda m, x: m.b(m.a(x).tanh()), a=SHARED, b=SHARED), VECTOR),
    "used by hand as well": (lambda: Net(lambda m, x: F.linear(m.a(x).tanh(), m.a.weight), a=linear()), VECTOR),
    "batch folded into positions": (lambda: Net(lambda m, x: m.a(x.flatten(0, 1)).view_as(x), a=linear()), SEQUENCE),
    "applied to a constant": (lambda: Net(lambda m, x: x * m.a(torch.ones(1, 4).to(x)), a=linear()), VECTOR),
    "tied": (tied, None),
    "raw parameters": (lambda: Net(raw, token=weights(1, 1, 4), place=weights(1, 6, 4), out=linear()), SEQUENCE),
    "transposed convolution": (lambda: net(nn.ConvTranspose2d(4, 3, 3, stride=2)), IMAGE),
    "weight_norm": (lambda: net(nn.utils.parametrizations.weight_norm(linear()), nn.Tanh(), linear()), VECTOR),
    "bilinear": (lambda: Net(lambda m, x: m.a(x, x.sin()), a=nn.Bilinear(4, 4, 3)), VECTOR),
    "LSTM": (lambda: Net(lambda m, x: m.a(x)[0], a=nn.LSTM(4, 3, batch_first=True)), SEQUENCE),
    # three examples and three logits: where torch's nested vmap is silently wrong
    "PReLU": (lambda: net(linear(), nn.PReLU(4), nn.Linear(4, 5), nn.PReLU()), VECTOR),
}


@pytest.mark.parametrize("name", RULED)
def test_networks_by_rules(name, no_fallback):
    make, shape = RULED[name]
    check(prepare(make()), torch.randn(shape, dtype=torch.float64))


@pytest.mark.parametrize("name", UNRULED)
def test_parameters_without_a_rule_are_exact_too(name, monkeypatch):
    calls, ordinary = [], Linearization._of_others
    monkeypatch.setattr(Linearization, "_of_others", lambda *a: calls.append(1) or ordinary(*a))
    make, shape = UNRULED[name]
    check(prepare(make()), TOKENS if shape is None else torch.randn(shape, dtype=torch.float64))
    assert calls


class Wave(torch.autograd.Function):  # without support for vmap
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w.sin()

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w.sin(), (g * x * w.cos()).sum_to_size(w.shape)


def test_an_operation_that_vmap_does_not_know_goes_row_by_row(monkeypatch):
    calls, ordinary = [], Linearization._row_by_row
    monkeypatch.setattr(Linearization, "_row_by_row", lambda *a: calls.append(1) or ordinary(*a))
    parts = {"a": linear(), "b": linear(), "weight": weights(4)}
    odd = prepare(Net(lambda m, x: m.b(Wave.apply(m.a(x), m.weight)), **parts))
    same = Net(lambda m, x: m.b(m.a(x) * m.weight.sin()), **parts)
    x, q = torch.randn(3, 4, dtype=torch.float64), uneven(odd)
    assert relative_error(logit_covariance(odd, q, x), covariance_of(same, q, x)) < 1e-10
    assert len(calls) == 3


def test_frozen_fixed_and_left_out_parameters():
    model = prepare(net(linear(), nn.Tanh(), linear(), nn.Tanh(), linear()))
    x = torch.randn(3, 4, dtype=torch.float64)
    model[0].weight.requires_grad_(False)  # the posterior decides what is random, not requires_grad
    whole = check(model, x)
    model[2].bias.requires_grad_(False)
    part = check(model, x, uneven(model, {"0.weight", "2.weight", "4.bias"}))
    assert not torch.allclose(whole, part)
    q = uneven(model)
    q.std["0.weight"][1:] = 0
    q.std["2.weight"].zero_()
    q.std["4.bias"].zero_()
    check(model, x, q)
    still = DiagonalPosterior(q.mean, {name: torch.zeros_like(std) for name, std in q.std.items()})
    assert torch.equal(logit_covariance(model, still, x), torch.zeros(3, 3, 3, dtype=torch.float64))


def test_the_warning_comes_once_for_a_kind_of_module(monkeypatch):
    monkeypatch.setattr(_linearization, "_warned", set())
    model = prepare(net(nn.ConvTranspose1d(4, 4, 2), nn.ConvTranspose1d(4, 4, 2), nn.PReLU(), nn.Conv1d(4, 1, 3)))
    x, q = torch.randn(LINE, dtype=torch.float64), uneven(model)
    with pytest.warns(UserWarning, match="per-example gradients") as caught:
        logit_covariance(model, q, x)
    said = [text for w in caught if "per-example gradients" in (text := str(w.message))]
    assert len(said) == 2 and "'0.weight' of a ConvTranspose1d" in said[0] and "'2.weight' of a PReLU" in said[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logit_covariance(model, q, x)


@pytest.mark.parametrize("name", ["cnn3", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_networks_of_the_paper(name, no_fallback):
    pytest.importorskip("torchvision")
    model = build(name, 3, image_size=8).double().eval()
    for tensor in model.buffers():
        if tensor.is_floating_point():  # running means and variances
            nn.init.uniform_(tensor, 0.5, 2.0)
    check(model, torch.randn(2, 3, 8, 8, dtype=torch.float64))
