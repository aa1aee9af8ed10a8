"""Which figure an experiment is drawn as."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from vlls.experiments import experiment, highest_protocol
from vlls.plots._experiments import (
    plot_calibration,
    plot_fixed_variance,
    plot_hessian_init,
    plot_noise_levels,
    plot_sensitivity,
)
from vlls.plots._smoothed_labels import plot_smoothed_labels

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["plot_experiment"]

DRAWN: Mapping[str, Callable[..., Figure]] = {
    "fig5": plot_sensitivity,
    "fig6": plot_fixed_variance,
    "fig7": plot_noise_levels,
    "fig8": plot_sensitivity,
    "fig9": plot_sensitivity,
    "fig10": plot_hessian_init,
    "cifar_n": plot_sensitivity,
    "calibration": plot_calibration,
}


def plot_experiment(name: str, runs: DataFrame, labels: DataFrame | None = None) -> Figure:
    """Draw an experiment as the paper's figure, from its runs at the highest protocol that there is.

    Args:
        name: a key of :data:`.EXPERIMENTS`.
        runs: table of :func:`.collate` or :func:`.load_table`; without rows, the figure says how to make them.
        labels: table of :func:`.collate_labels`, for ``fig4``.

    Raises:
        ValueError: for an unknown experiment, or a table that lacks columns.

    Example:
        >>> from vlls.experiments import load_table
        >>> plot_experiment("fig5", load_table("nothing.csv")).axes[0].texts[0].get_text()
        'No runs yet: vlls sweep fig5'
    """
    experiment(name)
    if name == "fig4":
        return plot_smoothed_labels(highest_protocol(runs if labels is None else labels), name=name)
    return DRAWN[name](highest_protocol(runs), name=name)
