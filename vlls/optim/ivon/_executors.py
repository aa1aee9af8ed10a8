"""The interface of executors, which draw a sample into the parameters, take it back and apply Alg. 1.

Executors differ in the memory and in the number of passes over it that they need. Those of
:mod:`vlls.optim.ivon._tensors` take any tensor; the fused ones (:mod:`vlls.optim.ivon._cpu`,
:mod:`vlls.optim.ivon._cuda`) are one kernel each. The table is in :mod:`vlls.optim.ivon._registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.autograd.graph import increment_version

from vlls.optim.ivon._state import ParameterState

States = Sequence[ParameterState]

SAVE_AND_SAMPLE, EXCHANGE, UPDATE = 0, 1, 2  # the modes of the kernels


class StepExecutor(ABC):
    """Draws, takes back and updates."""

    # the option of the optimizer that asks for it; "single" if neither of the others is set
    option: ClassVar[Literal["fused", "foreach", "single"]]
    # whether save() holds the mean already, so that restore() is right at any time after it
    saves_first: ClassVar[bool]

    @classmethod
    @abstractmethod
    def supports(cls, param: Tensor) -> bool:
        """Whether it takes this parameter."""

    @classmethod
    def works(cls, param: Tensor) -> bool:
        """Whether it takes this parameter on this machine; False, not an error, if a compiler or package is missing."""
        return cls.supports(param)

    @classmethod
    def label(cls) -> str:
        """Return the name and version of the code that runs, for records; torch's operations have the option's name."""
        return cls.option

    @abstractmethod
    def save(self, states: States) -> None:
        """Make all memory that :meth:`draw` needs; the parameters do not change."""

    @abstractmethod
    def draw(self, states: States, generator: Generator | None) -> None:
        """Write a sample of the posterior into each parameter, after :meth:`save`; the mean is kept."""

    @abstractmethod
    def restore(self, states: States) -> None:
        """Write the mean back, and keep the parts of the sample that the update needs."""

    @abstractmethod
    def noise(self, state: ParameterState, at_sample: bool) -> Tensor:
        """Return the sample minus the mean, of the last draw."""

    @abstractmethod
    def update(self, states: States, generator: Generator | None, at_sample: bool, resample: bool) -> None:
        """Apply Alg. 1 where the parameters hold the sample or the mean; leave the mean, or the next sample.

        Only parameters that hold a sample (``at_sample``) can be left at another one (``resample``).
        """


class Fused(StepExecutor):
    """Kernels for float32, one pass each: either mean or sample is in the parameter, the other is kept; no noise is."""

    option = "fused"
    saves_first = False  # the kernel that draws saves the mean

    def save(self, states: States) -> None:
        for state in states:
            _ = state.other

    def draw(self, states: States, generator: Generator | None) -> None:
        self._run(SAVE_AND_SAMPLE, states, self.new_key(generator, states[0].param.device), False, False)

    def restore(self, states: States) -> None:
        self._run(EXCHANGE, states, None, False, False)

    def noise(self, state: ParameterState, at_sample: bool) -> Tensor:
        gap = state.param.detach() - state.other
        return gap if at_sample else gap.neg_()

    def update(self, states: States, generator: Generator | None, at_sample: bool, resample: bool) -> None:
        key = self.new_key(generator, states[0].param.device) if resample else None
        self._run(UPDATE, states, key, at_sample, resample)

    @abstractmethod
    def _run(self, mode: int, states: States, key: Tensor | None, at_sample: bool, resample: bool) -> None:
        """Run the kernel over all parameters; a key gives the same normal numbers each time."""

    @staticmethod
    def tell_autograd(states: States) -> None:
        """Make torch refuse a backward pass through the old values, as it does after its own in-place operations."""
        for state in states:
            increment_version(state.param)

    @staticmethod
    def takes(param: Tensor) -> bool:
        """Whether a parameter has the dtype and layout of the kernels."""
        return param.dtype == torch.float32 and bool(torch.ops.aten.is_non_overlapping_and_dense(param))

    @staticmethod
    def new_key(generator: Generator | None, device: torch.device | str | None = None) -> Tensor:
        """Draw a 63-bit key for a counter-based generator, from ``generator`` or torch's own."""
        device = generator.device if generator is not None else device
        return torch.empty((), dtype=torch.int64, device=device).random_(generator=generator)

    @staticmethod
    def addresses(states: States, tensors: Sequence[Tensor | None], keep: list[Tensor]) -> list[int]:
        """Return addresses of tensors in the parameters' dtype and order, 0 for None; ``keep`` gets the copies."""
        found = []
        for state, tensor in zip(states, tensors, strict=True):
            if tensor is not None and (tensor.stride() != state.param.stride() or tensor.dtype != torch.float32):
                tensor = state.empty().copy_(tensor)
                keep.append(tensor)
            found.append(0 if tensor is None else tensor.data_ptr())
        return found


class Memory:
    """The memory of some parameters that a kernel's table points to."""

    def __init__(self, states: States, *more: str) -> None:
        self.states = states
        names = ("param", "other", "momentum", "hess", *more)
        self._tensors: list[Tensor] = [getattr(state, name) for name in names for state in states]
        self._seen = self._look()

    def _look(self) -> list[int]:
        return [*map(Tensor.data_ptr, self._tensors), *map(Tensor.numel, self._tensors[: len(self.states)])]

    def hold(self, states: States) -> bool:
        """Whether this is the memory of these parameters, and nothing has moved."""
        return states is self.states and self._look() == self._seen
