"""The figure of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from vlls.experiments import experiment, highest_protocol

if TYPE_CHECKING:
    from pandas import DataFrame


def plot_experiment(name: str, runs: DataFrame, labels: DataFrame | None = None) -> Figure:
    """Draw an experiment as the paper's figure, from its runs at the highest protocol that there is.

    Args:
        name: a key of :data:`.EXPERIMENTS`.
        runs: table of :func:`.collate` or :func:`.load_table`; without rows, the figure says how to make them.
        labels: table of :func:`.collate_labels`, for an experiment that computes smoothed labels, such as ``fig4``.

    Raises:
        ValueError: for an unknown experiment, or a table that lacks columns.

    Example:
        >>> from vlls.experiments import load_table
        >>> plot_experiment("fig5", load_table("nothing.csv")).axes[0].texts[0].get_text()
        'No runs yet: vlls sweep fig5'
    """
    import vlls.plots  # late: it imports this module

    what = experiment(name)
    draw = what.figure if callable(what.figure) else getattr(vlls.plots, what.figure)
    table = labels if what.also and labels is not None else runs
    figure: Figure = draw(highest_protocol(table), name=name)
    return figure
