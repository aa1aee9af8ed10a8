"""From a config to images and labels: the subset, the held-out part, the label errors."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vlls.data import ImageArrays, ImageFiles, ImageStream, load
from vlls.data.corruption import corrupt
from vlls.train._config import RunConfig

__all__ = ["FILE_IMAGE_SIZE", "Images", "RunData", "derive_seed", "prepare"]

Labels = npt.NDArray[np.int64]
FILE_IMAGE_SIZE = 224
"""Height and width in pixels that a network sees of images from files."""


@dataclass(frozen=True)
class Images:
    """Images with their labels.

    Attributes:
        images: (N, H, W, C) uint8, or files that are read when they are needed.
        given: the labels to train or measure with, (N,) int64.
        clean: the correct labels, (N,), or None if nobody knows them.
    """

    images: npt.NDArray[np.uint8] | ImageFiles
    given: Labels
    clean: Labels | None

    def __len__(self) -> int:
        return len(self.given)

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
        """K."""
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
    they are those of Yu et al. (2019) for this seed.

    Args:
        config: what to train on.
        root: where data are, as :func:`.load` takes it.

    Raises:
        ValueError: if the data cannot be had, or are fewer than the config asks for.
    """
    data = load(config.dataset, root, labels=config.labels)
    if isinstance(data, ImageStream):
        return _of_stream(config, data)
    if config.image_size is not None:
        raise ValueError(
            f"image_size={config.image_size} is for images in files; {data.name}'s have their own, leave it out"
        )
    return _of_arrays(config, data)


def _of_arrays(config: RunConfig, data: ImageArrays) -> RunData:
    given = _corrupted(config, data.train_y, data.num_classes)
    train, held_out = _split(config, len(given))

    def part(rows: npt.NDArray[np.int64]) -> Images:
        return Images(data.train_x[rows], given[rows], data.clean_train_y[rows])

    return RunData(
        train=part(train),
        validation=part(held_out) if len(held_out) else None,
        test=Images(data.test_x, data.test_y, data.test_y),
        classes=data.classes,
        skipped=0,
    )


def _of_stream(config: RunConfig, data: ImageStream) -> RunData:
    given = _corrupted(config, data.train.labels, data.num_classes)
    # the labels of files are as they are found: right only where the corruption is ours
    clean = data.train.labels if config.corruption != "none" else None
    train, held_out = _split(config, len(given))
    margin = (config.image_size or FILE_IMAGE_SIZE) * 8 // 7  # 256 pixels for crops of 224

    def part(rows: npt.NDArray[np.int64]) -> Images:
        files = data.train.subset(rows).resized(margin)
        return Images(files, given[rows], None if clean is None else clean[rows])

    def checked(files: ImageFiles) -> Images:
        return Images(files.resized(margin), files.labels, files.labels)

    validation = part(held_out) if len(held_out) else None
    if validation is None and data.val is not None:
        validation = checked(data.val)
    return RunData(part(train), validation, checked(data.test), data.classes, sum(data.missing_labels.values()))


def _corrupted(config: RunConfig, labels: Labels, num_classes: int) -> Labels:
    return np.asarray(
        corrupt(
            labels,
            config.corruption,
            rate=config.rate,
            rate_step=config.rate_step,
            num_classes=num_classes,
            seed=config.seed,
        )
    )


def _split(config: RunConfig, available: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the training images and of the held-out ones."""
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
