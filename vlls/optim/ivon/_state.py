"""One parameter of IVON: its lasting state, and the memory that lives from a sample to the step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vlls.optim.alg1 import posterior_noise, sample_statistic


class Scratch:
    """A tensor of the parameter's layout in the state's dtype, made when a :class:`ParameterState` first reads it.

    Without ``__set__``: once made it is an attribute like any other, until :meth:`ParameterState.refresh` drops it.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, state: ParameterState, owner: type | None = None) -> Tensor:
        made = state.__dict__[self._name] = state.empty()
        return made


def beta2_at(step: float, group: dict[str, Any]) -> float:
    """Return the decay of the Hessian in the ``step``-th step: 1 if the group does not update it then."""
    return 1.0 if step % group["hess_every"] else group["beta2"]


def bias_correction_at(step: float, group: dict[str, Any]) -> float:
    """Return 1 - beta1^t in the ``step``-th step, or 1 if the group asks for no debiasing."""
    return 1.0 - group["beta1"] ** step if group["debias"] else 1.0


class ParameterState:
    """One parameter with its hyperparameters, its lasting state and its scratch memory."""

    step: Tensor  # the number t of steps, a scalar
    momentum: Tensor  # g, the running average of gradients
    hess: Tensor  # h, the running estimate of the Hessian's diagonal

    saved_mean = Scratch()  # the mean, while the parameter holds a sample
    noise = Scratch()  # the sample minus the mean
    other = Scratch()  # of the fused executors: the mean while the parameter holds a sample, else the last sample
    work = Scratch()
    local_grad = Scratch()  # of this process alone, where param.grad becomes the average over processes
    _grad_memory = Scratch()
    _statistic_memory = Scratch()

    def __init__(self, param: Tensor) -> None:
        self.param = param
        self.group: dict[str, Any] = {}
        # the optimizer's dictionary, which is saved: step, momentum, hess, for half precision the mean in float32
        self.lasting: dict[str, Any] = {}
        self.dtype = torch.float32  # of the state: the parameter's, or float32 if that has fewer bits
        self._layout: Any = None  # of the parameter at the last refresh
        self.index = 0  # position among all parameters: the stream of its noise
        self.aliases: list[Tensor] = []  # other Parameters on the very same memory
        self.held: Tensor | None = None  # the gradient at the end of the block, in case zero_grad() drops it
        self.grad: Tensor | None = None  # the gradient that the update reads, averaged over samples
        self.statistic: Tensor | None = None  # averaged over samples; None: the executor computes it for one sample
        self.norm: Tensor | None = None  # of the averaged gradient, when it was shown in param.grad
        self.drawn_hess: Tensor | None = None  # of the Gaussian that is sampled; None: the learned one

    def refresh(self, group: dict[str, Any], lasting: dict[str, Any], index: int) -> None:
        """Bring the state to the parameter's device, dtype and layout; make it on the first call."""
        param, self.group, self.lasting, self.index, self.aliases = self.param, group, lasting, index, []
        layout = param.device, param.dtype, param.stride()
        moved = layout != self._layout  # model.to(...) was called since
        if moved:
            self._layout, self.dtype = layout, torch.promote_types(param.dtype, torch.float32)
            for name in [name for name in self.__dict__ if isinstance(vars(ParameterState).get(name), Scratch)]:
                del self.__dict__[name]
        if "hess" not in lasting:
            lasting["step"] = torch.zeros((), dtype=torch.float32)
            lasting["momentum"] = self.empty().zero_()
            lasting["hess"] = self.empty().fill_(group["hess_init"])
        for name in ("momentum", "hess"):
            if (moved or lasting[name] is not getattr(self, name)) and not self._fits(lasting[name]):
                lasting[name] = self.empty().copy_(lasting[name])
        self.step, self.momentum, self.hess = (lasting[name] for name in ("step", "momentum", "hess"))
        if not self.keeps_master:
            lasting.pop("mean", None)

    def take_mean(self) -> None:
        """Keep the mean in float32 if the parameter has fewer bits.

        If the parameter was written from outside (a loaded model, say), it is the mean and our copy is not.
        """
        param, mean = self.param, self.lasting.get("mean")
        mean = param.detach().to(self.dtype) if mean is None else mean.to(param.device)
        self.lasting["mean"] = torch.where(mean.to(param.dtype) == param, mean, param.to(self.dtype))

    @property
    def keeps_master(self) -> bool:
        """Whether the mean has more bits than the parameter can hold."""
        return self.param.dtype != self.dtype

    def _fits(self, tensor: Tensor) -> bool:
        """Whether a tensor has the parameter's device and order of elements, and the state's dtype."""
        param = self.param
        if tensor.device != param.device or tensor.dtype != self.dtype:
            return False
        return tensor.stride() == param.stride() or not torch.ops.aten.is_non_overlapping_and_dense(param)

    def empty(self) -> Tensor:
        """Return new memory of the parameter's layout in the state's dtype."""
        return torch.empty_like(self.param, dtype=self.dtype, requires_grad=False)

    @property
    def mean(self) -> Tensor:
        """The mean m, where it is stored between samples."""
        return self.lasting["mean"] if self.keeps_master else self.param.detach()

    @property
    def mean_at_sample(self) -> Tensor:
        """The mean m, where executors that store it apart keep it while the parameter holds a sample."""
        return self.lasting["mean"] if self.keeps_master else self.saved_mean

    @property
    def lr(self) -> Any:
        """The step size, multiplied by h_0 + weight_decay if the group asks for it (Alg. 1, "Optional")."""
        group = self.group
        return group["lr"] * (group["hess_init"] + group["weight_decay"]) if group["rescale_lr"] else group["lr"]

    @property
    def beta2(self) -> float:
        """Decay of the Hessian in this step, the ``step``-th."""
        return beta2_at(float(self.step), self.group) if self.group["hess_every"] > 1 else self.group["beta2"]

    @property
    def bias_correction(self) -> float:
        """1 - beta1^t, or 1 if the group asks for no debiasing."""
        return bias_correction_at(float(self.step), self.group) if self.group["debias"] else 1.0

    @property
    def sampled_hess(self) -> Tensor:
        """The Hessian that gives the samples their standard deviation; it is the learned one, except in controls."""
        return self.hess if self.drawn_hess is None else self.drawn_hess

    def std(self) -> Tensor:
        """The standard deviation of the samples, a new tensor."""
        return posterior_noise(1.0, self.sampled_hess, ess=self.group["ess"], weight_decay=self.group["weight_decay"])

    def seen(self, grad: Tensor, noise: Tensor) -> Tensor:
        """The contribution of a sample to the Hessian estimate, from its gradient and the noise of the executor."""
        return sample_statistic(grad.to(self.dtype), noise, hess_approx=self.group["hess_approx"])

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors that the next step depends on, except the number of steps; they may be written to."""
        yield from [self.param.detach(), self.momentum, self.hess, *([self.mean] if self.keeps_master else [])]

    @property
    def has_gradient(self) -> bool:
        """Whether param.grad, or that of an alias, holds one."""
        return any(param.grad is not None for param in (self.param, *self.aliases))

    def gradient(self, *, or_held: bool = False) -> Tensor | None:
        """The gradient in param.grad plus those of aliases, or the held one if param.grad has been cleared since."""
        grad = self.param.grad
        if grad is None and or_held:
            grad = self.held
        for alias in self.aliases:
            if alias.grad is not None:
                grad = alias.grad if grad is None else grad + alias.grad
        if grad is not None and grad.layout != torch.strided:
            raise RuntimeError(
                f"a gradient of shape {tuple(grad.shape)} has layout {grad.layout}; only dense gradients are allowed: "
                "use sparse=False in torch.nn.Embedding, or grad.to_dense()"
            )
        return grad

    def averages(self) -> tuple[Tensor, Tensor]:
        """The averages of gradient and statistic, zeros if there are none yet."""
        if self.grad is None or self.statistic is None:
            self.grad, self.statistic = self._grad_memory.zero_(), self._statistic_memory.zero_()
        return self.grad, self.statistic

    def show_average(self) -> None:
        """Put the average over samples into param.grad, where it may be clipped or unscaled before the step."""
        if self.grad is None:
            return
        if self.param.grad is None:
            self.param.grad = torch.empty_like(self.param)
        self.param.grad.copy_(self.grad)
        for alias in self.aliases:
            alias.grad = None
        self.norm = self.param.grad.norm(dtype=self.dtype)

    def follow_shown_average(self) -> None:
        """Repeat on gradient and statistic the changes made to param.grad since it was shown (clipping, unscaling)."""
        if self.norm is None or self.param.grad is None or self.statistic is None:
            return
        factor = self.param.grad.norm(dtype=self.dtype) / self.norm
        factor = torch.where(self.norm > 0, factor, torch.ones_like(factor))
        self.grad = self.param.grad.to(self.dtype)
        self.statistic.mul_(factor if self.group["hess_approx"] == "price" else factor.square())

    def rescale(self, factor: float) -> None:
        """Multiply the gradient, and the statistic accordingly."""
        if self.grad is not None:
            self.grad = self.grad.to(self.dtype).mul_(factor)  # in half precision it could vanish
        if self.statistic is not None:
            self.statistic.mul_(factor if self.group["hess_approx"] == "price" else factor**2)
