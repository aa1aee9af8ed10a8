r"""Probabilities of the clean label from those of the given one, by the matrix of the label errors.

A network that was trained on noisy labels and has not memorised them predicts given labels,
:math:`p(j \mid x)`; with :math:`T_{ij}` the probability that an example of class i is given the label j,
:math:`p(j \mid x) = \sum_i q(i \mid x)\,T_{ij}` for the clean labels' probabilities q that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vlls._names import check_known
from vlls._validation import is_number
from vlls.label_errors._given import MISSING, given_labels
from vlls.label_errors._probabilities import checked_probabilities, judged
from vlls.label_errors._scores import confident_class, count_pairs

Array = npt.NDArray[np.float64]

METHODS = ("bayes", "inverse")
_ROUNDS = 10  # of Bayes' rule; with more, q T is closer to p(x), and classes that p(x) lacks are closer to 0
_TINY = np.finfo(np.float64).tiny
_TEMPERATURES = np.exp(np.linspace(-3.0, 2.0, 201))


def estimate_transition(probabilities: Any, labels: Any) -> Array:
    r"""Estimate the probabilities of label errors from predictions and given labels.

    The counts come from the confident joint (:func:`confident_joint`). A row of few counts is an uncertain estimate, so
    each is shrunk towards errors of one rate without a preferred class: row i is the posterior mean under a Dirichlet
    prior around that matrix. Its strength, common to all rows, is the largest whose marginal likelihood is within a
    factor e of the highest: strong for errors without a preference, weak for pair flips.

    Args:
        probabilities: as :func:`label_errors_from_probabilities` takes them, best of examples that were held out:
            those of a network that has learned its labels by heart show no errors.
        labels: the given labels of these examples, -1 for a missing one.

    Returns:
        (K, K) float64, whose rows sum to 1. Row i is the distribution of the given label of class i, as
        :func:`.transition_matrix` has it.

    Raises:
        ValueError: as :func:`label_errors_from_probabilities` does.

    Example:
        >>> p = [[0.8, 0.2]] * 6 + [[0.1, 0.9]] * 6
        >>> estimate_transition(p, [0, 0, 0, 0, 0, 1] + [1] * 6).round(2)
        array([[0.86, 0.14],
               [0.14, 0.86]])
    """
    p, given = judged(probabilities, labels)
    k = p.shape[1]
    counts = count_pairs(given, confident_class(p, given), k).T.astype(np.float64)
    right = (np.trace(counts) + 1) / (counts.sum() + 2)
    prior = np.full((k, k), (1 - right) / (k - 1))
    np.fill_diagonal(prior, right)
    strengths = 2.0 ** np.arange(15)
    evidence = np.array([_evidence(counts, strength * prior) for strength in strengths])
    strength = strengths[evidence > evidence.max() - 1][-1]
    posterior = counts + strength * prior
    return np.asarray(posterior / posterior.sum(axis=1, keepdims=True))


def _evidence(counts: Array, prior: Array) -> float:
    """Return the log marginal likelihood of rows of counts under Dirichlet priors, up to a constant."""
    before, after = torch.from_numpy(prior), torch.from_numpy(prior + counts)
    of_rows = before.sum(1).lgamma() - after.sum(1).lgamma()
    return float(of_rows.sum() + (after.lgamma() - before.lgamma()).sum())


@dataclass(frozen=True, eq=False)
class LabelCorrection:
    r"""Turns probabilities of given labels into those of clean ones.

    There are two methods:

    - ``bayes``: Bayes' rule says how probable clean label i is once the given label is j,
      :math:`q_i T_{ij} / \sum_k q_k T_{kj}`, and the prediction p says how probable each j is:
      :math:`q_i \leftarrow \sum_j p_j\, q_i T_{ij} / \sum_k q_k T_{kj}`, ten times from q = p. Every step makes
      p more likely under q T, and q stays a distribution. The temperature is q's.
    - ``inverse``: :math:`p\,T^{-1}`, as the backward correction of Patrini et al. (2017) inverts the errors, then the
      nearest distribution. It keeps the order of the classes that :math:`p\,T^{-1}` has, and many probabilities are
      exactly 0. The temperature is p's, before.

    :func:`fit_correction` finds the matrix and the temperature with noisy labels alone. Both methods assume that
    errors depend on the class alone, and that the network is mostly right: where it is not, its own
    errors are counted as errors of labels, and the results are too sure.

    Args:
        transition: T, (K, K), row i being the distribution of the given label of class i, such as that of
            :func:`estimate_transition` or :func:`.transition_matrix`.
        temperature: logarithms of probabilities are divided by it; below 1 the result is surer.
        method: one of the two.

    Raises:
        ValueError: if the matrix is none, or has no inverse where one is needed, or an argument is not allowed.

    Example:
        >>> from vlls.data.corruption import transition_matrix
        >>> correct = LabelCorrection(transition_matrix("symmetric", 3, rate=0.4), method="inverse")
        >>> correct([[0.6, 0.2, 0.2], [0.4, 0.4, 0.2]]).round(2)
        array([[1. , 0. , 0. ],
               [0.5, 0.5, 0. ]])
        >>> correct([[0.4, 0.4, 0.2]], [1]).round(2)                        # it was labelled 1
        array([[0.25, 0.75, 0.  ]])
    """

    transition: Array = field(repr=False)
    temperature: float = 1.0
    method: str = "bayes"

    def __post_init__(self) -> None:
        check_known(self.method, METHODS, "method")
        if not is_number(self.temperature) or not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature={self.temperature!r} is not allowed; choose a finite number > 0")
        shape = np.shape(self.transition)
        if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
            raise ValueError(f"transition has shape {shape}; pass (K, K), a row for each clean class")
        matrix = checked_probabilities(self.transition)[0].astype(np.float64)
        if np.isnan(matrix).any():
            raise ValueError("transition holds NaN; pass a row of probabilities for each clean class")
        if self.method == "inverse" and np.linalg.cond(matrix) > 1e6:
            raise ValueError("transition has no inverse, for two classes have the same labels; use method='bayes'")
        object.__setattr__(self, "transition", matrix)

    def __call__(self, probabilities: Any, labels: Any = None) -> Array:
        """Return the probabilities of the clean labels.

        Args:
            probabilities: of the given labels, as :func:`label_errors_from_probabilities` takes them.
            labels: the given labels, -1 for a missing one. If they are passed, their information is used too, by Bayes'
                rule: q(i) T(i, given), which counts the label twice where the network has learned it.

        Returns:
            (N, K) float64, rows that sum to 1; NaN where ``probabilities`` are.

        Raises:
            ValueError: if they are no probabilities of K classes, or labels are no classes.
        """
        samples = checked_probabilities(probabilities)
        self.check_classes(samples.shape[2])
        p = samples.mean(axis=0, dtype=np.float64)
        known = ~np.isnan(p).any(axis=1)
        q = np.full(p.shape, np.nan)
        q[known] = self._clean(p[known] / p[known].sum(axis=1, keepdims=True))
        if labels is None:
            return q
        given = given_labels(labels, p.shape)
        both = q * np.where(given == MISSING, 1.0, self.transition[:, given]).T
        total = both.sum(axis=1, keepdims=True)
        return np.where(total > 0, both / np.maximum(total, _TINY), q)  # a label of probability 0 is ignored

    def check_classes(self, k: int) -> None:
        """Raise a ValueError unless the matrix is of as many classes as the probabilities."""
        if len(self.transition) != k:
            raise ValueError(
                f"probabilities have {k} classes and transition has {len(self.transition)}; pass as many of both"
            )

    def _clean(self, p: Array) -> Array:
        if self.method == "inverse":
            return nearest_distribution(tempered(p, self.temperature) @ np.linalg.inv(self.transition))
        q = p
        for _ in range(_ROUNDS):
            q = q * ((p / np.maximum(q @ self.transition, _TINY)) @ self.transition.T)
        return tempered(q, self.temperature)


def fit_correction(
    probabilities: Any, labels: Any, *, transition: Any = None, method: str = "bayes"
) -> LabelCorrection:
    r"""Fit the correction of a network's probabilities to held-out examples with noisy labels.

    The temperature is the one under which the given labels are likeliest, q T being their distribution: no clean label
    is needed.

    Args:
        probabilities: of examples that were held out, as :func:`label_errors_from_probabilities` takes them.
        labels: their given labels, -1 for a missing one.
        transition: (K, K), if it is known; estimated from the same examples if left out
            (:func:`estimate_transition`).
        method: see :class:`LabelCorrection`.

    Raises:
        ValueError: as :func:`label_errors_from_probabilities` and :class:`LabelCorrection` do.

    Example:
        >>> from vlls.data.corruption import symmetric
        >>> rng = np.random.default_rng(0)
        >>> clean = rng.integers(0, 3, 3000)
        >>> given = symmetric(clean, rate=0.4, num_classes=3, seed=0)
        >>> p = 0.4 * np.eye(3)[clean] + 0.2                 # of a network that knows the class, and is too unsure
        >>> correct = fit_correction(p, given)
        >>> correct.transition.diagonal().round(1), p.max(1).mean().round(2), correct(p).max(1).mean().round(2)
        (array([0.6, 0.6, 0.6]), np.float64(0.6), np.float64(1.0))
    """
    found = LabelCorrection(estimate_transition(probabilities, labels) if transition is None else transition, 1, method)
    p, given = judged(probabilities, labels)
    found.check_classes(p.shape[1])
    untempered = found(p)
    of_label = found.transition[:, given].T  # (n, K)

    def loss(temperature: float) -> float:
        if method == "bayes":
            q = tempered(untempered, temperature)
        else:
            q = LabelCorrection(found.transition, temperature, method)(p)
        return float(-np.log(np.maximum((q * of_label).sum(axis=1), _TINY)).mean())

    return LabelCorrection(found.transition, min(_TEMPERATURES.tolist(), key=loss), method)


def tempered(p: Array, temperature: float) -> Array:
    """Return distributions (N, K) in proportion to p ** (1 / temperature)."""
    logits = np.log(np.maximum(p, _TINY)) / temperature
    q = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(q / q.sum(axis=1, keepdims=True))


def nearest_distribution(values: Array) -> Array:
    """Return the distributions (N, K) at the least Euclidean distance from rows that sum to 1.

    The same number is subtracted from every entry and negative results become 0, so the order of the entries stays.
    """
    falling = -np.sort(-values, axis=1)
    excess = (falling.cumsum(axis=1) - 1) / np.arange(1, values.shape[1] + 1)
    kept = (falling > excess).sum(axis=1, keepdims=True)
    return np.maximum(values - np.take_along_axis(excess, kept - 1, axis=1), 0)
