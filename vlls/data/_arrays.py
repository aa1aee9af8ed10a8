"""Images small enough to hold in memory: the arrays, their checks, and the arrays file."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlls._errors import DataError, MissingDataError, needs, reading
from vlls.data._known import Dataset

__all__ = ["ImageArrays"]

_TRAIN_DIGITS = 1437  # of 1797: four of five


@dataclass(frozen=True, eq=False, repr=False)
class ImageArrays:
    """A data set of images in memory.

    Args:
        name: of the data set.
        train_x: training images, uint8 of shape (N, H, W, C) with 1 or 3 channels.
        train_y: their labels, int64 of shape (N,), 0 to K - 1.
        test_x: test images, uint8 of shape (M, H, W, C).
        test_y: their labels, int64 of shape (M,).
        classes: the K class names, in the order of the labels.
        clean_train_y: correct labels of the training images, int64 of shape (N,). They are ``train_y`` unless
            that holds labels with errors.

    Raises:
        ValueError: if an array has another dtype or shape, is empty, or holds labels outside 0 to K - 1.

    Example:
        >>> images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1])
        >>> ImageArrays("squares", images, labels, images[:2], labels[:2], ("black", "white"), labels)
        ImageArrays(name='squares', train=4, test=2, image=2x2x1, classes=2)
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: tuple[str, ...]
    clean_train_y: np.ndarray

    def __post_init__(self) -> None:
        for split, labels in (("train", "train_y"), ("train", "clean_train_y"), ("test", "test_y")):
            _check_images(getattr(self, f"{split}_x"), f"{self.name}: {split}_x")
            _check_labels(getattr(self, labels), f"{self.name}: {labels}", len(getattr(self, f"{split}_x")), self)
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            raise DataError(
                f"{self.name}: train_x holds images of shape {self.train_x.shape[1:]} and test_x of shape "
                f"{self.test_x.shape[1:]}; make both the same"
            )

    @property
    def num_classes(self) -> int:
        """The number K of classes."""
        return len(self.classes)

    def __repr__(self) -> str:
        image = "x".join(map(str, self.train_x.shape[1:]))
        sizes = f"train={len(self.train_x)}, test={len(self.test_x)}, image={image}, classes={self.num_classes}"
        return f"ImageArrays(name={self.name!r}, {sizes})"


def _check_images(images: Any, name: str) -> None:
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        dtype = getattr(images, "dtype", type(images).__name__)
        raise DataError(f"{name} is {dtype}; images must be uint8, 0 to 255")
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(f"{name} has shape {images.shape}; images must be (N, H, W, C), channels last, with C 1 or 3")
    if images.size == 0:
        raise DataError(f"{name} has shape {images.shape}, so it is empty; put at least one image there")


def _check_labels(labels: Any, name: str, number: int, data: ImageArrays) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
        raise DataError(f"{name} is {getattr(labels, 'dtype', type(labels).__name__)}; labels must be int64")
    if labels.shape != (number,):
        raise DataError(f"{name} has shape {labels.shape} beside {number} images; pass one label for each image")
    outside = labels[(labels < 0) | (labels >= data.num_classes)]
    if outside.size:
        raise DataError(
            f"{name} holds {outside.size} label(s) outside 0 to {data.num_classes - 1}, the first {outside[0]}, but "
            f"there are {data.num_classes} classes; correct the labels or the class names"
        )


def as_labels(labels: np.ndarray, name: str) -> np.ndarray:
    """Convert integer labels of any width to int64, and raise a DataError for labels of another type."""
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name} is {labels.dtype}; labels must be integers 0 to K - 1")
    if labels.dtype == np.uint64 and labels.size and labels.max() > np.iinfo(np.int64).max:
        raise DataError(f"{name} holds the label {labels.max()}; labels must be integers 0 to K - 1")
    return labels.astype(np.int64)


# ------------------------------------------------------------------ files
def read_npz(path: Path, keys: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Read arrays from a .npz file: all of ``keys``, and those of ``optional`` that it holds."""

    def read() -> dict[str, np.ndarray]:
        if not zipfile.is_zipfile(path):  # np.load would take it for a pickle, and say how to run it
            raise ValueError("it is truncated, or of another kind")
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with opened as file:
            missing = [key for key in keys if key not in file.files]
            if missing:
                raise DataError(
                    f"{path} lacks {', '.join(missing)} and holds {', '.join(file.files) or 'nothing'}; "
                    f"write it with np.savez(path, {', '.join(f'{key}=...' for key in keys)})"
                )
            return {key: file[key] for key in (*keys, *optional) if key in file.files}

    return reading(path, read, "an arrays file (.npz)")


def load_npz(path: Path, name: str, known_classes: tuple[str, ...]) -> ImageArrays:
    """Read an arrays file. If it has no class names, use the known ones."""
    arrays = read_npz(path, ("train_x", "train_y", "test_x", "test_y"), ("classes",))
    arrays |= {key: as_labels(arrays[key], f"{path}: {key}") for key in ("train_y", "test_y")}
    classes = arrays.get("classes", np.array(known_classes))
    if classes.ndim != 1 or classes.dtype.kind not in "US":
        raise DataError(f"{path}: classes is {classes.dtype} of shape {classes.shape}; it must be the names, str (K,)")
    names = tuple(c.decode(errors="backslashreplace") if isinstance(c, bytes) else c for c in classes.tolist())
    return assemble(path, name, arrays, names)


def assemble(source: Path, name: str, arrays: dict[str, np.ndarray], classes: tuple[str, ...]) -> ImageArrays:
    """Return the data set of arrays read from a source that errors name; images (N, H, W) get a channel."""
    images = {key: array[..., None] if array.ndim == 3 else array for key, array in arrays.items() if key[-1] == "x"}
    labels = {key: array for key, array in arrays.items() if key[-1] == "y"}
    try:
        return ImageArrays(name, **images, **labels, classes=classes, clean_train_y=labels["train_y"].copy())
    except DataError as error:
        raise DataError(f"{source}, {error}") from None


def read_arrays(dataset: Dataset, root: Path, download: bool) -> ImageArrays:
    """Read the arrays file ``<name>.npz`` under ``root``."""
    path = root / f"{dataset.name}.npz"
    if path.exists():
        return load_npz(path, dataset.name, dataset.classes)
    raise MissingDataError(
        f"{dataset.name} is not under {root}; put there {path.name} with train_x (uint8), train_y, test_x and test_y, "
        "or set VLLS_DATA to the folder that has it"
    )


def read_digits(dataset: Dataset, root: Path, download: bool) -> ImageArrays:
    """Return scikit-learn's digits, shuffled once and for all and split."""
    bunch = needs("sklearn.datasets", "the digits data set").load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    order = np.random.RandomState(0).permutation(len(labels))  # the same in every version of numpy
    train, test = order[:_TRAIN_DIGITS], order[_TRAIN_DIGITS:]
    train_y = labels[train]
    return ImageArrays("digits", images[train], train_y, images[test], labels[test], dataset.classes, train_y.copy())
