r"""Chapter 10: fixed standard deviations beside IVON's, in a figure, tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from pandas import DataFrame

from figures.differences import Gap, gap
from vlls.plots._runs import ACCURACY, check_table, log_axis
from vlls.plots._style import WIDTH, legend_above, styled
from vlls.train import METHODS

__all__ = [
    "gaps_to_fixed",
    "gaps_to_fixed_in_words",
    "learned_shares",
    "plot_std_in_training",
    "share_left",
]

_ARROW = "IVON, from its first σ to its last"
_PANELS = {"test_accuracy": ACCURACY, "memorised": "wrong labels learned (%)"}


@styled
def plot_std_in_training(runs: DataFrame) -> Figure:
    r"""Draw test accuracy and memorised labels of single runs against their standard deviation σ.

    A run with a fixed σ is a point. A run of IVON is an arrow from the σ that training starts with to the median over
    the weights at its end, with the learned share of its Hessian. SGD, which has no σ, is a dashed line.

    Args:
        runs: a row for each run, with ``method`` (``"ivon_fixed"``, ``"ivon"`` or ``"sgd"``), ``start_std`` and
            ``end_std`` (NaN for SGD), and the fractions ``test_accuracy``, ``memorised`` and, if it is to be written
            there, ``learned_share``.

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
        look = {"color": METHODS["ivon"].colour, "linewidth": 1.6}
        for i, row in enumerate(of["ivon"].itertuples()):
            start, end, height = row.start_std, row.end_std, 100 * getattr(row, metric)
            ax.annotate("", (end, height), (start, height), arrowprops={"arrowstyle": "->", **look})
            legend = {} if i else {"label": _ARROW + " (learned)" * ("learned_share" in runs)}
            ax.plot([start, end], [height, height], **look, **legend)
            if "learned_share" in runs:
                told = f"{100 * row.learned_share:.2g} %"
                at = {"textcoords": "offset points", "va": "center", "fontsize": 8}
                ax.annotate(told, (end, height), (4, 0), color=look["color"], **at)
        for value in 100 * of["sgd"][metric]:
            ax.axhline(
                value,
                color=METHODS["sgd"].colour,
                linestyle="dashed",
                linewidth=1.3,
                label="SGD (σ = 0)",
            )
        log_axis(ax)
        ax.tick_params(labelsize=8)
        ax.set(xlabel="posterior std σ of the weights", ylabel=label, ylim=(0, 104))
    legend_above(figure, 3, fontsize=9)
    return figure


# ---------------------------------------------------------------------- tables of runs
def share_left(runs: DataFrame) -> DataFrame:
    r"""Return the runs with :math:`\beta_2^T`, the weight that the start of the Hessian has after them, as ``left``."""
    steps = runs["epochs"].astype(float) * (
        runs["train_images"].astype(float) // runs["batch_size"].astype(float)
    )
    return runs.assign(left=runs["beta2"].astype(float) ** steps)


def learned_shares(tables: Mapping[str, DataFrame]) -> DataFrame:
    r"""Return how wide IVON's posterior was at first and at last, and how much of its Hessian was learned.

    Args:
        tables: the runs of experiments by name, of :func:`~vlls.experiments.load_table`; IVON's runs at the
            :math:`h_0` of the presets count, if they have the share.

    Returns:
        A row for each experiment and protocol.
    """
    rows = {}
    for name, table in tables.items():
        told = table[
            (table["method"] == "ivon") & table["value"].isna() & (table["role"] == "main")
        ]
        told = told[told["learned_share"].notna()] if "learned_share" in told else told[:0]
        for protocol, runs in told.groupby("protocol", sort=False):
            spread = 100 * runs["learned_share"].astype(float)
            rows[f"{name}, {protocol}"] = {
                "runs": len(runs),
                "first σ": f"{runs['std_start'].median():.4f}",
                "last σ, 5 to 95 %": f"{runs['std_5'].min():.4f} to {runs['std_95'].max():.4f}",
                "h0's weight left (%)": f"{100 * share_left(runs)['left'].median():.1f}",
                "learned share (%)": f"{spread.min():.2g} to {spread.max():.2g}",
            }
    return DataFrame.from_dict(rows, orient="index")


def gaps_to_fixed(runs: DataFrame) -> dict[str, tuple[Gap, Gap]]:
    r"""Return how far IVON is above fixed variances: the one with IVON's first σ, and the best, by panel.

    Args:
        runs: finished runs of one protocol, of :func:`figures.differences.rows_of`.
    """
    found = {}
    for panel, rows in runs.groupby("panel", sort=False):
        start = rows.loc[rows["method"] == "ivon", "std_start"].median()
        same = rows[(rows["method"] == "ivon") | (rows["posterior_std"] / start - 1).abs().lt(0.01)]
        pair = gap(same, "ivon", "ivon_fixed"), gap(rows, "ivon", "ivon_fixed")
        if pair[0] is not None and pair[1] is not None:
            found[str(panel)] = pair[0], pair[1]
    return found


def gaps_to_fixed_in_words(found: Mapping[str, tuple[Gap, Gap]]) -> str:
    """Say where IVON is above and below the fixed variance with its first σ, and the best of those that were tried."""
    told = []
    for i, name in enumerate(("the fixed variance with the same first σ", "the best fixed one")):
        sides = [pair[i].side for pair in found.values()]
        numbers = "; ".join(f"{panel}: {pair[i]}" for panel, pair in found.items())
        told.append(
            f"Against {name}, IVON is clearly ahead in {sides.count(1)} of {len(sides)} panels and clearly behind in "
            f"{sides.count(-1)} ({numbers})."
        )
    return " ".join(told) if found else "There are no runs of both."
