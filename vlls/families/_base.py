"""The exponential family with one natural parameter, from which all others derive."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from vlls._quadrature import gaussian_expectation
from vlls._validation import as_float64, check_finite, quote

Elementwise = Callable[[Tensor], Tensor]


class Family(ABC):
    r"""An exponential family with one natural parameter, given by its log-partition function alone.

    Write :meth:`log_partition` with torch operations and everything else follows: derivatives by automatic
    differentiation, Gaussian expectations by the trapezoidal rule. Override those that have a closed form.

    Attributes:
        domain: open interval of natural parameters at which A is finite. A Gaussian reaches past any bound, so a
            family with a bounded domain (exponential, gamma) has no Gaussian expectation (Chapter 3).

    Example:
        >>> from vlls import Bernoulli, Family
        >>> class Logistic(Family):
        ...     def log_partition(self, f):
        ...         return torch.nn.functional.softplus(f, threshold=40)
        >>> one = torch.ones((), dtype=torch.float64)
        >>> bool((Logistic().expected_mean(one, one) - Bernoulli().expected_mean(one, one)).abs() < 1e-12)
        True
    """

    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    @abstractmethod
    def log_partition(self, f: Tensor) -> Tensor:
        """Return A(f), elementwise, in the shape and dtype of ``f``."""

    def mean(self, f: Tensor) -> Tensor:
        """Return A'(f), the mean of y at natural parameter ``f`` (any shape, elementwise)."""
        return torch.func.grad(lambda t: self.log_partition(t).sum())(f)

    def curvature(self, f: Tensor) -> Tensor:
        """Return A''(f), the variance of y at natural parameter ``f`` (any shape, elementwise)."""
        return torch.func.grad(lambda t: self.mean(t).sum())(f)

    def nll(self, f: Tensor, y: Tensor) -> Tensor:
        """Return the loss of Eq. 15, -y f + A(f), elementwise; the base measure of y is left out.

        Args:
            f: natural parameters, any shape.
            y: targets, broadcastable to ``f``.
        """
        return self.log_partition(f) - y * f

    # ------------------------------------------------------------------ expectations under f ~ N(mean, var)
    def expected_log_partition(self, mean: Tensor, var: Tensor) -> Tensor:
        """Return E[A(f)] for f ~ N(mean, var), elementwise; arguments as in :meth:`expected_mean`."""
        return self._expect(self.log_partition, mean, var)

    def expected_mean(self, mean: Tensor, var: Tensor) -> Tensor:
        r"""Return :math:`\mathbb E[A'(f)]` for :math:`f \sim \mathcal N(\mu, v)`, elementwise (Eqs. 13, 16).

        Args:
            mean: the Gaussian's means, any shape.
            var: its variances, not negative, broadcastable to ``mean``.

        Raises:
            ValueError: for a negative variance, a bounded :attr:`domain`, or an expectation that is infinite.
        """
        return self._expect(self.mean, mean, var)

    def expected_curvature(self, mean: Tensor, var: Tensor) -> Tensor:
        """Return E[A''(f)] for f ~ N(mean, var), elementwise; arguments as in :meth:`expected_mean`."""
        return self._expect(self.curvature, mean, var)

    def expected_derivatives(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[A'(f)] and E[A''(f)] together, which VON needs in one pass (Eq. 18)."""
        return self.expected_mean(mean, var), self.expected_curvature(mean, var)

    def label_noise(self, mean: Tensor, var: Tensor) -> Tensor:
        r"""Return the label noise :math:`\epsilon = A'(\mu) - \mathbb E[A'(f)]` of Eqs. 13, 16 and 26.

        It is added to the label; Chapter 3 proves its form for every family. Arguments as in :meth:`expected_mean`.
        """
        return self.mean(mean) - self.expected_mean(mean, var)

    def _expect(self, function: Elementwise, mean: Tensor, var: Tensor) -> Tensor:
        mean, var, restore = self._gaussian(mean, var)
        return restore(gaussian_expectation(function, mean, var.sqrt()))

    def _gaussian(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Elementwise]:
        """Check a scalar Gaussian; return it flat in float64, and a function back to the caller's shape and dtype."""
        mean, var = torch.as_tensor(mean), torch.as_tensor(var)
        dtype = torch.promote_types(mean.dtype, var.dtype)
        dtype = dtype if dtype.is_floating_point else torch.float64
        try:
            mean, var = torch.broadcast_tensors(mean, var)
        except RuntimeError:
            raise ValueError(f"mean {tuple(mean.shape)} and var {tuple(var.shape)} do not broadcast") from None
        if not bool((var >= 0).all()):
            raise ValueError(f"var holds {quote(var[~(var >= 0)])}; a variance must be >= 0")
        if self.domain != (-math.inf, math.inf):
            raise ValueError(
                f"{type(self).__name__} has natural parameters in {self.domain} only, and a Gaussian reaches past it: "
                "A has no Gaussian expectation; use a link that maps the real line into the domain"
            )
        shape = mean.shape
        mean, var = (value.reshape(-1).to(torch.float64) for value in (mean, var))
        return mean, var, lambda value: value.reshape(shape).to(dtype)

    # ------------------------------------------------------------------ targets
    support: ClassVar[str] = "the real numbers"

    @property
    def num_outputs(self) -> int | None:
        """Number of natural parameters of one example; None for a single one, which has no axis."""
        return None

    def check_targets(self, targets: Tensor, num_examples: int) -> Tensor:
        """Return the targets in float64, (N,) or (N, K), after checking shape and support.

        Raises:
            ValueError: for a wrong shape, a NaN, or a value outside the family's support.
        """
        y = as_float64(targets, "targets")
        if tuple(y.shape) != (num_examples,):
            raise ValueError(
                f"targets have shape {tuple(y.shape)}; {num_examples} rows of features need ({num_examples},)"
            )
        check_finite(y, "targets")
        outside = ~self._in_support(y)
        if bool(outside.any()):
            raise ValueError(
                f"targets hold {quote(y[outside])}, outside the support of {self!r}: {self.support}; recode them"
            )
        return y

    def _conditions(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the conditions for a loss that does not grow along s, the change of the natural parameters (N, K).

        They are the examples (M,), the weights (M, K) of s, and whether the weighted sum may be positive (M,), or must
        be zero: see _separation.
        """
        ends = torch.tensor([-700.0, 700.0], dtype=torch.float64).clamp(*self.domain)
        mean, reached = self.mean(ends), self.curvature(ends).abs() < 1e-12  # where the means come to an end
        low = float(mean[0]) if reached[0] else -math.inf
        high = float(mean[1]) if reached[1] else math.inf
        sign = (y >= high).double() - (y <= low).double()
        return torch.arange(len(y), device=y.device), torch.where(sign == 0, 1.0, sign)[:, None], sign != 0

    def _in_support(self, y: Tensor) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
