r"""EVON: IVON in an eigenbasis of the gradients (arXiv 2606.23357), on IVON's seams.

For each axis of a parameter a running average of the gradients' products, :math:`L_k`, is kept, and every ``interval``
steps the basis :math:`Q_k` moves towards its eigenvectors. Momentum and Hessian are in these coordinates; the mean
stays where it is. With bases that are the identity it is IVON, bit for bit on the same noise.

Where a basis changes by a rotation :math:`R = Q_\text{new}^\top Q_\text{old}`, the momentum is rotated, and the Hessian
becomes the diagonal of the rotated one, :math:`h \leftarrow (R \circ R)\,h`: of all Gaussians q that are diagonal in
the new basis, it belongs to the one that minimises :math:`\mathrm{KL}(q \,\|\, q_\text{old})`. Vectors that only change
places take their Hessian along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from typing import Any

import torch
from torch import Generator, Tensor

from vlls._bases import (
    Bases,
    axes_of,
    back,
    distance_from_orthonormal,
    in_full,
    matrices_of,
    project,
    turn_alike,
    turn_flat,
)
from vlls._names import kind_of
from vlls._validation import check_whole_number
from vlls._warnings import warn_caller
from vlls.optim.alg1 import hess_estimate, ivon_direction, posterior_noise, sample_statistic
from vlls.optim.ivon._cpu import FusedCPU
from vlls.optim.ivon._executors import SAVE_AND_SAMPLE, UPDATE, States, StepExecutor
from vlls.optim.ivon._optimizer import IVON
from vlls.optim.ivon._state import ParameterState
from vlls.optim.ivon._tensors import Foreach, SingleTensor, _pieces, round_at_random
from vlls.optim.ivon._weights import Weights
from vlls.posterior import KroneckerPosterior

SAMPLES = 10  # gradients that a factor takes up between two changes of its basis
AT_ONCE = 2**19  # entries of the factors whose bases are found at once
PART = 5 * 2**20  # entries of the parameters that a GPU steps at once
LOST = 1e-3  # distance from orthonormal beyond which a basis is repaired


class EVON(IVON):
    r"""Variational learning of a Gaussian that is diagonal in an eigenbasis of each parameter (Chapter 14).

    For a matrix with bases :math:`Q_1, Q_2` of its rows and columns the samples are :math:`\theta = m + Q_1 E Q_2^\top`
    with :math:`E_{ij} \sim \mathcal N(0, 1/(\lambda (h_{ij} + \delta)))`, and Alg. 1 runs on the coordinates of the
    gradient in them. The filters of a convolution have three bases: of outputs, inputs and positions. Biases, other
    1-d parameters and axes longer than ``max_axis`` are as in :class:`.IVON`, and so is everything before the first
    ``interval`` steps have ended.

    Args:
        params: as of :class:`.IVON`; groups may set ``interval``, ``basis_decay`` and ``max_axis`` too.
        lr: as of :class:`.IVON`.
        ess: as of :class:`.IVON`.
        interval: number of steps between two changes of the bases, >= 1. The gradients' products are averaged over ten
            of these steps.
        basis_decay: decay of these averages in a step, in [0, 1).
        max_axis: length of the longest axis that has a basis, >= 0; at 0 it is IVON.
        fused: IVON's kernel for float32 parameters on a CPU, on their coordinates, with other random numbers: the
            quickest and leanest. None: off. Other parameters take torch's operations, one after the other.
        **options: as of :class:`.IVON`, except ``foreach``.

    Raises:
        ValueError: as of :class:`.IVON`.

    Warns:
        UserWarning: as of :class:`.IVON`; if a gradient is NaN or infinite, when the step is left out; if a basis is no
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
        if options.pop("foreach", None):
            raise ValueError("foreach=True: EVON takes one parameter after the other; leave foreach out")
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
                value = state.get(name)
                if value is None:
                    continue
                given = tuple(value.shape) if isinstance(value, Tensor) else kind_of(value)
                if given != (size, size):
                    raise ValueError(f"{name} of {which} is {given} in the saved state and needs {(size, size)}")
                if not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{name} of {which} has NaN or infinite entries in the saved state; take another")

    def _reset(self) -> None:
        super()._reset()
        self._weights = _EigenWeights(self)

    @property
    def executor(self) -> str:
        """The name of the code that takes the steps; random numbers and last digits depend on it."""
        params = [p for p in self._params() if p.requires_grad and p.numel()] or self._params()
        return ", ".join(dict.fromkeys(kind.label() for kind in _executors_of(params, self.fused)))

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


