"""A check for networks that ended at chance, no better than always predicting the most frequent class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlls.train._config import RunConfig

if TYPE_CHECKING:
    from vlls.train._prepare import RunData

ERRORS = 3.0  # standard errors by which an accuracy has to be above chance to count


def label_counts(data: RunData) -> dict[str, int]:
    """Return the counts that :func:`at_chance` needs: of images, and of those with the most frequent label."""
    return {
        "train_images": len(data.train),
        "train_most_frequent": int(np.bincount(data.train.given).max()),
        "test_images": len(data.test),
        "test_most_frequent": int(np.bincount(data.test.given).max()),
    }


def at_chance(counts: Mapping[str, int], epochs: Sequence[Mapping[str, float]]) -> bool:
    """Return whether neither accuracy, on test images or in training, is above the most frequent class's share.

    Both count, because a few test images may not show that a network has learned, and IVON's accuracy in training, at
    noisy weights, may be low although it learns. Records of older versions lack the counts, and are not judged.
    """
    for part in ("train", "test"):
        found = [epoch[f"{part}_accuracy"] for epoch in epochs if epoch.get(f"{part}_accuracy") is not None]
        number, most = counts.get(f"{part}_images"), counts.get(f"{part}_most_frequent")
        if not found or not number or most is None:
            return False
        share = most / number
        if found[-1] > share + ERRORS * math.sqrt(share * (1 - share) / number):
            return False
    return True


def tell_chance(config: RunConfig, counts: Mapping[str, int], epochs: Sequence[Mapping[str, float]]) -> str:
    """Return a sentence about a network that ended at chance, with advice; an empty one if it did not."""
    if not at_chance(counts, epochs):
        return ""
    accuracy = next(epoch["test_accuracy"] for epoch in reversed(epochs) if epoch.get("test_accuracy") is not None)
    share = counts["test_most_frequent"] / counts["test_images"]
    options = "another --lr or more --epochs"
    if (hess_init := config.hess_init) is not None:
        options = f"a larger --hess-init than {hess_init:g} (a narrower posterior), {options}"
    return (
        f"the network ended at chance: it names {100 * accuracy:.2f} % of the test images right, and always naming the "
        f"most frequent class {100 * share:.2f} %; train it again with {options}"
    )
