"""The idx files of MNIST and Fashion-MNIST, plain or gzipped, read in place."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np

from vlls._errors import DataError, reading
from vlls.data._arrays import ImageArrays

__all__ = ["find_idx", "load_idx", "read_idx"]

FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
_UBYTE = 8  # the code of unsigned bytes in the third byte of an idx file


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Return the array of an idx file of unsigned bytes.

    Args:
        path: the file; gzipped if it ends in ``.gz``.
        ndim: number of dimensions that it must have.

    Returns:
        Array of uint8 with the shape that the file states.

    Raises:
        ValueError: if the file is truncated, longer than it states, or no idx file of ``ndim`` dimensions.
    """
    data = reading(path, lambda: _bytes(path), "a gzip file" if path.suffix == ".gz" else "an idx file")
    header = 4 + 4 * ndim
    magic = bytes((0, 0, _UBYTE, ndim))
    if data[:4] != magic:
        raise DataError(
            f"{path} starts with the bytes {data[:4].hex(' ') or '(none)'}, not {magic.hex(' ')} of an idx file of "
            f"unsigned bytes with {ndim} dimension(s); replace the file by the original"
        )
    if len(data) < header:
        raise DataError(f"{path} ends inside its header ({len(data)} bytes); replace the file by a complete one")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", ndim, offset=4))
    if len(data) != header + math.prod(shape):
        raise DataError(
            f"{path} states the shape {shape} and so {header + math.prod(shape)} bytes, but holds {len(data)}; "
            "replace the file by a complete one"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


def _bytes(path: Path) -> bytes:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            return file.read()
    return path.read_bytes()


def find_idx(folder: Path) -> dict[str, Path]:
    """Return the paths of the four files in ``folder``, the plain ones before the gzipped; those that are there."""
    found = {}
    for key, name in FILES.items():
        there = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if there:
            found[key] = there[0]
    return found


def load_idx(files: dict[str, Path], name: str, classes: tuple[str, ...]) -> ImageArrays:
    """Return the data set of the four files that :func:`find_idx` found."""
    arrays = {key: read_idx(path, 3 if key[-1] == "x" else 1) for key, path in files.items()}
    images = {key: array[..., None] for key, array in arrays.items() if key[-1] == "x"}
    labels = {key: array.astype(np.int64) for key, array in arrays.items() if key[-1] == "y"}
    try:
        return ImageArrays(name, **images, **labels, classes=classes, clean_train_y=labels["train_y"].copy())
    except DataError as error:
        raise DataError(f"{files['train_x'].parent}, {error}") from None
