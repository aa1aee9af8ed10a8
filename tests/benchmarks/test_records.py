"""The records of the benchmarks beside their goals, as a table and as the figure of the appendix."""

import json
import shutil
from pathlib import Path

import pytest
from figures.cost import plot_cost
from goals import QUANTITIES
from read_records import benchmark_records, cost_table, goals_met, made_with

RECORDS = Path(__file__).resolve().parents[2] / "benchmarks" / "records"


def row_of(table, record, name, what=""):
    rows = table[(table["record"] == record) & (table["name"] == name) & table["what"].str.startswith(what)]
    assert len(rows) == 1
    return rows.iloc[0]


KEPT = ("IVON fused, keep_sampled", "step over")


def optimizer_record(ratio=1.9, **more):
    rows = [{"method": "ivon fused, kept", "ms": 3.0, "over_adamw_fused": ratio, "peak_bytes_a_parameter": 12.0}]
    rows.append({"method": "ivon-opt", "ms": 90.0, "over_adamw_fused": 50.0, "peak_bytes_a_parameter": 40.0})
    told = {"machine": "a machine, 2 threads", "torch": "9.9", "date": "2030-01-01", "device": "cpu", "rounds": 5}
    return {**told, "parameters": 1000, "rows": rows, **more}


def written(folder, record, name="optimizer-cpu.json"):
    text = record if isinstance(record, str) else json.dumps(record)
    (folder / name).write_text(text)
    return benchmark_records(folder)


def test_quantities_are_told_apart():
    keys = [(q.record, q.what, q.name) for q in QUANTITIES]
    assert len(set(keys)) == len(keys)
    units = {}
    for q in QUANTITIES:
        assert units.setdefault(q.what, (q.unit, q.at_least)) == (q.unit, q.at_least)
    assert {q.what.rpartition(", ")[2] for q in QUANTITIES if q.record.endswith("-cuda")} == {"GPU"}


def test_without_records_everything_is_listed_as_not_measured(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        table = benchmark_records(folder)
        assert len(table) == len(QUANTITIES) and set(table["status"]) == {"not measured"}
        assert table["value"].isna().all() and table["met"].isna().all()
        assert goals_met(table).startswith("goals met: 0 of 0") and "training-cuda: 3 goals, not measured" in goals_met(
            table
        )
        assert set(cost_table(table)["measured"]) == {"not measured"}
        assert len(plot_cost(table).axes) == 1


def test_every_committed_record_is_read_as_it_is(tmp_path):
    table = benchmark_records(RECORDS)
    names = {path.stem for path in RECORDS.glob("*.json")}
    if not names:
        pytest.skip("no benchmark has been recorded")
    here = table[table["record"].isin(names)]
    assert set(here["status"]) == {"measured"}
    assert (here[["device", "torch", "date"]] != "").all(axis=None)
    assert set(table[~table["record"].isin(names)]["status"]) <= {"not measured"}
    for name in sorted(names):  # and each by itself
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(RECORDS / f"{name}.json", folder)
        alone = benchmark_records(folder)
        assert set(alone[alone["status"] == "measured"]["record"]) == {name}
        plot_cost(alone)


def test_a_number_is_set_beside_its_goal(tmp_path):
    for ratio, met, harder in ((1.9, True, True), (3.0, True, False), (5.0, False, False)):
        row = row_of(written(tmp_path, optimizer_record(ratio)), "optimizer-cpu", *KEPT)
        assert (row["value"], row["goal"], row["met"], row["stretch_met"]) == (ratio, 4.0, met, harder)
    faster = row_of(written(tmp_path, optimizer_record()), "optimizer-cpu", KEPT[0], "step, faster")
    assert (faster["value"], faster["met"], faster["at_least"]) == (30.0, True, True)
    assert (row["device"], row["torch"], row["date"]) == ("a machine, 2 threads", "9.9", "2030-01-01")
    assert row["protocol"] == "5 rounds, 1,000 parameters"
    table = written(tmp_path, optimizer_record(5.0))
    assert "not met: step over AdamW fused, CPU, IVON fused, keep_sampled: 5 ×, goal ≤ 4" in goals_met(table)
    lines = made_with(table).splitlines()
    assert "optimizer-cpu: a machine, 2 threads, torch 9.9, 2030-01-01, 5 rounds, 1,000 parameters" in lines
    assert any(line.startswith("glm: ") and line.endswith("numbers: not measured") for line in lines)
    shown = cost_table(table).loc[("step over AdamW fused, CPU", KEPT[0])]
    assert (shown["measured"], shown["goal"], shown["met"]) == (
        "5 ×",
        "≤ 4; stretch ≤ 2",
        "not met; stretch not met",
    )


def broken(change):
    record = optimizer_record()
    change(record)
    return record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "cannot be read"),
        ("", "cannot be read"),
        ("[1, 2]", "holds a list"),
        (broken(lambda r: r.pop("rows")), "the record has no 'rows'"),
        (broken(lambda r: r.update(rows={"kept": 1.0})), "the record has no 'rows' → 'method=ivon fused, kept'"),
        (broken(lambda r: r["rows"].pop(0)), "the record has no 'rows' → 'method=ivon fused, kept'"),
        (broken(lambda r: r["rows"][0].pop("over_adamw_fused")), "'over_adamw_fused'"),
        (broken(lambda r: r["rows"][0].update(over_adamw_fused="1.9")), "is 1.9, not a number"),
        (broken(lambda r: r["rows"][0].update(over_adamw_fused=float("nan"))), "is nan, not a number"),
        (broken(lambda r: r["rows"][0].update(over_adamw_fused=True)), "not a number"),
        (broken(lambda r: r.update(rows=[{"method": "ivon fused, kept", "failed": "no Triton"}])), "failed: no Triton"),
    ],
)
def test_a_record_that_is_damaged_or_changed_is_listed(tmp_path, record, message):
    table = written(tmp_path, record)
    row = row_of(table, "optimizer-cpu", *KEPT)
    assert message in row["status"] and row["value"] != row["value"] and row["met"] is None
    assert message in cost_table(table).loc[("step over AdamW fused, CPU", KEPT[0])]["measured"]
    assert message in goals_met(table) and message in made_with(table)
    plot_cost(table)


