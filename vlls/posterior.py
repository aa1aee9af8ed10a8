r"""Gaussian posteriors over parameters, :math:`q(\theta) = \mathcal N(\theta \mid \mathbf m, \Sigma)`.

A posterior is given by its covariance or by its precision and keeps a Cholesky factor of whichever it got:
variational GD keeps a covariance (Section 3.1), VON builds a precision (Eq. 18). Nothing is inverted where a
triangular solve serves.

For networks :class:`DiagonalPosterior` keeps a mean and a standard deviation for every weight, under the names of the
model's parameters: what IVON learns (Alg. 1), and what any other diagonal approximation can be written as.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from vlls._names import kind_of
from vlls._validation import as_float64, check_finite, check_symmetric, check_whole_number

__all__ = ["DiagonalPosterior", "GaussianPosterior", "Posterior"]


@runtime_checkable
class Posterior(Protocol):
    r"""A Gaussian over the parameters of a network, by their names: all that label noise and predictions ask for.

    Anything with these three will do; it need not be a subclass. A parameter of the model that has no mean here stays
    as it is.

    Attributes:
        mean: the means :math:`m`, a tensor for each name.
    """

    @property
    def mean(self) -> Mapping[str, Tensor]:
        """The means, a tensor of the parameter's shape for each name."""

    def sample(self, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Draw one set of weights.

        Args:
            generator: torch random generator of the means' device, for reproducible draws.
        """

    def scale(self, name: str, gradients: Tensor) -> Tensor:
        r"""Turn gradients with respect to one parameter into rows :math:`r = J_\text{name} \Sigma_\text{name}^{1/2}`.

        Their Gram matrix is that parameter's part of :math:`J \Sigma J^\top`: parameters are independent of each other
        (Eq. 20, Chapter 6).

        Args:
            name: of the parameter.
            gradients: (R, B, ...) for R functions of the logits and B examples, with the parameter's shape behind.

        Returns:
            (R, B, Q) rows, of any length Q.
        """


class GaussianPosterior:
    r"""A Gaussian over all parameters with a full covariance, in float64.

    Args:
        mean: (P,) parameters of a scalar family, or (P, K) of a vector family.
        covariance: (D, D) for D = P or P K (row-major, as ``mean.flatten()``); a number stands for that multiple
            of the identity.
        precision: the inverse of the covariance, in the same forms; give one of the two.

    Raises:
        ValueError: if both or none are given, shapes differ, a value is not finite, or the matrix is not symmetric
            positive definite.

    Example:
        >>> q = GaussianPosterior(torch.zeros(2), covariance=1.0)      # Theorem 1: covariance I
        >>> mean, var = q.marginal(torch.tensor([[3.0, 4.0]]))          # Eq. 12
        >>> float(var)
        25.0
    """

    def __init__(self, mean: Any, covariance: Any = None, *, precision: Any = None) -> None:
        self.mean: Tensor = as_float64(mean, "mean")
        if self.mean.ndim not in (1, 2) or self.mean.numel() == 0:
            raise ValueError(f"mean has shape {tuple(self.mean.shape)}; pass (P,) or (P, K) parameters, P, K >= 1")
        check_finite(self.mean, "mean", "look at how it was made")
        if (covariance is None) == (precision is None):
            given = "neither" if covariance is None else "both"
            raise ValueError(f"{given} of covariance and precision given; pass exactly one of them")
        name, matrix = ("covariance", covariance) if precision is None else ("precision", precision)
        self._holds_precision = precision is not None
        self._cholesky = _cholesky(self._matrix(matrix, name), name)

    def _matrix(self, matrix: Any, name: str) -> Tensor:
        matrix = as_float64(matrix, name).to(self.mean.device)
        if matrix.ndim == 0:
            matrix = matrix * torch.eye(self.num_parameters, dtype=torch.float64, device=self.mean.device)
        check_symmetric(matrix, name, self.num_parameters)
        return matrix

    # ------------------------------------------------------------------ the two forms of the matrix
    @property
    def num_parameters(self) -> int:
        """Number D of parameters."""
        return self.mean.numel()

    @property
    def covariance(self) -> Tensor:
        """The (D, D) covariance; computed when asked for if the posterior was given by its precision."""
        return torch.cholesky_inverse(self._cholesky) if self._holds_precision else self._square

    @property
    def precision(self) -> Tensor:
        """The (D, D) inverse covariance; computed when asked for if given by the covariance."""
        return self._square if self._holds_precision else torch.cholesky_inverse(self._cholesky)

    @cached_property
    def _square(self) -> Tensor:
        return self._cholesky @ self._cholesky.T

    @property
    def variance(self) -> Tensor:
        """Marginal variances of the parameters, in the shape of the mean."""
        return self._root.square().sum(1).reshape(self.mean.shape)

    @property
    def log_det_covariance(self) -> Tensor:
        """Log-determinant of the covariance, a scalar."""
        half = self._cholesky.diagonal().log().sum()
        return -2 * half if self._holds_precision else 2 * half

    def _whiten(self, columns: Tensor) -> Tensor:
        """Return Bᵀ columns for some B with B Bᵀ = covariance: squared norms are variances."""
        if self._holds_precision:
            return torch.linalg.solve_triangular(self._cholesky, columns, upper=False)
        return self._cholesky.T @ columns

    @cached_property
    def _root(self) -> Tensor:
        """A (D, D) triangular B with B Bᵀ = covariance, for the moments that need it whole."""
        if not self._holds_precision:
            return self._cholesky
        return self._whiten(torch.eye(self.num_parameters, dtype=torch.float64, device=self.mean.device)).T

    # ------------------------------------------------------------------ marginals of the natural parameter
    def marginal(self, features: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return mean and variance of :math:`f = \phi^\top \theta`, the Gaussian of Eqs. 12 and 19.

        Args:
            features: (N, P) feature vectors, one a row.

        Returns:
            Means and variances, (N,) and (N,); for a (P, K) mean (N, K) and covariances (N, K, K).

        Raises:
            ValueError: if ``features`` is not (N, P).
        """
        features = as_float64(features, "features")
        p = self.mean.shape[0]
        if features.ndim != 2 or features.shape[1] != p:
            raise ValueError(f"features have shape {tuple(features.shape)}; this posterior needs (N, {p})")
        means = features @ self.mean
        if self.mean.ndim == 1:
            return means, self._whiten(features.T).square_().sum(0)
        k, d = self.mean.shape[1], self.num_parameters
        jacobian = (features @ self._root.reshape(p, k * d)).reshape(-1, k, d)
        return means, jacobian @ jacobian.mT

    # ------------------------------------------------------------------ draws and divergences
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw parameters: (num_samples, P) or (num_samples, P, K).

        Args:
            num_samples: number of independent draws, at least 1.
            generator: torch random generator, for reproducible draws.
        """
        check_whole_number(num_samples, "num_samples", 1)
        shape = (self.num_parameters, num_samples)
        noise = torch.randn(shape, dtype=torch.float64, device=self.mean.device, generator=generator)
        return self.from_standard_normal(noise.T)

    def from_standard_normal(self, noise: Tensor) -> Tensor:
        """Map (S, D) standard normal numbers to S draws of the posterior, in the shape of the mean."""
        if self._holds_precision:
            deviation = torch.linalg.solve_triangular(self._cholesky.T, noise.T, upper=True).T
        else:
            deviation = noise @ self._cholesky.T
        return self.mean + deviation.reshape(-1, *self.mean.shape)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, a scalar."""
        return 0.5 * (self.num_parameters * (1 + math.log(2 * math.pi)) + self.log_det_covariance)

    def kl(self, other: GaussianPosterior) -> Tensor:
        """Return the Kullback-Leibler divergence KL[self || other] in nats, a scalar (Eq. 7).

        Raises:
            ValueError: if the two have different numbers of parameters.

        Example:
            >>> q, p = GaussianPosterior([1.0], 1.0), GaussianPosterior([0.0], 1.0)
            >>> float(q.kl(p))
            0.5
        """
        if other.mean.shape != self.mean.shape:
            raise ValueError(
                f"means have shapes {tuple(self.mean.shape)} and {tuple(other.mean.shape)}; both must agree"
            )
        shift = (self.mean - other.mean).reshape(-1, 1)
        columns = other._unwhiten(torch.cat([self._root, shift], 1))
        distance = columns.square().sum()
        return 0.5 * (distance - self.num_parameters + other.log_det_covariance - self.log_det_covariance)

    def _unwhiten(self, columns: Tensor) -> Tensor:
        """Return C columns with Cᵀ C = precision."""
        if self._holds_precision:
            return self._cholesky.T @ columns
        return torch.linalg.solve_triangular(self._cholesky, columns, upper=False)

    def __repr__(self) -> str:
        form = "precision" if self._holds_precision else "covariance"
        return f"GaussianPosterior(mean: {tuple(self.mean.shape)}, {form}: ({self.num_parameters},) * 2)"


class DiagonalPosterior:
    r"""A Gaussian with independent weights, :math:`\theta_j \sim \mathcal N(m_j, \sigma_j^2)`, by parameter name.

    Args:
        mean: the means, a tensor of any real floating dtype for each name; kept, not copied.
        std: standard deviations >= 0, of the same names, shapes and devices; 0 holds a weight at its mean.

    Raises:
        ValueError: if names, shapes or devices differ, a value is no tensor of finite real numbers, or a standard
            deviation is negative.

    ``torch.save({"mean": q.mean, "std": q.std}, path)`` saves one, ``DiagonalPosterior(**torch.load(path))`` loads it.

    Example:
        >>> q = DiagonalPosterior({"weight": torch.zeros(2, 3)}, {"weight": torch.full((2, 3), 0.1)})
        >>> q.num_parameters, q.sample()["weight"].shape
        (6, torch.Size([2, 3]))
    """

    def __init__(self, mean: Mapping[str, Tensor], std: Mapping[str, Tensor]) -> None:
        self.mean: dict[str, Tensor] = _weights(mean, "mean")
        self.std: dict[str, Tensor] = _weights(std, "std")
        if not self.mean or self.mean.keys() != self.std.keys():
            different = sorted(self.mean.keys() ^ self.std.keys(), key=str)[:5]
            raise ValueError(f"mean and std need the same names, at least one; these are in one only: {different}")
        for name, centre in self.mean.items():
            spread = self.std[name]
            if centre.shape != spread.shape:
                raise ValueError(
                    f"{name!r} has a mean of shape {tuple(centre.shape)} and a std of shape {tuple(spread.shape)}; "
                    "both need the parameter's"
                )
            if centre.device != spread.device:
                raise ValueError(f"{name!r} has its mean on {centre.device} and its std on {spread.device}; move one")
            for tensor, which in ((centre, "mean"), (spread, "std")):
                check_finite(tensor, f"{which} of {name!r}", "look at how the posterior was made")
            if bool((spread < 0).any()):
                raise ValueError(f"std of {name!r} has entries below 0, such as {float(spread.min()):g}")

    @property
    def num_parameters(self) -> int:
        """Number of weights, over all names."""
        return sum(tensor.numel() for tensor in self.mean.values())

    def sample(self, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw one set of weights, for ``torch.func.functional_call``.

        Args:
            generator: torch random generator of the means' device, for reproducible draws.

        Returns:
            A tensor for each name, of its mean's shape and dtype; means in half precision are moved in float32 and then
            rounded.
        """
        draws = {}
        for name, centre in self.mean.items():
            dtype = torch.promote_types(centre.dtype, torch.float32)
            noise = torch.randn(centre.shape, dtype=dtype, device=centre.device, generator=generator)
            draws[name] = (centre.to(dtype) + self.std[name].to(dtype) * noise).to(centre.dtype)
        return draws

    def to(self, device: torch.device | str) -> DiagonalPosterior:
        """Return the posterior with its tensors on ``device``."""
        return DiagonalPosterior(
            {name: tensor.to(device) for name, tensor in self.mean.items()},
            {name: tensor.to(device) for name, tensor in self.std.items()},
        )

    def __repr__(self) -> str:
        return f"DiagonalPosterior({len(self.mean)} names, {self.num_parameters} weights)"


def _weights(values: Mapping[str, Tensor], which: str) -> dict[str, Tensor]:
    """Tensors by name, detached, after a check that they are tensors of real floating-point numbers."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{which} is {kind_of(values)}; pass a dict of tensors by parameter name")
    for name, value in values.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{which} of {name!r} is of type {given}; pass tensors of real floating-point numbers")
    return {name: value.detach() for name, value in values.items()}


def _cholesky(matrix: Tensor, name: str) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) > 0:
        smallest = float(torch.linalg.eigvalsh(matrix).min())
        raise ValueError(
            f"{name} is not positive definite: its smallest eigenvalue is {smallest:.3g}; "
            "check how it was made, or add a small multiple of the identity"
        )
    return factor
