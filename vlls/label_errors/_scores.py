r"""Scores of given labels and the confident joint, of one array of probabilities.

The confident joint is that of Northcutt, Jiang and Chuang (2021), "Confident learning: estimating uncertainty in
dataset labels": the threshold :math:`t_j` of class j is the mean of p(j) over the examples that are
labelled j, and an example that is labelled i counts in :math:`C_{ij}` for the class j that reaches its threshold. For
examples with more than one such class, and for rounding, it follows the library of these authors, cleanlab.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vlls.label_errors._given import MISSING, Classes

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]

SCORES = ("self_confidence", "margin", "error_times_variance")
_ROUNDING = 1e-6  # a mean of equal probabilities may be rounded to one above them
_LEAST = 2 * _ROUNDING  # threshold, so that a probability of 0 reaches none


def of_class(p: Floats, classes: Classes) -> Doubles:
    """Return the probability (N,) of each example's class, NaN where the class is missing."""
    found = np.take_along_axis(p, np.maximum(classes, 0)[:, None], axis=1)[:, 0].astype(np.float64)
    return np.where(classes == MISSING, np.nan, found)


def thresholds(p: Floats, given: Classes) -> Doubles:
    """Return the mean probability (K,) of each class over the examples with that label, NaN for a class without any."""
    own = of_class(p, given)
    known = ~np.isnan(own)
    total, count = (np.bincount(given[known], w, minlength=p.shape[1]) for w in (own[known], None))
    with np.errstate(invalid="ignore"):
        return total / count


def confident_class(p: Floats, given: Classes) -> Classes:
    """Return the class (N,) whose probability reaches its threshold, -1 where none does.

    If more than one does, it is the most probable class: cleanlab's rule, where the paper's takes the most probable of
    those that do.
    """
    enough = p >= np.maximum(thresholds(p, given), _LEAST) - _ROUNDING  # never of a class without labels
    number = enough.sum(axis=1)
    return np.where(number > 1, p.argmax(axis=1), np.where(number == 1, enough.argmax(axis=1), MISSING))


def confidently_wrong(p: Floats, given: Classes) -> npt.NDArray[np.bool_]:
    """Return which examples (N,) are off the diagonal of the confident joint, and have a more probable class."""
    confident = confident_class(p, given)
    likelier = p.max(axis=1) > of_class(p, given) + _ROUNDING
    return (confident != MISSING) & (confident != given) & (given != MISSING) & likelier


def count_pairs(given: Classes, other: Classes, num_classes: int) -> npt.NDArray[np.int64]:
    """Return how many examples have each pair of classes, (K, K), leaving out those of which one is missing."""
    both = (given != MISSING) & (other != MISSING)
    pairs = np.bincount(given[both] * num_classes + other[both], minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def adjusted(p: Floats, given: Classes) -> Doubles:
    """Return probabilities without the classes' mean self-confidence, so that hard and rare classes compare fairly."""
    mean = thresholds(p, given)
    mean = np.where(np.isnan(mean), np.nanmax(mean), mean)
    shifted = p - mean + mean.max()
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def score_of(score: str, p: Floats, given: Classes) -> Doubles:
    """Return 1 - p(given) or the margin, (N,): the higher, the less the label is believed; NaN where it is missing."""
    own = of_class(p, given)
    if score == "self_confidence":
        return np.asarray(1 - own)
    others = p.copy()
    np.put_along_axis(others, np.maximum(given, 0)[:, None], -np.inf, axis=1)
    return np.asarray((1 - own + others.max(axis=1)) / 2)


def error_times_variance(samples: Floats, given: Classes) -> Doubles:
    r"""Return the norm (N,) of V e, of probabilities (S, N, K) for S draws of the weights.

    e = p - y is the error of the mean prediction, V the covariance of the logits over the draws. Softmax does not tell
    a constant that is added to all logits, and neither does the result: e sums to 0, and the mean over classes is taken
    off. V, which is (K, K), is not formed.
    """
    tiny = np.finfo(samples.dtype).tiny
    logits = np.log(np.maximum(samples, tiny)).astype(np.float64)
    logits -= logits.mean(axis=2, keepdims=True)
    deviation = logits - logits.mean(axis=0)
    error = samples.mean(axis=0).astype(np.float64)
    error[np.arange(len(given)), given] -= 1
    along = np.einsum("snk,nk->sn", deviation, error)
    moved = np.einsum("sn,snk->nk", along, deviation) / (len(samples) - 1)
    return np.asarray(np.linalg.norm(moved, axis=1))
