"""Leave out files that cannot be read, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

__all__ = ["skipped"]

A = TypeVar("A")
T = TypeVar("T")


def skipped(read: Callable[[A], T], what: A) -> T | None:
    """Return ``read(what)``, or None and a warning if that raises a ValueError."""
    try:
        return read(what)
    except ValueError as error:
        warnings.warn(f"left out: {error}", UserWarning, stacklevel=3)
        return None
