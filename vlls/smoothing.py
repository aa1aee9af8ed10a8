r"""Label smoothing and the adaptive strategies of Section 2, each stated as the noise it adds to the label.

A strategy replaces the label :math:`y_i` by :math:`y_i + \epsilon_{i|t}` (Eq. 2). For the four whose noise
sums to zero the loss *is* the cross-entropy with that label, so a class here needs to state its noise and
nothing else:

================================  ==================================  ==================================
loss                              noise ε                             adapts to
================================  ==================================  ==================================
:class:`LabelSmoothingLoss`       α (1/K − y)                         nothing (Eq. 1)
:class:`MeanPredictionSmoothing`  α (ū − y)                           mean prediction (Eqs. 3-5)
:class:`OnlineLabelSmoothing`     (1 − α) (s_y − y)                   mean correct prediction of class y
:class:`EntropySmoothing`         (1 − H(p)/log K) (u − y)            entropy of the prediction
:class:`ACLS`                     linear in the logits past a margin  logits
================================  ==================================  ==================================

Sign, here and everywhere in ``vlls``: the gradient of the summed loss with respect to the logits is
``softmax(logits) - (labels + noise)``. Chapter 1 of the book shows the strategies side by side.

>>> logits = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
>>> LabelSmoothingLoss(0.2).label_noise(logits, torch.tensor([0]))
tensor([[-0.1500,  0.0500,  0.0500,  0.0500]])
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Integral
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from vlls._validation import check_rate

__all__ = [
    "ACLS",
    "EntropySmoothing",
    "LabelSmoothingLoss",
    "MeanPredictionSmoothing",
    "OnlineLabelSmoothing",
    "SmoothingLoss",
    "entropy_rate",
    "smooth_labels",
]

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


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
    _check_num_classes(num_classes, "num_classes")
    probabilities = _as_probabilities(labels, num_classes)
    return (1 - smoothing) * probabilities + smoothing / num_classes


def entropy_rate(logits: Tensor) -> Tensor:
    r"""Return the smoothing rate :math:`1 - H(p)/\log K` of each example, p being the softmax of its logits.

    This is the rate of Lee et al. (2022): 0 for a uniform prediction, which needs no smoothing, and 1 for a
    one-hot prediction (Chapter 1).

    Args:
        logits: floats of shape (N, K), K at least 2.

    Returns:
        Rates in [0, 1], shape (N,), the dtype of ``logits``.

    Raises:
        ValueError: if ``logits`` are not floats of shape (N, K).

    Example:
        >>> entropy_rate(torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -99.0, -99.0], [99.0, 0, 0, 0]]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    _check_logits(logits)
    entropy = torch.special.entr(logits.softmax(dim=1)).sum(dim=1)
    return (1 - entropy / math.log(logits.shape[1])).clamp(0, 1)


