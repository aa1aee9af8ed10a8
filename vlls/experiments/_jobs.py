"""What a sweep and the places where its runs are done tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlls.experiments._cells import Cell

__all__ = ["GRACE", "Event", "Executor", "Job", "Outcome"]

GRACE = 60.0  # seconds that a process has to save its run


@dataclass(frozen=True)
class Job:
    """A cell, and where and how it is done.

    Attributes:
        cell: the run.
        runs: folder of runs.
        root: where data are, as :func:`.load` takes it.
        device: as :func:`.run` takes it.
        threads: of torch, on the CPU; None for torch's own.
        checkpoint_seconds: time between checkpoints.
        keep_weights: whether the checkpoint of a finished run stays.
    """

    cell: Cell
    runs: Path
    root: Path | None = None
    device: str = "cpu"
    threads: int | None = None
    checkpoint_seconds: float = 30.0
    keep_weights: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        status: ``"finished"``, ``"diverged"``, ``"failed"`` or ``"stopped"`` (saved, to be resumed).
        reason: why it is not finished.
        record: of the run, where it is over.
        labels: what was computed after it.
    """

    status: str
    reason: str = ""
    record: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None


@dataclass(frozen=True)
class Event:
    """Something that a job told.

    Attributes:
        job: which.
        done: share of its steps that are done, in [0, 1].
        outcome: what became of it, once it is over.
    """

    job: Job
    done: float = 0.0
    outcome: Outcome | None = None


class Executor(Protocol):
    """What a sweep needs of the place where its cells are done."""

    def describe(self) -> str:
        """Where that is, in words."""

    @property
    def free(self) -> int:
        """Number of jobs that could be begun now."""

    def submit(self, job: Job) -> None:
        """Begin a job."""

    def events(self, timeout: float) -> list[Event]:
        """What was told since, waiting for it for at most ``timeout`` seconds."""

    def stop(self) -> None:
        """Ask all jobs to save and end."""

    def close(self) -> None:
        """End whatever is left, at once."""
