"""Compiled models are seen as what was compiled, whose parameters have their plain names."""

from __future__ import annotations

from torch import nn

__all__ = ["PREFIX", "uncompiled"]

PREFIX = "_orig_mod."
"""What torch.compile puts before the names of a model's parameters."""


def uncompiled(model: nn.Module) -> nn.Module:
    """The model that ``torch.compile`` was given, or the model itself."""
    inner = getattr(model, PREFIX[:-1], None)
    return inner if isinstance(inner, nn.Module) else model
