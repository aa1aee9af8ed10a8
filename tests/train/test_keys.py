"""Keys of runs: the values that they hash, and that no new field and no new method changes them."""

import dataclasses
import json
import warnings
from pathlib import Path

import pytest
from training import StopAt, differences, tiny, without_machine

from vlls.experiments import EXPERIMENTS, cells
from vlls.train import METHODS, Interrupted, Method, RunConfig, load_run, methods, run
from vlls.train import _keys as keys
from vlls.train._config import ResolvedConfig
from vlls.train._files import CHECKPOINT, RECORD, load_checkpoint, load_record, save_checkpoint, save_record

KNOWN = {  # a change here renames the runs that people keep
    "e9f07609acac": {"dataset": "cifar10", "corruption": "symmetric", "rate": 0.4, "seed": 3},
    "ce5dfa161681": {"hess_init": 0.9, "beta2": 0.99999},
    "b9dafb571ed2": {"method": "sgd", "dataset": "mnist", "lr": 0.1, "milestones": (0.3, 0.6)},
    "2381609cac07": {"method": "ls", "dataset": "cifar100", "corruption": "pair_flip", "rate": 0.2, "smoothing": 0.3},
    "4996b22bc5d4": {"method": "sam", "corruption": "class_dependent", "rate": 0.3, "precision": "float32"},
    "e1a4c2caa8cb": {"method": "acls", "dataset": "cifar10", "labels": "cifar10n:worse_label", "validation_size": 100},
    "ef057fe1ee1b": {"method": "vgd", "ess": 1e5, "clip_radius": 0.5, "mc_samples": 2, "augment": False, "seed": 9},
}


@pytest.mark.parametrize("key", KNOWN)
def test_known_keys(key):
    config = RunConfig(**KNOWN[key])
    assert config.key == key and config.resolved().key == key and config.name.endswith(f"-{key}")


# ------------------------------------------------------------------ new fields and methods
def test_every_field_says_under_which_value_runs_went_without_it():
    """Give a new field of RunConfig a line of INTRODUCED in vlls/train/_keys.py; change none of the others."""
    assert set(keys.INTRODUCED) == {field.name for field in dataclasses.fields(RunConfig)}


@pytest.fixture
def runs() -> list[ResolvedConfig]:
    """Return configs of this version: each method on each data set, those of all smoke sweeps, and the known ones."""
    found = [cell.config for name in EXPERIMENTS for cell in cells(name, "smoke", seeds=1)]
    found += [RunConfig(**fields).resolved() for fields in KNOWN.values()]
    return found + [
        RunConfig(dataset=dataset, method=method).resolved()
        for dataset in ("digits", "cifar10", "cifar100", "clothing1m")
        for method in METHODS
    ]


@pytest.fixture
def newer(monkeypatch):
    """Return a function that converts a config of this version to a newer version with two new fields.

    All methods read the first; a new method and LS, which had its value built in, read the second.
    """
    monkeypatch.setattr(keys, "INTRODUCED", {**keys.INTRODUCED, "colour": "red", "charm": 0.5})
    reads = {"charm": 0.5, "strangeness": 2.0}
    monkeypatch.setitem(methods._METHODS, "made_up", Method(name="made_up", reads=reads))
    ls = dataclasses.replace(METHODS["ls"], reads={**METHODS["ls"].reads, "charm": 0.5})
    monkeypatch.setitem(methods._METHODS, "ls", ls)

    @dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
    class Newer(ResolvedConfig):
        colour: str = "red"
        charm: float | None = None

    def of(config: ResolvedConfig, **changes):
        charm = {"charm": 0.5} if config.method == "ls" else {}
        return Newer(**{**config._values(), **charm, **changes})

    return of


def test_a_new_field_and_a_new_method_orphan_no_run(runs, newer, monkeypatch):
    found = [keys.run_key(newer(config)) for config in runs]
    base = next(config for config in runs if config.method == "ls")
    both = [keys.run_key(newer(base, colour=colour, charm=charm)) for colour in ("red", "blue") for charm in (0.5, 1)]
    monkeypatch.undo()
    assert found == [config.key for config in runs]
    assert len(set(both)) == 4 and both[0] == base.key


def test_different_runs_have_different_keys_where_older_ones_had(runs):
    older: dict[str, str] = {}
    for config in runs:
        assert older.setdefault(keys.older_key(config), config.key) == config.key
    assert len(set(older.values())) == len(older) > 300


def test_a_run_that_older_versions_could_not_make_is_not_taken_for_one_of_theirs(tmp_path):
    plain, averaged = tiny(method="sgd", epochs=1).resolved(), tiny(method="sgd", epochs=1, ema=0.9).resolved()
    older = aged(run(plain, tmp_path).folder, plain)
    assert keys.run_folder(tmp_path, plain) == older != keys.run_folder(tmp_path, averaged)
    assert "ema_accuracy" in run(averaged, tmp_path).final


# ------------------------------------------------------------------ fields that count
def test_it_is_of_what_is_run_not_of_how_it_was_said():
    short = RunConfig(dataset="cifar10", method="sam")
    long = RunConfig(dataset="cifar10", method="sam", lr=0.05, rho=0.05, epochs=200, milestones=[0.5, 0.75])
    assert short.key == long.key == short.resolved().key
    assert RunConfig(method="sgd", lr=1).key == RunConfig(method="sgd", lr=1.0).key
    assert RunConfig(method="sgd", weight_decay=-0.0).key == RunConfig(method="sgd", weight_decay=0).key
    assert RunConfig(method="sgd", milestones=[0.5]).key == RunConfig(method="sgd", milestones=(0.5,)).key


