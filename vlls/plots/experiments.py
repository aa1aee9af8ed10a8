r"""Figures of Section 4 and App. B, from a table of runs: IVON beside label smoothing, SAM and online label smoothing.

The table has a row for each run, as :func:`vlls.experiments.collate` makes it: ``panel``, ``method``, ``value`` (of α
for LS, ρ for SAM, :math:`h_0` for IVON), ``seed``, ``status``, metrics as fractions, ``protocol``, ``reduced`` and
``role``. Only runs of role ``"main"`` are drawn; those that diverged are left out of the means, and their number is
told. Means are over seeds; a bar or band is one standard deviation on either side, where there are two seeds or more.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator
from pandas import DataFrame

from vlls._validation import check_known
from vlls.plots._style import PALETTE, WIDTH, styled

__all__ = [
    "METHOD_COLOURS",
    "METHOD_NAMES",
    "plot_calibration",
    "plot_fixed_variance",
    "plot_hessian_init",
    "plot_memorisation",
    "plot_noise_levels",
    "plot_sensitivity",
    "plot_smoothed_labels",
]

METHOD_NAMES = {
    "ivon": "IVON",
    "sgd": "SGD",
    "ls": "LS",
    "sam": "SAM",
    "ols": "OLS",
    "ivon_fixed": "IVON, fixed variance",
}
_COLOURS: tuple[Any, ...] = ("#c1272d", PALETTE[0], "0.55", PALETTE[2], PALETTE[4], PALETTE[1])
METHOD_COLOURS = dict(zip(METHOD_NAMES, _COLOURS, strict=True))  # IVON red and LS gray, as in Figures 1 and 3
_MARKERS = {"ivon": "o", "sgd": "v", "ls": "s", "sam": "^", "ivon_fixed": "D"}
_SYMBOLS = {"ls": "α", "sam": "ρ"}  # what is tried; at 0 both methods are SGD
_BLUE, _GRAY = "#0033cc", "0.45"
_ACCURACY = "test accuracy (%)"
_CLASSES = 10  # of a heat map, at most
_DEPTH = 1e-3  # the smallest entry that has a colour of its own, as a share of the largest


# ---------------------------------------------------------------------- which runs
def _runs(table: DataFrame, methods: Iterable[str], *metrics: str) -> DataFrame:
    """The runs that a figure of these methods draws; ``value`` and the metrics are floats."""
    if not len(table):
        return table
    numbers = ("value", "test_accuracy", *metrics)
    _check(table, "protocol", "role", "panel", "method", "seed", "status", "reduced", *numbers)
    rows = table[(table["role"] == "main") & table["method"].isin(list(methods))]
    return rows.astype(dict.fromkeys(numbers, float))


def _check(table: DataFrame, *needed: str) -> None:
    missing = [column for column in needed if column not in table]
    if missing:
        raise ValueError(f"the table lacks the columns {', '.join(missing)}; pass one that vlls.experiments collates")
    for column in ("protocol", "experiment"):
        found = table[column].unique() if column in table else ()
        if len(found) > 1:
            raise ValueError(f"the table holds {column} {' and '.join(map(str, found))}; choose one {column}")


def _panels(rows: DataFrame, panels: Sequence[str] | None = None) -> dict[str, DataFrame]:
    """The rows of each panel, in the order of first appearance or the one that is asked for."""
    there = dict(iter(rows.groupby("panel", sort=False)))
    for panel in panels or ():
        check_known(panel, there, "panel")
    return {panel: there[panel] for panel in panels or there}


def _finished(rows: DataFrame, method: str) -> DataFrame:
    """The finished runs of a method, SGD's among those of LS and SAM with the value 0."""
    family = [method, "sgd"] if method in _SYMBOLS else [method]
    tried = rows[(rows["status"] == "finished") & rows["method"].isin(family)]
    return tried.assign(value=tried["value"].where(tried["method"] == method, 0.0).fillna(0.0))


def _best(rows: DataFrame, method: str) -> DataFrame:
    """The finished runs of the value with the highest mean test accuracy in a panel."""
    tried = _finished(rows, method)
    if tried.empty or method not in set(rows["method"]):
        return tried[:0]
    return tried[tried["value"] == tried.groupby("value")["test_accuracy"].mean().idxmax()]


