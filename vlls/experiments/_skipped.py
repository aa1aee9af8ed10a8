"""Files that cannot be read are left out, and told."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

__all__ = ["skipped"]

A = TypeVar("A")
T = TypeVar("T")


def skipped(read: Callable[[A], T], what: A) -> T | None:
    """Return what is read, or None, with a warning that names the file, where it cannot be: the others can."""
    try:
        return read(what)
    except ValueError as error:
        warnings.warn(f"left out: {error}", UserWarning, stacklevel=3)
        return None
