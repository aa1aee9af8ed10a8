"""Variants of methods in tables, the epochs side by side, missing candidates, and tables that are added to."""

import csv
import math
from dataclasses import replace

import pandas as pd
import pytest
from sweeping import tiny
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.experiments import (
    PROTOCOLS,
    accuracy_table,
    candidates_table,
    cells,
    choose,
    compare,
    coverage,
    load_table,
)
from vlls.experiments._comparison import missing
from vlls.experiments._folder import ResultsFolder
from vlls.experiments._results import COLUMNS, _of_epochs, collate, collate_curves, save_table
from vlls.train._files import save_record

NAN = float("nan")


def run(method, accuracy, best=NAN, chosen=NAN, *, value=NAN, variant="", seed=0, panel="p", **fields):
    return {
        "experiment": "controls",
        "protocol": "short",
        "role": "main",
        "panel": panel,
        "method": method,
        "parameter": "",
        "value": value,
        "variant": variant,
        "seed": seed,
        "status": "finished",
        "test_accuracy": accuracy,
        "validation_accuracy": NAN,
        "best_test_accuracy": best,
        "chosen_test_accuracy": chosen,
        "reduced": "",
        "device": "",
        **fields,
    }


def table(*rows):
    return pd.DataFrame(rows)


MANY = (
    run("sgd", 0.7, 0.72, variant="cosine and warm-up"),
    run("sgd", 0.5, 0.52),
    run("ls", 0.6, 0.61, value=0.5),
    run("ls", 0.55, 0.61, value=0.1),
    run("ls", 0.95, 0.96, variant="negative"),
    run("ivon", 0.8, 0.8, seed=0),
    run("ivon", 0.84, 0.9, seed=1),
    run("ivon", 0.1, 0.1, panel="q"),
)


# ---------------------------------------------------------------------- variants are other methods
def test_variants_are_left_out_where_methods_are_compared():
    rows = table(*MANY[:7])
    chosen = choose(rows).set_index("method")
    assert chosen.loc["sgd", "accuracy"] == pytest.approx(50) and chosen.loc["ls", "accuracy"] == pytest.approx(60)
    plain = rows[rows["variant"] == ""]
    assert chosen.equals(choose(plain.drop(columns="variant")).set_index("method"))  # an older table
    assert accuracy_table(rows).equals(accuracy_table(plain)) and compare(rows, "sgd") == compare(plain, "sgd")
    assert choose(rows.assign(variant=rows["variant"].replace("", None))).equals(choose(plain))  # as Parquet has it


def test_older_tables_without_the_column_have_no_variants(tmp_path):
    table(*MANY).drop(columns="variant").to_csv(tmp_path / "old.csv", index=False)
    rows = load_table(tmp_path / "old.csv")
    assert set(rows["variant"]) == {""} and list(rows)[list(rows).index("value") + 1] == "variant"
    table(*MANY).to_csv(tmp_path / "new.csv", index=False)
    assert set(load_table(tmp_path / "new.csv")["variant"]) == {"", "negative", "cosine and warm-up"}
    labels = "experiment,protocol,panel,method,value,smoothed\nfig4,smoke,p,ls,0.1,0.9\n"
    (tmp_path / "labels.csv").write_text(labels)
    assert "variant" not in load_table(tmp_path / "labels.csv")


