"""The frame of a figure of runs, and its parts: the runs it draws, axes, curves, legend, footnote."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from pandas import DataFrame, Series

from vlls.experiments._choice import best_runs, finished, methods_in, without_variants
from vlls.experiments._comparison import missing
from vlls.plots._style import SINGLE, legend_above, styled, width_of
from vlls.train.methods import METHODS, PROPOSED

BLUE, LOSS, GRAY = "#0033cc", "#8a4b00", "0.45"  # a gain, a loss, the rest
ACCURACY = "test accuracy (%)"


# ---------------------------------------------------------------------- the frame
def figure_of(
    rows_of: Callable[[DataFrame], DataFrame], columns: int = 3
) -> Callable[[Callable[[DataFrame], Figure]], Callable[..., Figure]]:
    """Turn a function of rows into a function of a table and the experiment's ``name``.

    The function gets the rows that ``rows_of`` takes from the table; its figure gets a legend with ``columns`` columns,
    and the footnote. Without rows the figure says how to make some.
    """

    def decorate(draw: Callable[[DataFrame], Figure]) -> Callable[..., Figure]:
        @styled
        @functools.wraps(draw)
        def plot(table: DataFrame, *, name: str = "…") -> Figure:
            rows = rows_of(table) if len(table) else table
            return finish(draw(rows), rows, columns, name) if len(rows) else _no_runs(name)

        return plot

    return decorate


def figure_of_runs(
    *metrics: str,
    keep: Callable[[DataFrame], Series | list[bool]] | None = None,
    columns: int = 3,
    variants: bool = False,
) -> Callable[[Callable[[DataFrame], Figure]], Callable[..., Figure]]:
    """Frame a figure that needs these metrics besides the test accuracy.

    ``keep`` says which runs it draws, and ``variants`` whether variants of methods are among them.

    Example:
        >>> @figure_of_runs("test_nll")
        ... def likelihood(rows):
        ...     '''Draw nothing.'''
        ...     return plt.figure()
        >>> likelihood(DataFrame(), name="fig5").axes[0].texts[0].get_text()
        'No runs yet: vlls sweep fig5'
    """

    def rows_of(table: DataFrame) -> DataFrame:
        rows = _runs_of(table if variants else without_variants(table), *metrics)
        return rows[keep(rows)] if keep and len(rows) else rows

    return figure_of(rows_of, columns)


def _runs_of(table: DataFrame, *metrics: str) -> DataFrame:
    """Return the runs that a figure may draw; ``value`` and the metrics are floats."""
    numbers = ("value", "test_accuracy", *metrics)
    check_table(table, "protocol", "role", "panel", "method", "seed", "status", "reduced", *numbers)
    methods_in(table)  # raises for those that are unknown
    main = table[table["role"] == "main"]
    for column in ("panel", "seed"):
        if (absent := int(main[column].isna().sum())) > 0:
            raise ValueError(f"{absent} row(s) of the table have no {column}; fill it in, or leave the rows out")
    for column in numbers:
        bad = main[column][pd.to_numeric(main[column], errors="coerce").isna() & main[column].notna()]
        if len(bad):
            raise ValueError(f"the column {column} of the table holds {bad.iloc[0]!r}; pass numbers")
    return main.astype(dict.fromkeys(numbers, float))


def check_table(table: DataFrame, *needed: str) -> None:
    """Raise a ValueError unless a table has the columns that are needed, of one protocol and one experiment."""
    missing = [column for column in needed if column not in table]
    if missing:
        raise ValueError(f"the table lacks the columns {', '.join(missing)}; pass one that vlls.experiments collates")
    for column in ("protocol", "experiment"):
        found = table[column].unique() if column in table else ()
        if len(found) > 1:
            raise ValueError(f"the table holds {column} {' and '.join(map(str, found))}; choose one {column}")


def by_panel(rows: DataFrame) -> dict[str, DataFrame]:
    """Return the rows of each panel, in the order of first appearance."""
    return dict(iter(rows.groupby("panel", sort=False)))


def _no_runs(name: str) -> Figure:
    """Return the figure of an experiment that has no runs yet: it says how to start them."""
    figure, ax = plt.subplots(figsize=(SINGLE, 1.2))
    ax.set_axis_off()
    ax.text(0.5, 0.5, f"No runs yet: vlls sweep {name}", ha="center", va="center", color=GRAY)
    return figure


def finish(figure: Figure, rows: DataFrame, columns: int, name: str = "…") -> Figure:
    """Put one legend above all axes, and below them a note: the runs' reductions from the paper's, and missing runs."""
    legend_above(figure, columns, fontsize=9)
    text = ""
    if "protocol" in rows and rows["protocol"].iloc[0] != "paper":
        seeds = rows.groupby(["panel", "method", "value"], dropna=False)["seed"].nunique()
        least, most = int(seeds.min()), int(seeds.max())
        many = f"{most} seed{'s' * (most != 1)}" if least == most else f"{least} to {most} seeds"
        text = f"{rows['protocol'].iloc[0]} protocol, {many}"
        if "reduced" in rows:
            where: dict[str, list[str]] = {}  # methods differ in some reductions; each is named once a panel
            for panel, texts in rows.groupby("panel", sort=False)["reduced"].unique().items():
                parts = dict.fromkeys(part for text in texts for part in text.split(", "))
                where.setdefault(", ".join(parts), []).append(str(panel))
            told = [what if len(where) == 1 else f"{what} ({'; '.join(at)})" for what, at in where.items() if what]
            text += ": " * bool(told) + "; ".join(told)
    if width := posterior_width(rows):
        text = f"{text}. {width}" if text else width
    if {"protocol", "role"} <= set(rows) and (lacking := missing(name, rows)):
        text = f"{text}. {lacking}" if text else lacking
    if text:
        figure.supxlabel(textwrap.fill(text, int(17.7 * figure.get_figwidth())), fontsize=7.5, color=GRAY)
    return figure


def posterior_width(rows: DataFrame) -> str:
    """Say how wide IVON's posterior was and how much of it was learned; empty if no run has recorded it."""
    if not {"std_start", "std_50", "learned_share"} <= set(rows):
        return ""
    told = rows[rows["method"] == PROPOSED].dropna(subset=["std_start", "std_50", "learned_share"])
    if told.empty:
        return ""
    start, end, share = (
        " to ".join(dict.fromkeys(f"{value:.2g}" for value in (factor * told[name].min(), factor * told[name].max())))
        for name, factor in (("std_start", 1), ("std_50", 1), ("learned_share", 100))
    )
    return f"{METHODS[PROPOSED].label}'s σ: {start} at the start, {end} at the end (median), learned share {share} %"


