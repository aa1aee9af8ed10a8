r"""Figures of Section 4 and App. B, from a table of runs: IVON beside the other methods that the table holds.

The table has a row for each run, as :func:`vlls.experiments.collate` makes it: ``panel``, ``method``, ``value`` (of α
for LS, ρ for SAM, :math:`h_0` for IVON), ``seed``, ``status``, metrics as fractions, ``protocol``, ``reduced`` and
``role``. Only runs of role ``"main"`` are drawn; those that diverged are left out of the means, and the figure gives
their number. Means are over seeds; a bar or band is one standard deviation on either side, where there are two seeds or
more.

A new figure is a function of the rows under :func:`figure_of_runs`, and an entry of :data:`FIGURES`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from vlls._names import check_known
from vlls.experiments import experiment, highest_protocol
from vlls.experiments._choice import best_runs, by_candidate, compared, finished, methods_in, sgd_last, tried
from vlls.plots._runs import (
    ACCURACY,
    BLUE,
    GRAY,
    LOSS,
    by_panel,
    draw_curve,
    draw_level,
    figure_of_runs,
    grid_of_panels,
    limit_accuracy,
    log_axis,
    with_diverged,
    within,
)
from vlls.plots._smoothed_labels import smoothed_labels
from vlls.plots._style import PALETTE, SINGLE, width_of
from vlls.train.methods import METHODS


def plot_experiment(
    name: str,
    runs: DataFrame,
    labels: DataFrame | None = None,
    *,
    figure: str | Callable[..., Figure] | None = None,
    panels: Sequence[str] | None = None,
) -> Figure:
    """Draw an experiment as the paper's figure, from its runs at the highest protocol that there is.

    Each method stands in its own colour, at its best value where a figure shows one: that of the highest mean test
    accuracy in the panel. Bars and bands are one standard deviation over seeds. Runs that diverged are left out and
    counted below the axis; a note under the figure names a protocol smaller than the paper's, and the panels and
    candidates of the experiment that have no runs.

    Args:
        name: a key of :data:`.EXPERIMENTS`.
        runs: table of :func:`.collate` or :func:`.load_table`; without rows, the figure says how to make them.
        labels: table of the smoothed labels, for an experiment that computes them, such as ``fig4``: ``vlls results
            --output fig4.csv`` writes it to ``fig4_labels.csv``.
        figure: another figure than the experiment's own: a function of the table and ``name``, or one of

            - ``"sensitivity"``: accuracy over α, ρ and the like, IVON's as a line (Figures 5, 8 and 9);
            - ``"noise_levels"``: accuracy against the rate of label errors (Figure 7);
            - ``"fixed_variance"``: accuracy against a fixed standard deviation of all weights (Figure 6);
            - ``"hessian_init"``: accuracy against the start of IVON's Hessian (Figure 10);
            - ``"bars"``: accuracy of every candidate, variants of methods too, after the last and the best epoch;
            - ``"calibration"``: expected calibration error and negative log-likelihood;
            - ``"memorisation"``: the shares of wrong labels that are memorised, and that are seen through;
            - ``"smoothed_labels"``: mean smoothed labels as heat maps (Figure 4).
        panels: titles of those to draw, in this order; all by default.

    Raises:
        ValueError: for an unknown experiment, figure, panel or method, or a table that lacks columns or is of another
            experiment.

    Example:
        >>> from vlls.experiments import load_table
        >>> plot_experiment("fig5", load_table("nothing.csv")).axes[0].texts[0].get_text()
        'No runs yet: vlls sweep fig5'
    """
    known = experiment(name)
    draw = known.figure if figure is None else figure
    if isinstance(draw, str):
        check_known(draw, FIGURES, "figure")
        draw = FIGURES[draw]
    table = labels if known.also and labels is not None else runs
    if "experiment" in table and len(table) and name not in (held := set(table["experiment"])):
        raise ValueError(f"the table holds runs of {', '.join(sorted(held))}, and none of {name}; pass one that does")
    if "protocol" in table:
        table = highest_protocol(table)
    if panels and len(table):
        there = by_panel(table)
        for panel in panels:
            check_known(panel, there, "panel")
        table = pd.concat(there[panel] for panel in panels)
    drawn: Figure = draw(table, name=name)
    return drawn


# ---------------------------------------------------------------------- accuracies
@figure_of_runs(keep=lambda rows: rows["method"].isin(compared()))
def sensitivity(rows: DataFrame) -> Figure:
    r"""Draw Figures 5, 8 and 9 of the paper: accuracy of LS over α and of SAM over ρ, and IVON's as a line.

    Every panel has an axis for each method that is SGD at one of its values, LS above SAM; SGD's runs are the point
    there. The number is IVON's mean accuracy less that of the best candidate, in percentage points: blue if IVON is
    ahead, brown if it is behind. It stands over this candidate. Values that are far from evenly spread, such as those
    of ρ, are drawn side by side.

    Example:
        >>> run = {"protocol": "paper", "role": "main", "panel": "a", "seed": 0, "status": "finished", "reduced": ""}
        >>> ivon = {**run, "method": "ivon", "test_accuracy": 0.93}
        >>> table = pd.DataFrame([ivon, {**run, "method": "ls", "value": 0.1, "test_accuracy": 0.9}])
        >>> [text.get_text() for text in sensitivity(table).axes[0].texts]
        ['+3.0']
    """
    over_values = [name for name in compared() if METHODS[name].sgd_value is not None]
    there = methods_in(rows)
    methods = [name for name in over_values if name in there] or over_values
    positions = [_positions(sorted(tried(rows, name)["value"].dropna().unique())) for name in methods]
    figure, panels = grid_of_panels(rows, deep=len(methods))
    for of_panel, column in panels:
        for ax, name, at in zip(column, methods, positions, strict=True):
            _sensitivity(ax, of_panel, name, at)
            method = METHODS[name]
            xlabel = method.axis or f"{method.symbol or method.tuned} of {method.label}"
            ax.set_xlabel(with_diverged(xlabel, of_panel) if ax is column[-1] else xlabel, fontsize=9)
    return figure


def _positions(values: Sequence[float]) -> dict[float, float]:
    """Return the places of values on their axis: to scale, or side by side if some are much closer than others."""
    gaps = np.diff(values)
    to_scale = not len(gaps) or max(gaps) < 2.5 * min(gaps)
    return dict(zip(values, values if to_scale else range(len(values)), strict=True))


def _sensitivity(ax: Axes, rows: DataFrame, method: str, positions: Mapping[float, float]) -> None:
    """Draw a method over its values in one panel, IVON's line, and by how much IVON is better than the best of them."""
    runs = finished(tried(rows, method))
    draw_curve(ax, runs.assign(at=runs["value"].map(positions)), "at", method)
    ivon, top = draw_level(ax, rows)
    best = finished(best_runs(rows, method))
    if len(best) and np.isfinite(ivon):
        accuracy = 100 * best["test_accuracy"]
        x, mean = positions[best["value"].iloc[0]], accuracy.mean()
        colour = BLUE if ivon > mean else LOSS
        ax.plot([x, x], [mean, ivon], color=colour, linewidth=1, linestyle="dotted")
        text, at = f"{ivon - mean:+.1f}".replace("-", "−"), (x, max(top, min(np.nansum([mean, accuracy.std()]), 100)))
        ax.annotate(text, at, (0, 4), textcoords="offset points", ha="center", color=colour, fontsize=9)
    ax.margins(y=0.2)
    limit_accuracy(ax)
    ticks = list(positions.values())
    if ticks:
        space = 0.15 * (ticks[-1] - ticks[0] or 1)
        ax.set_xlim(ticks[0] - space, ticks[-1] + space)
    ax.set_xticks(ticks, [f"{value:g}" for value in positions])
    ax.tick_params(labelsize=8)


