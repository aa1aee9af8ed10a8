"""The decision page: the tables still say what it advises."""

import math

import pandas as pd
import pytest
from figures import which_method as page
from figures.ledger import Gap


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
            assert (text == "–") == runs.empty
            assert runs.empty or abs(float(text.partition("±")[0]) - runs.mean()) <= 0.05 + 1e-9
    assert table.loc["labels by people", "GCE"] == "–"


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


def test_a_gap_needs_both_methods():
    assert isinstance(page.ahead_of("labels by people", "IVON", "SGD"), Gap)
    assert page.ahead_of("labels by people", "IVON", "ELR") is None


def test_the_advice_is_shown_whole():
    shown = page.advice().data
    assert all(one.because() in shown for one in page.ADVICE) and "..." not in shown
