"""IVON's fused executor for float32 parameters on a GPU: one Triton kernel over all parameters.

The kernel reads the addresses of every tensor from a table in device memory, so a step is one launch however many
parameters there are, and a CUDA graph can capture it: nothing waits for the host, the key of the noise is drawn on
the device, and tables are sent from pinned memory, which stays if a graph captures the copy.
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from vlls._compiled import capturing
from vlls.optim.ivon._executors import EXCHANGE, UPDATE, Fused, Memory, States
from vlls.optim.ivon._state import ParameterState

LANES = 256  # of a tile, each of them four neighbours: one call of Philox, 16 bytes of every tensor
TILE = 4 * LANES
GRAD, STATISTIC = 2, 3  # columns of the rows
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton on a CPU, for tests


def _kernel() -> Any:
    from vlls.optim.ivon._triton import ivon_kernel  # late: triton is imported where it is used, and only there

    return ivon_kernel


class _Table:
    """A small array in device memory that is sent again only when it has changed."""

    SPARE = 4  # changes while a CUDA graph is being captured

    def __init__(self) -> None:
        self._sent = torch.empty(0)
        self.tensor: Tensor | None = None
        self._pinned: list[Tensor] = []
        self._in_graphs: list[Tensor] = []  # a captured copy reads these again at every replay

    def send(self, values: Tensor, device: torch.device) -> Tensor:
        """Return the array in device memory; ``values`` must not be changed in place afterwards."""
        same = values is self._sent or torch.equal(values, self._sent)
        if same and self.tensor is not None and self.tensor.device == device:
            return self.tensor
        in_graph = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if self.tensor is None or self.tensor.shape != values.shape or self.tensor.device != device:
            if in_graph:
                raise RuntimeError(
                    "take one step, or a few, before capturing a CUDA graph: IVON's tables are not made yet"
                )
            self.tensor = torch.empty_like(values, device=device)
            if device.type == "cuda":
                self._pinned = [torch.empty_like(values).pin_memory() for _ in range(self.SPARE)]
        if in_graph:
            if not self._pinned:
                raise RuntimeError(
                    f"more than {self.SPARE} captures with changed gradients or hyperparameters; make a new optimizer "
                    "from state_dict(), or capture once and replay"
                )
            self._in_graphs.append(self._pinned.pop().copy_(values))
            self.tensor.copy_(self._in_graphs[-1], non_blocking=True)
        else:  # pinned: a copy of other memory would wait for all that is in the queue
            pinned = values.pin_memory() if device.type == "cuda" else values
            self.tensor.copy_(pinned, non_blocking=True)
        self._sent = values
        return self.tensor


class _Launch:
    """One launch of the kernel, for parameters of one device and Hessian approximation."""

    def __init__(self, states: States) -> None:
        self._states = states
        self.device = states[0].param.device
        self.gradsq = states[0].group["hess_approx"] == "gradsq"
        self._rows = torch.tensor([_row(state) for state in states])
        self._tiles = _tiles([state.param.numel() for state in states])
        self._numbers = torch.empty(0)
        self._groups = {id(state.group): state for state in states}  # one parameter of each group
        self._of_groups: dict[int, list[float]] = {}  # the numbers of each group

    @property
    def averaged(self) -> bool:
        """Whether the statistics are averages over samples."""
        return self._states[0].statistic is not None

    def send(self, mode: int, tables: dict[str, _Table], keep: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows, numbers and tiles in device memory."""
        rows = self._rows
        if mode == UPDATE:
            read = {GRAD: [state.grad for state in self._states]}
            if self.averaged:
                read[STATISTIC] = [state.statistic for state in self._states]
            rows = rows.clone()
            for column, tensors in read.items():
                rows[:, column] = torch.tensor(Fused.addresses(self._states, tensors, keep))
        of_groups = {group: _numbers(state) for group, state in self._groups.items()}
        if of_groups != self._of_groups:
            self._of_groups = of_groups
            self._numbers = torch.tensor([of_groups[id(state.group)] for state in self._states])
        numbers = tables["numbers"].send(self._numbers, self.device)
        _write_device_lr(numbers, self._states)
        return tables["rows"].send(rows, self.device), numbers, tables["tiles"].send(self._tiles, self.device)


def send_steps(states: States) -> None:
    """Move the numbers of steps to the parameters' devices."""
    for state in states:
        if state.step.device != state.param.device:
            state.step = state.lasting["step"] = state.step.to(state.param.device, torch.float32)