# ---------------------------------------------------------------------- a parameter in its bases
class EigenState(ParameterState):
    """A parameter whose momentum, Hessian and noise are coordinates in the bases of its axes."""

    bases: Bases = ()  # of each axis; None where it is as it is
    drawn: tuple[Tensor, dict[str, Any]]  # key and hyperparameters of the last sample, where the noise is not kept

    def refresh(self, group: dict[str, Any], lasting: dict[str, Any], index: int) -> None:
        super().refresh(group, lasting, index)
        for name in [name for name in lasting if name.startswith(("factor_", "basis_"))]:
            if lasting[name].dtype != self.dtype or lasting[name].device != self.param.device:
                lasting[name] = lasting[name].to(self.param.device, self.dtype)
        self.take_bases()

    @property
    def axes(self) -> tuple[int, ...]:
        """The sizes of the axes, those behind the second as one."""
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
        return [0, 2, 1] if _channels_last(self.param) else list(range(len(self.axes)))

    def flat(self, tensor: Tensor) -> Tensor:
        """All entries of a tensor in that order: a view, where they are in it."""
        return (tensor.movedim(1, -1) if _channels_last(self.param) else tensor).reshape(-1)

    def unflat(self, entries: Tensor) -> Tensor:
        """The tensor with such a row of entries, a view."""
        shape = self.param.shape
        if _channels_last(self.param):
            return entries.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
        return entries.view(shape)

    def turn_flat(self, entries: Tensor, bases: Bases, side: int, free: list[Tensor]) -> Tensor:
        """Turn such a row of entries; see :func:`vlls._bases.turn_flat`."""
        return turn_flat(entries, [(self.axes[axis], bases[axis]) for axis in self.order], side, free)

    def seen(self, grad: Tensor, noise: Tensor) -> Tensor:
        grad = grad.to(self.dtype)
        return super().seen(project(grad, self.bases) if self.turned else grad, noise)

    def tensors(self) -> list[Tensor]:
        """Those of IVON, factors and bases; one that has not been made yet is made."""
        own = []
        for axis in self.turning:
            unit = torch.eye(self.axes[axis], dtype=self.dtype, device=self.param.device)
            own.append(self.lasting.setdefault(f"factor_{axis}", torch.zeros_like(unit)))
            own.append(self.lasting.setdefault(f"basis_{axis}", unit))
        return [*super().tensors(), *own]

    def take_bases(self) -> None:
        """Look the bases up."""
        found = [self.lasting.get(f"basis_{axis}") for axis in range(len(self.axes))]
        self.bases = found if any(basis is not None for basis in found) else ()

    def turn(self, axis: int, new: Tensor, free: list[Tensor]) -> None:
        """Change a basis: the momentum is rotated, the Hessian becomes the diagonal of the rotated one."""
        old = self.lasting.get(f"basis_{axis}")
        rotation = new if old is None else old.T @ new  # project multiplies by the transpose
        for tensor, matrix in ((self.momentum, rotation), (self.hess, rotation.square())):
            bases = [matrix if k == axis else None for k in range(len(self.axes))]
            turned = self.turn_flat(self.flat(tensor), bases, 0, free)
            tensor.copy_(self.unflat(turned))
            free.append(turned)
        if old is None:
            self.lasting[f"basis_{axis}"] = new.clone(memory_format=torch.contiguous_format)
            self.take_bases()
        else:
            old.copy_(new)


