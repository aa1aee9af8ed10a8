"""The figures of the book, one function each; they need the extra ``plots``.

Functions named ``plot_...`` return matplotlib figures; those named ``explore_...`` return HTML to be moved.
"""

from vlls._extras import missing

try:
    import contourpy  # noqa: F401
    import matplotlib  # noqa: F401
    import PIL  # noqa: F401
    import seaborn  # noqa: F401
except ModuleNotFoundError as error:
    raise missing(error, "vlls.plots", "plots") from None

from vlls.plots.cost import plot_cost
from vlls.plots.data_dependent import plot_accuracy_by_class
from vlls.plots.examples import (
    plot_noise_order,
    plot_noise_structure,
    plot_regular_and_atypical,
    plot_relabelled_auroc,
    plot_relabelled_scores,
)
from vlls.plots._experiments import (
    plot_calibration,
    plot_fixed_variance,
    plot_hessian_init,
    plot_memorisation,
    plot_noise_levels,
    plot_sensitivity,
)
from vlls.plots._figure import plot_experiment
from vlls.plots.fixed_variance import plot_std_in_training
from vlls.plots.glm import (
    plot_digit_noise,
    plot_expectation_error,
    plot_family_noise,
    plot_label_noise,
    plot_noise_confidence,
    plot_noise_factors,
    plot_noise_peak,
    plot_noisy_labels,
    plot_taylor_noise,
    plot_training_noise,
    plot_update_difference,
)
from vlls.plots.interactive import InteractiveFigure, explore_examples, explore_label_noise, explore_von_steps
from vlls.plots.ivon import (
    plot_diagonal_std,
    plot_gradsq_ratio,
    plot_hessian_positivity,
    plot_hessian_start,
    plot_hessian_variance,
    plot_ivon_hyperparameters,
)
from vlls.plots.label_errors import plot_class_images, plot_confusion
from vlls.plots.network import plot_layer_shares, plot_noise_errors, plot_noise_scale, plot_sam_noise
from vlls.plots._smoothed_labels import plot_smoothed_labels
from vlls.plots.smoothing import plot_accuracies, plot_logit_gap, plot_smoothing_strategies, plot_soft_labels
from vlls.plots.von import plot_adaptive_variance, plot_noise_plane, plot_von_convergence

__all__ = [
    "InteractiveFigure",
    "explore_examples",
    "explore_label_noise",
    "explore_von_steps",
    "plot_accuracies",
    "plot_accuracy_by_class",
    "plot_adaptive_variance",
    "plot_calibration",
    "plot_class_images",
    "plot_confusion",
    "plot_cost",
    "plot_diagonal_std",
    "plot_digit_noise",
    "plot_expectation_error",
    "plot_experiment",
    "plot_family_noise",
    "plot_fixed_variance",
    "plot_gradsq_ratio",
    "plot_hessian_init",
    "plot_hessian_positivity",
    "plot_hessian_start",
    "plot_hessian_variance",
    "plot_ivon_hyperparameters",
    "plot_label_noise",
    "plot_layer_shares",
    "plot_logit_gap",
    "plot_memorisation",
    "plot_noise_confidence",
    "plot_noise_errors",
    "plot_noise_factors",
    "plot_noise_levels",
    "plot_noise_order",
    "plot_noise_peak",
    "plot_noise_plane",
    "plot_noise_scale",
    "plot_noise_structure",
    "plot_noisy_labels",
    "plot_regular_and_atypical",
    "plot_relabelled_auroc",
    "plot_relabelled_scores",
    "plot_sam_noise",
    "plot_sensitivity",
    "plot_smoothed_labels",
    "plot_smoothing_strategies",
    "plot_soft_labels",
    "plot_std_in_training",
    "plot_taylor_noise",
    "plot_training_noise",
    "plot_update_difference",
    "plot_von_convergence",
]
