"""Functions that the commands share: for output, threads and signals."""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from vlls.cli._errors import rank


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


def signal_of(stopped: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that stopped this process."""
    return signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT


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
