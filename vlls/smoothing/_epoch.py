"""Strategies with a memory: the predictions of one epoch make the labels of the next."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vlls._validation import check_rate
from vlls.smoothing._base import SmoothingLoss, check_num_classes, describe

_Self = TypeVar("_Self", bound="_LossWithMemory")


class _LossWithMemory(SmoothingLoss):
    """Base class of the losses that remember predictions.

    All state changes in place, and no value is read: ``state_dict`` resumes in the middle of an epoch, ``.to(device)``
    moves the state, and a CUDA graph can capture the step. The labels in use are a buffer, the same on every rank. The
    statistics of the epoch differ between ranks, so they are no buffers between calls: at every forward pass
    DistributedDataParallel overwrites the buffers of all ranks with those of the first.
    """

    _prob_sum: Tensor
    _count: Tensor

    def __init__(self, n_classes: int, reduction: str, validate: bool) -> None:
        super().__init__(reduction=reduction, validate=validate)
        check_num_classes(n_classes, "n_classes")
        self.n_classes = n_classes

    @contextmanager
    def _statistics_as_buffers(self) -> Iterator[None]:
        """Let torch move, save and load the statistics as it does buffers."""
        names = ("_prob_sum", "_count")
        for name in names:
            self._buffers[name] = self.__dict__.pop(name)
        try:
            yield
        finally:
            for name in names:
                self.__dict__[name] = self._buffers.pop(name)

    def _save_to_state_dict(self, *args: Any) -> None:
        with self._statistics_as_buffers():
            super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        with self._statistics_as_buffers():
            super()._load_from_state_dict(*args)

    def _apply(self: _Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Self:
        """Move the statistics, but never cast them to 16 bits, in which sums stop growing."""

        def accurate(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if not moved.is_floating_point() or moved.dtype.itemsize >= 4:
                return moved
            return tensor.to(moved.device)

        with self._statistics_as_buffers():
            return super()._apply(accurate, recurse)

    @torch.no_grad()
    def _next_epoch(self, current: Tensor) -> None:
        """Replace ``current`` by the epoch's means, where there are any, and start the statistics again."""
        if dist.is_available() and dist.is_initialized():  # every rank must train on the same labels
            dist.all_reduce(self._prob_sum)
            dist.all_reduce(self._count)
        means = self._prob_sum / self._count.clamp(min=1)
        current.copy_(torch.where(self._count > 0, means, current))
        self._prob_sum.zero_()
        self._count.zero_()

    def _inputs(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and getattr(self, "_is_replica", False):
            raise RuntimeError(
                "torch.nn.DataParallel throws away the statistics that its replicas of this loss take; apply the loss "
                "to what the DataParallel module returns, or use DistributedDataParallel"
            )
        logits, targets = super()._inputs(logits, labels)
        if logits.shape[1] != self.n_classes:
            raise ValueError(
                f"logits have {logits.shape[1]} columns, but n_classes={self.n_classes}; "
                f"make the loss with n_classes={logits.shape[1]}, or mend the model's last layer"
            )
        if logits.device != self._prob_sum.device:
            raise ValueError(
                f"logits are on {logits.device}, the loss's statistics on {self._prob_sum.device}; "
                f"call criterion.to({str(logits.device)!r}) once after making it"
            )
        return logits, targets


class _EpochSmoothing(_LossWithMemory):
    """Base class of the two strategies that make the labels of an epoch from the predictions of the one before."""

    def __init__(self, n_classes: int, reduction: str, validate: bool, dtype: torch.dtype) -> None:
        super().__init__(n_classes, reduction, validate)
        if dtype not in (torch.float32, torch.float64):  # sums of 16 bits stop growing
            raise ValueError(f"dtype={dtype!r} is not allowed; choose torch.float64, or torch.float32")

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss and, in training mode, add the predictions to the statistics of this epoch."""
        logits, targets = self._inputs(logits, labels)
        if self.training:
            with torch.no_grad():
                self._accumulate(logits.softmax(dim=1).to(self._prob_sum.dtype), targets)
        return self._cross_entropy(logits, targets + self._noise(logits.detach(), targets))

    @abstractmethod
    def _accumulate(self, probabilities: Tensor, targets: Tensor) -> None:
        """Add a batch's predictions (N, K) to the statistics."""


class MeanPredictionSmoothing(_EpochSmoothing):
    r"""Smoothing towards the mean prediction of the previous epoch (Eqs. 3-5; Chapter 1).

    The noise is :math:`\epsilon = \alpha(\bar u - y)` as the paper's Section 2 prints it: one :math:`\bar u`
    for all classes, the mean of the softmax over *all* examples of the previous epoch; uniform in the first
    epoch, which is then Eq. 1. The methods that the section cites for it do more: Zhang et al. (2021) keep
    one mean for each class over its correct predictions (:class:`OnlineLabelSmoothing`), and Ko et al. (2023,
    "A gift from label smoothing", AAAI) smooth each example at a rate of one minus the probability that a
    running average of its logits gives to its label, on auxiliary classifiers.

    Predictions are counted, and several processes synchronised, as in :class:`OnlineLabelSmoothing`.

    Args:
        smoothing: the rate α in [0, 1].
        n_classes: K.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        validate: see :class:`SmoothingLoss`.
        dtype: of the statistics; choose float32 for a device without float64.

    Attributes:
        mean_prediction: :math:`\bar u` in use, shape (K,).

    Example:
        >>> criterion = MeanPredictionSmoothing(0.5, n_classes=2)
        >>> logits, labels = torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])
        >>> loss = criterion(logits, labels)
        >>> criterion.next_epoch()
        >>> criterion.label_noise(logits, labels)
        tensor([[-0.3750,  0.3750],
                [ 0.1250, -0.1250]])
    """

    mean_prediction: Tensor
    _settings = ("smoothing", "n_classes")

    def __init__(
        self,
        smoothing: float,
        n_classes: int,
        *,
        reduction: str = "mean",
        validate: bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(n_classes, reduction, validate, dtype)
        check_rate(smoothing, "smoothing", include_zero=True)
        self.smoothing = smoothing
        self.register_buffer("mean_prediction", torch.full((n_classes,), 1 / n_classes, dtype=dtype))
        self._prob_sum = torch.zeros(n_classes, dtype=dtype)
        self._count = torch.zeros(1, dtype=torch.int64)

    def next_epoch(self) -> None:
        """Smooth towards this epoch's mean prediction from now on; call it after the epoch's last batch."""
        self._next_epoch(self.mean_prediction)

    def _accumulate(self, probabilities: Tensor, targets: Tensor) -> None:
        self._prob_sum += probabilities.sum(dim=0)
        self._count += len(probabilities)

    def _noise(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.smoothing * (self.mean_prediction.to(targets.dtype) - targets)


class OnlineLabelSmoothing(_EpochSmoothing):
    r"""Online label smoothing: a class's soft label is its mean correct prediction of the previous epoch.

    With :math:`s_y` the soft label of class y, the loss is α times the cross-entropy with the label plus
    1 − α times that with :math:`s_y`; its noise is :math:`\epsilon = (1-\alpha)(s_y - y)`. The mean runs over
    the training examples of class y that the model classified correctly as it trained on them. In the first
    epoch :math:`s_y` is 1 − ``smoothing`` at y and ``smoothing``/(K − 1) elsewhere. (C.-B. Zhang, P.-T. Jiang,
    Q. Hou, Y. Wei, Q. Han, Z. Li, M.-M. Cheng, "Delving deep into label smoothing", IEEE Transactions on
    Image Processing 30, 2021; the paper's Figure 4; Chapter 1.)

    A class without a correct example in an epoch keeps the soft label it had. Zeros (the public package
    online-label-smoothing-pt) would silently switch the soft loss off for the very classes that the model
    gets wrong; a uniform row (the authors' release) would forget what earlier epochs learned.

    Each call of ``forward`` in training mode takes its predictions into the statistics, so an optimizer that
    evaluates a batch twice (SAM) counts it twice. Under ``torch.distributed`` :meth:`next_epoch` sums them
    over the ranks, and every rank must call it; the loss may be part of the module that DistributedDataParallel wraps.
    A state saved in the middle of an epoch holds the statistics of the rank that saved it alone.

    Args:
        alpha: weight of the hard label in [0, 1]; 1 is plain cross-entropy, Zhang et al. use 0.5.
        n_classes: K.
        smoothing: rate of the first epoch's soft labels, in [0, 1].
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        validate: see :class:`SmoothingLoss`.
        dtype: of the statistics; choose float32 for a device without float64.

    Attributes:
        soft_labels: the soft labels in use, shape (K, K); row y belongs to class y and sums to 1.

    Raises:
        ValueError: if ``alpha`` or ``smoothing`` is outside [0, 1]; by ``forward``, also for labels that are
            probabilities, because "correctly classified" needs a class.
        RuntimeError: by ``forward`` in training mode inside ``torch.nn.DataParallel``.

    Example:
        >>> criterion = OnlineLabelSmoothing(alpha=0.5, n_classes=2, smoothing=0.1)
        >>> logits = torch.tensor([[2.0, 0.0], [4.0, 0.0], [1.0, 0.0]])  # right, right, wrong
        >>> loss = criterion(logits, torch.tensor([0, 0, 1]))
        >>> criterion.next_epoch()
        >>> criterion.soft_labels.float()  # class 1 had no correct example and keeps its row
        tensor([[0.9314, 0.0686],
                [0.1000, 0.9000]])
    """

    soft_labels: Tensor
    _settings = ("alpha", "n_classes", "smoothing")

    def __init__(
        self,
        alpha: float,
        n_classes: int,
        smoothing: float = 0.1,
        *,
        reduction: str = "mean",
        validate: bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(n_classes, reduction, validate, dtype)
        check_rate(alpha, "alpha", include_zero=True)
        check_rate(smoothing, "smoothing", include_zero=True)
        self.alpha = alpha
        self.smoothing = smoothing = float(smoothing)
        soft_labels = torch.full((n_classes, n_classes), smoothing / (n_classes - 1), dtype=dtype)
        self.register_buffer("soft_labels", soft_labels.fill_diagonal_(1 - smoothing))
        self._prob_sum = torch.zeros(n_classes, n_classes, dtype=dtype)
        self._count = torch.zeros(n_classes, 1, dtype=torch.int64)

    def next_epoch(self) -> None:
        """Make this epoch's means the soft labels of the next; call it after the epoch's last batch."""
        self._next_epoch(self.soft_labels)

    def _accumulate(self, probabilities: Tensor, targets: Tensor) -> None:
        classes = targets.argmax(dim=1)
        correct = (probabilities.argmax(dim=1) == classes).unsqueeze(1)
        self._prob_sum.index_add_(0, classes, torch.where(correct, probabilities, 0))
        self._count.index_add_(0, classes, correct.to(self._count.dtype))

    def _noise(self, logits: Tensor, targets: Tensor) -> Tensor:
        soft_labels = self.soft_labels[targets.argmax(dim=1)].to(targets.dtype)
        return (1 - self.alpha) * (soft_labels - targets)

    def _inputs(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(labels, Tensor) and labels.is_floating_point():
            raise ValueError(
                f"labels are {describe(labels)}; online label smoothing needs classes, integers of shape (N,): "
                "pass labels.argmax(dim=1), or use LabelSmoothingLoss"
            )
        return super()._inputs(logits, labels)
