"""Checks of a network, a posterior over its parameters, and a batch; and the memory that an estimate may take."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlls._names import kind_of
from vlls._validation import is_number, whole_labels

MEBIBYTE = 1 << 20
_BATCH = nn.modules.batchnorm._BatchNorm
_MISFIT = re.compile(
    "dtype|scalar type|shape|size|dimension|channel|on the same device|out of range|missing [0-9]+ required",
    re.IGNORECASE,
)

TOGETHER = (
    "the logits of an example change with the others of its batch (statistics of the batch, attention or a softmax "
    "along the first axis, as nn.TransformerEncoderLayer has it without batch_first=True), so that its noise is not "
    "its own; let the model treat each example by itself"
)


def memory_aim(memory_limit: float | None, device: torch.device) -> float:
    """Return the bytes that temporaries may take for a limit in MiB; None is 64 on a CPU and 2048 on a GPU."""
    if memory_limit is None:
        memory_limit = 2048 if device.type == "cuda" else 64
    elif not is_number(memory_limit) or not memory_limit > 0:
        raise ValueError(f"memory_limit={memory_limit!r}; pass a positive number of MiB")
    return memory_limit * MEBIBYTE


def available_memory(device: torch.device) -> int:
    """Return the free bytes of a device's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 << 30  # the system does not report it


def check_batch(x: Tensor) -> None:
    """Raise a ValueError unless ``x`` is a batch with at least one example."""
    if not isinstance(x, Tensor):
        raise ValueError(f"x is {kind_of(x)}; pass a tensor of inputs, (B, ...)")
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; pass a batch of at least one example, (B, ...)")


@contextmanager
def passes(x: Tensor) -> Iterator[None]:
    """Re-raise a model's shape or dtype error as a ValueError that describes the input."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # batch statistics of one example
            raise
        raise ValueError(TOGETHER) from error
    except (RuntimeError, TypeError, IndexError) as error:
        if not _MISFIT.search(str(error)):
            raise
        raise ValueError(
            f"the model fails on an example of x, which has shape {tuple(x.shape)} and dtype {x.dtype}, on {x.device} "
            f"({_first_line(error)}); pass inputs as the model takes them"
        ) from error


def items_of(dataset: Any, batch_size: int, **options: Any) -> Iterator[Any]:
    """Yield the items of a data set in batches, after a check that it is none of a few things that people pass."""
    if isinstance(dataset, tuple | Mapping):
        raise ValueError(
            f"dataset is {kind_of(dataset)}; pass the tensor of its inputs, a list of items or a data set, such as "
            "torch.utils.data.TensorDataset(inputs, labels)"
        )
    try:
        yield from DataLoader(dataset, batch_size=batch_size, **options)
    except RuntimeError as error:
        if "equal size" not in str(error):
            raise
        told = "the items of the data set differ in size"
        raise ValueError(f"{told} ({_first_line(error)}); make them alike, or pass batch_size=1") from error


@contextmanager
def forward_derivatives(instead: str) -> Iterator[None]:
    """Re-raise torch's error of a missing forward derivative as a ValueError that says what to do."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        if not isinstance(error, NotImplementedError) and not re.search("functorch|data pointer", str(error)):
            raise
        raise ValueError(
            f"an operation of the model cannot be differentiated forward ({_first_line(error)}); {instead}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0].rstrip(".")


def check_mode(model: nn.Module) -> None:
    """Raise a ValueError if a module in training mode would draw random numbers or mix the examples of a batch."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        if module.training and (isinstance(module, _BATCH) or _draws(module) or _tracks(module)):
            raise ValueError(
                f"the model's {kind} {name!r} is in training mode, where logits depend on chance or on the rest of the "
                "batch; call model.eval() first"
            )
        if isinstance(module, _BATCH) and module.running_mean is None:
            raise ValueError(
                f"the model's {kind} {name!r} keeps no running statistics, so that logits depend on the rest of the "
                "batch; make it with track_running_stats=True"
            )


def _draws(module: nn.Module) -> bool:
    """Whether a module in training mode draws random numbers."""
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return module.dropout > 0
    return isinstance(module, nn.modules.dropout._DropoutNd | nn.RReLU)


def _tracks(module: nn.Module) -> bool:
    """Whether a forward pass in training mode changes the next one."""
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return bool(module.track_running_stats)
    hooks = (type(hook).__name__ for hook in module._forward_pre_hooks.values())
    return type(module).__name__ == "_SpectralNorm" or "SpectralNorm" in hooks


def check_logits(logits: Tensor, num: int) -> Tensor:
    """Raise a ValueError unless the model returned (B, K) finite logits for ``num`` examples."""
    wanted = f"for {num} example(s); it has to return logits of shape ({num}, K)"
    if not isinstance(logits, Tensor):
        raise ValueError(f"the model returned {kind_of(logits)} {wanted}: wrap it in a module whose forward does")
    if logits.ndim != 2 or len(logits) != num or logits.shape[1] == 0:
        raise ValueError(f"the model returned shape {tuple(logits.shape)} {wanted}")
    if not logits.is_floating_point() or logits.layout != torch.strided:
        raise ValueError(f"the model returned {logits.dtype}, {logits.layout}, {wanted}, dense and of real floats")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the model returned logits that are NaN or infinite; look at its weights and its inputs")
    return logits


def check_labels(labels: Any, num: int, num_classes: int) -> Tensor:
    """Return labels (N,) as int64, or raise a ValueError if their number or range is wrong."""
    labels = whole_labels(labels, num_classes=num_classes)
    if labels.shape != (num,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}; {num} examples need ({num},)")
    outside = (labels < 0) | (labels >= num_classes)
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        raise ValueError(
            f"labels[{at}] is {int(labels[at])} and the model has {num_classes} classes; labels go from 0 to "
            f"{num_classes - 1}"
        )
    return labels
