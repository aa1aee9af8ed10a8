"""The machine that a run is on: its device, processes and signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

__all__ = [
    "gathered",
    "pick_device",
    "process_group",
    "signals_put_off",
    "stop_signals",
    "synchronize",
]


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device by its name; each process that ``torchrun`` started gets a GPU of its own.

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

    Of a device with streams, only the current one is waited for: not the runs beside this one.
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
    """Join the processes that ``torchrun`` started, for the length of the block, and give this one's rank."""
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


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the signals that ask this process to stop; a second one stops it at once."""
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
    """Delay signals that ask to stop until the end of the block."""
    asked: list[int] = []
    try:
        with stop_signals() as asked:
            yield
    finally:
        for signum in asked:
            signal.raise_signal(signum)
