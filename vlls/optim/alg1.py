r"""Algorithm 1 (IVON) as pure functions of tensors.

This is the whole mathematics of :class:`.IVON`, for tensors of any shape, element by element. Executors apply
it to parameters: the one that takes a tensor at a time calls these functions, the list, C and Triton forms are tested
against the same reference, written from the paper. Chapter 5 derives each line.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

__all__ = ["hess_estimate", "ivon_direction", "ivon_update", "posterior_noise", "sample_statistic"]

HessApprox = Literal["price", "gradsq"]  # line 3 of Alg. 1, or squared gradients (Chapter 5)


def posterior_noise(normal: Tensor | float, hess: Tensor, *, ess: float, weight_decay: float) -> Tensor:
    r""":math:`\theta - m = e / \sqrt{\lambda (h + \delta)}` for normal e; at e = 1 the deviation of line 8."""
    return normal / (ess * (hess + weight_decay)).sqrt()


def sample_statistic(grad: Tensor, noise: Tensor, *, hess_approx: HessApprox) -> Tensor:
    r"""Return the contribution of one sample to the Hessian estimate: :math:`\hat g\,(\theta - m)` or :math:`\hat g^2`.

    It is linear in the distribution of the sample, so it is this that is averaged over samples and processes.
    """
    return grad * noise if hess_approx == "price" else grad.square()


def hess_estimate(
    statistic: Tensor,
    hess: Tensor,
    *,
    ess: float,
    weight_decay: float,
    hess_approx: HessApprox,
    hess_clip: float = math.inf,
    drawn_hess: Tensor | None = None,
) -> Tensor:
    r"""Line 3 of Alg. 1: :math:`\hat g\,(\theta - m) / \sigma^2` (price), or :math:`\lambda \hat g^2` (gradsq).

    Chapter 5 proves that the first is unbiased, and gives the factor by which the second is biased.

    A finite ``hess_clip`` bounds the estimate to :math:`\pm` ``hess_clip`` :math:`(h + \delta)`, which biases it
    towards 0; a NaN stays. ``drawn_hess`` is the h of the Gaussian that the sample came from, if that is another.
    """
    drawn = hess if drawn_hess is None else drawn_hess
    estimate = (statistic * (drawn + weight_decay) if hess_approx == "price" else statistic) * ess
    if hess_clip == math.inf:
        return estimate
    bound = hess_clip * (hess + weight_decay)
    return estimate.clamp(-bound, bound)


def ivon_update(
    mean: Tensor,
    momentum: Tensor,
    hess: Tensor,
    grad: Tensor,
    hess_hat: Tensor,
    *,
    lr: float | Tensor,
    beta1: float,
    beta2: float,
    weight_decay: float,
    bias_correction: float = 1.0,
    clip_radius: float = math.inf,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Lines 4 to 7 of Alg. 1: the new mean, momentum and Hessian (Chapter 5).

    .. math::

        \begin{aligned}
        g &\leftarrow \beta_1 g + (1 - \beta_1) \hat g \\
        h &\leftarrow \beta_2 h + (1 - \beta_2) \hat h + \tfrac12 (1 - \beta_2)^2 (h - \hat h)^2 / (h + \delta) \\
        m &\leftarrow m - \alpha\, \mathrm{clip}\!\left(\frac{g / (1 - \beta_1^t) + \delta m}{h + \delta}\right)
        \end{aligned}

    Args:
        mean: m, any shape; every tensor has the same shape, dtype and device.
        momentum: g, the running average of gradients.
        hess: h, with h + weight_decay > 0; the result keeps that.
        grad: the gradient averaged over the samples.
        hess_hat: the estimate of the Hessian's diagonal, from :func:`hess_estimate`.
        lr: the step size, already multiplied by h_0 + weight_decay where the optimizer rescales it.
        beta1: decay of the momentum, in [0, 1).
        beta2: decay of the Hessian, in [0, 1]; at 1 the Hessian and with it the covariance stay fixed.
        weight_decay: the prior's precision divided by ``ess``.
        bias_correction: 1 - beta1^t, or 1 for none.
        clip_radius: bound on each entry of the preconditioned gradient.

    Returns:
        (mean, momentum, hess), new tensors.
    """
    direction, momentum, hess = ivon_direction(
        mean,
        momentum,
        hess,
        grad,
        hess_hat,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        bias_correction=bias_correction,
        clip_radius=clip_radius,
    )
    return mean - lr * direction, momentum, hess


def ivon_direction(
    mean: Tensor,
    momentum: Tensor,
    hess: Tensor,
    grad: Tensor,
    hess_hat: Tensor,
    *,
    beta1: float,
    beta2: float,
    weight_decay: float,
    bias_correction: float = 1.0,
    clip_radius: float = math.inf,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lines 4 to 6 of Alg. 1 and the fraction of line 7: the direction of the mean's step, new momentum and Hessian.

    Arguments are as in :func:`ivon_update`. :class:`.EVON` calls it with all tensors in its eigenbasis.
    """
    momentum = beta1 * momentum + (1.0 - beta1) * grad
    correction = 0.5 * (1.0 - beta2) ** 2 * (hess - hess_hat).square() / (hess + weight_decay)
    hess = beta2 * hess + (1.0 - beta2) * hess_hat + correction
    direction = (momentum / bias_correction + weight_decay * mean) / (hess + weight_decay)
    if clip_radius < math.inf:
        direction = direction.clamp(-clip_radius, clip_radius)
    return direction, momentum, hess
