"""A sweep: does the runs of an experiment side by side, resumes those that were cut, and counts them."""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vlls._files import expanded
from vlls.experiments._cells import Cell, cells
from vlls.experiments._folder import ResultsFolder
from vlls.experiments._jobs import GRACE, Executor, Job, Outcome


@dataclass
class SweepResult:
    """The cells of a sweep by their outcome.

    Attributes:
        cells: all cells, in order.
        before: cells that were done when the sweep began.
        finished: cells that it did.
        failed: cells that it could not do, each with the reason.
        left: cells that were not begun, or saved to go on later.
        seconds: duration of the sweep.
        reason: why it ended before all cells were done.
    """

    cells: list[Cell]
    before: list[Cell] = field(default_factory=list)
    finished: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    left: list[Cell] = field(default_factory=list)
    seconds: float = 0.0
    reason: str = ""

    @property
    def runs_per_hour(self) -> float:
        """Throughput of this sweep."""
        return 3600 * len(self.finished) / self.seconds if self.seconds else 0.0


class SweepReporter:
    """Follows a sweep: subclass it and override the methods of interest."""

    def start(self, result: SweepResult, where: str) -> None:
        """The sweep begins.

        Args:
            result: with the cells, and those that are done.
            where: the device of the runs, in words.
        """

    def begin(self, cell: Cell) -> None:
        """A run begins, or goes on."""

    def progress(self, cell: Cell, done: float) -> None:
        """A fraction of a run's steps is done."""

    def end(self, cell: Cell, outcome: Outcome) -> None:
        """A run is over, or was stopped."""

    def finish(self, result: SweepResult) -> None:
        """The sweep is over; called however it ended."""


def sweep(
    name: str,
    *,
    protocol: str = "reduced",
    seeds: int | None = None,
    tune: bool = True,
    results: str | os.PathLike[str] = "results",
    executor: Executor | None = None,
    root: str | os.PathLike[str] | None = None,
    time_budget: float | None = None,
    checkpoint_seconds: float = 30.0,
    compile: bool | None = None,
    keep_weights: bool = False,
    reporters: Sequence[SweepReporter] = (),
) -> SweepResult:
    """Do the runs of an experiment that are not done yet.

    Every run has its own folder; a run that was cut goes on from its checkpoint, whenever and however the sweep
    was stopped. If a run fails, the others go on, the sweep reports it at the end, and the next sweep tries it again.

    Args:
        name: a key of :data:`.EXPERIMENTS`.
        protocol: a key of :data:`.PROTOCOLS`.
        seeds: number of seeds; None for the protocol's.
        tune: whether to add the runs that hold images out to choose hyperparameters by.
        results: the folder; one sweep at a time.
        executor: where the runs are done; None for processes of this machine.
        root: where data are, as :func:`.load` takes it.
        time_budget: seconds after which no run is begun and those under way are saved; None for no limit.
        checkpoint_seconds: time between checkpoints of a run.
        compile: whether the networks are compiled, as :func:`.run` does it; None for that on a GPU at the protocols
            whose runs are long.
        keep_weights: whether the checkpoints of finished runs stay.
        reporters: called as the sweep progresses.

    Raises:
        ValueError: for an unknown experiment or protocol, data that cannot be had, a method that other processes cannot
            load, a results folder of another version or one that another sweep holds.
        OSError: if the folder cannot be written.
        KeyboardInterrupt: after Ctrl-C; the runs under way were saved.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
        ...     done = sweep("fig7", protocol="smoke", results=folder, time_budget=60)
    """
    began = time.monotonic()
    if time_budget is not None and not time_budget > 0:
        raise ValueError(f"time_budget={time_budget!r} is not allowed; choose a number of seconds > 0")
    result = SweepResult(cells(name, protocol, seeds=seeds, tune=tune))
    folder = ResultsFolder(results)
    check_data(result.cells, root)
    check_methods(result.cells)
    if executor is None:
        from vlls.experiments._executors import LocalExecutor  # late: it needs torch

        executor = LocalExecutor()
    with folder.locked():
        folder.add_sweep(result.cells)
        going = _Sweep(result, folder, executor, reporters)
        job = Job(
            result.cells[0],
            folder.runs.absolute(),
            root=None if root is None else expanded(root).absolute(),
            checkpoint_seconds=checkpoint_seconds,
            keep_weights=keep_weights,
            compile=compile,
        )
        try:
            going.go(job, None if time_budget is None else began + time_budget)
        finally:
            executor.close()
            result.seconds = time.monotonic() - began
            for reporter in reporters:
                reporter.finish(result)
    return result


