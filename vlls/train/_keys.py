"""Keys of runs: hashes of the fields that a method reads, which no new field and no new method changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlls._files import expanded
from vlls.train.methods import unread_by

if TYPE_CHECKING:
    from vlls.train._config import RunConfig

_FIRST = (  # the fields of the last version whose keys hashed every field
    "dataset labels train_size validation_size image_size corruption rate rate_step method model pretrained epochs "
    "batch_size lr schedule warmup_epochs milestones momentum weight_decay smoothing alpha margin rho ess hess_init "
    "beta2 hess_approx clip_radius mc_samples augment precision eval_every thorough_every eval_samples seed"
).split()
# For each field of a resolved config the value that runs had before the field existed: a field with this value is left
# out of the key. Add a new field here, and never change one: that would rename the runs that people keep.
INTRODUCED: dict[str, Any] = dict.fromkeys(_FIRST) | {"dataset": "digits", "method": "ivon", "precision": "auto"}
INTRODUCED |= {"validation_size": 0, "eval_every": 1, "eval_samples": 8, "seed": 0, "options": {}}
INTRODUCED |= {"corruption": "none", "rate": 0.0, "rate_step": 0.0}
INTRODUCED |= {"ema": None, "posterior": "paper", "hess_clip": None, "hess_every": 1}


def counted(config: RunConfig) -> dict[str, Any]:
    """Return the fields that enter the key of a resolved config: those read whose value is not :data:`INTRODUCED`'s."""
    unread, found = unread_by(config.method), {}
    for name in (field.name for field in fields(config)):
        value, default = _plain(getattr(config, name)), _plain(INTRODUCED[name])
        same = value == default and type(value) is type(default)  # True is not 1
        if not same and not (value is None and name in unread):
            found[name] = value
    return found


def run_key(config: RunConfig) -> str:
    """Return twelve hexadecimal digits of a hash of the :func:`counted` fields of a resolved config."""
    return first_key(counted(config))


def first_key(values: Mapping[str, Any]) -> str:
    """Return a hash of all values; for a resolved config it was the key in older versions."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def older_key(config: RunConfig) -> str:
    """Return the key that the last version which hashed every field gave to a resolved config.

    If a run needs a field that this version did not have, its present key is returned.
    """
    if counted(config).keys() - set(_FIRST):
        return run_key(config)
    values = config.to_dict()
    return first_key({name: values[name] for name in _FIRST})


def run_folder(runs: Path, config: RunConfig) -> Path:
    """Return the folder of a run by its name, or the one that an older version named, if only that exists."""
    runs = expanded(runs)
    folder = runs / config.name
    older = [] if folder.exists() else sorted(runs.glob(f"*-{older_key(config)}"))
    return older[0] if older else folder


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it, with one form for numbers that are equal."""
    if isinstance(value, Mapping):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value  # 1.0 is 1, and -0.0 is 0
