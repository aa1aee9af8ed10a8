"""Given labels in any form: whole numbers or names, some of them missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vlls._names import kind_of
from vlls._validation import whole_labels
from vlls._warnings import warn_caller

MISSING = -1
Classes = npt.NDArray[np.int64]


def given_labels(labels: Any, shape: Sequence[int], classes: Sequence[str] | None = None) -> Classes:
    """Return the given labels as classes (N,), with -1 for one that is missing; ``shape`` ends in N (or 0) and K.

    -1, None, NaN and NA are missing labels. With ``classes`` labels may be names; names that are not among them are
    missing too, and a warning counts them.
    """
    num, num_classes = shape[-2:]
    check_names(classes, num_classes)
    found = _numbers(labels, classes)
    check_count(found, num or found.size)
    outside = (found < MISSING) | (found >= num_classes)
    if outside.any():
        at = int(outside.argmax())
        raise ValueError(
            f"labels hold {int(outside.sum())} value(s) outside 0 to {num_classes - 1}, the first {found[at]} at {at}; "
            "number the classes from 0, and use -1 for a missing label"
        )
    if (found == MISSING).all():
        raise ValueError("all labels are missing; pass at least one")
    return found


def check_names(classes: Sequence[str] | None, num_classes: int) -> None:
    """Raise a ValueError unless there is a name for each class, or none at all."""
    if classes is not None and len(classes) != num_classes:
        raise ValueError(f"classes has {len(classes)} names and the probabilities have {num_classes} columns")


def check_count(given: Classes, num: int) -> None:
    """Raise a ValueError unless there is a label for each of ``num`` examples."""
    if given.shape != (num,):
        raise ValueError(f"labels have shape {given.shape}; {num} examples need ({num},), -1 where one is missing")


def _numbers(labels: Any, classes: Sequence[str] | None) -> Classes:
    """Return labels as whole numbers, with -1 for those that are missing."""
    if isinstance(labels, torch.Tensor):
        array: npt.NDArray[Any] = labels.detach().cpu().numpy()
    elif str(getattr(labels, "dtype", "")) == "category":
        array = np.asarray(labels.astype(object), dtype=object)
    else:
        if not hasattr(labels, "__len__") or isinstance(labels, str | bytes | dict | set):
            raise ValueError(f"labels are {'None' if labels is None else kind_of(labels)}; pass one for each example")
        array = np.asarray(labels)
    if array.dtype.kind in "fOUT":
        entries = array.tolist()
        if array.ndim == 1 and any(isinstance(entry, str) for entry in entries):
            return _of_names(entries, classes)
        if array.ndim == 1:
            array = np.array([_whole(entry, at) for at, entry in enumerate(entries)], dtype=np.int64)
    return whole_labels(array).numpy()


def _of_names(entries: list[Any], classes: Sequence[str] | None) -> Classes:
    """Return the classes of names, with a warning that counts names that are no class."""
    if classes is None:
        raise ValueError("labels are strings; pass classes=[...] with the names in the order of the model's outputs")
    places = {name: at for at, name in enumerate(classes)}
    if len(places) < len(classes):
        raise ValueError(f"labels are strings and two of the classes {', '.join(map(str, classes))} have one name")
    unknown = [entry for entry in entries if entry not in places and not _is_missing(entry)]
    if len(unknown) == len(entries):
        raise ValueError(f"no label is one of the classes {', '.join(map(str, classes))}; the first is {unknown[0]!r}")
    if unknown:
        warn_caller(
            f"{len(unknown)} label(s), such as {unknown[0]!r}, are no class and count as missing; the classes are "
            f"{', '.join(map(str, classes))}"
        )
    return np.array([places.get(entry, MISSING) for entry in entries], dtype=np.int64)


def _is_missing(entry: Any) -> bool:
    return entry is None or entry == "" or type(entry).__name__ in ("NAType", "NaTType") or entry != entry


def _whole(entry: Any, at: int) -> Any:
    """Return a label as an integer, -1 if it is missing."""
    if _is_missing(entry):
        return MISSING
    if isinstance(entry, float) and entry.is_integer():
        return int(entry)  # pandas turns integers into floats if a value is missing
    if isinstance(entry, bool) or not isinstance(entry, int | np.integer):
        raise ValueError(f"labels[{at}] is {entry!r}, {kind_of(entry)}; pass whole numbers, the classes from 0")
    return int(entry)
