"""Warn new users of IVON, once, if the first steps show that ``lr`` or ``ess`` cannot be meant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vlls._compiled import capturing
from vlls._warnings import warn_caller
from vlls.optim.ivon._state import ParameterState

__all__ = ["FirstSteps", "can_look"]

STEPS = 100
LOUD = 3.0
"""Root mean square of the noise over that of the weights, beyond which a network hardly trains."""
STILL = 0.02
"""Root mean square of the first steps' sum over that of the weights, below which it has hardly moved."""
ENTRIES = 256
"""Entries of a parameter that are looked at."""


class FirstSteps:
    """Looks at the noise before the first step, and at how far the mean has gone after the first hundred.

    Parameters that start at zero (biases, a linear model's weights) say nothing about their scale and are left out.

    Args:
        states: the parameters, at their mean, before the first sample.
    """

    def __init__(self, states: Sequence[ParameterState]) -> None:
        self.steps = 0
        self._states = [state for state in states if bool(_some(state.mean).any())]
        self._start = [_some(state.mean).clone() for state in self._states]
        self._size = self._rms(self._start)
        self._rates = [float(state.group["lr"]) for state in self._states]
        noise = self._rms([_some(state.std()) for state in self._states])
        if noise > LOUD * self._size > 0:
            ess, first = (float(self._states[0].group[name]) for name in ("ess", "hess_init"))
            warn_caller(
                f"the noise is {noise / self._size:.1f} times as large as the weights, too much for most networks to "
                f"learn; let ess be the number of training examples (it is {ess:g}), and if it is, raise hess_init "
                f"above {first:g}"
            )

    def ended(self) -> bool:
        """Look at the mean, where the parameters are, once there were steps enough; True if that was all."""
        if self.steps < STEPS or capturing(state.param for state in self._states):
            return False
        moved = self._rms([_some(state.mean) - start for state, start in zip(self._states, self._start, strict=True)])
        rates = [float(state.group["lr"]) for state in self._states]
        if moved < STILL * self._size and rates == self._rates:  # a warm-up goes on to larger steps
            warn_caller(
                f"the first {self.steps} steps have moved the weights by {moved / self._size:.1%} of their size, too "
                f"little to learn from scratch; IVON's lr is SGD's, not Adam's: try lr=0.1 (it is {rates[0]:g})"
            )
        return True

    def _rms(self, parts: Sequence[Tensor]) -> float:
        """Root mean square over all entries of the parameters, of each of which ``parts`` has some."""
        sizes = [state.param.numel() for state in self._states]
        squares = [n * float(part.double().square().mean()) for n, part in zip(sizes, parts, strict=True)]
        return math.sqrt(sum(squares) / max(1, sum(sizes)))


def _some(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // ENTRIES)]


def can_look(states: Sequence[ParameterState]) -> bool:
    """Whether numbers can be read now, and training begins."""
    if torch.compiler.is_compiling() or any(float(state.step) > 0 for state in states[:1]):
        return False
    return not capturing(state.param for state in states)
