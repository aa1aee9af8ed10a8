"""Runs that an older version named: read as they are, renamed whenever the migration is cut, and not trained again."""

import csv
import importlib
import json
import shutil
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.experiments import collate, load_table, sweep
from vlls.experiments._folder import ResultsFolder
from vlls.experiments._migration import _parsed, migrate
from vlls.train import RunConfig
from vlls.train._files import folder_lock, load_checkpoint, save_checkpoint
from vlls.train._keys import first_key
from vlls.train.methods import METHODS

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
FORMAT_1 = json.loads(
    (HERE / "format1.json").read_text()
)  # files of a sweep by the last version that hashed all fields
SEEN = ["panel", "method", "seed", "status", "test_accuracy", "test_nll", "key"]
module = importlib.import_module("vlls.experiments._sweep")


def written(folder: Path) -> Path:
    """Write the results folder as that version left it: three runs done, one cut at a checkpoint, one failed."""
    for name, content in FORMAT_1.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")
    values = FORMAT_1["sweeps/fig5-smoke.json"]["cells"][3]["config"]
    cut = folder / "runs" / f"digits-none-sgd-seed0-{first_key(values)}"
    cut.mkdir()
    state = {"key": first_key(values), "config": values, "step": 1, "model": {"weight": torch.arange(5.0)}}
    save_checkpoint(cut / "checkpoint.pt", state)
    return folder


@pytest.fixture
def older(tmp_path):
    return written(tmp_path / "results")


