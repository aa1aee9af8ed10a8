r"""Label noise of sharpness-aware minimisation, which the paper says can be derived and does not show (Chapter 6)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlls._compiled import uncompiled
from vlls._validation import as_float64, is_number, whole_labels
from vlls.families import Family
from vlls.noise._call import borrowed, differentiable
from vlls.noise._checks import check_batch, check_labels, check_logits, check_mode, forward_derivatives
from vlls.noise._linearization import Linearization, differentiable_input
from vlls.noise._posterior import ModelPosterior
from vlls.noise._push import bend, the_family
from vlls.noise._trial import Trials, trials_of
from vlls.posterior import DiagonalPosterior


@torch.inference_mode(False)
def sam_label_noise(
    model: nn.Module,
    x: Tensor,
    labels: Any,
    *,
    rho: float = 0.05,
    per_example: bool = False,
    linear: bool = False,
    family: Family | None = None,
    memory_limit: float | None = None,
) -> Tensor:
    r"""Return the noise that SAM adds to the labels of a batch (Chapter 6).

    SAM takes the gradient at :math:`\theta + \delta`, :math:`\delta = \rho \, g / \|g\|` with g the gradient of the
    batch's loss. The Taylor steps of Eq. 20 turn :math:`\nabla f_i(\theta + \delta) [A'(f_i(\theta + \delta)) - y_i]`
    into :math:`\nabla f_i(\theta) [A'(f_i(\theta)) - (y_i + \epsilon_i)]` with

    .. math:: \epsilon_i = A'(f_i(\theta)) - A'(f_i(\theta + \delta)) \approx -A''(f_i) \, J_i \, \delta .

    It is Eq. 20 with :math:`\Sigma^{1/2} e` replaced by a step of length :math:`\rho` up the loss: a noise that knows
    the labels, where variational noise depends on the posterior alone.

    Args:
        model: the network at its weights :math:`\theta`, in evaluation mode; (B, ...) inputs to (B, K) logits. Frozen
            parameters are not perturbed.
        x: a batch of inputs, (B, ...).
        labels: its labels: classes (B,) of any integer dtype, or any other labels that the family takes.
        rho: radius of the perturbation, positive.
        per_example: perturb for each example by its own gradient, as SAM with batches of one does, in a linearised
            network: :math:`J_i \delta_i = \rho \, V_i r_i / \sqrt{r_i^\top V_i r_i}` with :math:`V_i = J_i J_i^\top`
            and the residual r.
        linear: the Taylor step of the formula instead of the difference.
        family: of the labels; :class:`.Categorical` if left out, :class:`.Bernoulli` for a single logit.
        memory_limit: MiB of temporaries for ``per_example``; see :func:`.logit_covariance`.

    Returns:
        (B, K), to be added to the labels, in the dtype of the logits, or float32 where theirs is smaller.

    Raises:
        ValueError: if ``rho`` is not positive, labels do not fit, the batch is empty, the model is in training mode
            where that matters, the logits of an example depend on the others of its batch, the gradient is zero, or,
            with ``linear`` or ``per_example``, it is not the slope of the logits (straight-through rounding).

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> sam_label_noise(model, torch.randn(4, 2), torch.tensor([0, 1, 2, 0])).shape
        torch.Size([4, 3])
    """
    if not is_number(rho) or not 0 < rho < math.inf:
        raise ValueError(f"rho={rho!r}; pass a positive, finite radius, such as 0.05")
    check_batch(x)
    check_mode(model := uncompiled(model))
    x = differentiable_input(x)
    with borrowed(model):
        parameters = {name: _accurate(p) for name, p in model.named_parameters() if p.requires_grad}
        if not parameters:
            raise ValueError("no parameter of the model requires a gradient, so SAM has none to perturb; thaw some")
        still = {name: torch.zeros_like(p) for name, p in parameters.items()}
        setting, _ = trials_of(model, ModelPosterior(parameters, still), x, memory_limit)
        call = setting.call
        grown = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        with differentiable(), torch.enable_grad():
            logits = check_logits(call(grown, x), len(x))
            kind = the_family(family, logits.shape[1])
            y = _targets(kind, labels, logits)
            if not per_example:
                loss = kind.nll(logits, y).sum() / len(x)
                with call.carrying(grown):  # a checkpoint runs again
                    gradients = torch.autograd.grad(loss, list(grown.values()), allow_unused=True)
        logits = _accurate(logits)
        if per_example:  # batches of one, in a linearised network
            scale = 2.0**-10  # for the trials, which draw weights from it
            even = DiagonalPosterior(parameters, {name: torch.full_like(p, scale) for name, p in parameters.items()})
            line = Linearization(model, even, x, memory_limit=memory_limit, instead="use per_example=False")
            residual = (kind.mean(logits) - y)[..., None]
            pulled = line.covariances(x) / scale**2 @ residual
            norm = (residual.mT @ pulled).clamp_min(0).sqrt()
            slope = (rho * pulled / norm.clamp_min(torch.finfo(norm.dtype).tiny))[..., 0]
            moved_logits = logits + slope
        else:
            held = {name: g for name, g in zip(grown, gradients, strict=True) if g is not None}
            length = torch.stack([g.norm() for g in held.values()]).norm()
            if not bool(length > 0):
                raise ValueError(
                    "the batch's gradient is zero, so SAM has no direction to go; pass other examples or labels"
                )
            step = {name: rho / length * g for name, g in held.items()}
            if linear:
                spread = {name: step[name].abs() if name in step else s for name, s in still.items()}
                trials = Trials(call, ModelPosterior(parameters, spread), x, setting.arithmetic, memory_limit)
                trials.slopes("use linear=False")
                start = {name: parameters[name] for name in step}
                with differentiable(), torch.no_grad(), forward_derivatives("use linear=False"):
                    slope = torch.func.jvp(lambda moving: call({**parameters, **moving}, x), (start,), (step,))[1]
            else:
                moved = {name: p + step[name] if name in step else p for name, p in parameters.items()}
                with differentiable(), torch.no_grad():  # the same kernels as at the start: the difference is small
                    moved_logits = _accurate(call(moved, x))
        if linear:
            return -bend(kind, logits, _accurate(slope)[..., None])[..., 0]
        return kind.mean(logits) - kind.mean(moved_logits)


def _accurate(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _targets(family: Family, labels: Any, logits: Tensor) -> Tensor:
    """Return labels as (B, K) targets in the dtype of the logits, float32 at least."""
    num, k = logits.shape
    if family.num_outputs is not None and _dimensions(labels) != 2:
        labels = check_labels(labels, num, k)
    elif not isinstance(labels, Tensor):
        labels = as_float64(labels, "labels")
    elif not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool):
        labels = whole_labels(labels)
    if family.num_outputs is None:
        flat = family.check_targets(labels.reshape(-1).cpu(), num * k)
        return _accurate(flat.reshape(num, k).to(logits))
    return _accurate(family.check_targets(labels.cpu(), num).to(logits))


def _dimensions(labels: Any) -> int:
    try:
        return np.ndim(labels)
    except ValueError:  # a ragged list
        return 1
