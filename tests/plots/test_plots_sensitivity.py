"""Accuracies over hyperparameters (Figures 5, 8 and 9), read back from the axes and compared with means by hand."""

import numpy as np
import pytest
from drawn_runs import A, B, curve, legend, level, run, seeds, std, sweep, table, texts
from matplotlib.colors import to_rgba

from vlls.plots._experiments import sensitivity


def test_sensitivity_draws_means_and_standard_deviations_with_sgd_at_zero():
    ls, sam = sensitivity(table(sweep())).axes
    x, y, bar = curve(ls, "LS")
    assert x == pytest.approx([0, 0.1, 0.3]) and y == pytest.approx([80, 84, 86])
    assert bar == pytest.approx([std(0.01, -0.01)] * 3)
    x, y, _ = curve(sam, "SAM")
    assert x == [0, 1, 2, 3] and y == pytest.approx([80, 82, 93, 30])  # the values of ρ stand side by side
    assert [tick.get_text() for tick in sam.get_xticklabels()] == ["0", "0.01", "0.05", "0.5"]
    assert [tick.get_text() for tick in ls.get_xticklabels()] == ["0", "0.1", "0.3"]
    for ax in (ls, sam):
        assert level(ax) == pytest.approx([91])
        band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
        assert (band.y0, band.y1) == pytest.approx((91 - std(0.90, 0.92), 91 + std(0.90, 0.92)))
    assert "α" in ls.get_xlabel() and "ρ" in sam.get_xlabel()


def test_numbers_that_were_read_as_text_are_numbers():
    ls, _ = sensitivity(table(sweep()).astype({"value": str, "test_accuracy": str})).axes
    assert curve(ls, "LS")[1] == pytest.approx([80, 84, 86]) and level(ls) == pytest.approx([91])


def test_improvements_stand_over_the_best_candidate_negative_ones_too():
    ls, sam = sensitivity(table(sweep())).axes
    assert texts(ls) == ["+5.0"] and texts(sam) == ["−2.0"]
    assert ls.texts[0].xy[0] == pytest.approx(0.3) and sam.texts[0].xy[0] == 2
    assert ls.texts[0].xy[1] == pytest.approx(91 + std(0.90, 0.92))  # above IVON's band
    assert sam.texts[0].xy[1] == pytest.approx(93 + std(0.92, 0.94))  # above the candidate's bar
    red, green, blue, _ = to_rgba(ls.texts[0].get_color())
    assert blue > 0.7 and max(red, green) < 0.3


def test_the_best_candidate_is_that_of_the_best_mean_not_of_the_best_run_or_median():
    wide, even = seeds("ls", 0.88, 0.83, 0.30, value=0.1), seeds("ls", 0.80, 0.80, 0.83, value=0.3)
    ax = sensitivity(table(seeds("ivon", 0.9, 0.9, 0.9), wide, even)).axes[0]
    assert curve(ax, "LS")[1:] == (pytest.approx([67, 81]), pytest.approx([std(0.88, 0.83, 0.3), std(0.8, 0.8, 0.83)]))
    assert texts(ax) == ["+9.0"] and ax.texts[0].xy[0] == pytest.approx(0.3)


def test_sgd_can_be_the_best_candidate():
    rows = table(run("ivon", 0.9), run("sgd", 0.85), run("ls", 0.8, value=0.1), run("sam", 0.8, value=0.1))
    for ax in sensitivity(rows).axes:
        assert texts(ax) == ["+5.0"] and ax.texts[0].xy[0] == 0


def test_many_panels_are_stacked_in_pairs_of_rows():
    names = [f"κ = {i}" for i in range(5)]
    figure = sensitivity(table(*(sweep(name, -0.01 * i) for i, name in enumerate(names))))
    assert len(figure.axes) == 10 and figure.get_size_inches()[0] <= 7
    place = {ax.get_title(): ax.get_subplotspec() for ax in figure.axes if ax.get_title()}
    assert list(place) == names
    assert [(spec.rowspan.start, spec.colspan.start) for spec in place.values()] == [
        (0, 0), (0, 1), (0, 2), (2, 0), (2, 1)
    ]  # fmt: skip
    below = {(s.rowspan.start, s.colspan.start): ax for ax in figure.axes for s in [ax.get_subplotspec()]}
    for i, spec in enumerate(place.values()):
        ax = below[spec.rowspan.start + 1, spec.colspan.start]
        assert "ρ" in ax.get_xlabel() and level(ax) == pytest.approx([91 - i])


def test_one_seed_has_neither_bars_nor_band():
    rows = table(sweep())
    ls, sam = sensitivity(rows[rows["seed"] == 0]).axes
    for ax, name in ((ls, "LS"), (sam, "SAM")):
        assert np.isnan(curve(ax, name)[2]).all() and not ax.patches
        assert level(ax) == pytest.approx([90])
    assert texts(ls) == ["+5.0"]
    assert len(sensitivity(rows).axes[0].patches) == 1


def test_a_stopped_sweep_draws_what_there_is():
    rows = table(sweep(), sweep(B))
    only = sensitivity(rows[rows["method"] == "ivon"])
    assert [level(ax) for ax in only.axes] == [pytest.approx([91])] * 4 and legend(only) == ["IVON"]
    assert not any(texts(ax) or ax.containers for ax in only.axes)
    without = sensitivity(rows[rows["method"] != "ivon"])
    assert curve(without.axes[0], "LS")[1] == pytest.approx([80, 84, 86]) and not texts(without.axes[0])
    half = sensitivity(rows[(rows["panel"] == A) | rows["method"].isin(["ivon", "sgd"])])
    assert texts(half.axes[0]) == ["+5.0"] and curve(half.axes[1], "LS")[:2] == ([0], pytest.approx([80]))
    assert not texts(half.axes[1])  # SGD alone is not the best of LS
