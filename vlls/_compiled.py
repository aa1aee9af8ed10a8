"""Helpers for models that are compiled, captured in a CUDA graph or run under autocast."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "_orig_mod."  # torch.compile puts it before the names of a model's parameters


class Compiled(nn.Module):
    """A model's twin that torch compiles at its first call, for inputs of one shape; an error where it cannot.

    The model itself stays as it is: its hooks and the names of its parameters are its own. It differs from the module
    that ``torch.compile`` returns in that hooks of all modules, such as those of an optimizer that keeps running
    statistics still, hear of it once and without a warning.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

        def call(*args: Any) -> Any:
            return model.forward(*args)

        call.__code__ = call.__code__.replace()  # torch compiles one code object eight times, and then no more
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
    """Let a surrounding ``torch.autocast``, which keeps its casts, cast weights again that were changed in place."""
    if not torch.compiler.is_compiling():
        torch.clear_autocast_cache()