def test_a_ratio_to_zero_and_bytes_that_are_no_text_are_listed(tmp_path):
    record = optimizer_record()
    record["rows"][0]["ms"] = 0.0
    row = row_of(written(tmp_path, record), "optimizer-cpu", KEPT[0], "step, faster")
    assert "is 0" in row["status"]
    (tmp_path / "glm.json").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in row_of(benchmark_records(tmp_path), "glm", "N = 1,000", "GLM, VON over")["status"]


def test_records_of_a_gpu_are_read_when_they_come(tmp_path):
    rows = [{"method": "ivon fused, closure", "over_adamw_fused": 1.3, "peak_bytes_a_parameter": 12.0, "ms": 0.3}]
    table = written(tmp_path, optimizer_record(device="NVIDIA H100", rows=rows), "optimizer-cuda.json")
    row = row_of(table, "optimizer-cuda", "IVON fused, step(closure)", "step over")
    assert (row["met"], row["stretch_met"], row["device"]) == (True, False, "NVIDIA H100")
    runs = {"1": 4.0, "2": 7.0, "4": 11.0}
    cifar = {"medians": {"engine": 9e3, "plain loop, ivon-opt, DataLoader": 1e3, "engine, plain SGD": 1e4}}
    cifar |= {"run_minutes": 18.0, "runs_an_hour": runs}
    table = written(tmp_path, {"device": "NVIDIA H100", "cifar10": cifar}, "training-gpu.json")  # by its other name
    found = table[table["record"] == "training-cuda"].set_index("what")["value"]
    assert found["training, over a plain loop with ivon-opt, GPU"] == 9.0
    assert found["runs an hour, paper's size, GPU"] == 11.0
    medians = {
        "median_runs_per_hour": {"1": 50.0, "2": 80.0},
        "median_runs_per_hour_in_threads": {"2": 60.0, "4": 55.0},
    }
    table = written(tmp_path, {"protocol": "reduced", **medians}, "sweep-cpu.json")
    gains = [row_of(table, "sweep-cpu", way, "sweep, gain")["value"] for way in ("in processes", "in threads")]
    assert gains == [1.6, 1.2]
    table = written(tmp_path, {"median_runs_per_hour": {"1": 50.0}}, "sweep-cpu.json")  # a single core
    assert row_of(table, "sweep-cpu", "one at a time")["value"] == 50.0
    for way in ("in processes", "in threads"):
        assert "the record has no" in row_of(table, "sweep-cpu", f"side by side, {way}")["status"]


def test_a_record_that_nothing_reads_is_named(tmp_path):
    table = written(tmp_path, {"rows": []}, "another.json")
    assert list(table[table["what"] == "other records"]["name"]) == ["another"]
    assert set(table[table["what"] == "other records"]["status"]) == {"not read here"}
    written(tmp_path, "{", "damaged.json")
    assert "damaged" in set(benchmark_records(tmp_path)["name"])


# ---------------------------------------------------------------------- the figure
def test_the_figure_colours_by_the_goals(tmp_path):
    record = optimizer_record()
    figure = plot_cost(written(tmp_path, record))
    titles = [" ".join(ax.get_title(loc="left").split()) for ax in figure.axes]
    assert titles[0] == "step over AdamW fused, CPU (×) less is better"
    assert "step, faster than ivon-opt, CPU (×) more is better" in titles
    met, none = (bar.get_facecolor() for bar in figure.axes[0].patches)
    missed = plot_cost(written(tmp_path, optimizer_record(7.0))).axes[0].patches[0].get_facecolor()
    assert len({met, none, missed}) == 3
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].collections[0].get_offsets().tolist() == [[4.0, 0.0]]


def test_the_figure_refuses_what_it_cannot_draw(tmp_path):
    table = benchmark_records(tmp_path)
    with pytest.raises(ValueError, match="lacks the columns unit"):
        plot_cost(table.drop(columns="unit"))
    with pytest.raises(ValueError, match="needs positive values"):
        plot_cost(written(tmp_path, optimizer_record(0.0)))
