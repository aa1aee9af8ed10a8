"""The code that takes EVON's steps: one parameter after the other, lists of them for a GPU, and IVON's C kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import torch
from torch import Generator, Tensor

from vlls._bases import back, project, turn_alike
from vlls.optim._evon._learning import learn_bases, new_buffers
from vlls.optim._evon._state import EigenState, channels_last
from vlls.optim.alg1 import hess_estimate, ivon_direction, posterior_noise, sample_statistic
from vlls.optim.ivon._cpu import FusedCPU, _Table
from vlls.optim.ivon._executors import SAVE_AND_SAMPLE, UPDATE, States
from vlls.optim.ivon._state import ParameterState
from vlls.optim.ivon._tensors import Foreach, SingleTensor, _pieces, round_at_random

PART = 5 * 2**20  # entries of the parameters that a GPU steps at once


class Eigenbasis(SingleTensor):
    """One parameter after the other; a turned one goes into its bases and back by matrix products."""

    @classmethod
    def label(cls) -> str:
        return "eigenbasis"

    def _perturb(self, states: States, generator: Generator | None) -> None:
        for state in states:
            assert isinstance(state, EigenState)
            if not state.turned:
                super()._perturb([state], generator)
                continue
            group = state.group
            for noise, hess in _pieces([state.noise, state.hess]):
                noise.copy_(posterior_noise(noise, hess, ess=group["ess"], weight_decay=group["weight_decay"]))
            sample = back(state.noise, state.bases).add_(state.mean_at_sample)
            param = state.param
            param.copy_(round_at_random(sample, param.dtype, generator) if state.keeps_master else sample)

    def _update(self, states: States) -> None:
        own = [state for state in states if isinstance(state, EigenState)]
        for state in own:
            if state.turned:
                _step(state)
            else:
                super()._update([state])
        learn_bases(own, new_buffers)


def _step(state: EigenState) -> None:
    """Alg. 1 on the coordinates in the bases; only the mean's step goes back."""
    group, grad = state.group, state.grad
    assert grad is not None
    of_hess = {name: group[name] for name in ("ess", "weight_decay", "hess_approx", "hess_clip")}
    given = {name: group[name] for name in ("beta1", "weight_decay", "clip_radius")}
    given |= {"beta2": state.beta2, "bias_correction": state.bias_correction}
    direction = project(grad.to(state.dtype), state.bases)
    # without a prior the mean does not enter
    mean = project(state.mean, state.bases) if group["weight_decay"] else direction
    last = state.noise if state.statistic is None else state.statistic
    for g, m, momentum, hess, piece in _pieces([direction, mean, state.momentum, state.hess, last]):
        seen = piece if state.statistic is not None else sample_statistic(g, piece, hess_approx=group["hess_approx"])
        hess_hat = hess_estimate(seen, hess, **of_hess)
        for old, value in zip(
            (g, momentum, hess), ivon_direction(m, momentum, hess, g, hess_hat, **given), strict=True
        ):
            old.copy_(value)
    state.mean.sub_(back(direction, state.bases).mul_(state.lr))
    if state.keeps_master:
        state.param.copy_(state.mean)


class EigenbasisForeach(Foreach):
    """Lists of parameters, for a GPU: few launches, and the products of all parameters of one shape at once."""

    @classmethod
    def label(cls) -> str:
        return "eigenbasis, foreach"

    def _perturb(self, states: States, generator: Generator | None) -> None:
        straight, turned = _split(states)
        super()._perturb(straight, generator)
        for part in _parts(turned):
            group, noise = part[0].group, [state.noise for state in part]
            width = torch._foreach_add([state.hess for state in part], group["weight_decay"])
            torch._foreach_mul_(width, group["ess"])
            torch._foreach_sqrt_(width)
            torch._foreach_div_(noise, width)
            samples = _turned(part, noise, 1)
            torch._foreach_add_(samples, [state.mean_at_sample for state in part])
            params = [state.param for state in part]
            if part[0].keeps_master:
                samples = [round_at_random(sample, params[0].dtype, generator) for sample in samples]
            torch._foreach_copy_(params, samples)

    def _update(self, states: States) -> None:
        straight, turned = _split(states)
        super()._update(straight)
        for part in _parts(turned):
            grads = [state.grad.to(state.dtype) for state in part if state.grad is not None]
            if part[0].group["weight_decay"]:
                both = _turned([*part, *part], [*(state.mean for state in part), *grads], 0)
                means, grads = both[: len(part)], both[len(part) :]
            else:  # without a prior the mean does not enter
                means, grads = [torch.zeros_like(grad) for grad in grads], _turned(part, grads, 0)
            steps = torch._foreach_neg(means)
            seen = [_in_bases(*each) for each in zip(part, means, grads, strict=True)]
            super()._update(seen)
            torch._foreach_add_(steps, means)
            torch._foreach_add_([state.mean for state in part], _turned(part, steps, 1))
            if part[0].keeps_master:
                torch._foreach_copy_([state.param for state in part], [state.mean for state in part])
        learn_bases([*straight, *turned], new_buffers)


def _parts(states: Sequence[EigenState]) -> Iterator[list[EigenState]]:
    """Parameters of one group and dtype, at most PART entries, those of one shape behind each other."""
    alike: dict[Any, list[EigenState]] = {}
    for state in sorted(states, key=lambda state: state.param.shape):
        alike.setdefault((id(state.group), state.param.device, state.param.dtype), []).append(state)
    for members in alike.values():
        part: list[EigenState] = []
        for state in members:
            if part and sum(other.param.numel() for other in part) + state.param.numel() > PART:
                yield part
                part = []
            part.append(state)
        yield part


