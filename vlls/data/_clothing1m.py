"""Clothing1M: a million photographs, labelled by the text around them; some labels were checked by people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vlls._errors import DataError, MissingDataError, reading
from vlls.data._known import CLOTHES, Dataset
from vlls.data._streams import ImageFiles, ImageStream

_TRAIN = "noisy_train_key_list.txt"
_CLEAN = {"clean_train": "clean_train_key_list.txt", "val": "clean_val_key_list.txt", "test": "clean_test_key_list.txt"}
_NOISY_LABELS, _CLEAN_LABELS = "noisy_label_kv.txt", "clean_label_kv.txt"
_NAMES = "category_names_eng.txt"
_LABELS = {str(label).encode(): label for label in range(len(CLOTHES))}
_CHUNK = 1 << 16  # lines held as Python objects at a time; a million of them would take twice the memory


def read_clothing1m(dataset: Dataset, root: Path, download: bool) -> ImageStream:
    """Read Clothing1M (Xiao et al., 2015; Fig. 9, Chapter 12) from ``root`` or the folder of its name in it."""
    folder = next((f for f in (root / "clothing1m", root / "Clothing1M", root) if _find(f, _TRAIN)), None)
    if folder is None:
        raise MissingDataError(
            f"clothing1m is not under {root}; put there clothing1m with {_TRAIN}, {_NOISY_LABELS}, {_CLEAN['val']}, "
            f"{_CLEAN['test']}, {_CLEAN_LABELS} and images, or set VLLS_DATA to the folder that has it (its licence "
            "forbids a download; ask its authors)"
        )
    return read_layout(folder, dataset.name)


def read_layout(folder: Path, name: str) -> ImageStream:
    """Read a folder that has the layout of Clothing1M; images without a label are left out and counted.

    The training images are the noisy list with its noisy labels; the others have checked labels. ``clean_train`` is
    there if its list is.
    """
    classes = _class_names(folder)
    missing: dict[str, int] = {}
    train = _labelled(folder, _require(folder, _TRAIN), *_read_labels(_require(folder, _NOISY_LABELS)), missing)
    labels = _read_labels(_require(folder, _CLEAN_LABELS))
    clean = {
        part: _labelled(folder, path, *labels, missing)
        for part, file in _CLEAN.items()
        if (path := _find(folder, file) if part == "clean_train" else _require(folder, file)) is not None
    }
    return ImageStream(
        name, train, clean["test"], classes, clean["val"], clean.get("clean_train"), missing_labels=missing
    )


def _find(folder: Path, file: str) -> Path | None:
    """Return the path of a text file at the top or under annotations, or None if there is none."""
    return next((path for path in (folder / file, folder / "annotations" / file) if path.is_file()), None)


def _require(folder: Path, file: str) -> Path:
    path = _find(folder, file)
    if path is None:
        raise DataError(f"{folder} has {_TRAIN} but no {file}; put it beside that, or into {folder / 'annotations'}")
    return path


def _class_names(folder: Path) -> tuple[str, ...]:
    path = _find(folder, _NAMES)
    if path is None:
        return CLOTHES
    text = reading(path, lambda: path.read_text(encoding="utf-8"), "a list of class names")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != len(CLOTHES):
        raise DataError(f"{path} has {len(names)} class names; it must have {len(CLOTHES)}, one a line")
    return names


# ------------------------------------------------------------------ text files
def _read_keys(path: Path, labels: bytearray | None = None) -> np.ndarray:
    """Return the image paths of a text file, one a line, as bytes (N,); append a label file's labels to ``labels``."""
    row, form = ("one image path", "a key list") if labels is None else ("<image path> <0..13>", "a label file")

    def keys(file: BinaryIO) -> Iterator[bytes]:
        for number, line in enumerate(file, 1):
            words = line.split()
            if labels is None and len(words) == 1:
                yield words[0]
            elif labels is not None and len(words) == 2 and words[1] in _LABELS:
                labels.append(_LABELS[words[1]])
                yield words[0]
            elif words:
                raise DataError(f"{path}, line {number}: {_show(line)} is not {row}; correct the line")

    def read() -> np.ndarray:
        parts = [np.zeros(0, dtype=np.bytes_)]
        with open(path, "rb") as file:
            items = keys(file)
            while chunk := list(islice(items, _CHUNK)):
                parts.append(np.array(chunk, dtype=np.bytes_))
        return np.concatenate(parts)

    return reading(path, read, form)


def _read_labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the image paths, bytes (N,), and the labels, int64 (N,), of a label file."""
    labels = bytearray()
    return _read_keys(path, labels), np.frombuffer(bytes(labels), np.uint8).astype(np.int64)


def _show(line: bytes) -> str:
    """Return the start of a line for an error message."""
    text = line.decode(errors="replace").strip()
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _labelled(folder: Path, path: Path, keys: np.ndarray, labels: np.ndarray, missing: dict[str, int]) -> ImageFiles:
    """Return the labelled images of a key list, and note in ``missing`` how many have no label."""
    wanted = _read_keys(path)
    order = np.argsort(keys, kind="stable")  # a dictionary of a million paths would take 200 MB
    at = np.searchsorted(keys, wanted, sorter=order)
    found = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(wanted), np.int64)
    has_label = keys[found] == wanted if len(order) else np.zeros(len(wanted), bool)
    count = int((~has_label).sum())
    if count == len(wanted):
        raise DataError(
            f"{path} lists {count} images, none of which has a label in the label file, whose paths look like "
            f"{_show(keys[0]) if len(keys) else '(none)'}; use the lists and label files of one copy"
        )
    if count:
        missing[path.stem] = count
        wanted, found = wanted[has_label], found[has_label]
    files = ImageFiles(folder, wanted, labels[found])
    if not any(files.path(i).is_file() for i in range(min(len(files), 100))):
        raise DataError(f"none of the first images of {path} exists, such as {files.path(0)}; unpack the images there")
    return files
