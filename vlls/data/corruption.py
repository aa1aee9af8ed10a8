r"""Label errors put into clean labels: symmetric, pair flip, and class-dependent (Eqs. 21-22).

Each kind is a matrix :math:`P`, whose entry :math:`P_{ij}` is the probability that an example of class i is
given the label j, and one draw from row :math:`P_y` for each example. The draws are the same as in the code
of Yu et al. (2019), which the paper's experiments build on: one ``numpy.random.RandomState(seed)``, and for each
example in turn one ``multinomial(1, P[y])``. The same seed gives the same wrong labels, label for label, on
any machine (Chapters 9, 10 and 11).

>>> corrupt([0, 1, 2, 0, 1, 2], "symmetric", rate=0.5, num_classes=3, seed=1)
array([1, 1, 2, 2, 1, 1])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from vlls._validation import check_whole_number, whole_labels
from vlls.data._rates import CORRUPTIONS, ROUNDING, check_errors

__all__ = ["class_dependent", "corrupt", "pair_flip", "symmetric", "transition_matrix"]

Labels = np.ndarray | Tensor | Sequence[int]


def transition_matrix(corruption: str, num_classes: int, rate: float, rate_step: float = 0.0) -> np.ndarray:
    r"""Return the matrix :math:`P` of a kind of label errors.

    With r the rate and K the number of classes, :math:`P_{ii} = 1 - r`, and of the rest

    - ``"symmetric"`` gives every other class :math:`r/(K-1)`;
    - ``"pair_flip"`` gives the next class r, the first class being next to the last (App. C.2): airplanes of CIFAR-10
      become automobiles, and trucks airplanes;
    - ``"class_dependent"`` is symmetric with a rate for each class, :math:`r_i = \kappa + \beta i` with i from
      1 to K (Eqs. 21-22, Chapter 11): :math:`P_{ii} = 1 - (\kappa + \beta i)` and
      :math:`P_{ij} = (\kappa + \beta i)/(K - 1)`;
    - ``"none"`` is the identity, with :math:`r = 0`.

    Args:
        corruption: one of these names.
        num_classes: K, at least 2.
        rate: r, or κ of Eq. 21, in [0, 1).
        rate_step: β of Eq. 21, at least 0 with :math:`\kappa + \beta K \le 1`; for class-dependent errors only.

    Returns:
        Float64 array of shape (K, K), whose rows sum to 1. Row i is the label distribution of class i.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> transition_matrix("pair_flip", 3, rate=0.25)
        array([[0.75, 0.25, 0.  ],
               [0.  , 0.75, 0.25],
               [0.25, 0.  , 0.75]])
        >>> transition_matrix("class_dependent", 3, rate=0.25, rate_step=0.25).diagonal()
        array([0.5 , 0.25, 0.  ])
    """
    check_whole_number(num_classes, "num_classes", 2)
    rate, rate_step = check_errors(corruption, rate, rate_step, num_classes)
    if corruption == "pair_flip":
        keep = np.eye(num_classes)
        return (1.0 - rate) * keep + rate * np.roll(keep, 1, axis=1)
    rates = np.minimum(rate + rate_step * np.arange(1, num_classes + 1), 1.0)
    rates[rates >= 1.0 - ROUNDING] = 1.0  # a rate of 1 is exactly 1
    matrix = np.repeat((rates / (num_classes - 1))[:, None], num_classes, axis=1)
    np.fill_diagonal(matrix, 1.0 - rates)
    return matrix


@overload
def corrupt(
    labels: Tensor, corruption: str, *, rate: float | None = ..., rate_step: float = ..., num_classes: int, seed: int
) -> Tensor: ...
@overload
def corrupt(
    labels: np.ndarray | Sequence[int],
    corruption: str,
    *,
    rate: float | None = ...,
    rate_step: float = ...,
    num_classes: int,
    seed: int,
) -> np.ndarray: ...
def corrupt(
    labels: np.ndarray | Tensor | Sequence[int],
    corruption: str,
    *,
    rate: float | None = None,
    rate_step: float = 0.0,
    num_classes: int,
    seed: int,
) -> np.ndarray | Tensor:
    """Return labels with errors of a kind given by its name (Eqs. 21-22; Chapters 9, 10 and 11).

    Args:
        labels: classes 0 to K - 1, integers of shape (N,): an array, a tensor or a list. Left unchanged.
        corruption: a name that :func:`transition_matrix` knows; ``"none"`` returns a copy.
        rate: see :func:`transition_matrix`. It may be left out with ``"none"``, and if there is a ``rate_step``; it is
            0 then.
        rate_step: see :func:`transition_matrix`; for class-dependent errors only, whose class 1 has the label 0.
        num_classes: K, at least 2.
        seed: of the draws, 0 to 2**32 - 1.

    Returns:
        New labels, int64 of shape (N,). A tensor for a tensor, on its device, and otherwise an array.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> corrupt(torch.tensor([0, 1, 2, 3]), "symmetric", rate=0.4, num_classes=4, seed=0)
        tensor([0, 1, 2, 1])
        >>> corrupt([9, 9, 9], "class_dependent", rate=0.5, rate_step=0.05, num_classes=10, seed=0)  # always wrong
        array([8, 4, 5])
        >>> corrupt([0, 1, 2], "symetric", rate=0.4, num_classes=3, seed=0)
        Traceback (most recent call last):
        ValueError: corruption='symetric' is unknown (did you mean 'symmetric'?); choose one of none, symmetric, ...
    """
    if rate is None and corruption in CORRUPTIONS and not rate_step:
        raise ValueError(f"corruption={corruption!r} needs a rate; pass the share of wrong labels, such as rate=0.4")
    matrix = transition_matrix(corruption, num_classes, 0.0 if rate is None else rate, rate_step)
    check_whole_number(seed, "seed", 0, 2**32 - 1)
    given = _classes(labels, num_classes)
    wrong = torch.from_numpy(_draw(given, matrix, int(seed)) if corruption != "none" else given.copy())
    return wrong.to(labels.device) if isinstance(labels, Tensor) else wrong.numpy()


def symmetric(labels: Labels, rate: float, num_classes: int, seed: int) -> Any:
    """Return labels of which a share ``rate`` is wrong, any wrong class being equally likely: see :func:`corrupt`.

    Example:
        >>> symmetric(torch.tensor([0, 1, 2, 3]), rate=0.4, num_classes=4, seed=0)
        tensor([0, 1, 2, 1])
    """
    return corrupt(labels, "symmetric", rate=rate, num_classes=num_classes, seed=seed)


def pair_flip(labels: Labels, rate: float, num_classes: int, seed: int) -> Any:
    """Return labels of which a share ``rate`` is moved to the next class, the last to the first: see :func:`corrupt`.

    Example:
        >>> pair_flip([0, 1, 2, 0, 1, 2], rate=0.5, num_classes=3, seed=1)
        array([1, 2, 2, 1, 2, 2])
    """
    return corrupt(labels, "pair_flip", rate=rate, num_classes=num_classes, seed=seed)


def class_dependent(labels: Labels, base_rate: float, rate_step: float, num_classes: int, seed: int) -> Any:
    r"""Return labels that are wrong at the rate :math:`\kappa + \beta i` of their class: see :func:`corrupt`.

    Args:
        labels: as there; label 0 is class i = 1 of Eq. 21.
        base_rate: κ.
        rate_step: β.
        num_classes: K.
        seed: of the draws.

    Example:
        >>> class_dependent([9, 9, 9, 9], base_rate=0.5, rate_step=0.05, num_classes=10, seed=0)  # always wrong
        array([8, 4, 5, 0])
    """
    check_errors("class_dependent", base_rate, rate_step, argument="base_rate")
    return corrupt(labels, "class_dependent", rate=base_rate, rate_step=rate_step, num_classes=num_classes, seed=seed)


def _draw(labels: np.ndarray, matrix: np.ndarray, seed: int, chunk: int = 8192) -> np.ndarray:
    """Draw a label from row ``matrix[y]`` for each y in turn; chunks keep the one-hot draws from piling up."""
    multinomial = np.random.RandomState(seed).multinomial  # a Generator would draw different numbers
    rows = list(matrix)
    drawn = np.empty_like(labels)
    for start in range(0, len(labels), chunk):
        part = slice(start, start + chunk)
        drawn[part] = np.array([multinomial(1, rows[y]) for y in labels[part].tolist()]).argmax(axis=1)
    return drawn


def _classes(labels: Any, num_classes: int) -> np.ndarray:
    """Return the labels as an int64 array of classes 0 to K - 1."""
    array = whole_labels(labels, num_classes=num_classes).numpy(force=True)
    if array.ndim != 1:
        raise ValueError(f"labels have shape {array.shape}; pass one class for each example, shape (N,)")
    outside = array[(array < 0) | (array >= num_classes)]
    if outside.size:
        raise ValueError(
            f"labels hold {outside.size} value(s) outside 0 to {num_classes - 1}, the first {outside[0]}; "
            f"map the classes to 0 to {num_classes - 1}, or pass a larger num_classes than {num_classes}"
        )
    return array
