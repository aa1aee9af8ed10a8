"""EVON's steps by IVON's kernels, which are applied to the coordinates of a turned parameter.

The noise is not kept: the same key generates it again. So three numbers per weight are enough, as in IVON, beside the
bases, their factors and three rows of memory as long as the parameters that are turned at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from vlls.optim._evon._learning import learn_bases
from vlls.optim._evon._state import EigenState, channels_last
from vlls.optim._evon._steps import PART, parts_of, split_turned
from vlls.optim.ivon._cpu import FusedCPU
from vlls.optim.ivon._cuda import FusedCUDA, send_steps
from vlls.optim.ivon._executors import SAVE_AND_SAMPLE, UPDATE, Fused, Memory, States
from vlls.optim.ivon._state import ParameterState


class FusedEigenbasis(Fused):
    """Runs a kernel on the turned parameters, part by part, and on all others at once."""

    saves_first = True
    kernel: ClassVar[type[Fused]]
    at_once: ClassVar[int]  # largest number of entries of a part with several parameters

    def __init__(self) -> None:
        self._straight = self.kernel()
        self._memory: dict[torch.device, Tensor] = {}
        self._plans: tuple[_Plan, ...] = ()  # of the last two calls: all parameters, and those with a gradient

    @classmethod
    def supports(cls, param: Tensor) -> bool:
        return cls.kernel.supports(param) and (param.is_contiguous() or channels_last(param))

    @classmethod
    def works(cls, param: Tensor) -> bool:
        return cls.kernel.works(param) and (param.is_contiguous() or channels_last(param))

    @classmethod
    def label(cls) -> str:
        return f"eigenbasis, {cls.kernel.label()}"

    def save(self, states: States) -> None:
        self._straight.save(states)
        own = [state for state in states if isinstance(state, EigenState)]
        self._reserve(own)
        torch._foreach_copy_([state.other for state in own], [state.param for state in own])

    def _reserve(self, states: Sequence[EigenState]) -> None:
        """Make the memory long enough for the coordinates of these parameters."""
        sizes: dict[torch.device, list[int]] = {}
        for state in states:
            if state.turning or state.turned:
                sizes.setdefault(state.param.device, []).append(state.param.numel())
        for device, numels in sizes.items():
            longest = max(*numels, min(sum(numels), self.at_once))
            if device not in self._memory or longest > self._memory[device].shape[1]:
                self._memory[device] = torch.empty(3, longest, device=device)
                self._plans = ()

    def draw(self, states: States, generator: Generator | None) -> None:
        key = self.new_key(generator, states[0].param.device)
        drawn = {id(state.group): (key, dict(state.group)) for state in states}
        for state in states:
            assert isinstance(state, EigenState)
            state.drawn = drawn[id(state.group)]
        plan = self._plan(states)
        self._run(SAVE_AND_SAMPLE, plan.straight, key, False, False)
        for part in plan.parts:
            part.draw()

    def restore(self, states: States) -> None:
        plan = self._plan(states)
        super().restore(plan.straight)
        for part in plan.parts:
            torch._foreach_copy_(part.params, part.others)

    def noise(self, state: ParameterState, at_sample: bool) -> Tensor:
        assert isinstance(state, EigenState)
        if not state.turned:
            return super().noise(state, at_sample)
        noise, (key, group) = state.empty().zero_(), state.drawn
        seen = _seen_as(state, state.flat(noise), self._free(state)[0], group)
        self.kernel()._run(SAVE_AND_SAMPLE, [seen], key, False, False)
        return noise

    def update(self, states: States, generator: Generator | None, at_sample: bool, resample: bool) -> None:
        if at_sample:
            self.restore(states)
        plan = self._plan(states)
        self._run(UPDATE, plan.straight, None, False, False)
        for part in plan.parts:
            part.update()
        learn_bases([state for state in states if isinstance(state, EigenState)], self._free)
        if resample:
            self.save(states)
            self.draw(states, generator)

    def _run(self, mode: int, states: States, key: Tensor | None, at_sample: bool, resample: bool) -> None:
        if states:
            self._straight._run(mode, states, key, at_sample, resample)

    def _free(self, state: EigenState) -> list[Tensor]:
        self._reserve([state])  # max_axis may be larger than at the sample
        return list(self._memory[state.param.device][:, : state.param.numel()])

    def _plan(self, states: States) -> _Plan:
        plan = next((plan for plan in self._plans if plan.hold(states)), None)
        if plan is None:
            plan = _Plan(states, self.kernel, self.at_once, self._memory)
            self._plans = (plan, *(old for old in self._plans[:1] if old.states is not states))
        return plan


class EigenbasisCPU(FusedEigenbasis):
    """By the C kernel, one parameter after the other."""

    kernel, at_once = FusedCPU, 1


class EigenbasisCUDA(FusedEigenbasis):
    """By the Triton kernel, with few launches: the parameters of one shape are turned by one product."""

    kernel, at_once = FusedCUDA, PART

    def save(self, states: States) -> None:
        send_steps(states)
        for state in states:
            assert isinstance(state, EigenState)
            state.counted = state.step  # the same number, on the device
        super().save(states)


class _Plan(Memory):
    """The parts of some parameters."""

    def __init__(self, states: States, kernel: type[Fused], at_once: int, memory: dict[torch.device, Tensor]) -> None:
        super().__init__(states)
        self._kinds = [_kind(state) for state in states]
        self.straight, turned = split_turned(states)
        draws = {id(state.drawn[0]): state.drawn[0] for state in turned}  # two, if some had no gradient in this step
        self.parts = [
            _Part(part, memory[part[0].param.device], kernel)
            for draw in draws
            for part in parts_of([state for state in turned if id(state.drawn[0]) == draw], at_once)
        ]

    def hold(self, states: States) -> bool:
        """Whether the plan is for these parameters, no memory has moved, and each part is still from one draw."""
        same = super().hold(states) and all(part.drawn_at_once for part in self.parts)
        return same and [_kind(state) for state in states] == self._kinds


class _Part:
    """Turned parameters of one group and one draw; three rows of memory hold their coordinates."""

    def __init__(self, states: list[EigenState], memory: Tensor, kernel: type[Fused]) -> None:
        alike: dict[Any, list[EigenState]] = {}
        for state in states:
            alike.setdefault((state.axes, *state.order, _kind(state)), []).append(state)
        self._states = [state for members in alike.values() for state in members]
        self.params = [state.flat(state.param.detach()) for state in self._states]
        self.others = [state.flat(state.other) for state in self._states]
        lengths = [sum(state.param.numel() for state in members) for members in alike.values()]
        places = memory[:, : sum(lengths)].split(lengths, 1)
        self._turners = [_Turner(*each) for each in zip(alike.values(), places, strict=True)]
        self._first, self._second = ([row for turner in self._turners for row in turner.rows[k]] for k in (0, 1))
        self._starts = [row for turner in self._turners for row in turner.rows[turner.start(0, 1)]]
        self._sampled: dict[str, Any] = {}  # the hyperparameters of the last sample
        self._draw, self._again, self._update = kernel(), kernel(), kernel()  # each keeps the table of one list:
        self._drawn = self._seen(self._starts, self.params, self._sampled)
        self._drawn_again = self._seen(self._first, self.others, self._sampled)
        self._updated = self._seen(self._first, self.others, self._states[0].group)
        for seen, row in zip(self._updated, self._second, strict=True):
            seen.grad = row

    def _seen(self, params: list[Tensor], others: list[Tensor], group: dict[str, Any]) -> list[EigenState]:
        return [_seen_as(*each, group) for each in zip(self._states, params, others, strict=True)]

    @property
    def drawn_at_once(self) -> bool:
        """Whether the last samples of all parameters are from one draw."""
        return all(state.drawn is self._states[0].drawn for state in self._states)

    def draw(self) -> None:
        """Write a sample into each parameter."""
        torch._foreach_zero_(self._starts)
        self._draw._run(SAVE_AND_SAMPLE, self._drawn, self._key(), False, False)
        self._turn(1, 0, 1)
        torch._foreach_copy_(self.params, self.others)
        torch._foreach_add_(self.params, self._first)

    def update(self) -> None:
        """Alg. 1 where the parameters hold the mean."""
        if self._states[0].group["weight_decay"]:
            self._turn(0, 0, 1, self.params)
        else:  # without a prior the mean does not enter
            torch._foreach_zero_(self._first)
        self._again._run(SAVE_AND_SAMPLE, self._drawn_again, self._key(), False, False)
        self._turn(0, 1, 2, [state.flat(state.grad) for state in self._states if state.grad is not None])
        for state, seen in zip(self._states, self._updated, strict=True):
            seen.statistic = None if state.statistic is None else state.flat(state.statistic)
        self._update._run(UPDATE, self._updated, None, True, False)  # leaves the new mean in place of the sample
        torch._foreach_sub_(self.others, self._first)
        self._turn(1, 1, 2, self.others)
        torch._foreach_sub_(self.params, self._second)

    def _key(self) -> Tensor:
        key, group = self._states[0].drawn
        self._sampled.update(group)
        return key

    def _turn(self, side: int, to: int, free: int, given: Sequence[Tensor] = ()) -> None:
        first = 0
        for turner in self._turners:
            turner.turn(side, to, free, given[first : first + turner.num])
            first += turner.num


class _Turner:
    """Parameters of one shape, whose coordinates are stored one after the other in each row of a memory."""

    def __init__(self, states: list[EigenState], memory: Tensor) -> None:
        self._states, self._memory, self.num = states, memory, len(states)
        self.rows = [row.split(states[0].param.numel()) for row in memory]
        self._axes = [(axis, size) for axis in states[0].order if (size := states[0].axes[axis]) > 1]
        self._front = (self.num,) if self.num > 1 else ()
        # for each row and axis a view with that axis in front, which becomes the last: no product needs a copy
        self._ins = [{size: self._columns(row, size) for _, size in self._axes} for row in memory]
        self._outs = [{size: row.view(*self._front, -1, size) for _, size in self._axes} for row in memory]

    def _columns(self, row: Tensor, size: int) -> Tensor:
        return row.view(*self._front, size, -1).mT

    def start(self, to: int, free: int) -> int:
        """Return the row to begin in, so that the result ends in the row ``to``."""
        return free if len(self._axes) % 2 else to

    def turn(self, side: int, to: int, free: int, given: Sequence[Tensor]) -> None:
        """Turn tensors into the bases (side 0) or back (1), with the result in the row ``to``.

        Args:
            side: 0 or 1.
            to: number of the row.
            free: number of another row, which is written too.
            given: the tensors as vectors; if there are none, they are in the row :meth:`start`.
        """
        at = self.start(to, free)
        if len(given) > 1:
            torch.stack(list(given), out=self._memory[at].view(self.num, -1))
        alone = given[0] if len(given) == 1 else None
        for axis, size in self._axes:
            columns = self._ins[at][size] if alone is None else self._columns(alone, size)
            at, alone = (free if at == to else to), None
            out = self._outs[at][size]
            if bases := [basis for state in self._states if (basis := state.bases[axis]) is not None]:
                product, matrices = (torch.bmm, torch.stack(bases)) if self._front else (torch.mm, bases[0])
                product(columns, matrices.mT if side else matrices, out=out)
            else:
                out.copy_(columns)


def _kind(state: ParameterState) -> tuple[bool, ...]:
    """Which axes have a basis."""
    assert isinstance(state, EigenState)
    return tuple(basis is not None for basis in state.bases)


def _seen_as(state: EigenState, param: Tensor, other: Tensor, group: dict[str, Any]) -> EigenState:
    """Return a copy of the state with another parameter, other counterpart and other hyperparameters."""
    seen = copy(state)
    seen.param, seen.other, seen.group, seen.grad, seen.held = param, other, group, None, None
    return seen
