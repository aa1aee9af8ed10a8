"""Figures of experiments and of a ranking by label noise; they need the extra ``plots``.

:func:`plot_experiment` is the command ``vlls figure``. :func:`styled` gives a figure of your own the same look; the
figures that only the book's chapters draw are in the repository's folder ``book/figures``.
"""

from vlls._errors import missing

try:
    import seaborn  # noqa: F401 (and with it matplotlib and its dependencies)
except ModuleNotFoundError as error:
    raise missing(error, "vlls.plots", "plots") from None

from vlls.plots._experiments import plot_experiment
from vlls.plots._ranking import plot_noise_order
from vlls.plots._style import styled

__all__ = ["plot_experiment", "plot_noise_order", "styled"]