def test_every_field_that_the_method_reads_counts():
    changes = {"labels": "cifar10n:worse_label", "train_size": 7, "validation_size": 7, "image_size": 9, "seed": 1,
               "corruption": "pair_flip", "rate": 0.2, "rate_step": 0.07, "model": "resnet18", "pretrained": True,
               "epochs": 7, "batch_size": 7, "lr": 7.0, "schedule": "constant", "warmup_epochs": 0.7, "momentum": 0.7,
               "milestones": (0.7,), "weight_decay": 0.7, "smoothing": 0.7, "alpha": 0.7, "margin": 0.7, "rho": 0.7,
               "ess": 7.0, "hess_init": 0.7, "beta2": 0.7, "hess_approx": "gradsq", "clip_radius": 0.7, "mc_samples": 7,
               "augment": True, "precision": "float32", "eval_every": 7, "thorough_every": 7, "eval_samples": 7,
               "ema": 0.7, "posterior": "learned", "hess_clip": 0.7, "hess_every": 7, "dataset": "cifar10",
               "method": "vgd"}  # fmt: skip
    assert changes.keys() == keys.INTRODUCED.keys() - {"options"}
    for method in ("ivon", "ols", "acls", "sam"):
        unread = methods.unread_by(method)
        base = RunConfig(dataset="mnist", method=method, corruption="class_dependent", rate=0.1).resolved()
        for name, value in changes.items():
            if name in ("labels", "method") or name in unread:
                continue  # not with corruption, nor by itself
            other = {name: value} if name != "corruption" else {name: value, "rate": 0.1}
            assert dataclasses.replace(base, **other).key != base.key, (method, name)


# ------------------------------------------------------------------ configs of other versions
def test_fields_of_newer_versions_are_left_out_where_the_run_does_not_depend_on_them(newer):
    base = RunConfig(method="sgd", lr=0.1).resolved()
    values = newer(base).to_dict()
    assert values["colour"] == "red" and values["charm"] is None
    with pytest.warns(UserWarning, match="field='(colour|charm)' is of a newer version of vlls, and left out"):
        assert RunConfig.from_dict(values, keys.run_key(newer(base))) == base
    with pytest.raises(ValueError, match="field='colour' is unknown") as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        RunConfig.from_dict({**values, "colour": "blue"}, keys.run_key(newer(base, colour="blue")))
    assert "\n" not in str(error.value)


def test_a_null_of_a_newer_version_is_left_out_with_a_warning():
    base = RunConfig(method="sgd")
    with pytest.warns(UserWarning, match="field='rhoo' is of a newer version"):
        assert RunConfig.from_dict({**base.to_dict(), "rhoo": None}) == base


def test_fields_that_an_older_version_had_not_take_their_defaults():
    values = RunConfig(method="sgd").resolved().to_dict()
    del values["thorough_every"], values["image_size"]
    assert RunConfig.from_dict(values).key == RunConfig(method="sgd").key


# ------------------------------------------------------------------ runs that an older version named
def aged(folder, config):
    """Rename a run as the last version with the old keys would have named it; that version had fewer fields."""
    key = keys.older_key(config)
    written = {"key": key, "config": {name: config.to_dict()[name] for name in keys._FIRST}}
    older = folder.rename(folder.with_name(f"{folder.name[:-12]}{key}"))
    if (older / RECORD).exists():
        save_record(older / RECORD, {**load_record(older / RECORD), **written})
    save_checkpoint(older / CHECKPOINT, {**load_checkpoint(older / CHECKPOINT), **written})
    return older


def test_a_finished_run_under_its_older_name_is_not_trained_again(tmp_path):
    config = tiny(method="sgd", epochs=1).resolved()
    first = run(config, tmp_path)
    older = aged(first.folder, config)
    again = run(config, tmp_path)
    assert again.folder == older and again.model is None and list(tmp_path.iterdir()) == [older]
    assert load_run(older).config == config  # record and checkpoint belong to the same run, though their keys differ


def test_a_cut_run_under_its_older_name_goes_on(tmp_path):
    config = tiny(method="ivon", epochs=2).resolved()
    whole = run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "cut", reporters=[StopAt(4)])
    older = aged(tmp_path / "cut" / config.name, config)
    with pytest.raises(ValueError, match=f"{older} holds an unfinished run of this config; pass --resume"):
        run(config, tmp_path / "cut")
    cut = run(config, tmp_path / "cut", resume=True)
    assert cut.folder == older and without_machine(cut.record()) == without_machine(whole.record())
    assert (
        differences(load_checkpoint(whole.folder / CHECKPOINT)["model"], load_checkpoint(older / CHECKPOINT)["model"])
        == []
    )
    assert load_record(older / RECORD)["key"] == config.key


def test_a_record_is_known_by_its_config(tmp_path):
    config = tiny(method="sgd", epochs=1).resolved()
    folder = run(config, tmp_path).folder
    save_record(folder / RECORD, {**load_record(folder / RECORD), "key": "of another checkout"})
    assert run(config, tmp_path).status == "finished"
    record = load_record(folder / RECORD)
    save_record(folder / RECORD, {**record, "config": {**record["config"], "lr": 0.7}})
    with pytest.raises(ValueError, match="record.json belongs to another config; remove it to train again"):
        run(config, tmp_path)
    assert json.loads((folder / RECORD).read_text())["config"]["lr"] == 0.7


def test_runs_are_written_under_the_home_folder_where_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = RunConfig(dataset="digits").resolved()
    assert keys.run_folder(Path("~/runs"), config) == tmp_path / "runs" / config.name
