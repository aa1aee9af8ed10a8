"""What the commands share: what they say, how many threads they take, and how they are stopped."""

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

__all__ = ["Terminated", "note", "say", "terminable", "threads_of", "warnings_noted"]


@contextmanager
def threads_of(count: int | None) -> Iterator[None]:
    """Let torch take ``count`` threads, or as many as it does, and set back what was."""
    import torch  # late: it takes seconds

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it is not the run that listens."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM stop this process as Ctrl-C does; while it trains, the run listens itself and saves."""
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


def note(console: Console, line: str) -> None:
    """Print a sentence: wrapped between words on a terminal, whole elsewhere."""
    console.print(line, soft_wrap=not console.file.isatty(), markup=False, highlight=False)


@contextmanager
def warnings_noted(console: Console) -> Iterator[None]:
    """Tell what is warned of as a note of one line, each once."""
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
    """Print a line on stderr, once for all processes of a run."""
    if rank() == 0:
        print(line, file=sys.stderr)
