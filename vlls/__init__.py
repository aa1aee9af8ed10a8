"""Variational learning and adaptive label smoothing: the package behind the book.

The modules follow the paper: :mod:`vlls.families`, :mod:`vlls.posterior` and :mod:`vlls.regularizers` hold
the mathematics, :mod:`vlls.glm` the models and updates of Theorems 1 and 2, :mod:`vlls.smoothing` the
label-smoothing losses of Section 2, :mod:`vlls.optim` the optimizers IVON and SAM for networks,
:mod:`vlls.noise` what can be said of the noise itself. :mod:`vlls.data` loads data sets and puts errors into their
labels; :mod:`vlls.models` and :mod:`vlls.train` (the extra ``train``) hold the paper's networks and its training
runs, :mod:`vlls.experiments` the grids of them behind each figure. Figures live in :mod:`vlls.plots` (the extra
``plots``).
"""

from typing import TYPE_CHECKING

from vlls._lazy import lazy

__version__ = "0.1.0"

__all__ = [
    "ACLS",
    "GLM",
    "IVON",
    "SAM",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "DiagonalPosterior",
    "EntropySmoothing",
    "ExampleRanking",
    "Family",
    "Gaussian",
    "GaussianPosterior",
    "LabelNoise",
    "LabelSmoothingLoss",
    "MeanPredictionSmoothing",
    "OnlineLabelSmoothing",
    "Poisson",
    "Ridge",
    "Trajectory",
    "VectorFamily",
    "fit",
    "gd_step",
    "label_noise",
    "label_noise_moments",
    "monte_carlo_label_noise",
    "newton_step",
    "predict",
    "rank_examples",
    "sam_label_noise",
    "second_order_label_noise",
    "smooth_labels",
    "taylor_label_noise",
    "variational_gd_step",
    "von_step",
]

if TYPE_CHECKING:
    from vlls import data as data
    from vlls import experiments as experiments
    from vlls import models as models
    from vlls import plots as plots
    from vlls import train as train
    from vlls.families import Bernoulli, Binomial, Categorical, Family, Gaussian, Poisson, VectorFamily
    from vlls.glm import GLM, Trajectory, fit, gd_step, newton_step, variational_gd_step, von_step
    from vlls.noise import (
        ExampleRanking,
        LabelNoise,
        label_noise,
        label_noise_moments,
        monte_carlo_label_noise,
        rank_examples,
        sam_label_noise,
        second_order_label_noise,
        taylor_label_noise,
    )
    from vlls.optim import IVON, SAM, predict
    from vlls.posterior import DiagonalPosterior, GaussianPosterior
    from vlls.regularizers import Ridge
    from vlls.smoothing import (
        ACLS,
        EntropySmoothing,
        LabelSmoothingLoss,
        MeanPredictionSmoothing,
        OnlineLabelSmoothing,
        smooth_labels,
    )
else:
    __getattr__, __dir__ = lazy(
        __name__, ("families", "posterior", "regularizers", "glm", "smoothing", "optim", "noise")
    )