class _EigenWeights(Weights):
    state_type = EigenState

    def _executors_of(self, states: list[ParameterState]) -> list[type[StepExecutor]]:
        return _executors_of([state.param for state in states], self._optimizer.fused)

    def update(self, states: list[ParameterState]) -> None:
        if not _all_finite([state.grad for state in states if state.grad is not None]):
            warn_caller("a gradient is NaN or infinite: this step is left out, and mean, Hessian and bases stay")
            return
        super().update(states)


def _all_finite(grads: list[Tensor]) -> bool:
    """Whether no gradient has an infinite or NaN entry; it reads one number from each device."""
    norms: dict[torch.device, list[Tensor]] = {}
    for norm in torch._foreach_norm(grads) if grads else ():
        norms.setdefault(norm.device, []).append(norm)
    if all(bool(torch.stack(part).isfinite().all()) for part in norms.values()):
        return True
    return all(bool(grad.isfinite().all()) for grad in grads)  # a square may overflow


def _executors_of(params: Sequence[Tensor], fused: bool | None) -> list[type[StepExecutor]]:
    return [
        _FusedEigenbasis
        if fused and _FusedEigenbasis.supports(param)
        else _EigenbasisForeach
        if param.is_cuda
        else _Eigenbasis
        for param in params
    ]


# ---------------------------------------------------------------------- the steps
class _Eigenbasis(SingleTensor):
    """One parameter after the other; a turned one goes into its bases and back by matrix products."""

    @classmethod
    def label(cls) -> str:
        return "eigenbasis"

    def _perturb(self, states: States, generator: Generator | None) -> None:
        for state in states:
            assert isinstance(state, EigenState)
            if not state.turned:
                super()._perturb([state], generator)
                continue
            group = state.group
            for noise, hess in _pieces([state.noise, state.hess]):
                noise.copy_(posterior_noise(noise, hess, ess=group["ess"], weight_decay=group["weight_decay"]))
            sample = back(state.noise, state.bases).add_(state.mean_at_sample)
            param = state.param
            param.copy_(round_at_random(sample, param.dtype, generator) if state.keeps_master else sample)

    def _update(self, states: States) -> None:
        own = [state for state in states if isinstance(state, EigenState)]
        for state in own:
            if state.turned:
                _step(state)
            else:
                super()._update([state])
        _learn_bases(own, _new_buffers)


def _step(state: EigenState) -> None:
    """Alg. 1 on the coordinates in the bases; only the mean's step goes back."""
    group, grad = state.group, state.grad
    assert grad is not None
    of_hess = {name: group[name] for name in ("ess", "weight_decay", "hess_approx", "hess_clip")}
    given = {name: group[name] for name in ("beta1", "weight_decay", "clip_radius")}
    given |= {"beta2": state.beta2, "bias_correction": state.bias_correction}
    direction = project(grad.to(state.dtype), state.bases)
    # without a prior the mean does not enter
    mean = project(state.mean, state.bases) if group["weight_decay"] else direction
    last = state.noise if state.statistic is None else state.statistic
    for g, m, momentum, hess, piece in _pieces([direction, mean, state.momentum, state.hess, last]):
        seen = piece if state.statistic is not None else sample_statistic(g, piece, hess_approx=group["hess_approx"])
        hess_hat = hess_estimate(seen, hess, **of_hess)
        for old, value in zip(
            (g, momentum, hess), ivon_direction(m, momentum, hess, g, hess_hat, **given), strict=True
        ):
            old.copy_(value)
    state.mean.sub_(back(direction, state.bases).mul_(state.lr))
    if state.keeps_master:
        state.param.copy_(state.mean)


