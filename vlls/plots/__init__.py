"""Figures of experiments, of a ranking by label noise, and of label errors; they need the extra ``plots``.

:func:`plot_experiment` is the command ``vlls figure``. :func:`styled` gives a figure of your own the same look; the
figures that only the book's chapters draw are in the repository's folder ``book/figures``.
"""

from vlls._errors import missing

try:
    import seaborn  # noqa: F401 (and with it matplotlib and its dependencies)
except ModuleNotFoundError as error:
    raise missing(error, "vlls.plots", "plots") from None

from vlls.plots._confusion import plot_confusion
from vlls.plots._experiments import (
    plot_calibration,
    plot_experiment,
    plot_fixed_variance,
    plot_hessian_init,
    plot_memorisation,
    plot_noise_levels,
    plot_sensitivity,
)
from vlls.plots._ranking import plot_noise_order
from vlls.plots._smoothed_labels import plot_smoothed_labels
from vlls.plots._style import styled

__all__ = [
    "plot_calibration",
    "plot_confusion",
    "plot_experiment",
    "plot_fixed_variance",
    "plot_hessian_init",
    "plot_memorisation",
    "plot_noise_levels",
    "plot_noise_order",
    "plot_sensitivity",
    "plot_smoothed_labels",
    "styled",
]
