"""Run a job in two processes of torch.distributed, with gloo on the CPU, and return both results."""

import os
import socket
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import get_context

PATIENCE = 900  # seconds after which processes have hung, on the busiest machine

needs_gloo = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available() or sys.platform == "win32", reason="needs gloo"
)


def _worker(rank, port, folder, job, arguments, environment):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **environment)
    os.environ.update({name: str(rank) for name in ("RANK", "LOCAL_RANK") if name in environment})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=PATIENCE - 100))
    torch.save(job(rank, *arguments), folder / f"rank{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


def in_two_processes(folder, job, *arguments, **environment):
    """Return ``job(rank, *arguments)`` of ranks 0 and 1; spawned processes need a function of a module."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = get_context("spawn")
    processes = [
        context.Process(target=_worker, args=(rank, port, folder, job, arguments, environment)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]
