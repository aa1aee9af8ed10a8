"""What is measured of a network's predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["classification_metrics", "memorisation"]

ECE_BINS = 15


@torch.no_grad()
def classification_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, negative log-likelihood, expected calibration error and Brier score of predictions.

    The calibration error is torchmetrics' with fifteen bins of equal width; the Brier score is the mean over examples
    of the squared distance between probabilities and one-hot label, in [0, 2].

    Args:
        probabilities: (N, K) float, rows that sum to 1.
        labels: (N,) classes.

    Returns:
        ``accuracy``, ``nll`` (nats), ``ece`` and ``brier``.

    Example:
        >>> metrics = classification_metrics(torch.tensor([[0.8, 0.2], [0.6, 0.4]]), torch.tensor([0, 1]))
        >>> {name: round(value, 4) for name, value in metrics.items()}
        {'accuracy': 0.5, 'nll': 0.5697, 'ece': 0.4, 'brier': 0.4}
    """
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

    probabilities, labels = probabilities.float().cpu(), labels.cpu()
    classes = probabilities.shape[1]
    floor = torch.finfo(torch.float32).tiny  # a probability that has underflowed costs 87 nats, not infinity
    one_hot = F.one_hot(labels, classes)
    ece = multiclass_calibration_error(probabilities, labels, classes, n_bins=ECE_BINS, validate_args=False)
    accuracy = multiclass_accuracy(probabilities, labels, classes, average="micro", validate_args=False)
    return {
        "accuracy": float(accuracy),
        "nll": float(F.nll_loss(probabilities.double().clamp_min(floor).log(), labels)),
        "ece": float(ece),
        "brier": float((probabilities.double() - one_hot).square().sum(dim=1).mean()),
    }


@torch.no_grad()
def memorisation(predicted: Tensor, given: Tensor, clean: Tensor) -> dict[str, float]:
    """How the training images with wrong and with right labels are predicted.

    Args:
        predicted: (N,) predicted classes.
        given: (N,) labels that were trained on.
        clean: (N,) correct labels.

    Returns:
        ``clean_part_accuracy``, the share of rightly labelled images predicted as labelled; ``memorised``, the share
        of wrongly labelled ones predicted as the wrong label they were given; ``recovered``, the share of them
        predicted as what they are. The last two only where there are label errors.

    Example:
        >>> memorisation(torch.tensor([0, 1, 1]), given=torch.tensor([0, 1, 0]), clean=torch.tensor([0, 1, 1]))
        {'clean_part_accuracy': 1.0, 'memorised': 0.0, 'recovered': 1.0}
    """
    wrong = given != clean
    found = {"clean_part_accuracy": _share((predicted == given)[~wrong])}
    if bool(wrong.any()):
        found |= {"memorised": _share((predicted == given)[wrong]), "recovered": _share((predicted == clean)[wrong])}
    return found


def _share(flags: Tensor) -> float:
    return float(flags.double().mean()) if len(flags) else float("nan")
