"""Records of other checkouts: found by their configs, written under the keys of this version, or reported."""

import json
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.experiments import Candidates, Experiment, Panel, _grids, _import, cells, collate, register
from vlls.experiments._folder import ResultsFolder
from vlls.experiments._import import import_records
from vlls.train._keys import _FIRST, first_key

GPU = {"device": "NVIDIA H200", "torch": "2.11.0", "commit": "2a36a75", "side_by_side": 5, "elapsed_seconds": 205.7}
EPOCHS = [{"epoch": 1, "train_loss": 2.1}, {"epoch": 2, "train_loss": 1.9, "test_accuracy": 0.9}]
EPOCHS += [{"epoch": 4, "train_loss": 1.5, "test_accuracy": 0.8}]


def cell_of(name, size, label):
    return next(cell for cell in cells(name, size, seeds=3) if cell.label == label)


IVON = ("fig7", "short", "CIFAR-10, κ = 0.4: ivon, seed 0")
VARIANT = ("controls", "short", "CIFAR-10, κ = 0.4: sgd (smaller step and decay), seed 0")
PROBE = ("take_off", "probe", "CIFAR-10, κ = 0.4: ivon, seed 0")


def older(cell, machine=GPU, **fields):
    """Return the record of a cell's run by the version that hashed every field and had fewer of them."""
    config = {name: value for name, value in cell.config.to_dict().items() if name in _FIRST}
    config |= fields.pop("config", {})
    return {
        "format": 1,
        "key": first_key(config),
        "config": config,
        "status": "finished",
        "reason": "",
        "counts": {"train_images": 50_000},
        "epochs": EPOCHS,
        "final": {"test_accuracy": 0.8},
        "machine": machine,
        **fields,
    }


def write(path, *records):
    path.mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(records):
        (path / f"{i}.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return path


@pytest.fixture(scope="module")
def three():
    return [cell_of(*which) for which in (IVON, VARIANT, PROBE)]


@pytest.fixture(scope="module")
def grid():
    return _import._grid()


@pytest.fixture(autouse=True)
def _made_once(grid, monkeypatch, request):
    """Make the cells of all experiments once, because that takes seconds."""
    if "missing" not in request.node.name:
        monkeypatch.setattr(_import, "_grid", lambda: grid)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}


def test_records_become_the_runs_of_all_cells_that_their_configs_are_of(tmp_path, three):
    there = write(tmp_path / "there", *(older(cell) for cell in three))
    done = import_records([there], tmp_path / "results")
    assert list(done.added) == sorted(there.iterdir()) and not (done.present or done.without_cell or done.refused)
    sweeps = {(cell.experiment, cell.protocol) for cell in done.added[there / "0.json"]}
    assert sweeps == {("fig7", "short"), ("controls", "short"), ("take_off", "short")}
    table = collate(tmp_path / "results")
    assert len(table) == sum(map(len, done.added.values()))
    assert set(zip(table["experiment"], table["protocol"], table["variant"], strict=True)) >= {
        ("fig7", "short", ""), ("controls", "short", "smaller step and decay"), ("take_off", "probe", "")
    }  # fmt: skip
    assert set(table["key"]) == {cell.config.key for cell in three}
    folder = ResultsFolder(tmp_path / "results")
    for cell in three:
        record = folder.record(cell.config)
        assert record["imported"]["key"] == older(cell)["key"] != record["key"] and folder.is_done(cell)


def test_importing_again_changes_nothing_and_runs_that_are_there_stay(tmp_path, three):
    there = write(tmp_path / "there", older(three[0]), older(three[0], final={"test_accuracy": 0.1}))
    done = import_records([there], tmp_path / "results")
    assert (list(done.added), list(done.present)) == ([there / "0.json"], [there / "1.json"])
    before = content(tmp_path / "results")
    again = import_records([there, there / "0.json"], tmp_path / "results")
    assert not again.added and len(again.present) == 2 and content(tmp_path / "results") == before
    assert set(collate(tmp_path / "results")["test_accuracy"]) == {0.8}


