"""Executors that any tensor can use: one parameter at a time in pieces that fit a cache, or lists of tensors.

They keep the noise beside the mean, four numbers a parameter with momentum and Hessian, and draw it as one normal
vector for each parameter group, in the order of the parameters: the draws of the public IVON package.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from vlls.optim.alg1 import hess_estimate, ivon_update, posterior_noise, sample_statistic
from vlls.optim.ivon._executors import States, StepExecutor
from vlls.optim.ivon._state import ParameterState

PIECE = 2**17  # elements: long enough for the threads, short enough for the caches


class Stored(StepExecutor):
    """Keeps noise and mean apart."""

    saves_first = True

    @classmethod
    def supports(cls, param: Tensor) -> bool:
        return True

    def __init__(self) -> None:
        self._draws: dict[Any, tuple[list[ParameterState], Tensor]] = {}  # whose noise lies in which memory

    def save(self, states: States) -> None:
        for state in states:
            if not state.keeps_master:
                state.saved_mean.copy_(state.param)

    def draw(self, states: States, generator: Generator | None) -> None:
        for key, part in _alike(states, lambda state: state.dtype).items():
            device, dtype = part[0].param.device, part[0].dtype
            sizes = [state.param.numel() for state in part]
            owners, flat = self._draws.get(key, ([], torch.empty(0)))
            if owners != part or flat.numel() != sum(sizes):  # the noise of others may still be needed
                flat = torch.empty(sum(sizes), device=device, dtype=dtype)
                self._draws[key] = part, flat
            if generator is None or generator.device.type == device.type:
                flat.normal_(generator=generator)
            else:  # a generator of another device: its numbers, copied
                flat.copy_(torch.randn(len(flat), dtype=dtype, device=generator.device, generator=generator))
            for state, piece in zip(part, flat.split(sizes), strict=True):
                noise = piece.view(state.param.shape)
                state.noise = noise if noise.stride() == state.param.stride() else state.empty().copy_(noise)
        self._perturb(states, generator)

    @abstractmethod
    def _perturb(self, states: States, generator: Generator | None) -> None:
        """Scale the standard normal numbers in ``noise`` and add them to the parameters."""

    def restore(self, states: States) -> None:
        for state in states:
            state.param.copy_(state.mean_at_sample)

    def noise(self, state: ParameterState, at_sample: bool) -> Tensor:
        return state.noise

    def update(self, states: States, generator: Generator | None, at_sample: bool, resample: bool) -> None:
        if at_sample:
            self.restore(states)
        self._update(states)
        if resample:
            self.save(states)
            self.draw(states, generator)

    @abstractmethod
    def _update(self, states: States) -> None:
        """Apply Alg. 1 where the parameters hold the mean."""


def _alike(states: States, dtype: Callable[[ParameterState], Any]) -> dict[Any, list[ParameterState]]:
    """Return the parameters by group, device and dtype, in order."""
    parts: dict[Any, list[ParameterState]] = {}
    for state in states:
        parts.setdefault((id(state.group), state.param.device, dtype(state)), []).append(state)
    return parts


def round_at_random(values: Tensor, dtype: torch.dtype, generator: Generator | None) -> Tensor:
    r"""Round to the numbers of a half-precision dtype, up or down at random so that the mean is the value itself.

    Rounding to the nearest would lose noise below the resolution, and with it the curvature: :math:`\hat g` would no
    longer depend on the noise. So the gradient's mean over roundings is that of a smooth function of the sample.
    """
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values)
    spacing = torch.ldexp(torch.full_like(values, info.eps / 2), exponent).clamp_min(info.smallest_normal * info.eps)
    device = values.device if generator is None else generator.device
    uniform = torch.rand(values.shape, dtype=values.dtype, device=device, generator=generator).to(values.device)
    scaled = values / spacing
    below = scaled.floor()
    return below.add_(uniform < scaled.sub_(below)).mul_(spacing).to(dtype)


def _pieces(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the same elements of every tensor, a piece at a time, as views."""
    first = tensors[0]
    dense = first.numel() > 1 and torch.ops.aten.is_non_overlapping_and_dense(first)
    if first.is_cuda or not dense or any(t.stride() != first.stride() for t in tensors):  # a GPU has no use for them
        yield tensors
        return
    flat = [t.as_strided((t.numel(),), (1,)) for t in tensors]
    yield from zip(*(t.split(PIECE) for t in flat), strict=True)


