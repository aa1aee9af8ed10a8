"""Functions that the commands share: for output, errors, threads and signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console


@contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """Let torch take ``count`` threads, if it is not None, and restore the number afterwards."""
    import torch  # late: it takes seconds

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Terminated(KeyboardInterrupt):
    """SIGTERM, outside of a run, which handles it itself."""


def tell_stopped(stopped: KeyboardInterrupt, then: str) -> typer.Exit:
    """Say which signal stopped this process, and the consequence; return the exit."""
    signum = signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT
    say(f"stopped by {signum.name}{then}")
    return typer.Exit(128 + signum)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM stop this process as Ctrl-C does; while it trains, the run handles it and saves."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def console_of_tables(*, quiet: bool = False) -> Console:
    """Return a console that is wide enough for every table, unless it is a terminal."""
    console = Console(quiet=quiet)
    if not console.file.isatty():
        console.width = 160
    return console


def note(console: Console, line: str) -> None:
    """Print a sentence: wrapped between words on a terminal, whole elsewhere."""
    console.print(line, soft_wrap=not console.file.isatty(), markup=False, highlight=False)


@contextmanager
def warnings_noted(console: Console) -> Iterator[None]:
    """Print warnings as notes of one line, each once."""
    told: set[str] = set()

    def tell(message: Warning | str, *_: Any, **__: Any) -> None:
        line = " ".join(str(message).split())
        if line not in told:
            told.add(line)
            note(console, f"note: {line}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = tell
        yield


def say(line: str) -> None:
    """Print a line on stderr, from the first process of a run only."""
    if rank() == 0:
        print(line, file=sys.stderr)


class Failed(Exception):
    """A run that failed in this process; any process of ``torchrun`` prints it, not only the first."""


def rank() -> int:
    """The number of this process among those that ``torchrun`` started; the first one speaks for all."""
    try:
        return int(os.environ.get("RANK", 0))
    except ValueError:
        return 0


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    text = str(error)
    if hasattr(error, "format_message"):  # wrong use, found by typer
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split()) or type(error).__name__
