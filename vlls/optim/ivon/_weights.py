"""The parameters of IVON: whether they are the mean or a sample, the executors, and the samples of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum, auto
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

from vlls._compiled import drop_cached_casts
from vlls.optim.ivon._executors import StepExecutor
from vlls.optim.ivon._processes import LocalGradients
from vlls.optim.ivon._registry import executors_of
from vlls.optim.ivon._state import ParameterState

Plan = list[tuple[StepExecutor, list[ParameterState]]]
Parts = tuple[list[ParameterState], list[ParameterState]]  # with and without a gradient
Seen = tuple[list[Any], list[Any]]  # objects, and facts about them


class Where(Enum):
    """Where the parameters are. :class:`Weights` alone changes it."""

    MEAN = auto()
    WAITING = auto()  # at the mean, and the gradients of a sample wait for step()
    SAMPLE = auto()  # inside sampled_params(), or while step() calls a closure
    KEPT = auto()  # inside keep_sampled()


class Samples:
    """The samples taken since the last step; true if there are any.

    One sample costs no memory: its gradient stays in ``param.grad``, where it may still be clipped or unscaled, and its
    noise in the executor's memory. Only when a second one comes are gradient and statistic averaged in memory of their
    own; the average gradient is then shown in ``param.grad``, and the step takes up any change made to it there.
    """

    def __init__(self, noise: Callable[[list[ParameterState]], Iterable[Tensor]]) -> None:
        self._noise = noise  # the perturbation of each parameter in the last draw
        self._states: list[ParameterState] = []
        self._count = 0
        self._averaged = False

    def __bool__(self) -> bool:
        return self._count > 0

    def discard(self) -> None:
        """Forget the samples."""
        for state in self._states:
            state.held = state.grad = state.statistic = state.norm = None
        self._states, self._count, self._averaged = [], 0, False

    def add(self, states: list[ParameterState], *, local: bool = False) -> None:
        """Count the gradients in ``param.grad`` as one sample; with ``local``, take its statistic from local_grad."""
        grads = [state.gradient() for state in states]
        if not self and not local:
            self._states, self._count = states, 1
            for state, grad in zip(states, grads, strict=True):
                state.held = grad
            return
        if not self:
            for state in states:
                state.grad = state.statistic = None
        self._states, self._averaged = states, True
        self._count += 1
        for state, grad, noise in zip(states, grads, self._noise(states), strict=True):
            self._average(state, grad, state.local_grad if local and grad is not None else grad, noise)
            state.show_average()

    def keep_average(self) -> None:
        """Turn the one sample that waits into averages, so that its noise and param.grad may be overwritten."""
        if self._averaged or not self:
            return
        self._averaged = True
        for state, noise in zip(self._states, self._noise(self._states), strict=True):
            state.grad = state.statistic = None
            grad = state.gradient(or_held=True)
            self._average(state, grad, grad, noise)
            state.norm = None if state.param.grad is None else state.param.grad.norm(dtype=state.dtype)

    def take_from_grads(self) -> None:
        """Detach the averages from ``param.grad``: it is about to be cleared, or to hold another sample."""
        self.keep_average()
        for state in self._states:
            state.norm = None

    def finish(self, inverse_scale: float | None) -> list[ParameterState]:
        """Set ``grad`` and ``statistic`` of every parameter for the step; ``inverse_scale`` is the GradScaler's."""
        for state in self._states:
            if self._averaged:
                state.follow_shown_average()
            else:
                state.grad, state.statistic = state.gradient(or_held=True), None
            if inverse_scale is not None:
                state.rescale(inverse_scale)
        return self._states

    def _average(self, state: ParameterState, grad: Tensor | None, local: Tensor | None, noise: Tensor) -> None:
        """Update the running means of gradient and statistic; a missing gradient is a zero."""
        if grad is None and state.grad is None:
            return
        mean, statistic = state.averages()
        if grad is None or local is None:
            mean.mul_(1.0 - 1.0 / self._count)
            statistic.mul_(1.0 - 1.0 / self._count)
        else:
            seen = state.seen(local, noise)
            mean.add_((grad.to(state.dtype) - mean) / self._count)
            statistic.add_((seen - statistic) / self._count)


