"""Data sets that torchvision knows: where they lie, CIFAR's pickles, checked by md5, and downloads."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vlls._errors import DataError, MissingDataError, needs, one_line
from vlls._files import whole_folder
from vlls.data._arrays import ImageArrays, load_npz
from vlls.data._idx import FILES, find_idx, load_idx
from vlls.data._known import Dataset

__all__ = ["read_torchvision"]


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
    """Return the data set if it lies under ``root``: of the arrays file, or else of torchvision's layout."""
    arrays_file, (class_name, folder) = root / f"{dataset.name}.npz", dataset.torchvision
    if arrays_file.exists():
        return load_npz(arrays_file, dataset.name, dataset.classes)
    if _is_idx(dataset):
        files = find_idx(root / folder / "raw")
        return load_idx(files, dataset.name, dataset.classes) if len(files) == len(FILES) else None
    if not (root / folder).is_dir() or not any((root / folder).iterdir()):
        return None
    make = getattr(needs("torchvision.datasets", f"reading {root / folder}"), class_name)
    try:
        train, test = (make(root, train=part, download=False) for part in (True, False))
    except Exception as error:  # a pickle that is damaged can raise anything
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


def _absent(dataset: Dataset, root: Path) -> str:
    """Say what was looked for, where, and what to put there."""
    name, folder = dataset.name, root / dataset.torchvision[1]
    if _is_idx(dataset):
        lacking = ", ".join(file for key, file in FILES.items() if key not in find_idx(folder / "raw"))
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
    except Exception as error:  # the network, the disk, the archive: whichever it was, the data set is not there
        raise MissingDataError(f"the download of {name} into {root} failed ({one_line(error)})") from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Give up on a network that does not answer; the default is to wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before if before is not None else seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
