r"""Label errors put into clean labels: symmetric, pair flip, and class-dependent (Eqs. 21-22).

Each kind is a matrix :math:`P`, whose entry :math:`P_{ij}` is the probability that an example of class i is
given the label j, and one draw from row :math:`P_y` for each example. The draws are those of the code of Yu
et al. (2019), which the paper's experiments build on: one ``numpy.random.RandomState(seed)``, and for each
example in turn one ``multinomial(1, P[y])``. The same seed gives the same wrong labels, label for label, on
any machine (Chapters 9, 10 and 11).

>>> symmetric([0, 1, 2, 0, 1, 2], rate=0.5, num_classes=3, seed=1)
array([1, 1, 2, 2, 1, 1])
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from vlls._names import check_known
from vlls.data import _rates
from vlls.data._rates import ROUNDING, check_errors

__all__ = ["CORRUPTIONS", "class_dependent", "corrupt", "pair_flip", "symmetric", "transition_matrix"]

CORRUPTIONS = _rates.CORRUPTIONS
"""The kinds of label errors that :func:`transition_matrix` knows."""


def transition_matrix(corruption: str, num_classes: int, rate: float, rate_step: float = 0.0) -> np.ndarray:
    r"""Return the matrix :math:`P` of a kind of label errors.

    With r the rate and K the number of classes, :math:`P_{ii} = 1 - r`, and of the rest

    - ``"symmetric"`` gives every other class :math:`r/(K-1)`;
    - ``"pair_flip"`` gives the next class r, the first class being next to the last (App. C.2);
    - ``"class_dependent"`` is symmetric with a rate for each class, :math:`r_i = \kappa + \beta i` with i from
      1 to K (Eqs. 21-22, Chapter 11): :math:`P_{ii} = 1 - (\kappa + \beta i)` and
      :math:`P_{ij} = (\kappa + \beta i)/(K - 1)`.

    Args:
        corruption: one of :data:`CORRUPTIONS`.
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
    check_known(corruption, CORRUPTIONS, "corruption")
    num_classes = _integer(num_classes, "num_classes", 2, None)
    argument = "base_rate" if corruption == "class_dependent" else "rate"
    rate, rate_step = check_errors(corruption, rate, rate_step, num_classes, argument)
    if corruption == "pair_flip":
        keep = np.eye(num_classes)
        return (1.0 - rate) * keep + rate * np.roll(keep, 1, axis=1)
    rates = np.minimum(rate + rate_step * np.arange(1, num_classes + 1), 1.0)
    rates[rates >= 1.0 - ROUNDING] = 1.0  # a class that is always wrong is so exactly
    matrix = np.repeat((rates / (num_classes - 1))[:, None], num_classes, axis=1)
    np.fill_diagonal(matrix, 1.0 - rates)
    return matrix


@overload
def symmetric(labels: Tensor, rate: float, num_classes: int, seed: int) -> Tensor: ...
@overload
def symmetric(labels: np.ndarray | Sequence[int], rate: float, num_classes: int, seed: int) -> np.ndarray: ...
def symmetric(
    labels: np.ndarray | Tensor | Sequence[int], rate: float, num_classes: int, seed: int
) -> np.ndarray | Tensor:
    """Return labels of which a share ``rate`` is wrong, every wrong class being equally likely (Chapters 9, 10).

    Args:
        labels: classes 0 to K - 1, integers of shape (N,): an array, a tensor or a list. Left unchanged.
        rate: probability in [0, 1) that a label is wrong.
        num_classes: K, at least 2.
        seed: of the draws, 0 to 2**32 - 1.

    Returns:
        New labels, int64 of shape (N,). A tensor for a tensor, on its device, and otherwise an array.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> symmetric(torch.tensor([0, 1, 2, 3]), rate=0.4, num_classes=4, seed=0)
        tensor([0, 1, 2, 1])
    """
    return corrupt(labels, "symmetric", rate=rate, num_classes=num_classes, seed=seed)


@overload
def pair_flip(labels: Tensor, rate: float, num_classes: int, seed: int) -> Tensor: ...
@overload
def pair_flip(labels: np.ndarray | Sequence[int], rate: float, num_classes: int, seed: int) -> np.ndarray: ...
def pair_flip(
    labels: np.ndarray | Tensor | Sequence[int], rate: float, num_classes: int, seed: int
) -> np.ndarray | Tensor:
    """Return labels of which a share ``rate`` is moved to the next class, the last to the first (App. C.2, Chapter 9).

    On CIFAR-10 that is airplane to automobile, automobile to bird, and at last truck to airplane.

    Args:
        labels: classes 0 to K - 1, integers of shape (N,): an array, a tensor or a list. Left unchanged.
        rate: probability in [0, 1) that a label is wrong.
        num_classes: K, at least 2.
        seed: of the draws, 0 to 2**32 - 1.

    Returns:
        New labels, int64 of shape (N,). A tensor for a tensor, on its device, and otherwise an array.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> pair_flip([0, 1, 2, 0, 1, 2], rate=0.5, num_classes=3, seed=1)
        array([1, 2, 2, 1, 2, 2])
    """
    return corrupt(labels, "pair_flip", rate=rate, num_classes=num_classes, seed=seed)


