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
from vlls.posterior import LearnsPosterior, Posterior

P = ParamSpec("P")
Options = TypeVar("Options")
T = TypeVar("T")

METHODS = ("exact", "rank", "direction", "monte_carlo")
"""The estimators by name."""


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    r"""How label noise is estimated: the keywords of :func:`.label_noise` and :func:`.label_noise_moments`.

    Args:
        method: ``exact``, ``rank``, ``direction`` or ``monte_carlo``; :func:`.label_noise_moments` describes them.
        family: of the labels; :class:`.Categorical` if left out, :class:`.Bernoulli` for a single logit. A family with
            one natural parameter applies to each logit by itself.
        rank: directions of ``rank``, at least 1.
        num_samples: draws of the weights for ``monte_carlo`` (at least 2), of directions for ``direction``.
        antithetic: draw weights of ``monte_carlo`` in pairs m + d, m - d: the first-order part of the noise cancels
            from ``mean_shift``, whose error falls by orders of magnitude for a sharp posterior; that of ``magnitude``
            grows by up to a factor of 1.4.
        curvature_pairs: pairs of draws m + d, m - d with which ``exact`` and ``rank`` move the mean of the logits from
            f(m) to :math:`\mathbb E_q[f]`. In a linearised network the two are equal, in a real one they are not, and
            for ``mean_shift`` the difference is of the leading order (Chapter 6). Each pair costs two passes forward.
            A few do for ``magnitude``, whose order of the examples 0 pairs hardly change; ``mean_shift`` under a wide
            posterior takes 64, or ``monte_carlo``: ``standard_error`` tells.
        linear: give ``covariance`` and with it ``std`` and ``magnitude`` as Eq. 20 has them, :math:`A'' V A''`, without
            the curvature of A'. ``direction`` always does.
        memory_limit: MiB that temporaries may take; 64 on a CPU and 2048 on a GPU if left out.
        generator: for the draws, on the model's device. Without one ``exact`` and ``rank`` draw the same pairs in every
            call, the others go on from torch's global state.

    Raises:
        ValueError: if a value is not allowed.

    Example:
        >>> NoiseOptions(method="monte_carlo", num_samples=5, antithetic=True)
        Traceback (most recent call last):
        ValueError: num_samples=5; antithetic draws need an even number from 4
    """

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


def keywords(
    options: Callable[P, Options],
) -> Callable[
    [Callable[[nn.Module, Posterior | LearnsPosterior, Tensor, Options], T]],
    Callable[Concatenate[nn.Module, Posterior | LearnsPosterior, Tensor, P], T],
]:
    """Let a function of a model, a posterior, a batch and options take the fields of the options as its keywords."""

    def decorate(
        function: Callable[[nn.Module, Posterior | LearnsPosterior, Tensor, Options], T],
    ) -> Callable[Concatenate[nn.Module, Posterior | LearnsPosterior, Tensor, P], T]:
        @wraps(function)
        def call(
            model: nn.Module, posterior: Posterior | LearnsPosterior, x: Tensor, *args: P.args, **kwargs: P.kwargs
        ) -> T:
            return function(model, posterior, x, options(*args, **kwargs))

        hints = {**get_type_hints(function), **get_type_hints(options)}
        *first, _ = inspect.signature(function).parameters.values()
        shown = [p.replace(annotation=hints[p.name]) for p in (*first, *inspect.signature(options).parameters.values())]
        call.__signature__ = inspect.Signature(shown, return_annotation=hints["return"])  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in shown} | {"return": hints["return"]}
        return call

    return decorate
