"""IVON over several processes: every one draws its own sample, all make the same step."""

from __future__ import annotations

import warnings
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from vlls.optim._slot import Slot

__all__ = ["average_over_processes", "record_local_gradients", "several_processes", "warn_of_equal_samples"]


def several_processes() -> bool:
    """Whether torch.distributed has been started with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def record_local_gradients(slots: list[Slot]) -> list[RemovableHandle]:
    """Listen to this process's own gradients: DistributedDataParallel leaves only their average in param.grad.

    The curvature needs each process's gradient times its own noise; the average times the noise would halve it.
    """
    for slot in slots:
        slot.buffer("local").zero_()
    return [slot.param.register_hook(partial(_add_local, slot)) for slot in slots]


def _add_local(slot: Slot, grad: Tensor) -> None:
    with torch.no_grad():
        slot.buffer("local").add_(grad)


def average_over_processes(slots: list[Slot]) -> None:
    """Average gradient and statistic over the processes, with zeros where one has no gradient."""
    device, world = slots[0].param.device, dist.get_world_size()
    present = torch.tensor([slot.grad is not None for slot in slots], dtype=torch.float32, device=device)
    dist.all_reduce(present, op=dist.ReduceOp.MAX)
    waits = []
    for slot, anywhere in zip(slots, present.tolist(), strict=True):
        if not anywhere:
            continue
        if slot.grad is None or slot.statistic is None:
            slot.grad, slot.statistic = slot.buffer("grad").zero_(), slot.buffer("statistic").zero_()
        for tensor in (slot.grad, slot.statistic):
            waits.append(dist.all_reduce(tensor.div_(world), async_op=True))
    for wait in waits:
        wait.wait()


def warn_of_equal_samples(noise: Tensor) -> None:
    """Warn if all processes drew the same ``noise``, which makes many of them no better than one."""
    least = noise.flatten()[:8].double().sum().reshape(1)
    most = least.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    if torch.equal(least, most):
        warnings.warn(
            "all processes drew the same sample of the weights; seed each its own way after the model is built, "
            "for example torch.manual_seed(seed + torch.distributed.get_rank())",
            RuntimeWarning,
            stacklevel=5,
        )
