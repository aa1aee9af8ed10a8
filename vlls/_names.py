"""Checks of names and whole numbers, for modules that must not wait for torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral
from typing import Any


def check_known(value: object, known: Iterable[str], name: str, others: str = "") -> None:
    """Raise a ValueError that lists the known names, and the closest, unless ``value`` is one of them.

    ``name`` is that of the argument; ``others`` are other values that are allowed, in words.
    """
    known = list(known)
    if value in known:
        return
    close = difflib.get_close_matches(str(value).lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    hint = f" (did you mean {next(k for k in known if k.lower() == close[0])!r}?)" if close else ""
    raise ValueError(f"{name}={value!r} is unknown{hint}; choose one of {', '.join(known)}{others}")


def check_whole_number(value: Any, name: str, least: int, most: int | None = None) -> None:
    """Raise a ValueError unless ``value`` is a whole number from ``least`` on, to ``most`` if it is given."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f">= {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}={value!r} is not allowed; choose a whole number {allowed}")


def kind_of(value: object) -> str:
    """Return the name of a value's type with its article, such as "an int", for an error message."""
    name = type(value).__name__
    return f"{'an' if name[0].upper() in 'AEIO' else 'a'} {name}"
