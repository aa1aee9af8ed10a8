"""The decision page: the tables still support its advice."""

import importlib
import math

import pandas as pd
import pytest
from chapters import BOOK, markdown
from figures import which_method as page
from figures.ledger import RESULTS, Gap

import vlls.experiments._grids as grids
import vlls.train.methods as methods
from vlls.experiments import load_table
from vlls.experiments._protocols import _MNIST_LR


@pytest.mark.parametrize("one", page.ADVICE, ids=lambda one: one.take)
def test_the_tables_still_say_so(one):
    assert one.holds(), f"{one.wanted}: {one.take} is no longer right: {one.because()}"


def test_advice_that_the_tables_contradict_is_noticed():
    one = page._more_accurate("", "IVON", ("40 % flipped to the next class",), ("IVON",), "LS")
    assert not one.holds() and "IVON 70.1, LS 86.7" in one.because()


def test_a_row_has_the_means_of_its_runs():
    table = page.accuracies_by_situation()
    assert list(table.index) == list(page.SITUATIONS)
    for situation, row in table.iterrows():
        for column, text in row.items():
            runs = page.runs_of(situation, column)
            assert (text == "not run") == runs.empty
            assert runs.empty or abs(float(text.partition("±")[0]) - runs.mean()) <= 0.05 + 1e-9
    assert table.loc["labels by people", "GCE"] == "not run"


def test_the_averaged_weights_are_those_that_count():
    rows = page._rows("mnist")
    averaged = rows[(rows["method"] == "sgd") & (rows["variant"] == "averaged weights")]
    runs = page.runs_of("40 % wrong, any class (MNIST)", "SGD, averaged weights")
    of_panel = averaged[averaged["panel"] == "MNIST, symmetric 40 %"].set_index("seed")["ema_accuracy"].astype(float)
    pd.testing.assert_series_equal(runs.sort_index(), 100 * of_panel.sort_index(), check_names=False)


def test_costs_are_ratios_to_sgd():
    table = page.costs()
    assert table.loc["SGD", "CPU"] == pytest.approx(1) and table.loc["SGD", "GPU"] == pytest.approx(1)
    assert 1.5 < table.loc["SAM", "GPU"] < 2.5 and math.isnan(table.loc["ELR", "GPU"])
    assert math.isnan(table.loc["AdamW", "CPU"])  # no record yet


def test_adamw_is_run_as_its_script_says(monkeypatch):
    monkeypatch.syspath_prepend(str(RESULTS.parents[1] / "benchmarks"))
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))  # registered methods are removed after the test
    monkeypatch.setattr(grids, "_EXPERIMENTS", dict(grids._EXPERIMENTS))
    script, table = importlib.import_module("adamw"), load_table(RESULTS / "adamw.csv")
    seeds = table.groupby("panel")["seed"].nunique()
    assert set(seeds.index) == {panel.title.format(dataset="MNIST") for panel in script.PANELS} and (seeds == 3).all()
    assert (table["lr"].astype(float) - script.TRIED.fields["lr"] * _MNIST_LR[False]).abs().max() < 1e-12
    assert (table["weight_decay"].astype(float) == script.TRIED.fields["weight_decay"]).all()


def test_adamw_is_about_level_with_sgd():
    gaps = [page.ahead_of(name, "AdamW", "SGD") for name, (at, _) in page.SITUATIONS.items() if at == "mnist"]
    assert len(gaps) == 4 and {gap.points > 0 for gap in gaps} == {True, False}
    assert 2.0 < max(abs(gap.points) for gap in gaps) < 2.1
    told = "AdamW is within 2.1 points of SGD, sometimes above it and sometimes below"
    assert told in markdown(BOOK / "which_method.ipynb")


def test_a_gap_needs_both_methods():
    assert isinstance(page.ahead_of("labels by people", "IVON", "SGD"), Gap)
    assert page.ahead_of("labels by people", "IVON", "ELR") is None


def test_the_advice_is_shown_whole():
    shown = page.advice().data
    assert all(one.because() in shown for one in page.ADVICE) and "..." not in shown
    printed = page.advice()._repr_markdown_().replace("\\", "").splitlines()  # in the PDF
    assert len(printed) == len(page.ADVICE)
    for one, line in zip(page.ADVICE, printed, strict=True):
        assert line == f"- **{one.wanted}:** {one.take}. {one.because()}"
