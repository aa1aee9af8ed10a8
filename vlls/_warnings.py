"""Warnings that name the line of the user's code."""

from __future__ import annotations

import sys
import warnings

_INSIDE = ("vlls", "torch", "contextlib")


def warn_caller(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code that called the package, through any decorators and contexts."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
