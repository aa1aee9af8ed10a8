r"""Trials of a network: whether each example has its own noise, and whether the gradient is the slope.

They run once for an estimator, in float64 if the network can, to distinguish rounding from faults. There are three:
an example alone has the same logits as in a batch; autograd's derivatives predict how the logits move along a
random direction of the posterior; each layer's rule agrees with autograd. The last two look at random weights of the
posterior, not at its mean, where a network that was just made has units exactly at a kink and layers of zeros.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from vlls._compiled import uncompiled
from vlls._warnings import warn_caller
from vlls.noise._call import Call, call_of, differentiable, is_narrow
from vlls.noise._checks import (
    TOGETHER,
    available_memory,
    check_batch,
    check_logits,
    check_mode,
    forward_derivatives,
    memory_aim,
)
from vlls.noise._posterior import ModelPosterior, posterior_of, sum_of
from vlls.noise._trace import Pass, Site, backward_once, contribution, forward, gradients, replayed

Weights = Mapping[str, Tensor]
T = TypeVar("T")

_ROWS = 16  # examples in a trial, at most


class _Stage(NamedTuple):
    """A step along a direction, and the allowed difference between prediction and movement."""

    # of the logits over their size: above rounding, but small, because a ReLU that switches on the way is mispredicted
    movement: float
    share: float  # largest difference, over the posterior's root mean square movement
    rounding: float  # of logits, over their size
    longest: float  # step, in standard deviations
    cotangents: int  # number of functions of the logits to check


_FINE = _Stage(1e-8, 1e-3, 1e-12, 1e-4, 1)
_SINGLE = _Stage(5e-4, 0.05, 1e-5, 100.0, 6)  # also for a float64 model that rounds to float32 somewhere
_HALF = _Stage(0.2, 0.2, 0.02, 100.0, 6)


class _Slope(NamedTuple):
    """The movement of functions of the logits along a step, as a derivative predicts it."""

    look: Callable[[Tensor], Tensor]  # the functions
    logits: Tensor
    slope: Tensor
    size: float  # the usual movement under the posterior


@dataclass(frozen=True)
class _Arithmetic:
    """The network and the posterior in one precision."""

    call: Call
    posterior: ModelPosterior
    dtype: torch.dtype

    @property
    def stages(self) -> tuple[_Stage, ...]:
        return {torch.float64: (_FINE, _SINGLE), torch.float32: (_SINGLE,)}.get(self.dtype, (_HALF,))

    @property
    def resolution(self) -> float:
        """Relative differences of logits below this one may be rounding."""
        return {torch.float64: 1e-4, torch.float32: 1e-3}.get(self.dtype, 0.1)


class Trials:
    """The trials of a network under a posterior, called in arithmetic of ``dtype``."""

    def __init__(
        self, call: Call, posterior: ModelPosterior, x: Tensor, dtype: torch.dtype, memory_limit: float | None
    ) -> None:
        self.x, self._limit = x, memory_aim(memory_limit, x.device)
        room = available_memory(x.device) / 4  # for copies of the weights in float64
        self._generator = torch.Generator(x.device).manual_seed(0)
        self._arithmetics = [_Arithmetic(call, posterior.map(Tensor.detach), dtype)]
        if 5 * 8 * sum(p.numel() for p in call.model.parameters()) < room and x.device.type != "mps":
            posterior = posterior.map(Tensor.double)
            fine = Call(call.model, posterior.mean, torch.float64)
            self._arithmetics.insert(0, _Arithmetic(fine, posterior, torch.float64))

    def _first(self, trial: Callable[[_Arithmetic], T]) -> T:
        """Return the result in the first arithmetic that the network takes."""
        while len(self._arithmetics) > 1:
            try:
                return trial(self._arithmetics[0])
            except (RuntimeError, TypeError, AttributeError, NotImplementedError):
                del self._arithmetics[0]
        return trial(self._arithmetics[0])

    def _weights(self, arithmetic: _Arithmetic) -> dict[str, Tensor]:
        """Draw weights from the posterior; they require gradients."""
        step = arithmetic.posterior.step(self._generator)
        return {name: (arithmetic.posterior.mean[name] + step[name]).requires_grad_() for name in step}

    def _chosen(self, arithmetic: _Arithmetic) -> Iterator[Tensor]:
        """Yield the example whose entries differ most, and then a few together if they are small, such as tokens.

        A black image would not show the effect of a convolution, nor one sentence the effect of every word.
        """
        some = self.x[:256]
        numbers = torch.view_as_real(some) if some.is_complex() else some
        one = some[int(numbers.reshape(len(some), -1).float().var(1, correction=0).nan_to_num().argmax())][None]
        yield one
        if len(some) > 1 and some[0].numel() <= 1024:
            sizes = forward(arithmetic.call, arithmetic.posterior.mean, one, []).sizes
            item = arithmetic.dtype.itemsize
            left = self._limit - 5 * item * sum(m.numel() for m in arithmetic.posterior.mean.values())
            rows = int(left / (item * (3 * sum(sizes) + 13 * max(sizes, default=1))))
            if rows > 1:
                yield some[: min(rows, _ROWS)]

    # ------------------------------------------------------------------ each example for itself
    def examples(self) -> None:
        """Raise a ValueError if the logits of an example depend on chance, or on the rest of the batch."""
        self._first(self._examples)

    @torch.no_grad()
    def _examples(self, arithmetic: _Arithmetic) -> None:
        weights: Weights = self._weights(arithmetic)
        if not bool(torch.isfinite(arithmetic.call(weights, self.x[:1])).all()):
            weights = arithmetic.posterior.mean
        given, made = _companions(self.x)
        for others in given or [self.x[:1], *made]:
            batch = torch.cat([others[:1], self.x[:1], others[-1:]])
            try:
                one, two = (check_logits(arithmetic.call(weights, batch), 3) for _ in range(2))
                alone = torch.cat([check_logits(arithmetic.call(weights, x[None]), 1) for x in batch])
            except (RuntimeError, IndexError, ValueError):
                if given:
                    raise
                continue
            if _differ(two, one, arithmetic.resolution):
                raise ValueError(
                    "the model returns other logits for the same example in a second call, so chance is in them (a "
                    "functional dropout, stochastic depth); call model.eval() first, or switch it off"
                )
            if _differ(one, alone, arithmetic.resolution):
                raise ValueError(TOGETHER)

    # ------------------------------------------------------------------ reverse mode
    def gradients(self, sites: list[Site], instead: str) -> set[str]:
        """Raise a ValueError if the logits do not move as autograd predicts.

        Return the names of the modules whose rule is wrong because a hook or a subclass changes their output.
        """
        return self._first(lambda arithmetic: self._gradients(arithmetic, sites, instead))

    def _gradients(self, arithmetic: _Arithmetic, sites: list[Site], instead: str) -> set[str]:
        of_rules: dict[str, float] = defaultdict(float)
        formed: dict[str, dict[str, Tensor]] = defaultdict(dict)
        wrong: list[set[str]] = []
        unreached: list[str] = []

        def sink(site: Site, a: Tensor, g: Tensor) -> None:
            if site.variances:
                of_rules[site.module] += float(contribution(site, a, g, int(self._limit / 8)).sum())
                return
            summed = formed[site.module]
            for _, name, gradient in gradients(site, a, g, 1):
                summed[name] = summed[name] + gradient[0, 0] if name in summed else gradient[0, 0]

        def slope(x: Tensor, stage: _Stage, at: Weights, step: Weights) -> _Slope:
            with differentiable(), _reachable(instead):
                done = forward(arithmetic.call, at, x, [] if wrong else sites, sink)
                z = done.logits
                shape = (stage.cotangents, *z.shape)
                u = torch.randn(shape, dtype=z.dtype, device=z.device, generator=self._generator)
                if not wrong:
                    backward_once(done, u[:1])
                told = dict(of_rules)  # before the hooks see other passes
                for module, summed in formed.items():
                    told[module] = told.get(module, 0.0) + float(arithmetic.posterior.variance(summed))
                pulled = [_pull(done, direction) for direction in u]
            if not wrong:
                wrong.append(_misread(sites, told, pulled[0], arithmetic))
            unreached[:] = [name for name in at if not any(bool(g[name].any()) for g in pulled)]
            along = torch.stack([sum_of((g[name] * step[name]).sum() for name in at) for g in pulled])
            spread = torch.stack([arithmetic.posterior.variance(g) for g in pulled])
            return _Slope(lambda logits: (u * logits).flatten(1).sum(1), z, along, float(spread.mean().sqrt()))

        if not self._holds(arithmetic, slope):
            named = f", and no gradient reaches {unreached[0]!r}" if unreached else ""
            raise ValueError(
                f"the logits move with the weights otherwise than autograd says{named} (a part under torch.no_grad, a "
                "detach, a reentrant checkpoint, rounding with a straight-through gradient, a cast to half precision); "
                + instead
            )
        return wrong[0]

    # ------------------------------------------------------------------ forward mode
    def slopes(self, instead: str) -> None:
        """Raise a ValueError if the logits do not move as a Jacobian-vector product predicts."""
        self._first(lambda arithmetic: self._slopes(arithmetic, instead))

    @torch.no_grad()
    def _slopes(self, arithmetic: _Arithmetic, instead: str) -> None:
        def slope(x: Tensor, stage: _Stage, at: Weights, step: Weights) -> _Slope:
            start = {name: w.detach() for name, w in at.items()}
            with differentiable(), forward_derivatives(instead):
                logits, slope = torch.func.jvp(lambda weights: arithmetic.call(weights, x), (start,), (step,))[:2]
            return _Slope(torch.flatten, logits, slope.flatten(), _size(slope))

        if not self._holds(arithmetic, slope):
            raise ValueError(
                "the logits move with the weights otherwise than their forward derivative says (a part under "
                "torch.no_grad, a detach, rounding with a straight-through gradient, a cast to half precision); "
                + instead
            )

    # ------------------------------------------------------------------ both
    def _holds(self, arithmetic: _Arithmetic, slope: Callable[[Tensor, _Stage, Weights, Weights], _Slope]) -> bool:
        """Whether the logits move as predicted along one of two directions; at a kink, one in a million does not."""

        def agrees(x: Tensor, stage: _Stage) -> bool | None:
            at, step = self._weights(arithmetic), arithmetic.posterior.step(self._generator)
            return _agrees(arithmetic, stage, at, step, x, slope(x, stage, at, step))

        def confirmed(x: Tensor) -> bool | None:
            return next((found for stage in arithmetic.stages if (found := agrees(x, stage)) is not None), None)

        return all(any(confirmed(x) for _ in range(2)) for x in self._chosen(arithmetic))


@torch.no_grad()
def _agrees(arithmetic: _Arithmetic, stage: _Stage, at: Weights, step: Weights, x: Tensor, told: _Slope) -> bool | None:
    """Whether functions of the logits move along a step as predicted, or None if rounding may hide it.

    A step 64 times as long moves the logits 64 times as far, unless rounding moves them. It is not cut to ``longest``,
    because a step too short for float32 moves nothing.
    """
    base, size = _size(told.look(told.logits)), told.size
    wanted = stage.movement * max(1.0, base / size) if size > 0 else 1.0
    length = min(stage.longest, wanted)

    def slope(length: float) -> Tensor:
        ends = [arithmetic.call({name: at[name] + end * step[name] for name in at}, x) for end in (length, -length)]
        return (told.look(ends[0]).double() - told.look(ends[1]).double()) / (2 * length)

    with differentiable():
        found = slope(length)
        error = _size(found - told.slope.double())
        if not error > stage.share * size + stage.rounding * max(base, size) / length:
            return True
        rough = stage is _FINE and _size(slope(64 * wanted) - found) > error / 10
    return None if rough else False


def _size(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _misread(
    sites: list[Site], of_rules: Mapping[str, float], gradient: Mapping[str, Tensor], arithmetic: _Arithmetic
) -> set[str]:
    """Return the modules whose variance by their rules differs from the variance by the gradient."""
    names: dict[str, set[str]] = defaultdict(set)
    for site in sites:
        names[site.module] |= site.names
    slack, least = 10 * arithmetic.resolution, 1e-6 * float(arithmetic.posterior.variance(gradient))
    found = set()
    for module, own in names.items():
        v = float(arithmetic.posterior.variance({name: gradient[name] for name in sorted(own)}))
        if abs(of_rules.get(module, 0.0) - v) > slack * v + least:
            found.add(module)
    return found


@contextmanager
def _reachable(instead: str) -> Iterator[None]:
    """Re-raise torch's error of a reentrant checkpoint as a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "use_reentrant" not in str(error) and "not compatible with .grad" not in str(error):
            raise
        raise ValueError(
            "the model uses a reentrant checkpoint, through which torch gives no gradient of chosen weights; "
            f"checkpoint with use_reentrant=False, or {instead}"
        ) from error


