"""A loss, an optimizer and an experiment from outside are trained, swept, collated, chosen, compared and drawn."""

import sys
from dataclasses import replace

import pytest
from made_up import EXPERIMENT, FOCAL, SIGN
from typer.testing import CliRunner

from vlls import plots
from vlls.cli._app import app
from vlls.experiments import (
    EXPERIMENTS,
    Job,
    LocalExecutor,
    _grids,
    accuracy_table,
    cells,
    choose,
    collate,
    compare,
    register,
    sweep,
)
from vlls.experiments._folder import ResultsFolder
from vlls.train import METHODS, methods


@pytest.fixture(scope="module")
def registered():
    """Register the methods and the experiment, and forget them afterwards."""
    for method in (FOCAL, SIGN):
        methods.register(method)
    register(EXPERIMENT)
    yield
    for method in (FOCAL, SIGN):
        methods._METHODS.pop(method.name)
    _grids._EXPERIMENTS.pop(EXPERIMENT.name)


@pytest.fixture(scope="module")
def results(registered, tmp_path_factory):
    """A folder with every run of the experiment, from a process that has registered nothing itself."""
    folder = tmp_path_factory.mktemp("made_up") / "results"
    done = sweep(EXPERIMENT.name, protocol="smoke", results=folder, executor=LocalExecutor("cpu", 1))
    assert not done.failed and len(done.finished) == len(done.cells) == 8
    return folder


def test_cells_of_a_registered_method_try_its_option_and_tune_it(registered):
    grid = cells(EXPERIMENT.name, "smoke")
    focal = [cell for cell in grid if cell.config.method == "focal"]
    assert [(cell.value, cell.role) for cell in focal] == [(2.0, "main"), (0.5, "main"), (2.0, "tune"), (0.5, "tune")]
    assert focal[0].label == "digits: focal gamma=2, seed 0" and focal[1].config["gamma"] == 0.5
    assert {cell.config.method for cell in grid if cell.role == "tune"} == {"focal", "sgd"}  # SGD is its zero
    assert {cell.config.lr for cell in grid if cell.config.method == "sign"} == {0.001}
    with pytest.raises(ValueError, match="there is an experiment 'focal_digits' already"):
        register(EXPERIMENT)
    assert EXPERIMENTS[EXPERIMENT.name] is EXPERIMENT


@pytest.mark.slow
def test_a_registered_method_is_collated_chosen_and_compared(results):
    table = collate(results)
    assert table["gamma"].dropna().tolist() == [2.0, 0.5, 2.0, 0.5]
    main = table[table["role"] == "main"].set_index(["method", "value"])["test_accuracy"]
    assert main.nunique() == len(main) == 5  # no two did the same
    assert (main[["focal", "sign"]] > 0.5).all()
    best = choose(table).set_index("method")
    candidates = [main["sgd"].item(), *main["focal"]]
    assert best.loc["focal", "accuracy"] == pytest.approx(100 * max(candidates))
    assert best.loc["focal", "value"] == [0, 2, 0.5][candidates.index(max(candidates))]
    columns = ["IVON", "LS", "SAM", "focal loss", "SGD", "IVON − LS", "IVON − SAM", "IVON − focal loss"]
    assert accuracy_table(table).columns.tolist() == columns
    assert f"{best.loc['focal', 'accuracy']:.1f} (γ = " in accuracy_table(table).loc["digits", "focal loss"]
    said = compare(table, "focal", how="validation")
    assert said.startswith("IVON against the best focal loss, chosen by validation accuracy, in 1 panel:")
    assert compare(table, "sign").startswith("IVON against sign, in 1 panel:")


@pytest.mark.slow
def test_a_registered_method_is_drawn(results):
    table = collate(results)
    (ax,) = plots.plot_experiment(EXPERIMENT.name, table).axes  # over the values
    assert ax.get_xlabel() == "γ of focal loss"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "0.5", "2"]
    assert ax.containers[0].lines[0].get_color() == FOCAL.colour

    def legend(figure):
        drawn = plots.plot_experiment(EXPERIMENT.name, table, figure=figure)
        return [text.get_text() for part in drawn.legends for text in part.get_texts()]

    assert set(legend("noise_levels")) == {"IVON", "focal loss", "SGD", "sign"}
    bars = legend("memorisation")
    assert bars[0] == "IVON" and bars[1].startswith("focal loss, γ = ") and bars[2:] == ["sign", "SGD"]
    assert "sign" in legend("calibration")


@pytest.mark.slow
def test_a_registered_method_is_printed(results):
    shown = CliRunner().invoke(app, ["results", "--results", str(results)])
    assert shown.exit_code == 0, shown.output
    assert "focal_digits, smoke protocol, 8 runs" in shown.output
    for name in ("ivon", "sgd", "focal", "sign"):
        assert name in shown.output


def test_a_method_that_other_processes_cannot_load_is_refused_before_anything_begins(registered, tmp_path, monkeypatch):
    monkeypatch.setitem(methods._METHODS, "focal", replace(FOCAL, criterion=lambda config, num_classes: None))
    with pytest.raises(ValueError, match=r"'focal' cannot be sent to another process .*functions of a module"):
        sweep(EXPERIMENT.name, protocol="smoke", results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_process_that_cannot_find_a_methods_module_says_so(registered, tmp_path, monkeypatch):
    folder = ResultsFolder(tmp_path / "results")
    executor = LocalExecutor("cpu", 1)
    monkeypatch.setattr("sys.path", [path for path in sys.path if not path.endswith("tests")])
    try:
        executor.submit(Job(cells(EXPERIMENT.name, "smoke")[2], folder.runs))
        while not (events := executor.events(60.0)):
            pass
    finally:
        executor.close()
    assert events[0][2].status == "failed"
    assert "could not load it: No module named 'made_up'; define its method in a module" in events[0][2].reason


def test_runs_of_a_method_that_is_not_registered_are_left_out_with_a_word(registered, tmp_path, monkeypatch):
    folder = ResultsFolder(tmp_path)
    with folder.locked():
        folder.add_sweep(cells(EXPERIMENT.name, "smoke"))
    monkeypatch.delitem(methods._METHODS, "focal")
    with pytest.warns(UserWarning, match=r"left out: .*focal_digits-smoke.json cannot be read \(method='focal' is"):
        assert collate(tmp_path).empty
    assert "focal" not in METHODS
