"""Words of sweeps and tables: the time that is left, damaged records, and data to tune on."""

import importlib
import json
import shutil
from pathlib import Path
from types import MappingProxyType

import pytest
from sweeping import finished_sweep, tiny
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.cli._sweep import TimeLeft, clock
from vlls.experiments import Candidates, Experiment, Panel, _grids, cells, collate
from vlls.experiments._folder import ResultsFolder
from vlls.experiments._results import collate_labels

module = importlib.import_module("vlls.experiments._sweep")


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments), prog_name="vlls", env={"COLUMNS": "160"})


@pytest.fixture(autouse=True)
def _plain(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("VLLS_TRACEBACK", "FORCE_COLOR", "GITHUB_ACTIONS", "VLLS_DATA"):
        monkeypatch.delenv(name, raising=False)


# ------------------------------------------------------------------ the time that is left
class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


START, RUN = 5.0, 8.0  # seconds: of a process before its first step, and of a run from there on


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_estimate_of_the_time_left_is_right(workers):
    """Twelve runs of 8 s in processes that take 5 s to start: the first estimate once was 1.6 times too large."""
    grid, at = tiny(seeds=12, methods=("ivon",)), Clock()
    left = TimeLeft(at)
    for cell in grid[:workers]:
        left.begin(cell)
    assert left.seconds(grid[workers:], dict.fromkeys(grid[:workers], 0.0)) is None
    at.now += START
    for cell in grid[:workers]:
        left.progress(cell, 0.0)
    at.now += RUN
    running = dict.fromkeys(grid[1:workers], 1.0)
    left.end(grid[0], True)
    assert left.seconds(grid[workers:], running) == pytest.approx((12 - workers) / max(workers, 1) * RUN)


def test_runs_take_as_long_as_those_of_their_method():
    grid, at = tiny(seeds=3), Clock()  # ivon and sgd in turn
    ivon, sgd = ([cell for cell in grid if cell.config.method == name] for name in ("ivon", "sgd"))
    left = TimeLeft(at)
    for cell, seconds in ((ivon[0], 20.0), (sgd[0], 4.0)):
        left.begin(cell)
        left.progress(cell, 0.0)
        at.now += seconds
        left.end(cell, True)
    assert left.seconds([*ivon[1:], *sgd[1:]], {}) == 2 * 20 + 2 * 4
    assert left.seconds(sgd[2:], {ivon[1]: 0.75, sgd[1]: 0.0}) == 0.25 * 20 + 2 * 4
    others = tiny(seeds=1, methods=("sam", "ls"))  # of which none is over: SAM passes twice
    assert left.seconds(others, {}) == 3 * (20 + 4) / 2


def test_failed_and_resumed_runs_and_those_that_tell_nothing():
    grid, at = tiny(seeds=4, methods=("ivon",)), Clock()
    left = TimeLeft(at)
    left.begin(grid[0])
    at.now += 1
    left.end(grid[0], False)  # failed at once
    left.begin(grid[1])
    left.progress(grid[1], 0.9)  # resumed near its end
    at.now += 3
    left.end(grid[1], True)
    assert left.seconds(grid[2:], {}) is None
    left.begin(grid[2])  # a cluster tells of the end only
    at.now += 10
    left.end(grid[2], True)
    assert left.seconds(grid[3:], {}) == 10.0
    assert clock(10) == "0:00:10"


# ------------------------------------------------------------------ damaged records
@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A results folder with four finished runs of Figure 5."""
    return finished_sweep(tmp_path_factory.mktemp("finished"), epochs=1)


@pytest.fixture
def done(finished, tmp_path):
    """A copy of it, to damage."""
    shutil.copytree(finished[0].path, tmp_path / "results")
    return ResultsFolder(tmp_path / "results"), finished[1]


DAMAGE = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[1]",
    "no record": lambda text: '{"format": 1}',
    "other form": lambda text: json.dumps({**json.loads(text), "final": [1, 2]}),
    "other version": lambda text: json.dumps({**json.loads(text), "format": 99}),
    "bytes": lambda text: b"\xff\xfe\x00",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_damaged_record_does_not_hide_the_others(done, damage):
    folder, grid = done
    path = folder.run(grid[0].config) / "record.json"
    damaged = DAMAGE[damage](path.read_text())
    path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    with pytest.warns(UserWarning, match=rf"left out: the record .*{grid[0].config.name}/record.json"):
        table = collate(folder.path)
    assert sorted(table["method"]) == ["ivon", "sgd", "sgd"]
    assert not folder.is_done(grid[0]) and folder.is_done(grid[1])
    if damage == "cut":
        for command in (("results",), ("results", "--output", "runs.csv"), ("figure", "fig5")):
            told = invoke(*command)
            assert told.exit_code == 0, told.output
            (line,) = [line for line in told.stderr.splitlines() if line.startswith("note: ")]
            assert line.startswith("note: left out: the record ") and f"{grid[0].config.name}/record.json" in line
        assert "fig5, smoke protocol, 3 runs" in invoke("results").stdout and Path("fig5.png").exists()


@pytest.mark.slow
def test_a_sweep_does_the_others_and_names_the_damaged_record(done, monkeypatch):
    folder, grid = done
    (folder.run(grid[0].config) / "record.json").write_text("{")
    (folder.run(grid[2].config) / "record.json").unlink()
    monkeypatch.setattr(module, "cells", lambda *_, **__: grid)
    monkeypatch.setattr("vlls.cli._sweep.cells", lambda *_, **__: grid)
    plan = invoke("sweep", "fig5", "--protocol", "smoke", "--dry-run")
    assert plan.exit_code == 0 and "4 runs, 2 done" in plan.stdout and "failed: the record" in plan.stdout
    told = invoke("sweep", "fig5", "--protocol", "smoke", "--workers-per-device", "1")
    assert told.exit_code == 1 and folder.is_done(grid[2])
    assert "ivon, seed 0 failed: the record" in told.stderr and "remove it to train again" in told.stderr


def test_damaged_labels_and_lists_of_runs_are_left_out(done):
    folder, grid = done
    (folder.path / "sweeps" / "fig7-smoke.json").write_text("{")
    labels = {"classes": ["a", "b"], "smoothed": [[0.9, 0.1], [0.1, 0.9]]}
    for cell in tiny(epochs=1, seeds=1, also="smoothed_labels"):
        folder.add_sweep([cell])
        folder.keep(cell.config, folder.record(cell.config), labels)
    (folder.run(grid[1].config) / "smoothed_labels.json").write_text("{")
    with pytest.warns(UserWarning, match="left out: .*(fig7-smoke|smoothed_labels).json"):
        assert set(collate_labels(folder.path)["method"]) == {"ivon"}
    with pytest.warns(UserWarning, match="left out: .*fig7-smoke.json cannot be read"):
        assert (collate(folder.path)["experiment"] == "fig5").sum() == 4


# ------------------------------------------------------------------ data sets to tune on
def grid_on(monkeypatch, dataset, **fields):
    """Return the cells of a made-up experiment on a data set, at the paper's protocol with one seed."""
    what = Experiment(
        "ours",
        "ours",
        (Panel("{dataset}", {"dataset": dataset, **fields}),),
        (Candidates("ls", "smoothing", (0.1, 0.5)),),
    )
    monkeypatch.setattr(_grids, "EXPERIMENTS", MappingProxyType({"ours": what}))
    return cells("ours", "paper", seeds=1)


@pytest.mark.parametrize(
    "dataset, held_out", [("mnist", 6000), ("fashion_mnist", 6000), ("cifar10", 5000), ("digits", 144)]
)
def test_runs_to_tune_are_there_for_every_data_set(dataset, held_out, monkeypatch):
    grid = grid_on(monkeypatch, dataset)
    assert [(cell.role, cell.config.validation_size) for cell in grid] == [
        ("main", 0), ("main", 0), ("tune", held_out), ("tune", held_out),
    ]  # fmt: skip


def test_the_images_of_a_folder_are_counted_and_its_own_images_for_validation_do(monkeypatch, tmp_path):
    for part in ("train", "test", "val"):
        for name in ("cat", "dog"):
            for i in range(10):
                path = tmp_path / "photos" / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    assert [cell.role for cell in grid_on(monkeypatch, "photos")] == ["main", "main"]
    (tmp_path / "photos" / "val").rename(tmp_path / "val")
    grid = grid_on(monkeypatch, "photos")
    assert [(cell.role, cell.config.validation_size) for cell in grid[2:]] == [("tune", 2)] * 2
    assert grid[0].config.dataset == str(tmp_path / "photos")


@pytest.mark.parametrize(
    ("dataset", "fields", "message"),
    [
        ("cifar11", {}, r"^dataset='cifar11' is unknown \(did you mean 'cifar10'\?\).*or the path of a folder"),
        ("./nowhere", {}, "nowhere is no folder; pass a folder"),
        ("cifar10", {"labels": "cifar10n:worst"}, "^labels='cifar10n:worst' is unknown"),
    ],
)
def test_a_sweep_on_no_data_set_is_refused(dataset, fields, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        grid_on(monkeypatch, dataset, **fields)
