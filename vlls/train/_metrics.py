"""Measures of a network's predictions."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlls._errors import needs
from vlls._validation import whole_labels
from vlls.noise._checks import check_labels
from vlls.smoothing._base import check_probabilities, describe

__all__ = ["classification_metrics"]

ECE_BINS = 15


@torch.no_grad()
def classification_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the accuracy, negative log-likelihood, expected calibration error and Brier score of predictions.

    The calibration error is torchmetrics' with fifteen bins of equal width, a confidence of 1 in the last; the Brier
    score is the mean over examples of the squared distance between probabilities and one-hot label, in [0, 2].

    Args:
        probabilities: (N, K) float, rows that sum to 1; or (N,) or (N, 1), the probabilities of class 1 of two. They
            may be NaN, as those of a run that diverges are.
        labels: (N,) classes, integers 0 to K - 1.

    Returns:
        ``accuracy``, ``nll`` (nats), ``ece`` and ``brier``.

    Raises:
        ValueError: if there are no predictions, if they are not probabilities (logits, say), or if the labels are not
            classes or differ in number.

    Example:
        >>> metrics = classification_metrics(torch.tensor([[0.8, 0.2], [0.6, 0.4]]), torch.tensor([0, 1]))
        >>> {name: round(value, 4) for name, value in metrics.items()}
        {'accuracy': 0.5, 'nll': 0.5697, 'ece': 0.4, 'brier': 0.4}
    """
    probabilities = _as_rows(torch.as_tensor(probabilities)).float().cpu()
    classes = probabilities.shape[1]
    labels = check_labels(labels, len(probabilities), classes).cpu()
    measures = import_torchmetrics()
    floor = torch.finfo(torch.float32).tiny  # a probability that has underflowed costs 87 nats, not infinity
    # torchmetrics has a bin for 1 alone, and takes rows with more than 1 for logits, by which rounding may pass it
    below = probabilities.clamp(max=1 - torch.finfo(torch.float32).eps / 2)
    ece = measures.multiclass_calibration_error(below, labels, classes, n_bins=ECE_BINS, validate_args=False)
    accuracy = measures.multiclass_accuracy(probabilities, labels, classes, average="micro", validate_args=False)
    return {
        "accuracy": float(accuracy),
        "nll": float(F.nll_loss(probabilities.double().clamp_min(floor).log(), labels)),
        "ece": float(ece),
        "brier": float((probabilities.double() - F.one_hot(labels, classes)).square().sum(dim=1).mean()),
    }


def _as_rows(probabilities: Tensor) -> Tensor:
    """Return predictions as checked probabilities (N, K)."""
    if not probabilities.is_floating_point() or probabilities.ndim not in (1, 2) or probabilities.numel() == 0:
        raise ValueError(
            f"probabilities are {describe(probabilities)}; pass floats of shape (N, K), or (N,) for the probabilities "
            "of class 1 of two, with at least one example"
        )
    outside = (probabilities < 0) | (probabilities > 1 + 1e-4)  # an average may be rounded up
    if bool(outside.any()):
        value = float(probabilities[outside][0])
        raise ValueError(f"probabilities hold {value:g}, outside [0, 1]; pass softmax(...) or sigmoid(...) of logits")
    if probabilities.ndim == 1 or probabilities.shape[1] == 1:
        of_one = probabilities.flatten()
        return torch.stack([1 - of_one, of_one], dim=1)
    known = ~probabilities.isnan().any(dim=1)
    check_probabilities(probabilities[known], probabilities.shape[1], True, "probabilities")
    return probabilities


@cache
def import_torchmetrics() -> Any:
    """Return torchmetrics' functions for classes, without the warning that their import may bring."""
    with warnings.catch_warnings():  # of tqdm, in a notebook without ipywidgets, if transformers is installed
        warnings.filterwarnings("ignore", message="IProgress not found")
        return needs("torchmetrics.functional.classification", "measuring predictions")


@torch.no_grad()
def memorisation(predicted: Tensor, given: Tensor, clean: Tensor) -> dict[str, float]:
    """Return the shares of right and of wrong labels that are predicted, and of wrong ones whose class is."""
    predicted, given, clean = (whole_labels(labels) for labels in (predicted, given, clean))
    wrong = given != clean
    found = {"clean_part_accuracy": _share((predicted == given)[~wrong])}
    if bool(wrong.any()):
        found |= {"memorised": _share((predicted == given)[wrong]), "recovered": _share((predicted == clean)[wrong])}
    return found


def _share(flags: Tensor) -> float:
    return float(flags.double().mean()) if len(flags) else float("nan")