# ---------------------------------------------------------------------- epochs
def test_a_row_tells_the_best_epoch_and_the_one_that_images_held_out_choose(tmp_path):
    folder, (cell, other) = ResultsFolder(tmp_path), tiny(seeds=1)
    epochs = [
        {"epoch": 1, "train_loss": 2.0},
        {"epoch": 2, "train_loss": 1.0, "test_accuracy": 0.4, "validation_accuracy": 0.7},
        {"epoch": 4, "train_loss": 0.5, "test_accuracy": 0.6, "validation_accuracy": 0.5},
        {"epoch": 6, "train_loss": 0.1, "test_accuracy": 0.5, "validation_accuracy": 0.6},
    ]
    record = {"key": "", "status": "finished", "reason": "", "counts": {"train_images": 100}, "machine": {}}
    record |= {"final": {"test_accuracy": 0.5}}
    no_validation = [{name: x for name, x in epoch.items() if name != "validation_accuracy"} for epoch in epochs]
    average = [{**epoch, "ema_accuracy": 0.9 / epoch["epoch"]} for epoch in no_validation[1:]]
    averaged = replace(other, variant="averaged weights", config=replace(other.config, ema=0.9))
    with folder.locked():
        folder.add_sweep([cell, other, averaged])
        for which, measured in ((cell, epochs), (other, no_validation), (averaged, average)):
            folder.run(which.config).mkdir(parents=True)
            path = folder.run(which.config) / "record.json"
            save_record(path, {**record, "config": which.config.to_dict(), "epochs": measured})
    rows = collate(tmp_path)
    names = ["test_accuracy", "best_test_accuracy", "best_epoch", "chosen_test_accuracy", "chosen_epoch"]
    assert rows[names].iloc[0].tolist() == [0.5, 0.6, 4, 0.4, 2]
    assert rows[names].iloc[1].tolist()[:3] == [0.5, 0.6, 4] and rows[names[3:]].iloc[1].isna().all()
    assert rows[names].iloc[2].tolist()[1:3] == [0.45, 2]
    assert list(rows)[: COLUMNS.index("seed") + 1] == list(COLUMNS[: COLUMNS.index("seed") + 1])
    curves = collate_curves(tmp_path)
    assert list(curves) == ["key", "epoch", "train_loss", "test_accuracy", "validation_accuracy"]
    assert curves["epoch"].tolist() == [1, 2, 4, 6, 1, 2, 4, 6, 2, 4, 6] and set(curves["key"]) == set(rows["key"])
    told = CliRunner().invoke(app, ["results", "--results", str(tmp_path), "--curves", str(tmp_path / "c.csv")])
    assert told.exit_code == 0 and len(load_table(tmp_path / "c.csv")) == 11


def test_candidates_stand_side_by_side_with_their_epochs():
    shown = candidates_table(table(*MANY))
    labels = ["IVON", "SGD", "SGD, cosine and warm-up", "LS, α = 0.1", "LS, α = 0.5", "LS, negative"]
    assert shown.index.tolist() == labels and shown.columns.tolist() == ["p", "q"]
    assert shown.loc["SGD, cosine and warm-up", "p"] == "70.00 (72.00)"  # one seed: no ±
    std = 100 * 0.04 / math.sqrt(2), 100 * 0.1 / math.sqrt(2)
    assert shown.loc["IVON", "p"] == f"82.00 ± {std[0]:.2f} (85.00 ± {std[1]:.2f})"
    assert shown.loc["IVON", "q"] == "10.00 (10.00)" and shown.loc["SGD", "q"] == ""


def test_a_run_that_averages_its_weights_is_judged_by_the_average():
    rows = table(run("sgd", 0.5, 0.6), run("sgd", 0.5, 0.8, variant="averaged weights"))
    rows["ema_accuracy"] = [NAN, 0.7]
    assert candidates_table(rows)["p"].to_dict() == {"SGD": "50.00 (60.00)", "SGD, averaged weights": "70.00 (80.00)"}
    assert rows["test_accuracy"].tolist() == [0.5, 0.5]
    epochs = [{"epoch": 1, "test_accuracy": 0.6, "ema_accuracy": 0.3}, {"epoch": 2, "test_accuracy": 0.4}]
    epochs.append({"epoch": 3, "test_accuracy": 0.5, "ema_accuracy": 0.7, "validation_accuracy": 0.2})
    found = {by: _of_epochs(epochs, by) for by in ("test", "ema")}
    assert [found[by]["best_test_accuracy"] for by in found] == [0.6, 0.7]
    assert [found[by]["chosen_test_accuracy"] for by in found] == [0.5, 0.7]