# ---------------------------------------------------------------------- axes
def grid_of_panels(rows: DataFrame, deep: int = 1) -> tuple[Figure, list[tuple[DataFrame, list[Axes]]]]:
    """Make axes of accuracies for each panel: ``deep`` of them in a column, at most three panels side by side."""
    shown = by_panel(rows)
    blocks = -(-len(shown) // 3)
    columns = -(-len(shown) // blocks)
    size = (width_of(columns), 1.85 * blocks * deep + 0.6)
    figure, axes = plt.subplots(blocks * deep, columns, figsize=size, squeeze=False)
    per_panel = axes.reshape(blocks, deep, columns).swapaxes(1, 2).reshape(-1, deep)
    for column, title in zip(per_panel, shown, strict=False):
        column[0].set_title(textwrap.fill(title, (84 if columns > 1 else 60) // columns), fontsize=9)
    for ax in per_panel[len(shown) :].flat:
        ax.remove()
    figure.supylabel(ACCURACY, fontsize=10)
    return figure, list(zip(shown.values(), per_panel.tolist(), strict=False))


def limit_accuracy(ax: Axes) -> None:
    """Let an axis of accuracies end a little outside of 0 to 100 % at most."""
    bottom, top = ax.get_ylim()
    space = 0.05 * (min(top, 100) - max(bottom, 0))  # less than the ticks are apart
    ax.set_ylim(max(bottom, -space), min(top, 100 + space))


def log_axis(ax: Axes) -> None:
    """Make a horizontal axis logarithmic, with numbers at 1, 2 and 5."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def with_diverged(label: str, rows: DataFrame) -> str:
    """Return a label with the number of runs that diverged under it."""
    count = int((rows["status"] == "diverged").sum())
    return f"{label}\n{count} run{'s' * (count != 1)} diverged" if count else label


# ---------------------------------------------------------------------- curves
def draw_curve(ax: Axes, runs: DataFrame, by: str, method: str, **look: Any) -> DataFrame:
    """Draw the accuracy of runs, if there are any, against a column; return its mean and standard deviation."""
    points = (100 * runs.groupby(by)["test_accuracy"].agg(["mean", "std"])).reset_index()
    record = METHODS[method]
    look = {"color": record.colour, "marker": record.marker, "label": record.label, "markersize": 4, **look}
    if len(points):
        bars = within(points["mean"], points["std"])
        ax.errorbar(points[by], points["mean"], bars, linewidth=1.3, capsize=2, **look)
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
