import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import DYING
from sweeping import tiny

from vlls.cli._terminal import terminable
from vlls.experiments import Job, LocalExecutor, SweepReporter, collate, sweep
from vlls.experiments._folder import ResultsFolder
from vlls.experiments._results import collate_labels
from vlls.experiments._work import work
from vlls.train import RunConfig, methods

module = importlib.import_module("vlls.experiments._sweep")  # its name in the package is the function
executors = importlib.import_module("vlls.experiments._executors")

pytestmark = pytest.mark.slow  # every sweep starts processes
HERE = Path(__file__).parents[1]
ENDLESS = 100_000  # epochs of a run that does not end by itself
RESULTS = ["panel", "method", "seed", "status", "test_accuracy", "test_nll", "memorised", "key"]


@pytest.fixture
def do(monkeypatch, tmp_path):
    """Return a function that sweeps over given cells, in processes with preloaded imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["vlls.experiments._work", "sklearn.datasets", "torchmetrics.functional.classification"]
    )
    monkeypatch.setattr(
        executors, "multiprocessing", SimpleNamespace(**{**vars(multiprocessing), "get_context": lambda _: context})
    )

    def sweep_over(grid, workers=1, folder=tmp_path / "results", isolate=None, **options):
        monkeypatch.setattr(module, "cells", lambda *_, **__: grid)
        executor = LocalExecutor("cpu", workers, isolate=isolate)
        return sweep("fig5", protocol="smoke", results=folder, executor=executor, **options)

    return sweep_over


class Told(SweepReporter):
    """Records its events, and may act on a progress event."""

    def __init__(self, on_progress=None):
        self.began, self.ended, self.shares, self.finished, self.on_progress = [], [], [], 0, on_progress

    def start(self, result, where):
        self.where = where

    def begin(self, cell):
        self.began.append(cell)

    def progress(self, cell, done):
        self.shares.append(done)
        if self.on_progress:
            self.on_progress(cell)

    def end(self, cell, outcome):
        self.ended.append((cell, outcome.status))

    def finish(self, result):
        self.finished += 1


def table(folder):
    rows = collate(folder)
    return rows[RESULTS].sort_values(["panel", "method", "seed"]).reset_index(drop=True)


# ---------------------------------------------------------------------- one after the other, and again
def test_a_sweep_does_what_is_not_done_and_then_nothing(do, tmp_path):
    grid, told = tiny(), Told()
    first = do(grid[:3], workers=2, reporters=[told])
    assert set(first.finished) == set(grid[:3]) and not first.failed and not first.left and not first.before
    assert told.began == grid[:3] and {status for _, status in told.ended} == {"finished"} and told.finished == 1
    assert told.where == "2 processes on the CPU, 1 thread each" and first.runs_per_hour > 0
    before = table(tmp_path / "results")
    assert before["method"].tolist() == ["ivon", "ivon", "sgd"]
    second = do(grid, reporters=[told])
    assert second.before == grid[:3] and second.finished == grid[3:]
    after = table(tmp_path / "results")
    pd.testing.assert_frame_equal(after.iloc[:3], before)
    assert len(after) == 4 and after["test_accuracy"].between(0.05, 1).all()
    assert not list((tmp_path / "results").rglob("checkpoint.pt"))  # the weights are not kept


def test_a_run_of_two_panels_is_trained_once(do, tmp_path):
    cell = tiny()[0]
    told = Told()
    result = do([cell, replace(cell, panel="another")], workers=2, reporters=[told])
    assert len(result.finished) == 2 and len(told.began) == 1
    assert sorted(collate(tmp_path / "results")["panel"]) == ["another", "digits"]
    assert len(list((tmp_path / "results" / "runs").iterdir())) == 1


def test_weights_are_kept_when_asked_for(do, tmp_path):
    do(tiny()[:1], keep_weights=True)
    assert len(list((tmp_path / "results").rglob("checkpoint.pt"))) == 1


# ---------------------------------------------------------------------- stopped
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_table(tmp_path):
    def start(*how):
        command = [sys.executable, str(HERE / "sweeping.py"), str(tmp_path / "killed"), "40", *how]
        return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600, check=False).returncode

    assert start("killed") == -signal.SIGKILL
    assert 1 <= len(collate(tmp_path / "killed")) < 4
    assert start() == 0
    grid, whole = tiny(epochs=40), ResultsFolder(tmp_path / "whole")
    with whole.locked():
        whole.add_sweep(grid)
        for cell in grid:  # without a pause, in this process
            assert work(Job(cell, whole.runs)).status == "finished"
    expected = table(tmp_path / "whole")
    assert len(expected) == 4
    pd.testing.assert_frame_equal(table(tmp_path / "killed"), expected)


def test_ctrl_c_saves_what_is_under_way(do, tmp_path):
    def interrupt(cell):
        told.on_progress = None  # once: a second would stop it at once
        os.kill(os.getpid(), signal.SIGINT)

    grid, told = tiny(epochs=ENDLESS, seeds=1), Told(interrupt)
    with pytest.raises(KeyboardInterrupt):
        do(grid, reporters=[told])
    assert told.finished == 1 and told.ended == [(grid[0], "stopped")]
    assert [path.parent.name for path in (tmp_path / "results").rglob("checkpoint.pt")] == [grid[0].config.name]
    folder = ResultsFolder(tmp_path / "results")
    assert folder.is_cut(grid[0]) and not folder.is_done(grid[0])
    with folder.locked():  # it is free again
        pass


@pytest.mark.parametrize("moment", ["while it is told", "while its process begins"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda signum: signum.name)
def test_a_signal_while_a_run_begins_waits_until_it_can_be_asked_to_stop(do, monkeypatch, moment, signum):
    told, spawn = Told(), util.spawnv_passfds
    monkeypatch.setattr(executors, "multiprocessing", multiprocessing)  # unpatched: with a separate process

    def begin(cell):
        told.began.append(cell)
        if moment == "while it is told":
            signal.raise_signal(signum)

    def spawn_and_signal(*arguments):
        process = spawn(*arguments)
        if moment == "while its process begins" and "spawn_main" in str(arguments):
            signal.raise_signal(signum)
        return process

    monkeypatch.setattr(told, "begin", begin)
    monkeypatch.setattr(util, "spawnv_passfds", spawn_and_signal)
    with terminable(), pytest.raises(KeyboardInterrupt):
        do(tiny(epochs=ENDLESS, seeds=2), reporters=[told])
    assert [status for _, status in told.ended] == ["stopped"] and len(told.began) == 1
    assert not multiprocessing.active_children()


def test_when_the_time_is_spent_no_run_begins_and_those_under_way_are_saved(do, monkeypatch, tmp_path):
    grid, now = tiny(epochs=ENDLESS, seeds=2), [0.0]
    told = Told(lambda cell: now.append(12.0))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[-1]))
    result = do(grid, time_budget=12.0, reporters=[told])
    assert result.reason == "the time budget is spent" and not result.finished and not result.failed
    assert result.left == grid and told.began == grid[:1]
    assert ResultsFolder(tmp_path / "results").is_cut(grid[0])


def test_a_time_budget_is_a_positive_number(do):
    for seconds in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="time_budget"):
            do(tiny(), time_budget=seconds)


# ---------------------------------------------------------------------- failures
def broken(cell, **fields):
    return replace(cell, panel="broken", config=replace(cell.config, **fields))


def test_a_run_that_fails_or_diverges_does_not_stop_the_others(do, tmp_path):
    grid = tiny(seeds=1)
    too_many = broken(grid[0], validation_size=5000)
    explodes = broken(grid[1], lr=1e30)
    told = Told()
    result = do([too_many, explodes, *grid], reporters=[told])
    assert set(result.finished) == {explodes, *grid}
    assert list(result.failed) == [too_many] and "choose fewer" in result.failed[too_many]
    rows = collate(tmp_path / "results")
    assert sorted(rows["status"]) == ["diverged", "finished", "finished"]
    assert ResultsFolder(tmp_path / "results").failure(too_many.config) == result.failed[too_many]
    again = do([too_many, explodes, *grid])
    assert list(again.failed) == [too_many] and len(again.before) == 3  # tried again


def test_a_run_may_have_processes_that_decode_its_images(do, tmp_path):
    (cell,) = tiny(seeds=1, methods=("sgd",))
    config = RunConfig(
        dataset="clothing1m_miniature", method="sgd", model="cnn3", pretrained=False, image_size=16, train_size=60,
        epochs=1, eval_every=1,
    )  # fmt: skip
    result = do([replace(cell, config=config.resolved())], root=tmp_path / "data")
    assert (len(result.finished), result.failed) == (1, {})


@contextmanager
def killing(cell):
    """Return a reporter that kills the processes of the next executor when this cell is under way."""
    executors = []
    real = LocalExecutor.__init__

    def remember(self, *arguments, **options):
        real(self, *arguments, **options)
        executors.append(self)

    def kill(other):
        if other == cell:
            for worker in executors[0]._workers:
                os.kill(worker.process.pid, signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalExecutor, "__init__", remember)
        yield Told(kill)


def test_a_process_that_is_killed_is_told_in_one_line_and_the_rest_is_done(do):
    grid = [tiny(epochs=ENDLESS, methods=("sgd",))[0], *tiny(seeds=1, methods=("sgd",))]
    with killing(grid[0]) as told:
        result = do(grid, reporters=[told])
    assert result.finished == grid[1:]
    assert result.failed == {
        grid[0]: "its process was killed, as the system does when memory runs out; choose fewer --workers-per-device"
    }


# ---------------------------------------------------------------------- in threads
def bytes_of(folder):
    """Return each record without the machine, and each checkpoint's weights."""
    records = {path.parent.name: json.loads(path.read_text()) for path in folder.rglob("record.json")}
    assert {record["machine"].pop("side_by_side") for record in records.values()} == {2}
    states = {path.parent.name: torch.load(path)["model"] for path in folder.rglob("checkpoint.pt")}
    return {name: {**record, "machine": None} for name, record in records.items()}, states


