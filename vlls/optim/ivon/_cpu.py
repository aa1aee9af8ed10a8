"""IVON's fused executor for float32 parameters on the CPU, which calls ``_ivon.c``."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from vlls._native import Kernel, in_parallel
from vlls.optim.ivon._executors import EXCHANGE, UPDATE, Fused, Memory, States
from vlls.optim.ivon._state import ParameterState, beta2_at, bias_correction_at

TILE = 4096  # of _ivon.c
KERNEL = Kernel(
    Path(__file__).with_name("_ivon.c"),
    "ivon_run",
    *(ctypes.c_int, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_int, ctypes.c_int),
)


class _Numbers(ctypes.Structure):  # of _ivon.c
    _fields_ = [
        *((name, ctypes.c_float) for name in "lr ess weight_decay beta1 rate1 rate2 inverse_bias".split()),
        ("clip", ctypes.c_float),
        ("estimate_clip", ctypes.c_float),
        ("gradsq", ctypes.c_int64),
    ]


class _Row(ctypes.Structure):  # of _ivon.c
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("param", "other", "grad", "statistic", "momentum", "hess")),
        ("numel", ctypes.c_int64),
        ("stream", ctypes.c_int64),
        ("numbers", _Numbers),
    ]


def _kernel() -> Callable[..., None]:
    try:
        return KERNEL.function()
    except RuntimeError as error:
        raise RuntimeError(f"fused=True {error}, or leave fused out") from None


class _Table(Memory):
    """The kernel's rows for some parameters; a step writes only hyperparameters and gradients into them."""

    def __init__(self, states: States) -> None:
        super().__init__(states)
        self.array = (_Row * len(states))()
        self._rows = list(self.array)
        self._groups = [id(state.group) for state in states]
        for row, state in zip(self._rows, states, strict=True):
            row.param, row.other = state.param.data_ptr(), state.other.data_ptr()
            row.momentum, row.hess = state.momentum.data_ptr(), state.hess.data_ptr()
            row.numel, row.stream = state.param.numel(), state.index
        sizes = [state.param.numel() for state in states]
        self.tiles = sum(-(-size // TILE) for size in sizes)
        self.threads = max(1, sum(sizes) // (4 * TILE))  # at most: with less work each, another thread does not pay

    def write(self, mode: int, keep: list[Tensor]) -> None:
        """Write hyperparameters and, for an update, gradients."""
        steps: Sequence[float] = [0.0] * len(self.states)
        if mode == UPDATE:
            steps = [float(state.step) for state in self.states]
            grads = Fused.addresses(self.states, [state.grad for state in self.states], keep)
            statistics = Fused.addresses(self.states, [state.statistic for state in self.states], keep)
            for row, grad, statistic in zip(self._rows, grads, statistics, strict=True):
                row.grad, row.statistic = grad, statistic
        made: dict[Any, _Numbers] = {}  # the same for all parameters of a group that have made as many steps
        for row, state, key in zip(self._rows, self.states, zip(self._groups, steps, strict=True), strict=True):
            if key not in made:
                made[key] = _numbers(state, mode, key[1])
            row.numbers = made[key]


def _numbers(state: ParameterState, mode: int, step: float) -> _Numbers:
    group = state.group
    numbers = _Numbers(ess=group["ess"], weight_decay=group["weight_decay"])
    if mode == UPDATE:
        numbers.lr, numbers.clip = float(state.lr), group["clip_radius"]
        numbers.estimate_clip = group["hess_clip"] / group["ess"]
        numbers.beta1, numbers.rate1 = group["beta1"], 1.0 - group["beta1"]
        numbers.rate2 = 1.0 - beta2_at(step, group)
        numbers.inverse_bias = 1.0 / bias_correction_at(step, group)
        numbers.gradsq = group["hess_approx"] == "gradsq"
    return numbers


class FusedCPU(Fused):
    """Alg. 1, the exchange of mean and sample, and the next sample, a pass each; keeps three numbers per weight."""

    _tables: tuple[_Table, ...] = ()  # of the last two calls: all parameters, and those with a gradient

    @classmethod
    def supports(cls, param: Tensor) -> bool:
        return param.device.type == "cpu" and cls.takes(param)

    @classmethod
    def works(cls, param: Tensor) -> bool:
        return cls.supports(param) and KERNEL.available()

    @classmethod
    def label(cls) -> str:
        _kernel()
        return f"cpu {KERNEL.label()}"

    @_disable_dynamo
    def save(self, states: States) -> None:
        _kernel()  # builds it
        super().save(states)

    def _table(self, states: States) -> _Table:
        table = next((table for table in self._tables if table.hold(states)), None)
        if table is None:
            table = _Table(states)
            self._tables = (table, *(old for old in self._tables[:1] if old.states is not states))
        return table

    @_disable_dynamo  # torch.compile sees no C
    def _run(self, mode: int, states: States, key: Tensor | None, at_sample: bool, resample: bool) -> None:
        kernel, number = _kernel(), 0 if key is None else int(key)
        self.tell_autograd(states)
        keep: list[Tensor] = []  # tensors made here live until the kernel is done
        table = self._table(states)
        if mode != EXCHANGE:
            table.write(mode, keep)
        threads = min(torch.get_num_threads(), table.threads)
        cuts = [table.tiles * k // threads for k in range(threads + 1)]

        def part(k: int) -> None:
            address = ctypes.addressof(table.array)
            kernel(mode, address, len(states), cuts[k], cuts[k + 1], number, at_sample, resample)

        in_parallel(part, threads)