class _EigenbasisForeach(Foreach):
    """Lists of parameters, for a GPU: few launches, and the products of all parameters of one shape at once."""

    @classmethod
    def label(cls) -> str:
        return "eigenbasis, foreach"

    def _perturb(self, states: States, generator: Generator | None) -> None:
        straight, turned = _split(states)
        super()._perturb(straight, generator)
        for part in _parts(turned):
            group, noise = part[0].group, [state.noise for state in part]
            width = torch._foreach_add([state.hess for state in part], group["weight_decay"])
            torch._foreach_mul_(width, group["ess"])
            torch._foreach_sqrt_(width)
            torch._foreach_div_(noise, width)
            samples = _turned(part, noise, 1)
            torch._foreach_add_(samples, [state.mean_at_sample for state in part])
            params = [state.param for state in part]
            if part[0].keeps_master:
                samples = [round_at_random(sample, params[0].dtype, generator) for sample in samples]
            torch._foreach_copy_(params, samples)

    def _update(self, states: States) -> None:
        straight, turned = _split(states)
        super()._update(straight)
        for part in _parts(turned):
            means = _turned(part, [state.mean for state in part], 0)
            grads = _turned(part, [state.grad.to(state.dtype) for state in part if state.grad is not None], 0)
            steps = torch._foreach_neg(means)
            seen = [_in_bases(*each) for each in zip(part, means, grads, strict=True)]
            super()._update(seen)
            torch._foreach_add_(steps, means)
            torch._foreach_add_([state.mean for state in part], _turned(part, steps, 1))
            if part[0].keeps_master:
                torch._foreach_copy_([state.param for state in part], [state.mean for state in part])
        _learn_bases([*straight, *turned], _new_buffers)


def _parts(states: Sequence[EigenState]) -> Iterator[list[EigenState]]:
    """Parameters of one group and dtype, at most PART entries, those of one shape behind each other."""
    alike: dict[Any, list[EigenState]] = {}
    for state in sorted(states, key=lambda state: state.param.shape):
        alike.setdefault((id(state.group), state.param.device, state.param.dtype), []).append(state)
    for members in alike.values():
        part: list[EigenState] = []
        for state in members:
            if part and sum(other.param.numel() for other in part) + state.param.numel() > PART:
                yield part
                part = []
            part.append(state)
        yield part


def _turned(part: Sequence[EigenState], tensors: Sequence[Tensor], side: int) -> list[Tensor]:
    """Turn a tensor of each parameter into its bases (side 0) or back (side 1)."""
    alike: dict[Any, list[int]] = {}
    for k, state in enumerate(part):
        alike.setdefault((state.axes, *state.order, *(basis is None for basis in state.bases)), []).append(k)
    found: list[Tensor] = list(tensors)
    for members in alike.values():
        first = part[members[0]]
        axes = [(first.axes[axis], [part[k].bases[axis] for k in members]) for axis in first.order]
        rows = turn_alike([part[k].flat(tensors[k]) for k in members], axes, side)
        for k, row in zip(members, rows, strict=True):
            found[k] = part[k].unflat(row)
    return found


def _in_bases(state: EigenState, mean: Tensor, grad: Tensor) -> EigenState:
    """The same state, of a parameter whose mean and gradient are these."""
    seen = copy(state)
    seen.param, seen.grad = mean, grad
    return seen