def check_data(grid: Sequence[Cell], root: str | os.PathLike[str] | None) -> None:
    """Load every data set once, so that a missing one is reported before anything has begun."""
    from vlls.data import load  # late: it needs torch

    for dataset, labels in dict.fromkeys((cell.config.dataset, cell.config.labels) for cell in grid):
        load(dataset, root, labels=labels)


def check_methods(grid: Sequence[Cell]) -> None:
    """Raise a ValueError for a registered method that other processes could not load."""
    for config in {cell.config.method: cell.config for cell in grid}.values():
        try:
            pickle.dumps(config)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"the method {config.method!r} cannot be sent to another process ({error}); define its loss and its "
                "optimizer by functions of a module, not by lambdas or inside other functions"
            ) from error


class _Sweep:
    """The loop over cells."""

    def __init__(
        self, result: SweepResult, folder: ResultsFolder, executor: Executor, reporters: Sequence[SweepReporter]
    ) -> None:
        self.result, self.folder, self.executor, self.reporters = result, folder, executor, reporters
        result.before = [cell for cell in result.cells if folder.is_done(cell)]
        done = {cell.config.key for cell in result.before}
        self.waiting = deque(cell for cell in result.cells if cell.config.key not in done)
        self.running: dict[str, list[Cell]] = {}

    def go(self, job: Job, deadline: float | None) -> None:
        """Do the cells until all are done, the time is over, or the user stops the sweep."""
        for reporter in self.reporters:
            reporter.start(self.result, self.executor.describe())
        try:
            while self.waiting or self.running:
                if deadline is not None and time.monotonic() >= deadline:
                    self.result.reason = "the time budget is spent"
                    break
                self.fill(job)
                self.listen(0.5)
        except KeyboardInterrupt:
            self.result.reason = "stopped"
            self.stop()
            raise
        self.stop()

    def fill(self, job: Job) -> None:
        """Begin as many cells as the executor has room for."""
        from vlls.train._machine import signals_put_off  # late: it needs torch

        while self.waiting and self.executor.free:
            cell = self.waiting.popleft()
            if cell.config.key in self.running:  # the same run, in another panel
                self.running[cell.config.key].append(cell)
                continue
            if self.folder.is_done(cell):
                self.result.finished.append(cell)
                continue
            with signals_put_off():  # a half-started process can be neither asked to stop nor ended
                self.running[cell.config.key] = [cell]
                for reporter in self.reporters:
                    reporter.begin(cell)
                self.executor.submit(replace(job, cell=cell))

    def listen(self, timeout: float) -> None:
        """Handle the runs' reports."""
        for job, done, outcome in self.executor.events(timeout):
            if outcome is not None:
                self.end(job.cell, outcome)
            else:
                for reporter in self.reporters:
                    reporter.progress(job.cell, done)

    def end(self, first: Cell, outcome: Outcome) -> None:
        """Note the end of a run."""
        for cell in self.running.pop(first.config.key, [first]):
            if outcome.status in ("finished", "diverged"):
                if outcome.record is not None and self.folder.record(cell.config) is None:
                    self.folder.keep(cell.config, outcome.record, outcome.labels)  # done without access to it
                self.folder.clear_failure(cell)
                self.result.finished.append(cell)
            elif outcome.status == "failed":
                self.folder.note_failure(cell, outcome.reason)
                self.result.failed[cell] = outcome.reason
            else:
                self.result.left.append(cell)
        for reporter in self.reporters:
            reporter.end(first, outcome)

    def stop(self) -> None:
        """Ask the runs under way to save, and wait until they have."""
        if self.running:
            self.executor.stop()
            until = time.monotonic() + GRACE
            while self.running and time.monotonic() < until:
                self.listen(0.5)
        self.result.left += [cell for cells in self.running.values() for cell in cells]
        self.result.left += self.waiting
        self.running.clear()
        self.waiting.clear()
