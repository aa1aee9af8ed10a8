r"""Figures of Chapter 11: accuracy by class where each class has its own rate of label errors, and how training begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from figures.ledger import label_information
from vlls.data.corruption import transition_matrix
from vlls.plots._style import WIDTH, legend_above, styled
from vlls.train import METHODS

__all__ = ["plot_accuracy_by_class", "plot_take_off"]

_SHADE, _INK = "0.92", "0.35"


@styled
def plot_accuracy_by_class(
    rates: Mapping[str, Sequence[float]], accuracies: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure:
    r"""Draw the accuracy of each class against its share of wrong labels, a panel for each starting noise level.

    The shade covers the classes that are lost in the population's optimum: those with a share of wrong labels of
    :math:`(K-1)/K` and more. The dotted line is the accuracy of a prediction that is drawn like a given label.

    Args:
        rates: for each panel's title, the share of wrong labels of every class, in [0, 1].
        accuracies: for each panel's title and each method, the test accuracy of every class, a fraction. A method is a
            key of :data:`~vlls.train.methods.METHODS`, with words behind a comma if it is there several times.

    Raises:
        ValueError: if a panel has no accuracies, or not one for each class.

    Example:
        >>> figure = plot_accuracy_by_class({"a": [0.2, 0.4, 0.6]}, {"a": {"ivon": [0.9, 0.8, 0.4]}})
        >>> [float(y) for y in figure.axes[0].lines[-1].get_ydata()]
        [90.0, 80.0, 40.0]
    """
    for title, of_panel in rates.items():
        found = {name: len(values) for name, values in accuracies.get(title, {}).items()}
        if not found or set(found.values()) != {len(of_panel)}:
            raise ValueError(
                f"panel {title!r} has {len(of_panel)} classes and accuracies of {found or 'no method'}; pass one "
                "accuracy for each class"
            )
    size = (WIDTH, 3.3)
    figure, axes = plt.subplots(1, len(rates), figsize=size, sharey=True, squeeze=False)
    for ax, (title, of_panel) in zip(axes[0], rates.items(), strict=True):
        _panel(ax, np.asarray(of_panel, float), accuracies[title])
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("wrong labels of the class (%)")
    axes[0, 0].set(ylabel="test accuracy of the class (%)", ylim=(-4, 104))
    legend_above(figure, 2, fontsize=9)
    return figure


def _panel(ax: Axes, rates: np.ndarray, accuracies: Mapping[str, Sequence[float]]) -> None:
    """Draw the classes of one panel, numbered at the top."""
    classes = len(rates)
    threshold = 100 * (classes - 1) / classes
    left, right = 100 * rates.min() - 3, max(100 * rates.max(), threshold) + 4
    ax.axvspan(
        threshold, right, color=_SHADE, linewidth=0, label="lost in the population's optimum"
    )
    ends = np.array([left, min(right, 100)])
    ax.plot(
        ends,
        100 - ends,
        color=_INK,
        linestyle="dotted",
        linewidth=1.2,
        label="drawn like a given label",
    )
    for name, values in accuracies.items():
        method, comma, words = name.partition(",")
        record = METHODS[method]
        look = {
            "color": record.colour,
            "marker": record.marker,
            "label": record.label + comma + words,
        }
        line = {"markersize": 5, "linewidth": 1.3, "linestyle": "dashed" if words else "solid"}
        ax.plot(100 * rates, 100 * np.asarray(values), **line, **look)
    ax.set_xlim(left, right)


@styled
def plot_take_off(curves: DataFrame) -> Figure:
    r"""Draw how training begins under the most label errors: training loss and test accuracy over epochs.

    Grey lines are the loss of a prediction that is the same for all images, the loss of one that knows the class, and
    the accuracy of a constant guess. The two losses differ by the mutual information of class and label.

    Args:
        curves: a row for each epoch of a run, with ``panel``, ``rate``, ``method``, ``variant``, ``epoch``,
            ``train_loss`` in nats and ``test_accuracy``, a fraction.

    Raises:
        ValueError: if there are no rows.

    Example:
        >>> run = {"panel": "a", "rate": 0.4, "method": "sgd", "variant": "", "train_loss": 2.3, "test_accuracy": 0.1}
        >>> figure = plot_take_off(DataFrame([{**run, "epoch": 1}, {**run, "epoch": 2, "test_accuracy": 0.2}]))
        >>> [float(y) for y in figure.axes[1].lines[0].get_ydata()]
        [10.0, 20.0]
    """
    if not len(curves):
        raise ValueError(
            "the curves have no rows; merge book/results/take_off.csv with short_curves.csv on their keys"
        )
    panels = dict(iter(curves.groupby("panel", sort=False)))
    figure, axes = plt.subplots(
        2, len(panels), figsize=(WIDTH, 5.2), sharex="col", sharey="row", squeeze=False
    )
    for column, (title, of_panel) in zip(axes.T, panels.items(), strict=True):
        _take_off(column, of_panel)
        column[0].set_title(title, fontsize=10)
        column[1].set_xlabel("epoch")
    axes[0, 0].set_ylabel("training loss (nats)")
    axes[1, 0].set_ylabel("test accuracy (%)")
    legend_above(figure, 3, fontsize=9)
    return figure


def _take_off(axes: Sequence[Axes], rows: DataFrame) -> None:
    """Draw loss and accuracy of one panel's runs."""
    seen: dict[str, int] = {}
    for (method, variant), run in rows.fillna({"variant": ""}).groupby(
        ["method", "variant"], sort=False
    ):
        record = METHODS[method]
        style = ("solid", "dashed", "dotted")[seen.setdefault(method, 0) % 3]
        seen[method] += 1
        look = {
            "color": record.colour,
            "marker": record.marker,
            "markersize": 4,
            "linestyle": style,
        }
        label = f"{record.label}, {variant}" if variant else record.label
        axes[0].plot(run["epoch"], run["train_loss"], label=label, **look)
        axes[1].plot(run["epoch"], 100 * run["test_accuracy"], label=label, **look)
    rate = float(rows["rate"].iloc[0])
    given = transition_matrix("class_dependent", 10, rate, 0.05).mean(0)
    same = float(-(given * np.log(given)).sum())
    guess = {"color": _INK, "linewidth": 1.2, "linestyle": "dotted"}
    axes[0].axhline(same, label="the same prediction for all images", **guess)
    axes[0].axhline(
        same - label_information(rate),
        color=_INK,
        linewidth=1.2,
        linestyle="dashdot",
        label="class known",
    )
    axes[1].axhline(10, **guess)