def test_candidates_of_runs_that_hold_images_out_diverge_or_have_no_epochs():
    rows = table(
        run("ivon", 0.5, 0.6, 0.55),
        run("sgd", 0.5, 0.6),
        run("sgd", 0.1, 0.2, seed=1, status="diverged"),
        run("ivon_fixed", 0.9, value=0.03, parameter="hess_init", role="tune"),
        run("ivon", 0.4, 0.6, value=0.05, parameter="hess_init"),
    )
    shown = candidates_table(rows)["p"]
    assert shown.to_dict() == {
        "IVON": "50.00 (60.00, 55.00)",
        "IVON, hess_init = 0.05": "40.00 (60.00)",
        "SGD": "50.00 (60.00), 1 diverged",
    }
    older = rows.drop(columns=["best_test_accuracy", "chosen_test_accuracy", "variant", "parameter"])
    assert candidates_table(older).loc["SGD", "p"] == "50.00, 1 diverged"
    with pytest.raises(ValueError, match="several values of protocol"):
        candidates_table(pd.concat([rows, rows.assign(protocol="paper")]))
    with pytest.raises(ValueError, match="magic"):
        candidates_table(rows.assign(method="magic"))


# ---------------------------------------------------------------------- missing
def planned(name, size, keep=lambda cell: True):
    grid = [cell for cell in cells(name, size, seeds=1, tune=False) if keep(cell)]
    return table(
        *(
            run(
                c.config.method,
                0.5,
                value=NAN if c.value is None else c.value,
                variant=c.variant,
                panel=c.panel,
                experiment=name,
                protocol=size,
            )
            for c in grid
        )
    )


def test_what_an_experiment_lacks_is_told_by_candidate_and_panel():
    assert missing("take_off", planned("take_off", "probe")) == ""
    assert missing("fig7", planned("take_off", "probe").assign(panel="other")) == ""
    assert missing("no_experiment", planned("take_off", "probe")) == ""
    rows = planned("take_off", "probe", lambda c: c.config.method != "sam" and "0.5" not in c.panel)
    assert missing("take_off", rows) == "Not run: SAM. No run for CIFAR-10, κ = 0.5"
    rows = planned("take_off", "probe", lambda c: c.variant != "smaller step" or "0.5" not in c.panel)
    assert missing("take_off", rows) == "Not run for CIFAR-10, κ = 0.5: SGD, smaller step"
    rows = planned("fig7", "short", lambda c: c.config.method != "ls" or c.value == 0.5)
    assert missing("fig7", rows) == "Not run: LS, α = 0.1, 0.3, 0.7, 0.9"


def test_coverage_counts_variants_apart_and_knows_protocols_without_the_panels():
    rows = planned("controls", "short", lambda c: c.variant != "no noise")
    text = coverage("controls", rows)
    assert "short: 36 of 120 runs are there" in text
    assert "missing in part or whole, CIFAR-10, κ = 0.5: " in text and "ivon_fixed (no noise)" in text
    assert "mnist: 0 of 0 runs are there" in coverage("cifar_n", rows)
    assert [line.partition(":")[0] for line in coverage("fig10", rows.iloc[:0]).splitlines()] == list(PROTOCOLS)


# ---------------------------------------------------------------------- tables that are added to
def test_rows_of_other_protocols_stay_as_they_are(tmp_path):
    path = tmp_path / "table.csv"
    older = "experiment,protocol,method,value,reduced,key\nfig7,smoke,ivon,0.10,,a\nfig7,short,sgd,,,b\n"
    path.write_text(older)
    new = pd.DataFrame([{"experiment": "fig7", "protocol": "short", "method": "ls", "variant": "v", "key": "c"}])
    save_table(new, path, add=True)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["protocol"], row["method"], row["key"]) for row in rows] == [
        ("short", "ls", "c"),  # the highest protocol first
        ("smoke", "ivon", "a"),
    ]
    assert rows[1]["value"] == "0.10" and rows[1]["variant"] == "" and list(rows[0])[-1] == "key"
    before = path.read_bytes()
    save_table(new, path, add=True)
    assert path.read_bytes() == before
    save_table(new, tmp_path / "first.csv", add=True)  # none is there yet
    assert len(load_table(tmp_path / "first.csv")) == 1
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other.csv is no table of runs; choose another name"):
        save_table(new, tmp_path / "other.csv", add=True)
    with pytest.raises(ValueError, match=r"cannot be added to; choose a name that ends in .csv"):
        save_table(new, tmp_path / "table.parquet", add=True)
    told = CliRunner().invoke(app, ["results", "--add"])
    assert told.exit_code == 2 and told.output == "error: --add goes with --output, the table that is added to\n"
