r"""Regularizers: the term :math:`\mathcal R_0` of Eq. 6, that is the prior :math:`p \propto \exp(-\mathcal R_0)`.

:class:`Ridge` makes Theorems 1 and 2 exact, because its gradient is linear. Any other convex regularizer adds a further
term beside the label noise, :math:`\mathbb E_q[\nabla \mathcal R_0] - \nabla \mathcal R_0(\mathbf m)` (Chapter 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlls._quadrature import sobol_normal
from vlls._validation import as_float64, check_finite
from vlls.posterior import GaussianPosterior

__all__ = ["Ridge"]


class Ridge:
    r"""The quadratic regularizer :math:`\mathcal R_0(\theta) = \tfrac12 \sum_j \delta_j \theta_j^2`, a Gaussian prior.

    Args:
        precision: :math:`\delta`, a number or a tensor that broadcasts to the parameters, not negative. Zero
            leaves a parameter unpenalised (an intercept): its prior is flat, and :meth:`.GLM.elbo` then drops its
            normalising constant.

    Raises:
        ValueError: for a negative or infinite precision.

    Example:
        >>> float(Ridge(2.0)(torch.tensor([1.0, 3.0])))
        10.0
    """

    def __init__(self, precision: Any = 1.0) -> None:
        self.precision = as_float64(precision, "precision")
        check_finite(self.precision, "precision", "pass finite numbers >= 0")
        if bool((self.precision < 0).any()):
            raise ValueError(f"precision holds {float(self.precision.min()):g}; a ridge penalty must be >= 0")

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the penalty at ``theta``, a scalar."""
        return 0.5 * (self._at(theta) * theta * theta).sum()

    def gradient(self, theta: Tensor) -> Tensor:
        """Return its gradient, in the shape of ``theta``."""
        return self._at(theta) * theta

    def hessian(self, theta: Tensor) -> Tensor:
        """Return its (D, D) Hessian."""
        return torch.diag_embed(self._at(theta).flatten())

    def expected(self, q: GaussianPosterior) -> Tensor:
        """Return its expectation under ``q``, a scalar."""
        return self(q.mean) + 0.5 * (self._at(q.mean) * q.variance).sum()

    def expected_gradient(self, q: GaussianPosterior) -> Tensor:
        """Return E_q of the gradient: that at the mean, because the gradient is linear."""
        return self.gradient(q.mean)

    def expected_hessian(self, q: GaussianPosterior) -> Tensor:
        """Return E_q of the Hessian, which is constant."""
        return self.hessian(q.mean)

    def log_normalizer(self, theta: Tensor) -> Tensor:
        """Return the log of the integral of exp(-R), over the parameters that are penalised."""
        precision = self._at(theta)
        return 0.5 * torch.log(2 * math.pi / precision[precision > 0]).sum()

    def _at(self, theta: Tensor) -> Tensor:
        """The precision of every parameter."""
        try:
            return self.precision.to(theta.device).expand_as(theta)
        except RuntimeError:
            raise ValueError(
                f"Ridge holds precisions of shape {tuple(self.precision.shape)} and the parameters have "
                f"{tuple(theta.shape)}; pass one number, or one for each parameter"
            ) from None


class CallableRegularizer:
    """Any convex function of the parameters, with the methods of :class:`Ridge`.

    Derivatives are by autograd, expectations by quasi-Monte Carlo. :class:`vlls.glm.GLM` wraps a plain function in it.
    """

    _POINTS, _REPLICATES = 256, 4

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, theta: Tensor) -> Tensor:
        return self.function(theta)

    def gradient(self, theta: Tensor) -> Tensor:
        return torch.func.grad(self.function)(theta)

    def hessian(self, theta: Tensor) -> Tensor:
        return torch.func.hessian(self.function)(theta).reshape(theta.numel(), theta.numel())

    def expected(self, q: GaussianPosterior) -> Tensor:
        return self._average(self.function, q)

    def expected_gradient(self, q: GaussianPosterior) -> Tensor:
        return self._average(self.gradient, q)

    def expected_hessian(self, q: GaussianPosterior) -> Tensor:
        return self._average(self.hessian, q)

    def log_normalizer(self, theta: Tensor) -> Tensor:
        return theta.new_zeros(())  # the constant of an arbitrary prior is left out

    def _average(self, function: Callable[[Tensor], Tensor], q: GaussianPosterior) -> Tensor:
        points = sobol_normal(q.num_parameters, self._POINTS, self._REPLICATES, 0).flatten(0, 1).to(q.mean.device)
        draws = q.from_standard_normal(points)
        return torch.func.vmap(function, chunk_size=128)(draws).mean(0)
