"""What torch does behind a model that is compiled or runs under autocast."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["PREFIX", "drop_cached_casts", "uncompiled"]

PREFIX = "_orig_mod."
"""What torch.compile puts before the names of a model's parameters."""


def uncompiled(model: nn.Module) -> nn.Module:
    """The model that ``torch.compile`` was given, or the model itself."""
    inner = getattr(model, PREFIX[:-1], None)
    return inner if isinstance(inner, nn.Module) else model


def drop_cached_casts() -> None:
    """Let a surrounding ``torch.autocast`` cast the weights again, after they were changed in place.

    It keeps each weight in half precision until its block ends, whatever becomes of the weight. While torch compiles
    there is nothing to drop.
    """
    if not torch.compiler.is_compiling():
        torch.clear_autocast_cache()
