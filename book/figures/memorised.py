r"""Figures of Chapter 9: wrong labels learned by heart beside accuracy, and accuracy over IVON's first noise."""

from __future__ import annotations

import re
from itertools import cycle

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from pandas import DataFrame, concat

from figures.by_protocol import PAPER_STD
from vlls.experiments._choice import by_candidate, finished
from vlls.plots._runs import ACCURACY, draw_curve, figure_of_runs, limit_accuracy
from vlls.plots._style import PALETTE, SINGLE, legend_above, styled, width_of
from vlls.train import METHODS

__all__ = ["fewest_and_best", "named", "plot_first_noise", "plot_memorised"]

_FILLS = ("full", "none", "left", "right", "top")
_VALUE = re.compile(r"(?<= = )[\d.e-]+")  # in a name


@styled
def plot_memorised(runs: DataFrame) -> Figure:
    r"""Draw the test accuracy of runs against the share of wrong labels that they learned by heart, panel by panel.

    Every run is a point, and the runs of one name have one colour and marker. Names that differ in a value alone, as
    ``LS, α = 0.1`` and ``LS, α = 0.3``, share an entry of the legend: the larger the mark, the larger the value.

    Args:
        runs: a row for each, with ``panel``, ``method``, ``name``, ``memorised`` and ``test_accuracy``, both fractions.

    Raises:
        ValueError: if there are no runs.

    Example:
        >>> run = {"panel": "a", "method": "sgd", "name": "SGD", "memorised": 0.5, "test_accuracy": 0.8}
        >>> figure = plot_memorised(DataFrame([run, {**run, "name": "SGD, smaller step"}]))
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['SGD', 'SGD, smaller step']
    """
    if not len(runs):
        raise ValueError("there are no runs; pass rows of a table, each with a name")
    panels = dict(iter(runs.groupby("panel", sort=False)))
    names = runs[["method", "name"]].drop_duplicates()
    kinds = names["name"].str.replace(_VALUE, "…", regex=True)
    fills = {
        kind: fill
        for _, of_method in kinds.groupby(names["method"])
        for kind, fill in zip(of_method.unique(), cycle(_FILLS), strict=False)
    }
    values = {kind: list(of_kind) for kind, of_kind in names["name"].groupby(kinds)}
    size = (width_of(len(panels)), 3.0 + 0.1 * len(values))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for ax, (title, of_panel) in zip(axes[0], panels.items(), strict=True):
        accuracy = of_panel["test_accuracy"].astype(float)
        guesses = accuracy < 0.3 * accuracy.max()
        if guesses.any():
            title += f"\n{guesses.sum()} runs that guess are not drawn"
        for (method, name), points in of_panel[~guesses].groupby(["method", "name"], sort=False):
            record, kind = METHODS[method], _VALUE.sub("…", name)
            look = {"color": record.colour, "marker": record.marker, "fillstyle": fills[kind]}
            look |= {"label": name, "markersize": 7}
            if (first := values[kind][0]) != (last := values[kind][-1]):
                ends = " to ".join(_VALUE.search(end)[0] for end in (first, last))
                look |= {
                    "label": kind.replace("…", ends),
                    "markersize": 4 + values[kind].index(name),
                }
            at = 100 * points[["memorised", "test_accuracy"]].astype(float)
            ax.plot(*at.to_numpy().T, linestyle="none", **look)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("wrong labels learned by heart (%)")
    axes[0, 0].set_ylabel(ACCURACY)
    legend_above(figure, 2, fontsize=8, columnspacing=1.0, handletextpad=0.3)
    return figure


def _starts(rows: DataFrame) -> list[bool]:
    """Say of each run whether it set the initial value of a learned Hessian."""
    return [
        method == "ivon" and value == value for method, value in rows[["method", "value"]].values
    ]