def test_threads_do_as_processes_bit_for_bit(do, tmp_path):
    grid = tiny(seeds=1, methods=("ivon", "sgd", "sam", "evon", "ols", "elr"))
    grid.append(replace(grid[0], config=replace(grid[0].config, ema=0.9)))
    found = {}
    for isolate in (True, False):
        told = Told()
        result = do(grid, 2, tmp_path / str(isolate), isolate, reporters=[told], keep_weights=True)
        assert len(result.finished) == len(grid)
        found[isolate] = bytes_of(tmp_path / str(isolate))
    assert told.where == "1 process on the CPU, 2 runs side by side in it, 1 thread each"
    assert found[True][0] == found[False][0] and len(found[True][0]) == len(grid)
    for name, weights in found[True][1].items():
        for key, values in weights.items():
            assert torch.equal(values, found[False][1][name][key])


def test_runs_in_threads_are_saved_and_go_on(do, tmp_path):
    def interrupt(cell):
        if told.shares[-1] > 0.1:
            told.on_progress = None  # once: a second would stop it at once
            raise KeyboardInterrupt

    grid, told = tiny(epochs=60, seeds=1), Told(interrupt)
    with pytest.raises(KeyboardInterrupt):
        do(grid, 2, isolate=False, reporters=[told])
    assert {status for _, status in told.ended} == {"stopped"}
    assert len(list((tmp_path / "results").rglob("checkpoint.pt"))) == 2
    do(grid, 2, isolate=False)
    do(grid, 2, tmp_path / "at once")
    pd.testing.assert_frame_equal(table(tmp_path / "results"), table(tmp_path / "at once"))


