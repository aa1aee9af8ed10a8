"""Examples in the order of their label noise."""

import csv
import warnings

import numpy as np
import pytest
import torch
from cases import D
from small_network import LABELS, inputs, mlp, uneven
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from vlls.noise import label_noise_moments, rank_examples

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


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


@pytest.mark.parametrize("num, told", [(19, True), (20, False)])
def test_an_uncertain_disagreement_of_more_than_one_example_in_twenty_is_told(num, told):
    model, x = nn.Linear(4, 3, bias=False).double(), torch.zeros(num, 4, dtype=D)
    x[0] = 5.0  # the others have no noise
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        how = {"method": "monte_carlo", "num_samples": 16, "generator": torch.Generator().manual_seed(0)}
        rank_examples(model, uneven(model, 1.0), x, torch.zeros(num, dtype=torch.int64), **how)
    assert [str(w.message)[:40] for w in caught] == [f"the disagreement of 1 of {num} examples has"[:40]] * told


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