class _Launches(Memory):
    """The launches for some parameters."""

    def __init__(self, states: States) -> None:
        send_steps(states)
        super().__init__(states, "step")
        parts: dict[Any, list[ParameterState]] = {}
        for state, approx in zip(states, self._approximations(), strict=True):
            parts.setdefault((state.param.device, approx), []).append(state)
        self._of = self._approximations()
        self.parts = [_Launch(part) for part in parts.values()]
        self.sent: list[tuple[Tensor, Tensor, Tensor]] = []  # the tables of the last call

    def _approximations(self) -> list[str]:
        return [state.group["hess_approx"] for state in self.states]

    def hold(self, states: States) -> bool:
        return super().hold(states) and self._approximations() == self._of


class FusedCUDA(Fused):
    """Alg. 1, the exchange of mean and sample, and the next sample: each one launch for all parameters of a device."""

    _made: tuple[_Launches, ...] = ()  # the last two: for all parameters, and for those with a gradient

    def __init__(self) -> None:
        self._tables: dict[Any, dict[str, _Table]] = {}
        self._last: _Launches | None = None

    @classmethod
    def supports(cls, param: Tensor) -> bool:
        if param.device.type == "cpu" and not INTERPRETED:
            return False
        _kernel()  # an error if Triton is not installed
        return (param.is_cuda or INTERPRETED) and cls.takes(param)

    @classmethod
    def works(cls, param: Tensor) -> bool:
        there = (param.is_cuda or INTERPRETED) and cls.takes(param)
        return there and (capturing([param]) or _runs_on(param.device))  # a graph is captured after a few steps

    @classmethod
    def label(cls) -> str:
        return f"cuda triton {version('triton')}"

    @_disable_dynamo
    def _run(self, mode: int, states: States, key: Tensor | None, at_sample: bool, resample: bool) -> None:
        kernel = _kernel()
        self.tell_autograd(states)
        keep: list[Tensor] = []  # tensors made here live until the kernel is in the queue
        launches = next((made for made in self._made if made.hold(states)), None)
        if launches is None:
            launches = _Launches(states)
            self._made = (launches, *(old for old in self._made[:1] if old.states is not states))
        if mode != EXCHANGE or launches is not self._last:  # else the tables are those of the draw
            launches.sent = [part.send(mode, self._tables_of(mode, part), keep) for part in launches.parts]
            self._last = launches
        for part, (rows, numbers, tiles) in zip(launches.parts, launches.sent, strict=True):
            constants = {"MODE": mode, "AT_SAMPLE": at_sample, "RESAMPLE": resample, "LANES": LANES}
            constants |= {"AVERAGED": mode == UPDATE and part.averaged, "GRADSQ": mode == UPDATE and part.gradsq}
            with torch.cuda.device(part.device) if part.device.type == "cuda" else nullcontext():
                at = numbers if key is None else key.to(part.device)
                kernel[(len(tiles),)](rows, numbers, tiles, at, **constants)

    def _tables_of(self, mode: int, part: _Launch) -> dict[str, _Table]:
        """Return the tables of a launch, the same for each step, because a CUDA graph reads them again."""
        of = part.device, mode, part.gradsq
        if of not in self._tables:
            self._tables[of] = {name: _Table() for name in ("rows", "numbers", "tiles")}
        return self._tables[of]


@cache
def _runs_on(device: torch.device) -> bool:
    """Whether Triton is installed and runs the kernel there, for which it needs a C compiler too."""
    from vlls.optim.ivon._optimizer import IVON  # late: it needs this module

    try:
        probe = torch.ones(1, device=device, requires_grad=True)
        with IVON([probe], 0.0, 1.0, fused=True, generator=torch.Generator(device)).sampled_params():
            return True
    except Exception:  # after any error, torch's operations work without the kernel
        return False


def _row(state: ParameterState) -> list[int]:
    """Return the kernel's row of a parameter; gradient and statistic are written before each update."""
    before, after = (state.param, state.other), (state.momentum, state.hess, state.step)
    addresses = [*(t.data_ptr() for t in before), 0, 0, *(t.data_ptr() for t in after)]
    return [*addresses, state.param.numel(), state.index]


def _tiles(numels: list[int]) -> Tensor:
    """Return (parameter, tile) for each program of a launch."""
    counts = torch.tensor([-(-numel // TILE) for numel in numels])
    index = torch.repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return torch.stack([index, torch.arange(len(index)) - first[index]], 1).int()


def _write_device_lr(numbers: Tensor, states: States) -> None:
    """Write learning rates that are tensors, a group at a time: a CUDA graph reads them at every replay."""
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
