"""The labels that a trained network was trained towards, class by class (Fig. 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlls.noise import label_noise_moments
from vlls.posterior import Posterior
from vlls.train._files import CHECKPOINT, load_checkpoint
from vlls.train._restore import LoadedRun
from vlls.train.methods import METHODS

__all__ = ["smoothed_labels"]

IMAGES = 2000  # at most, the same number of each class where they suffice


def smoothed_labels(loaded: LoadedRun, *, images: int = IMAGES) -> dict[str, Any]:
    r"""The mean smoothed label of the training examples of each class, as a (K, K) table.

    Row c belongs to the examples whose given label is c. For label smoothing (Eq. 1) and online label smoothing (Eqs.
    3-5) a row is the label that the loss takes. For a variational method the label is :math:`y + \epsilon`, where
    :math:`\epsilon` has mean and spread (Eqs. 16, 20): the entries of the other classes are the root mean square of
    :math:`\epsilon`, the noise's size whatever its sign, and the own class has the rest; the mean of
    :math:`\epsilon`, with its sign, is given too. Where the loss smooths as well, its smoothing is added.

    Args:
        loaded: a run whose weights were kept.
        images: largest number of images to average over, for a variational method.

    Returns:
        ``classes``, ``smoothed`` as a list of rows, and for a variational method ``mean_noise``.

    Raises:
        ValueError: for a method that does not smooth labels.
    """
    config, data = loaded.config, loaded.data
    classes = data.num_classes
    found: dict[str, Any] = {"classes": list(data.classes)}
    record = METHODS[config.method]
    if record.smoothed_labels is None and loaded.posterior is None:
        others = [name for name, other in METHODS.items() if other.smoothed_labels is not None or other.variational]
        raise ValueError(f"method={config.method!r} does not smooth labels; choose one of {', '.join(others)}")
    smoothed = torch.eye(classes).double()
    if record.smoothed_labels is not None:
        criterion = record.criterion(config, classes)
        state = load_checkpoint(loaded.folder / CHECKPOINT)["processes"][0]
        criterion.load_state_dict(state["criterion"])
        smoothed = record.smoothed_labels(criterion, classes).double()
    if loaded.posterior is not None:
        noisy, mean = _of_posterior(loaded, loaded.posterior, images)
        smoothed = smoothed + noisy - torch.eye(classes).double()
        found["mean_noise"] = mean.tolist()
    found["smoothed"] = smoothed.tolist()
    return found


def _of_posterior(loaded: LoadedRun, posterior: Posterior, images: int) -> tuple[Tensor, Tensor]:
    """Return two (K, K) tables: smoothed labels with the noise's size in them, and the noise's mean."""
    train = loaded.images("train")
    rows = _evenly(train.given.numpy(), images)
    classes = loaded.data.num_classes
    square, mean = torch.zeros(classes, classes).double(), torch.zeros(classes, classes).double()
    count = torch.zeros(classes).double()
    for at in range(0, len(rows), 250):
        part = rows[at : at + 250]
        noise = label_noise_moments(loaded.model, posterior, train.batch(part.tolist()), method="rank")
        given = train.given[part]
        shift, spread = noise.mean_shift.double().cpu(), noise.std.double().cpu()
        square.index_add_(0, given, shift.square() + spread.square())
        mean.index_add_(0, given, shift)
        count.index_add_(0, given, torch.ones(len(part)).double())
    per_class = count.clamp_min(1)[:, None]
    smoothed = (square / per_class).sqrt().fill_diagonal_(0)
    smoothed += torch.diag(1 - smoothed.sum(dim=1))
    return smoothed, mean / per_class


def _evenly(given: np.ndarray, images: int) -> np.ndarray:
    """Rows of the first images of each class."""
    each = max(1, images // (int(given.max()) + 1))
    return np.sort(np.concatenate([np.flatnonzero(given == label)[:each] for label in np.unique(given)]))