# ---------------------------------------------------------------------- what is common to the figures
def _no_runs(name: str) -> Figure:
    """What stands in for a figure as long as nothing has been run."""
    figure, ax = plt.subplots(figsize=(WIDTH, 1.2))
    ax.set_axis_off()
    ax.text(0.5, 0.5, f"No runs yet: vlls sweep {name}", ha="center", va="center", color=_GRAY)
    return figure


def _grid(panels: Iterable[str], deep: int) -> tuple[Figure, list[list[Axes]]]:
    """Axes of accuracies for each panel: ``deep`` of them one under the other, at most three panels side by side."""
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
    figure.supylabel(_ACCURACY, fontsize=10)
    return figure, per_panel[: len(titles)].tolist()


def _curve(ax: Axes, runs: DataFrame, by: str, method: str = "ivon", **look: Any) -> DataFrame:
    """Draw the accuracy of runs, if there are any, against a column; return its mean and standard deviation."""
    points = (100 * runs.groupby(by)["test_accuracy"].agg(["mean", "std"])).reset_index()
    look = {"color": METHOD_COLOURS[method], "marker": _MARKERS[method], "label": METHOD_NAMES[method], **look}
    if len(points):
        ax.errorbar(points[by], points["mean"], points["std"], markersize=4, linewidth=1.3, capsize=2, **look)
    return points


def _level(ax: Axes, rows: DataFrame, label: str = METHOD_NAMES["ivon"]) -> tuple[float, float]:
    """Draw IVON as a horizontal line with a band; return its mean and the upper end of the band, in per cent."""
    accuracy = 100 * _best(rows, "ivon")["test_accuracy"]
    mean, std = accuracy.mean(), accuracy.std()
    if len(accuracy):
        ax.axhline(mean, color=METHOD_COLOURS["ivon"], linewidth=1.3, label=label)
    if len(accuracy) > 1:
        ax.axhspan(mean - std, mean + std, color=METHOD_COLOURS["ivon"], alpha=0.18, linewidth=0)
    return mean, np.nansum([mean, std])


def _diverged(label: str, rows: DataFrame) -> str:
    """A label with the number of runs that diverged under it."""
    count = int((rows["status"] == "diverged").sum())
    return f"{label}\n{count} run{'s' * (count != 1)} diverged" if count else label


def _finish(figure: Figure, rows: DataFrame, columns: int = 3) -> Figure:
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
            where = rows.groupby("reduced", sort=False)["panel"].unique()
            told = [what if len(where) == 1 else f"{what} ({'; '.join(at)})" for what, at in where.items() if what]
            text += ": " * bool(told) + "; ".join(told)
        figure.supxlabel(textwrap.fill(text, 124), fontsize=7.5, color=_GRAY)
    return figure


# ---------------------------------------------------------------------- accuracies
@styled
def plot_sensitivity(table: DataFrame, *, panels: Sequence[str] | None = None, name: str = "…") -> Figure:
    r"""Draw Figures 5, 8 and 9 of the paper: accuracy of LS over α and of SAM over ρ, and IVON's as a line.

    Every panel has two axes, LS above SAM; SGD's runs are the point at 0 of both. The number in blue is IVON's mean
    accuracy less that of the best candidate, in percentage points; it stands over this candidate. The values of ρ are
    equally spaced.

    Args:
        table: a row for each run (see above), with ``test_accuracy``.
        panels: titles of those to draw, in this order; all by default.
        name: of the experiment, for the command that the figure of an empty table shows.

    Raises:
        ValueError: if columns are missing, the table holds several protocols or experiments, or a panel is unknown.

    Example:
        >>> run = {"protocol": "paper", "role": "main", "panel": "a", "seed": 0, "status": "finished", "reduced": ""}
        >>> ivon = {**run, "method": "ivon", "test_accuracy": 0.93}
        >>> table = pd.DataFrame([ivon, {**run, "method": "ls", "value": 0.1, "test_accuracy": 0.9}])
        >>> [text.get_text() for text in plot_sensitivity(table).axes[0].texts]
        ['+3.0']
    """
    rows = _runs(table, ("ivon", "sgd", "ls", "sam"))
    if not len(rows):
        return _no_runs(name)
    shown = _panels(rows, panels)
    rows = rows[rows["panel"].isin(shown)]
    figure, axes = _grid(shown, deep=2)
    for row, method, xlabel in ((0, "ls", "smoothing rate α of LS"), (1, "sam", "perturbation ρ of SAM")):
        values = sorted({*rows.loc[rows["method"] == method, "value"], *_finished(rows, method)["value"]})
        positions = dict(zip(values, values if method == "ls" else range(len(values)), strict=True))
        for column, of_panel in zip(axes, shown.values(), strict=True):
            _sensitivity(column[row], of_panel, method, positions)
            column[row].set_xlabel(_diverged(xlabel, of_panel) if row else xlabel, fontsize=9)
    return _finish(figure, rows)


