"""What an optimizer step needs to know about one parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlls.optim.alg1 import posterior_std

__all__ = ["Slot"]


class Slot:
    """One parameter with its lasting state and the buffers that live from a sample to the step.

    ``state`` is the optimizer's own dictionary (step, momentum, hess, and for half-precision parameters the mean in
    float32); it is saved and restored. The rest is scratch memory, made when first needed and kept.
    """

    def __init__(self, param: Tensor) -> None:
        self.param = param
        self.group: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.dtype = torch.float32  # the state's: the parameter's, or float32 where that has fewer bits
        self.index = 0  # position among all parameters: the stream of its noise
        self.held: Tensor | None = None  # the gradient at the end of the context, should zero_grad() drop it
        self.grad: Tensor | None = None  # what the update reads, averaged over samples
        self.statistic: Tensor | None = None  # averaged over samples; None: of the one sample, by the executor
        self.norm: Tensor | None = None  # of the averaged gradient as it was shown in param.grad
        self.aliases: list[Tensor] = []  # other Parameters on the very same memory
        self._buffers: dict[str, Tensor] = {}

    @property
    def keeps_master(self) -> bool:
        """Whether the mean has more bits than the parameter can hold."""
        return self.param.dtype != self.dtype

    def _fits(self, tensor: Tensor) -> bool:
        """Whether a buffer has the parameter's device and order of elements, and the state's dtype."""
        param = self.param
        if tensor.device != param.device or tensor.dtype != self.dtype:
            return False
        return tensor.stride() == param.stride() or not torch.ops.aten.is_non_overlapping_and_dense(param)

    def buffer(self, name: str) -> Tensor:
        """Scratch memory of the parameter's layout, on its device, in the state's dtype."""
        found = self._buffers.get(name)
        if found is None or not self._fits(found):
            found = self._buffers[name] = torch.empty_like(self.param, dtype=self.dtype, requires_grad=False)
        return found

    def set_buffer(self, name: str, tensor: Tensor) -> None:
        """Let a part of a larger tensor be this parameter's scratch memory."""
        self._buffers[name] = tensor

    def refresh(self, group: dict[str, Any], state: dict[str, Any], index: int) -> None:
        """Bring the state to where the parameter is now; make it on the first call."""
        param, self.group, self.state, self.index, self.aliases = self.param, group, state, index, []
        self.dtype = torch.promote_types(param.dtype, torch.float32)
        if "hess" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["momentum"] = torch.zeros_like(param, dtype=self.dtype, requires_grad=False)
            state["hess"] = torch.full_like(param, group["hess_init"], dtype=self.dtype, requires_grad=False)
        for name in ("momentum", "hess"):
            if not self._fits(state[name]):  # model.to(...) was called since
                state[name] = torch.empty_like(param, dtype=self.dtype, requires_grad=False).copy_(state[name])
        if self.keeps_master:
            mean = state.get("mean")
            mean = param.detach().to(self.dtype) if mean is None else mean.to(param.device)
            # where the parameter was written from outside (a loaded model, say) it, not our copy, is the mean
            state["mean"] = torch.where(mean.to(param.dtype) == param, mean, param.to(self.dtype))
        else:
            state.pop("mean", None)

    @property
    def mean(self) -> Tensor:
        """Where the mean lives between samples."""
        return self.state["mean"] if self.keeps_master else self.param.detach()

    @property
    def lr(self) -> Any:
        """The step size, multiplied by h_0 + weight_decay if the group asks for it (Alg. 1, "Optional")."""
        group = self.group
        return group["lr"] * (group["hess_init"] + group["weight_decay"]) if group["rescale_lr"] else group["lr"]

    @property
    def bias_correction(self) -> float:
        """1 - beta1^t, or 1 where the group asks for no debiasing."""
        return 1.0 - self.group["beta1"] ** float(self.state["step"]) if self.group["debias"] else 1.0

    def std(self) -> Tensor:
        """The posterior's standard deviation, a new tensor."""
        return posterior_std(self.state["hess"], ess=self.group["ess"], weight_decay=self.group["weight_decay"])

    # ------------------------------------------------------------------ gradients
    @property
    def has_gradient(self) -> bool:
        """Whether param.grad, or that of an alias, holds one."""
        return any(param.grad is not None for param in (self.param, *self.aliases))

    def gradient(self, *, or_held: bool = False) -> Tensor | None:
        """The gradient in param.grad, that of aliases added; ``or_held``: as it was, should it be cleared since."""
        grad = self.param.grad
        if grad is None and or_held:
            grad = self.held
        for alias in self.aliases:
            if alias.grad is not None:
                grad = alias.grad if grad is None else grad + alias.grad
        if grad is not None and grad.layout != torch.strided:
            raise RuntimeError(
                f"a gradient of shape {tuple(grad.shape)} has layout {grad.layout}; IVON needs dense gradients: "
                "use sparse=False in torch.nn.Embedding, or grad.to_dense()"
            )
        return grad

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
        """Let gradient and statistic follow what was done to param.grad since (clipping, unscaling)."""
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