@figure_of_runs("hess_init", "weight_decay", "train_images", keep=_starts, columns=2)
def plot_first_noise(rows: DataFrame) -> Figure:
    r"""Draw Figure 10 of the paper with another axis: IVON's accuracy against its first standard deviation.

    The axis is :math:`\sigma_0 = 1/\sqrt{N(h_0 + \delta)}`, which has one meaning for any number of images N; below
    it is the :math:`h_0` that gives this :math:`\sigma_0` with the paper's 50,000 images. The paper's claim is about
    the shaded range: :math:`h_0 > 0.05`.

    Example:
        >>> run = {"protocol": "smoke", "role": "main", "panel": "a", "seed": 0, "status": "finished", "reduced": ""}
        >>> run |= {"method": "ivon", "test_accuracy": 0.9, "weight_decay": 0.001, "train_images": 1000}
        >>> table = DataFrame([{**run, "value": h0, "hess_init": h0} for h0 in (9, 90)])
        >>> plot_first_noise(table).axes[0].get_xlabel()
        'first standard deviation $\\sigma_0$\nbelow it the $h_0$ with this $\\sigma_0$ at 50,000 images'
    """
    decay, images = rows["weight_decay"], rows["train_images"]
    rows = rows.assign(first_std=(images * (rows["hess_init"] + decay)) ** -0.5)
    figure, ax = plt.subplots(figsize=(SINGLE, 3.8))
    for (panel, runs), marker, color in zip(
        rows.groupby("panel", sort=False), "os^DvPX*<>", PALETTE, strict=False
    ):
        look = {"marker": marker, "color": color, "label": panel}
        draw_curve(ax, finished(runs), "first_std", "ivon", **look)
    limit_accuracy(ax)
    ax.set_xscale("log")
    least, most = 0.85 * PAPER_STD, max(1.15 * rows["first_std"].max(), 1.5 * _std(0.05))
    ax.axvspan(
        least,
        _std(0.05),
        color="0.92",
        linewidth=0,
        zorder=0,
        label="$h_0$ > 0.05 in the paper's runs",
    )
    look = {"color": "0.35", "linewidth": 1.2, "linestyle": "dotted"}
    ax.axvline(PAPER_STD, label="the paper's $h_0$ = 0.9", **look)
    ax.set_xlim(least, most)
    ticks = sorted(rows["first_std"].unique())
    ax.set_xticks(ticks, [f"{std:.2g}\n{_hess_init(std)}" for std in ticks], fontsize=8)
    ax.minorticks_off()
    below = r"$h_0$ with this $\sigma_0$ at 50,000 images"
    ax.set(
        xlabel=r"first standard deviation $\sigma_0$" + f"\nbelow it the {below}", ylabel=ACCURACY
    )
    return figure


def _std(hess_init: float) -> float:
    """Return the first standard deviation of the paper's runs with this initial Hessian."""
    return (50_000 * (hess_init + 0.001)) ** -0.5


def _hess_init(std: float) -> str:
    """Return the initial Hessian of the paper's runs with this first standard deviation; a dash if none has it."""
    start = 1 / (50_000 * std**2) - 0.001
    return f"{start:.2g}" if start > 0 else "–"


def fewest_and_best(runs: DataFrame) -> str:
    """Say of each panel which runs learn the fewest wrong labels by heart, and which are the most accurate.

    Args:
        runs: as for :func:`plot_memorised`; runs of one name are averaged.

    Example:
        >>> run = {"panel": "a", "method": "sgd", "name": "SGD", "memorised": 0.5, "test_accuracy": 0.8}
        >>> fewest_and_best(DataFrame([run]))
        'a: SGD learns the fewest wrong labels by heart (50.0 %) and is the most accurate (80.0 %).'
    """
    told = []
    for panel, of_panel in runs.groupby("panel", sort=False):
        means = 100 * of_panel.groupby("name")[["memorised", "test_accuracy"]].mean()
        fewest, best = means["memorised"].idxmin(), means["test_accuracy"].idxmax()
        text = f"{panel}: {fewest} learns the fewest wrong labels by heart ({means['memorised'].min():.1f} %)"
        if fewest == best:
            told.append(f"{text} and is the most accurate ({means['test_accuracy'].max():.1f} %).")
            continue
        told.append(
            f"{text}, with a test accuracy of {means.loc[fewest, 'test_accuracy']:.1f} %; {best} is the most accurate "
            f"({means['test_accuracy'].max():.1f} %), with {means.loc[best, 'memorised']:.1f} % learned by heart."
        )
    return " ".join(told)


def named(runs: DataFrame) -> DataFrame:
    """Return the finished main runs of a table with a column ``name``: method, variant and value, in words."""
    rows = finished(runs[runs["role"] == "main"]).dropna(subset=["memorised", "test_accuracy"])
    found = [of_one.assign(name=name) for name, of_one in by_candidate(rows).items()]
    return concat(found) if found else rows.assign(name="")
