"""Strategies without a memory: the noise of an example follows from its own label and logits."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vlls._validation import is_number
from vlls.smoothing._base import SmoothingLoss, check_not_negative, check_probabilities, describe, readable


class LabelSmoothingLoss(SmoothingLoss):
    r"""Cross-entropy with the labels of Eq. 1, whose noise :math:`\alpha(1/K - y)` is not adaptive.

    The value equals ``F.cross_entropy(logits, labels, label_smoothing=smoothing)`` (Szegedy et al., 2016;
    Chapter 1). A class masked by a logit of -inf is refused unless ``validate=False``; then the loss is finite at a
    rate of 0, if the label is another class, and infinite at other rates, which give the masked class a share.

    A rate below 0 is *negative label smoothing* (J. Wei, H. Liu, T. Liu, G. Niu, M. Sugiyama, Y. Liu, "To smooth or
    not? When label smoothing meets noisy labels", ICML 2022): the given label weighs more than 1 and the others less
    than 0. Symmetric errors of rate r smooth the labels at a = rK/(K - 1) on average, and the rate -a/(1 - a) undoes
    that: -0.8 for 40 % of errors among ten classes. It falls without bound as the errors take over, hence there is no
    lower bound here (Wei et al. try down to -8). Above 1 a label would weigh less than the other classes.
    The loss has no lower bound at negative rates, and wrong labels that are memorised count more: Wei et al. start from
    a network that cross-entropy has trained, and from random weights rates such as -0.8 may not train at all.

    Args:
        smoothing: the rate α, a finite number of at most 1.
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
        if not is_number(smoothing) or not -math.inf < smoothing <= 1:
            raise ValueError(
                f"smoothing={smoothing!r} is not allowed; choose a finite number of at most 1, above which the given "
                "label would weigh less than the other classes"
            )
        self.smoothing = smoothing

    def _noise(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.smoothing * (1 / targets.shape[1] - targets)

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.smoothing != 0:  # every class has a share of the label
            return super()._cross_entropy(logits, targets)
        log_probabilities = logits.log_softmax(dim=1).masked_fill(targets == 0, 0)  # 0 times -inf is to be 0
        return self._reduce(-(log_probabilities * targets).sum(dim=1))


def entropy_rate(logits: Tensor) -> Tensor:
    r"""Return the rate :math:`1 - H(p)/\log K` of each example, (N,), p being the softmax of its (N, K) logits."""
    entropy = torch.special.entr(logits.softmax(dim=1)).sum(dim=1)
    return (1 - entropy / math.log(logits.shape[1])).clamp(0, 1)


class EntropySmoothing(SmoothingLoss):
    r"""Smoothing at a rate set by the entropy of each prediction: more for confident ones (Lee et al., 2022).

    The noise is :math:`\epsilon = \alpha(p)\,(u - y)` with the rate :math:`\alpha(p) = 1 - H(p)/\log K`, which is 0 for
    a uniform prediction, 1 for a one-hot one, and held constant in the gradient. The prior u is uniform, or the
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
            raise ValueError(f"prior is {describe(prior)}; pass softmax(earlier_model(x), dim=1)")
        prior = prior.detach().expand(len(targets), -1) if prior.ndim == 1 else prior.detach()
        check_probabilities(prior, targets.shape[1], self.validate and readable(prior), "prior")
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
    margin (*conditional*), and it need not sum to zero over the classes. The predicted logit is measured from
    zero, so the loss changes when a constant is added to all logits. Formula and defaults follow the
    authors' release, github.com/cvlab-yonsei/ACLS (H. Park, J. Noh, Y. Oh, D. Baek, B. Ham, "ACLS:
    Adaptive and conditional label smoothing for network calibration", ICCV 2023, arXiv:2308.11911;
    Chapter 1).

    Args:
        alpha: weight α of the penalty, not negative.
        margin: M, in units of the logits, not negative.
        pos_weight: λ₁ of the predicted class, not negative.
        neg_weight: λ₂ of the other classes, not negative.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        validate: see :class:`SmoothingLoss`.

    Example:
        >>> logits, labels = torch.tensor([[12.0, 1.0, 3.0]]), torch.tensor([0])
        >>> ACLS(alpha=0.1, margin=10.0).label_noise(logits, labels)
        tensor([[-0.4000,  0.0100,  0.0000]])
    """

    _settings = ("alpha", "margin", "pos_weight", "neg_weight")

    def __init__(
        self,
        alpha: float = 0.1,
        margin: float = 10.0,
        pos_weight: float = 1.0,
        neg_weight: float = 0.1,
        *,
        reduction: str = "mean",
        validate: bool = True,
    ) -> None:
        super().__init__(reduction=reduction, validate=validate)
        check_not_negative(alpha=alpha, margin=margin, pos_weight=pos_weight, neg_weight=neg_weight)
        self.alpha, self.margin, self.pos_weight, self.neg_weight = alpha, margin, pos_weight, neg_weight

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
        excess = F.relu(top - self.margin)
        gaps = F.relu(top.detach().unsqueeze(1) - logits - self.margin)  # zero for the predicted class itself
        return predicted, excess, gaps
