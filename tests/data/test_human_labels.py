"""Labels that people gave in place of a data set's own, and the real data sets where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
from small_data import assert_holds, one_line, small

from vlls.data import DATASETS, load


# ------------------------------------------------------------------ human labels
@pytest.fixture
def human(tmp_path):
    arrays = small(train=30)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    labels = {"clean_label": arrays["train_y"], "worse_label": (arrays["train_y"] + 3) % 10}
    np.savez(tmp_path / "cifar10n.npz", **labels)
    return tmp_path, arrays, labels


def test_human_labels_replace_the_training_labels(human):
    root, arrays, labels = human
    data = load("cifar10", root, labels="cifar10n:worse_label")
    assert data.train_y.tolist() == labels["worse_label"].tolist()
    assert data.clean_train_y.tolist() == arrays["train_y"].tolist()
    assert (data.train_y.dtype, data.clean_train_y.dtype) == (np.int64, np.int64)
    assert_holds(data, {key: arrays[key] for key in ("train_x", "test_x", "test_y")})
    assert np.array_equal(load("cifar10", root, labels="cifar10n:clean_label").train_y, arrays["train_y"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "cifar10n:worst_label",
            r"unknown \(did you mean 'cifar10n:worse_label'\?\); .*cifar10n:aggre_label.*cifar100n",
        ),
        ("cifar1n:worse_label", r"did you mean 'cifar10n:worse_label'\?"),
        ("cifar10n", "^labels='cifar10n' is unknown.*choose one of cifar10n:clean_label"),
        ("cifar100n:noisy_label", "^labels='cifar100n:noisy_label' belong to 'cifar100', not to 'cifar10'; load"),
        (7, "^labels=7 is unknown"),
        ("cifar10n:aggre_label", "cifar10n.npz lacks aggre_label and holds clean_label, worse_label"),
    ],
)
def test_unknown_human_labels(human, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        load("cifar10", human[0], labels=labels)
    assert one_line(caught)


@pytest.mark.parametrize("name", ["mnist", "digits", "clothing1m", "a/folder"])
def test_human_labels_of_another_data_set(name):
    with pytest.raises(ValueError, match=f"belong to 'cifar10', not to '{name}'"):
        load(name, labels="cifar10n:worse_label")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"clean_label": np.roll(np.arange(30) % 10, 1)},
            "clean_label differs from .* for 30 of 30 .* the order differs",
        ),
        ({"worse_label": np.zeros(29, int)}, r"worse_label has shape \(29,\) beside 30 training images"),
        ({"clean_label": np.zeros((30, 1), int)}, r"clean_label has shape \(30, 1\)"),
        ({"worse_label": np.full(30, 10)}, "worse_label as cifar10: train_y holds 30 label.* outside 0 to 9"),
        ({"worse_label": np.zeros(30)}, "worse_label is float64; labels must be integers"),
    ],
)
def test_bad_human_labels(human, change, message):
    root, _, labels = human
    np.savez(root / "cifar10n.npz", **(labels | change))
    with pytest.raises(ValueError, match=message) as caught:
        load("cifar10", root, labels="cifar10n:worse_label", fallback="digits")
    assert str(root / "cifar10n.npz") in str(caught.value)
    assert one_line(caught)


def test_missing_human_labels(human):
    (human[0] / "cifar10n.npz").unlink()
    with pytest.raises(ValueError, match=r"cifar10n is not under .*; put there cifar10n.npz with clean_label"):
        load("cifar10", human[0], labels="cifar10n:worse_label")
    with pytest.warns(UserWarning, match="going on with 'digits' without labels"):
        assert load("cifar10", human[0], labels="cifar10n:worse_label", fallback="digits").name == "digits"


# ------------------------------------------------------------------ the real ones, where they are
REAL = os.environ.get("VLLS_DATA")


def real(*names):
    there = REAL is not None and all(any(Path(REAL).glob(name)) for name in names)
    return pytest.mark.skipif(not there, reason=f"VLLS_DATA has no {', '.join(names)}")


@real("MNIST/raw/*images*")
def test_real_mnist():
    data = load("mnist", download=False)
    assert (data.train_x.shape, data.test_x.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert np.bincount(data.train_y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.train_y[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.train_x.mean() / 255 == pytest.approx(0.1307, abs=1e-4)


@real("cifar10.npz", "cifar10n.npz")
def test_real_cifar10_with_human_labels():
    data = load("cifar10", labels="cifar10n:worse_label", download=False)
    assert (data.train_x.shape, data.test_x.shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    assert np.bincount(data.clean_train_y).tolist() == [5000] * 10
    assert np.bincount(data.test_y).tolist() == [1000] * 10
    assert (data.train_y != data.clean_train_y).mean() == pytest.approx(0.402, abs=5e-4)
    assert data.train_x.mean(axis=(0, 1, 2)) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-4)


@real("cifar100.npz", "cifar100n.npz")
def test_real_cifar100_with_human_labels():
    data = load("cifar100", labels="cifar100n:noisy_label", download=False)
    assert data.classes == DATASETS["cifar100"].classes
    assert np.bincount(data.clean_train_y).tolist() == [500] * 100
    assert (data.train_y != data.clean_train_y).mean() == pytest.approx(0.402, abs=5e-4)
