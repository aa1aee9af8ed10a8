"""Label noise of SAM, ranking of examples, and that no estimator leaves a trace in the model."""

import csv
import math

import numpy as np
import pytest
import torch
from cases import D, posterior_of
from cases import mlp as network
from torch import nn
from torch.func import functional_call, jacrev
from torch.utils.data import Dataset, TensorDataset

from vlls import SAM, Bernoulli, Categorical
from vlls.noise import label_noise, label_noise_moments, logit_covariance, rank_examples, sam_label_noise
from vlls.noise._options import METHODS
from vlls.noise._push import curvature

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def mlp(outputs=3):
    return network(outputs=outputs, dtype=D)


def uneven(model, scale=0.2):
    return posterior_of(model, scale, spread=True)


def inputs(num=7):
    return torch.randn(num, 4, dtype=D)


LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])


def loss_of(model, x, labels):
    z = model(x)
    if z.shape[1] == 1:
        return nn.functional.binary_cross_entropy_with_logits(z[:, 0], labels.to(z))
    return nn.functional.cross_entropy(z, labels)


# ---------------------------------------------------------------------- SAM
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("adapt", [torch.optim.SGD, torch.optim.Adam])
def test_sam_noise_is_what_the_optimizer_evaluates(adapt, outputs):
    model, x = mlp(outputs), inputs()
    labels = LABELS.clamp_max(max(1, outputs - 1))
    push = torch.sigmoid if outputs == 1 else lambda z: torch.softmax(z, -1)
    noise = sam_label_noise(model, x, labels, rho=0.3)
    before = model(x).detach()
    optimizer = SAM(model.parameters(), adapt, rho=0.3, lr=0.1)
    loss_of(model, x, labels).backward()
    optimizer.first_step()
    after = model(x).detach()
    assert float((noise - (push(before) - push(after))).abs().max()) < 1e-12
    assert noise.shape == (7, outputs) and not noise.requires_grad
    residual = push(before) - (labels[:, None].to(D) if outputs == 1 else nn.functional.one_hot(labels, 3))
    assert float((noise * residual).sum()) < 0  # up the loss: away from the labels, on the whole


@pytest.mark.parametrize("outputs", [1, 3])
def test_linear_sam_noise_is_its_formula_and_the_limit_of_the_noise(outputs):
    model, x = mlp(outputs), inputs()
    labels = LABELS.clamp_max(max(1, outputs - 1))
    gradient = torch.autograd.grad(loss_of(model, x, labels), list(model.parameters()))
    length = torch.cat([g.flatten() for g in gradient]).norm()
    own = {name: p.detach() for name, p in model.named_parameters()}
    jacobian = jacrev(lambda p: functional_call(model, p, (x,)))(own)
    step = zip(own, gradient, strict=True)
    slope = sum((jacobian[name] * g / length).flatten(2).sum(2) for name, g in step)
    family = Bernoulli() if outputs == 1 else Categorical(3)
    formula = -(curvature(family, model(x)) @ slope[..., None])[..., 0].detach()  # of a step of length 1
    assert torch.allclose(sam_label_noise(model, x, labels, rho=0.7, linear=True), 0.7 * formula, rtol=1e-10)
    errors = [
        float((sam_label_noise(model, x, labels, rho=rho) / rho - formula).abs().max()) for rho in (1e-2, 1e-3, 1e-4)
    ]
    assert errors[0] > 9 * errors[1] > 81 * errors[2] > 0