def _sensitivity(ax: Axes, rows: DataFrame, method: str, positions: Mapping[float, float]) -> None:
    """Draw a method over its values in one panel, IVON's line, and by how much IVON is better than the best of them."""
    tried = _finished(rows, method)
    _curve(ax, tried.assign(at=tried["value"].map(positions)), "at", method)
    ivon, top = _level(ax, rows)
    best = _best(rows, method)
    if len(best) and np.isfinite(ivon):
        accuracy = 100 * best["test_accuracy"]
        x, mean = positions[best["value"].iloc[0]], accuracy.mean()
        ax.plot([x, x], [mean, ivon], color=_BLUE, linewidth=1, linestyle="dotted")
        text, at = f"{ivon - mean:+.1f}".replace("-", "−"), (x, max(top, np.nansum([mean, accuracy.std()])))
        ax.annotate(text, at, (0, 4), textcoords="offset points", ha="center", color=_BLUE, fontsize=9)
    ax.margins(y=0.2)
    ticks = list(positions.values())
    if ticks:
        space = 0.15 * (ticks[-1] - ticks[0] or 1)
        ax.set_xlim(ticks[0] - space, ticks[-1] + space)
    ax.set_xticks(ticks, [f"{value:g}" for value in positions])
    ax.tick_params(labelsize=8)


@styled
def plot_noise_levels(
    table: DataFrame, *, x: str = "rate", xlabel: str = "starting noise level κ (share of labels)", name: str = "…"
) -> Figure:
    r"""Draw Figure 7 of the paper: accuracy against the noise level, of IVON, SGD and the best LS and SAM.

    The best has the value with the highest mean test accuracy in its panel, SGD as the value 0 among them; the values
    of both are written over the points.

    Args:
        table: a row for each run (see above), with ``test_accuracy`` and the column ``x``.
        x: the column with the noise level, one a panel.
        xlabel: what the axis calls it.
        name: of the experiment, for the command that the figure of an empty table shows.

    Raises:
        ValueError: as :func:`plot_sensitivity`; or if two panels have the same noise level.

    Example:
        >>> plot_noise_levels(pd.DataFrame(), name="fig7").axes[0].texts[0].get_text()
        'No runs yet: vlls sweep fig7'
    """
    methods = ("ivon", "ls", "sam", "sgd")
    rows = _runs(table, methods, x)
    if not len(rows):
        return _no_runs(name)
    shown = _panels(rows)
    if rows.groupby("panel")[x].first().duplicated().any():
        raise ValueError(f"of the panels {', '.join(shown)} two have the same {x}; pass panels that differ in it")
    figure, ax = plt.subplots(figsize=(WIDTH, 3.8))
    best = {method: pd.concat(_best(of_panel, method) for of_panel in shown.values()) for method in methods}
    drawn = [_curve(ax, runs, x, method) for method, runs in best.items()]
    points = pd.concat(drawn, ignore_index=True)
    tops = points["mean"].add(points["std"], fill_value=0).groupby(points[x]).max()  # free: accuracies fall
    for height, method in ((3, "sam"), (12, "ls")):
        for at, value in best[method].groupby(x)["value"].first().items():
            text, look = f"{_SYMBOLS[method]} = {value:g}", {"color": METHOD_COLOURS[method], "fontsize": 7.5}
            ax.annotate(text, (at, tops[at]), (3, height), textcoords="offset points", **look)
    ax.set_xticks(sorted(rows[x].unique()))
    ax.margins(x=0.1, y=0.12)
    ax.set(xlabel=_diverged(xlabel, rows), ylabel=_ACCURACY)
    return _finish(figure, rows, columns=4)