def _pull(done: Pass, direction: Tensor) -> dict[str, Tensor]:
    """Return the gradient of a function of the logits, with zeros where none arrives."""
    if not done.logits.requires_grad:
        return {name: torch.zeros_like(w) for name, w in done.parameters.items()}
    with replayed(done):
        how: Any = {"retain_graph": True, "materialize_grads": True, "allow_unused": True}
        found = torch.autograd.grad(done.logits, list(done.parameters.values()), direction, **how)
    return {name: g.to_dense() for name, g in zip(done.parameters, found, strict=True)}


def _companions(x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return examples unlike the first: two of its batch or, if all are equal, some made from its entries."""
    first, flat = x[:1], x.reshape(len(x), -1)
    others = (flat[1:] != flat[:1]).any(1).nonzero()[:, 0] + 1
    if len(others):
        return [x[others[[0, -1]]]], []
    order = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0)).to(x.device)
    mixed = flat[:1, order].reshape(first.shape)
    made = [mixed, flat[:1].flip(1).reshape(first.shape)]
    if x.is_floating_point() or x.is_complex():
        made += [first / 2, first + 1]
    elif x.dtype == torch.bool:
        made.append(~first)
    else:  # valid tokens
        made.append((first - 1).clamp_min(0))
    return [], [one for one in made if bool((one != first).any())]


def _differ(one: Tensor, two: Tensor, resolution: float) -> bool:
    one, two = one.double(), two.double()
    return not bool((one - two).abs().max() <= resolution * two.abs().max().clamp_min(1e-9))


# ---------------------------------------------------------------------- the start of every estimator
@dataclass(frozen=True)
class Setting:
    """An uncompiled network, and a posterior over its weights."""

    model: nn.Module
    call: Call
    posterior: ModelPosterior
    dtype: torch.dtype  # of the logits that the network itself returns
    num_outputs: int  # K
    arithmetic: torch.dtype  # of a call

    def warn(self) -> None:
        """Warn of the first weights in half precision with most deviations below the spacing of their numbers."""
        narrow = [(n, p.dtype) for n, p in self.model.named_parameters() if is_narrow(p) and n in self.posterior.mean]
        deviations = self.posterior.deviations() if narrow else {}
        for name, dtype in narrow:
            std, exponent = deviations[name], torch.frexp(self.posterior.mean[name]).exponent
            steps = torch.finfo(dtype).eps * torch.exp2(exponent - 1.0)
            below = (std > 0) & (std < steps)
            if int(below.sum()) > int((std > 0).sum()) / 2:
                here = (
                    "draws of the weights lose most of it" if self.call.dtype is None else "it is computed in float32"
                )
                size, apart = float(std[below].median()), float(steps[below].median())
                warn_caller(
                    f"std of {name!r} is {size:.1e} and its {dtype} weights are {apart:.1e} apart: a model in {dtype} "
                    f"cannot show that noise, {here} here; keep the weights in float32 and use torch.autocast"
                )
                return


def prepare(model: nn.Module, posterior: Any, x: Tensor, memory_limit: float | None) -> tuple[Setting, Trials]:
    """Check an estimator's arguments, and that no example changes the logits of another; more trials may follow."""
    check_batch(x)
    model = uncompiled(model)
    check_mode(model)
    return trials_of(model, posterior_of(model, posterior), x, memory_limit)


def trials_of(
    model: nn.Module, posterior: ModelPosterior, x: Tensor, memory_limit: float | None
) -> tuple[Setting, Trials]:
    """Return the setting of a checked posterior, and its trials after the first one was passed."""
    call, logits = call_of(model, posterior.mean, x)
    arithmetic = call.dtype or logits.dtype
    if call.dtype is None and any(is_narrow(p) for p in model.parameters()):
        arithmetic = torch.float16
    trials = Trials(call, posterior, x, arithmetic, memory_limit)
    trials.examples()
    return Setting(model, call, posterior, logits.dtype, logits.shape[1], arithmetic), trials
