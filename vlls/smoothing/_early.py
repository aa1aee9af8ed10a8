"""Early-learning regularisation: each example keeps a running mean of its predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vlls._names import check_whole_number
from vlls._validation import is_number
from vlls.smoothing._base import INTEGERS, check_not_negative, describe, readable
from vlls.smoothing._epoch import _LossWithMemory

SMALLEST_GAP = 1e-4


class EarlyLearningRegularization(_LossWithMemory):
    r"""Early-learning regularisation (ELR): cross-entropy that holds predictions to their running average.

    With :math:`t` the running mean of an example's predictions, :math:`t \leftarrow \beta\,t + (1-\beta)\,p` at each
    visit, from 0, the loss of an example is :math:`-\log p_y + \lambda \log(1 - \langle p, t\rangle)`, where t is held
    constant in the gradient. Its noise is

    .. math:: \epsilon = \frac{\lambda}{1 - \langle p, t\rangle}\; p\,(t - \langle p, t\rangle):

    the early prediction for the example, made before the network could memorise wrong labels, is added to its label.
    The noise sums to zero, but a noisy label may exceed 1. (S. Liu, J. Niles-Weed, N. Razavian, C. Fernandez-Granda,
    "Early-learning regularization prevents memorization of noisy labels", NeurIPS 2020.)

    The second term has no lower bound as :math:`\langle p, t\rangle` approaches 1. It is constant from 1 - 1e-4 on; the
    authors' release clips the probabilities to that for the same end.

    In training mode each call of ``forward`` is a visit, so an optimizer that evaluates a batch twice (SAM) visits
    twice. A call holds an example once. If several processes train one network, each calls :meth:`next_epoch` after an
    epoch, to share the means of the examples that it visited: then they learn the same as one process. One process
    alone need not. A state saved in the middle of an epoch holds the visits of the process that saved it.

    Args:
        n_examples: number of training examples N.
        n_classes: K.
        strength: λ, not negative. Liu et al. use 3 on CIFAR-10 and 7 on CIFAR-100.
        decay: β in [0, 1). They use 0.7 and 0.9; for pair flips on CIFAR-10, λ = 1 and β = 0.9.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        validate: see :class:`SmoothingLoss`.

    Attributes:
        running_mean: the means that all processes share, float32 of shape (N, K).

    Raises:
        ValueError: if an argument is not allowed; by ``forward`` and ``label_noise``, also for an ``index`` that is not
            N integers in 0..``n_examples`` - 1.
        RuntimeError: by ``forward`` in training mode inside ``torch.nn.DataParallel``.

    Example:
        >>> criterion = EarlyLearningRegularization(n_examples=50, n_classes=2)
        >>> label, index = torch.tensor([0]), torch.tensor([17])
        >>> for _ in range(5):  # the network predicts the other class
        ...     loss = criterion(torch.tensor([[0.0, 2.0]]), label, index)
        >>> criterion.label_noise(torch.tensor([[0.0, 0.0]]), label, index)  # its target is held to these
        tensor([[-0.5952,  0.5952]])
    """

    running_mean: Tensor
    _settings = ("n_examples", "n_classes", "strength", "decay")

    def __init__(
        self,
        n_examples: int,
        n_classes: int,
        strength: float = 3.0,
        decay: float = 0.7,
        *,
        reduction: str = "mean",
        validate: bool = True,
    ) -> None:
        super().__init__(n_classes, reduction, validate)
        check_whole_number(n_examples, "n_examples", 1)
        check_not_negative(strength=strength)
        if not is_number(decay) or not 0 <= decay < 1:
            raise ValueError(f"decay={decay!r} is outside [0, 1); choose a number in [0, 1)")
        self.n_examples, self.strength, self.decay = n_examples, strength, decay
        self.register_buffer("running_mean", torch.zeros(n_examples, n_classes))
        self._prob_sum = torch.zeros(n_examples, n_classes)  # the running means of the examples of this epoch
        self._count = torch.zeros(n_examples, 1, dtype=torch.int64)  # 1 for those, and 0 for the others

    def forward(self, logits: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the loss and, in training mode, take the predictions into the running means.

        Args:
            logits: floats of shape (N, K).
            labels: classes, integers of shape (N,), or probabilities, floats of shape (N, K).
            index: of each example among the training examples, integers of shape (N,).
        """
        logits, targets = self._inputs(logits, labels)
        index = self._checked(index, logits)
        p = logits.softmax(dim=1)
        mean = self._next_mean(p.detach(), index)
        if self.training:
            self._prob_sum[index] = mean.to(self._prob_sum.dtype)
            self._count[index] = 1
        gap = (p * (1 - mean)).sum(dim=1).clamp(min=SMALLEST_GAP)  # 1 - <p, t>, without its cancellation
        return self._reduce(F.cross_entropy(logits, targets, reduction="none") + self.strength * gap.log())

    @torch.no_grad()
    def label_noise(self, logits: Tensor, labels: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the noise that a visit now would add to the labels, shape (N, K); arguments as in :meth:`forward`."""
        return self._noise(*self._inputs(logits, labels), index)

    def next_epoch(self) -> None:
        """Give all processes the running means of the examples that each visited; call it after the last batch."""
        self._next_epoch(self.running_mean)

    def _noise(self, logits: Tensor, targets: Tensor, index: Tensor | None = None) -> Tensor:
        p = logits.softmax(dim=1)
        mean = self._next_mean(p, self._checked(index, logits))
        gap = (p * (1 - mean)).sum(dim=1, keepdim=True)
        noise = self.strength * p * (gap - (1 - mean)) / gap
        return torch.where(gap >= SMALLEST_GAP, noise, 0)

    def _next_mean(self, p: Tensor, index: Tensor) -> Tensor:
        """Return the running means after a visit with these predictions (N, K)."""
        mean = torch.where(self._count[index] > 0, self._prob_sum[index], self.running_mean[index])
        return self.decay * mean.to(p.dtype) + (1 - self.decay) * p

    def _checked(self, index: Tensor | None, logits: Tensor) -> Tensor:
        if not isinstance(index, Tensor) or index.dtype not in INTEGERS or tuple(index.shape) != (len(logits),):
            raise ValueError(
                f"index is {describe(index)}; pass the examples' places among the training examples, integers of "
                f"shape ({len(logits)},)"
            )
        index = index.long()
        if self.validate and readable(index) and bool(((index < 0) | (index >= self.n_examples)).any()):
            raise ValueError(
                f"index lies in {int(index.min())}..{int(index.max())}, outside 0..{self.n_examples - 1}; make the "
                "loss with n_examples, the number of training examples"
            )
        return index
