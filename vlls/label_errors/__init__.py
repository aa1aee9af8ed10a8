r"""Wrong labels: which they probably are, and probabilities of the clean labels after training on noisy ones.

:func:`find_label_errors` asks a network under any posterior, or none, about the labels of a data set and returns a
table with the most suspicious first; :func:`label_errors_from_probabilities` does it for an array of probabilities.
:func:`sampled_probabilities` makes that array, as cleanlab takes it too.
"""

from vlls.label_errors._find import confident_joint, find_label_errors, label_errors_from_probabilities
from vlls.label_errors._sampled import sampled_probabilities

__all__ = [
    "confident_joint",
    "find_label_errors",
    "label_errors_from_probabilities",
    "sampled_probabilities",
]
