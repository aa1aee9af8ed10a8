r"""Label noise of a network under any Gaussian posterior over its weights (Section 3.4, Eq. 20; Chapter 6).

The noise of an example is :math:`\epsilon = A'(f(m)) - A'(f(\theta))` for weights :math:`\theta \sim q`. Its mean is
the deterministic noise of Eq. 16; its covariance is the one that Eq. 20 approximates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from vlls.families import Family
from vlls.noise._call import borrowed, differentiable
from vlls.noise._checks import available_memory, check_logits, forward_derivatives, memory_aim
from vlls.noise._directions import leading_directions
from vlls.noise._linearization import Linearization, differentiable_input
from vlls.noise._options import NoiseOptions, keywords
from vlls.noise._push import bend, mean_bend, operations, push, symmetric_root, the_family
from vlls.noise._trial import Setting, prepare
from vlls.posterior import _AnyPosterior

_INSTEAD = "use method='rank' or 'monte_carlo'"


@dataclass(frozen=True)
class _Gaussian:
    """Gaussian logits N(mean, root rootᵀ) of some examples, from which (B, K, K) results can be computed."""

    family: Family
    mean: Tensor
    root: Tensor  # (B, K, R)
    linear_at: Tensor | None  # f(m), where A' is linear

    def covariance(self) -> Tensor:
        if self.linear_at is None:
            return push(self.family, self.mean, self.root).covariance
        half = bend(self.family, self.linear_at, self.root)
        return half @ half.mT


@dataclass(frozen=True)
class LabelNoise:
    r"""The label noise :math:`\epsilon = A'(f(m)) - A'(f(\theta))`, :math:`\theta \sim q`, of B examples with K logits.

    Chapter 6 derives its moments. The covariances are computed when they are first read: with a thousand classes
    they are larger, and take longer, than all the rest.

    Attributes:
        logits: f(m), (B, K).
        mean_shift: its mean :math:`A'(f(m)) - \mathbb E_q[A'(f)]`, the deterministic noise of Eq. 16, (B, K).
        std: the root of the covariance's diagonal, (B, K).
        magnitude: :math:`\sqrt{\mathbb E\|\epsilon\|^2}`, the root mean square of the noise's norm, (B,).
        standard_error: of ``mean_shift``, (B, K): of the weights' draws for ``monte_carlo``; otherwise of the
            curvature pairs and of the quasi-Monte Carlo points of the push (a quadrature has none).
        magnitude_error: standard error of ``magnitude``, (B,), for ``monte_carlo``; None otherwise.
    """

    logits: Tensor
    mean_shift: Tensor
    std: Tensor
    magnitude: Tensor
    standard_error: Tensor
    magnitude_error: Tensor | None
    _sources: tuple[_Gaussian | Tensor, ...] = field(repr=False)  # of the covariances of one part after the other

    def __len__(self) -> int:
        return len(self.logits)

    @cached_property
    @torch.inference_mode(False)
    def covariance(self) -> Tensor:
        """Its covariance, (B, K, K)."""
        _check_room(len(self), self.std.shape[1], self.std.device)
        parts = [part if isinstance(part, Tensor) else part.covariance() for part in self._sources]
        return torch.cat(parts).to(self.std.dtype)

    @cached_property
    @torch.inference_mode(False)
    def logit_covariance(self) -> Tensor | None:
        """V, the covariance of the linearised logits, (B, K, K); None for ``monte_carlo``."""
        _check_room(len(self), self.std.shape[1], self.std.device)
        roots = [part.root for part in self._sources if isinstance(part, _Gaussian)]
        return torch.cat([root @ root.mT for root in roots]).to(self.std.dtype) if roots else None

    @staticmethod
    def concatenate(parts: list[LabelNoise]) -> LabelNoise:
        """Join the noise of several batches."""
        joined: dict[str, Any] = {}
        for own in fields(LabelNoise):
            values = [getattr(part, own.name) for part in parts]
            joined[own.name] = None if values[0] is None else torch.cat(values) if own.repr else sum(values, ())
        return LabelNoise(**joined)


def _check_room(num: int, k: int, device: torch.device) -> None:
    """Raise a ValueError if (B, K, K) results do not fit in memory."""
    need, there = 2 * 8 * num * k * k, available_memory(device)
    if need > there:
        raise ValueError(
            f"covariances of {num} examples with {k} classes need {need / 2**30:,.1f} GiB and "
            f"{there / 2**30:,.1f} are free; pass fewer examples at a time, or use label_noise, which keeps (B, K) only"
        )


@torch.inference_mode(False)
@keywords(NoiseOptions)
def label_noise(model: nn.Module, posterior: _AnyPosterior, x: Tensor, options: NoiseOptions) -> Tensor:
    r"""Return the label noise of every example and class, to be **added** to the label.

    For ``exact``, ``rank`` and ``monte_carlo`` it is the deterministic noise :math:`A'(f(m)) - \mathbb E_q[A'(f)]`
    (Eq. 16). For ``direction`` it is one draw of Eq. 20, :math:`-A''(f) J \Sigma^{1/2} e`, which averages to zero; the
    sign comes from the Taylor step; the paper drops it. Arguments and errors are as in
    :func:`label_noise_moments`.

    Returns:
        (B, K), in the dtype of the logits, or float32 where theirs is smaller.

    Example:
        >>> from vlls import DiagonalPosterior
        >>> model = torch.nn.Linear(2, 3)
        >>> q = DiagonalPosterior(*({n: f(p.detach()) for n, p in model.named_parameters()} for f in (
        ...     torch.clone, torch.ones_like)))
        >>> label_noise(model, q, torch.randn(4, 2)).sum(1).abs().max() < 1e-5      # a label stays a distribution
        tensor(True)
    """
    x = differentiable_input(x)
    with borrowed(model):
        estimate = Estimator(model, posterior, x, options)
        if options.method == "direction":
            return estimate.draw(x)
        return torch.cat([part.mean_shift for part in estimate.parts(x)])


@torch.inference_mode(False)
@keywords(NoiseOptions)
def label_noise_moments(model: nn.Module, posterior: _AnyPosterior, x: Tensor, options: NoiseOptions) -> LabelNoise:
    r"""Return mean, covariance and magnitude of every example's label noise (Chapter 6).

    There are four methods.

    ==================  ========================================================================================
    ``exact``           the covariance V of the linearised network's logits, all of it, then logits from N(f(m), V)
                        pushed through A'
    ``rank``            the same for V seen along the leading directions of the noise only: fewer backward passes
    ``direction``       one Gaussian direction by a Jacobian-vector product: Eq. 20 as the paper uses it
    ``monte_carlo``     weights drawn from the posterior: no approximation but the number of draws; the reference
    ==================  ========================================================================================

    Args:
        model: the network, in evaluation mode, compiled or not; (B, ...) inputs to (B, K) logits. Its own weights are
            used where the posterior has none.
        posterior: any :class:`.Posterior` over its parameters, or an object whose ``posterior(model)`` returns one,
            such as :class:`.IVON` or :class:`.GaussianPosterior`.
        x: a batch of inputs, (B, ...), on the model's device; of any size: it is cut into parts that fit in memory.
        method: one of the four.
        family: of the labels; :class:`.Categorical` if left out, :class:`.Bernoulli` for a single logit. A family with
            one natural parameter applies to each logit by itself.
        rank: directions of ``rank``, at least 1. From half of the classes on, all directions are taken, as in
            ``exact``, if this takes fewer operations; that depends on the network and not on the batch.
        num_samples: draws of the weights for ``monte_carlo`` (at least 2), of directions for ``direction``.
        antithetic: draw weights of ``monte_carlo`` in pairs m + d, m - d: the first-order part of the noise cancels
            from ``mean_shift``, whose error falls by orders of magnitude for a sharp posterior; that of ``magnitude``
            grows by up to a factor of 1.4.
        curvature_pairs: pairs of draws m + d, m - d with which ``exact`` and ``rank`` move the mean of the logits from
            f(m) to :math:`\mathbb E_q[f]`. In a linearised network the two are equal, in a real one they are not, and
            for ``mean_shift`` the difference is of the leading order (Chapter 6). Each pair costs two passes forward.
            A few suffice for ``magnitude``; its order of the examples hardly changes even without pairs. Under a wide
            posterior ``mean_shift`` needs 64 pairs, or ``monte_carlo``; ``standard_error`` tells. A standard error of n
            pairs has n - 1 degrees of freedom: of 4 pairs, one result in a hundred is more than 5.8 of them off, by
            Student's distribution. Where the pairs move the logits so far that the probabilities saturate, it is too
            small, down to 0, and only ``monte_carlo`` is right. What the linearisation itself changes it never counts.
        linear: give ``covariance`` and with it ``std`` and ``magnitude`` as Eq. 20 has them, :math:`A'' V A''`, without
            the curvature of A'. ``direction`` always does.
        memory_limit: MiB that temporaries may take; 64 on a CPU and 2048 on a GPU if left out.
        generator: for the draws, on the model's device. Without one ``exact`` and ``rank`` draw the same pairs in every
            call, the others go on from torch's global state.

    Raises:
        ValueError: if a value is not allowed, the posterior does not fit the model or breaks its protocol, a standard
            deviation is negative or NaN, the batch is empty, the model is in training mode with BatchNorm or Dropout,
            the logits of an example depend on the others of its batch or move otherwise than autograd says
            (``no_grad``, ``detach``, straight-through rounding; ``monte_carlo`` needs no gradient), or the memory does
            not suffice; each says how to fix it.

    Warns:
        UserWarning: if standard deviations are below the resolution of weights in half precision. A model in half
            precision is computed in float32, where it can be.

    Example:
        >>> from vlls import DiagonalPosterior
        >>> model = torch.nn.Linear(2, 3)
        >>> q = DiagonalPosterior(*({n: f(p.detach()) for n, p in model.named_parameters()} for f in (
        ...     torch.clone, torch.ones_like)))
        >>> noise = label_noise_moments(model, q, torch.randn(4, 2))
        >>> noise.mean_shift.shape, noise.covariance.shape, noise.magnitude.shape
        (torch.Size([4, 3]), torch.Size([4, 3, 3]), torch.Size([4]))
    """
    x = differentiable_input(x)
    with borrowed(model):
        estimate = Estimator(model, posterior, x, options, whole=True)
        if options.method in ("exact", "monte_carlo"):
            _check_room(len(x), estimate.num_outputs, x.device)
        noise = LabelNoise.concatenate(list(estimate.parts(x)))
    return replace(noise, logits=noise.logits.to(estimate.setting.dtype))


class Estimator:
    """Estimates the noise batch by batch; it learns shapes from the first."""

    line: Linearization  # of exact and rank

    def __init__(
        self, model: nn.Module, posterior: _AnyPosterior, x: Tensor, options: NoiseOptions, whole: bool = False
    ) -> None:
        self.options, method, limit = options, options.method, options.memory_limit
        self.whole = whole  # whether draws of the weights also give covariances
        if method in ("exact", "rank"):
            rank = options.rank if method == "rank" else None
            self.line = Linearization(model, posterior, x, memory_limit=limit, num_directions=rank)
            self.setting = self.line.setting
        else:
            self.setting, trials = prepare(model, posterior, x, limit)
            if method == "direction":
                trials.slopes(_INSTEAD)
        self.num_outputs = self.setting.num_outputs
        self._lay = _layout(self.setting, x)
        self.posterior = self.setting.posterior.map(self._lay)  # for passes forward only
        self.family = the_family(options.family, self.num_outputs)
        if method == "rank" and self._all_is_cheaper():
            with suppress(ValueError):  # memory may hold a few directions and not all
                self.line.take(self.num_outputs)
        self.setting.warn()

    def _all_is_cheaper(self) -> bool:
        """Whether all directions take fewer operations than those of a rank of half of the classes or more.

        It depends on the network, the family and the rank, and not on the batch.
        """
        r, k = self.line.num_directions, self.num_outputs
        if not k / 2 <= r < k:
            return False
        few, every = (self.line.operations(n) for n in (r, k))
        if few is None or every is None:
            return False
        return every + operations(self.family, k, k) < few + operations(self.family, k, r)

    def parts(self, x: Tensor) -> Iterator[LabelNoise]:
        """Yield the noise of the batch, part by part."""
        if self.options.method == "monte_carlo":
            yield self._monte_carlo(x)
        elif self.options.method == "direction":
            yield self._directions(x)
        else:
            yield from self._linearized(x)

    # ------------------------------------------------------------------ a linearised network
    def _linearized(self, x: Tensor) -> Iterator[LabelNoise]:
        moved = self._bent(x) if self.options.curvature_pairs else None
        start, rank = 0, self.line.num_directions
        for part, done in self.line.parts(x):
            logits = done.logits.detach()
            if rank == self.num_outputs:  # also for ``rank``: all directions need no choice
                root = symmetric_root(self.line.covariance(part, done).double())
            else:  # those along which A'' is largest: the others hardly reach the labels
                directions = leading_directions(self.family, logits.double(), rank)
                inner = self.line.covariance(part, done, directions)
                root = directions @ symmetric_root(inner.double())
            rows = slice(start, start + len(part))
            start += len(part)
            yield self._of_gaussian(logits, root, moved and (moved[0][rows], moved[1][rows]))

    @torch.no_grad()
    def _bent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate E_q[f] - f(m) by n pairs of draws, in which all odd orders cancel.

        Return it with its n deviations, (B, K, n), whose squares add up to its squared standard error.
        """
        logits = self._logits(self.posterior.mean, x)
        generator = self.options.generator or torch.Generator(x.device).manual_seed(0)
        n = self.options.curvature_pairs
        bends = logits.new_empty(*logits.shape, n)
        for i in range(n):
            step = self.posterior.step(generator)
            ends = [self._logits(self._moved(step, sign), x).double() for sign in (1, -1)]
            bends[..., i] = (ends[0] + ends[1]) / 2 - logits
        mean = bends.mean(-1, dtype=torch.float64)
        return mean, (bends - mean[..., None]) / math.sqrt(max(1, n * (n - 1)))

    # ------------------------------------------------------------------ Gaussian logits
    def _of_gaussian(self, logits: Tensor, root: Tensor, moved: tuple[Tensor, Tensor] | None = None) -> LabelNoise:
        centre = logits.double()
        mean, deviations = (centre, root[..., :0]) if moved is None else (centre + moved[0], moved[1])
        moments = push(self.family, mean, root, deviations)
        shift, variance, error, _ = moments
        if moved is not None:
            shift = shift + self.family.mean(centre) - self.family.mean(mean)
            slopes = mean_bend(self.family, mean, root, moments, deviations)
            error = (error.square() + slopes.square().sum(-1)).sqrt()
        linear = self.options.linear or self.options.method == "direction"
        if linear:
            variance = bend(self.family, centre, root).square().sum(-1)
        source = _Gaussian(self.family, mean, root, centre if linear else None)
        return _result(logits, shift, variance, error, None, (source,), linear)

    # ------------------------------------------------------------------ Eq. 20, one direction at a time
    def _jvp(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and J Σ^{1/2} e, (B, K) each, for one draw e that all examples share."""
        ends = (self.posterior.mean,), (self.posterior.step(self.options.generator),)
        with differentiable(), torch.no_grad(), forward_derivatives(_INSTEAD):
            pairs = [
                torch.func.jvp(lambda weights, part=part: self.setting.call(weights, self._lay(part)), *ends)
                for part in x.split(self._examples(x))
            ]
        logits, slope = (torch.cat(column) for column in zip(*pairs, strict=True))
        return check_logits(logits, len(x)), slope

    def draw(self, x: Tensor) -> Tensor:
        """Return one draw of Eq. 20, (B, K)."""
        logits, slope = self._jvp(x)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logits, slope = logits.to(dtype), slope.to(dtype)
        return -bend(self.family, logits, slope[..., None])[..., 0]

    def _directions(self, x: Tensor) -> LabelNoise:
        n = self.options.num_samples
        pairs = [self._jvp(x) for _ in range(n)]
        root = torch.stack([slope for _, slope in pairs], -1).double() / math.sqrt(n)
        if n > self.num_outputs:
            root = symmetric_root(root @ root.mT)
        return self._of_gaussian(pairs[-1][0], root)

    # ------------------------------------------------------------------ draws of the weights
    def _moved(self, step: dict[str, Tensor], sign: int = 1) -> dict[str, Tensor]:
        return {name: mean + sign * step[name] for name, mean in self.posterior.mean.items()}

    def _logits(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        parts = [self.setting.call(weights, self._lay(part)) for part in x.split(self._examples(x))]
        return check_logits(torch.cat(parts), len(x))

    @torch.no_grad()
    def _monte_carlo(self, x: Tensor) -> LabelNoise:
        logits = self._logits(self.posterior.mean, x)
        centre = self.family.mean(logits.double())
        signs = (1, -1) if self.options.antithetic else (1,)
        total = _Sums(centre, self.whole)
        for _ in range(self.options.num_samples // len(signs)):
            step = self.posterior.step(self.options.generator)
            total.add([centre - self.family.mean(self._logits(self._moved(step, s), x).double()) for s in signs])
        return _result(logits, *total.moments())

    def _examples(self, x: Tensor) -> int:
        """Number of examples in a pass without gradients, from the memory of one example's input."""
        aim = memory_aim(self.options.memory_limit, x.device)
        return max(1, int(aim / (256 * x[0].numel() * x.element_size() + 8 * self.num_outputs)))


class _Sums:
    """Running sums of the noise over independent units (a draw, or an antithetic pair), in float64."""

    def __init__(self, like: Tensor, whole: bool) -> None:
        num, k = like.shape
        self.units = self.draws = 0
        self.noise, self.of_unit, self.of_class = (like.new_zeros(num, k) for _ in range(3))
        self.square, self.square_of_unit = like.new_zeros(num), like.new_zeros(num)
        self.outer = like.new_zeros(num, k, k) if whole else None

    def add(self, noises: list[Tensor]) -> None:
        self.units += 1
        self.draws += len(noises)
        mean, squares = torch.stack(noises).mean(0), torch.stack([noise.square() for noise in noises])
        square = squares.sum(-1).mean(0)
        self.noise += mean
        self.of_unit += mean.square()
        self.of_class += squares.sum(0)
        self.square += square
        self.square_of_unit += square.square()
        if self.outer is not None:
            for noise in noises:
                self.outer.baddbmm_(noise[:, :, None], noise[:, None, :])

    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """Mean, variance, standard error of the mean and of the magnitude, and the covariance if it was asked for."""
        n, bessel = self.units, self.draws / (self.draws - 1)
        mean = self.noise / n
        variance = (self.of_class / self.draws - mean.square()).clamp_min(0) * bessel
        error = ((self.of_unit / n - mean.square()).clamp_min(0) / (n - 1)).sqrt()
        square = self.square / n
        of_square = ((self.square_of_unit / n - square.square()).clamp_min(0) / (n - 1)).sqrt()
        of_magnitude = of_square / (2 * square.sqrt()).clamp_min(torch.finfo(square.dtype).tiny)
        sources: tuple[Tensor, ...] = ()
        if self.outer is not None:
            sources = ((self.outer / self.draws - mean[:, :, None] * mean[:, None, :]) * bessel,)
        return mean, variance, error, of_magnitude, sources


def _result(
    logits: Tensor,
    shift: Tensor,
    variance: Tensor,
    error: Tensor,
    of_magnitude: Tensor | None,
    sources: tuple[_Gaussian | Tensor, ...],
    linear: bool = False,
) -> LabelNoise:
    """Return the noise with these moments and this standard error of its magnitude."""
    square = variance.sum(1) + (0 if linear else shift.square().sum(1))
    dtype = torch.promote_types(logits.dtype, torch.float32)
    shift, std, magnitude, error = (t.to(dtype) for t in (shift, variance.sqrt(), square.sqrt(), error))
    of_magnitude = None if of_magnitude is None else of_magnitude.to(dtype)
    return LabelNoise(logits, shift, std, magnitude, error, of_magnitude, sources)


def _layout(setting: Setting, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the layout of images and filters: channels last, up to three times as fast, if the model takes it."""
    try:
        with torch.no_grad():
            weights = {name: _channels_last(p.detach()) for name, p in setting.posterior.mean.items()}
            setting.call(weights, _channels_last(x[:1]))
    except RuntimeError:  # it flattens with ``view``
        return lambda tensor: tensor
    return _channels_last


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
