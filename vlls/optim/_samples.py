"""From the gradients of one or several samples to the averages that a step of Alg. 1 needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from vlls.optim._slot import Slot
from vlls.optim.alg1 import sample_statistic

__all__ = ["Samples"]

Noise = Callable[[list[Slot]], Iterable[Tensor]]


class Samples:
    """The samples taken since the last step.

    One sample costs no memory: its gradient stays in ``param.grad``, where it may still be clipped or unscaled, and its
    noise in the executor's buffers. Only when a second one comes are gradient and statistic averaged in buffers of
    their own; the average gradient is then shown in ``param.grad``, and what is done to it there is followed.

    Args:
        noise: returns the perturbation of each slot, of the last draw.
    """

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self.slots: list[Slot] | None = None  # None: no sample waits for a step
        self._count = 0
        self._averaged = False

    def __bool__(self) -> bool:
        return self.slots is not None

    def discard(self) -> None:
        """Forget the samples."""
        for slot in self.slots or ():
            slot.held = slot.grad = slot.statistic = slot.norm = None
        self.slots, self._count, self._averaged = None, 0, False

    def add(self, slots: list[Slot], *, local: bool = False) -> None:
        """Count the gradients in ``param.grad`` as one sample.

        Args:
            slots: all trainable parameters.
            local: this process's own gradients are in the buffer "local", while param.grad may hold an average over
                processes.
        """
        grads = [slot.gradient() for slot in slots]
        if not self and not local:
            self.slots, self._count = slots, 1
            for slot, grad in zip(slots, grads, strict=True):
                slot.held = grad
            return
        if not self:
            for slot in slots:
                slot.grad = slot.statistic = None
        self.slots, self._averaged = slots, True
        self._count += 1
        for slot, grad, noise in zip(slots, grads, self._noise(slots), strict=True):
            own = slot.buffer("local") if local and grad is not None else grad
            self._average(slot, grad, own, noise)
            slot.show_average()

    def keep_average(self) -> None:
        """Turn the one sample that waits into averages, so that its noise and param.grad may be overwritten."""
        if self.slots is None or self._averaged:
            return
        self._averaged = True
        for slot, noise in zip(self.slots, self._noise(self.slots), strict=True):
            slot.grad = slot.statistic = None
            grad = slot.gradient(or_held=True)
            self._average(slot, grad, grad, noise)
            slot.norm = None if slot.param.grad is None else slot.param.grad.norm(dtype=slot.dtype)

    def take_from_grads(self) -> None:
        """Detach the averages from ``param.grad``: it is about to be cleared, or to hold another sample."""
        self.keep_average()
        for slot in self.slots or ():
            slot.norm = None

    def finish(self, inverse_scale: float | None) -> list[Slot]:
        """Let ``slot.grad`` and ``slot.statistic`` be what the step needs.

        Args:
            inverse_scale: of GradScaler, where gradients are still scaled.

        Returns:
            All slots, those without a gradient (``slot.grad`` None) too.
        """
        assert self.slots is not None
        for slot in self.slots:
            if self._averaged:
                slot.follow_shown_average()
            else:
                slot.grad, slot.statistic = slot.gradient(or_held=True), None
            if inverse_scale is not None:
                slot.rescale(inverse_scale)
        return self.slots

    def _average(self, slot: Slot, grad: Tensor | None, own: Tensor | None, noise: Tensor) -> None:
        """Update the running means of gradient and statistic; a missing gradient is a zero."""
        if grad is None and slot.grad is None:
            return
        if slot.grad is None or slot.statistic is None:
            slot.grad, slot.statistic = slot.buffer("grad").zero_(), slot.buffer("statistic").zero_()
        if grad is None or own is None:
            slot.grad.mul_(1.0 - 1.0 / self._count)
            slot.statistic.mul_(1.0 - 1.0 / self._count)
        else:
            seen = sample_statistic(own.to(slot.dtype), noise, hess_approx=slot.group["hess_approx"])
            slot.grad.add_((grad.to(slot.dtype) - slot.grad) / self._count)
            slot.statistic.add_((seen - slot.statistic) / self._count)
