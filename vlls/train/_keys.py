"""Keys of runs: hashes of the fields that a method reads, which no new field and no new method changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlls.train.methods import unread_by

if TYPE_CHECKING:
    from vlls.train._config import RunConfig

__all__ = ["INTRODUCED", "counted", "first_key", "older_key", "run_folder", "run_key"]

_FIRST = (  # the fields of the last version whose keys hashed every field
    "dataset labels train_size validation_size image_size corruption rate rate_step method model pretrained epochs "
    "batch_size lr schedule warmup_epochs milestones momentum weight_decay smoothing alpha margin rho ess hess_init "
    "beta2 hess_approx clip_radius mc_samples augment precision eval_every thorough_every eval_samples seed"
).split()
INTRODUCED: Mapping[str, Any] = MappingProxyType(
    {
        **dict.fromkeys(_FIRST),
        "dataset": "digits",
        "validation_size": 0,
        "corruption": "none",
        "rate": 0.0,
        "rate_step": 0.0,
        "method": "ivon",
        "precision": "auto",
        "eval_every": 1,
        "eval_samples": 8,
        "seed": 0,
        "options": {},
    }
)
"""The value of each field of a resolved config under which runs went before there was the field.

A field that has this value is left out of the key. Add a line for each new field, and never change one: that would
rename the runs that people keep.
"""


def counted(config: RunConfig) -> dict[str, Any]:
    """Return the fields that the key of a resolved config is a hash of, as JSON holds them.

    These are the fields that its method reads and whose values are not those of :data:`INTRODUCED`.

    Example:
        >>> from vlls.train import RunConfig
        >>> found = counted(RunConfig(method="ls", epochs=3).resolved())
        >>> found["method"], found["smoothing"], found["epochs"], "seed" in found, "rho" in found
        ('ls', 0.1, 3, False, False)
    """
    unread, found = unread_by(config.method), {}
    for name in (field.name for field in fields(config)):
        value, default = _plain(getattr(config, name)), _plain(INTRODUCED[name])
        same = value == default and type(value) is type(default)  # True is not 1
        if not same and not (value is None and name in unread):
            found[name] = value
    return found


def run_key(config: RunConfig) -> str:
    """Return twelve hexadecimal digits of a hash of the :func:`counted` fields of a resolved config."""
    return _hash(counted(config))


def first_key(values: Mapping[str, Any]) -> str:
    """Return the key of a run as older versions wrote it: they hashed every field that they had.

    Args:
        values: the fields of the resolved config, as a record or the list of a sweep holds them.
    """
    return _hash(values)


def older_key(config: RunConfig) -> str:
    """Return the key that the last version which hashed every field gave to a resolved config."""
    values = config.to_dict()
    return first_key({name: values[name] for name in _FIRST})


def run_folder(runs: Path, config: RunConfig) -> Path:
    """Return the folder of a run: the one of its name, or one that an older version named, if there is only that.

    Args:
        runs: the folder of runs.
        config: resolved.
    """
    folder = runs / config.name
    older = [] if folder.exists() else sorted(runs.glob(f"*-{older_key(config)}"))
    return older[0] if older else folder


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it, with one form for numbers that are equal."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():  # 1.0 is 1, and -0.0 is 0
        return int(value)
    return value


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
