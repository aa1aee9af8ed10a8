"""The optimizer EVON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from vlls._bases import axes_of
from vlls._names import kind_of
from vlls._validation import check_whole_number
from vlls._warnings import warn_caller
from vlls.optim._evon._fused import EigenbasisCPU, EigenbasisCUDA
from vlls.optim._evon._state import EigenState
from vlls.optim._evon._steps import Eigenbasis, EigenbasisForeach
from vlls.optim._finite import are_finite
from vlls.optim.ivon._executors import StepExecutor
from vlls.optim.ivon._optimizer import IVON
from vlls.optim.ivon._state import ParameterState
from vlls.optim.ivon._weights import Weights
from vlls.posterior import KroneckerPosterior


class EVON(IVON):
    r"""Variational learning of a Gaussian that is diagonal in an eigenbasis of each parameter (Chapter 14).

    For a matrix with bases :math:`Q_1, Q_2` of its rows and columns the samples are :math:`\theta = m + Q_1 E Q_2^\top`
    with :math:`E_{ij} \sim \mathcal N(0, 1/(\lambda (h_{ij} + \delta)))`, and Alg. 1 runs on the coordinates of the
    gradient in them. The filters of a convolution have three bases: of outputs, inputs and positions. Biases, other
    1-d parameters and axes longer than ``max_axis`` are as in :class:`.IVON`, and so is everything before the first
    ``interval`` steps have ended. Most of a step is matrix products, which
    ``torch.set_float32_matmul_precision("high")`` (a GPU) or ``"medium"`` (a CPU with bfloat16 units) makes quicker;
    the bases stay orthonormal to float32's precision in either case.

    Args:
        params: as in :class:`.IVON`; groups may set ``interval``, ``basis_decay`` and ``max_axis`` too.
        lr: as in :class:`.IVON`.
        ess: as in :class:`.IVON`.
        interval: number of steps between two changes of the bases, >= 1. The gradients' products are averaged over ten
            of these steps.
        basis_decay: decay of these averages in a step, in [0, 1).
        max_axis: length of the longest axis that has a basis, >= 0; at 0 it is IVON.
        fused: IVON's kernels for float32 parameters, on their coordinates, with their own random numbers: the
            quickest and leanest, on a GPU with one product for all parameters of a shape. None: where they work. Other
            parameters take torch's operations.
        **options: as in :class:`.IVON`, except ``foreach``.

    Raises:
        ValueError: as in :class:`.IVON`.

    Warns:
        UserWarning: as in :class:`.IVON`; if a gradient is NaN or infinite, when the step is left out; if a basis is no
            longer orthonormal, when it is made so again.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(64, 5), torch.randint(3, (64,))
        >>> model = torch.nn.Linear(5, 3)
        >>> optimizer = EVON(model.parameters(), lr=0.1, ess=64, interval=10)
        >>> for _ in range(20):
        ...     with optimizer.sampled_params(train=True):
        ...         torch.nn.functional.cross_entropy(model(x), y).backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> optimizer.posterior(model)
        KroneckerPosterior(2 names, 1 turned, 18 weights)
    """

    _own = ("interval", "basis_decay", "max_axis")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        ess: float,
        *,
        interval: int = 100,
        basis_decay: float = 0.995,
        max_axis: int = 2048,
        fused: bool | None = None,
        **options: Any,
    ) -> None:
        foreach = options.pop("foreach", None)
        if foreach:
            raise ValueError("foreach=True: EVON takes one parameter after the other; leave foreach out")
        if foreach is not None and fused is None:  # as in IVON: an explicit foreach means torch's operations
            fused = False
        own: dict[str, Any] = {"interval": interval, "basis_decay": basis_decay, "max_axis": max_axis}
        super().__init__(params, lr, ess, foreach=False, fused=fused, **options, **own)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_whole_number(group["interval"], "interval", 1)
        check_whole_number(group["max_axis"], "max_axis", 0)
        decay = group["basis_decay"]
        if isinstance(decay, bool) or not isinstance(decay, float | int) or not 0 <= decay < 1:
            raise ValueError(f"basis_decay={decay!r} is outside [0, 1); 0.995 is usual")

    def _check_saved(self, state: dict[str, Any], param: Tensor, which: str) -> None:
        checked = {name: value for name, value in state.items() if not name.startswith("basis_")}
        super()._check_saved(checked, param, which)
        for axis, size in enumerate(axes_of(param.shape)):
            for name in (f"factor_{axis}", f"basis_{axis}"):
                if name not in state:
                    continue
                value = state[name]
                given = tuple(value.shape) if isinstance(value, Tensor) else kind_of(value)
                if given != (size, size):
                    raise ValueError(f"{name} of {which} is {given} in the saved state and needs {(size, size)}")
                if not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{name} of {which} has NaN or infinite entries in the saved state; take another")

    def _reset(self) -> None:
        super()._reset()
        self._weights = _EigenWeights(self)

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold the steps; it cannot hold a change of the bases."""
        return False

    def posterior(self, model: torch.nn.Module) -> KroneckerPosterior:  # type: ignore[override]
        """Return the posterior by the names of the model's parameters; see :meth:`.IVON.posterior`."""
        return super().posterior(model)  # type: ignore[return-value]

    def _posterior_of(self, named: dict[str, Any]) -> Any:
        means = {name: state.mean.clone() for name, state in named.items()}
        bases = {name: [None if q is None else q.clone() for q in state.bases] for name, state in named.items()}
        return KroneckerPosterior(means, {name: state.std() for name, state in named.items()}, bases)


class _EigenWeights(Weights):
    state_type = EigenState

    def executors_of(self, params: Sequence[Tensor]) -> list[type[StepExecutor]]:
        return _executors_of(params, self._optimizer.fused)

    def update(self, states: list[ParameterState]) -> None:
        if not are_finite([state.grad for state in states if state.grad is not None]):
            warn_caller("a gradient is NaN or infinite: this step is left out, and mean, Hessian and bases stay")
            return
        super().update(states)


def _executors_of(params: Sequence[Tensor], fused: bool | None) -> list[type[StepExecutor]]:
    return [_executor_of(param, fused) for param in params]


def _executor_of(param: Tensor, fused: bool | None) -> type[StepExecutor]:
    kernels: tuple[type[StepExecutor], ...] = () if fused is False else (EigenbasisCPU, EigenbasisCUDA)
    for kind in kernels:
        if kind.supports(param) if fused else kind.works(param):
            return kind
    return EigenbasisForeach if param.is_cuda else Eigenbasis
