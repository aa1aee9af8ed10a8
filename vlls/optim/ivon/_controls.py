r"""IVON with two of the properties of its posterior taken away, one at a time: controls for experiments.

Mean, momentum, Hessian :math:`h` and the step are those of Alg. 1. Only the Gaussian that the weights are drawn from is
another: its variances are :math:`\sigma'^2 = 1/(\lambda (h' + \delta))`, where :math:`h'` is :math:`h` with its entries
permuted or levelled. The price estimate divides by the variance of the noise that was drawn,
:math:`\hat h = \hat g\,(\theta - m) / \sigma'^2`, so it stays an unbiased estimate of
:math:`\mathbb E_{\mathcal N(m, \sigma'^2)}[\nabla^2 \ell]`, and :math:`h` is learned as in IVON. ``posterior``
returns the Gaussian that is sampled; :func:`.learned_share`, and with it a run's ``std_5`` to ``std_95``, describe the
learned one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlls.optim.ivon._optimizer import IVON
from vlls.optim.ivon._state import ParameterState
from vlls.optim.ivon._weights import Weights


class Control(IVON):
    """IVON whose samples come from another Gaussian than the learned one; it takes the executor of single tensors.

    Args:
        params: as in :class:`.IVON`.
        lr: as in :class:`.IVON`.
        ess: as in :class:`.IVON`.
        **options: as in :class:`.IVON`; ``foreach`` and ``fused`` are off.
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor, ess: float, **options: Any) -> None:
        super().__init__(params, lr, ess, **{**options, "foreach": False, "fused": False})

    def _reset(self) -> None:
        super()._reset()
        self._weights = _Weights(self)

    @abstractmethod
    def sampled(self, states: Sequence[ParameterState]) -> list[Tensor]:
        """Return the Hessian h' of each parameter's samples, in any layout, from the learned ones."""

    def keep_sampled(self) -> Any:
        """Raise an error: the next sample would be drawn with the Hessian before the step."""
        raise RuntimeError(
            f"{type(self).__name__} cannot keep the parameters at samples; use sampled_params(train=True) or "
            "step(closure)"
        )


class PermutedIVON(Control):
    """IVON that samples with the learned standard deviations permuted within each tensor.

    The permutation is fixed: it follows from ``seed`` and the position of the parameter, on any device.

    Args:
        params: as in :class:`.IVON`.
        lr: as in :class:`.IVON`.
        ess: as in :class:`.IVON`.
        seed: of the permutations, >= 0.
        **options: as in :class:`.Control`.
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor, ess: float, *, seed: int, **options: Any) -> None:
        self.seed = seed
        super().__init__(params, lr, ess, **options)

    def _reset(self) -> None:
        super()._reset()
        self._orders: dict[Tensor, Tensor] = {}

    def sampled(self, states: Sequence[ParameterState]) -> list[Tensor]:
        """Return each parameter's Hessian with its entries permuted."""
        return [state.hess.reshape(-1)[self._order(state)].reshape(state.hess.shape) for state in states]

    def _order(self, state: ParameterState) -> Tensor:
        if state.param not in self._orders:
            order = np.random.default_rng([self.seed, state.index]).permutation(state.param.numel())
            self._orders[state.param] = torch.from_numpy(order)
        self._orders[state.param] = self._orders[state.param].to(state.hess.device)
        return self._orders[state.param]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "seed": self.seed}


class IsotropicIVON(Control):
    r"""IVON that samples every weight with the median of the learned standard deviations.

    The median is over all weights of the network, at each step; of an even number, the larger of the middle two.
    """

    def sampled(self, states: Sequence[ParameterState]) -> list[Tensor]:
        """Return the Hessian of each parameter that gives all weights the median standard deviation."""
        device, groups = states[0].hess.device, [state.group for state in states]
        precisions = [
            (group["ess"] * (state.hess + group["weight_decay"])).to(device).reshape(-1)
            for state, group in zip(states, groups, strict=True)
        ]
        median = torch.cat(precisions).median()
        return [median / group["ess"] - group["weight_decay"] for group in groups]


class _Weights(Weights):
    """Tells the parameters which Hessian their samples have."""

    def refresh(self) -> list[ParameterState]:
        states = super().refresh()
        if states:
            for state, hess in zip(states, self._optimizer.sampled(states), strict=True):
                state.drawn_hess = state.empty().copy_(hess)
        return states