@figure_of_runs("rate", columns=4)
def noise_levels(rows: DataFrame) -> Figure:
    r"""Draw Figure 7 of the paper: accuracy against the noise level, of IVON, SGD and the best LS and SAM.

    SGD is among the candidates, as the value 0; the best values are written over the points. Other methods that the
    table holds are drawn too.
    """
    shown = by_panel(rows)
    if rows.groupby("panel")["rate"].first().duplicated().any():
        raise ValueError(f"of the panels {', '.join(shown)} two have the same rate; pass panels that differ in it")
    figure, ax = plt.subplots(figsize=(SINGLE, 3.8))
    best = {method: _best_of_panels(shown.values(), method) for method in sgd_last(methods_in(rows))}
    curves = []
    for name, runs in best.items():  # a method that may be SGD has larger, open points around SGD's
        around = {} if METHODS[name].sgd_value is None else {"markersize": 7, "markerfacecolor": "none"}
        curves.append(draw_curve(ax, runs, "rate", name, **around))
    points = pd.concat(curves, ignore_index=True)
    ends = points["mean"].add(points["std"], fill_value=0).clip(upper=100)
    tops = ends.groupby(points["rate"]).max()  # room for text above the curves, which fall
    with_values = [METHODS[method] for method in best if METHODS[method].symbol]
    for i, method in enumerate(reversed(with_values)):
        for at, value in best[method.name].groupby("rate")["value"].first().dropna().items():
            text, look = f"{method.symbol} = {value:g}", {"color": method.colour, "fontsize": 8.5}
            ax.annotate(text, (at, tops[at]), (6, 4 + 10 * i), textcoords="offset points", **look)
    ax.set_xticks(sorted(rows["rate"].unique()))
    ax.margins(x=0.1, y=0.12)
    limit_accuracy(ax)
    ax.set(xlabel=with_diverged("starting noise level κ (share of labels)", rows), ylabel=ACCURACY)
    return figure


