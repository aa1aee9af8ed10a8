r"""Labels that are probably wrong, and probabilities of clean labels after training on noisy ones.

:func:`find_label_errors` asks a network under any posterior, or none, about the labels of a data set and returns a
table with the most suspicious first; :func:`label_errors_from_probabilities` does it for an array of probabilities.
:func:`sampled_probabilities` makes that array, as cleanlab takes it too.

A network that was trained on noisy labels predicts noisy labels, and is unsure of every example.
:func:`fit_correction` estimates the probabilities of the errors from held-out examples with noisy labels, and turns
the predictions into calibrated ones of clean labels.

:class:`NoisyLabelClassifier` does all of this for a table, as an estimator of scikit-learn.
"""

from typing import TYPE_CHECKING

from vlls._lazy import lazy
from vlls.label_errors._clean import LabelCorrection, estimate_transition, fit_correction
from vlls.label_errors._find import find_label_errors, label_errors_from_probabilities
from vlls.label_errors._probabilities import confident_joint
from vlls.label_errors._sampled import sampled_probabilities

__all__ = [
    "LabelCorrection",
    "NoisyLabelClassifier",
    "confident_joint",
    "estimate_transition",
    "find_label_errors",
    "fit_correction",
    "label_errors_from_probabilities",
    "sampled_probabilities",
]

if TYPE_CHECKING:
    from vlls.label_errors._sklearn import NoisyLabelClassifier
else:
    __getattr__, __dir__ = lazy(__name__, ("_sklearn",))  # it imports scikit-learn