def test_the_time_of_a_record_is_its_elapsed_seconds_or_else_its_own_clocks(tmp_path, three):
    late = {"device": "a processor", "wall_seconds": 12.5}
    wrong = {**GPU, "wall_seconds": 1.0}  # of the clock that stopped too early
    records = older(three[0]), older(three[1], late), older(three[2], wrong)
    import_records([write(tmp_path / "there", *records)], tmp_path / "results")
    table = collate(tmp_path / "results").drop_duplicates("key").set_index("key")
    for cell, seconds, beside in zip(three, (205.7, 12.5, 205.7), (5, None, 5), strict=True):
        row = table.loc[cell.config.key]
        assert row["wall_seconds"] == seconds and (row["side_by_side"] == beside or beside is None)
    assert table.loc[three[1].config.key, "side_by_side"] != table.loc[three[1].config.key, "side_by_side"]  # NaN


def test_how_often_a_run_was_measured_need_not_agree_and_is_told(tmp_path, three):
    record = older(three[0], config={"eval_every": 1, "thorough_every": 10})
    done = import_records([write(tmp_path / "there", record)], tmp_path / "results")
    assert len(done.added) == 1
    row = collate(tmp_path / "results", experiment="fig7").iloc[0]
    assert (row["eval_every"], row["thorough_every"], row["key"]) == (1, 10, three[0].config.key)
    assert (row["best_test_accuracy"], row["best_epoch"]) == (0.9, 2)


@pytest.mark.parametrize("other", [{"lr": 0.123}, {"epochs": 31}, {"eval_samples": 3}, {"weight_decay": 0.5}])
def test_a_run_that_trains_or_samples_otherwise_is_of_no_cell(tmp_path, three, other):
    there = write(tmp_path / "there", older(three[0], config=other))
    done = import_records([there], tmp_path / "results")
    assert done.without_cell == [there / "0.json"] and not done.added
    assert not (tmp_path / "results").exists()


def test_other_seeds_are_found_and_runs_to_tune_have_seed_0(tmp_path):
    main = cell_of("fig7", "short", "CIFAR-10, κ = 0.4: sgd, seed 2")
    tune = next(cell for cell in cells("fig7", "reduced") if cell.role == "tune" and cell.config.method == "ls")
    seven = older(main, config={"seed": 7})
    there = write(tmp_path / "there", older(main), seven, older(tune), older(tune, config={"seed": 1}))
    done = import_records([there], tmp_path / "results")
    assert done.without_cell == [there / "3.json"] and len(done.added) == 3
    table = collate(tmp_path / "results", experiment="fig7")
    assert sorted(table[table["role"] == "main"]["seed"]) == [2, 7]
    assert table[table["role"] == "tune"]["seed"].tolist() == [0]


def test_a_damaged_run_of_the_folder_is_replaced(tmp_path, three):
    there = write(tmp_path / "there", older(three[0]))
    import_records([there], tmp_path / "results")
    path = ResultsFolder(tmp_path / "results").run(three[0].config) / "record.json"
    path.write_text("{")
    assert import_records([there], tmp_path / "results").added
    assert json.loads(path.read_text())["final"] == {"test_accuracy": 0.8}


def test_runs_of_a_results_folder_are_found_in_it(tmp_path, three):
    import_records([write(tmp_path / "there", older(three[0]))], tmp_path / "first")
    done = import_records([tmp_path / "first"], tmp_path / "second")
    assert [path.name for path in done.added] == ["record.json"] and not done.refused
    first, second = (collate(tmp_path / name) for name in ("first", "second"))
    assert first.equals(second)


def test_a_stop_between_two_records_leaves_whole_ones(tmp_path, three, monkeypatch):
    there = write(tmp_path / "there", *(older(cell) for cell in three))
    keep = ResultsFolder.keep

    def stopped(self, config, record, labels):
        if config.key == three[1].config.key:
            raise KeyboardInterrupt
        keep(self, config, record, labels)

    with monkeypatch.context() as patched:
        patched.setattr(ResultsFolder, "keep", stopped)
        with pytest.raises(KeyboardInterrupt):
            import_records([there], tmp_path / "results")
    assert ResultsFolder(tmp_path / "results").record(three[0].config) is not None
    done = import_records([there], tmp_path / "results")
    assert len(done.added) == 2 and len(done.present) == 1
    assert set(collate(tmp_path / "results")["key"]) == {cell.config.key for cell in three}


