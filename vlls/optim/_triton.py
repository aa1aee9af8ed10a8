"""IVON's fused executor for float32 parameters on a GPU: one Triton kernel over all parameters.

The kernel reads the addresses of every tensor from a table in device memory, so a step is one launch however many
parameters there are, and a CUDA graph can capture it: nothing waits for the host, the key of the noise is drawn on
the device, and a table that changes while capturing is sent from pinned memory that stays. The layout is that of
``_ivon.c``; the noise is Triton's Philox.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vlls.optim._cpu import EXCHANGE, SAVE_AND_SAMPLE, UPDATE, in_order, new_key
from vlls.optim._executors import Fused
from vlls.optim._slot import Slot

try:
    import triton
    import triton.language as tl
except ImportError as error:  # a torch without Triton: Windows, macOS, CPU-only builds
    raise RuntimeError(
        "fused=True needs Triton for parameters on a GPU and it is not installed; "
        "pip install triton, or leave fused=None"
    ) from error

__all__ = ["FusedCUDA"]

Launch = tuple[torch.device, bool, bool, Tensor, Tensor, Tensor]  # gradsq, averaged; rows, numbers, tiles

LANES = 1024  # normal numbers of one of Philox's four words
TILE = 4 * LANES
COLUMNS = 9  # param, other, grad, statistic, momentum, hess, step, numel, stream
NUMBERS = 8  # lr, ess, weight_decay, beta1, rate1, rate2, log_beta1, clip
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton on a CPU, for tests


@triton.jit
def _tensor(row, column: tl.constexpr):  # type: ignore[no-untyped-def]
    """The float tensor whose address stands in a column of a row of the table."""
    return tl.load(row + column).to(tl.pointer_type(tl.float32))


@triton.jit
def ivon_kernel(  # type: ignore[no-untyped-def]
    table,
    numbers,
    tiles,
    key,
    MODE: tl.constexpr,
    AT_SAMPLE: tl.constexpr,
    RESAMPLE: tl.constexpr,
    AVERAGED: tl.constexpr,
    GRADSQ: tl.constexpr,
    LANES: tl.constexpr,
):
    """One tile of one parameter: MODE 0 saves the mean and samples, 1 exchanges the two, 2 is Alg. 1."""
    index = tl.load(tiles + 2 * tl.program_id(0)).to(tl.int64)
    tile = tl.load(tiles + 2 * tl.program_id(0) + 1).to(tl.int64)
    row = table + index * 9
    param, other, hess_ = _tensor(row, 0), _tensor(row, 1), _tensor(row, 5)
    numel = tl.load(row + 7)
    scalars = numbers + index * 8
    ess, delta = tl.load(scalars + 1), tl.load(scalars + 2)
    lane = tl.arange(0, LANES)

    if (MODE == 0) or RESAMPLE:
        counter = (tile * LANES + lane).to(tl.uint32)
        zero = counter * 0
        stream = zero + tl.load(row + 8).to(tl.uint32)
        w0, w1, w2, w3 = tl.philox(tl.load(key), counter, stream, zero, zero)
        e0, e1 = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(w0), tl.uint_to_uniform_float(w1))
        e2, e3 = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(w2), tl.uint_to_uniform_float(w3))

    if MODE == 2:
        grad_, statistic_, momentum_ = _tensor(row, 2), _tensor(row, 3), _tensor(row, 4)
        lr, beta1, rate1 = tl.load(scalars), tl.load(scalars + 3), tl.load(scalars + 4)
        rate2, clip = tl.load(scalars + 5), tl.load(scalars + 7)
        bias = 1.0 - tl.exp(tl.load(_tensor(row, 6)) * tl.load(scalars + 6))

    for part in tl.static_range(4):
        at = tile * 4 * LANES + part * LANES + lane
        inside = at < numel
        held = tl.load(param + at, mask=inside)
        if (MODE == 0) or RESAMPLE:
            if part == 0:
                e = e0
            elif part == 1:
                e = e1
            elif part == 2:
                e = e2
            else:
                e = e3
        if MODE == 0:
            h = tl.load(hess_ + at, mask=inside, other=1.0)
            tl.store(other + at, held, mask=inside)
            tl.store(param + at, held + e / tl.sqrt(ess * (h + delta)), mask=inside)
        elif MODE == 1:
            tl.store(param + at, tl.load(other + at, mask=inside), mask=inside)
            tl.store(other + at, held, mask=inside)
        else:
            g = tl.load(grad_ + at, mask=inside)
            h = tl.load(hess_ + at, mask=inside, other=1.0)
            if AT_SAMPLE:
                theta = held
                mean = tl.load(other + at, mask=inside)
            else:
                mean = held
                if AVERAGED or GRADSQ:
                    theta = held
                else:
                    theta = tl.load(other + at, mask=inside)
            precision = h + delta
            if AVERAGED:
                seen = tl.load(statistic_ + at, mask=inside)
            elif GRADSQ:
                seen = g * g
            else:
                seen = (theta - mean) * g
            if GRADSQ:
                gap = seen * ess - h
            else:
                gap = seen * ess * precision - h
            h += rate2 * gap + 0.5 * rate2 * rate2 * gap * gap / precision
            average = beta1 * tl.load(momentum_ + at, mask=inside) + rate1 * g
            direction = (average / bias + delta * mean) / (h + delta)
            direction = tl.where(direction < -clip, -clip, tl.where(direction > clip, clip, direction))  # NaN stays
            mean -= lr * direction
            tl.store(momentum_ + at, average, mask=inside)
            tl.store(hess_ + at, h, mask=inside)
            if RESAMPLE:
                tl.store(other + at, mean, mask=inside)
                tl.store(param + at, mean + e / tl.sqrt(ess * (h + delta)), mask=inside)
            else:
                tl.store(param + at, mean, mask=inside)


class _Table:
    """A small array in device memory that is sent again only when it has changed."""

    SPARE = 4  # changes while a CUDA graph is being captured

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._rows: list[Any] = []
        self.tensor: Tensor | None = None
        self._pinned: list[Tensor] = []
        self._in_graphs: list[Tensor] = []  # a captured copy reads these again at every replay

    def send(self, rows: list[Any], device: torch.device) -> Tensor:
        same = rows is self._rows or rows == self._rows
        if same and self.tensor is not None and self.tensor.device == device:
            return self.tensor
        values = torch.tensor(rows, dtype=self._dtype)
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if self.tensor is None or self.tensor.shape != values.shape or self.tensor.device != device:
            if capturing:
                raise RuntimeError(
                    "take one step, or a few, before capturing a CUDA graph: IVON's tables are not made yet"
                )
            self.tensor = torch.empty_like(values, device=device)
            if device.type == "cuda":
                self._pinned = [torch.empty_like(values).pin_memory() for _ in range(self.SPARE)]
        if capturing:
            if not self._pinned:
                raise RuntimeError(
                    f"more than {self.SPARE} captures with changed gradients or hyperparameters; make a new optimizer "
                    "from state_dict(), or capture once and replay"
                )
            self._in_graphs.append(self._pinned.pop().copy_(values))
            self.tensor.copy_(self._in_graphs[-1], non_blocking=True)
        else:
            self.tensor.copy_(values)
        self._rows = rows
        return self.tensor


class FusedCUDA(Fused):
    """Alg. 1, the mean's exchange and the next sample, each one launch for all parameters of a device."""

    def __init__(self) -> None:
        self._tables: dict[Any, _Table] = {}
        self._last: tuple[Sequence[Slot], list[Launch]] | None = None  # an exchange uses the draw's tables again

    @staticmethod
    def supports(param: Tensor) -> bool:
        """Whether the kernel can take this parameter."""
        return (
            (param.is_cuda or INTERPRETED)
            and param.dtype == torch.float32
            and torch.ops.aten.is_non_overlapping_and_dense(param)
        )

    def draw(self, slots: Sequence[Slot], generator: torch.Generator | None) -> None:
        """Save the mean and write a sample of the posterior into each parameter."""
        self._run(SAVE_AND_SAMPLE, slots, generator=generator)

    def restore(self, slots: Sequence[Slot]) -> None:
        """Exchange sample and mean: the noise is their difference."""
        self._run(EXCHANGE, slots)

    def update(
        self, slots: Sequence[Slot], *, at_sample: bool, resample: bool, generator: torch.Generator | None
    ) -> None:
        """Apply Alg. 1 in one pass; leave the mean, or the next sample of it."""
        self._run(UPDATE, slots, generator=generator, at_sample=at_sample, resample=resample)

    def _run(
        self,
        mode: int,
        slots: Sequence[Slot],
        *,
        generator: torch.Generator | None = None,
        at_sample: bool = False,
        resample: bool = False,
    ) -> None:
        keep: list[Tensor] = []  # tensors made here live until the kernel is in the queue
        if mode != EXCHANGE or self._last is None or self._last[0] is not slots:
            self._last = slots, list(self._prepare(mode, slots, keep))
        for device, gradsq, averaged, rows, numbers, tiles in self._last[1]:
            sampling = mode == SAVE_AND_SAMPLE or resample
            key = new_key(generator, device).to(device) if sampling else numbers
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                ivon_kernel[(len(tiles),)](
                    rows,
                    numbers,
                    tiles,
                    key,
                    MODE=mode,
                    AT_SAMPLE=at_sample,
                    RESAMPLE=resample,
                    AVERAGED=averaged,
                    GRADSQ=gradsq,
                    LANES=LANES,
                )

    def _prepare(self, mode: int, slots: Sequence[Slot], keep: list[Tensor]) -> Iterator[Launch]:
        """The tables of each launch: one for each device and, in an update, Hessian approximation."""
        parts: dict[Any, list[Slot]] = {}
        for slot in slots:
            gradsq = mode == UPDATE and slot.group["hess_approx"] == "gradsq"
            parts.setdefault((slot.param.device, gradsq), []).append(slot)
        for (device, gradsq), members in parts.items():
            name = (device, mode, gradsq)
            rows = self._table(
                (*name, "rows"), torch.int64, [self._addresses(slot, mode, keep) for slot in members], device
            )
            numbers = self._table((*name, "numbers"), torch.float32, [_numbers(slot) for slot in members], device)
            _write_device_lr(numbers, members)
            tiles = self._table((*name, "tiles"), torch.int32, _tiles(tuple(s.param.numel() for s in members)), device)
            averaged = mode == UPDATE and members[0].statistic is not None
            yield device, gradsq, averaged, rows, numbers, tiles

    def _table(self, name: Any, dtype: torch.dtype, rows: list[Any], device: torch.device) -> Tensor:
        return self._tables.setdefault(name, _Table(dtype)).send(rows, device)

    @staticmethod
    def _addresses(slot: Slot, mode: int, keep: list[Tensor]) -> list[int]:
        state = slot.state
        if state["step"].device != slot.param.device:
            state["step"] = state["step"].to(slot.param.device, torch.float32)
        tensors: list[Tensor | None] = [
            slot.param,
            slot.buffer("other"),
            None,
            None,
            None,
            state["hess"],
            state["step"],
        ]
        if mode == UPDATE:
            assert slot.grad is not None
            tensors[2] = in_order(slot.grad, slot, keep)
            tensors[3] = None if slot.statistic is None else in_order(slot.statistic, slot, keep)
            tensors[4] = state["momentum"]
        return [0 if t is None else t.data_ptr() for t in tensors] + [slot.param.numel(), slot.index]


@lru_cache(maxsize=16)
def _tiles(numels: tuple[int, ...]) -> list[list[int]]:
    """(parameter, tile) for each program of a launch; the same list for the same sizes."""
    return [[i, tile] for i, numel in enumerate(numels) for tile in range(-(-numel // TILE))]


def _write_device_lr(numbers: Tensor, slots: list[Slot]) -> None:
    """Learning rates that are tensors, a group at a time: a CUDA graph reads them anew at every replay."""
    first = 0
    while first < len(slots):
        group = slots[first].group
        last = next((i for i in range(first, len(slots)) if slots[i].group is not group), len(slots))
        if isinstance(group["lr"], Tensor):
            numbers[first:last, 0].copy_(slots[first].lr, non_blocking=True)
        first = last


def _numbers(slot: Slot) -> list[float]:
    group = slot.group
    beta1, beta2 = group["beta1"], group["beta2"]
    log_beta1 = math.log(beta1) if group["debias"] and beta1 > 0 else -math.inf
    lr = 0.0 if isinstance(group["lr"], Tensor) else float(slot.lr)  # a tensor's value is written on the device
    return [lr, group["ess"], group["weight_decay"], beta1, 1.0 - beta1, 1.0 - beta2, log_beta1, group["clip_radius"]]