class SmoothingLoss(nn.Module, ABC):
    r"""Cross-entropy with the labels :math:`y + \epsilon` of Eq. 2; a subclass says what :math:`\epsilon` is.

    Half-precision logits (autocast) are raised to float32 first; loss and noise come back as float32.

    Args:
        reduction: ``"mean"`` or ``"sum"`` over the N examples, or ``"none"`` for a loss of shape (N,).
        validate: check the values of logits and labels at every call. On an accelerator a check waits for the
            device: switch it off in a tight loop. ``torch.compile`` and CUDA graph capture skip it.

    Raises:
        ValueError: by ``forward`` and ``label_noise``, for logits that are not floats of shape (N, K) or hold
            a NaN, and labels that are neither classes in 0..K-1, integers of shape (N,), nor probabilities,
            floats of shape (N, K).
    """

    _settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, reduction: str = "mean", validate: bool = True) -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction={reduction!r} is unknown; choose 'mean', 'sum' or 'none'")
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
        _check_logits(logits)
        validate = self.validate and _readable(logits)
        if validate and bool(logits.isnan().any()):
            rows = logits.isnan().any(dim=1).nonzero().flatten()
            raise ValueError(
                f"logits hold NaN in {len(rows)} of {len(logits)} rows (the first is row {int(rows[0])}); the model "
                "has diverged: lower the learning rate, or pass validate=False to let NaN through"
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


class LabelSmoothingLoss(SmoothingLoss):
    r"""Cross-entropy with the labels of Eq. 1, whose noise :math:`\alpha(1/K - y)` is not adaptive.

    The value is that of ``F.cross_entropy(logits, labels, label_smoothing=smoothing)`` (Szegedy et al., 2016;
    Chapter 1).

    Args:
        smoothing: the rate α in [0, 1].
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        validate: see :class:`SmoothingLoss`.

    Example:
        >>> logits, labels = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1])
        >>> LabelSmoothingLoss(0.1)(logits, labels)
        tensor(0.2809)
    """

    _settings = ("smoothing",)

    def __init__(self, smoothing: float, *, reduction: str = "mean", validate: bool = True) -> None:
        super().__init__(reduction=reduction, validate=validate)
        check_rate(smoothing, "smoothing", include_zero=True)
        self.smoothing = smoothing

    def _noise(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.smoothing * (1 / targets.shape[1] - targets)


class EntropySmoothing(SmoothingLoss):
    r"""Smoothing at a rate set by the entropy of each prediction: more for confident ones (Lee et al., 2022).

    The noise is :math:`\epsilon = \alpha(p)\,(u - y)` with the rate :math:`\alpha(p) = 1 - H(p)/\log K` of
    :func:`entropy_rate`, which is held constant in the gradient. The prior u is uniform, or the
    self-knowledge of the paper: the prediction of an earlier, better-generalising checkpoint of the same
    model (D. Lee, K. C. Cheung, N. L. Zhang, "Adaptive label smoothing with self-knowledge in natural
    language generation", EMNLP 2022; Chapter 1).

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        validate: see :class:`SmoothingLoss`.

    Example:
        >>> logits, labels = torch.tensor([[9.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 0])
        >>> EntropySmoothing().label_noise(logits, labels)  # the confident prediction gets more
        tensor([[-0.4991,  0.4991],
                [-0.0219,  0.0219]])
        >>> past = torch.tensor([[0.8, 0.2], [0.6, 0.4]])
        >>> EntropySmoothing().label_noise(logits, labels, prior=past)
        tensor([[-0.1996,  0.1996],
                [-0.0175,  0.0175]])
    """

    def forward(self, logits: Tensor, labels: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            logits: floats of shape (N, K).
            labels: classes, integers of shape (N,), or probabilities, floats of shape (N, K).
            prior: probabilities to smooth towards, floats of shape (N, K) or (K,); uniform unless given.
        """
        logits, targets = self._inputs(logits, labels)
        prior = self._prior(prior, targets)
        return self._cross_entropy(logits, targets + self._noise(logits.detach(), targets, prior))

    @torch.no_grad()
    def label_noise(self, logits: Tensor, labels: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return the noise added to the labels, shape (N, K); arguments as in :meth:`forward`."""
        logits, targets = self._inputs(logits, labels)
        return self._noise(logits, targets, self._prior(prior, targets))

    def _noise(self, logits: Tensor, targets: Tensor, prior: Tensor | float | None = None) -> Tensor:
        prior = 1 / targets.shape[1] if prior is None else prior
        return entropy_rate(logits).unsqueeze(1) * (prior - targets)

    def _prior(self, prior: Tensor | None, targets: Tensor) -> Tensor | None:
        if prior is None:
            return None
        if not isinstance(prior, Tensor) or prior.ndim not in (1, 2):
            raise ValueError(f"prior is {_describe(prior)}; pass softmax(earlier_model(x), dim=1)")
        prior = prior.detach().expand(len(targets), -1) if prior.ndim == 1 else prior.detach()
        _check_probabilities(prior, targets.shape[1], self.validate and _readable(prior), "prior")
        if len(prior) != len(targets):
            raise ValueError(f"{len(targets)} labels meet {len(prior)} rows of prior; pass one row for each label")
        return prior.to(targets.dtype)


class ACLS(SmoothingLoss):
    r"""Cross-entropy plus a penalty on large logits; its noise is linear in the logits (Park et al., 2023).

    With :math:`\hat y` the predicted class, M the margin and :math:`[\cdot]_+` the positive part, the loss of
    an example is

    .. math::

        -\sum_k y_k \log \mathcal S_k[f] + \alpha\Big(\lambda_1\,[f_{\hat y} - M]_+^2
            + \frac{\lambda_2}{K-1} \sum_{j \ne \hat y}[f_{\hat y} - f_j - M]_+^2\Big),

    where the second sum holds :math:`f_{\hat y}` constant. Its noise is
    :math:`-2\alpha\lambda_1[f_{\hat y} - M]_+` for the predicted class, falling linearly as its logit grows,
    and :math:`2\alpha\lambda_2[f_{\hat y} - f_j - M]_+/(K-1)` for the others: zero until a logit passes the
    margin (*conditional*), and it need not sum to zero over the classes. Formula and defaults are those of
    the authors' release, github.com/cvlab-yonsei/ACLS (H. Park, J. Noh, Y. Oh, D. Baek, B. Ham, "ACLS:
    Adaptive and conditional label smoothing for network calibration", ICCV 2023, arXiv:2308.11911;
    Chapter 1).

    Args:
        alpha: weight α of the penalty, not negative.
        margin: M, in units of the logits, not negative.
        pos_weight: λ₁ of the predicted class, not negative.
        neg_weight: λ₂ of the other classes, not negative.
        shift_invariant: measure the predicted logit from the smallest one,
            :math:`[f_{\hat y} - \min_k f_k - M]_+^2` with the minimum held constant. Like the cross-entropy,
            the loss then ignores a constant added to all logits; the authors' release measures from zero.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        validate: see :class:`SmoothingLoss`.

    Example:
        >>> logits, labels = torch.tensor([[12.0, 1.0, 3.0]]), torch.tensor([0])
        >>> ACLS(alpha=0.1, margin=10.0).label_noise(logits, labels)
        tensor([[-0.4000,  0.0100,  0.0000]])
    """

    _settings = ("alpha", "margin", "pos_weight", "neg_weight", "shift_invariant")

    def __init__(
        self,
        alpha: float = 0.1,
        margin: float = 10.0,
        pos_weight: float = 1.0,
        neg_weight: float = 0.1,
        *,
        shift_invariant: bool = False,
        reduction: str = "mean",
        validate: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, validate=validate)
        settings = {"alpha": alpha, "margin": margin, "pos_weight": pos_weight, "neg_weight": neg_weight}
        for name, value in settings.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value!r} is not allowed; choose a finite number that is 0 or more")
        self.alpha, self.margin, self.pos_weight, self.neg_weight = alpha, margin, pos_weight, neg_weight
        self.shift_invariant = shift_invariant

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; arguments as in :meth:`SmoothingLoss.forward`."""
        logits, targets = self._inputs(logits, labels)
        _, excess, gaps = self._beyond_margin(logits)
        others = gaps.square().sum(dim=1) / (logits.shape[1] - 1)
        penalty = self.pos_weight * excess.square() + self.neg_weight * others
        return self._reduce(F.cross_entropy(logits, targets, reduction="none") + self.alpha * penalty)

    def _noise(self, logits: Tensor, targets: Tensor) -> Tensor:
        predicted, excess, gaps = self._beyond_margin(logits)
        others = 2 * self.alpha * self.neg_weight / (logits.shape[1] - 1) * gaps
        top = -2 * self.alpha * self.pos_weight * excess
        return others.scatter_add(1, predicted.unsqueeze(1), top.unsqueeze(1))

    def _beyond_margin(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the predicted class (N,), its logit's excess (N,) and the others' gaps (N, K) over the margin."""
        top, predicted = logits.max(dim=1)
        origin = logits.min(dim=1).values.detach() if self.shift_invariant else 0.0
        excess = F.relu(top - origin - self.margin)
        gaps = F.relu(top.detach().unsqueeze(1) - logits - self.margin)  # zero for the predicted class itself
        return predicted, excess, gaps


class _EpochSmoothing(SmoothingLoss):
    """What the two strategies share that learn from one epoch's predictions the labels of the next.

    Everything that changes is a buffer, changed in place and without reading a value: ``state_dict`` resumes
    in the middle of an epoch, ``.to(device)`` moves it, and a CUDA graph can capture the step.
    """

    _prob_sum: Tensor
    _count: Tensor

    def __init__(self, n_classes: int, reduction: str, validate: bool) -> None:
        super().__init__(reduction=reduction, validate=validate)
        _check_num_classes(n_classes, "n_classes")
        self.n_classes = n_classes

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss and, in training mode, take the predictions into the statistics of this epoch."""
        logits, targets = self._inputs(logits, labels)
        if self.training:
            with torch.no_grad():
                self._accumulate(logits.softmax(dim=1).to(self._prob_sum.dtype), targets)
        return self._cross_entropy(logits, targets + self._noise(logits.detach(), targets))

    @torch.no_grad()
    def _next_epoch(self, current: Tensor) -> None:
        """Replace ``current`` by the epoch's means, where there are any, and start the statistics anew."""
        if dist.is_available() and dist.is_initialized():  # every rank must train on the same labels
            dist.all_reduce(self._prob_sum)
            dist.all_reduce(self._count)
        means = self._prob_sum / self._count.clamp(min=1)
        current.copy_(torch.where(self._count > 0, means, current))
        self._prob_sum.zero_()
        self._count.zero_()

    def _inputs(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
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

    @abstractmethod
    def _accumulate(self, probabilities: Tensor, targets: Tensor) -> None:
        """Add a batch's predictions (N, K) to the statistics."""


class MeanPredictionSmoothing(_EpochSmoothing):
    r"""Smoothing towards the mean prediction of the previous epoch (Eqs. 3-5; Chapter 1).

    The noise is :math:`\epsilon = \alpha(\bar u - y)` as the paper's Section 2 prints it: one :math:`\bar u`
    for all classes, the mean of the softmax over *all* examples of the previous epoch; uniform in the first
    epoch, which is then Eq. 1. The methods that the section cites for it do more: Zhang et al. (2021) keep
    one mean for each class over its correct predictions (:class:`OnlineLabelSmoothing`), and Ko et al. (2023,
    "A gift from label smoothing", AAAI) set the rate of each example from a running average of its own
    predictions, on auxiliary classifiers.

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
        super().__init__(n_classes, reduction, validate)
        check_rate(smoothing, "smoothing", include_zero=True)
        self.smoothing = smoothing
        self.register_buffer("mean_prediction", torch.full((n_classes,), 1 / n_classes, dtype=dtype))
        self.register_buffer("_prob_sum", torch.zeros(n_classes, dtype=dtype))
        self.register_buffer("_count", torch.zeros(1, dtype=torch.int64))

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
    over the ranks, and every rank must call it.

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
        super().__init__(n_classes, reduction, validate)
        check_rate(alpha, "alpha", include_zero=True)
        check_rate(smoothing, "smoothing", include_zero=True)
        self.alpha = alpha
        self.smoothing = smoothing
        soft_labels = torch.full((n_classes, n_classes), smoothing / (n_classes - 1), dtype=dtype)
        self.register_buffer("soft_labels", soft_labels.fill_diagonal_(1 - smoothing))
        self.register_buffer("_prob_sum", torch.zeros(n_classes, n_classes, dtype=dtype))
        self.register_buffer("_count", torch.zeros(n_classes, 1, dtype=torch.int64))

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
                f"labels are {_describe(labels)}; online label smoothing needs classes, integers of shape (N,): "
                "pass labels.argmax(dim=1), or use LabelSmoothingLoss"
            )
        return super()._inputs(logits, labels)


def _as_probabilities(labels: Tensor, num_classes: int, validate: bool = True) -> Tensor:
    """Return integer classes (N,) or probabilities (N, K) as checked probabilities (N, K)."""
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels are {_describe(labels)}; pass a tensor: torch.as_tensor(labels)")
    validate = validate and _readable(labels)
    if labels.dtype not in _INTEGERS:
        _check_probabilities(labels, num_classes, validate, "labels")
        return labels
    if labels.ndim != 1:
        raise ValueError(f"labels are {_describe(labels)}; pass classes as integers of shape (N,)")
    if validate and bool(((labels < 0) | (labels >= num_classes)).any()):
        raise ValueError(
            f"labels lie in {int(labels.min())}..{int(labels.max())}, outside 0..{num_classes - 1}; "
            f"number the {num_classes} classes from 0, or drop those examples"
        )
    return F.one_hot(labels.long(), num_classes).to(torch.get_default_dtype())


def _check_probabilities(values: Tensor, num_classes: int, validate: bool, name: str) -> None:
    """Raise a ValueError unless the rows of ``values`` (N, K) are probabilities."""
    if not values.is_floating_point() or values.ndim != 2 or values.shape[1] != num_classes:
        raise ValueError(
            f"{name} of dtype {_name(values.dtype)} and shape {tuple(values.shape)} cannot be used; pass "
            f"probabilities as floats of shape (N, {num_classes})"
            + (", or classes as integers of shape (N,)" if name == "labels" else "")
        )
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


def _check_logits(logits: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits are {_describe(logits)}; pass floats of shape (N, K), a row for each example")
    _check_num_classes(logits.shape[1], "the number of columns of logits")


def _check_num_classes(value: int, name: str) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 2:
        raise ValueError(f"{name} is {value!r}; pass the number of classes, an integer of 2 or more")


def _readable(tensor: Tensor) -> bool:
    """Tell whether values may be read: not while torch.compile traces or a CUDA graph is being captured."""
    if torch.compiler.is_compiling():
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"of dtype {_name(value.dtype)} and shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
