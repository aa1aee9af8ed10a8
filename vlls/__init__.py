"""Variational learning and adaptive label smoothing: the package behind the book.

The modules follow the paper. :mod:`vlls.families` and :mod:`vlls.posterior` hold the mathematics; :mod:`vlls.glm`
holds the models and the updates of Theorems 1 and 2, :mod:`vlls.smoothing` the label-smoothing losses of Section 2,
:mod:`vlls.optim` the optimizers IVON and SAM for networks, and :mod:`vlls.noise` computes the label noise of a model.
:mod:`vlls.label_errors` finds wrong labels, and corrects the probabilities of a network that was trained on them.
:mod:`vlls.data` loads data sets and corrupts their labels. :mod:`vlls.models` and :mod:`vlls.train` (the extra
``train``) hold the paper's networks and train them, :mod:`vlls.experiments` holds the grid of runs behind each figure,
and :mod:`vlls.plots` (the extra ``plots``) draws the figures.
"""

from typing import TYPE_CHECKING

from vlls._lazy import lazy

__version__ = "0.1.0"

__all__ = [
    "ACLS",
    "EVON",
    "GLM",
    "IVON",
    "SAM",
    "Bernoulli",
    "Binomial",
    "Categorical",
    "DiagonalPosterior",
    "EarlyLearningRegularization",
    "EntropySmoothing",
    "ExampleRanking",
    "Family",
    "Gaussian",
    "GaussianPosterior",
    "GeneralizedCrossEntropy",
    "KroneckerPosterior",
    "LabelNoise",
    "LabelSmoothingLoss",
    "MeanPredictionSmoothing",
    "OnlineLabelSmoothing",
    "Poisson",
    "Ridge",
    "SymmetricCrossEntropy",
    "Trajectory",
    "VectorFamily",
    "find_label_errors",
    "fit",
    "gd_step",
    "label_noise",
    "label_noise_moments",
    "learned_share",
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
    from vlls._regularizers import Ridge
    from vlls.families import Bernoulli, Binomial, Categorical, Family, Gaussian, Poisson, VectorFamily
    from vlls.glm import GLM, Trajectory, fit, gd_step, newton_step, variational_gd_step, von_step
    from vlls.label_errors import find_label_errors
    from vlls.noise import (
        ExampleRanking,
        LabelNoise,
        label_noise,
        label_noise_moments,
        rank_examples,
        sam_label_noise,
        second_order_label_noise,
        taylor_label_noise,
    )
    from vlls.optim import EVON, IVON, SAM, learned_share, predict
    from vlls.posterior import DiagonalPosterior, GaussianPosterior, KroneckerPosterior
    from vlls.smoothing import (
        ACLS,
        EarlyLearningRegularization,
        EntropySmoothing,
        GeneralizedCrossEntropy,
        LabelSmoothingLoss,
        MeanPredictionSmoothing,
        OnlineLabelSmoothing,
        SymmetricCrossEntropy,
        smooth_labels,
    )
else:
    __getattr__, __dir__ = lazy(
        __name__, ("families", "posterior", "_regularizers", "glm", "smoothing", "optim", "noise", "label_errors")
    )
