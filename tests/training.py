"""Small runs for the tests of training."""

from __future__ import annotations

import json
import signal

import numpy as np
import torch

from vlls.train import Reporter, RunConfig

TINY = {"dataset": "digits", "corruption": "symmetric", "rate": 0.4, "train_size": 300, "epochs": 3, "eval_samples": 2}


def tiny(**changes) -> RunConfig:
    """Return the config of a run that takes seconds."""
    return RunConfig(**{**TINY, **changes})


def normalizing() -> torch.nn.Sequential:
    """A network of the digits with running statistics, quicker than a ResNet."""
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(216, 10))


def without_machine(record: dict) -> dict:
    """Return the part of a record that follows from the config."""
    return {name: value for name, value in record.items() if name != "machine"}


def differences(a, b, path="") -> list[str]:
    """List the differences between two nests of dictionaries, lists, tensors and numbers, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [f"{path}.{key} in one only" for key in a.keys() ^ b.keys()]
        return keys + [d for key in a.keys() & b.keys() for d in differences(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, pair in enumerate(zip(a, b, strict=True)) for d in differences(*pair, f"{path}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    return [] if type(a) is type(b) and (a == b or (a != a and b != b)) else [f"{path}: {a!r} != {b!r}"]


def relative_difference(a, b) -> float:
    """Return the distance of two models or states, relative to the size of the second."""
    states = (one.state_dict() if isinstance(one, torch.nn.Module) else one for one in (a, b))
    a, b = (torch.cat([value.double().reshape(-1).cpu() for value in state.values()]) for state in states)
    return float((a - b).norm() / b.norm())


def saved(folder):
    """Return the run's last checkpoint without its time, and the record's reproducible part."""
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    checkpoint.pop("seconds")  # the only entry that depends on time
    return checkpoint, without_machine(json.loads((folder / "record.json").read_text()))


class StopAt(Reporter):
    """Ask the run to stop after a step, as Ctrl-C or a scheduler does."""

    def __init__(self, at, signum=signal.SIGTERM):
        self.at, self.signum = at, signum

    def step(self, step):
        if step == self.at:
            signal.raise_signal(self.signum)


def photographs(root, classes=("cat", "dog"), each=30):
    from PIL import Image  # here because it needs an extra

    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            picture = rng.integers(0, 100, (40, 50, 3)).astype(np.uint8)
            picture[:, :, k] += 120
            Image.fromarray(picture).save(root / name / f"{i}.png")
    return root