def _best_of_panels(panels: Iterable[DataFrame], method: str) -> DataFrame:
    """Return the finished runs of a method, in each panel those with its best value."""
    return pd.concat(finished(best_runs(rows, method)) for rows in panels)


@figure_of_runs("posterior_std", keep=lambda rows: [METHODS[method].variational for method in rows["method"]])
def fixed_variance(rows: DataFrame) -> Figure:
    r"""Draw Figure 6 of the paper: accuracy against a fixed standard deviation σ of all weights, IVON's as a line."""
    fixes = rows.groupby("method")["posterior_std"].any()
    figure, panels = grid_of_panels(rows)
    for of_panel, (ax,) in panels:
        for method in sorted(methods_in(rows), key=lambda method: not fixes[method]):  # lines lie over the points
            if fixes[method]:
                draw_curve(ax, finished(tried(of_panel, method)), "posterior_std", method)
            else:
                draw_level(ax, of_panel, method, ", learned variance")
        limit_accuracy(ax)
        log_axis(ax)
        ax.tick_params(labelsize=8)
        ax.set_xlabel(with_diverged("fixed posterior std σ", of_panel), fontsize=9)
    return figure


def _starts_a_hessian(rows: DataFrame) -> Series:
    """Return a mask of the runs that set the initial value of a learned Hessian."""
    learning = [name for name, method in METHODS.items() if {"hess_init", "beta2"} <= method.reads.keys()]
    return rows["method"].isin(learning) & rows["value"].notna()


@figure_of_runs(keep=_starts_a_hessian)
def hessian_init(rows: DataFrame) -> Figure:
    r"""Draw Figure 10 of the paper: IVON's accuracy against the start :math:`h_0` of its Hessian, a line a panel."""
    figure, ax = plt.subplots(figsize=(SINGLE, 3.6))
    lines = rows.groupby(["panel", "method"], sort=False)
    several = rows["method"].nunique() > 1
    for ((panel, method), runs), marker, color in zip(lines, "os^DvPX*<>", PALETTE, strict=False):
        label = f"{panel}, {METHODS[method].label}" if several else panel
        draw_curve(ax, finished(runs), "value", method, marker=marker, color=color, label=label)
    limit_accuracy(ax)
    ax.set_xscale("log")
    values = sorted(rows["value"].unique())
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()
    ax.set(xlabel=with_diverged("start of the Hessian $h_0$", rows), ylabel=ACCURACY)
    return figure


