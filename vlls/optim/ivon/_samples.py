"""From the gradients of one or several samples to the averages that a step of Alg. 1 needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from vlls.optim.ivon._state import ParameterState
from vlls.optim.ivon.alg1 import sample_statistic

__all__ = ["Samples"]


class Samples:
    """The samples taken since the last step; true if there are any.

    One sample costs no memory: its gradient stays in ``param.grad``, where it may still be clipped or unscaled, and its
    noise in the executor's memory. Only when a second one comes are gradient and statistic averaged in memory of their
    own; the average gradient is then shown in ``param.grad``, and the step follows what is done to it there.

    Args:
        noise: returns the perturbation of each parameter in the last draw.
    """

    def __init__(self, noise: Callable[[list[ParameterState]], Iterable[Tensor]]) -> None:
        self._noise = noise
        self._states: list[ParameterState] = []
        self._count = 0
        self._averaged = False

    def __bool__(self) -> bool:
        return self._count > 0

    def discard(self) -> None:
        """Forget the samples."""
        for state in self._states:
            state.held = state.grad = state.statistic = state.norm = None
        self._states, self._count, self._averaged = [], 0, False

    def add(self, states: list[ParameterState], *, local: bool = False) -> None:
        """Count the gradients in ``param.grad`` as one sample.

        Args:
            states: all trainable parameters.
            local: this process's own gradients are in ``local_grad``, while ``param.grad`` may hold an average over
                processes.
        """
        grads = [state.gradient() for state in states]
        if not self and not local:
            self._states, self._count = states, 1
            for state, grad in zip(states, grads, strict=True):
                state.held = grad
            return
        if not self:
            for state in states:
                state.grad = state.statistic = None
        self._states, self._averaged = states, True
        self._count += 1
        for state, grad, noise in zip(states, grads, self._noise(states), strict=True):
            self._average(state, grad, state.local_grad if local and grad is not None else grad, noise)
            state.show_average()

    def keep_average(self) -> None:
        """Turn the one sample that waits into averages, so that its noise and param.grad may be overwritten."""
        if self._averaged or not self:
            return
        self._averaged = True
        for state, noise in zip(self._states, self._noise(self._states), strict=True):
            state.grad = state.statistic = None
            grad = state.gradient(or_held=True)
            self._average(state, grad, grad, noise)
            state.norm = None if state.param.grad is None else state.param.grad.norm(dtype=state.dtype)

    def take_from_grads(self) -> None:
        """Detach the averages from ``param.grad``: it is about to be cleared, or to hold another sample."""
        self.keep_average()
        for state in self._states:
            state.norm = None

    def finish(self, inverse_scale: float | None) -> list[ParameterState]:
        """Set ``grad`` and ``statistic`` of every parameter to the values that the step needs.

        Args:
            inverse_scale: of GradScaler, if gradients are still scaled.

        Returns:
            All parameters, also those without a gradient (``grad`` is None).
        """
        for state in self._states:
            if self._averaged:
                state.follow_shown_average()
            else:
                state.grad, state.statistic = state.gradient(or_held=True), None
            if inverse_scale is not None:
                state.rescale(inverse_scale)
        return self._states

    def _average(self, state: ParameterState, grad: Tensor | None, local: Tensor | None, noise: Tensor) -> None:
        """Update the running means of gradient and statistic; a missing gradient is a zero."""
        if grad is None and state.grad is None:
            return
        mean, statistic = state.averages()
        if grad is None or local is None:
            mean.mul_(1.0 - 1.0 / self._count)
            statistic.mul_(1.0 - 1.0 / self._count)
        else:
            seen = sample_statistic(local.to(state.dtype), noise, hess_approx=state.group["hess_approx"])
            mean.add_((grad.to(state.dtype) - mean) / self._count)
            statistic.add_((seen - statistic) / self._count)