class Recorder(nn.Linear):
    """Remembers the weights with which it is called."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def forward(self, x):
        self.seen.append(torch.cat([self.weight.detach().flatten(), self.bias.detach()]))
        return super().forward(x)


@pytest.mark.parametrize("rho", [0.01, 1.0])
def test_the_perturbation_has_length_rho(rho):
    model = nn.Sequential(Recorder(4, 3).double())
    sam_label_noise(model, inputs(), LABELS, rho=rho)
    start, end = model[0].seen[-2:]
    assert float((end - start).norm()) == pytest.approx(rho, rel=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("linear", [False, True])
def test_sam_by_example_is_exact_in_a_linear_network(linear, outputs):
    model, x = nn.Linear(4, outputs).double(), inputs()
    labels = LABELS.clamp_max(max(1, outputs - 1))
    family = Bernoulli() if outputs == 1 else Categorical(3)
    found = sam_label_noise(model, x, labels, rho=0.4, per_example=True, linear=linear)
    for i in range(len(x)):
        one, label = x[i : i + 1], labels[i : i + 1]
        gradient = torch.autograd.grad(loss_of(model, one, label), list(model.parameters()))
        length = torch.cat([g.flatten() for g in gradient]).norm()
        moved = {name: p + 0.4 * g / length for (name, p), g in zip(model.named_parameters(), gradient, strict=True)}
        start, end = model(one), functional_call(model, moved, (one,))
        noise = family.mean(start) - family.mean(end)
        if linear:
            noise = -(curvature(family, start) @ (end - start)[..., None])[..., 0]
        assert torch.allclose(found[i], noise[0], rtol=1e-10, atol=1e-14)
        if not linear:  # a batch of one is an example
            assert torch.allclose(found[i], sam_label_noise(model, one, label, rho=0.4)[0], rtol=1e-10, atol=1e-14)


def test_sam_by_example_in_a_network_is_that_of_batches_of_one_for_small_steps():
    model, x = mlp(), inputs()
    found = sam_label_noise(model, x, LABELS, rho=1e-5, per_example=True)
    ones = torch.cat([sam_label_noise(model, x[i : i + 1], LABELS[i : i + 1], rho=1e-5) for i in range(7)])
    assert float((found - ones).abs().max()) < 1e-4 * float(ones.abs().max())
    assert torch.allclose(found, sam_label_noise(model, x, LABELS, rho=1e-5, per_example=True, memory_limit=0.02))


def test_sam_takes_labels_as_families_do():
    model, x = mlp(), inputs()
    hard = sam_label_noise(model, x, LABELS)
    assert torch.equal(hard, sam_label_noise(model, x, LABELS.tolist()))
    assert torch.allclose(hard, sam_label_noise(model, x, nn.functional.one_hot(LABELS, 3).to(D)))
    several = sam_label_noise(model, x, nn.functional.one_hot(LABELS, 3), family=Bernoulli())
    assert several.shape == (7, 3) and not torch.allclose(several, hard)


SAM_ERRORS = {
    "rho": ({"rho": 0.0}, r"rho=0.0; pass a positive, finite radius, such as 0.05"),
    "NaN rho": ({"rho": math.nan}, "rho=nan; pass a positive"),
    "infinite rho": ({"rho": math.inf}, "rho=inf; pass a positive, finite"),
    "label out of range": (
        {"labels": LABELS + 1},
        r"labels\[1\] is 3 and the model has 3 classes; labels go from 0 to 2",
    ),
    "float labels": ({"labels": LABELS.float()}, "labels are torch.float32; pass whole numbers from 0 to 2"),
    "too few labels": ({"labels": LABELS[1:]}, r"labels have shape \(6,\); 7 examples need \(7,\)"),
    "no examples": ({"x": torch.zeros(0, 4, dtype=D)}, r"x has shape \(0, 4\); pass a batch of at least one example"),
    "family": ({"family": Categorical(4)}, r"returns 3 logits and Categorical\(4\) needs 4"),
}


@pytest.mark.parametrize("name", SAM_ERRORS)
@pytest.mark.parametrize("per_example", [False, True])
def test_sam_errors(name, per_example):
    changes, message = SAM_ERRORS[name]
    with pytest.raises(ValueError, match=message):
        sam_label_noise(mlp(), **{"x": inputs(), "labels": LABELS, "per_example": per_example, **changes})


def test_sam_without_a_direction_and_in_training_mode():
    model, x = nn.Linear(4, 2, bias=False).double(), inputs(2)
    x[1] = x[0]
    model.weight.data.zero_()
    with pytest.raises(ValueError, match="gradient is zero, so SAM has no direction to go; pass other examples"):
        sam_label_noise(model, x, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"Dropout '1' is in training mode.*call model.eval\(\)"):
        sam_label_noise(nn.Sequential(mlp(), nn.Dropout(0.5)), inputs(), LABELS)


@pytest.mark.parametrize("linear", [False, True])
def test_sam_goes_through_a_transformer_layer(linear):
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    model, x = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3)).double().eval(), torch.randn(3, 3, 4, dtype=D)
    noise = sam_label_noise(model, x, torch.tensor([0, 1, 2]), rho=1e-5, linear=linear)
    other = sam_label_noise(model, x, torch.tensor([0, 1, 2]), rho=1e-5, linear=not linear)
    assert float((noise - other).abs().max()) < 1e-3 * float(other.abs().max()) > 0


# ---------------------------------------------------------------------- ranking
class Items(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


def test_the_ranking_is_the_order_of_the_moments():
    model, x = mlp(), inputs()
    q = uneven(model, 0.5)
    table = rank_examples(model, q, x, LABELS, method="exact")
    noise = label_noise_moments(model, q, x)
    assert len(table) == 7 and sorted(table.index) == list(range(7))
    assert (np.diff(table.noise) <= 0).all() and table.noise[0] > table.noise[-1]
    order, own = torch.from_numpy(table.index), LABELS[:, None]
    assert np.array_equal(table.noise, noise.magnitude[order].numpy())
    assert np.array_equal(table.label, LABELS[order].numpy())
    assert np.array_equal(table.predicted, model(x).argmax(1)[order].numpy())
    on_label = noise.mean_shift.gather(1, own)[:, 0]
    assert np.allclose(table.label_noise, on_label[order], rtol=1e-12)
    chance = (torch.softmax(model(x).detach(), -1) - noise.mean_shift).gather(1, own)[:, 0]  # E_q p(label)
    assert np.allclose(table.disagreement, 1 - chance[order], rtol=1e-12)
    assert list(table.columns()) == ["index", "label", "predicted", "noise", "label_noise", "disagreement"]


def test_the_ranking_for_a_single_logit():
    model, x, labels = mlp(1), inputs(), LABELS.clamp_max(1)
    q = uneven(model, 0.5)
    table = rank_examples(model, q, x, labels, method="exact")
    noise, order = label_noise_moments(model, q, x), torch.from_numpy(table.index)
    expected = torch.sigmoid(model(x).detach())[:, 0] - noise.mean_shift[:, 0]  # E_q p(1)
    assert np.allclose(table.disagreement, (labels - expected).abs()[order], rtol=1e-12)
    assert np.allclose(table.label_noise, torch.where(labels == 1, 1, -1)[order] * noise.mean_shift[order, 0])
    assert np.array_equal(table.predicted, (model(x)[:, 0] > 0).long()[order].numpy())
    with pytest.raises(ValueError, match="has 2 classes; labels go from 0 to 1"):
        rank_examples(model, q, x, LABELS)


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_every_kind_of_data_set_gives_the_same_table(batch_size):
    model, x = mlp(), inputs()
    q = uneven(model)
    first = rank_examples(model, q, x, LABELS).columns()
    kinds = {"numpy": x.numpy(), "items": Items(x), "tuples": TensorDataset(x, LABELS), "lists": Items(list(x))}
    for name, data in {"tensor": x, **kinds}.items():
        for labels in (LABELS, LABELS.numpy(), LABELS.tolist()):
            table = rank_examples(model, q, data, labels, batch_size=batch_size).columns()
            for column, values in first.items():
                assert np.allclose(values, table[column], rtol=1e-10), (name, column)


def test_options_are_passed_on_and_progress_ends_at_the_end():
    model, x, calls = mlp(6), inputs(), []
    q = uneven(model, 0.5)

    def noise(**options):
        return rank_examples(model, q, x, LABELS, **options).noise

    rank = rank_examples(model, q, x, LABELS, rank=1, progress=lambda *done: calls.append(done), batch_size=3)
    assert calls == [(3, 7), (6, 7), (7, 7)]
    low = label_noise_moments(model, q, x, method="rank", rank=1).magnitude.numpy()
    assert np.allclose(rank.noise, low[rank.index], rtol=1e-10)
    assert not np.allclose(noise(rank=1), noise(rank=6))
    assert np.allclose(noise(rank=6), noise(method="exact"))
    assert not np.allclose(noise(linear=True), noise())
    drawn = [noise(method="monte_carlo", num_samples=8, generator=torch.Generator().manual_seed(i)) for i in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


RANK_ERRORS = {
    "out of range": ({"labels": LABELS + 1}, r"labels\[1\] is 3 and the model has 3 classes; labels go from 0 to 2"),
    "wrong number": ({"labels": LABELS[:6]}, r"labels have shape \(6,\); 7 examples need \(7,\)"),
    "no examples": ({"dataset": torch.zeros(0, 4, dtype=D), "labels": LABELS[:0]}, "empty; pass at least one example"),
    "batch size": ({"batch_size": 0}, "batch_size=0 is not allowed; choose a whole number >= 1"),
    "rank": ({"rank": 0}, "rank=0 is not allowed; choose a whole number >= 1"),
}


@pytest.mark.parametrize("name", RANK_ERRORS)
def test_ranking_errors(name):
    changes, message = RANK_ERRORS[name]
    model = mlp()
    with pytest.raises(ValueError, match=message):
        rank_examples(model, uneven(model), **{"dataset": inputs(), "labels": LABELS, **changes})


def test_the_table_as_csv(tmp_path):
    model, x = mlp(), inputs()
    table = rank_examples(model, uneven(model), x, LABELS)
    path = tmp_path / "ranking.csv"
    table.to_csv(path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, values in table.columns().items():
        assert np.array_equal(np.array([row[name] for row in rows], dtype=values.dtype), values), name


# ---------------------------------------------------------------------- what cannot be
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
    kind = {"TransformerEncoderLayer": "MultiheadAttention"}.get(kind, kind)  # the first that draws
    with pytest.raises(ValueError, match=rf"the model's {kind} '1.* is in training mode.*call model.eval\(\)"):
        label_noise(model, uneven(model), inputs(2))


def test_sam_does_not_perturb_frozen_parameters():
    torch.manual_seed(0)
    model, x, labels = mlp(), torch.randn(3, 4, dtype=D), torch.tensor([0, 1, 2])
    model[0].requires_grad_(False)
    head, hidden = model[2], model[1](model[0](x))
    expected = sam_label_noise(head, hidden, labels, rho=0.1)
    assert torch.allclose(sam_label_noise(model, x, labels, rho=0.1), expected, atol=1e-14)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
        sam_label_noise(model, x, labels)


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
    """Scales, and fails when asked to, forward or backward."""

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
    model[1].train()  # a flag that does not matter
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
