"""EVON's steps in torch's operations: one parameter after the other, or lists of them for a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import torch
from torch import Generator, Tensor

from vlls._bases import back, project, turn_alike
from vlls.optim._evon._learning import learn_bases, new_buffers
from vlls.optim._evon._state import EigenState
from vlls.optim.alg1 import hess_estimate, ivon_direction, posterior_noise, sample_statistic
from vlls.optim.ivon._executors import States
from vlls.optim.ivon._tensors import Foreach, SingleTensor, _pieces, round_at_random

PART = 7 * 2**19  # entries of the parameters that a GPU steps at once: more, and memory grows; fewer, and launches do


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
        straight, turned = split_turned(states)
        super()._perturb(straight, generator)
        for part in parts_of(turned, PART):
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
        straight, turned = split_turned(states)
        super()._update(straight)
        for part in parts_of(turned, PART):
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


def parts_of(states: Sequence[EigenState], most: int) -> Iterator[list[EigenState]]:
    """Yield parameters of one group and dtype, at most ``most`` entries, with those of one shape next to each other."""
    alike: dict[Any, list[EigenState]] = {}
    for state in sorted(states, key=lambda state: state.param.shape):
        alike.setdefault((id(state.group), state.param.device, state.param.dtype), []).append(state)
    for members in alike.values():
        part: list[EigenState] = []
        for state in members:
            if part and sum(other.param.numel() for other in part) + state.param.numel() > most:
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
    """Return a copy of the state with this mean and gradient."""
    seen = copy(state)
    seen.param, seen.grad = mean, grad
    return seen


def split_turned(states: States) -> tuple[list[EigenState], list[EigenState]]:
    """Return the parameters without a basis, and those with one."""
    own = [state for state in states if isinstance(state, EigenState)]
    return [state for state in own if not state.turned], [state for state in own if state.turned]
