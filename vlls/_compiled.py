"""Helpers for models that are compiled, captured in a CUDA graph or run under autocast."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "_orig_mod."  # torch.compile puts it before the names of a model's parameters


class Compiled(nn.Module):
    """A wrapper of a model that torch compiles at its first call, for inputs of one shape.

    If torch cannot compile the whole model, the call raises an error. The model keeps its hooks and its parameters'
    names. Unlike the module that ``torch.compile`` returns, this one calls hooks that are registered for all modules
    once and without a warning, such as the hook that keeps running statistics unchanged.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

        def call(*args: Any) -> Any:
            return model.forward(*args)

        call.__code__ = call.__code__.replace()  # torch compiles a code object at most eight times
        self._call = torch.compile(call, fullgraph=True, dynamic=False)

    def forward(self, *args: Any) -> Any:
        """Return the model's output."""
        return self._call(*args)


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the model that ``torch.compile`` was given, or the model itself."""
    inner = getattr(model, PREFIX[:-1], None)
    return inner if isinstance(inner, nn.Module) else model


def capturing(tensors: Iterable[Tensor]) -> bool:
    """Whether a CUDA graph is captured on the tensors' device, so that no number can be read."""
    return any(tensor.is_cuda for tensor in tensors) and torch.cuda.is_current_stream_capturing()


def drop_cached_casts() -> None:
    """Clear the cache of a surrounding ``torch.autocast``, so that it casts weights again after a change in place."""
    if not torch.compiler.is_compiling():
        torch.clear_autocast_cache()