class Weights:
    """Moves all parameters from the mean to a sample, back, and on by a step of Alg. 1."""

    state_type = ParameterState

    def __init__(self, optimizer: Any) -> None:
        self.where = Where.MEAN
        self.samples = Samples(self.noise)
        self._optimizer = optimizer
        self._states: dict[Tensor, ParameterState] = {}
        self._executors: dict[type[StepExecutor], StepExecutor] = {}
        self.planned: list[ParameterState] = []  # all trainable parameters at the last refresh
        self._masters: list[ParameterState] = []  # those that keep a mean in more bits
        self._seen: Seen | None = None  # from which they were made
        self._plans: list[tuple[list[ParameterState], Plan]] = []  # for all of them first, then for some of them
        self._options: tuple[bool | None, bool | None] | None = None  # of the optimizer, which the plans follow
        self._parts: Parts = [], []  # in the last step where some had no gradient
        self._drawn: Plan = []  # the part of the plan whose parameters hold a sample

    @property
    def at_sample(self) -> bool:
        """Whether the parameters hold a sample."""
        return self.where in (Where.SAMPLE, Where.KEPT)

    @property
    def kept(self) -> bool:
        """Whether they stay at a sample from step to step."""
        return self.where is Where.KEPT

    def refresh(self) -> list[ParameterState]:
        """Return the state of every trainable parameter, made or moved to where the parameter is now.

        It is the same list as long as nothing has changed, so that plans for it can be used again.
        """
        if self._seen is None or not _same(self._seen, self._look()):
            self._plans = []
            self.planned = self._refresh()
            self._masters = [state for state in self.planned if state.keeps_master]
            self._seen = self._look()
        if self._masters:
            for state in self._masters:
                state.take_mean()
            self._seen = self._look()
        return self.planned

    def _refresh(self) -> list[ParameterState]:
        states: list[ParameterState] = []
        owners: dict[Any, ParameterState] = {}
        index = 0  # of every parameter, trainable or not
        for group in self._optimizer.param_groups:
            for param in group["params"]:
                index += 1
                if not param.requires_grad or param.numel() == 0:
                    continue
                # another Parameter on the very same memory is perturbed with its owner, once
                memory = (param.device, param.data_ptr(), tuple(param.shape), param.stride())
                if memory in owners:
                    owners[memory].aliases.append(param)
                    continue
                state = owners[memory] = self._states.get(param) or self.state_type(param)
                self._states[param] = state
                state.refresh(group, self._optimizer.state[param], index)
                states.append(state)
        return states

    def _look(self) -> Seen:
        """Return all that :meth:`_refresh` reads, objects and facts about them, without a Python loop over tensors."""
        groups, lasting = self._optimizer.param_groups, self._optimizer.state.values()
        params = list(chain.from_iterable(group["params"] for group in groups))
        kept = list(chain.from_iterable(map(dict.values, lasting)))
        layouts = map(attrgetter("requires_grad", "dtype", "device", "shape"), params)
        facts = [*map(Tensor.data_ptr, params), *map(Tensor.stride, params), *layouts]
        return [*groups, *params, *lasting, *kept], facts

    def plan(self) -> list[ParameterState]:
        """Refresh, and choose the executors until the next plan."""
        states = self.refresh()
        options = self._optimizer.fused, self._optimizer.foreach
        if options != self._options:
            self._plans, self._options = [], options
        self._plan(states)
        return states

    def _plan(self, states: list[ParameterState]) -> Plan:
        """Return the executors and the parameters that each takes; a list that has a plan gets it again."""
        for planned, plan in self._plans:
            if planned is states:
                return plan
        parts: dict[type[StepExecutor], list[ParameterState]] = {}
        for state, kind in zip(states, self.executors_of([state.param for state in states]), strict=True):
            parts.setdefault(kind, []).append(state)
        for kind in parts.keys() - self._executors.keys():
            self._executors[kind] = kind()
        plan = [(self._executors[kind], members) for kind, members in parts.items()]
        self._plans = [*self._plans[:1], *self._plans[1:][-2:], (states, plan)]
        return plan

    def executors_of(self, params: Sequence[Tensor]) -> list[type[StepExecutor]]:
        """Return the executor of each parameter by the optimizer's options."""
        return executors_of(params, fused=self._optimizer.fused, foreach=self._optimizer.foreach)

    def noise(self, states: list[ParameterState]) -> Iterator[Tensor]:
        """Yield the sample minus the mean of each parameter, of the last draw."""
        of = {state: executor for executor, members in self._plan(states) for state in members}
        return (of[state].noise(state, self.at_sample) for state in states)

    @torch.inference_mode(False)
    @torch.no_grad()
    def draw(self, states: list[ParameterState], *, keep: bool = False) -> None:
        """Go from the mean to a sample; ``keep`` it there from step to step."""
        plan = self._plan(states)
        for executor, members in plan:
            executor.save(members)  # may fail for want of memory or a compiler: nothing has moved yet
        self._drawn = []
        self.where = Where.KEPT if keep else Where.SAMPLE
        for executor, members in plan:
            if executor.saves_first:
                self._drawn.append((executor, members))
            executor.draw(members, self._optimizer.generator)
            if not executor.saves_first:
                self._drawn.append((executor, members))
        drop_cached_casts()

    @torch.no_grad()
    def restore(self) -> None:
        """Go back from a sample, if the parameters hold one."""
        if self.at_sample:
            for executor, members in self._drawn:
                executor.restore(members)
            self._at_mean()
            drop_cached_casts()

    @torch.no_grad()
    def count_sample(self, states: list[ParameterState], local: LocalGradients | None = None) -> None:
        """Let the gradients in ``param.grad`` wait for a step, as one sample."""
        if local is not None:
            local.settle()
        self.samples.add(states, local=local is not None)
        if not self.at_sample:
            self._at_mean()

    def discard(self) -> None:
        """Let no sample wait for a step."""
        self.samples.discard()
        if not self.at_sample:
            self._at_mean()

    def update(self, states: list[ParameterState]) -> None:
        """Take a step of Alg. 1 with each parameter that has a gradient; leave the mean, or the next sample if kept."""
        generator = self._optimizer.generator
        active, rest = self._part(states)
        if active:
            torch._foreach_add_([state.step for state in active], 1.0)
        for executor, members in self._plan(active):
            executor.update(members, generator, self.at_sample, self.kept)
        if self.at_sample:  # without a gradient: back to the mean, unchanged, or to another sample of it
            for executor, members in self._plan(rest):
                executor.restore(members)
                if self.kept:
                    executor.save(members)
                    executor.draw(members, generator)
        if not self.kept:
            self._at_mean()
        drop_cached_casts()

    def _part(self, states: list[ParameterState]) -> Parts:
        """Return the states with a gradient and those without: the last step's lists if they have the same entries."""
        parts: Parts = [], []
        for state in states:
            parts[state.grad is None].append(state)
        if not parts[1]:
            return states, []
        if parts != self._parts:
            self._parts = parts
        return self._parts

    def _at_mean(self) -> None:
        self.where = Where.WAITING if self.samples else Where.MEAN


def _same(before: Seen, now: Seen) -> bool:
    """Whether these are the very same objects, with the same facts."""
    same_facts = before[1] == now[1] and len(before[0]) == len(now[0])
    return same_facts and all(map(is_, before[0], now[0]))
