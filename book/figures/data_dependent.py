r"""Figure of Chapter 11: accuracy by class where each class has its own rate of label errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlls.plots._style import WIDTH, legend_above, styled
from vlls.train import METHODS

__all__ = ["plot_accuracy_by_class"]

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
        accuracies: for each panel's title and each method (a key of :data:`~vlls.train.methods.METHODS`), the test accuracy of every
            class, a fraction.

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
    for method, values in accuracies.items():
        look = {
            "color": METHODS[method].colour,
            "marker": METHODS[method].marker,
            "label": METHODS[method].label,
        }
        ax.plot(100 * rates, 100 * np.asarray(values), markersize=5, linewidth=1.3, **look)
    ax.set_xlim(left, right)
