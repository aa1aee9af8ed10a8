"""Candidates side by side, after the last and the best epoch; missing runs, and tables of other experiments."""

import math
from pathlib import Path

import numpy as np
import pytest
from drawn_runs import A, B, curve, legend, run, seeds, table
from matplotlib.colors import to_rgba

from vlls.experiments import PROTOCOLS, load_table
from vlls.plots import plot_experiment
from vlls.plots._experiments import bars, noise_levels, sensitivity
from vlls.train import METHODS

RESULTS = Path(__file__).parents[2] / "book" / "results"
ROWS = table(
    run("ls", 0.7, value=0.5, best_test_accuracy=0.71),
    [run("ivon", a, seed=i, best_test_accuracy=0.9) for i, a in enumerate((0.8, 0.84))],
    run("sgd", 0.5, variant="smaller step", best_test_accuracy=0.6),
    run("sgd", 0.4, best_test_accuracy=0.4),
    run("sgd", 0.3, panel=B),
    run("ivon", 0.1, panel=B, status="diverged"),
)


def marks(ax):
    """Return (accuracy, line, filled, colour) of each mark on an axis, without the legend's."""
    found = []
    for line in ax.lines:
        x, y = np.atleast_1d(line.get_xdata()), np.atleast_1d(line.get_ydata())
        if len(x) and line.get_marker() not in ("|", "None"):
            filled = line.get_markerfacecolor() != "none"
            found += [
                (round(float(a), 3), int(b), filled, to_rgba(line.get_color())) for a, b in zip(x, y, strict=True)
            ]
    return sorted(found)


def test_every_candidate_has_its_last_and_best_epoch_in_every_panel():
    figure = bars(ROWS)
    left, right = figure.axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels == ["IVON", "SGD", "SGD, smaller step", "LS, α = 0.5"]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first on top
    of_left = {at: [mark[:3:2] for mark in marks(left) if mark[1] == at] for at in range(4)}
    assert of_left[0] == [(80.0, True), (82.0, True), (84.0, True), (90.0, False)]  # two seeds, their mean, the best
    assert of_left[1] == [(40.0, False), (40.0, True)] and of_left[2] == [(50.0, True), (60.0, False)]
    assert of_left[3] == [(70.0, True), (71.0, False)]
    colours = {at: {mark[3][:3] for mark in marks(left) if mark[1] == at} for at in range(4)}
    for at, method in enumerate(("ivon", "sgd", "sgd", "ls")):
        assert colours[at] == {to_rgba(METHODS[method].colour)[:3]}
    assert [mark[:3] for mark in marks(right)] == [(30.0, 1, True)]  # no best epoch; the diverged run is counted below
    assert right.get_xlabel() == "test accuracy (%)\n1 run diverged" and left.get_xlabel() == "test accuracy (%)"
    assert legend(figure) == ["last epoch", "best epoch", "a seed, last epoch"]
    assert right.get_xlim()[1] - right.get_xlim()[0] >= 4
    (spread,) = [c for c in left.containers if c.has_xerr]
    (segment,) = spread.lines[2][0].get_segments()
    assert (segment[1, 0] - segment[0, 0]) / 2 == pytest.approx(100 * 0.04 / math.sqrt(2))


def test_one_seed_has_neither_dots_nor_bars_and_four_panels_stand_in_two_rows():
    rows = table([run("ivon", 0.5, panel=panel, best_test_accuracy=0.6) for panel in "abcd"])
    figure = bars(rows)
    assert legend(figure) == ["last epoch", "best epoch"] and len(figure.axes) == 4
    assert all(len(marks(ax)) == 2 and not any(c.has_xerr for c in ax.containers) for ax in figure.axes)
    assert len({round(ax.get_position().y0, 3) for ax in figure.axes}) == 2


def test_figures_that_compare_methods_leave_variants_out():
    plain = table(seeds("ivon", 0.9, 0.9), seeds("sgd", 0.5, 0.5), seeds("ls", 0.6, 0.6, value=0.1))
    more = table(
        plain.to_dict("records"), run("sgd", 0.99, variant="smaller step"), run("ls", 0.99, variant="negative")
    )
    more["variant"] = more["variant"].fillna("")
    for figure in (noise_levels, sensitivity):
        before, after = figure(plain).axes[0], figure(more).axes[0]
        assert curve(before, "LS")[:2] == curve(after, "LS")[:2]


# ---------------------------------------------------------------------- committed tables, and others
@pytest.mark.parametrize("name", ["fig5", "fig7", "cifar_n", "controls", "rivals", "take_off"])
def test_committed_tables_are_drawn(name):
    figure = plot_experiment(name, load_table(RESULTS / f"{name}.csv"))
    figure.canvas.draw()
    text = figure.get_supxlabel().replace("\n", " ")
    rows = load_table(RESULTS / f"{name}.csv")
    highest = next(size for size in PROTOCOLS if size in set(rows["protocol"]))
    assert text.startswith(f"{highest} protocol, ")


def test_figure_7_at_the_short_protocol_is_drawn_without_the_methods_that_a_panel_lacks():
    rows = load_table(RESULTS / "fig7.csv")
    rows = rows[(rows["protocol"] == "short") & (rows["seed"] == 0) & (rows["method"] != "sam")]
    rows = rows[(rows["rate"] == 0.4) | (rows["method"] != "ls")]
    figure = plot_experiment("fig7", rows[rows["rate"].isin([0.4, 0.5])])
    (ax,) = figure.axes
    assert curve(ax, "IVON")[0] == curve(ax, "SGD")[0] == [0.4, 0.5] and curve(ax, "LS")[0] == [0.4]
    text = figure.get_supxlabel().replace("\n", " ")
    assert "Not run: SAM" in text and "Not run for CIFAR-10, κ = 0.5: LS" in text
    assert "No run for CIFAR-10, κ = 0.1; CIFAR-10, κ = 0.2; CIFAR-10, κ = 0.3" in text
    described = figure._repr_mimebundle_()[0]["text/plain"]
    assert "Not run: SAM" in described


def test_a_table_of_another_experiment_or_protocol_is_one_line():
    rows = load_table(RESULTS / "fig5.csv")
    with pytest.raises(ValueError, match=r"^the table holds runs of fig5, and none of fig7; pass one that does$"):
        plot_experiment("fig7", rows)
    with pytest.raises(ValueError, match=r"^protocol='huge' is unknown; choose one of paper, short") as caught:
        plot_experiment("fig5", rows.assign(protocol="huge"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^the table lacks the columns panel, status; pass one"):
        plot_experiment("fig5", rows.drop(columns=["panel", "status"]))


def test_rows_of_several_panels_need_not_be_of_the_grid():
    assert plot_experiment("fig5", ROWS.assign(variant=""), figure="bars").get_supxlabel() == ""
    assert [ax.get_title() for ax in bars(ROWS).axes] == [A, B]
