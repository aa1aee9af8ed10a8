"""The machine that a run is on: its device, processes and signals, and its description for the record."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

import vlls

if TYPE_CHECKING:
    from vlls.train._trainer import Trainer


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device by its name; each process that ``torchrun`` started gets its own GPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if count else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r} is unknown; choose auto, cpu, cuda or cuda:0")
    if found.type == "cpu":
        return found
    if not count:
        raise ValueError(f"device={str(device)!r} was asked for and torch finds no GPU; choose device=cpu or auto")
    index = int(os.environ.get("LOCAL_RANK", 0)) if found.index is None else found.index
    if index >= count:
        raise ValueError(f"device=cuda:{index} was asked for and there are {count} GPUs; choose one below {count}")
    return torch.device("cuda", index)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done the work that this thread launched; read a clock only after that.

    On a device with streams it waits only for the current one, not for other runs.
    """
    if device.type == "cpu":
        return
    module = torch.get_device_module(device)
    (module.current_stream(device) if hasattr(module, "current_stream") else module).synchronize()  # MPS has no streams


@contextmanager
def process_group(device: torch.device) -> Iterator[int]:
    """Join the processes that ``torchrun`` started within the block, and yield this one's rank."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if several:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank() if dist.is_initialized() else 0
    finally:
        if several:
            dist.destroy_process_group()


def gathered(value: Any) -> list[Any]:
    """Return the value of every process, in the order of their ranks; all processes must call this."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


_runs_in_threads: dict[int, list[int]] = {}  # signals for each run outside of the main thread
_told_to_all: list[int] = []


def stop_threads(signum: int) -> None:
    """Ask runs outside of the main thread to stop, also those that begin later: they receive no signals."""
    _told_to_all.append(signum)
    for asked in list(_runs_in_threads.values()):
        asked.append(signum)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the signals that ask this process to stop; a second one stops it at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread alone
        _runs_in_threads[id(asked)] = asked
        asked += _told_to_all
        try:
            yield asked
        finally:
            del _runs_in_threads[id(asked)]
        return

    def note(signum: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def signals_put_off() -> Iterator[None]:
    """Delay signals that ask to stop until the end of the block."""
    asked: list[int] = []
    try:
        with stop_signals() as asked:
            yield
    finally:
        for signum in asked:
            signal.raise_signal(signum)


# ---------------------------------------------------------------------- description
def circumstances(trainer: Trainer) -> dict[str, Any]:
    """Return the things outside of the config that a run's numbers depend on."""
    device = trainer.device
    return {
        "executor": getattr(trainer.optimizer, "executor", "torch fused"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "compiled": trainer.compiled,
        "threads": torch.get_num_threads(),
        "processes": trainer.world,
        "torch": str(torch.__version__),
        "vlls": vlls.__version__,
    }


def provenance(trainer: Trainer) -> dict[str, Any]:
    """Return circumstances, peak memory, versions, commit and date."""
    device = trainer.device
    return {
        **circumstances(trainer),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_resident(),
        "cuda_graph": trainer.captured,
        "python": platform.python_version(),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def processor() -> str:
    """Return the name of the processor."""
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _peak_resident() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@cache
def _commit() -> str | None:
    """Return the commit of the checkout that this package runs from, or None outside of one."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