# ---------------------------------------------------------------------- candidates, bars
@figure_of_runs(variants=True)
def bars(rows: DataFrame) -> Figure:
    r"""Draw the test accuracy of every candidate, variants of methods too, after the last and after the best epoch.

    A panel has a line for each candidate: its mean over seeds after the last epoch as a point, after the best measured
    epoch as an open mark, and the seeds as dots.

    Example:
        >>> run = {"protocol": "paper", "role": "main", "panel": "a", "seed": 0, "status": "finished", "reduced": ""}
        >>> ivon = {**run, "method": "ivon", "value": None, "test_accuracy": 0.93}
        >>> table = pd.DataFrame([ivon, {**run, "method": "ls", "value": 0.1, "test_accuracy": 0.9}])
        >>> [label.get_text() for label in bars(table).axes[0].get_yticklabels()]
        ['IVON', 'LS, α = 0.1']
    """
    shown, candidates = by_panel(rows), by_candidate(rows)
    blocks = -(-len(shown) // 2) if len(shown) > 3 else 1
    across = -(-len(shown) // blocks)
    size = (width_of(across), blocks * (0.6 + 0.24 * len(candidates)) + 0.9)
    figure, axes = plt.subplots(blocks, across, figsize=size, sharey=True, squeeze=False)
    for ax, (panel, of_panel) in zip(axes.flat, shown.items(), strict=False):
        for at, runs in enumerate(candidates.values()):
            _candidate(ax, finished(runs[runs["panel"] == panel]), at)
        ax.set_title(textwrap.fill(panel, 66 // across), fontsize=9)
        ax.set_xlabel(with_diverged(ACCURACY, of_panel), fontsize=9)
        ax.tick_params(labelsize=8)
        ax.margins(x=0.1)
        _widen(ax)
    for ax in axes.flat[len(shown) :]:
        ax.remove()
    axes[0, 0].set_yticks(range(len(candidates)), list(candidates))
    axes[0, 0].set_ylim(len(candidates) - 0.5, -0.5)  # the first on top
    for label, look in _EPOCHS.items():
        if rows["seed"].nunique() > 1 or label != _SEED:
            axes[0, 0].plot([], [], color=GRAY, linestyle="none", label=label, **look)
    return figure


_SEED = "a seed, last epoch"
_EPOCHS: Mapping[str, dict[str, Any]] = {
    "last epoch": {"marker": "o", "markersize": 5},
    "best epoch": {"marker": "o", "markersize": 9, "markerfacecolor": "none"},
    _SEED: {"marker": ".", "markersize": 3},
}


def _widen(ax: Axes, least: float = 4.0) -> None:
    """Let a horizontal axis of accuracies span some points at least, so that small differences look small."""
    left, right = ax.get_xlim()
    space = max(0.0, least - (right - left)) / 2
    ax.set_xlim(max(left - space, 0.0), min(right + space, 100.5))


def _candidate(ax: Axes, runs: DataFrame, at: int) -> None:
    """Draw the runs of a candidate in one panel at a height, if there are any."""
    if runs.empty:
        return
    last, record = 100 * runs["test_accuracy"], METHODS[runs["method"].iloc[0]]
    of_mean, of_best, of_seed = ({"color": record.colour, "linestyle": "none", **look} for look in _EPOCHS.values())
    if len(last) > 1:
        ax.plot(last, [at] * len(last), alpha=0.6, **of_seed)
    spread = within(last.mean(), last.std())[:, None] if len(last) > 1 else None
    ax.errorbar(last.mean(), at, xerr=spread, capsize=2, elinewidth=1.3, **{**of_mean, "marker": record.marker})
    if "best_test_accuracy" in runs and len(best := 100 * runs["best_test_accuracy"].dropna().astype(float)):
        ax.plot(best.mean(), at, zorder=1, **{**of_best, "marker": record.marker})


@figure_of_runs("test_ece", "test_nll", "posterior_ece", "posterior_nll", columns=2)
def calibration(rows: DataFrame) -> Figure:
    r"""Draw expected calibration error and negative log-likelihood on test images, a group of bars for each panel.

    Variational methods stand there twice: with the network at the posterior's mean, and with predictions averaged over
    the posterior. LS and SAM have their value of highest mean test accuracy, other than 0, which is SGD's.
    """
    drawn: list[tuple[str, ...]] = []
    for method in methods_in(rows):
        variational = METHODS[method].variational
        drawn.append((method, " at the mean" * variational, "test_ece", "test_nll"))
        drawn += [(method, " averaged over the posterior", "posterior_ece", "posterior_nll")] * variational
    factors = {"expected calibration\nerror (%)": 100.0, "negative log-\nlikelihood (nats)": 1.0}
    return _bars(rows, factors, drawn, sgd_as_zero=False)


@figure_of_runs("memorised", "recovered", columns=2)
def memorisation(rows: DataFrame) -> Figure:
    r"""Draw how many training images with a wrong label the network memorises, and of how many it finds the right one.

    LS and SAM have their value of highest mean test accuracy, SGD as the value 0 among them.
    """
    columns = ("memorised", "recovered")
    factors = {f"{column} (% of\nwrong labels)": 100.0 for column in columns}
    return _bars(rows, factors, [(method, "", *columns) for method in sgd_last(methods_in(rows))], sgd_as_zero=True)


def _bars(rows: DataFrame, factors: Mapping[str, float], drawn: Sequence[tuple[str, ...]], sgd_as_zero: bool) -> Figure:
    """Draw axes one under the other, with a group of bars for each panel, of each method at its best value.

    ``factors`` maps each axis label to the factor from the table's unit to the axis's. An entry of ``drawn`` is a
    method, the words after its name, and a column for each axis.
    """
    shown = by_panel(rows)
    size = (SINGLE, 2 * len(factors) + 0.9)
    figure, axes = plt.subplots(len(factors), 1, figsize=size, sharex=True, squeeze=False)
    for i, (method, suffix, *columns) in enumerate(drawn):
        panels = [rows if sgd_as_zero else rows[rows["method"] == method] for rows in shown.values()]
        runs = _best_of_panels(panels, method).groupby("panel")[["value", *columns]]
        mean, std = runs.mean().reindex(list(shown)), runs.std().reindex(list(shown))
        values = [f"{value:g}".replace("nan", "–") for value in mean["value"]]
        chosen = ", ".join(values if len(set(values)) > 1 else values[:1])
        record = METHODS[method]
        label = record.label + suffix + (f", {record.symbol} = {chosen}" if record.symbol else "")
        look = {"color": record.colour, "edgecolor": "white", "capsize": 1.5, "label": label}
        look |= {"alpha": 0.55, "hatch": "////"} if columns[0].startswith("posterior") else {}
        at = np.arange(len(shown)) + 0.84 * ((i + 0.5) / len(drawn) - 0.5)
        for ax, column, factor in zip(axes[:, 0], columns, factors.values(), strict=True):
            ends = within(factor * mean[column], factor * std[column], 100.0 if factor == 100.0 else np.inf)
            ax.bar(at, factor * mean[column], 0.84 / len(drawn), yerr=ends, **look)
    for ax, ylabel in zip(axes[:, 0], factors, strict=True):
        ax.set_ylabel(ylabel, fontsize=9)
        ax.grid(visible=False, axis="x")
    titles = [with_diverged(textwrap.fill(panel, 60 // len(shown)), of_panel) for panel, of_panel in shown.items()]
    axes[-1, 0].set_xticks(range(len(shown)), titles, fontsize=9)
    return figure


_DRAWN = (sensitivity, noise_levels, fixed_variance, hessian_init, bars, calibration, memorisation, smoothed_labels)
FIGURES: Mapping[str, Callable[..., Figure]] = {draw.__name__: draw for draw in _DRAWN}
"""The figures of experiments by name."""