class _FusedEigenbasis(FusedCPU):
    """IVON's kernel, which takes the coordinates of a turned parameter for a parameter.

    Its noise is not kept: the same key makes it again. So three numbers a parameter are enough, as in IVON, beside the
    bases, their factors and three buffers as long as the longest parameter.
    """

    saves_first = True
    _buffers = torch.empty(3, 0)

    @classmethod
    def supports(cls, param: Tensor) -> bool:
        return super().supports(param) and (param.is_contiguous() or _channels_last(param))

    @classmethod
    def label(cls) -> str:
        return f"eigenbasis, {super().label()}"

    def save(self, states: States) -> None:
        super().save(states)
        own = [state for state in states if isinstance(state, EigenState)]
        longest = max((state.param.numel() for state in own if state.turning or state.turned), default=0)
        if longest > self._buffers.shape[1]:
            self._buffers = torch.empty(3, longest)
        for state in own:
            state.other.copy_(state.param)

    def draw(self, states: States, generator: Generator | None) -> None:
        key = self.new_key(generator)
        straight, turned = _split(states)
        self._run(SAVE_AND_SAMPLE, straight, key, False, False)
        for state in turned:
            state.drawn = key, dict(state.group)
            free, param, mean = self._free(state), state.flat(state.param.detach()), state.flat(state.other)
            noise = self._sample(state, free.pop().zero_(), param)
            torch.add(mean, state.turn_flat(noise, state.bases, 1, free), out=param)

    def restore(self, states: States) -> None:
        straight, turned = _split(states)
        super().restore(straight)
        for state in turned:
            state.param.copy_(state.other)

    def noise(self, state: ParameterState, at_sample: bool) -> Tensor:
        assert isinstance(state, EigenState)
        if not state.turned:
            return super().noise(state, at_sample)
        noise = state.empty().zero_()
        self._sample(state, state.flat(noise), self._free(state)[0])
        return noise

    def update(self, states: States, generator: Generator | None, at_sample: bool, resample: bool) -> None:
        if at_sample:
            self.restore(states)
        straight, turned = _split(states)
        self._run(UPDATE, straight, None, False, False)
        for state in turned:
            self._step(state)
        _learn_bases([*straight, *turned], self._free)
        if resample:
            self.save(states)
            self.draw(states, generator)

    def _step(self, state: EigenState) -> None:
        assert state.grad is not None
        free, bases = self._free(state), state.bases
        mean, param = state.flat(state.other), state.flat(state.param.detach())
        # without a prior the mean does not enter
        sample = state.turn_flat(param, bases, 0, free) if state.group["weight_decay"] else free.pop().zero_()
        seen = _seen_as(state, self._sample(state, sample, mean), mean)
        seen.grad = state.turn_flat(state.flat(state.grad), bases, 0, free)
        seen.statistic = None if state.statistic is None else state.flat(state.statistic)
        self._run(UPDATE, [seen], None, True, False)  # leaves the new mean in place of the sample
        param.sub_(state.turn_flat(mean.sub_(sample), bases, 1, [sample, *free]))

    def _free(self, state: EigenState) -> list[Tensor]:
        return list(self._buffers[:, : state.param.numel()])

    def _sample(self, state: EigenState, mean: Tensor, kept: Tensor) -> Tensor:
        """Keep the coordinates of a mean, and put those of the last sample in their place."""
        seen = _seen_as(state, mean, kept)
        key, seen.group = state.drawn
        self._run(SAVE_AND_SAMPLE, [seen], key, False, False)
        return mean


def _channels_last(param: Tensor) -> bool:
    return param.ndim > 2 and not param.is_contiguous() and param.movedim(1, -1).is_contiguous()


def _split(states: States) -> tuple[list[EigenState], list[EigenState]]:
    """Those without a basis, and those with one."""
    own = [state for state in states if isinstance(state, EigenState)]
    return [state for state in own if not state.turned], [state for state in own if state.turned]


def _seen_as(state: EigenState, param: Tensor, other: Tensor) -> EigenState:
    """The same state, with other tensors in the place of the parameter and of its counterpart."""
    seen = copy(state)
    seen.param, seen.other, seen.grad, seen.held = param, other, None, None
    return seen


# ---------------------------------------------------------------------- the bases
def _new_buffers(state: EigenState) -> list[Tensor]:
    return [state.flat(state.empty()) for _ in range(2)]