@styled
def plot_fixed_variance(table: DataFrame, *, name: str = "…") -> Figure:
    r"""Draw Figure 6 of the paper: accuracy against a fixed standard deviation σ of all weights, IVON's as a line.

    Args:
        table: a row for each run (see above), with ``test_accuracy`` and, of ``ivon_fixed``, σ as ``posterior_std``.
        name: of the experiment, for the command that the figure of an empty table shows.

    Raises:
        ValueError: as :func:`plot_sensitivity`.

    Example:
        >>> plot_fixed_variance(pd.DataFrame(), name="fig6").axes[0].texts[0].get_text()
        'No runs yet: vlls sweep fig6'
    """
    rows = _runs(table, ("ivon", "ivon_fixed"), "posterior_std")
    if not len(rows):
        return _no_runs(name)
    shown = _panels(rows)
    figure, axes = _grid(shown, deep=1)
    for (ax,), of_panel in zip(axes, shown.values(), strict=True):
        _curve(ax, _finished(of_panel, "ivon_fixed"), "posterior_std", "ivon_fixed")
        _level(ax, of_panel, "IVON, learned variance")
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.tick_params(labelsize=8)
        ax.set_xlabel(_diverged("fixed posterior std σ", of_panel), fontsize=9)
    return _finish(figure, rows)


@styled
def plot_hessian_init(table: DataFrame, *, name: str = "…") -> Figure:
    r"""Draw Figure 10 of the paper: IVON's accuracy against the start :math:`h_0` of its Hessian, a line a panel.

    Args:
        table: a row for each run (see above), with ``test_accuracy``; runs of IVON without a ``value`` are left out.
        name: of the experiment, for the command that the figure of an empty table shows.

    Raises:
        ValueError: as :func:`plot_sensitivity`.

    Example:
        >>> plot_hessian_init(pd.DataFrame(), name="fig10").axes[0].texts[0].get_text()
        'No runs yet: vlls sweep fig10'
    """
    rows = _runs(table, ("ivon",))
    rows = rows.dropna(subset="value") if len(rows) else rows
    if not len(rows):
        return _no_runs(name)
    figure, ax = plt.subplots(figsize=(WIDTH, 3.6))
    for (panel, of_panel), marker, color in zip(_panels(rows).items(), "os^DvPX*<>", PALETTE, strict=False):
        _curve(ax, _finished(of_panel, "ivon"), "value", marker=marker, color=color, label=panel)
    ax.set_xscale("log")
    values = sorted(rows["value"].unique())
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()
    ax.set(xlabel=_diverged("start of the Hessian $h_0$", rows), ylabel=_ACCURACY)
    return _finish(figure, rows)


# ---------------------------------------------------------------------- bars
@styled
def plot_calibration(table: DataFrame, *, name: str = "…") -> Figure:
    r"""Draw expected calibration error and negative log-likelihood on test images, a group of bars for each panel.

    IVON stands there twice: with the network at the posterior's mean, and with predictions averaged over the posterior.
    LS and SAM have their value of highest mean test accuracy, other than 0, which is SGD's.

    Args:
        table: a row for each run (see above), with ``test_accuracy``, and ``ece`` and ``nll`` of ``test_`` and of
            ``posterior_``.
        name: of the experiment, for the command that the figure of an empty table shows.

    Raises:
        ValueError: as :func:`plot_sensitivity`.

    Example:
        >>> plot_calibration(pd.DataFrame(), name="calibration").axes[0].texts[0].get_text()
        'No runs yet: vlls sweep calibration'
    """
    mean, averaged = ("test_ece", "test_nll"), ("posterior_ece", "posterior_nll")
    rows = _runs(table, METHOD_NAMES, *mean, *averaged)
    if not len(rows):
        return _no_runs(name)
    bars = [("ivon", " at the mean", *mean), ("ivon", " averaged over the posterior", *averaged)]
    bars += [(method, "", *mean) for method in METHOD_NAMES if method != "ivon"]
    factors = {"expected calibration\nerror (%)": 100.0, "negative log-\nlikelihood (nats)": 1.0}
    return _bars(rows, factors, bars, sgd_as_zero=False)


