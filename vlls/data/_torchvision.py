"""What torchvision does for the data sets: CIFAR's pickles, checked by md5, and downloads."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vlls._errors import DataError, MissingDataError, needs, one_line
from vlls.data._arrays import ImageArrays
from vlls.data._known import TORCHVISION

__all__ = ["download", "load_cifar"]


def load_cifar(root: Path, name: str) -> ImageArrays:
    """Return CIFAR-10 or CIFAR-100 from the pickles of the original archive, whose md5 sums torchvision checks."""
    kind, folder = TORCHVISION[name]
    make = getattr(needs("torchvision.datasets", f"reading {root / folder}"), kind)
    try:
        train, test = (make(root, train=part, download=False) for part in (True, False))
    except Exception as error:  # a pickle that is damaged can raise anything
        raise DataError(
            f"{root / folder} is incomplete or damaged ({one_line(error)}); delete the folder to download it again, or "
            "unpack the original archive there"
        ) from error
    labels = {"train_y": np.array(train.targets, np.int64), "test_y": np.array(test.targets, np.int64)}
    images = {"train_x": np.ascontiguousarray(train.data), "test_x": np.ascontiguousarray(test.data)}
    classes = tuple(train.classes)
    return ImageArrays(name, **images, **labels, classes=classes, clean_train_y=labels["train_y"].copy())


def download(root: Path, name: str) -> None:
    """Download a data set into ``root``: all of it, or nothing."""
    kind, folder = TORCHVISION[name]
    make = getattr(needs("torchvision.datasets", f"downloading {name}"), kind)
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Into a folder of its own, which is renamed when it is complete: what is cut off stays out of sight.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as temporary, _timeout(30.0):
            make(temporary, train=True, download=True)
            _move(Path(temporary) / folder, root / folder)
    except Exception as error:  # the network, the disk, the archive: whichever it was, the data set is not there
        raise MissingDataError(f"the download of {name} into {root} failed ({one_line(error)})") from error


def _move(source: Path, target: Path) -> None:
    """Rename a folder; where another process was quicker, its copy stays."""
    try:
        os.rename(source, target)
    except OSError:
        if not target.is_dir():
            raise
        for file in source.rglob("*"):  # the folder was there, perhaps without some of its files
            destination = target / file.relative_to(source)
            if file.is_file() and not destination.exists():
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, destination)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Give up on a network that does not answer; the default is to wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(before if before is not None else seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
