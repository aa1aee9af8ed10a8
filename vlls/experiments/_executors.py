"""The executor that does the runs of a sweep in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from vlls._names import check_whole_number
from vlls.experiments._jobs import GRACE, Event, Job, Outcome
from vlls.train import Reporter, RunConfig
from vlls.train._machine import pick_device

__all__ = ["LocalExecutor", "available_cores"]


class LocalExecutor:
    """Processes of this machine, each doing one run after the other.

    Args:
        device: ``"auto"`` for all GPUs, or the CPU where there is none; ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        workers_per_device: runs side by side on a device; None for one on a GPU, and one for each core on a CPU.
        threads: of torch in each, on a CPU; None for the cores over the runs.

    Raises:
        ValueError: for a device that there is not, or no workers.

    Example:
        >>> LocalExecutor("cpu", 2).describe()
        '2 processes on the CPU, 1 thread each'
    """

    def __init__(self, device: str = "auto", workers_per_device: int | None = None, *, threads: int | None = 1) -> None:
        first = pick_device(device)
        if workers_per_device is None:
            workers_per_device = available_cores() if first.type == "cpu" else 1
        check_whole_number(workers_per_device, "workers_per_device", 1)
        devices = [str(first)]
        if first.type == "cuda" and device in ("auto", "cuda"):
            devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        self.threads = threads if first.type == "cpu" else None
        self._devices = devices
        self._workers = [_Worker(device) for _ in range(workers_per_device) for device in devices]
        self._stopping = False

    def describe(self) -> str:
        """Say in a few words where the runs are done."""
        count = len(self._workers)
        where = "the CPU" if self._devices == ["cpu"] else ", ".join(self._devices)
        text = f"{count} process{'es' if count > 1 else ''} on {where}"
        return f"{text}, {self.threads} thread{'s' if self.threads > 1 else ''} each" if self.threads else text

    @property
    def free(self) -> int:
        """Number of jobs that could be begun now."""
        return 0 if self._stopping else sum(worker.job is None for worker in self._workers)

    def submit(self, job: Job) -> None:
        """Begin a job in a process that has none."""
        next(worker for worker in self._workers if worker.job is None).begin(job, self.threads)

    def events(self, timeout: float) -> list[Event]:
        """Return the news since the last call; wait at most ``timeout`` seconds for the first."""
        busy = [worker for worker in self._workers if worker.job is not None]
        if not busy:
            return []
        wait([handle for worker in busy for handle in (worker.connection, worker.process.sentinel)], timeout)
        return [event for worker in busy for event in worker.events()]

    def stop(self) -> None:
        """Ask all processes to save their runs and end."""
        self._stopping = True
        for worker in self._workers:
            worker.ask_to_stop()

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.end()


def available_cores() -> int:
    """Number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


class _Worker:
    """A process that is begun when there is a first job for it, and again where it has died."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.job: Job | None = None
        self.process: Any = None
        self.connection: Any = None
        self.asked = False

    def begin(self, job: Job, threads: int | None) -> None:
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs,))  # no daemon: a run may have processes itself
            self.process.start()
            theirs.close()
        self.job = replace(job, device=self.device, threads=threads)
        with contextlib.suppress(OSError):  # a process that has died is found by its events
            self.connection.send(self.job)

    def events(self) -> list[Event]:
        assert self.job is not None
        found: list[Event] = []
        died = not self.process.is_alive()  # before the last look at what it said
        try:
            while self.connection.poll():
                found.append((self.job, *self.connection.recv()))
        except (EOFError, OSError):
            died = True
        over = any(outcome is not None for *_, outcome in found)
        if died and not over:
            self.process.join(GRACE)
            found.append((self.job, 0.0, self._death()))
            over = True
        if over:
            self.job = None
        return found

    def _death(self) -> Outcome:
        code = self.process.exitcode
        if self.asked:
            return Outcome("stopped", "before it could save; the last checkpoint is kept")
        if code == -signal.SIGKILL:
            why = "was killed, as the system does when memory runs out; choose fewer --workers-per-device"
        elif code is not None and code < 0:
            why = f"died of {signal.Signals(-code).name}"
        else:
            why = f"ended with exit code {code}"
        return Outcome("failed", f"its process {why}")

    def ask_to_stop(self) -> None:
        self.asked = True
        if self.process is not None and self.process.is_alive():
            self.process.terminate()

    def end(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.process.kill()
            self.process.join(GRACE)
        if self.connection is not None:
            self.connection.close()
        self.job = None


# ---------------------------------------------------------------------- in the process
def _serve(connection: Connection) -> None:
    """Do jobs until there are no more."""
    if hasattr(os, "setsid"):  # Ctrl-C is the sweep's, which then asks us
        os.setsid()
    _end_with_parent()
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        except Exception as error:  # of a method in a module that is not found here, or in a notebook
            reason = f"{error}; define its method in a module that other processes can import"
            connection.send((0.0, Outcome("failed", f"its process could not load it: {reason}")))
            continue
        outcome = job.work([DoneReporter(lambda done: connection.send((done, None)))])
        connection.send((1.0, outcome))


def _end_with_parent() -> None:
    """End at once when the sweep's process is gone, however it went: its next start goes on from the checkpoints."""
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class DoneReporter(Reporter):
    """Calls ``tell`` with the fraction of a run's steps that are done, at most four times a second."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self._tell, self._told, self._total = tell, 0.0, 1

    def start(self, config: RunConfig, step: int, steps_per_epoch: int, images: dict[str, int]) -> None:
        """Note how long the run is."""
        self._total = steps_per_epoch * (config.epochs or 1)

    def step(self, step: int) -> None:
        """Report, if it is time."""
        now = time.monotonic()
        if now - self._told >= 0.25:
            self._told = now
            with contextlib.suppress(OSError):
                self._tell(step / self._total)
