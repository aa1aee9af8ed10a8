"""Class probabilities in any form, and the confident joint of the examples that have a label."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlls.label_errors._given import MISSING, Classes, given_labels
from vlls.label_errors._scores import Floats, confident_class, count_pairs
from vlls.smoothing._base import check_probabilities, describe


def checked_probabilities(probabilities: Any) -> Floats:
    """Return an array (N,), (N, K) or (S, N, K) as (S, N, K), after checking that it holds probabilities."""
    p = torch.as_tensor(probabilities if isinstance(probabilities, Tensor) else np.array(probabilities)).detach().cpu()
    if not p.is_floating_point() or p.ndim not in (1, 2, 3) or p.numel() == 0:
        raise ValueError(
            f"probabilities are {describe(p)}; pass floats of shape (N, K), (S, N, K) for S draws, or (N,) for the "
            "probabilities of class 1 of two, with at least one example"
        )
    dtype = p.dtype
    p = p if p.dtype == torch.float64 else p.float()
    if p.ndim == 1 or p.shape[-1] == 1:
        p = torch.stack([1 - (of_one := p if p.ndim == 1 else p[..., 0]), of_one], dim=-1)
    p = p if p.ndim == 3 else p[None]
    if dtype in (torch.float16, torch.bfloat16):  # each was rounded, so that their sum is off by as much
        total = p.sum(dim=-1, keepdim=True)
        p = torch.where((total - 1).abs() <= torch.finfo(dtype).eps, p / total, p)
    rows = p.flatten(0, 1)
    check_probabilities(rows[~rows.isnan().all(dim=1)], p.shape[2], True, "probabilities")
    return p.numpy()


def judged(probabilities: Any, labels: Any) -> tuple[Floats, Classes]:
    """Return probabilities (n, K) and labels (n,) of the examples that have both."""
    samples = checked_probabilities(probabilities)
    given = given_labels(labels, samples.shape)
    p = samples.mean(axis=0)
    rows = (given != MISSING) & ~np.isnan(p).any(axis=1)
    if not rows.any():
        raise ValueError("no example has both a label and a prediction; pass at least one")
    return p[rows], given[rows]


def confident_joint(probabilities: Any, labels: Any, *, calibrated: bool = False) -> npt.NDArray[Any]:
    """Return the confident joint of given and probable labels (Northcutt et al., 2021).

    Args:
        probabilities: as :func:`label_errors_from_probabilities` takes them.
        labels: the given labels, whole numbers, -1 for a missing one.
        calibrated: return an estimate of the joint distribution, which sums to 1, instead of counts: each row is
            scaled to the number of examples with that label.

    Returns:
        (K, K); row i and column j are of examples that are labelled i and seem to be of class j. Off the diagonal
        stand labels that may be wrong.

    Raises:
        ValueError: as :func:`label_errors_from_probabilities` does.

    Example:
        >>> p = [[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.3, 0.7], [0.9, 0.1]]
        >>> confident_joint(p, [0, 0, 1, 1, 1])
        array([[1, 0],
               [1, 2]])
    """
    p, given = judged(probabilities, labels)
    joint = count_pairs(given, confident_class(p, given), p.shape[1])
    if not calibrated:
        return joint
    counts = np.bincount(given, minlength=p.shape[1])
    filled = np.where(joint.sum(axis=1, keepdims=True) > 0, joint, np.eye(p.shape[1]))  # no example is confident
    return filled / filled.sum(axis=1, keepdims=True) * (counts / counts.sum())[:, None]
