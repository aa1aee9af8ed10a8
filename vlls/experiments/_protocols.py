"""Sizes of an experiment: as in the paper, reduced, or small enough to see it run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vlls._names import check_known
from vlls.data import DATASETS
from vlls.train._config import RunConfig
from vlls.train.methods import METHODS

Fields = dict[str, Any]


def _any(fields: Fields) -> bool:
    """Take every panel."""
    return True


@dataclass(frozen=True)
class Protocol:
    """A size to run experiments at.

    Attributes:
        name: on the command line.
        text: its description for people.
        seeds: number of seeds by default.
        held_out: share of the training images that is held out where a hyperparameter is chosen by them; 0 if no runs
            are made for it: every run holds images out, or none does.
        apply: makes the fields of :class:`.RunConfig` of this size from those of the paper's.
        takes: whether there is a panel with these fields at this size.
        compiled: whether runs on a GPU compile their network by default, because they are long enough for it to pay.
    """

    name: str
    text: str
    seeds: int
    held_out: float
    apply: Callable[[Fields], Fields]
    takes: Callable[[Fields], bool] = field(default_factory=lambda: _any)
    compiled: bool = False


def _paper(fields: Fields) -> Fields:
    measuring = {"eval_every": 1} if fields["dataset"] == "clothing1m" else {"eval_every": 10, "thorough_every": 50}
    return {**fields, **measuring}


def _short(fields: Fields) -> Fields:
    if fields["dataset"] == "clothing1m":
        return _reduced(fields)
    return {**fields, "model": "resnet18", "epochs": 30, "eval_every": 2, "thorough_every": 30}


def _probe(fields: Fields) -> Fields:
    """The first epochs of the paper's runs: the learning rate stays at its peak, which IVON reaches after five."""
    method = METHODS[fields["method"]]
    warms_up = method.variational or fields.get("warmup_epochs")
    begun: Fields = {"epochs": 10, "warmup_epochs": 5.0} if warms_up else {"epochs": 5}
    if "beta2" in method.reads:
        begun["beta2"] = 0.99999
    return {**fields, **begun, "schedule": "constant", "eval_every": 1, "thorough_every": 5, "eval_samples": 0}


def _reduced(fields: Fields) -> Fields:
    if fields["dataset"] == "clothing1m":
        return {**fields, "train_size": 50_000, "image_size": 112, "epochs": 5}
    small: Fields = {"model": "resnet18", "train_size": 10_000, "epochs": 60}
    if fields["dataset"] == "cifar100":  # a hundred images of a class would be few
        small |= {"train_size": 20_000, "epochs": 40}
    return {**fields, **small, "eval_every": 10, "thorough_every": small["epochs"]}


# Factors of the paper's learning rates. Of three rates each, these predict the given labels of 10,000 held-out images
# best (40 % symmetric errors, seed 0): 0.02 among 0.01, 0.02, 0.05 for LS and SAM, and 0.05 among 0.02, 0.05, 0.1 for
# IVON. SGD, which is LS at α = 0, takes LS's rate; a smaller step is among the controls.
# Learning rates over those of CIFAR-10, by whether the method is variational
_MNIST_LR, _DIGITS_LR = {True: 0.25, False: 0.4}, {True: 0.5, False: 1.0}
_MNIST_PANELS = {("symmetric", 0.4), ("pair_flip", 0.2), ("pair_flip", 0.4)}
_MNIST_PANELS |= {("class_dependent", base_rate) for base_rate in (0.1, 0.3, 0.5)}


def _mnist(fields: Fields) -> Fields:
    variational = METHODS[fields["method"]].variational
    peak = fields.get("lr", 0.2 if variational else 0.05) * _MNIST_LR[variational]
    small = {"dataset": "mnist", "train_size": 5_000, "validation_size": 5_000, "epochs": 12, "lr": peak}
    return {**fields, **small, "eval_every": 3, "thorough_every": 12, "eval_samples": 4}


def _has_mnist(fields: Fields) -> bool:
    return fields["dataset"] == "cifar10" and (fields.get("corruption"), fields.get("rate")) in _MNIST_PANELS


def _smoke(fields: Fields) -> Fields:
    if fields["dataset"] == "clothing1m":
        small: Fields = {"dataset": "clothing1m_miniature", "image_size": 32, "epochs": 8}
        return {**fields, **small, "eval_every": 8, "thorough_every": 8, "eval_samples": 4}
    if fields.get("labels"):  # there are human labels for CIFAR only
        small = {"model": "cnn3", "train_size": 2_000, "epochs": 20}
        return {**fields, **small, "eval_every": 20, "thorough_every": 20, "eval_samples": 2}
    rate = {"lr": fields["lr"] * _DIGITS_LR[METHODS[fields["method"]].variational]} if "lr" in fields else {}
    return {**fields, **rate, "dataset": "digits", "epochs": 30, "eval_every": 30, "thorough_every": 30}


_ALL = (
    Protocol(
        "paper",
        "the paper's network, data, batch, epochs and 5 seeds; a GPU, minutes a run",
        5,
        0.1,
        _paper,
        compiled=True,
    ),
    Protocol(
        "short",
        "ResNet-18, all images, 30 epochs, as in the book; a GPU, a minute or two a run",
        3,
        0.0,
        _short,
        compiled=True,
    ),
    Protocol("reduced", "ResNet-18, a part of the images, 40 or 60 epochs; a GPU, seconds a run", 3, 0.1, _reduced),
    Protocol("mnist", "a 3-layer CNN, 5,000 images of MNIST; a CPU, half a minute a run", 3, 0.0, _mnist, _has_mnist),
    Protocol("smoke", "a 3-layer CNN on small images; a CPU, seconds a run", 1, 0.2, _smoke),
    Protocol("probe", "the first 5 or 10 epochs of the paper's runs; a GPU, a minute a run", 1, 0.0, _probe),
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
