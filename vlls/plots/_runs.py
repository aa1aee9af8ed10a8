"""The parts that figures of runs share: the runs they draw, axes, curves, legend."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from vlls._validation import check_known
from vlls.experiments._choice import best_runs, finished, methods_in
from vlls.plots._style import WIDTH
from vlls.train.methods import METHODS, PROPOSED

BLUE, GRAY = "#0033cc", "0.45"
ACCURACY = "test accuracy (%)"


# ---------------------------------------------------------------------- which runs
def runs_of(table: DataFrame, *metrics: str) -> DataFrame:
    """Return the runs that a figure may draw; ``value`` and the metrics are floats."""
    if not len(table):
        return table
    numbers = ("value", "test_accuracy", *metrics)
    check_table(table, "protocol", "role", "panel", "method", "seed", "status", "reduced", *numbers)
    methods_in(table)  # raises for those that are unknown
    return table[table["role"] == "main"].astype(dict.fromkeys(numbers, float))


def check_table(table: DataFrame, *needed: str) -> None:
    """Raise a ValueError unless a table has the columns that are needed, of one protocol and one experiment."""
    missing = [column for column in needed if column not in table]
    if missing:
        raise ValueError(f"the table lacks the columns {', '.join(missing)}; pass one that vlls.experiments collates")
    for column in ("protocol", "experiment"):
        found = table[column].unique() if column in table else ()
        if len(found) > 1:
            raise ValueError(f"the table holds {column} {' and '.join(map(str, found))}; choose one {column}")


def by_panel(rows: DataFrame, panels: Sequence[str] | None = None) -> dict[str, DataFrame]:
    """Return the rows of each panel, in the order of first appearance or the one that is asked for."""
    there = dict(iter(rows.groupby("panel", sort=False)))
    for panel in panels or ():
        check_known(panel, there, "panel")
    return {panel: there[panel] for panel in panels or there}


# ---------------------------------------------------------------------- what is common to the figures
def no_runs(name: str) -> Figure:
    """Return the figure of an experiment that has no runs yet: it says how to start them."""
    figure, ax = plt.subplots(figsize=(WIDTH, 1.2))
    ax.set_axis_off()
    ax.text(0.5, 0.5, f"No runs yet: vlls sweep {name}", ha="center", va="center", color=GRAY)
    return figure


def grid_of_panels(panels: Iterable[str], deep: int) -> tuple[Figure, list[list[Axes]]]:
    """Make axes of accuracies for each panel: ``deep`` of them in a column, at most three panels side by side."""
    titles = list(panels)
    blocks = -(-len(titles) // 3)
    columns = -(-len(titles) // blocks)
    size = (WIDTH, 1.85 * blocks * deep + 0.6)
    figure, axes = plt.subplots(blocks * deep, columns, figsize=size, squeeze=False)
    per_panel = axes.reshape(blocks, deep, columns).swapaxes(1, 2).reshape(-1, deep)
    for column, title in zip(per_panel, titles, strict=False):
        column[0].set_title(textwrap.fill(title, 84 // columns), fontsize=9)
    for ax in per_panel[len(titles) :].flat:
        ax.remove()
    figure.supylabel(ACCURACY, fontsize=10)
    return figure, per_panel[: len(titles)].tolist()


def draw_curve(ax: Axes, runs: DataFrame, by: str, method: str, **look: Any) -> DataFrame:
    """Draw the accuracy of runs, if there are any, against a column; return its mean and standard deviation."""
    points = (100 * runs.groupby(by)["test_accuracy"].agg(["mean", "std"])).reset_index()
    record = METHODS[method]
    look = {"color": record.colour, "marker": record.marker, "label": record.label, **look}
    if len(points):
        bars = within(points["mean"], points["std"])
        ax.errorbar(points[by], points["mean"], bars, markersize=4, linewidth=1.3, capsize=2, **look)
    return points


def draw_level(ax: Axes, rows: DataFrame, method: str = PROPOSED, about: str = "") -> tuple[float, float]:
    """Draw a method as a horizontal line with a band; return its mean and the upper end of the band, in per cent."""
    accuracy, colour = 100 * finished(best_runs(rows, method))["test_accuracy"], METHODS[method].colour
    mean, std = accuracy.mean(), accuracy.std()
    if len(accuracy):
        ax.axhline(mean, color=colour, linewidth=1.3, label=METHODS[method].label + about)
    if len(accuracy) > 1:
        below, above = within(mean, std)
        ax.axhspan(mean - below, mean + above, color=colour, alpha=0.18, linewidth=0)
    return mean, min(np.nansum([mean, std]), 100.0)


def within(mean: Any, std: Any, top: float = 100.0) -> np.ndarray:
    """Return the lengths of error bars below and above a mean, (2, ...), cut at 0 and at ``top``."""
    return np.maximum([np.minimum(std, mean), np.minimum(std, top - mean)], 0.0)


def limit_accuracy(ax: Axes) -> None:
    """Let an axis of accuracies end a little outside of 0 to 100 % at most."""
    bottom, top = ax.get_ylim()
    space = 0.05 * (min(top, 100) - max(bottom, 0))  # less than the ticks are apart
    ax.set_ylim(max(bottom, -space), min(top, 100 + space))


def with_diverged(label: str, rows: DataFrame) -> str:
    """Return a label with the number of runs that diverged under it."""
    count = int((rows["status"] == "diverged").sum())
    return f"{label}\n{count} run{'s' * (count != 1)} diverged" if count else label


def finish(figure: Figure, rows: DataFrame, columns: int = 3) -> Figure:
    """Put one legend over all axes, and under them what makes the runs smaller than the paper's."""
    found = [ax.get_legend_handles_labels() for ax in figure.axes]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    if entries:
        figure.legend(entries.values(), entries, loc="outside upper center", ncols=columns, fontsize=9)
    if "protocol" in rows and rows["protocol"].iloc[0] != "paper":
        seeds = rows.groupby(["panel", "method", "value"], dropna=False)["seed"].nunique()
        least, most = int(seeds.min()), int(seeds.max())
        many = f"{most} seed{'s' * (most != 1)}" if least == most else f"{least} to {most} seeds"
        text = f"{rows['protocol'].iloc[0]} protocol, {many}"
        if "reduced" in rows:
            where: dict[str, list[str]] = {}  # methods differ in some parts; each part is told once a panel
            for panel, texts in rows.groupby("panel", sort=False)["reduced"].unique().items():
                parts = dict.fromkeys(part for text in texts for part in text.split(", "))
                where.setdefault(", ".join(parts), []).append(str(panel))
            told = [what if len(where) == 1 else f"{what} ({'; '.join(at)})" for what, at in where.items() if what]
            text += ": " * bool(told) + "; ".join(told)
        figure.supxlabel(textwrap.fill(text, 124), fontsize=7.5, color=GRAY)
    return figure
