import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from sweeping import finished_sweep, tiny
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.cli._sweep import seconds_of
from vlls.experiments import EXPERIMENTS, load_table
from vlls.experiments._folder import ResultsFolder

module = importlib.import_module("vlls.experiments._sweep")


@pytest.fixture(autouse=True)
def _plain(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("VLLS_TRACEBACK", "FORCE_COLOR", "GITHUB_ACTIONS", "VLLS_DATA"):
        monkeypatch.delenv(name, raising=False)


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments), prog_name="vlls", env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A results folder with two finished runs of Figure 5."""
    folder, grid = finished_sweep(tmp_path_factory.mktemp("finished"), seeds=1)
    return folder.path, grid


@pytest.fixture
def done(finished, tmp_path):
    """The cells of a copy of it in this test's folder."""
    shutil.copytree(finished[0], tmp_path / "results")
    return finished[1]


# ---------------------------------------------------------------------- vlls sweep
def test_the_list_names_every_sweep():
    told = invoke("sweep", "--list")
    assert told.exit_code == 0
    for name, experiment in EXPERIMENTS.items():
        assert name in told.output and experiment.title[:40] in told.output  # long ones are wrapped


def test_a_dry_run_shows_what_is_done_and_does_nothing(monkeypatch, done):
    monkeypatch.setattr("vlls.cli._sweep.cells", lambda *_, **__: tiny(seeds=2))
    told = invoke("sweep", "fig5", "--protocol", "smoke", "--dry-run")
    assert told.exit_code == 0 and "4 runs, 2 done" in told.output and told.output.count("new") == 2
    assert len(list(Path("results/runs").iterdir())) == 2


def test_whether_to_compile_is_handed_on(monkeypatch):
    seen = []

    def sweep(*_, compile, **__):
        seen.append(compile)
        raise ValueError("enough")

    monkeypatch.setattr("vlls.cli._sweep.run_sweep", sweep)
    for flags in ([], ["--compile"], ["--no-compile"]):
        invoke("sweep", "fig5", "--protocol", "smoke", "--device", "cpu", *flags)
    assert seen == [None, True, False]


@pytest.mark.slow
def test_a_sweep_tells_its_runs_and_how_to_go_on(monkeypatch, done):
    monkeypatch.setattr(module, "cells", lambda *_, **__: tiny(seeds=2))
    told = invoke("sweep", "fig5", "--protocol", "smoke", "--workers-per-device", "1")
    assert told.exit_code == 0, told.output
    assert "4 runs, 2 done before, on 1 process on the CPU, 1 thread" in told.output
    assert "3/4 digits: ivon, seed 1: test " in told.output and "4/4 digits: sgd, seed 1: test " in told.output
    assert "4 of 4 runs are done, 2 of them now" in told.output and "vlls figure fig5" in told.output


@pytest.mark.slow
def test_a_run_that_fails_is_told_at_the_end_with_exit_code_1(monkeypatch, done):
    good, other = done
    bad = replace(other, config=replace(other.config, validation_size=5000))
    monkeypatch.setattr(module, "cells", lambda *_, **__: [good, bad])
    told = invoke("sweep", "fig5", "--protocol", "smoke")
    assert told.exit_code == 1
    last = told.output.strip().splitlines()[-2:]
    assert last[0].startswith("error: digits: sgd, seed 0 failed: train_size=100 and validation_size=5000")
    assert last[1].startswith("error: 1 of 2 runs failed; finished runs are kept")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["fig55"], "experiment='fig55'"),
        ([], "no sweep was named; choose one of fig4"),
        (["fig7", "--protocol", "papr"], "protocol='papr'"),
        (["fig7", "--seeds", "0"], "seeds=0 is not allowed"),
        (["fig7", "--time-budget", "soon"], "time_budget='soon' is no duration; pass one such as 90s, 9m or 1h30m"),
        (["fig7", "--workers-per-device", "0"], "workers_per_device=0 is not allowed"),
        (["fig7", "--device", "tpu"], "device='tpu' is unknown"),
        (["fig7", "--address", "auto"], "goes with --executor ray"),
        (["fig7", "--executor", "spark"], "spark"),
        (["fig7", "--results", "file"], "the results folder file is a file"),
        (["fig7", "--results", "old"], "is of another version"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(arguments, said):
    Path("file").write_text("")
    Path("old").mkdir()
    Path("old/results.json").write_text(json.dumps({"results_format": 0}))
    before = sorted(Path().rglob("*"))
    told = invoke("sweep", *arguments)
    assert told.exit_code == 2
    lines = told.output.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]
    assert sorted(Path().rglob("*")) == before


