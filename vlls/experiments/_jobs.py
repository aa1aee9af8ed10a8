"""The messages between a sweep and its executor, and the protocol of an executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlls.experiments._cells import Cell

if TYPE_CHECKING:
    from vlls.train import Reporter

GRACE = 60.0  # seconds that a process has to save its run


@dataclass(frozen=True)
class Job:
    """A run to do, and where and how to do it.

    Attributes:
        cell: the run.
        runs: folder of runs.
        root: folder of data, as :func:`.load` takes it.
        device: as :func:`.run` takes it.
        threads: of torch, on the CPU; None for torch's own.
        checkpoint_seconds: time between checkpoints.
        keep_weights: whether the checkpoint of a finished run stays.
        side_by_side: number of runs that share the device at most, for the record.
        compile: whether the network is compiled; None for the protocol's own choice on such a device.
    """

    cell: Cell
    runs: Path
    root: Path | None = None
    device: str = "cpu"
    threads: int | None = None
    checkpoint_seconds: float = 30.0
    keep_weights: bool = False
    side_by_side: int = 1
    compile: bool | None = None

    def work(self, reporters: Sequence[Reporter] = ()) -> Outcome:
        """Do the run in this process, or go on with it, and return its outcome, also if it fails."""
        from vlls.experiments._work import work  # late: it needs torch

        return work(self, reporters)


@dataclass(frozen=True)
class Outcome:
    """The end of a job.

    Attributes:
        status: ``"finished"``, ``"diverged"``, ``"failed"`` or ``"stopped"`` (saved, to be resumed).
        reason: why it is not finished.
        record: of the run, if it is over.
        labels: the smoothed labels, if they were computed.
    """

    status: str
    reason: str = ""
    record: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None


Event = tuple[Job, float, Outcome | None]


class Executor(Protocol):
    """Does the jobs of a sweep: in processes of this machine (:class:`.LocalExecutor`), on a cluster, ...

    Wherever a job is to be done, :meth:`.Job.work` does it.
    """

    def describe(self) -> str:
        """Say in a few words where jobs are done."""

    @property
    def free(self) -> int:
        """Number of jobs that could be begun now."""

    def submit(self, job: Job) -> None:
        """Begin a job."""

    def events(self, timeout: float) -> list[Event]:
        """Return the news since the last call; wait at most ``timeout`` seconds for the first.

        Each is a job, the fraction of its steps that are done, and its outcome once it is over.
        """

    def stop(self) -> None:
        """Ask all jobs to save their runs and end."""

    def close(self) -> None:
        """End all jobs at once."""
