r"""Scores of given labels and the confident joint, of one array of probabilities.

The confident joint is defined by Northcutt, Jiang and Chuang (2021), "Confident learning: estimating uncertainty in
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

ROUNDING = 1e-6  # the mean of equal probabilities may be rounded up above them
_LEAST = 2 * ROUNDING  # threshold, so that a probability of 0 reaches none


def of_class(p: Floats, classes: Classes) -> Doubles:
    """Return the probability (N,) of each example's class, NaN if the class is missing."""
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
    """Return the class (N,) whose probability reaches its threshold, -1 if none does.

    If several do, it is the most probable of all classes, as in cleanlab; the paper takes the most probable of those
    that reach their threshold.
    """
    enough = p >= np.maximum(thresholds(p, given), _LEAST) - ROUNDING  # never of a class without labels
    number = enough.sum(axis=1)
    return np.where(number > 1, p.argmax(axis=1), np.where(number == 1, enough.argmax(axis=1), MISSING))


def confidently_wrong(p: Floats, given: Classes) -> npt.NDArray[np.bool_]:
    """Return which examples (N,) are off the diagonal of the confident joint, and have a more probable class."""
    confident = confident_class(p, given)
    likelier = p.max(axis=1) > of_class(p, given) + ROUNDING
    return (confident != MISSING) & (confident != given) & (given != MISSING) & likelier


def count_pairs(given: Classes, other: Classes, num_classes: int) -> npt.NDArray[np.int64]:
    """Return how many examples have each pair of classes, (K, K), without examples that lack one of the two."""
    both = (given != MISSING) & (other != MISSING)
    pairs = np.bincount(given[both] * num_classes + other[both], minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def adjusted(p: Floats, given: Classes) -> Doubles:
    """Return probabilities without the classes' mean self-confidence, so that hard and rare classes compare fairly."""
    mean = thresholds(p, given)
    mean = np.where(np.isnan(mean), np.nanmax(mean), mean)
    shifted = p - mean + mean.max()
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def margin(p: Floats, given: Classes) -> Doubles:
    """Return half of 1 - p(given) + the largest other probability, (N,)."""
    others = p.copy()
    np.put_along_axis(others, given[:, None], -np.inf, axis=1)
    return np.asarray((1 - of_class(p, given) + others.max(axis=1)) / 2)


def error_times_variance(samples: Floats, given: Classes) -> Doubles:
    r"""Return the sum over classes of |error| times variance, (N,), of probabilities (S, N, K) for S draws.

    The error is p - y for the mean prediction p. The variance is taken over the draws of the logits, less their mean
    over classes, which the softmax ignores.
    """
    logits = np.log(np.maximum(samples, np.finfo(samples.dtype).tiny)).astype(np.float64)
    logits -= logits.mean(axis=2, keepdims=True)
    error = samples.mean(axis=0).astype(np.float64)
    error[np.arange(len(given)), given] -= 1
    return np.asarray((np.abs(error) * logits.var(axis=0, ddof=1)).sum(axis=1))
