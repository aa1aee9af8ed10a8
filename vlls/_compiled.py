"""Helpers for models that are compiled, captured in a CUDA graph or run under autocast."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PREFIX = "_orig_mod."  # torch.compile puts it before the names of a model's parameters


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model that ``torch.compile`` was given, or the model itself."""
    inner = getattr(model, PREFIX[:-1], None)
    return inner if isinstance(inner, nn.Module) else model


def capturing(tensors: Iterable[Tensor]) -> bool:
    """Whether a CUDA graph is captured on the tensors' device, so that no number can be read."""
    return any(tensor.is_cuda for tensor in tensors) and torch.cuda.is_current_stream_capturing()


def drop_cached_casts() -> None:
    """Let a surrounding ``torch.autocast``, which keeps its casts, cast weights again that were changed in place."""
    if not torch.compiler.is_compiling():
        torch.clear_autocast_cache()
