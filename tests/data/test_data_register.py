"""A data set is a record: one that is made up here is loaded and trained on as the book's are."""

from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.data import DATASETS, Dataset, ImageArrays, _known, load, register
from vlls.train import RunConfig, run


def read_stripes(dataset: Dataset, root: Path, download: bool) -> ImageArrays:
    """Return images of stripes that run across or along."""
    random = np.random.RandomState(0)
    labels = random.randint(0, 2, 200)
    images = np.where(np.arange(8)[:, None] % 2, random.randint(160, 256, (200, 8, 8)), 40).astype(np.uint8)
    images[labels == 1] = images[labels == 1].swapaxes(1, 2)
    train, test = slice(160), slice(160, 200)
    x, y = images[..., None], labels.astype(np.int64)
    return ImageArrays(dataset.name, x[train], y[train], x[test], y[test], dataset.classes, y[train])


@pytest.fixture
def stripes():
    register(Dataset(name="stripes", classes=("across", "along"), read=read_stripes, presets={"epochs": 3}))
    yield DATASETS["stripes"]
    del _known._DATASETS["stripes"]


@pytest.mark.slow
def test_a_registered_data_set_is_loaded_trained_on_and_known_everywhere(stripes, tmp_path):
    data = load("stripes", tmp_path)
    assert (data.num_classes, len(data.train_x), len(data.test_x)) == (2, 160, 40)
    config = RunConfig(dataset="stripes", method="sgd").resolved()
    assert (config.model, config.epochs) == ("cnn3", 3)  # defaults of small images, except for the record's own
    result = run(RunConfig(dataset="stripes", method="sgd", epochs=1, batch_size=10), tmp_path)
    assert result.status == "finished" and result.final["test_accuracy"] > 0.9
    shown = CliRunner().invoke(app, ["train", "--dataset", "stripes", "--method", "sgd", "--dry-run"])
    assert shown.exit_code == 0 and "SGD on stripes, 3 epochs" in shown.stdout
    with pytest.raises(ValueError, match=r"name='stripe' is unknown \(did you mean 'stripes'\?\)"):
        load("stripe")
    with pytest.raises(ValueError, match="belong to 'cifar10', not to 'stripes'"):
        load("stripes", labels="cifar10n:worse_label")


def test_without_a_reader_it_is_an_arrays_file(stripes, tmp_path, monkeypatch):
    monkeypatch.setitem(_known._DATASETS, "stars", Dataset(name="stars", classes=("dwarf", "giant")))
    with pytest.raises(ValueError, match=r"stars is not under .*; put there stars.npz with train_x \(uint8\)"):
        load("stars", tmp_path)
    data = load("stripes")
    arrays = {key: getattr(data, key) for key in ("train_x", "train_y", "test_x", "test_y")}
    np.savez(tmp_path / "stars.npz", **arrays)
    found = load("stars", tmp_path)
    assert found.classes == ("dwarf", "giant") and np.array_equal(found.train_x, data.train_x)


def test_the_command_line_imports_a_record(tmp_path, monkeypatch):
    lines = ("from vlls.data import Dataset, register", 'register(Dataset(name="moons", classes=("new", "full")))')
    (tmp_path / "my_moons.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    try:
        shown = CliRunner().invoke(app, ["--import", "my_moons", "train", "--dataset", "moons", "--dry-run"])
    finally:
        _known._DATASETS.pop("moons", None)
    assert shown.exit_code == 0 and "IVON on moons" in shown.stdout


def test_what_is_refused(stripes):
    with pytest.raises(ValueError, match="^a data set 'stripes' is registered already; choose another name$"):
        register(stripes)
    with pytest.raises(ValueError, match=r"^the data set 'one' has classes \('a',\); name at least two$"):
        register(Dataset(name="one", classes=("a",)))


@pytest.mark.parametrize("name", DATASETS)
def test_each_record_of_the_book_names_a_reader(name):
    dataset = DATASETS[name]
    assert dataset.name == name and len(set(dataset.classes)) == len(dataset.classes) >= 2
    assert isinstance(dataset.read, str) and callable(resolve_name(dataset.read))
    assert dataset.in_memory == bool(dataset.train_size)


def test_sweeps_plan_with_the_number_of_training_images():
    assert DATASETS["digits"].train_size == len(load("digits").train_x)
