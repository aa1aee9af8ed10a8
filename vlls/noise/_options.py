"""The options of an estimate of the label noise, and functions that take them as keywords."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, get_type_hints

import torch
from torch import Tensor, nn

from vlls._validation import check_generator, check_known, check_whole_number
from vlls.families import Family
from vlls.posterior import _AnyPosterior

P = ParamSpec("P")
Options = TypeVar("Options")
T = TypeVar("T")

METHODS = ("exact", "rank", "direction", "monte_carlo")


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """The keywords of :func:`.label_noise_moments`, which explains them."""

    method: str = "exact"
    family: Family | None = None
    rank: int = 3
    num_samples: int = 64
    antithetic: bool = False
    curvature_pairs: int = 4
    linear: bool = False
    memory_limit: float | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_known(self.method, METHODS, "method")
        check_generator(self.generator)
        check_whole_number(self.num_samples, "num_samples", 2 if self.method == "monte_carlo" else 1)
        if self.antithetic and (self.num_samples % 2 or self.num_samples < 4):
            raise ValueError(f"num_samples={self.num_samples!r}; antithetic draws need an even number from 4")
        check_whole_number(self.rank, "rank", 1)
        check_whole_number(self.curvature_pairs, "curvature_pairs", 0)


Plain = Callable[[nn.Module, _AnyPosterior, Tensor, Options], T]
Called = Callable[Concatenate[nn.Module, _AnyPosterior, Tensor, P], T]


def keywords(options: Callable[P, Options]) -> Callable[[Plain[Options, T]], Called[P, T]]:
    """Make the fields of the options keywords of a function of a model, a posterior, a batch and options."""

    def decorate(function: Plain[Options, T]) -> Called[P, T]:
        @wraps(function)
        def call(model: nn.Module, posterior: _AnyPosterior, x: Tensor, *args: P.args, **kwargs: P.kwargs) -> T:
            return function(model, posterior, x, options(*args, **kwargs))

        hints = {**get_type_hints(function), **get_type_hints(options)}
        *first, _ = inspect.signature(function).parameters.values()
        shown = [p.replace(annotation=hints[p.name]) for p in (*first, *inspect.signature(options).parameters.values())]
        call.__signature__ = inspect.Signature(shown, return_annotation=hints["return"])  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in shown} | {"return": hints["return"]}
        return call

    return decorate
