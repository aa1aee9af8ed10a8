"""The base of every smoothing loss: Eq. 1, checks of the input, and cross-entropy with the labels of Eq. 2."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Integral
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlls._compiled import capturing
from vlls._names import kind_of
from vlls._validation import check_rate, is_number

INTEGERS = (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64)


def smooth_labels(labels: Tensor, smoothing: float, num_classes: int | None = None) -> Tensor:
    r"""Return the smoothed labels :math:`(1-\alpha)\,y + \alpha/K` of Eq. 1 (Chapter 1).

    Args:
        labels: classes, integers of shape (N,), or probabilities, floats of shape (N, K).
        smoothing: the rate α in [0, 1].
        num_classes: K; needed for classes, read off the shape of probabilities.

    Returns:
        Probabilities of shape (N, K), in torch's default dtype for classes, else in that of ``labels``.

    Raises:
        ValueError: if ``smoothing`` is outside [0, 1], or ``labels`` are neither classes in 0..K-1 nor
            probabilities.

    Example:
        >>> smooth_labels(torch.tensor([0, 2]), 0.3, num_classes=3)
        tensor([[0.8000, 0.1000, 0.1000],
                [0.1000, 0.1000, 0.8000]])
    """
    check_rate(smoothing, "smoothing", include_zero=True)
    if num_classes is None:
        if not (isinstance(labels, Tensor) and labels.ndim == 2):
            raise ValueError("num_classes is not given, and integer classes do not tell it; pass num_classes=K")
        num_classes = labels.shape[1]
    check_num_classes(num_classes, "num_classes")
    probabilities = _as_probabilities(labels, num_classes)
    return (1 - smoothing) * probabilities + smoothing / num_classes


class SmoothingLoss(nn.Module, ABC):
    r"""Cross-entropy with the labels :math:`y + \epsilon` of Eq. 2; a subclass says what :math:`\epsilon` is.

    Half-precision logits (autocast) are raised to float32 first; loss and noise come back as float32.

    Args:
        reduction: ``"mean"`` or ``"sum"`` over the N examples, or ``"none"`` for a loss of shape (N,).
        validate: check the values of logits and labels at every call. On an accelerator a check waits for the
            device: switch it off in a tight loop. ``torch.compile`` and CUDA graph capture skip it.

    Raises:
        ValueError: by ``forward`` and ``label_noise``, for logits that are not finite floats of shape
            (N, K), and labels that are neither classes in 0..K-1, integers of shape (N,), nor probabilities, floats of
            shape (N, K).
    """

    _settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, reduction: str = "mean", validate: bool = True) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction={reduction!r} is unknown; choose 'mean', 'sum' or 'none'")
        if not isinstance(validate, bool | np.bool_):
            raise ValueError(f"validate={validate!r} is not allowed; choose True or False")
        self.reduction = reduction
        self.validate = validate

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: floats of shape (N, K).
            labels: classes, integers of shape (N,), or probabilities, floats of shape (N, K).
        """
        logits, targets = self._inputs(logits, labels)
        return self._cross_entropy(logits, targets + self._noise(logits.detach(), targets))

    @torch.no_grad()
    def label_noise(self, logits: Tensor, labels: Tensor) -> Tensor:
        r"""Return the noise :math:`\epsilon` that this loss adds to the labels now; it changes no state.

        Args:
            logits: floats of shape (N, K).
            labels: classes, integers of shape (N,), or probabilities, floats of shape (N, K).

        Returns:
            The noise, shape (N, K). The summed loss has the gradient ``softmax(logits) - (labels + noise)``.
        """
        return self._noise(*self._inputs(logits, labels))

    @abstractmethod
    def _noise(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the noise, shape (N, K), for logits and label probabilities of that shape."""

    def _inputs(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return checked logits in float32 or float64 and the labels as probabilities of that dtype."""
        check_logits(logits)
        validate = self.validate and readable(logits)
        if validate and not bool(logits.isfinite().all()):
            rows = (~logits.isfinite()).any(dim=1).nonzero().flatten()
            raise ValueError(
                f"logits hold NaN or infinity in {len(rows)} of {len(logits)} rows (the first is row {int(rows[0])}); "
                "leave out classes masked with -inf; where the model has diverged, lower the learning rate, or pass "
                "validate=False to let them through"
            )
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        targets = _as_probabilities(labels, logits.shape[1], validate).to(logits.dtype)
        if len(targets) != len(logits):
            raise ValueError(f"{len(logits)} rows of logits meet {len(targets)} labels; pass one label for each row")
        return logits, targets

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._reduce(F.cross_entropy(logits, targets, reduction="none"))

    def _reduce(self, losses: Tensor) -> Tensor:
        if self.reduction == "none":
            return losses
        return losses.mean() if self.reduction == "mean" else losses.sum()

    def extra_repr(self) -> str:
        """Return the settings, for ``print``."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in (*self._settings, "reduction"))


# --------------------------------------------------------------------------------------- checks
def _as_probabilities(labels: Tensor, num_classes: int, validate: bool = True) -> Tensor:
    """Return integer classes (N,) or probabilities (N, K) as checked probabilities (N, K)."""
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels are {describe(labels)}; pass a tensor: torch.as_tensor(labels)")
    validate = validate and readable(labels)
    if labels.dtype not in INTEGERS:
        check_probabilities(labels, num_classes, validate, "labels")
        return labels
    if labels.ndim != 1:
        raise ValueError(f"labels are {describe(labels)}; pass classes as integers of shape (N,)")
    labels = labels.long()  # a narrow type does not hold the number of classes
    if validate and bool(((labels < 0) | (labels >= num_classes)).any()):
        raise ValueError(
            f"labels lie in {int(labels.min())}..{int(labels.max())}, outside 0..{num_classes - 1}; "
            f"number the {num_classes} classes from 0, or drop those examples"
        )
    return F.one_hot(labels, num_classes).to(torch.get_default_dtype())


def check_probabilities(values: Tensor, num_classes: int, validate: bool, name: str) -> None:
    """Raise a ValueError unless the rows of ``values`` (N, K) are probabilities."""
    if not values.is_floating_point() or values.ndim != 2 or values.shape[1] != num_classes:
        advice = f"pass probabilities as floats of shape (N, {num_classes})"
        advice += ", or classes as integers of shape (N,)" if name == "labels" else ""
        raise ValueError(f"{name} {describe(values)} cannot be used; {advice}")
    if not validate:
        return
    bad = ~(values >= 0)  # true for NaN
    if bool(bad.any()):
        value = float(values[bad][0])
        raise ValueError(f"{name} hold {value:g}, not a probability; pass softmax(...) or counts / sum")
    sums = values.sum(dim=1, dtype=torch.promote_types(values.dtype, torch.float32))
    wrong = (sums - 1).abs() > max(1e-4, 4 * torch.finfo(values.dtype).eps)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} do not sum to 1 in {int(wrong.sum())} of {len(sums)} rows (row {row} sums to "
            f"{float(sums[row]):g}); divide each row by its sum"
        )


def check_logits(logits: Tensor) -> None:
    """Raise a ValueError unless ``logits`` are floats of shape (N, K) with K at least 2."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits are {describe(logits)}; pass floats of shape (N, K), a row for each example")
    if logits.layout != torch.strided:
        raise ValueError(f"logits are {logits.layout}; pass dense ones, as logits.to_dense() returns")
    check_num_classes(logits.shape[1], "the number of columns of logits")


def check_num_classes(value: int, name: str) -> None:
    """Raise a ValueError unless ``value`` is a whole number of classes, at least 2."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 2:
        raise ValueError(f"{name} is {value!r}; pass the number of classes, an integer of 2 or more")


def check_not_negative(**values: float) -> None:
    """Raise a ValueError unless all are finite numbers of 0 or more."""
    for name, value in values.items():
        if not is_number(value) or not 0 <= value < math.inf:
            raise ValueError(f"{name}={value!r} is not allowed; choose a finite number that is 0 or more")


def readable(tensor: Tensor) -> bool:
    """Tell whether values may be read: not while torch.compile traces or a CUDA graph is being captured."""
    return not (torch.compiler.is_compiling() or capturing([tensor]))


def describe(value: object) -> str:
    """Return the dtype and shape of a tensor, or the type of another value, for an error message."""
    if isinstance(value, Tensor):
        return f"of dtype {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
    return kind_of(value)