def test_a_thread_that_fails_leaves_the_others_alone(do, tmp_path):
    cell, *grid = tiny(epochs=5)
    result = do([broken(cell, train_size=10_000), *grid], 2, isolate=False)
    assert set(result.finished) == set(grid) and len(result.failed) == 1
    assert "train_size" in next(iter(result.failed.values()))


def test_threads_that_die_of_memory_or_a_defect_leave_the_others_alone(do, monkeypatch):
    monkeypatch.setitem(methods._METHODS, "dying", DYING)
    *grid, cell = tiny(epochs=5, seeds=3, methods=("sgd",))
    ends = ("memory", "gpu", "defect", "exit")
    dying = [broken(cell, method="dying", options={"error": error}) for error in ends]
    result = do([dying[0], grid[0], *dying[1:], grid[1]], 2, isolate=False)
    assert set(result.finished) == set(grid)
    reasons = [result.failed[one] for one in dying]
    assert [reason.partition(" has ")[0] for reason in reasons[:2]] == ["the machine", "the GPU"]
    assert all("not enough memory; choose fewer --workers-per-device" in reason for reason in reasons[:2])
    assert reasons[2].startswith("ZeroDivisionError at made_up.py:")
    assert reasons[3] == "its thread ended with SystemExit: no licence"


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_threads_compile_their_networks(do, tmp_path):
    grid = tiny(methods=("ivon", "sam"))
    compiled = do(grid, 2, tmp_path / "compiled", isolate=False, compile=True)
    plain = do(grid, 2, tmp_path / "plain", isolate=False)
    assert len(compiled.finished) == len(plain.finished) == 4
    for cell in grid:
        one, two = (ResultsFolder(tmp_path / name).record(cell.config) for name in ("compiled", "plain"))
        assert one["machine"]["compiled"] and not two["machine"]["compiled"]
        assert one["final"]["test_nll"] == pytest.approx(two["final"]["test_nll"], rel=1e-3)


