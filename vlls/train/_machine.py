"""The machine that a run is on: its device, processes and signals, and what of them the record tells."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

import vlls
from vlls.optim import IVON
from vlls.optim._cpu import _library

if TYPE_CHECKING:
    from vlls.train._trainer import Trainer

__all__ = [
    "circumstances",
    "gathered",
    "pick_device",
    "process_group",
    "processor",
    "provenance",
    "signals_put_off",
    "stop_signals",
    "synchronize",
]


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device that a run was asked for; each process that ``torchrun`` started gets a GPU of its own.

    Args:
        device: ``"auto"``, or as torch names them.

    Raises:
        ValueError: if there is no such device.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if count else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device={str(device)!r} is unknown; choose auto, cpu, cuda or cuda:0")
    if place.type == "cpu":
        return place
    if not count:
        raise ValueError(f"device={str(device)!r} was asked for and torch finds no GPU; choose device=cpu or auto")
    index = int(os.environ.get("LOCAL_RANK", 0)) if place.index is None else place.index
    if index >= count:
        raise ValueError(f"device=cuda:{index} was asked for and there are {count} GPUs; choose one below {count}")
    return torch.device("cuda", index)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what this thread sent it: a clock that is read sooner tells too little.

    It waits for the current stream where the device has streams, so that a run does not wait for others beside it.
    """
    if device.type == "cpu":
        return
    module = torch.get_device_module(device)
    if hasattr(module, "current_stream"):
        module.current_stream(device).synchronize()
    else:  # MPS
        module.synchronize()


@contextmanager
def process_group(device: torch.device) -> Iterator[int]:
    """The rank of this process; where ``torchrun`` started several, they are joined for the time being."""
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
    """A value of every process, in the order of their ranks; all must call."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The signals that have asked this process to stop; a second one stops it at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked  # Python handles signals in the main thread alone
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
    """Let a signal that asks to stop wait for the end of the block, which would leave something half begun."""
    asked: list[int] = []
    try:
        with stop_signals() as asked:
            yield
    finally:
        for signum in asked:
            signal.raise_signal(signum)


def circumstances(trainer: Trainer) -> dict[str, Any]:
    """The things outside of the config that a run's numbers depend on."""
    device = trainer.device
    return {
        "executor": executor(trainer.optimizer),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "processes": trainer.world,
        "torch": str(torch.__version__),
        "vlls": vlls.__version__,
    }


def provenance(trainer: Trainer) -> dict[str, Any]:
    """Circumstances, peak memory, versions, commit and date."""
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
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _peak_resident() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """The commit of the checkout that this package runs from, if it does."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def executor(optimizer: torch.optim.Optimizer) -> str:
    """The code that takes an optimizer's steps; IVON's random numbers and everybody's last digits depend on it.

    Returns:
        ``"torch fused"``, or of IVON ``"cpu ivon-HASH"`` (the compiled kernel: its source, compiler options and
        processor), ``"cuda triton VERSION"``, and without them ``"single"`` or ``"foreach"``.
    """
    if not isinstance(optimizer, IVON):
        return "torch fused"
    cuda = optimizer.param_groups[0]["params"][0].is_cuda
    if not optimizer.fused:
        return "foreach" if cuda else "single"
    return f"cuda triton {importlib.metadata.version('triton')}" if cuda else f"cpu {Path(_library()._name).stem}"
