"""The executor that does the runs of a sweep on a Ray cluster, whose machines may come and go."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlls._errors import needs
from vlls._validation import check_whole_number
from vlls.experiments._folder import MANIFEST
from vlls.experiments._jobs import Event, Job, Outcome

__all__ = ["RayExecutor"]

RETRIES = 20  # of a run whose machine or process went away
TOLD = 0.2  # seconds between looks at the tasks' messages


class RayExecutor:
    """Tasks of a Ray cluster, one a run.

    Where the machines share the results folder, a run whose machine went away goes on elsewhere from its checkpoint;
    where they do not, it starts again from the beginning, and the record is sent back. All machines need ``vlls`` with
    its extras ``train`` and ``ray``, and the data sets.

    Args:
        address: of the cluster: ``"auto"``, ``"host:port"`` or ``"ray://host:port"``; None starts Ray on this machine.
        device: ``"auto"`` (GPUs where the cluster has any), ``"cpu"`` or ``"cuda"``.
        workers_per_device: runs side by side on a GPU; on CPUs a run takes ``threads`` cores.
        threads: of torch in each run, on CPUs.
        timeout: seconds to wait for the cluster.

    Raises:
        ValueError: if Ray is not installed, the cluster cannot be reached or has nothing to run on.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        device: str = "auto",
        workers_per_device: int | None = None,
        threads: int = 1,
        timeout: float = 30.0,
    ) -> None:
        needs("ray", "a sweep on a cluster")
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device={device!r} is not for a cluster, which has many; choose auto, cpu or cuda")
        if workers_per_device is not None:
            check_whole_number(workers_per_device, "workers_per_device", 1)
        import ray

        self._ray = ray
        self._began = not ray.is_initialized()
        self._address = address
        _connect(ray, address, timeout)
        gpus = ray.cluster_resources().get("GPU", 0)
        if device == "cuda" and not gpus:
            self.close()
            raise ValueError("device='cuda' was asked for and the cluster has no GPU; choose auto or cpu")
        self._on_gpu = bool(gpus) and device != "cpu"
        self._each = workers_per_device or 1
        self._threads = threads
        self._options: dict[str, Any] = {"num_cpus": threads, "max_retries": RETRIES, "retry_exceptions": False}
        if self._on_gpu:
            self._options |= {"num_cpus": 1, "num_gpus": 1 / self._each}
        self._task = ray.remote(**self._options)(_work_there)
        self._jobs: dict[Any, Job] = {}
        self._stopping = False

    def describe(self) -> str:
        """Say in a few words where the runs are done."""
        nodes = sum(bool(node["Alive"]) for node in self._ray.nodes())
        where = "a Ray cluster" if self._address else "Ray on this machine"
        what = f"{self._each} on a GPU" if self._on_gpu else f"{self._threads} core{'s' * (self._threads > 1)} each"
        return f"{where}: {nodes} node{'s' * (nodes > 1)}, {self._slots} runs side by side, {what}"

    @property
    def _slots(self) -> int:
        resources: Mapping[str, float] = self._ray.cluster_resources()
        if self._on_gpu:
            return int(resources.get("GPU", 0) * self._each)
        return int(resources.get("CPU", 0) // self._threads)

    @property
    def free(self) -> int:
        """Number of jobs that could be begun now, with one more than can run, so that no machine has to wait."""
        return 0 if self._stopping else max(0, self._slots + 1 - len(self._jobs))

    def submit(self, job: Job) -> None:
        """Begin a job when a machine has room for it."""
        threads = None if self._on_gpu else self._threads
        job = replace(job, device="cuda" if self._on_gpu else "cpu", threads=threads)
        self._jobs[self._task.remote(job)] = job

    def events(self, timeout: float) -> list[Event]:
        """Return the news since the last call; wait at most ``timeout`` seconds for the first."""
        if not self._jobs:
            return []
        ready, _ = self._ray.wait(list(self._jobs), num_returns=1, timeout=timeout)
        return [(self._jobs.pop(reference), 1.0, self._outcome(reference)) for reference in ready]

    def _outcome(self, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
        except (self._ray.exceptions.TaskCancelledError, KeyboardInterrupt):
            return Outcome("stopped")
        except self._ray.exceptions.OutOfMemoryError:
            return Outcome("failed", "its machine ran out of memory; choose fewer --workers-per-device")
        except self._ray.exceptions.RayError as error:
            if self._stopping:
                return Outcome("stopped")
            first = str(error).strip().splitlines()[0]
            return Outcome("failed", f"its process or machine went away, or could not begin: {first}")
        return outcome

    def stop(self) -> None:
        """Ask all tasks to save their runs and end."""
        self._stopping = True
        for reference in self._jobs:
            with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(reference, force=False)

    def close(self) -> None:
        """Leave the cluster; tasks that are left end."""
        if self._began and self._ray.is_initialized():
            self._ray.shutdown()


def _connect(ray: Any, address: str | None, timeout: float) -> None:
    """Join a cluster, or start Ray here."""
    if ray.is_initialized():
        return
    try:
        if address is not None and ":" in address:  # Ray itself would try for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout).close()
        options = {"include_dashboard": False} if address is None else {}
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the Ray cluster {address!r} cannot be reached ({reason:.200}); start it with ray start --head, or pass "
            "its address"
        ) from error


def _work_there(job: Job) -> Outcome:
    """Do a job on this machine, in the results folder if it is shared, or else in a temporary one."""
    import tempfile

    if (job.runs.parent / MANIFEST).exists():  # the machines share the folder
        return job.work()
    folder = Path(tempfile.gettempdir()) / "vlls-sweep" / job.runs.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    return replace(job, runs=folder).work()
