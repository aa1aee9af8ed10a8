"""Errors as one line, and the process that may print them."""

from __future__ import annotations

import os


class Failed(Exception):
    """A run that this process could not do; printed by whichever process of a ``torchrun`` it is."""


def rank() -> int:
    """The number of this process among those that ``torchrun`` started; the first one speaks for all."""
    try:
        return int(os.environ.get("RANK", 0))
    except ValueError:
        return 0


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    if hasattr(error, "format_message"):  # wrong use, found by typer
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__
