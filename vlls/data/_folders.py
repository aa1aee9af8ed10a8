"""Folders of images by class."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from vlls.data._errors import DataError, MissingDataError
from vlls.data._streams import ImageFiles, ImageStream

__all__ = ["load_folder"]

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_TEST, _VAL = ("test",), ("val", "valid", "validation")


def load_folder(root: Path) -> ImageStream:
    """Return the images of a folder, labelled by the folders that they lie in.

    Args:
        root: folder with ``train/<class>/*`` beside ``test/<class>/*`` or ``val/<class>/*``, or ``<class>/*``.
            Without a split every fifth image of each class is for testing, in an order given by a hash of its
            path. Where there is ``val`` and no ``test``, it serves as the test set. Hidden files and files that
            are no images by their extension are skipped.

    Returns:
        The stream, its classes in alphabetical order.

    Raises:
        ValueError: if the folder is missing, a class is empty, or testing has a class that training has not.
    """
    if not root.is_dir():
        raise MissingDataError(
            f"{root} is no folder; pass a folder that holds train/<class>/* and test/<class>/*, or <class>/*"
        )
    test, val = _first(root, _TEST), _first(root, _VAL)
    if not (root / "train").is_dir() or (test is None and val is None):
        return _split(root)
    classes = _classes(root / "train")
    train = _files(root / "train", classes)
    held_out = [_files(folder, classes) for folder in (test, val) if folder is not None]
    return ImageStream(root.name, train, held_out[0], tuple(classes), val=held_out[1] if len(held_out) == 2 else None)


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _split(root: Path) -> ImageStream:
    """Return the classes of a folder without a split, every fifth image for testing."""
    classes = _classes(root)
    if len(classes) < 2:
        raise DataError(
            f"{root} holds {len(classes)} folder(s) of images ({', '.join(classes) or 'none'}); it needs one for each "
            "of two classes or more, or train/<class>/* beside test/<class>/*"
        )
    files = _files(root, classes)
    testing = np.zeros(len(files), bool)
    for label in range(len(classes)):
        (members,) = np.nonzero(files.labels == label)
        names = [files.path(i).relative_to(root).as_posix() for i in members.tolist()]  # the same on every system
        hashes = [hashlib.sha256(os.fsencode(name)).digest() for name in names]
        order = sorted(range(len(members)), key=hashes.__getitem__)
        testing[members[order[4::5]]] = True
    if not testing.any():
        raise DataError(
            f"{root} has fewer than five images in every class, too few to keep every fifth for testing; add images, "
            "or put them into train/<class> and test/<class>"
        )
    train, test = (files.subset(np.nonzero(part)[0]) for part in (~testing, testing))
    return ImageStream(root.resolve().name, train, test, tuple(classes))


def _classes(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, classes: list[str]) -> ImageFiles:
    """Return the images under ``root``, whose folders must be among ``classes``."""
    unknown = [name for name in _classes(root) if name not in classes]
    if unknown:
        raise DataError(
            f"{root / unknown[0]} is a class without training images; the classes are {', '.join(classes)}: remove the "
            f"folder, or put images of it into {root.parent / 'train' / unknown[0]}"
        )
    paths: list[np.ndarray] = []
    for name in classes:
        found = sorted(_images(root, root / name)) if (root / name).is_dir() else []
        if not found and (root / name).is_dir():
            raise DataError(
                f"{root / name} holds no images ({', '.join(EXTENSIONS)}); put some there, or remove the folder"
            )
        paths.append(np.array(found, dtype=np.bytes_))
    labels = np.repeat(np.arange(len(classes)), [len(part) for part in paths])
    if not len(labels):
        raise DataError(f"{root} holds no folders of images by class; put {root.name}/<class>/<image> there")
    return ImageFiles(root, np.concatenate(paths), labels)


def _images(root: Path, folder: Path) -> list[bytes]:
    """Return the paths of the images in a folder and those below it, relative to ``root``."""
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(here, root)
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                found.append(os.fsencode(os.path.join(prefix, name)))
    return found