def test_two_sweeps_on_one_folder():
    with ResultsFolder("results").locked():
        told = invoke("sweep", "fig7", "--protocol", "smoke")
    assert told.exit_code == 2
    assert told.output.strip() == (
        "error: another sweep is at work in results; wait for it, or choose another folder with --results"
    )


@pytest.mark.parametrize(
    "text, seconds", [("90", 90), ("90s", 90), ("9m", 540), ("1h30m", 5400), ("1.5h", 5400), ("2m30s", 150)]
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "m", "-9m", "9 minutes", "1m1h", "nan"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is no duration"):
        seconds_of(text)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "vlls.cli", "sweep", "fig4", "--protocol", "smoke", "--workers-per-device", "1"]
    going = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    for line in going.stderr:
        if "runs, 0 done before" in line:
            break
    going.send_signal(signal.SIGTERM)
    _, said = going.communicate(timeout=600)
    assert going.returncode == 143
    assert said.strip().splitlines()[-1] == (
        "stopped by SIGTERM; runs under way were saved to results: go on with the same command"
    )
    with ResultsFolder(tmp_path / "results").locked():  # it is free
        pass


# ---------------------------------------------------------------------- vlls results
def test_results_are_shown_and_written(done):
    told = invoke("results")
    assert told.exit_code == 0 and "fig5, smoke protocol, 2 runs" in told.output and "ivon" in told.output
    told = invoke("results", "--output", "tables/runs.csv")
    assert told.exit_code == 0, told.output
    table = load_table("tables/runs.csv")
    assert len(table) == 2 and set(table["method"]) == {"ivon", "sgd"} and table["device"].notna().all()
    told = invoke("results", "--output", "runs.parquet", "--experiment", "fig5", "--protocol", "smoke")
    assert told.exit_code == 0
    pd.testing.assert_series_equal(load_table("runs.parquet")["test_accuracy"], table["test_accuracy"])


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--results", "nothing"], "there is no results folder nothing"),
        (["--experiment", "fig55"], "experiment='fig55'"),
        (["--protocol", "huge"], "protocol='huge'"),
        (["--experiment", "fig7"], "results holds no finished run of fig7; vlls sweep makes them"),
        (["--output", "runs.xls"], "runs.xls ends in .xls; choose a name that ends in .csv or .parquet"),
    ],
)
def test_wrong_use_of_results(done, arguments, said):
    told = invoke("results", *arguments)
    assert told.exit_code == 2 and told.output.startswith("error: ") and said in told.output
    assert not list(Path().glob("runs.*"))


# ---------------------------------------------------------------------- vlls figure
def test_a_figure_is_drawn_from_the_folder(done):
    told = invoke("figure", "fig5", "--output", "fig.pdf")
    assert told.exit_code == 0, told.output
    assert told.output.strip() == "fig.pdf" and Path("fig.pdf").stat().st_size > 5000


def test_a_tilde_that_the_shell_left_is_the_home_folder(done, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    invoke("results", "--experiment", "fig5", "--output=~/runs.csv")
    assert invoke("figure", "fig5", "--table=~/runs.csv", "--output=~/fig.png").exit_code == 0
    assert sorted(path.suffix for path in (tmp_path / "home").iterdir()) == [".csv", ".png"]
    assert not Path("~").exists()
    assert "names a home folder that is not known" in invoke("figure", "fig5", "--output=~no-one/fig.png").output


def test_a_figure_is_drawn_from_a_table(done):
    invoke("results", "--output", "runs.csv")
    told = invoke("figure", "fig5", "--table", "runs.csv", "--results", "nothing")
    assert told.exit_code == 0 and Path("fig5.png").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["fig55"], "experiment='fig55'"),
        (["fig7"], "there is no finished run of fig7; vlls sweep fig7 makes them"),
        (["fig5", "--protocol", "paper"], "there is no finished run of fig5 at the paper protocol"),
        (["fig5", "--output", "fig5.gif"], ".gif"),
        (["fig5", "--table", "nothing.csv"], "there is no table nothing.csv"),
        (["fig5", "--output", "no/where/fig5.png"], "could not be written"),
    ],
)
def test_wrong_use_of_figure(done, arguments, said):
    told = invoke("figure", *arguments)
    assert told.exit_code == 2 and told.output.startswith("error: ") and said in told.output
    assert len(told.output.strip().splitlines()) == 1
