"""From a config to images and labels: the subset, the held-out part, the label errors."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from vlls.data import ImageFiles, ImageStream, load
from vlls.data.corruption import corrupt
from vlls.train._config import RunConfig

__all__ = ["Images", "RunData"]

Labels = npt.NDArray[np.int64]
FILE_IMAGE_SIZE = 224  # height and width in pixels that a network sees of images from files


@dataclass(frozen=True)
class Images:
    """Images with their labels.

    Attributes:
        images: (N, H, W, C) uint8, or files that are read when they are needed.
        given: the labels to train or measure with, (N,) int64.
        clean: the correct labels, (N,), or None if they are unknown.
    """

    images: npt.NDArray[np.uint8] | ImageFiles
    given: Labels
    clean: Labels | None

    def __len__(self) -> int:
        return len(self.given)

    def subset(self, rows: npt.NDArray[np.int64]) -> Images:
        """Return the images with these rows, (M,), in this order."""
        images = self.images.subset(rows) if isinstance(self.images, ImageFiles) else self.images[rows]
        return Images(images, self.given[rows], None if self.clean is None else self.clean[rows])

    def fingerprint(self) -> str:
        """Return sixteen hexadecimal digits of a hash of the given labels and the names of the files, if any.

        The pixels are left out, because every file would have to be read.
        """
        digest = hashlib.sha256(self.given.astype("<i8").tobytes())
        if isinstance(self.images, ImageFiles):
            digest.update(b"\0".join(self.images.paths.tolist()))
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Attributes:
        train: images to train on; some of the given labels may be wrong.
        validation: images held out to choose hyperparameters by, with labels as wrong as those of ``train``; or None.
        test: images with clean labels.
        classes: names of the K classes.
        skipped: number of images that were left out because they have no label.
    """

    train: Images
    validation: Images | None
    test: Images
    classes: tuple[str, ...]
    skipped: int = 0

    @property
    def num_classes(self) -> int:
        """The number K of classes."""
        return len(self.classes)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of the labels, and file names, of each part by its name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: images.fingerprint() for name, images in parts.items() if images is not None}


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed of 63 bits for one purpose of a run, so that no two purposes share their random numbers."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def prepare(config: RunConfig, root: str | os.PathLike[str] | None = None) -> RunData:
    """Load a run's data, draw its subset and corrupt its labels.

    The labels of the whole training set are corrupted before a subset is drawn, in the data set's own order, so that
    they match those of Yu et al. (2019) for this seed.
    """
    data = load(config.dataset, root, labels=config.labels)
    images: npt.NDArray[np.uint8] | ImageFiles
    clean: Labels | None
    if isinstance(data, ImageStream):
        margin = (config.image_size or FILE_IMAGE_SIZE) * 8 // 7  # 256 pixels for crops of 224
        test = Images(data.test.resized(margin), data.test.labels, data.test.labels)
        checked = data.val  # images that the data set holds out itself
        validation = None if checked is None else Images(checked.resized(margin), checked.labels, checked.labels)
        images, labels, skipped = data.train.resized(margin), data.train.labels, sum(data.missing_labels.values())
        # labels of files may be wrong already; they count as correct only if we corrupt them
        clean = labels if config.corruption != "none" else None
    else:
        if config.image_size is not None:
            raise ValueError(
                f"image_size={config.image_size} is for images in files; {data.name}'s have their own, leave it out"
            )
        test, validation = Images(data.test_x, data.test_y, data.test_y), None
        images, labels, clean, skipped = data.train_x, data.train_y, data.clean_train_y, 0
    errors: Any = {"rate": config.rate, "rate_step": config.rate_step, "seed": config.seed}
    given = np.asarray(corrupt(labels, config.corruption, num_classes=data.num_classes, **errors))
    everything = Images(images, given, clean)
    train, held_out = _split(config, len(everything))
    if len(held_out):
        validation = everything.subset(held_out)
    return RunData(everything.subset(train), validation, test, data.classes, skipped)


def _split(config: RunConfig, available: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows of the training images and of the held-out ones."""
    held_out = config.validation_size
    size = available - held_out if config.train_size is None else config.train_size
    if size + held_out > available or size < 1:
        raise ValueError(
            f"train_size={config.train_size} and validation_size={held_out} ask for more than the {available} "
            f"training images of {config.dataset}; choose fewer"
        )
    if size == available:
        return np.arange(available), np.arange(0)
    order = np.random.RandomState(derive_seed(config.seed, "subset") % 2**32).permutation(available)
    return np.sort(order[:size]), np.sort(order[size : size + held_out])