@overload
def class_dependent(labels: Tensor, base_rate: float, rate_step: float, num_classes: int, seed: int) -> Tensor: ...
@overload
def class_dependent(
    labels: np.ndarray | Sequence[int], base_rate: float, rate_step: float, num_classes: int, seed: int
) -> np.ndarray: ...
def class_dependent(
    labels: np.ndarray | Tensor | Sequence[int], base_rate: float, rate_step: float, num_classes: int, seed: int
) -> np.ndarray | Tensor:
    r"""Return labels that are wrong at a rate of their class's own, :math:`\kappa + \beta i` (Eqs. 21-22, Chapter 11).

    Args:
        labels: classes 0 to K - 1, integers of shape (N,): an array, a tensor or a list. Left unchanged.
            Label 0 is class i = 1 of the equations.
        base_rate: κ in [0, 1).
        rate_step: β, at least 0, with :math:`\kappa + \beta K \le 1`.
        num_classes: K, at least 2.
        seed: of the draws, 0 to 2**32 - 1.

    Returns:
        New labels, int64 of shape (N,). A tensor for a tensor, on its device, and otherwise an array.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> class_dependent([9, 9, 9, 9], base_rate=0.5, rate_step=0.05, num_classes=10, seed=0)  # always wrong
        array([8, 4, 5, 0])
    """
    return corrupt(labels, "class_dependent", rate=base_rate, rate_step=rate_step, num_classes=num_classes, seed=seed)


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
    """Return labels with errors of a kind given by its name.

    Args:
        labels: classes 0 to K - 1, integers of shape (N,): an array, a tensor or a list. Left unchanged.
        corruption: one of :data:`CORRUPTIONS`, or ``"none"``, which returns a copy.
        rate: see :func:`transition_matrix`. It may be left out with ``"none"``, and if there is a ``rate_step``; it is
            0 then.
        rate_step: see :func:`transition_matrix`; for class-dependent errors only.
        num_classes: K, at least 2.
        seed: of the draws, 0 to 2**32 - 1.

    Returns:
        New labels, int64 of shape (N,). A tensor for a tensor, on its device, and otherwise an array.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> corrupt([0, 1, 2], "none", num_classes=3, seed=0)
        array([0, 1, 2])
        >>> corrupt([0, 1, 2], "symetric", rate=0.4, num_classes=3, seed=0)
        Traceback (most recent call last):
        ValueError: corruption='symetric' is unknown (did you mean 'symmetric'?); choose one of none, symmetric, ...
    """
    check_known(corruption, ("none", *CORRUPTIONS), "corruption")
    num_classes = _integer(num_classes, "num_classes", 2, None)
    seed = _integer(seed, "seed", 0, 2**32 - 1)
    clean = _as_classes(labels, num_classes)
    if rate is None and corruption != "none" and not rate_step:
        raise ValueError(f"corruption={corruption!r} needs a rate; pass the share of wrong labels, such as rate=0.4")
    rate = 0.0 if rate is None else rate
    if corruption == "none":
        check_errors(corruption, rate, rate_step)
        wrong = clean
    else:
        wrong = _draw(clean, transition_matrix(corruption, num_classes, rate, rate_step), seed)
    return torch.from_numpy(wrong).to(labels.device) if isinstance(labels, Tensor) else wrong


def _draw(labels: np.ndarray, matrix: np.ndarray, seed: int, chunk: int = 8192) -> np.ndarray:
    """Draw a label from row ``matrix[y]`` for each y in turn; chunks keep the one-hot draws from piling up."""
    multinomial = np.random.RandomState(seed).multinomial  # not a Generator, which draws others
    rows = list(matrix)
    drawn = np.empty_like(labels)
    for start in range(0, len(labels), chunk):
        part = slice(start, start + chunk)
        drawn[part] = np.array([multinomial(1, rows[y]) for y in labels[part].tolist()]).argmax(axis=1)
    return drawn


# ------------------------------------------------------------------ checks
def _as_classes(labels: Any, num_classes: int) -> np.ndarray:
    """Return the labels as a new int64 array of classes 0 to K - 1."""
    if isinstance(labels, Tensor):
        dtype = str(labels.dtype)
        integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        array = labels.detach().cpu().numpy() if integers else np.zeros(0)
    else:
        array = _as_array(labels)
        dtype, integers = str(array.dtype), array.dtype.kind in "iu"
    if not integers:
        raise ValueError(f"labels are of type {dtype}; pass integers 0 to {num_classes - 1}, one for each example")
    if array.ndim != 1:
        raise ValueError(f"labels have shape {array.shape}; pass one class for each example, shape (N,)")
    outside = array[(array < 0) | (array >= num_classes)]
    if outside.size:
        raise ValueError(
            f"labels hold {outside.size} value(s) outside 0 to {num_classes - 1}, the first {outside[0]}; "
            f"map the classes to 0 to {num_classes - 1}, or pass a larger num_classes than {num_classes}"
        )
    return array.astype(np.int64)


def _as_array(labels: Any) -> np.ndarray:
    """Convert labels to an array; mixed types, which NumPy would convert silently, keep a type that is refused."""
    if isinstance(labels, (list, tuple)):
        if not labels:
            return np.zeros(0, np.int64)  # numpy would make them floats
        if any(isinstance(label, (bool, np.bool_)) for label in labels):
            return np.zeros(1, bool)  # numpy would make them integers beside integers
    try:
        return np.asarray(labels)
    except ValueError:
        return np.zeros(1, object)  # rows of different lengths


def _integer(value: Any, name: str, low: int, high: int | None) -> int:
    """Return ``value`` as an int from ``low`` to ``high``."""
    allowed = f"an integer of {low} or more" if high is None else f"an integer from {low} to {high}"
    whole = not isinstance(value, (bool, np.bool_, np.ndarray, Tensor)) and hasattr(value, "__index__")
    if not whole or operator.index(value) < low or (high is not None and operator.index(value) > high):
        raise ValueError(f"{name}={value!r} is not allowed; choose {allowed}")
    return operator.index(value)