class SingleTensor(Stored):
    """One parameter after the other, in pieces, by the pure functions: on a CPU the numbers of the public package."""

    option = "single"

    def _perturb(self, states: States, generator: Generator | None) -> None:
        for state in states:
            group = state.group
            tensors = [state.param.detach(), state.mean_at_sample, state.noise, state.sampled_hess]
            for param, mean, noise, hess in _pieces(tensors):
                noise.copy_(posterior_noise(noise, hess, ess=group["ess"], weight_decay=group["weight_decay"]))
                sample = mean + noise
                param.copy_(round_at_random(sample, param.dtype, generator) if state.keeps_master else sample)

    def _update(self, states: States) -> None:
        for state in states:
            group, grad = state.group, state.grad
            assert grad is not None
            approx = group["hess_approx"]
            of_hess = {name: group[name] for name in ("ess", "weight_decay", "hess_approx", "hess_clip")}
            given = {name: group[name] for name in ("beta1", "weight_decay", "clip_radius")}
            given |= {"lr": state.lr, "beta2": state.beta2, "bias_correction": state.bias_correction}
            last = state.noise if state.statistic is None else state.statistic
            tensors = [state.mean, state.momentum, state.hess, grad.to(state.dtype), last, state.sampled_hess]
            for mean, momentum, hess, g, piece, sampled in _pieces(tensors):
                seen = sample_statistic(g, piece, hess_approx=approx) if state.statistic is None else piece
                hess_hat = hess_estimate(seen, hess, drawn_hess=sampled, **of_hess)
                new = ivon_update(mean, momentum, hess, g, hess_hat, **given)
                for old, value in zip((mean, momentum, hess), new, strict=True):
                    old.copy_(value)
            if state.keeps_master:
                state.param.copy_(state.mean)


class Foreach(Stored):
    """Lists of tensors, one kernel for each group and operation, all in place: few launches on a GPU."""

    option = "foreach"

    def save(self, states: States) -> None:
        for part in self._parts(states):
            if not part[0].keeps_master:
                torch._foreach_copy_([state.saved_mean for state in part], [state.param.detach() for state in part])

    @staticmethod
    def _parts(states: States) -> Iterable[list[ParameterState]]:
        return _alike(states, lambda state: state.param.dtype).values()

    def restore(self, states: States) -> None:
        for part in self._parts(states):
            torch._foreach_copy_([state.param for state in part], [state.mean_at_sample for state in part])

    def _perturb(self, states: States, generator: Generator | None) -> None:
        for part in self._parts(states):
            group = part[0].group
            params = [state.param for state in part]
            noise = [state.noise for state in part]
            means = [state.mean_at_sample for state in part]
            work = [state.work for state in part] if part[0].keeps_master else params  # their mean is saved
            torch._foreach_copy_(work, [state.hess for state in part])
            torch._foreach_add_(work, group["weight_decay"])
            torch._foreach_mul_(work, group["ess"])
            torch._foreach_sqrt_(work)
            torch._foreach_div_(noise, work)
            torch._foreach_copy_(work, means)
            torch._foreach_add_(work, noise)
            if part[0].keeps_master:
                torch._foreach_copy_(params, [round_at_random(w, params[0].dtype, generator) for w in work])

    def _update(self, states: States) -> None:
        for part in _alike(states, lambda state: (state.param.dtype, state.beta2)).values():
            group = part[0].group
            delta, rate, hess_clip = group["weight_decay"], 1.0 - part[0].beta2, group["hess_clip"]
            means = [state.mean for state in part]
            momentum = [state.momentum for state in part]
            hess = [state.hess for state in part]
            grads = [state.grad.to(state.dtype) for state in part if state.grad is not None]
            work = [state.work if state.keeps_master else state.saved_mean for state in part]  # free between samples
            gap = [state.noise for state in part]

            torch._foreach_mul_(momentum, group["beta1"])
            torch._foreach_copy_(work, grads)
            torch._foreach_mul_(work, 1.0 - group["beta1"])
            torch._foreach_add_(momentum, work)
            torch._foreach_copy_(work, hess)
            torch._foreach_add_(work, delta)  # h + delta
            for state, g, out in zip(part, grads, gap, strict=True):
                if state.statistic is not None:
                    out.copy_(state.statistic)
                elif group["hess_approx"] == "gradsq":
                    out.copy_(g)
            if all(state.statistic is None for state in part):
                torch._foreach_mul_(gap, grads)
            torch._foreach_mul_(gap, group["ess"])
            if group["hess_approx"] == "price":
                if hess_clip < math.inf:
                    torch._foreach_clamp_min_(gap, -hess_clip)
                    torch._foreach_clamp_max_(gap, hess_clip)
                torch._foreach_mul_(gap, work)  # h_hat
            elif hess_clip < math.inf:  # never below 0
                torch._foreach_minimum_(gap, torch._foreach_mul(work, hess_clip))
            torch._foreach_sub_(gap, hess)
            torch._foreach_add_(hess, gap, alpha=rate)
            torch._foreach_mul_(gap, gap)
            torch._foreach_addcdiv_(hess, gap, work, 0.5 * rate**2)

            torch._foreach_copy_(work, momentum)
            if group["debias"]:
                torch._foreach_div_(work, [state.bias_correction for state in part])
            torch._foreach_add_(work, means, alpha=delta)
            torch._foreach_copy_(gap, hess)
            torch._foreach_add_(gap, delta)
            torch._foreach_div_(work, gap)
            if group["clip_radius"] < math.inf:
                torch._foreach_clamp_min_(work, -group["clip_radius"])
                torch._foreach_clamp_max_(work, group["clip_radius"])
            torch._foreach_add_(means, work, alpha=-float(part[0].lr))
            if part[0].keeps_master:
                torch._foreach_copy_([state.param for state in part], means)