def content(folder: Path) -> dict[str, object]:
    """Return the contents of a folder by file: JSON read, checkpoints as lists, and no traces of processes."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            found[name] = json.loads(path.read_text())
        elif path.suffix == ".pt":
            state = load_checkpoint(path)
            found[name] = {**state, "model": {k: v.tolist() for k, v in state["model"].items()}}
    return found


def configs() -> list[RunConfig]:
    return [RunConfig.from_dict(cell["config"]) for cell in FORMAT_1["sweeps/fig5-smoke.json"]["cells"]]


def test_the_names_of_the_fixture_are_those_of_the_older_version():
    for name, record in FORMAT_1.items():
        if name.endswith("record.json"):
            key = first_key(record["config"])
            assert record["key"] == key and Path(name).parent.name.endswith(f"-{key}")
            assert RunConfig.from_dict(record["config"]).key != key


# ---------------------------------------------------------------------- read as it is
def test_a_folder_of_the_older_version_is_read_and_told(older):
    with pytest.warns(
        UserWarning, match=f"an older version of vlls named the runs in .*; vlls migrate {older} renames"
    ):
        table = collate(older)
    assert len(table) == 3 and list(table["key"]) == [config.key for config in configs()[:3]]
    before = load_table(HERE / "format1.csv")
    assert table[SEEN[:-1]].to_csv() == before[SEEN[:-1]].to_csv()


def test_a_sweep_over_it_says_what_to_do(older):
    with pytest.raises(ValueError, match=f"rename them with vlls migrate {older}, which loses nothing") as error:
        with ResultsFolder(older).locked():
            pytest.fail("held")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------- renamed
def test_only_names_and_keys_change_and_nothing_is_trained_again(older, monkeypatch):
    before = content(older)
    done = migrate(older)
    assert (done.runs, done.aside, done.left) == (5, [], {})
    names = {first_key(cell["config"]): config.name for cell, config in
             zip(FORMAT_1["sweeps/fig5-smoke.json"]["cells"], configs(), strict=True)}  # fmt: skip
    expected = {"results.json": {**before["results.json"], "results_format": 2}}
    for path, held in before.items():
        if path.startswith("runs/"):
            _, folder, name = path.split("/")
            config = names[folder[-12:]]
            expected[f"runs/{config}/{name}"] = {**held, "key": config[-12:]} if "key" in held else held
    expected["sweeps/fig5-smoke.json"] = before["sweeps/fig5-smoke.json"]
    assert content(older) == expected
    results = ResultsFolder(older)
    cells = results.cells()
    assert [results.is_done(cell) for cell in cells] == [True] * 3 + [False] * 2
    assert results.is_cut(cells[3]) and "enough memory" in results.failure(cells[4].config)
    table, old = collate(older), load_table(HERE / "format1.csv")
    columns = old.columns.drop("key")  # later versions add some
    assert table[columns].to_csv(index=False) == old[columns].to_csv(index=False)

    class Idle:
        free = 1

        def describe(self):
            return "nowhere"

        def submit(self, job):
            pytest.fail("trained again")

        def close(self):
            pass

    monkeypatch.setattr(module, "cells", lambda *_, **__: cells[:3])
    assert sweep("fig5", protocol="smoke", results=older, executor=Idle()).before == cells[:3]


def test_a_second_migration_does_nothing(older):
    migrate(older)
    before = {path: path.read_bytes() for path in older.rglob("*") if path.is_file()}
    assert migrate(older).runs == 0
    assert {path: path.read_bytes() for path in older.rglob("*") if path.is_file()} == before


class Killed(BaseException):
    pass


@pytest.fixture
def kill(monkeypatch):
    """Return a function that stops everything after a number of files or folders were put in their places."""

    def after(count: int, *, late: bool) -> None:
        left = count

        def counted(put):
            def counting(self, target):
                nonlocal left
                left -= 1
                if left == 0 and not late:
                    raise Killed
                put(self, target)
                if left == 0:
                    raise Killed
                return Path(target)

            return counting

        monkeypatch.undo()
        for name in ("rename", "replace"):
            monkeypatch.setattr(Path, name, counted(getattr(Path, name)))

    yield after
    monkeypatch.undo()


@pytest.mark.parametrize("late", [False, True])
def test_killed_at_any_step_and_started_again_it_ends_the_same(tmp_path, kill, monkeypatch, late):
    """Before and after each file that is put in its place, with two folders of the same run among them."""

    def doubled(folder):
        written(folder)
        (done,) = (folder / "runs").glob("*-ls-*")
        shutil.copytree(done, done.with_name("older-still-ls-seed0"))
        return folder

    whole = doubled(tmp_path / "whole")
    assert len(migrate(whole).aside) == 1
    steps = 0
    while True:
        steps += 1
        folder = doubled(tmp_path / f"cut{steps}")
        kill(steps, late=late)
        try:
            migrate(folder)
            break
        except Killed:
            monkeypatch.undo()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(collate(folder)) == 3  # read as it is, half done
        assert migrate(folder).left == {}
        assert content(folder) == content(whole), steps
    assert steps == 13  # 4 records, a checkpoint, 6 names, the format


def test_the_finished_run_keeps_the_name_and_the_other_stays_beside_it(older):
    """A run was started again under its new name, because the old one was not found."""
    finished, _, _, cut, failed = configs()
    runs = older / "runs"
    for config, step in ((finished, 1), (cut, 9)):
        folder = runs / config.name
        folder.mkdir()
        save_checkpoint(folder / "checkpoint.pt", {"key": config.key, "config": config.to_dict(), "step": step})
    done = migrate(older)
    aside = {path.name: path for path in done.aside}
    assert aside.keys() == {f"{finished.name}.older", f"{cut.name}.older"} and done.left == {}
    assert load_checkpoint(runs / cut.name / "checkpoint.pt")["step"] == 9
    assert load_checkpoint(aside[f"{cut.name}.older"] / "checkpoint.pt")["step"] == 1
    assert (runs / finished.name / "record.json").exists()
    assert load_checkpoint(aside[f"{finished.name}.older"] / "checkpoint.pt")["step"] == 1
    assert (runs / failed.name / "failure.json").exists()
    assert migrate(older).aside == []  # it stays where it is


def test_what_cannot_be_read_and_what_is_trained_now_is_left_as_it_is(older):
    (damaged,) = (older / "runs").glob("*-ls-*")
    (damaged / "record.json").write_text('{"format": 1, "key": ')
    (busy,) = (older / "runs").glob("*-sam-*")
    foreign = older / "runs" / "of-another-one"
    foreign.mkdir()
    (foreign / "failure.json").write_text("{}")
    with folder_lock(busy):
        done = migrate(older)
    assert done.left.keys() == {damaged, busy, foreign} and done.runs == 3
    assert "cannot be read" in done.left[damaged] and "at work" in done.left[busy]
    assert "tells the config" in done.left[foreign]
    assert damaged.exists() and busy.exists() and ResultsFolder(older).format == 1
    assert migrate(older).left.keys() == {damaged, foreign}  # the other one has its name now
    assert ResultsFolder(older).format == 2 and (damaged / "record.json").read_text() == '{"format": 1, "key": '


def test_a_run_that_is_over_does_without_its_checkpoint(older):
    (done,) = (older / "runs").glob("*-ls-*")
    (done / "checkpoint.pt").write_bytes(b"damaged")
    migration = migrate(older)
    assert migration.runs == 5 and migration.left.keys() == {done / "checkpoint.pt"}
    assert (older / "runs" / configs()[1].name / "checkpoint.pt").read_bytes() == b"damaged"


def test_a_folder_of_runs(older, tmp_path):
    """A folder of vlls train has no list of a sweep, so the configs are read from the checkpoints."""
    shutil.move(older / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / configs()[4].name, ignore_errors=True)
    done = migrate(tmp_path / "runs")
    assert done.runs == 4 and len(done.left) == 1  # the failed one, that only the sweep's list knew
    assert {path.name for path in (tmp_path / "runs").iterdir()} > {config.name for config in configs()[:4]}


# ---------------------------------------------------------------------- tables
def test_of_a_table_only_the_keys_change(tmp_path):
    path = tmp_path / "fig5.csv"
    shutil.copy(HERE / "format1.csv", path)
    assert migrate(path).runs == 3
    before, after = (
        (line.rpartition(",") for line in file.read_text().splitlines()) for file in (HERE / "format1.csv", path)
    )
    for (row, _, _), (same, _, key), config in zip(before, after, [None, *configs()[:3]], strict=True):
        assert row == same and key == (config.key if config else "key")
    assert migrate(path).runs == 0


def test_tables_of_something_else_are_refused(tmp_path):
    path = tmp_path / "fig5.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has no keys at the ends of its rows"):
        migrate(path)
    path.write_text("method,key\nnewton,1\n")
    with pytest.raises(ValueError, match="row 2 of .* holds no config: method='newton' is unknown"):
        migrate(path)


def test_the_books_tables_have_the_keys_of_this_version():
    """A key that changes renames the runs that people keep; see ``vlls.train._keys.INTRODUCED``."""
    compared = set()
    for path in (ROOT / "book" / "results").glob("*.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if "key" in row and row.get("method") in METHODS:  # not labels, epochs, or adamw of the benchmarks
                    assert _config_of(row).key == row["key"], row
                    compared.add(path.stem)
    assert compared >= {"fig5", "fig7", "controls", "rivals", "cifar_n", "take_off"}


def _config_of(row):
    kinds = {entry.name: str(entry.type) for entry in fields(RunConfig) if entry.name in row}
    return RunConfig.from_dict({name: _parsed(kind, row[name]) for name, kind in kinds.items()})


# ---------------------------------------------------------------------- the command
def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands(older, tmp_path):
    shown = invoke("sweep", "fig5", "--protocol", "smoke", "--dry-run", "--results", older)
    assert shown.exit_code == 0 and "note: an older version of vlls named the runs" in shown.stderr
    shown = invoke("sweep", "fig5", "--protocol", "smoke", "--device", "cpu", "--results", older)
    assert shown.exit_code == 2 and shown.stderr.splitlines()[-1].endswith("which loses nothing")
    assert f"error: an older version of vlls named the runs in {older}; rename them with vlls migrate" in shown.stderr
    told = invoke("results", "--results", older)
    assert told.exit_code == 0 and "3 runs" in told.stdout and told.stderr.startswith("note: an older version")
    shown = invoke("migrate", older, older)
    assert shown.exit_code == 0 and shown.output.count("5 runs renamed") == shown.output.count("0 runs renamed") == 1
    again = invoke("results", "--results", older)
    assert again.stdout == told.stdout and again.stderr == ""
    shown = invoke("migrate", tmp_path / "nothing")
    assert shown.exit_code == 2 and "nothing holds no runs; pass a results folder" in shown.stderr


def test_the_command_tells_of_what_it_left_and_of_what_was_there_twice(older):
    (done,) = (older / "runs").glob("*-ls-*")
    shutil.copytree(done, done.with_name("a-copy"))
    (damaged,) = (older / "runs").glob("*-sam-*")
    (damaged / "record.json").write_text("{")
    shown = invoke("migrate", older)
    assert shown.exit_code == 1 and "two folders are of the same run" in shown.output and ".older\n" in shown.output
    assert "left as it was: the record" in shown.stderr
