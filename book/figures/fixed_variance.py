r"""Figure of Chapter 10: what fixed standard deviations do in training, beside one that is learned."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from pandas import DataFrame

from vlls.plots._runs import ACCURACY, check_table, log_axis
from vlls.plots._style import WIDTH, legend_above, styled
from vlls.train import METHODS

__all__ = ["plot_std_in_training"]

_PANELS = {"test_accuracy": ACCURACY, "memorised": "wrong labels learned (%)"}


@styled
def plot_std_in_training(runs: DataFrame) -> Figure:
    r"""Draw test accuracy and memorised labels of single runs against their standard deviation σ.

    A fixed σ is a point. A learned one is an arrow from the σ that training starts with to the median over the weights
    at its end. SGD, which has none, is a dashed line.

    Args:
        runs: a row for each run, with ``method`` (``"ivon_fixed"``, ``"ivon"`` or ``"sgd"``), ``start_std`` and
            ``end_std`` (NaN for SGD), and the fractions ``test_accuracy`` and ``memorised``.

    Raises:
        ValueError: if columns are missing.

    Example:
        >>> rows = [("sgd", None, None, 0.8, 0.9), ("ivon", 0.05, 0.1, 0.9, 0.1)]
        >>> names = ["method", "start_std", "end_std", "test_accuracy", "memorised"]
        >>> [ax.get_ylabel() for ax in plot_std_in_training(DataFrame(rows, columns=names)).axes]
        ['test accuracy (%)', 'wrong labels learned (%)']
    """
    check_table(runs, "method", "start_std", "end_std", *_PANELS)
    of = {method: runs[runs["method"] == method] for method in ("ivon_fixed", "ivon", "sgd")}
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.1))
    for ax, (metric, label) in zip(axes, _PANELS.items(), strict=True):
        look = {
            "color": METHODS["ivon_fixed"].colour,
            "marker": METHODS["ivon_fixed"].marker,
            "markersize": 5,
        }
        fixed = of["ivon_fixed"].sort_values("start_std")
        ax.plot(
            fixed["start_std"],
            100 * fixed[metric],
            linewidth=1.3,
            label=METHODS["ivon_fixed"].label,
            **look,
        )
        for row in of["ivon"].itertuples():
            start, end, height = row.start_std, row.end_std, 100 * getattr(row, metric)
            look = {"color": METHODS["ivon"].colour, "linewidth": 1.6}
            ax.annotate("", (end, height), (start, height), arrowprops={"arrowstyle": "->", **look})
            ax.plot(
                [start, end], [height, height], label="IVON, from its first σ to its last", **look
            )
        for value in 100 * of["sgd"][metric]:
            ax.axhline(
                value,
                color=METHODS["sgd"].colour,
                linestyle="dashed",
                linewidth=1.3,
                label="SGD (σ = 0)",
            )
        log_axis(ax)
        ax.set(xlabel="posterior std σ", ylabel=label, ylim=(0, 104))
    legend_above(figure, 3, fontsize=9)
    return figure
