"""Losses made for wrong labels: they trust a label as far as the model agrees with it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vlls._validation import is_number
from vlls.smoothing._base import SmoothingLoss, check_not_negative


class GeneralizedCrossEntropy(SmoothingLoss):
    r"""Generalised cross-entropy (GCE), :math:`(1 - p_y^q)/q`: between cross-entropy and absolute error.

    It tends to the cross-entropy as q falls to 0, and is half the absolute error :math:`\|y - p\|_1` at q = 1. Its
    noise is :math:`\epsilon = (1 - p_y^q)(p - y)`: the noisy label is a mean of the label and the model's own
    prediction, :math:`p_y^q\, y + (1 - p_y^q)\, p`, and the less the model believes the label, the less the label
    counts. A label of probabilities has the mean of the losses of its classes. (Z. Zhang, M. R. Sabuncu, "Generalized
    cross entropy loss for training deep neural networks with noisy labels", NeurIPS 2018. Their truncated loss, which
    prunes examples between rounds of training, is left out.)

    Args:
        q: the exponent in (0, 1]; Zhang and Sabuncu use 0.7.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        validate: see :class:`SmoothingLoss`.

    Raises:
        ValueError: if ``q`` is outside (0, 1].

    Example:
        >>> logits, labels = torch.tensor([[0.0, 3.0], [0.0, 3.0]]), torch.tensor([0, 1])
        >>> GeneralizedCrossEntropy().label_noise(logits, labels)  # the model doubts the first label
        tensor([[-0.8398,  0.8398],
                [ 0.0016, -0.0016]])
    """

    _settings = ("q",)

    def __init__(self, q: float = 0.7, *, reduction: str = "mean", validate: bool = True) -> None:
        super().__init__(reduction=reduction, validate=validate)
        if not is_number(q) or not 0 < q <= 1:
            raise ValueError(f"q={q!r} is outside (0, 1]; choose a number in (0, 1], or cross-entropy, its limit at 0")
        self.q = q

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; arguments as in :meth:`SmoothingLoss.forward`."""
        logits, targets = self._inputs(logits, labels)
        gains = torch.expm1(self.q * logits.log_softmax(dim=1)) / self.q  # finite where a probability is 0
        return self._reduce(-(targets * gains).sum(dim=1))

    def _noise(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_probabilities = logits.log_softmax(dim=1)
        kept = targets * (self.q * log_probabilities).exp()
        return (1 - kept.sum(dim=1, keepdim=True)) * log_probabilities.exp() - (targets - kept)


class SymmetricCrossEntropy(SmoothingLoss):
    r"""Symmetric cross-entropy (SCE): α times the cross-entropy plus β times that of the label under the prediction.

    The second term is :math:`-\sum_k p_k \log y_k`, where log 0 is the number A: :math:`-A(1 - p_y)` for a class, which
    no single wrong label pulls far. With the weight :math:`w = \alpha - \beta A\,p_y` the noise is
    :math:`\epsilon = (1 - w)(p - y)`. Below w = 1 it moves the label towards the prediction, as
    :class:`GeneralizedCrossEntropy` does; above, where the model agrees with the label, away from it. For a label of
    probabilities it is :math:`(1-\alpha)(p - y) + \beta\, p\,(\ell - \langle p, \ell\rangle)` with
    :math:`\ell = \max(\log y, A)`. (Y. Wang, X. Ma, Z. Chen, Y. Luo, J. Yi, J. Bailey, "Symmetric cross entropy for
    robust learning with noisy labels", ICCV 2019.)

    Args:
        ce_weight: α, not negative. Wang et al. use 0.1 on CIFAR-10, 6 on CIFAR-100 and 0.01 on MNIST.
        rce_weight: β, not negative. They use 1, 0.1 on CIFAR-100.
        log_zero: A, below 0. Only βA matters if labels are classes. The authors' release raises the label to 1e-4
            instead, so its A is -9.2.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        validate: see :class:`SmoothingLoss`.

    Raises:
        ValueError: if a weight is negative or infinite, or ``log_zero`` is not a finite number below 0.

    Example:
        >>> logits, labels = torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0])
        >>> SymmetricCrossEntropy().label_noise(logits, labels)  # w = 2.1 and 0.1
        tensor([[ 0.5500, -0.5500],
                [-0.8994,  0.8994]])
    """

    _settings = ("ce_weight", "rce_weight", "log_zero")

    def __init__(
        self,
        ce_weight: float = 0.1,
        rce_weight: float = 1.0,
        log_zero: float = -4.0,
        *,
        reduction: str = "mean",
        validate: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, validate=validate)
        check_not_negative(ce_weight=ce_weight, rce_weight=rce_weight)
        if not is_number(log_zero) or not -math.inf < log_zero < 0:
            raise ValueError(f"log_zero={log_zero!r} is not allowed; choose a finite number below 0, such as -4")
        self.ce_weight, self.rce_weight, self.log_zero = ce_weight, rce_weight, log_zero

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss; arguments as in :meth:`SmoothingLoss.forward`."""
        logits, targets = self._inputs(logits, labels)
        reverse = -(logits.softmax(dim=1) * self._log(targets)).sum(dim=1)
        forward = F.cross_entropy(logits, targets, reduction="none")
        return self._reduce(self.ce_weight * forward + self.rce_weight * reverse)

    def _noise(self, logits: Tensor, targets: Tensor) -> Tensor:
        p, log_targets = logits.softmax(dim=1), self._log(targets)
        pulls = p * (log_targets - (p * log_targets).sum(dim=1, keepdim=True))
        return (1 - self.ce_weight) * (p - targets) + self.rce_weight * pulls

    def _log(self, targets: Tensor) -> Tensor:
        return targets.log().clamp(min=self.log_zero)