def _learn_bases(states: Sequence[EigenState], buffers: Callable[[EigenState], list[Tensor]]) -> None:
    """Let the factors take up this step's gradients, and the bases follow them, where it is time to."""
    due: list[tuple[EigenState, int]] = []
    for state in states:
        step, interval = int(state.step), state.group["interval"]
        every = max(1, interval // SAMPLES)
        axes = state.turning
        if step % every == 0 and axes and state.grad is not None:
            entries = state.flat(state.grad.to(state.dtype))
            matrices = matrices_of(entries, [state.axes[axis] for axis in state.order], buffers(state))
            for axis, rows in zip(state.order, matrices, strict=True):
                if axis in axes:
                    with in_full(rows):
                        gram = rows @ rows.T
                    factor = state.lasting.setdefault(f"factor_{axis}", torch.zeros_like(gram))
                    factor.lerp_(gram, 1.0 - state.group["basis_decay"] ** every)
        if step % interval == 0:
            due += [(state, axis) for axis in axes if f"factor_{axis}" in state.lasting]
    with in_full(states[0].hess) if due else nullcontext():
        for (state, axis), basis in _follow(due):
            state.turn(axis, basis, buffers(state))


def _follow(due: Sequence[tuple[EigenState, int]]) -> Iterator[tuple[tuple[EigenState, int], Tensor]]:
    """The new bases, those of one size at once as far as they are short; none where a factor says nothing."""
    alike: dict[Any, list[tuple[EigenState, int]]] = {}
    for state, axis in due:
        factor, basis = state.lasting[f"factor_{axis}"], state.lasting.get(f"basis_{axis}")
        if bool(factor.diagonal().sum() > 0):
            alike.setdefault((basis is None, factor.shape, factor.dtype, factor.device), []).append((state, axis))
    for (first, (size, _), *_), members in alike.items():
        at_once = max(1, AT_ONCE // size**2)
        for part in (members[k : k + at_once] for k in range(0, len(members), at_once)):
            factors = torch.stack([state.lasting[f"factor_{axis}"] for state, axis in part])
            if first:
                bases = _eigenvectors(factors)
            else:
                bases = _power_iteration(factors, torch.stack([_sound(state, axis) for state, axis in part]))
            yield from zip(part, bases, strict=True)


def _eigenvectors(factors: Tensor) -> Tensor:
    return torch.linalg.eigh(factors)[1].flip(-1)  # largest first


def _sound(state: EigenState, axis: int) -> Tensor:
    """The basis of an axis, repaired if rounding or a loaded state has bent it."""
    name = f"basis_{axis}"
    basis = state.lasting[name]
    distance = distance_from_orthonormal(basis)
    if not distance < LOST:
        warn_caller(
            f"{name} of a parameter of shape {tuple(state.param.shape)} is off orthonormal by {distance:.2g}; it is "
            "made orthonormal again"
        )
        state.lasting[name] = basis = (
            torch.linalg.qr(basis).Q if distance < torch.inf else torch.eye(len(basis)).to(basis)
        )
    return basis


def _power_iteration(factors: Tensor, bases: Tensor) -> Tensor:
    """One step of orthogonal iteration from bases, (N, d, d), by Cholesky-QR; eigenvectors where that fails."""
    size = factors.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    moved = factors @ bases
    order = (bases * moved).sum(-2).argsort(-1, descending=True)  # by the Rayleigh quotients
    moved.addcmul_(size, bases, value=1e-6)  # where a factor has no say, a vector stays
    moved = moved.gather(-1, order[:, None].expand_as(moved))
    for _ in range(2):  # the second takes away the first one's rounding
        moved /= moved.norm(dim=-2, keepdim=True)
        root, info = torch.linalg.cholesky_ex(moved.mT @ moved)
        moved = torch.linalg.solve_triangular(root.mT, moved, upper=True, left=False)
        failed = (info > 0) | ~torch.isfinite(moved).all(-1).all(-1)
        if bool(failed.any()):
            moved[failed] = _eigenvectors(factors[failed])
    return moved
