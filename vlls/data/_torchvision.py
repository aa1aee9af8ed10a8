"""Data sets that torchvision knows: MNIST's idx files, CIFAR's pickles, checked by md5, and downloads."""

from __future__ import annotations

import gzip
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vlls._errors import DataError, MissingDataError, needs, one_line, reading
from vlls._files import whole_folder
from vlls.data._arrays import ImageArrays, assemble, load_npz
from vlls.data._known import Dataset

_IDX_FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}


def read_torchvision(dataset: Dataset, root: Path, download: bool) -> ImageArrays:
    """Return a data set from the first place that has it: the arrays file, torchvision's layout, a download."""
    data = _found(dataset, root)
    if data is None and download:
        try:
            _download(dataset, root)
        except MissingDataError as error:
            raise MissingDataError(f"{_absent(dataset, root)}; {error}") from error
        data = _found(dataset, root)
    if data is None:
        raise MissingDataError(_absent(dataset, root) + ("" if download else "; or allow download=True"))
    return data


def _found(dataset: Dataset, root: Path) -> ImageArrays | None:
    """Return the data set if it lies under ``root``: from the arrays file, or else from torchvision's layout."""
    arrays_file, (class_name, folder) = root / f"{dataset.name}.npz", dataset.torchvision
    if arrays_file.exists():
        return load_npz(arrays_file, dataset.name, dataset.classes)
    if _is_idx(dataset):
        files = _find_idx(root / folder / "raw")
        if len(files) < len(_IDX_FILES):
            return None
        arrays = {key: _read_idx(path, 3 if key[-1] == "x" else 1) for key, path in files.items()}
        arrays |= {key: array.astype(np.int64) for key, array in arrays.items() if key[-1] == "y"}
        return assemble(files["train_x"].parent, dataset.name, arrays, dataset.classes)
    if not (root / folder).is_dir() or not any((root / folder).iterdir()):
        return None
    make = getattr(needs("torchvision.datasets", f"reading {root / folder}"), class_name)
    try:
        train, test = (make(root, train=part, download=False) for part in (True, False))
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(
            f"{root / folder} is incomplete or damaged ({one_line(error)}); delete the folder to download it again, or "
            "unpack the original archive there"
        ) from error
    train_y, test_y = (np.array(part.targets, np.int64) for part in (train, test))
    train_x, test_x = (np.ascontiguousarray(part.data) for part in (train, test))
    return ImageArrays(dataset.name, train_x, train_y, test_x, test_y, tuple(train.classes), train_y.copy())


def _is_idx(dataset: Dataset) -> bool:
    """Tell whether the data set comes in idx files, which are read without torchvision; the others are pickles."""
    return dataset.torchvision[0].endswith("MNIST")


def _find_idx(folder: Path) -> dict[str, Path]:
    """Return the paths of the idx files that are in ``folder``; a plain file is preferred to a gzipped one."""
    found = {}
    for key, name in _IDX_FILES.items():
        if there := [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]:
            found[key] = there[0]
    return found


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """Return the array of an idx file of unsigned bytes with ``ndim`` dimensions, gzipped if it ends in ``.gz``."""
    zipped = path.suffix == ".gz"

    def read() -> bytes:
        with gzip.open(path) if zipped else path.open("rb") as file:
            return file.read()

    data = reading(path, read, "a gzip file" if zipped else "an idx file")
    header = 4 + 4 * ndim
    magic = bytes((0, 0, 8, ndim))  # 8 is the code of unsigned bytes
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


def _absent(dataset: Dataset, root: Path) -> str:
    """Return the error text for a data set that is not there: the places searched, and the files that belong there."""
    name, folder = dataset.name, root / dataset.torchvision[1]
    if _is_idx(dataset):
        lacking = ", ".join(file for key, file in _IDX_FILES.items() if key not in _find_idx(folder / "raw"))
        layout = f"{folder / 'raw'} with the original files (there is no {lacking}, with or without .gz)"
    else:
        layout = f"{folder} of the original archive"
    return (
        f"{name} is not under {root}; put there {name}.npz with train_x (uint8), train_y, test_x, test_y and classes, "
        f"or {layout}, or set VLLS_DATA to the folder that has it"
    )


def _download(dataset: Dataset, root: Path) -> None:
    """Download a data set into ``root``: all of it, or nothing."""
    name, (class_name, folder) = dataset.name, dataset.torchvision
    make = getattr(needs("torchvision.datasets", f"downloading {name}"), class_name)
    try:
        with whole_folder(root / folder) as made, _timeout(30.0):
            make(made.parent, train=True, download=True)
    except Exception as error:  # of the network, the disk or the archive
        raise MissingDataError(f"the download of {name} into {root} failed ({one_line(error)})") from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Give up on a network that does not answer; the default is to wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before if before is not None else seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
