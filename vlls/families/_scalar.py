"""Families with one natural parameter: Binomial, Bernoulli, Gaussian and Poisson."""

from __future__ import annotations

import torch
from torch import Tensor

from vlls._quadrature import logistic_moments
from vlls._validation import check_whole_number
from vlls.families._base import Elementwise, Family


class Binomial(Family):
    r"""Number of successes in ``trials`` attempts: :math:`A(f) = n \log(1 + e^f)`.

    Expectations are within 1e-13 n of the exact value at any variance; the label noise is odd in the mean and keeps
    its relative accuracy where it is tiny (Chapter 2).

    Args:
        trials: number of attempts n of every example, a positive integer.

    Raises:
        ValueError: if ``trials`` is not a positive integer.

    Example:
        >>> Binomial(10).mean(torch.tensor([0.0]))
        tensor([5.])
    """

    def __init__(self, trials: int) -> None:
        check_whole_number(trials, "trials", 1)
        self.trials = int(trials)
        self.support = f"whole numbers from 0 to {self.trials}"  # type: ignore[misc]

    def log_partition(self, f: Tensor) -> Tensor:
        """Return n log(1 + e^f)."""
        return self.trials * torch.logaddexp(f, torch.zeros_like(f))

    def mean(self, f: Tensor) -> Tensor:
        """Return n times the logistic function of ``f``."""
        return self.trials * torch.sigmoid(f)

    def curvature(self, f: Tensor) -> Tensor:
        """Return n sigma(f) sigma(-f)."""
        return self.trials * torch.sigmoid(f) * torch.sigmoid(-f)

    def nll(self, f: Tensor, y: Tensor) -> Tensor:
        """Return -y f + A(f), written as y log(1 + e^-f) + (n - y) log(1 + e^f), in which nothing cancels."""
        zero = torch.zeros_like(f)
        return y * torch.logaddexp(-f, zero) + (self.trials - y) * torch.logaddexp(f, zero)

    def _expect(self, function: Elementwise, mean: Tensor, var: Tensor) -> Tensor:
        mean, var, restore = self._gaussian(mean, var)
        if function == self.mean:
            return restore(self.mean(mean) - self.trials * logistic_moments(mean, var, "noise")[0])
        name = "softplus" if function == self.log_partition else "curvature"
        return restore(self.trials * logistic_moments(mean, var, name)[0])

    def expected_derivatives(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[A'(f)] and E[A''(f)] from the same nodes."""
        mean, var, restore = self._gaussian(mean, var)
        noise, curvature = logistic_moments(mean, var, "noise", "curvature")
        return restore(self.mean(mean) - self.trials * noise), restore(self.trials * curvature)

    def label_noise(self, mean: Tensor, var: Tensor) -> Tensor:
        """Return A'(mean) - E[A'(f)] without forming the difference; see :meth:`Family.label_noise`."""
        mean, var, restore = self._gaussian(mean, var)
        return restore(self.trials * logistic_moments(mean, var, "noise")[0])

    def _in_support(self, y: Tensor) -> Tensor:
        return (y >= 0) & (y <= self.trials) & (y == y.round())

    def __repr__(self) -> str:
        return f"Binomial({self.trials})"


class Bernoulli(Binomial):
    r"""Binary labels, the logistic loss of Eq. 8: :math:`A(f) = \log(1 + e^f)` (Chapter 2).

    Targets are 0 or 1, or probabilities in between (smoothed labels).

    Example:
        >>> Bernoulli().expected_mean(torch.tensor([2.0]), torch.tensor([4.0]))
        tensor([0.7752])
    """

    support = "0, 1 and probabilities in between"

    def __init__(self) -> None:
        self.trials = 1

    def _in_support(self, y: Tensor) -> Tensor:
        return (y >= 0) & (y <= 1)

    def __repr__(self) -> str:
        return "Bernoulli()"


class Gaussian(Family):
    r"""Real targets with unit variance: :math:`A(f) = f^2 / 2`, whose label noise is exactly zero (Chapter 3).

    Example:
        >>> Gaussian().label_noise(torch.tensor([3.0]), torch.tensor([100.0]))
        tensor([0.])
    """

    def log_partition(self, f: Tensor) -> Tensor:
        """Return f^2 / 2."""
        return 0.5 * f * f

    def mean(self, f: Tensor) -> Tensor:
        """Return f."""
        return f

    def curvature(self, f: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(f)

    def _expect(self, function: Elementwise, mean: Tensor, var: Tensor) -> Tensor:
        """Return an expectation that follows from A: E[A(f)] = A(mean) + var / 2, and A' and A'' are linear."""
        mean, var, restore = self._gaussian(mean, var)
        value = function(mean)
        return restore(value + 0.5 * var if function == self.log_partition else value)


class Poisson(Family):
    r"""Counts: :math:`A(f) = e^f`, whose label noise is :math:`e^{\mu} (1 - e^{v/2})` (Chapter 3).

    Example:
        >>> Poisson().expected_mean(torch.tensor([0.0]), torch.tensor([2.0]))
        tensor([2.7183])
    """

    support = "whole numbers from 0"

    def log_partition(self, f: Tensor) -> Tensor:
        """Return e^f."""
        return torch.exp(f)

    mean = curvature = log_partition

    def _expect(self, function: Elementwise, mean: Tensor, var: Tensor) -> Tensor:
        """Return the mean of a log-normal variable: A = A' = A'' is the exponential."""
        mean, var, restore = self._gaussian(mean, var)
        return restore(torch.exp(mean + 0.5 * var))

    def expected_derivatives(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[A'(f)] and E[A''(f)], which are equal."""
        value = self.expected_mean(mean, var)
        return value, value

    def label_noise(self, mean: Tensor, var: Tensor) -> Tensor:
        """Return e^mean (1 - e^{var/2}) without cancellation; see :meth:`Family.label_noise`."""
        mean, var, restore = self._gaussian(mean, var)
        return restore(-torch.exp(mean) * torch.expm1(0.5 * var))

    def _in_support(self, y: Tensor) -> Tensor:
        return (y >= 0) & (y == y.round())
