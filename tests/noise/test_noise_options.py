"""Label noise refuses options out of range, and no estimator leaves a trace in the model."""

import pytest
import torch
from cases import D
from small_network import LABELS, inputs, mlp, uneven
from torch import nn

from vlls import Categorical
from vlls.noise import label_noise, label_noise_moments, logit_covariance, rank_examples, sam_label_noise
from vlls.noise._options import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


# ---------------------------------------------------------------------- bad input
RANDOM = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(4, track_running_stats=True),
    "Dropout": lambda: nn.Dropout(0.1),
    "AlphaDropout": lambda: nn.AlphaDropout(0.1),
    "RReLU": lambda: nn.RReLU(),
    "LSTM": lambda: nn.LSTM(4, 4, num_layers=2, dropout=0.1),
    "MultiheadAttention": lambda: nn.MultiheadAttention(4, 2, dropout=0.1),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(4, 2, 4),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_training_mode_where_it_matters(kind):
    model = nn.Sequential(mlp(4), RANDOM[kind]()).double()
    kind = {"TransformerEncoderLayer": "MultiheadAttention"}.get(kind, kind)  # the first module inside that draws
    with pytest.raises(ValueError, match=rf"the model's {kind} '1.* is in training mode.*call model.eval\(\)"):
        label_noise(model, uneven(model), inputs(2))


def test_batchnorm_without_running_statistics_and_harmless_training():
    model = nn.Sequential(mlp(), nn.BatchNorm1d(3, track_running_stats=False)).double().eval()
    x = inputs(2)
    with pytest.raises(ValueError, match="keeps no running statistics.*track_running_stats=True"):
        label_noise(model, uneven(model), x)
    model = mlp().train()
    assert label_noise(model, uneven(model), x).shape == (2, 3)


def test_more_classes_than_memory_allows(monkeypatch):
    model = nn.Linear(4, 500).double()
    q, x = uneven(model), inputs(3)
    with pytest.raises(
        ValueError, match=r"500 gradient\(s\) need .* MiB and 1 are allowed; raise memory_limit, use method="
    ):
        label_noise(model, q, x, memory_limit=1)
    monkeypatch.setattr("vlls.noise._network.available_memory", lambda device: 1 << 20)
    with pytest.raises(ValueError, match=r"3 examples with 500 classes need .* pass fewer examples .* use label_noise"):
        label_noise_moments(model, q, x, method="monte_carlo")


OPTIONS = {
    "an unknown method": ({"method": "fast"}, "method='fast'.*exact"),
    "no direction": ({"rank": 0}, "rank=0 is not allowed; choose a whole number >= 1"),
    "part of a direction": ({"rank": 2.5}, "rank=2.5 is not allowed"),
    "one draw": (
        {"method": "monte_carlo", "num_samples": 1},
        "num_samples=1 is not allowed; choose a whole number >= 2",
    ),
    "draws as text": ({"num_samples": "8"}, "num_samples='8' is not allowed"),
    "odd pairs": ({"num_samples": 5, "antithetic": True}, "num_samples=5; antithetic draws need an even number from 4"),
    "negative pairs": ({"curvature_pairs": -1}, "curvature_pairs=-1 is not allowed; choose a whole number >= 0"),
    "pairs as a bool": ({"curvature_pairs": True}, "curvature_pairs=True is not allowed"),
    "a family of another size": ({"family": Categorical(4)}, r"returns 3 logits and Categorical\(4\) needs 4"),
    "a family as text": ({"family": "categorical"}, "family is a str"),
    "no memory": ({"memory_limit": 0}, "memory_limit=0; pass a positive number of MiB"),
    "memory as text": ({"memory_limit": "64"}, "memory_limit='64'; pass a positive"),
    "a number as generator": ({"generator": 3}, "generator=3 is no torch.Generator"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_out_of_range(name):
    options, message = OPTIONS[name]
    model = mlp()
    for call in (label_noise, label_noise_moments):
        with pytest.raises(ValueError, match=message):
            call(model, uneven(model), inputs(2), **options)


# ---------------------------------------------------------------------- the model is left as it was
class Fuse(nn.Module):
    """Scale the input, or fail on request, forward or backward."""

    def __init__(self):
        super().__init__()
        self.scale, self.blown = nn.Parameter(torch.ones(4)), ""

    def forward(self, x):
        if self.blown == "forward":
            raise RuntimeError("blown")
        x = x * self.scale
        if self.blown == "backward" and x.requires_grad:
            x.register_hook(self.fail)
        return x

    def fail(self, gradient):
        raise RuntimeError("blown")


def state_of(model):
    modules, parameters = list(model.modules()), list(model.parameters())
    flags = [(list(m._forward_hooks), list(m._forward_pre_hooks), "forward" in vars(m), m.training) for m in modules]
    flags += [(id(p), p.requires_grad, id(p.grad), p._version) for p in parameters]
    flags += [torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()]
    values = [*model.state_dict().values(), *(p.grad for p in parameters if p.grad is not None), torch.get_rng_state()]
    return flags, [value.clone() for value in values]


SEED = torch.Generator()
WAYS = {
    "logit_covariance": logit_covariance,
    **{m: (lambda *a, m=m: label_noise_moments(*a, method=m, num_samples=2, generator=SEED)) for m in METHODS},
    "sam": lambda model, q, x: sam_label_noise(model, x, LABELS[:3]),
    "linear sam": lambda model, q, x: sam_label_noise(model, x, LABELS[:3], linear=True),
    "sam by example": lambda model, q, x: sam_label_noise(model, x, LABELS[:3], per_example=True),
    "ranking": lambda model, q, x: rank_examples(model, q, x, LABELS[:3]),
}


@pytest.mark.parametrize("blown", ["", "forward", "backward"])
@pytest.mark.parametrize("way", WAYS)
def test_the_model_and_the_posterior_are_left_as_they_were(way, blown):
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(True), layer, Fuse(), nn.Flatten(), nn.Linear(12, 3)).double().eval()
    model[1].train()  # ReLU ignores the mode
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    called = []
    model[0].register_forward_hook(lambda *_: called.append(1))
    x, q = torch.randn(3, 3, 4, dtype=D), uneven(model)
    values = [t.clone() for t in (*q.mean.values(), *q.std.values(), x)]
    flags, before = state_of(model)
    model[3].blown = blown
    if blown == "forward" or (blown == "backward" and way not in ("direction", "monte_carlo")):
        with pytest.raises(RuntimeError, match="blown"):
            WAYS[way](model, q, x)
    else:
        WAYS[way](model, q, x)
    left, after = state_of(model)
    assert left == flags and called
    assert all(map(torch.equal, before, after))
    assert all(map(torch.equal, values, [*q.mean.values(), *q.std.values(), x]))
    assert not any(t.requires_grad for t in (*q.mean.values(), *q.std.values(), x))
