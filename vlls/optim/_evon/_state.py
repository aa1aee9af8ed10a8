"""A parameter whose posterior is diagonal in the bases of its axes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vlls._bases import Bases, axes_of, distance_from_orthonormal, project, turn_flat
from vlls._warnings import warn_caller
from vlls.optim.ivon._state import ParameterState

LOST = 1e-3  # distance from orthonormal beyond which a basis is repaired


class EigenState(ParameterState):
    """A parameter whose momentum, Hessian and noise are coordinates in the bases of its axes."""

    bases: Bases = ()  # of each axis; None for an axis without one
    drawn: tuple[Tensor, dict[str, Any]]  # key and hyperparameters of the last sample, where the noise is not kept
    # The number of steps as a Python number: reading ``step`` on a GPU would wait for all that is in the queue.
    count: int
    counted: Tensor | None = None  # the ``step`` that it counts along with

    def refresh(self, group: dict[str, Any], lasting: dict[str, Any], index: int) -> None:
        super().refresh(group, lasting, index)
        if self.step is not self.counted:
            self.count, self.counted = int(self.step), self.step
        for axis in self.turning:
            self.learned(axis)
        for name in [name for name in lasting if name.startswith(("factor_", "basis_"))]:
            if lasting[name].dtype != self.dtype or lasting[name].device != self.param.device:
                lasting[name] = lasting[name].to(self.param.device, self.dtype)
        self._take([self._found(axis) for axis in range(len(self.axes))])

    @property
    def axes(self) -> tuple[int, ...]:
        """The sizes of the axes; those after the second count as one."""
        return axes_of(self.param.shape)

    @property
    def turning(self) -> list[int]:
        """The axes that have a basis, or will have one."""
        longest = self.group["max_axis"] if self.param.ndim > 1 else 0
        return [axis for axis, size in enumerate(self.axes) if 1 < size <= longest]

    @property
    def turned(self) -> bool:
        """Whether an axis has a basis."""
        return bool(self.bases)

    @property
    def order(self) -> list[int]:
        """The axes, in the order in which the parameter's entries are in memory."""
        return [0, 2, 1] if channels_last(self.param) else list(range(len(self.axes)))

    def flat(self, tensor: Tensor) -> Tensor:
        """Return all entries of a tensor in the order of the axes in memory: a view if they are in it."""
        return (tensor.movedim(1, -1) if channels_last(self.param) else tensor).reshape(-1)

    def unflat(self, entries: Tensor) -> Tensor:
        """Return the tensor with such a row of entries, a view."""
        shape = self.param.shape
        if channels_last(self.param):
            return entries.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
        return entries.view(shape)

    def turn_flat(self, entries: Tensor, bases: Bases, side: int, free: list[Tensor]) -> Tensor:
        """Turn such a row of entries; see :func:`vlls._bases.turn_flat`."""
        return turn_flat(entries, [(self.axes[axis], bases[axis]) for axis in self.order], side, free)

    def seen(self, grad: Tensor, noise: Tensor) -> Tensor:
        grad = grad.to(self.dtype)
        return super().seen(project(grad, self.bases) if self.turned else grad, noise)

    def tensors(self) -> Iterator[Tensor]:
        yield from super().tensors()
        for axis in self.turning:
            yield from self.learned(axis)

    def learned(self, axis: int) -> list[Tensor]:
        """Return factor and basis of an axis: zeros until they are learned, so that all saved states have them."""
        names = [f"factor_{axis}", f"basis_{axis}"]
        for name in names:
            if name not in self.lasting:
                self.lasting[name] = self.momentum.new_zeros(self.axes[axis], self.axes[axis])
        return [self.lasting[name] for name in names]

    def basis(self, axis: int) -> Tensor | None:
        """Return the basis of an axis, if it has one."""
        return self.bases[axis] if self.bases else None

    def _take(self, bases: list[Tensor | None]) -> None:
        self.bases = bases if any(basis is not None for basis in bases) else ()

    def _found(self, axis: int) -> Tensor | None:
        """Return the basis of an axis in the lasting state, after a check if it is another than before."""
        basis: Tensor | None = self.lasting.get(f"basis_{axis}")
        if basis is None or basis is self.basis(axis):
            return basis
        return self.sound_basis(axis) if bool(basis.any()) else None

    def sound_basis(self, axis: int) -> Tensor:
        """Return the basis of an axis, made orthonormal again if rounding or a loaded state has changed it."""
        name = f"basis_{axis}"
        basis: Tensor = self.lasting[name]
        distance = distance_from_orthonormal(basis)
        if not distance < LOST:
            warn_caller(
                f"{name} of a parameter of shape {tuple(self.param.shape)} is off orthonormal by {distance:.2g}; it is "
                "made orthonormal again"
            )
            found = torch.linalg.qr(basis).Q if distance < torch.inf else torch.eye(len(basis)).to(basis)
            self.lasting[name] = basis = found
        return basis

    def turn(self, axis: int, new: Tensor, free: list[Tensor]) -> None:
        """Change a basis: the momentum is rotated, the Hessian becomes the diagonal of the rotated one."""
        old = self.basis(axis)
        rotation = new if old is None else old.T @ new  # project multiplies by the transpose
        for tensor, matrix in ((self.momentum, rotation), (self.hess, rotation.square())):
            bases = [matrix if k == axis else None for k in range(len(self.axes))]
            turned = self.turn_flat(self.flat(tensor), bases, 0, free)
            tensor.copy_(self.unflat(turned))
            free.append(turned)
        found = [self.basis(k) for k in range(len(self.axes))]
        found[axis] = self.learned(axis)[1].copy_(new)
        self._take(found)


def channels_last(param: Tensor) -> bool:
    return param.ndim > 2 and not param.is_contiguous() and param.movedim(1, -1).is_contiguous()