def test_threads_that_are_killed_with_their_process_are_told(do):
    grid = [*tiny(epochs=ENDLESS, seeds=1), *tiny(seeds=1, methods=("sgd",))]
    with killing(grid[1]) as told:
        result = do(grid, 2, isolate=False, reporters=[told])
    assert result.finished == grid[2:] and set(result.failed) == set(grid[:2])
    assert set(result.failed.values()) == {
        "the process of all runs side by side was killed, as the system does when memory runs out; choose fewer "
        "--workers-per-device"
    }


def test_data_that_are_missing_are_told_before_anything_is_begun(do, tmp_path):
    cell = broken(tiny()[0], dataset="cifar100")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "cifar100.npz").write_text("not a file of arrays")
    with pytest.raises(ValueError, match=r"cifar100\.npz"):
        do([cell], root=empty)
    assert not (tmp_path / "results").exists()


# ---------------------------------------------------------------------- labels
def test_smoothed_labels_are_kept_beside_the_runs(do, tmp_path):
    methods = ("ivon", "ls", "ols", "ivon_ls")
    grid = tiny(epochs=3, seeds=1, methods=methods, train_size=300, also="smoothed_labels")
    grid[-1] = replace(grid[-1], config=replace(grid[-1].config, smoothing=0.5))
    assert len(do(grid).finished) == 4
    rows = collate_labels(tmp_path / "results")
    assert len(rows) == 4 * 100
    for method in methods:
        of_method = rows[rows["method"] == method]
        matrix = of_method["smoothed"].to_numpy().reshape(10, 10)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
        assert (matrix >= 0).all() and (matrix.diagonal() > 0.1).all()
        if method == "ls":
            np.testing.assert_allclose(matrix, 0.9 * np.eye(10) + 0.01, atol=1e-12)
        mean, off = of_method["mean_noise"].to_numpy().reshape(10, 10), ~np.eye(10, dtype=bool)
        if method in ("ls", "ols"):
            assert np.isnan(mean).all()
            continue
        np.testing.assert_allclose(mean.sum(axis=1), 0, atol=1e-5)  # noise keeps the labels' sum
        of_loss = 0.05 if method == "ivon_ls" else 0.0
        assert (matrix[off] >= of_loss + np.abs(mean[off]) - 1e-7).all()  # a size is at least its mean's


def test_labels_that_were_lost_are_made_again(do, tmp_path):
    grid = tiny(seeds=1, methods=("ls",), also="smoothed_labels")
    do(grid)
    expected = collate_labels(tmp_path / "results")
    (tmp_path / "results" / "runs" / grid[0].config.name / "smoothed_labels.json").unlink()
    assert do(grid).finished == grid  # its weights are gone: it is trained again
    pd.testing.assert_frame_equal(collate_labels(tmp_path / "results"), expected)
