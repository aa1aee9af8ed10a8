r"""Figure 4: smoothed labels as heat maps, from a table of runs and pairs of classes."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from pandas import DataFrame

from vlls.experiments._choice import methods_in
from vlls.plots._runs import by_panel, check_table, figure_of
from vlls.plots._style import WIDTH
from vlls.train.methods import METHODS, PROPOSED

CLASSES = 10  # of a heat map, at most
DEPTH = 1e-3  # the smallest entry that is coloured on the scale, as a share of the largest


def _pairs(labels: DataFrame) -> DataFrame:
    """Return the rows of the methods that smooth labels, each with the title of its heat map."""
    check_table(labels, "panel", "method", "value", "seed", "label", "other", "smoothed")
    methods_in(labels)  # raises for those that are unknown
    rows = labels[labels["method"].isin(_methods())]
    rows = rows.astype({"label": str, "other": str, "value": float, "smoothed": float})
    return rows.assign(
        title=[_title(method, value) for method, value in zip(rows["method"], rows["value"], strict=True)]
    )


@figure_of(_pairs)
def smoothed_labels(rows: DataFrame) -> Figure:
    r"""Draw Figure 4 of the paper: the smoothed labels of IVON, OLS and LS as heat maps on a log scale, a row a panel.

    A row of a heat map is the mean smoothed label of a class, without the entry of this class. Of more than ten
    classes ten are shown, evenly chosen. The title has the rank correlation of the entries of IVON and of OLS. The
    table has a row for each run and pair of classes: ``label`` is the given class, and ``smoothed`` the entry of
    ``other`` in the mean smoothed label.

    Example:
        >>> pair = {"panel": "a", "method": "ols", "value": None, "seed": 0, "label": "cat", "other": "dog"}
        >>> smoothed_labels(pd.DataFrame([{**pair, "smoothed": 0.1}])).axes[0].get_title()
        'OLS'
    """
    titles = [title for method in _methods() for title in rows.loc[rows["method"] == method, "title"].unique()]
    shown = by_panel(rows)
    figure = plt.figure(figsize=(WIDTH, 2.75 * len(shown) + 0.3))
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (panel, of_panel) in zip(parts, shown.items(), strict=True):
        _heat_maps(part, panel, of_panel, titles)
    return figure


def _methods() -> list[str]:
    """Return the methods that smooth labels, with those that smooth all classes equally last."""
    smoothing = [m for m in METHODS.values() if m.variational or m.smoothed_labels is not None]
    return [m.name for m in sorted(smoothing, key=lambda m: m.sgd_value is not None)]


def _title(method: str, value: float) -> str:
    record = METHODS[method]
    return record.label + (f", {record.symbol} = {value:g}" if record.symbol and value == value else "")


def _heat_maps(part: SubFigure, panel: str, rows: DataFrame, titles: Sequence[str]) -> None:
    """Draw a heat map for each title, with one scale of colours; a class's own entry and missing ones are white."""
    classes = rows["label"].unique()
    chosen = classes[np.linspace(0, len(classes) - 1, min(len(classes), CLASSES)).round().astype(int)]
    maps = {}
    for title, of_title in rows.groupby("title"):
        mean = of_title.pivot_table("smoothed", "label", "other", "mean").reindex(index=chosen, columns=chosen)
        maps[title] = np.where(np.eye(len(chosen), dtype=bool), np.nan, mean)
    every = np.concatenate([entries[entries > 0] for entries in maps.values()])
    top = max(every, default=1.0)
    low = np.clip(min(every, default=0.0), DEPTH * top, 0.1 * top)
    colours = plt.get_cmap("viridis").with_extremes(under="0.75", bad="white")
    axes = part.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for ax, title in zip(axes, titles, strict=True):
        entries = maps.get(title, np.full((len(chosen), len(chosen)), np.nan))
        entries = np.where(entries > 0, entries.clip(low), np.where(np.isnan(entries), np.nan, low / 2))
        image = ax.imshow(entries, norm=LogNorm(low, top), cmap=colours)
        ax.set_title(title, fontsize=9)
        ax.set_xticks(range(len(chosen)), chosen, rotation=90)
        ax.set_yticks(range(len(chosen)), chosen)
        ax.set_xlabel("other class", fontsize=9)
        ax.tick_params(length=0, labelsize=7)
        ax.grid(visible=False)
    axes[0].set_ylabel("given class", fontsize=9)
    bar = part.colorbar(image, ax=axes, extend="min", shrink=0.8)
    bar.set_label("smoothed label (probability)\ngrey: 0 or less", fontsize=8)
    about = f", {CLASSES} of {len(classes)} classes" * (len(classes) > CLASSES)
    ours = METHODS[PROPOSED].label
    learned = [METHODS[name].label for name in _methods() if name != PROPOSED and METHODS[name].sgd_value is None]
    for other in learned:
        if {ours, other} <= set(maps):
            both = pd.DataFrame({title: maps[title].ravel() for title in (ours, other)}).dropna()
            about += f": rank correlation of {ours} and {other} {both.rank().corr().iloc[0, 1]:.2f}"
    part.suptitle(panel + about, fontsize=10)
