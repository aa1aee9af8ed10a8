"""IVON's fused executor for float32 parameters on a GPU: one Triton kernel over all parameters.

The kernel reads the addresses of every tensor from a table in device memory, so a step is one launch however many
parameters there are, and a CUDA graph can capture it: nothing waits for the host, the key of the noise is drawn on
the device, and a table that changes while capturing is sent from pinned memory that stays.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from vlls.optim.ivon._executors import EXCHANGE, UPDATE, Fused, States
from vlls.optim.ivon._state import ParameterState

Launch = tuple[torch.device, dict[str, Any], Tensor, Tensor, Tensor]  # constants; rows, numbers, tiles

LANES = 1024  # normal numbers of one of Philox's four words
TILE = 4 * LANES
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton on a CPU, for tests


def _kernel() -> Any:
    from vlls.optim.ivon._triton import ivon_kernel  # late: triton is imported where it is used, and only there

    return ivon_kernel


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
        self._last: tuple[States, list[Launch]] | None = None  # an exchange uses the draw's tables

    @classmethod
    def supports(cls, param: Tensor) -> bool:
        if param.device.type == "cpu" and not INTERPRETED:
            return False
        _kernel()  # an error if Triton is not installed
        return (param.is_cuda or INTERPRETED) and cls.takes(param)

    @classmethod
    def label(cls) -> str:
        return f"cuda triton {version('triton')}"

    def _run(self, mode: int, states: States, key: Tensor | None, at_sample: bool, resample: bool) -> None:
        kernel = _kernel()
        keep: list[Tensor] = []  # tensors made here live until the kernel is in the queue
        if mode != EXCHANGE or self._last is None or self._last[0] is not states:
            self._last = states, list(self._prepare(mode, states, keep))
        for device, constants, rows, numbers, tiles in self._last[1]:
            constants |= {"MODE": mode, "AT_SAMPLE": at_sample, "RESAMPLE": resample}
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                kernel[(len(tiles),)](rows, numbers, tiles, numbers if key is None else key.to(device), **constants)

    def _prepare(self, mode: int, states: States, keep: list[Tensor]) -> Iterator[Launch]:
        """The tables of each launch: one for each device and, in an update, Hessian approximation."""
        parts: dict[Any, list[ParameterState]] = {}
        for state in states:
            gradsq = mode == UPDATE and state.group["hess_approx"] == "gradsq"
            parts.setdefault((state.param.device, gradsq), []).append(state)
        for (device, gradsq), members in parts.items():

            def send(name: str, dtype: torch.dtype, rows: list[Any], at: Any = (device, mode, gradsq)) -> Tensor:
                return self._tables.setdefault((*at, name), _Table(dtype)).send(rows, at[0])

            rows = send("rows", torch.int64, [_addresses(state, mode, keep) for state in members])
            numbers = send("numbers", torch.float32, [_numbers(state) for state in members])
            _write_device_lr(numbers, members)
            tiles = send("tiles", torch.int32, _tiles(tuple(state.param.numel() for state in members)))
            averaged = mode == UPDATE and members[0].statistic is not None
            yield device, {"AVERAGED": averaged, "GRADSQ": gradsq, "LANES": LANES}, rows, numbers, tiles


def _addresses(state: ParameterState, mode: int, keep: list[Tensor]) -> list[int]:
    if state.step.device != state.param.device:
        state.step = state.lasting["step"] = state.step.to(state.param.device, torch.float32)
    read: tuple[int | None, ...] = (None, None, None)
    if mode == UPDATE:
        grad, statistic = Fused.address(state.grad, state, keep), Fused.address(state.statistic, state, keep)
        read = (grad, statistic, state.momentum.data_ptr())
    row = (state.param.data_ptr(), state.other.data_ptr(), *read, state.hess.data_ptr(), state.step.data_ptr())
    return [*(address or 0 for address in row), state.param.numel(), state.index]


@lru_cache(maxsize=16)
def _tiles(numels: tuple[int, ...]) -> list[list[int]]:
    """(parameter, tile) for each program of a launch; the same list for the same sizes."""
    return [[i, tile] for i, numel in enumerate(numels) for tile in range(-(-numel // TILE))]


def _write_device_lr(numbers: Tensor, states: list[ParameterState]) -> None:
    """Learning rates that are tensors, a group at a time: a CUDA graph reads them anew at every replay."""
    first = 0
    while first < len(states):
        group = states[first].group
        last = next((i for i in range(first, len(states)) if states[i].group is not group), len(states))
        if isinstance(group["lr"], Tensor):
            numbers[first:last, 0].copy_(states[first].lr, non_blocking=True)
        first = last


def _numbers(state: ParameterState) -> list[float]:
    group = state.group
    beta1, beta2 = group["beta1"], group["beta2"]
    log_beta1 = math.log(beta1) if group["debias"] and beta1 > 0 else -math.inf
    lr = 0.0 if isinstance(group["lr"], Tensor) else float(state.lr)  # a tensor's value is written on the device
    clips = [group["clip_radius"], group["hess_clip"] / group["ess"]]
    averages = [beta1, 1.0 - beta1, 1.0 - beta2, log_beta1]
    return [lr, group["ess"], group["weight_decay"], *averages, *clips, group["hess_every"]]
