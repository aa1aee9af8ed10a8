"""Small runs that the tests of training share."""

from __future__ import annotations

import torch

from vlls.train import RunConfig

TINY = {"dataset": "digits", "corruption": "symmetric", "rate": 0.4, "train_size": 300, "epochs": 3, "eval_samples": 2}


def tiny(**changes) -> RunConfig:
    """A run of seconds."""
    return RunConfig(**{**TINY, **changes})


def without_machine(record: dict) -> dict:
    """The part of a record that follows from the config."""
    return {name: value for name, value in record.items() if name != "machine"}


def differences(a, b, path="") -> list[str]:
    """Where two nests of dictionaries, lists, tensors and numbers are not equal, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [f"{path}.{key} in one only" for key in a.keys() ^ b.keys()]
        return keys + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, pair in enumerate(zip(a, b, strict=True)) for d in differences(*pair, f"{path}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    return [] if type(a) is type(b) and (a == b or (a != a and b != b)) else [f"{path}: {a!r} != {b!r}"]