@pytest.mark.slow
def test_an_experiment_whose_data_are_missing_does_not_hide_the_others(tmp_path, three):
    panel = Panel("photos", {"dataset": str(tmp_path / "no_photos")})
    register(Experiment("photos", "photos", (panel,), (Candidates("ls", "smoothing", (0.1, 0.2)),)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = import_records([write(tmp_path / "there", older(three[0]))], tmp_path / "results")
    finally:
        _grids._EXPERIMENTS.pop("photos")
    assert len(done.added) == 1


# ---------------------------------------------------------------------- the command, and skipped records
def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), prog_name="vlls", env={"COLUMNS": "160"})


def without(record, *path):
    *upper, last = path
    part = record = json.loads(json.dumps(record))
    for name in upper:
        part = part[name]
    del part[last]
    return record


BAD = {
    "no time": (lambda record: without(record, "machine", "elapsed_seconds"), "tells no true time"),
    "no number": (lambda record: {**record, "machine": {"wall_seconds": None}}, "tells no true time"),
    "another format": (lambda record: {**record, "format": 99}, "is not one that this version of vlls wrote"),
    "cut": (lambda record: json.dumps(record)[:200], "cannot be read"),
    "no metrics": (lambda record: without(record, "final"), "lacks final"),
    "no images": (lambda record: {**record, "counts": {}}, "is of no run that is over, or is damaged"),
    "epochs": (lambda record: {**record, "epochs": [1, 2]}, "is of no run that is over, or is damaged"),
    "not over": (lambda record: {**record, "status": "stopped"}, "is of no run that is over, or is damaged"),
    "unknown method": (lambda record: {**record, "config": {"method": "magic"}}, "magic"),
    "of no cell": (lambda record: {**record, "config": {**record["config"], "lr": 0.7}}, "is no run of any experiment"),
}


def test_records_that_cannot_be_imported_are_a_line_each_and_the_others_are(tmp_path, three, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("there"), older(three[0]), *(damage(older(three[0])) for damage, _ in BAD.values()))
    told = invoke("import", "there")
    assert told.exit_code == 1, told.output
    assert told.stdout.splitlines()[-1] == "1 record imported into results"
    lines = told.stderr.strip().splitlines()
    assert len(lines) == len(BAD) and all(line.startswith("left out: ") for line in lines)
    for i, (_, said) in enumerate(BAD.values(), 1):
        (line,) = [line for line in lines if f"there/{i}.json" in line]
        assert said in line and "remove it to train again" not in line
    assert len(list(Path("results/runs").iterdir())) == 1
    again = invoke("import", "there/0.json", "--results", "results")
    assert again.exit_code == 0 and again.stdout == "0 records imported into results, 1 were there already\n"


@pytest.mark.slow
def test_the_command_tells_the_sweeps_and_the_others_show_them(tmp_path, three, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("there"), *(older(cell) for cell in three))
    told = invoke("import", "there")
    assert told.exit_code == 0, told.output
    assert f"{three[0].config.name}: fig7 (short), controls (short), take_off (short)" in told.stdout
    shown = invoke("results", "--experiment", "fig7")
    assert shown.exit_code == 0 and "fig7, short protocol, 1 runs" in shown.stdout
    assert invoke("figure", "fig7", "--protocol", "short").exit_code == 0 and Path("fig7.png").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nothing"], "there is no nothing; pass records or folders of them"),
        (["empty"], "the folder empty holds no records"),
        (["there", "--results", "file"], "the results folder file is a file"),
        (["there", "--results", "other"], "is of another version"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(tmp_path, three, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    write(Path("there"), older(three[0]))
    Path("empty").mkdir()
    Path("other").mkdir()
    Path("other/results.json").write_text(json.dumps({"results_format": 0}))
    Path("file").write_text("")
    before = sorted(Path().rglob("*"))
    told = invoke("import", *arguments)
    assert told.exit_code == 2 and len(told.output.strip().splitlines()) == 1
    assert told.output.startswith("error: ") and said in told.output
    assert sorted(Path().rglob("*")) == before


def test_a_folder_in_use_is_told(tmp_path, three):
    with ResultsFolder(tmp_path / "results").locked():
        told = invoke("import", write(tmp_path / "there", older(three[0])), "--results", tmp_path / "results")
    assert told.exit_code == 2 and "another sweep is at work in" in told.output
