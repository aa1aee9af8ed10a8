"""Sizes of an experiment: as in the paper, reduced, or small enough to see it run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from vlls._names import check_known
from vlls.data import DATASETS
from vlls.train._config import RunConfig

Fields = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """A size to run experiments at.

    Attributes:
        name: what the command line calls it.
        text: what it is, for people.
        seeds: number of seeds, unless told otherwise.
        held_out: share of the training images that is held out where a hyperparameter is chosen by them.
        apply: makes the fields of :class:`.RunConfig` of this size from those of the paper's.
    """

    name: str
    text: str
    seeds: int
    held_out: float
    apply: Callable[[Fields], Fields]


def _paper(fields: Fields) -> Fields:
    measuring = {"eval_every": 1} if fields["dataset"] == "clothing1m" else {"eval_every": 10, "thorough_every": 50}
    return {**fields, **measuring}


def _reduced(fields: Fields) -> Fields:
    if fields["dataset"] == "clothing1m":
        return {**fields, "train_size": 50_000, "image_size": 112, "epochs": 5}
    small: Fields = {"model": "resnet18", "train_size": 10_000, "epochs": 60}
    if fields["dataset"] == "cifar100":  # a hundred images of a class would be few
        small |= {"train_size": 20_000, "epochs": 40}
    return {**fields, **small, "eval_every": 10, "thorough_every": small["epochs"]}


def _smoke(fields: Fields) -> Fields:
    if fields["dataset"] == "clothing1m":
        small: Fields = {"dataset": "clothing1m_miniature", "image_size": 32, "epochs": 8}
        return {**fields, **small, "eval_every": 8, "thorough_every": 8, "eval_samples": 4}
    if fields.get("labels"):  # there are human labels for CIFAR only
        small = {"model": "cnn3", "train_size": 2_000, "epochs": 20}
        return {**fields, **small, "eval_every": 20, "thorough_every": 20, "eval_samples": 2}
    return {**fields, "dataset": "digits", "epochs": 30, "eval_every": 30, "thorough_every": 30}


_ALL = (
    Protocol("paper", "the paper's network, data, batch, epochs and 5 seeds; a GPU, minutes a run", 5, 0.1, _paper),
    Protocol("reduced", "ResNet-18, a part of the images, 40 or 60 epochs; a GPU, seconds a run", 3, 0.1, _reduced),
    Protocol("smoke", "a 3-layer CNN on small images; a CPU, seconds a run", 1, 0.2, _smoke),
)
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({entry.name: entry for entry in _ALL})
"""The protocols by name, the highest first."""


def protocol(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        ValueError: for an unknown one, naming the closest.

    Example:
        >>> protocol("smoke").apply({"dataset": "cifar10", "method": "ivon"})["dataset"]
        'digits'
    """
    check_known(name, tuple(PROTOCOLS), "protocol")
    return PROTOCOLS[name]


def title_of(dataset: str) -> str:
    """Return the name of a data set in figures, such as CIFAR-10."""
    known = DATASETS.get(dataset)
    return known.title or known.name if known is not None else dataset


def reductions(paper: RunConfig, config: RunConfig) -> str:
    """Return in words what makes a run smaller than the paper's; empty if nothing does."""
    before, after = paper.resolved(), config.resolved()
    told = []
    if after.dataset != before.dataset:
        told.append(f"{title_of(after.dataset)} instead of {title_of(before.dataset)}")
    if after.model != before.model:
        told.append(f"{after.model} instead of {before.model}")
    if after.train_size != before.train_size and after.train_size is not None:
        told.append(f"{after.train_size:,} training images instead of all")
    if after.image_size != before.image_size:
        told.append(f"{after.image_size} pixels instead of {before.image_size or 224}")
    if after.epochs != before.epochs:
        told.append(f"{after.epochs} epochs instead of {before.epochs}")
    return ", ".join(told)
