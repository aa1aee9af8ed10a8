"""The executor that does the runs of a sweep in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from vlls._errors import one_line
from vlls._names import check_whole_number
from vlls.experiments._jobs import GRACE, Event, Job, Outcome
from vlls.train import Reporter, RunConfig
from vlls.train._machine import pick_device, stop_threads

__all__ = ["LocalExecutor", "available_cores"]


class LocalExecutor:
    """Runs side by side on this machine: on a GPU in threads of one process, on a CPU in processes.

    The threads of a GPU's process launch their steps on separate streams, which fill each other's gaps;
    several processes would take turns.

    Args:
        device: ``"auto"`` for all GPUs, or the CPU where there is none; ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        workers_per_device: runs side by side on a device; None for one on a GPU, and one for each core on a CPU.
        threads: of torch in each run, on a CPU; None for the cores over the runs.
        isolate: whether each run has its own process; None for processes on a CPU and threads on a GPU.

    Raises:
        ValueError: for a device that there is not, or no workers.

    Example:
        >>> LocalExecutor("cpu", 2).describe()
        '2 processes on the CPU, 1 thread each'
    """

    def __init__(
        self,
        device: str = "auto",
        workers_per_device: int | None = None,
        *,
        threads: int | None = 1,
        isolate: bool | None = None,
    ) -> None:
        first = pick_device(device)
        if workers_per_device is None:
            workers_per_device = available_cores() if first.type == "cpu" else 1
        check_whole_number(workers_per_device, "workers_per_device", 1)
        devices = [str(first)]
        if first.type == "cuda" and device in ("auto", "cuda"):
            devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        self.threads = threads if first.type == "cpu" else None
        self._devices, self._each = devices, workers_per_device
        isolate = first.type == "cpu" if isolate is None else isolate
        self._room = 1 if isolate else workers_per_device  # runs that a process does at a time
        self._workers = [
            _Worker(device, self._room) for _ in range(workers_per_device // self._room) for device in devices
        ]
        self._stopping = False

    def describe(self) -> str:
        """Say in a few words where the runs are done."""
        where = "the CPU" if self._devices == ["cpu"] else ", ".join(self._devices)
        count = len(self._workers)
        text = f"{count} process{'es' if count > 1 else ''} on {where}"
        if self._room > 1:
            text += f", {self._room} runs side by side in {'each' if count > 1 else 'it'}"
        return f"{text}, {self.threads} thread{'s' if self.threads > 1 else ''} each" if self.threads else text

    @property
    def free(self) -> int:
        """Number of jobs that could be begun now."""
        return 0 if self._stopping else sum(worker.room - len(worker.jobs) for worker in self._workers)

    def submit(self, job: Job) -> None:
        """Begin a job in the process that has the fewest."""
        worker = min(self._workers, key=lambda worker: len(worker.jobs))
        worker.begin(replace(job, device=worker.device, threads=self.threads, side_by_side=self._each))

    def events(self, timeout: float) -> list[Event]:
        """Return the news since the last call; wait at most ``timeout`` seconds for the first."""
        busy = [worker for worker in self._workers if worker.jobs]
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
    """A process that starts with its first job, and starts again if it has died."""

    def __init__(self, device: str, room: int) -> None:
        self.device, self.room = device, room
        self.jobs: dict[str, Job] = {}  # by the key of the run
        self.process: Any = None
        self.connection: Any = None
        self.asked = False

    def begin(self, job: Job) -> None:
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs,))  # no daemon: a run may start processes
            self.process.start()
            theirs.close()
        self.jobs[job.cell.config.key] = job
        with contextlib.suppress(OSError):  # a process that has died is found by its events
            # the key goes before the job, whose method the process may not know
            self.connection.send((job.cell.config.key, pickle.dumps(job)))

    def events(self) -> list[Event]:
        found: list[Event] = []
        died = not self.process.is_alive()  # before the last look at its messages
        try:
            while self.connection.poll():
                key, done, outcome = self.connection.recv()
                found.append((self.jobs[key], done, outcome))
                if outcome is not None:
                    del self.jobs[key]
        except (EOFError, OSError):
            died = True
        if died and self.jobs:
            self.process.join(GRACE)
            found += [(job, 0.0, self._death()) for job in self.jobs.values()]
            self.jobs.clear()
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
        whose = "its process" if self.room == 1 else "the process of all runs side by side"
        return Outcome("failed", f"{whose} {why}")

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
        self.jobs.clear()


# ---------------------------------------------------------------------- in the process
def _serve(connection: Connection) -> None:
    """Do jobs, each in a thread, until there are no more."""
    if hasattr(os, "setsid"):  # the sweep handles Ctrl-C, and then asks us to stop
        os.setsid()
    _end_with_parent()
    signal.signal(signal.SIGTERM, lambda signum, _: stop_threads(signum))
    one_at_a_time = threading.Lock()

    def tell(key: str, done: float, outcome: Outcome | None = None) -> None:
        with one_at_a_time:
            connection.send((key, done, outcome))

    def do(key: str, job: Job) -> None:
        try:
            with _own_stream(job.device):
                outcome = job.work([DoneReporter(lambda done: tell(key, done))])
        except BaseException as error:  # a full GPU without a stream, an exit: the sweep would wait forever
            outcome = Outcome("failed", f"its thread ended with {type(error).__name__}: {one_line(error)}")
        tell(key, 1.0, outcome)

    while True:
        try:
            key, pickled = connection.recv()
        except (EOFError, OSError):
            return
        try:
            job = pickle.loads(pickled)
        except Exception as error:  # of a method in a module that is not found here, or in a notebook
            reason = f"{error}; define its method in a module that other processes can import"
            tell(key, 0.0, Outcome("failed", f"its process could not load it: {reason}"))
            continue
        threading.Thread(target=do, args=(key, job), daemon=True).start()


def _own_stream(device: str) -> AbstractContextManager[Any]:
    """Launch a thread's work on a stream of a GPU that no other thread waits for."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if device.startswith("cuda") else contextlib.nullcontext()


def _end_with_parent() -> None:
    """End at once when the sweep's process is gone, however it ended; the next sweep goes on from the checkpoints."""
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