@styled
def plot_memorisation(table: DataFrame, *, name: str = "…") -> Figure:
    r"""Draw how many training images with a wrong label the network memorises, and of how many it finds the right one.

    LS and SAM have their value of highest mean test accuracy, SGD as the value 0 among them.

    Args:
        table: a row for each run (see above), with ``test_accuracy``, ``memorised`` and ``recovered``: the shares of
            the images with a wrong label that are predicted to have this label, and their right one.
        name: of the experiment, for the command that the figure of an empty table shows.

    Raises:
        ValueError: as :func:`plot_sensitivity`.

    Example:
        >>> plot_memorisation(pd.DataFrame(), name="fig5").axes[0].texts[0].get_text()
        'No runs yet: vlls sweep fig5'
    """
    columns, methods = ("memorised", "recovered"), ("ivon", "ls", "sam", "sgd")
    rows = _runs(table, methods, *columns)
    if not len(rows):
        return _no_runs(name)
    factors = {f"{column} (% of\nwrong labels)": 100.0 for column in columns}
    return _bars(rows, factors, [(method, "", *columns) for method in methods], sgd_as_zero=True)


def _bars(rows: DataFrame, factors: Mapping[str, float], bars: Iterable[tuple[str, ...]], sgd_as_zero: bool) -> Figure:
    """Draw axes one under the other, with a group of bars for each panel, of LS and SAM at their best value.

    ``factors`` has for each axis label the factor from the table's unit to the axis's; of ``bars`` each has a method,
    what follows its name, and a column for each of the axes.
    """
    shown = _panels(rows)
    bars = [bar for bar in bars if bar[0] in set(rows["method"])]
    size = (WIDTH, 2 * len(factors) + 0.9)
    figure, axes = plt.subplots(len(factors), 1, figsize=size, sharex=True, squeeze=False)
    for i, (method, suffix, *columns) in enumerate(bars):
        tried = [p if sgd_as_zero else p[p["method"] == method] for p in shown.values()]
        runs = pd.concat(_best(of_panel, method) for of_panel in tried).groupby("panel")[["value", *columns]]
        mean, std = runs.mean().reindex(list(shown)), runs.std().reindex(list(shown))
        values = [f"{value:g}".replace("nan", "–") for value in mean["value"]]
        chosen = ", ".join(values if len(set(values)) > 1 else values[:1])
        label = METHOD_NAMES[method] + suffix + (f", {_SYMBOLS[method]} = {chosen}" if method in _SYMBOLS else "")
        look = {"color": METHOD_COLOURS[method], "edgecolor": "white", "capsize": 1.5, "label": label}
        look |= {"alpha": 0.55, "hatch": "////"} if columns[0].startswith("posterior") else {}
        at = np.arange(len(shown)) + 0.84 * ((i + 0.5) / len(bars) - 0.5)
        for ax, column, factor in zip(axes[:, 0], columns, factors.values(), strict=True):
            ax.bar(at, factor * mean[column], 0.84 / len(bars), yerr=factor * std[column], **look)
    for ax, ylabel in zip(axes[:, 0], factors, strict=True):
        ax.set_ylabel(ylabel, fontsize=9)
        ax.grid(visible=False, axis="x")
    titles = [_diverged(textwrap.fill(panel, 84 // len(shown)), of_panel) for panel, of_panel in shown.items()]
    axes[-1, 0].set_xticks(range(len(shown)), titles, fontsize=8)
    return _finish(figure, rows, columns=2)


# ---------------------------------------------------------------------- smoothed labels
@styled
def plot_smoothed_labels(labels: DataFrame, *, panels: Sequence[str] | None = None, name: str = "…") -> Figure:
    r"""Draw Figure 4 of the paper: the smoothed labels of IVON, OLS and LS as heat maps on a log scale, a row a panel.

    A row of a heat map is the mean smoothed label of a class, without the entry of this class. Of more than ten
    classes ten are shown, evenly chosen. The title has the rank correlation of what is shown of IVON and of OLS.

    Args:
        labels: a row for each run and pair of classes: ``panel``, ``method``, ``value`` (α of LS), ``seed``, ``label``
            (the given class), ``other``, and ``smoothed``: the entry of ``other`` in the mean smoothed label.
        panels: titles of those to draw, in this order; all by default.
        name: of the experiment, for the command that the figure of an empty table shows.

    Raises:
        ValueError: as :func:`plot_sensitivity`.

    Example:
        >>> pair = {"panel": "a", "method": "ols", "value": None, "seed": 0, "label": "cat", "other": "dog"}
        >>> plot_smoothed_labels(pd.DataFrame([{**pair, "smoothed": 0.1}])).axes[0].get_title()
        'OLS'
    """
    order = ("ivon", "ols", "ls")
    if len(labels):
        _check(labels, "panel", "method", "value", "seed", "label", "other", "smoothed")
        labels = labels[labels["method"].isin(order)]
    if not len(labels):
        return _no_runs(name)
    labels = labels.astype({"label": str, "other": str, "value": float, "smoothed": float})
    pairs = zip(labels["method"], labels["value"], strict=True)
    labels["title"] = [METHOD_NAMES[method] + f", α = {value:g}" * (method == "ls") for method, value in pairs]
    titles = [title for method in order for title in labels.loc[labels["method"] == method, "title"].unique()]
    shown = _panels(labels, panels)
    figure = plt.figure(figsize=(WIDTH, 2.75 * len(shown) + 0.3))
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (panel, rows) in zip(parts, shown.items(), strict=True):
        _heat_maps(part, panel, rows, titles)
    return _finish(figure, labels[labels["panel"].isin(shown)])


def _heat_maps(part: SubFigure, panel: str, rows: DataFrame, titles: Sequence[str]) -> None:
    """Draw a heat map for each title, with one scale of colours; white is a class's own entry and what there is not."""
    classes = rows["label"].unique()
    chosen = classes[np.linspace(0, len(classes) - 1, min(len(classes), _CLASSES)).round().astype(int)]
    maps = {}
    for title, of_title in rows.groupby("title"):
        mean = of_title.pivot_table("smoothed", "label", "other", "mean").reindex(index=chosen, columns=chosen)
        maps[title] = np.where(np.eye(len(chosen), dtype=bool), np.nan, mean)
    every = np.concatenate([entries[entries > 0] for entries in maps.values()])
    top = max(every, default=1.0)
    low = np.clip(min(every, default=0.0), _DEPTH * top, 0.1 * top)
    colours = plt.get_cmap("viridis").with_extremes(under="0.75", bad="white")
    axes = part.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for ax, title in zip(axes, titles, strict=True):
        entries = maps.get(title, np.full((len(chosen), len(chosen)), np.nan))
        entries = np.where(entries > 0, entries.clip(low), np.where(np.isnan(entries), np.nan, low / 2))
        image = ax.imshow(entries, norm=LogNorm(low, top), cmap=colours)
        ax.set_title(title, fontsize=9)
        ax.set_xticks(range(len(chosen)), chosen, rotation=90)
        ax.set_yticks(range(len(chosen)), chosen)
        ax.tick_params(length=0, labelsize=7)
        ax.grid(visible=False)
    axes[0].set_ylabel("given class", fontsize=9)
    bar = part.colorbar(image, ax=axes, extend="min", shrink=0.8)
    bar.set_label("smoothed label (probability)\ngrey: 0 or less", fontsize=8)
    about = f", {_CLASSES} of {len(classes)} classes" * (len(classes) > _CLASSES)
    if {"IVON", "OLS"} <= set(maps):
        both = DataFrame({title: maps[title].ravel() for title in ("IVON", "OLS")}).dropna()
        about += f": rank correlation of IVON and OLS {both.rank().corr().iloc[0, 1]:.2f}"
    part.suptitle(panel + about, fontsize=10)
