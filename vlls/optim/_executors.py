"""Executors that any tensor can use: one parameter at a time in pieces that fit a cache, or lists of tensors.

An executor draws a sample into the parameters, takes it back and applies Alg. 1. These two keep the noise beside the
mean, four numbers a parameter with momentum and Hessian, and draw it as one normal vector a parameter group, in the
order of the parameters: the draws of the public IVON package. The fused ones (:mod:`vlls.optim._cpu`,
:mod:`vlls.optim._triton`) keep three and make the noise in registers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vlls.optim._slot import Slot
from vlls.optim.alg1 import hess_estimate, ivon_update, posterior_noise, sample_statistic

__all__ = ["Executor", "Foreach", "Fused", "SingleTensor"]

PIECE = 2**17  # elements: long enough for the threads, short enough for the caches


class Executor(ABC):
    """Draws, takes back and updates."""

    saves_first: bool  # whether save() holds the mean already, so that restore() is right at any time after it

    @abstractmethod
    def save(self, slots: Sequence[Slot]) -> None:
        """Make all memory that :meth:`draw` needs; the parameters do not change."""

    @abstractmethod
    def draw(self, slots: Sequence[Slot], generator: torch.Generator | None) -> None:
        """Write a sample of the posterior into each parameter, after :meth:`save`; the mean is kept."""

    @abstractmethod
    def restore(self, slots: Sequence[Slot]) -> None:
        """Write the mean back; what the update needs of the sample stays."""

    @abstractmethod
    def noise(self, slot: Slot, at_sample: bool) -> Tensor:
        """The sample minus the mean, of the last draw."""

    @abstractmethod
    def update(
        self, slots: Sequence[Slot], *, at_sample: bool, resample: bool, generator: torch.Generator | None
    ) -> None:
        """Apply Alg. 1 where the parameters hold the sample or the mean; leave the mean, or the next sample.

        Only parameters that hold a sample (``at_sample``) can be left at another one (``resample``).
        """


class Fused(Executor):
    """Kernels that keep the other of mean and sample in ``slot.buffer("other")``, and no noise."""

    saves_first = False  # the kernel that draws saves the mean

    def save(self, slots: Sequence[Slot]) -> None:
        """Make the memory that the kernel needs."""
        for slot in slots:
            slot.buffer("other")

    def noise(self, slot: Slot, at_sample: bool) -> Tensor:
        """The sample minus the mean, of the last draw."""
        gap = slot.param.detach() - slot.buffer("other")
        return gap if at_sample else gap.neg_()


class Stored(Executor):
    """Keeps noise and mean apart, in ``slot.buffer``."""

    saves_first = True

    def __init__(self) -> None:
        self._draws: dict[Any, Tensor] = {}

    def save(self, slots: Sequence[Slot]) -> None:
        """Keep the mean, and make all memory that :meth:`draw` needs; the parameters do not change."""
        for slot in slots:
            if not slot.keeps_master:
                slot.buffer("mean").copy_(slot.param)

    def draw(self, slots: Sequence[Slot], generator: torch.Generator | None) -> None:
        """Write a sample of the posterior into each parameter, whose mean has been saved."""
        parts: dict[Any, list[Slot]] = {}
        for slot in slots:
            parts.setdefault((id(slot.group), slot.param.device, slot.dtype), []).append(slot)
        for key, members in parts.items():
            self._standard_normal(key, members, generator)
        self._perturb(slots, generator)

    def _standard_normal(self, key: Any, slots: Sequence[Slot], generator: torch.Generator | None) -> None:
        _, device, dtype = key
        numel = sum(slot.param.numel() for slot in slots)
        flat = self._draws.get(key)
        if flat is None or flat.numel() != numel:
            flat = self._draws[key] = torch.empty(numel, device=device, dtype=dtype)
        if generator is None or generator.device.type == device.type:
            flat.normal_(generator=generator)
        else:  # a generator of another device: its numbers, copied
            flat.copy_(torch.randn(numel, dtype=dtype, device=generator.device, generator=generator))
        for slot, part in zip(slots, flat.split([slot.param.numel() for slot in slots]), strict=True):
            noise = part.view(slot.param.shape)
            if noise.stride() != slot.param.stride():
                noise = torch.empty_like(slot.param, dtype=dtype).copy_(noise)
            slot.set_buffer("noise", noise)

    @abstractmethod
    def _perturb(self, slots: Sequence[Slot], generator: torch.Generator | None) -> None:
        """Scale the standard normal numbers in the buffer "noise" and add them to the parameters."""

    def restore(self, slots: Sequence[Slot]) -> None:
        """Write the mean back; the noise stays for the update."""
        for slot in slots:
            slot.param.copy_(slot.state["mean"] if slot.keeps_master else slot.buffer("mean"))

    def noise(self, slot: Slot, at_sample: bool) -> Tensor:
        """The sample minus the mean, of the last draw."""
        return slot.buffer("noise")

    def update(
        self, slots: Sequence[Slot], *, at_sample: bool, resample: bool, generator: torch.Generator | None
    ) -> None:
        """Apply Alg. 1 where the parameters hold the sample or the mean; leave the mean, or the next sample."""
        if at_sample:
            self.restore(slots)
        self._update(slots)
        if resample:
            self.save(slots)
            self.draw(slots, generator)

    @abstractmethod
    def _update(self, slots: Sequence[Slot]) -> None:
        """Apply Alg. 1 where the parameters hold the mean."""


def round_at_random(values: Tensor, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
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
    """The same elements of every tensor, a piece at a time, as views."""
    first = tensors[0]
    dense = first.numel() > 1 and torch.ops.aten.is_non_overlapping_and_dense(first)
    if not dense or any(t.stride() != first.stride() for t in tensors):
        yield tensors
        return
    flat = [t.as_strided((t.numel(),), (1,)) for t in tensors]
    yield from zip(*(t.split(PIECE) for t in flat), strict=True)  # type: ignore[misc]


class SingleTensor(Stored):
    """One parameter after the other, in pieces, by the pure functions: on a CPU the numbers of the public package."""

    def _perturb(self, slots: Sequence[Slot], generator: torch.Generator | None) -> None:
        for slot in slots:
            group = slot.group
            mean = slot.mean if slot.keeps_master else slot.buffer("mean")
            for param, centre, noise, hess in _pieces(
                [slot.param.detach(), mean, slot.buffer("noise"), slot.state["hess"]]
            ):
                noise.copy_(posterior_noise(noise, hess, ess=group["ess"], weight_decay=group["weight_decay"]))
                sample = centre + noise
                param.copy_(round_at_random(sample, param.dtype, generator) if slot.keeps_master else sample)

    def _update(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            group, state, grad = slot.group, slot.state, slot.grad
            assert grad is not None
            delta, approx = group["weight_decay"], group["hess_approx"]
            lr, bias_correction = slot.lr, slot.bias_correction
            last = slot.buffer("noise") if slot.statistic is None else slot.statistic
            tensors = [slot.mean, state["momentum"], state["hess"], grad.to(slot.dtype), last]
            for mean, momentum, hess, g, piece in _pieces(tensors):
                seen = sample_statistic(g, piece, hess_approx=approx) if slot.statistic is None else piece
                hess_hat = hess_estimate(seen, hess, ess=group["ess"], weight_decay=delta, hess_approx=approx)
                new = ivon_update(
                    mean,
                    momentum,
                    hess,
                    g,
                    hess_hat,
                    lr=lr,
                    beta1=group["beta1"],
                    beta2=group["beta2"],
                    weight_decay=delta,
                    bias_correction=bias_correction,
                    clip_radius=group["clip_radius"],
                )
                for old, value in zip((mean, momentum, hess), new, strict=True):
                    old.copy_(value)
            if slot.keeps_master:
                slot.param.copy_(slot.mean)


class Foreach(Stored):
    """Lists of tensors, a kernel a group and operation, all in place: few launches on a GPU."""

    def restore(self, slots: Sequence[Slot]) -> None:
        """Write the mean back; the noise stays for the update."""
        for part in self._groups(slots):
            means = [slot.state["mean"] if slot.keeps_master else slot.buffer("mean") for slot in part]
            torch._foreach_copy_([slot.param for slot in part], means)

    def _groups(self, slots: Sequence[Slot]) -> Iterator[list[Slot]]:
        parts: dict[Any, list[Slot]] = {}
        for slot in slots:
            parts.setdefault((id(slot.group), slot.param.device, slot.param.dtype), []).append(slot)
        yield from parts.values()

    def _perturb(self, slots: Sequence[Slot], generator: torch.Generator | None) -> None:
        for part in self._groups(slots):
            group = part[0].group
            params = [slot.param for slot in part]
            noise = [slot.buffer("noise") for slot in part]
            means = [slot.mean if slot.keeps_master else slot.buffer("mean") for slot in part]
            work = [slot.buffer("work") for slot in part] if part[0].keeps_master else params  # their mean is saved
            torch._foreach_copy_(work, [slot.state["hess"] for slot in part])
            torch._foreach_add_(work, group["weight_decay"])
            torch._foreach_mul_(work, group["ess"])
            torch._foreach_sqrt_(work)
            torch._foreach_div_(noise, work)
            torch._foreach_copy_(work, means)
            torch._foreach_add_(work, noise)
            if part[0].keeps_master:
                torch._foreach_copy_(params, [round_at_random(w, params[0].dtype, generator) for w in work])

    def _update(self, slots: Sequence[Slot]) -> None:
        for part in self._groups(slots):
            group = part[0].group
            delta, rate = group["weight_decay"], 1.0 - group["beta2"]
            means = [slot.mean for slot in part]
            momentum = [slot.state["momentum"] for slot in part]
            hess = [slot.state["hess"] for slot in part]
            grads = [slot.grad.to(slot.dtype) for slot in part if slot.grad is not None]
            work = [slot.buffer("work" if slot.keeps_master else "mean") for slot in part]  # free between samples
            gap = [slot.buffer("noise") for slot in part]

            torch._foreach_mul_(momentum, group["beta1"])
            torch._foreach_copy_(work, grads)
            torch._foreach_mul_(work, 1.0 - group["beta1"])
            torch._foreach_add_(momentum, work)
            torch._foreach_copy_(work, hess)
            torch._foreach_add_(work, delta)  # h + delta
            for slot, g, out in zip(part, grads, gap, strict=True):
                if slot.statistic is not None:
                    out.copy_(slot.statistic)
                elif group["hess_approx"] == "gradsq":
                    out.copy_(g)
            if all(slot.statistic is None for slot in part):
                torch._foreach_mul_(gap, grads)
            torch._foreach_mul_(gap, group["ess"])
            if group["hess_approx"] == "price":
                torch._foreach_mul_(gap, work)  # h_hat
            torch._foreach_sub_(gap, hess)
            torch._foreach_add_(hess, gap, alpha=rate)
            torch._foreach_mul_(gap, gap)
            torch._foreach_addcdiv_(hess, gap, work, 0.5 * rate**2)

            torch._foreach_copy_(work, momentum)
            if group["debias"]:
                torch._foreach_div_(work, [slot.bias_correction for slot in part])
            torch._foreach_add_(work, means, alpha=delta)
            torch._foreach_copy_(gap, hess)
            torch._foreach_add_(gap, delta)
            torch._foreach_div_(work, gap)
            if group["clip_radius"] < math.inf:
                torch._foreach_clamp_min_(work, -group["clip_radius"])
                torch._foreach_clamp_max_(work, group["clip_radius"])
            torch._foreach_add_(means, work, alpha=-float(part[0].lr))
            if part[0].keeps_master:
                torch._foreach_copy_([slot.param for slot in part], means)
