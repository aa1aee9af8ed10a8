"""The table of executors. To add one: a subclass of :class:`.StepExecutor` in its own file, and an entry here."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vlls.optim.ivon._cpu import FusedCPU
from vlls.optim.ivon._cuda import FusedCUDA
from vlls.optim.ivon._executors import StepExecutor
from vlls.optim.ivon._tensors import Foreach, SingleTensor

# each parameter is taken by the first that supports it, of those that the options allow
EXECUTORS: list[type[StepExecutor]] = [FusedCPU, FusedCUDA, Foreach, SingleTensor]


def executors_of(params: Sequence[Tensor], *, fused: bool | None, foreach: bool | None) -> list[type[StepExecutor]]:
    """Return the executor of each parameter by the optimizer's options.

    If neither is given, a kernel is taken if it works here. A requested one raises an error if it does not.
    """
    asked, by_default = bool(fused), fused is None and foreach is None
    if foreach is None:
        foreach = all(param.is_cuda for param in params)
    options = {"foreach" if foreach else "single"} | ({"fused"} if asked or by_default else set())
    allowed = [kind for kind in EXECUTORS if kind.option in options]
    return [  # a plain one takes any tensor
        next(kind for kind in allowed if (kind.supports(param) if asked else kind.works(param))) for param in params
    ]
