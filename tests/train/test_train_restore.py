"""A saved run is restored exactly: weights, posterior, images; otherwise the errors are clear."""

import json
import shutil

import numpy as np
import pytest
import torch
from training import StopAt, differences, tiny

from vlls._errors import DataError
from vlls.train import Interrupted, LoadedRun, RunConfig, RunData, load_run, run
from vlls.train._evaluate import predict_probabilities
from vlls.train._prepare import prepare
from vlls.train._trainer import Trainer, make_model

Image = pytest.importorskip("PIL.Image")
ROWS = np.arange(200)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Return a finished run, whose folder the tests copy before they change it."""
    return run(tiny(method="ivon", epochs=1, train_size=200, validation_size=50), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def copy(kept, tmp_path):
    return shutil.copytree(kept.folder, tmp_path / kept.folder.name)


def weights(model):
    return dict(model.state_dict())


def change(path, **entries):
    """Replace entries of a checkpoint or a record."""
    if path.suffix == ".pt":
        torch.save({**torch.load(path, weights_only=True), **entries}, path)
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


# ------------------------------------------------------------------ restored runs
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "ivon", "epochs": 2},
        {"method": "ivon", "mc_samples": 2, "epochs": 1, "beta2": 0.9},
        {"method": "ivon_fixed", "epochs": 1},
        {"method": "vgd", "epochs": 1},
        pytest.param({"method": "ivon", "model": "resnet18", "epochs": 1, "train_size": 60}, marks=pytest.mark.slow),
        {"method": "sgd", "epochs": 1},
        {"method": "sam", "epochs": 1},
        {"method": "ols", "epochs": 1},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_weights_and_posterior_are_the_runs_bit_for_bit(tmp_path, changes):
    result = run(tiny(**{"train_size": 200, "eval_samples": 0, **changes}), tmp_path)
    loaded = load_run(result.folder)
    assert isinstance(loaded, LoadedRun)
    assert differences(weights(loaded.model), weights(result.model)) == []
    assert not loaded.model.training
    assert (loaded.status, loaded.config, loaded.epochs) == ("finished", result.config, result.epochs)
    if result.posterior is None:
        assert loaded.posterior is None
    else:
        assert differences(loaded.posterior.mean, result.posterior.mean) == []
        assert differences(loaded.posterior.std, result.posterior.std) == []
        for name, parameter in loaded.model.named_parameters():
            assert torch.equal(loaded.posterior.mean[name], parameter)


@torch.no_grad()
@pytest.mark.parametrize("part", ["test", "validation", "train"])
def test_accuracies_of_the_record_are_found_again(kept, part):
    loaded = load_run(str(kept.folder))
    images = loaded.images(part)
    predicted = loaded.model(images.batch(range(len(images)))).argmax(1)
    if part == "train":
        found = float((predicted == images.clean)[images.clean == images.given].float().mean())
        assert found == pytest.approx(kept.final["clean_part_accuracy"], abs=1e-6)
    else:
        found = float((predicted == images.given).float().mean())
        assert found == pytest.approx(kept.final[f"{part}_accuracy"], abs=1e-6)


@torch.no_grad()
def test_images_are_those_that_the_trainer_shows_the_network(kept):
    loaded, data = load_run(kept.folder), prepare(kept.config)
    images = loaded.images()
    assert np.array_equal(images.given, data.train.given)
    assert np.array_equal(images.clean, data.train.clean)
    assert len(images) == 200 and images.classes == data.classes
    assert 0.2 < float((images.given != images.clean).float().mean()) < 0.6
    whole = images.batch(range(200))
    assert whole.dtype == torch.float32 and whole.shape == (200, 1, 8, 8)
    assert abs(float(whole.mean())) < 1e-5 and abs(float(whole.std()) - 1) < 1e-3
    trainer = Trainer(kept.config, data, torch.device("cpu"))
    trainer.model.load_state_dict(loaded.model.state_dict())
    probabilities, _ = predict_probabilities(trainer, data.train)
    assert torch.equal(loaded.model(whole).softmax(1), probabilities)
    probabilities, _ = predict_probabilities(trainer, data.test)  # with the training images' mean and deviation
    test = loaded.images("test")
    assert torch.equal(loaded.model(test.batch(range(len(test)))).softmax(1), probabilities)
    assert torch.equal(images[7], whole[7]) and torch.equal(images[-1], whole[199])
    batches = list(torch.utils.data.DataLoader(images, batch_size=64))
    assert torch.equal(torch.cat(batches), whole)
    assert np.array_equal(images.pixels(3), data.train.images[3])
    first = images.first(5)
    assert len(first) == 5 and torch.equal(first[4], whole[4]) and torch.equal(first.given, images.given[:5])
    assert len(images.first(10**6)) == 200
    assert images.path(0) is None
    with pytest.raises(IndexError):
        images[200]


def test_a_run_that_was_cut(tmp_path):
    config = tiny(method="ivon", epochs=2, train_size=200)
    with pytest.raises(Interrupted) as caught:
        run(config, tmp_path, reporters=[StopAt(6)])
    folder = caught.value.checkpoint.parent
    loaded = load_run(folder)
    assert (loaded.status, loaded.step, len(loaded.epochs)) == (
        "unfinished",
        6,
        6 // (200 // config.resolved().batch_size),
    )
    assert loaded.config == config.resolved()
    assert loaded.posterior is not None
    # a checkpoint of a version that kept the config only in the record cannot be loaded without a record
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    del state["config"]
    torch.save(state, folder / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"record\.json only, and there is none; finish the run with vlls train --res"):
        load_run(folder)
    run(config, tmp_path, resume=True)  # but it can be resumed


def test_old_checkpoints_take_the_config_of_the_record(copy, kept):
    state = torch.load(copy / "checkpoint.pt", weights_only=True)
    del state["config"]
    torch.save(state, copy / "checkpoint.pt")
    assert load_run(copy).config == kept.config


def test_a_config_with_fewer_fields_is_that_of_the_run(copy, kept):
    fewer = {name: value for name, value in kept.config.to_dict().items() if name != "image_size"}
    change(copy / "checkpoint.pt", config=fewer)
    assert load_run(copy).config == kept.config


def test_no_pretrained_weights_are_fetched_for_a_run_that_has_its_own(kept, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "vlls.train._restore.make_model", lambda *given, **how: (asked.append(how), make_model(*given, **how))[1]
    )
    load_run(kept.folder)
    assert asked == [{"pretrained": False}]


def test_loading_leaves_the_random_numbers_alone(kept):
    before = torch.get_rng_state()
    load_run(kept.folder)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ images in files
@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cat", "dog")):
        for i in range(10):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((rng.integers(0, 100, (20, 20, 3)) + 100 * k).astype(np.uint8)).save(path)
    return tmp_path / "photos"


@torch.no_grad()
def test_a_folder_of_images(photos, tmp_path):
    config = RunConfig(
        dataset=str(photos), method="ivon", model="cnn3", image_size=16, epochs=1, batch_size=4, eval_samples=0,
        pretrained=False, corruption="symmetric", rate=0.2,
    )  # fmt: skip
    result = run(config, tmp_path / "runs", workers=0)
    loaded = load_run(result.folder)
    images = loaded.images()
    assert (len(images), images.classes) == (16, ("cat", "dog"))
    assert images[0].shape == (3, 16, 16) and images.pixels(0).shape == (16, 16, 3)
    name = images.classes[int(images.clean[3])]
    assert images.path(3).parent.name == name and images.path(3).exists()
    test = loaded.images("test")
    predicted = loaded.model(test.batch(range(len(test)))).argmax(1)
    assert float((predicted == test.given).float().mean()) == pytest.approx(result.final["test_accuracy"])
    images.path(2).write_bytes(b"no image")
    assert torch.equal(images[2 - len(images)], images[3])
    assert images.unreadable == {2}
    shutil.copy(images.path(3), photos / "cat" / "new1.png")
    shutil.copy(images.path(3), photos / "cat" / "new2.png")
    with pytest.raises(ValueError, match=r"has \d+ training images and the run .* was trained on 16: the data have"):
        load_run(result.folder)
    shutil.rmtree(photos)
    with pytest.raises(ValueError, match="the data of the run .* cannot be had: .*photos is no folder"):
        load_run(result.folder)


def test_a_folder_of_images_that_moved_with_its_runs_is_found(photos, tmp_path):
    config = RunConfig(
        dataset=str(photos), method="sgd", model="cnn3", image_size=16, epochs=1, batch_size=4, pretrained=False
    )
    name = run(config, tmp_path / "runs", workers=0).folder.name
    (tmp_path / "there").mkdir()
    for moved in (tmp_path / "runs", photos):
        shutil.move(moved, tmp_path / "there")
    assert len(load_run(tmp_path / "there" / "runs" / name).images()) == 16


@pytest.mark.parametrize("moved", ["train", "test"])
def test_a_folder_whose_images_changed_places(photos, tmp_path, moved):
    for path in list(photos.glob("*/*")):
        part = "test" if path.stem in "012" else "train"
        place = photos / part / path.parent.name / f"{path.parent.name}{path.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    for name in ("cat", "dog"):
        (photos / name).rmdir()
    config = RunConfig(
        dataset=str(photos), method="sgd", model="cnn3", image_size=16, epochs=1, batch_size=4, pretrained=False
    )
    folder = run(config, tmp_path / "runs", workers=0).folder
    load_run(folder)
    first, second = (next((photos / moved / name).iterdir()) for name in ("cat", "dog"))
    first.rename(photos / moved / "dog" / first.name)
    second.rename(photos / moved / "cat" / second.name)
    refused(folder, f"{photos} has changed since the run", f"are in its part(s) {moved};", "vlls train --overwrite")
    change(folder / "checkpoint.pt", fingerprints={})  # by a version that kept none
    assert len(load_run(folder).images("train")) == 14


def test_data_that_were_passed_to_the_run_are_passed_again(tmp_path):
    config = tiny(method="ivon", epochs=1, train_size=200, eval_samples=0)
    whole = prepare(config)
    data, other = (RunData(whole.train.subset(rows), None, whole.test, whole.classes) for rows in np.split(ROWS, 2))
    result = run(config, tmp_path, data=data)
    loaded = load_run(result.folder, data=data)
    assert loaded.data is data and differences(weights(loaded.model), weights(result.model)) == []
    assert torch.equal(loaded.images().given, torch.from_numpy(data.train.given))
    with pytest.raises(ValueError, match=r"was trained on other data than those given: .* part\(s\) train differ"):
        load_run(result.folder, data=other)


def test_labels_in_memory_that_changed(copy):
    state = torch.load(copy / "checkpoint.pt", weights_only=True)
    assert sorted(state["fingerprints"]) == ["test", "train", "validation"]
    change(copy / "checkpoint.pt", fingerprints={**state["fingerprints"], "train": "0" * 16})
    refused(copy, "digits has changed since the run", "part(s) train;")


# ------------------------------------------------------------------ errors
def refused(folder, *words, **options):
    with pytest.raises(ValueError) as caught:
        load_run(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_folders_that_are_none_of_a_run(kept, tmp_path):
    refused(tmp_path / "no", "no does not exist", "pass the folder of a run")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "file is a file", "pass the folder of a run")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no checkpoint.pt")
    refused(kept.folder.parent, "a folder of runs, not of one", kept.folder.name)


def test_a_run_without_its_weights(copy):
    (copy / "checkpoint.pt").unlink()
    refused(copy, "only the record of a run that is finished", "vlls train --overwrite")


def test_a_diverged_run_has_no_weights(tmp_path):
    result = run(tiny(method="sgd", lr=1e20, epochs=1), tmp_path)
    assert result.status == "diverged"
    refused(result.folder, "a run that is diverged")


def test_damaged_files(copy):
    whole = (copy / "checkpoint.pt").read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1000):
        (copy / "checkpoint.pt").write_bytes(whole[:length])
        refused(copy, "is truncated or not one of vlls", "train the run again")
    (copy / "checkpoint.pt").write_bytes(whole)
    (copy / "record.json").write_text("{")
    refused(copy, "record.json cannot be read")


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code was run",))


def test_a_checkpoint_runs_no_code(copy):
    torch.save({"format": 1, "key": "x", "model": Evil()}, copy / "checkpoint.pt")
    refused(copy, "truncated or not one of vlls")


def test_checkpoints_of_others(copy, kept):
    change(copy / "checkpoint.pt", key="another")
    refused(copy, "belongs to another config (key another")
    change(copy / "checkpoint.pt", key=kept.config.key, format=99)
    refused(copy, "not one that this version of vlls wrote")


def test_configs_of_another_version(copy, kept):
    values = kept.config.to_dict()
    change(copy / "checkpoint.pt", config={**values, "colour": "red"})  # under which older runs went
    with pytest.warns(UserWarning, match="field='colour' is of a newer version of vlls, and left out"):
        assert load_run(copy).config == kept.config
    for name in ("record.json", "checkpoint.pt"):
        change(copy / name, key="another", config={**values, "colour": "blue"})
    refused(
        copy, "is of another version of vlls (field='colour' is unknown", "load it with the version that wrote it ("
    )
    change(copy / "checkpoint.pt", config={**values, "method": "newton"})
    refused(copy, "of another version", "method='newton'")
    change(copy / "checkpoint.pt", config={**values, "seed": 7})
    refused(copy, "changed by hand")
    change(copy / "checkpoint.pt", config="digits")
    refused(copy, "of another version")


def test_weights_that_do_not_fit(copy):
    state = torch.load(copy / "checkpoint.pt", weights_only=True)
    change(copy / "checkpoint.pt", model=dict(list(state["model"].items())[1:]))
    refused(copy, "do not fit the run's network and data", "Missing key")
    change(copy / "checkpoint.pt", model=state["model"], optimizer={})
    refused(copy, "do not fit the run's network and data")


def test_data_that_are_not_there(copy, tmp_path, monkeypatch):
    config = RunConfig(dataset="mnist", epochs=1).resolved()
    for name in ("checkpoint.pt", "record.json"):
        change(copy / name, key=config.key, config=config.to_dict())

    def nothing(*_):
        raise DataError("no mnist here")

    monkeypatch.setattr("vlls.train._restore.prepare", nothing)
    refused(copy, "the data of the run", "cannot be had: no mnist here", root=tmp_path)


def test_parts(kept, tmp_path):
    loaded = load_run(kept.folder)
    with pytest.raises(ValueError, match="part='tests' is unknown .*did you mean 'test'"):
        loaded.images("tests")
    without = run(tiny(method="sgd", epochs=1, train_size=200, eval_samples=0), tmp_path)
    with pytest.raises(ValueError, match="held no images out .* choose train or test"):
        load_run(without.folder).images("validation")
    with pytest.raises(ValueError, match="tpu"):
        load_run(kept.folder, device="tpu")