def _turned(part: Sequence[EigenState], tensors: Sequence[Tensor], side: int) -> list[Tensor]:
    """Turn a tensor of each parameter into its bases (side 0) or back (side 1)."""
    alike: dict[Any, list[int]] = {}
    for k, state in enumerate(part):
        alike.setdefault((state.axes, *state.order, *(basis is None for basis in state.bases)), []).append(k)
    found: list[Tensor] = list(tensors)
    for members in alike.values():
        first = part[members[0]]
        axes = [(first.axes[axis], [part[k].bases[axis] for k in members]) for axis in first.order]
        rows = turn_alike([part[k].flat(tensors[k]) for k in members], axes, side)
        for k, row in zip(members, rows, strict=True):
            found[k] = part[k].unflat(row)
    return found


def _in_bases(state: EigenState, mean: Tensor, grad: Tensor) -> EigenState:
    """The same state, of a parameter whose mean and gradient are these."""
    seen = copy(state)
    seen.param, seen.grad = mean, grad
    return seen


class FusedEigenbasis(FusedCPU):
    """IVON's kernel, which takes the coordinates of a turned parameter for a parameter.

    Its noise is not kept: the same key makes it again. So three numbers a parameter are enough, as in IVON, beside the
    bases, their factors and three buffers as long as the longest parameter.
    """

    saves_first = True
    _buffers = torch.empty(3, 0)

    @classmethod
    def supports(cls, param: Tensor) -> bool:
        return super().supports(param) and (param.is_contiguous() or channels_last(param))

    @classmethod
    def label(cls) -> str:
        return f"eigenbasis, {super().label()}"

    def _table(self, states: States) -> _Table:
        return _Table(states)  # of a list that is made for this call, perhaps of memory that is free after it

    def save(self, states: States) -> None:
        super().save(states)
        own = [state for state in states if isinstance(state, EigenState)]
        longest = max((state.param.numel() for state in own if state.turning or state.turned), default=0)
        if longest > self._buffers.shape[1]:
            self._buffers = torch.empty(3, longest)
        for state in own:
            state.other.copy_(state.param)

    def draw(self, states: States, generator: Generator | None) -> None:
        key = self.new_key(generator)
        straight, turned = _split(states)
        self._run(SAVE_AND_SAMPLE, straight, key, False, False)
        for state in turned:
            state.drawn = key, dict(state.group)
            free, param, mean = self._free(state), state.flat(state.param.detach()), state.flat(state.other)
            noise = self._sample(state, free.pop().zero_(), param)
            torch.add(mean, state.turn_flat(noise, state.bases, 1, free), out=param)

    def restore(self, states: States) -> None:
        straight, turned = _split(states)
        super().restore(straight)
        for state in turned:
            state.param.copy_(state.other)

    def noise(self, state: ParameterState, at_sample: bool) -> Tensor:
        assert isinstance(state, EigenState)
        if not state.turned:
            return super().noise(state, at_sample)
        noise = state.empty().zero_()
        self._sample(state, state.flat(noise), self._free(state)[0])
        return noise

    def update(self, states: States, generator: Generator | None, at_sample: bool, resample: bool) -> None:
        if at_sample:
            self.restore(states)
        straight, turned = _split(states)
        self._run(UPDATE, straight, None, False, False)
        for state in turned:
            self._step(state)
        learn_bases([*straight, *turned], self._free)
        if resample:
            self.save(states)
            self.draw(states, generator)

    def _step(self, state: EigenState) -> None:
        assert state.grad is not None
        free, bases = self._free(state), state.bases
        mean, param = state.flat(state.other), state.flat(state.param.detach())
        # without a prior the mean does not enter
        sample = state.turn_flat(param, bases, 0, free) if state.group["weight_decay"] else free.pop().zero_()
        seen = _seen_as(state, self._sample(state, sample, mean), mean)
        seen.grad = state.turn_flat(state.flat(state.grad), bases, 0, free)
        seen.statistic = None if state.statistic is None else state.flat(state.statistic)
        self._run(UPDATE, [seen], None, True, False)  # leaves the new mean in place of the sample
        param.sub_(state.turn_flat(mean.sub_(sample), bases, 1, [sample, *free]))

    def _free(self, state: EigenState) -> list[Tensor]:
        return list(self._buffers[:, : state.param.numel()])

    def _sample(self, state: EigenState, mean: Tensor, kept: Tensor) -> Tensor:
        """Keep the coordinates of a mean, and put those of the last sample in their place."""
        seen = _seen_as(state, mean, kept)
        key, seen.group = state.drawn
        self._run(SAVE_AND_SAMPLE, [seen], key, False, False)
        return mean


def _split(states: States) -> tuple[list[EigenState], list[EigenState]]:
    """Those without a basis, and those with one."""
    own = [state for state in states if isinstance(state, EigenState)]
    return [state for state in own if not state.turned], [state for state in own if state.turned]


def _seen_as(state: EigenState, param: Tensor, other: Tensor) -> EigenState:
    """The same state, with other tensors in the place of the parameter and of its counterpart."""
    seen = copy(state)
    seen.param, seen.other, seen.grad, seen.held = param, other, None, None
    return seen
