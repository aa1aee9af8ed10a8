r"""Gaussian posteriors over parameters, :math:`q(\theta) = \mathcal N(\theta \mid \mathbf m, \Sigma)`.

:class:`GaussianPosterior` is given by its covariance or by its precision and keeps a Cholesky factor of either:
variational GD keeps a covariance (Section 3.1), VON builds a precision (Eq. 18). Nothing is inverted where a
triangular solve serves.

:class:`DiagonalPosterior` keeps a mean and a standard deviation for every weight of a network, under the names of the
model's parameters, as IVON learns them (Alg. 1); :class:`KroneckerPosterior` keeps them in bases that EVON learns, one
for each axis of a parameter. :class:`Posterior` says which members label noise and predictions
need of a posterior, so that any other covariance can be written in a class of a few lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from vlls._bases import Bases, axes_of, back, distance_from_orthonormal, project
from vlls._compiled import uncompiled
from vlls._names import kind_of
from vlls._validation import as_float64, check_finite, check_symmetric, check_whole_number

__all__ = ["DiagonalPosterior", "GaussianPosterior", "KroneckerPosterior", "Posterior"]


@runtime_checkable
class Posterior(Protocol):
    r"""A Gaussian over the parameters of a network, by their names.

    Any class with these three members serves :func:`.label_noise`, :func:`.rank_examples`, :func:`.logit_covariance`
    and :func:`.predict`; it need not inherit from this one. Parameters of the model that are not in ``mean`` stay as
    they are. Two more members are optional:

    - ``joint = True`` says that parameters are correlated: the rows of all parameters then have one basis, and are
      added up before their Gram matrix is taken. Without it each parameter is independent of the others.
    - ``independent_std(name)`` returns the standard deviations of a parameter whose weights are all independent of each
      other and of the other parameters, or None. They replace its ``scale`` and are much faster; if all parameters have
      them, they replace ``sample`` too.
    - ``rotation(name)`` returns orthonormal bases of a parameter's axes and the standard deviations in them, if the
      weights are independent there, or None (:meth:`KroneckerPosterior.rotation`). They replace its ``scale`` where
      the layer allows, and are faster.

    Example:
        >>> class PerLayer:                                       # a full covariance for each parameter
        ...     def __init__(self, mean, root):                   # root (P, Q): the covariance is root @ root.T
        ...         self.mean, self.root = mean, root
        ...     def sample(self, generator=None):
        ...         return {n: m + (self.root[n] @ torch.randn(len(self.root[n].T), generator=generator)).view_as(m)
        ...                 for n, m in self.mean.items()}
        ...     def scale(self, name, gradients):
        ...         return gradients.flatten(2) @ self.root[name]
        >>> q = PerLayer({"weight": torch.zeros(3, 2)}, {"weight": torch.ones(6, 1)})
        >>> isinstance(q, Posterior)
        True
        >>> from vlls.noise import logit_covariance
        >>> logit_covariance(torch.nn.Linear(2, 3), q, torch.ones(1, 2))[0, 0]      # every weight moves by the same
        tensor([4., 4., 4.])
    """

    @property
    def mean(self) -> Mapping[str, Tensor]:
        """The means, a tensor of the parameter's shape for each name, on the model's device."""

    def sample(self, generator: torch.Generator | None = None) -> Mapping[str, Tensor]:
        """Draw one set of weights.

        Args:
            generator: torch random generator of the means' device, for reproducible draws.

        Returns:
            A tensor of its mean's shape for each name.
        """

    def scale(self, name: str, gradients: Tensor) -> Tensor:
        r"""Turn gradients with respect to one parameter into rows :math:`J_\text{name} \Sigma_\text{name}^{1/2}`.

        Their Gram matrix is the parameter's part of :math:`J \Sigma J^\top` (Eq. 20, Chapter 6).

        Args:
            name: of the parameter.
            gradients: (R, B, ...) for R functions of the logits and B examples, with the parameter's shape behind; in
                the dtype of its mean, or float32 where that is less.

        Returns:
            (R, B, Q) rows of any length Q, in the dtype of the gradients.
        """


class _LearnsPosterior(Protocol):
    """An object that names its posterior by a model's parameters: :class:`.IVON`, or :class:`GaussianPosterior`."""

    def posterior(self, model: torch.nn.Module) -> Posterior:
        """The posterior under the names of a model's parameters."""


_AnyPosterior = Posterior | _LearnsPosterior


class GaussianPosterior:
    r"""A Gaussian over all parameters with a full covariance, in float64.

    For a GLM the mean is a tensor. For a network it is a dict of tensors by parameter name, and this is a
    :class:`Posterior`; or it is one vector, in the order of ``torch.nn.utils.parameters_to_vector``, and
    :meth:`posterior` gives it a model's names, which the functions of :mod:`vlls.noise` do themselves.

    Args:
        mean: (P,) parameters of a scalar family or of a network, or (P, K) of a vector family; or a dict of tensors by
            parameter name, whose entries stand one after the other in the covariance.
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

        >>> from vlls import label_noise                                # of a network
        >>> model, x = torch.nn.Linear(2, 3), torch.randn(4, 2)
        >>> q = GaussianPosterior(torch.nn.utils.parameters_to_vector(model.parameters()).detach(), 0.1)
        >>> label_noise(model, q, x).shape
        torch.Size([4, 3])
        >>> isinstance(q.posterior(model), Posterior), list(q.posterior(model).mean)
        (True, ['weight', 'bias'])
    """

    joint = True  # as a Posterior: the parameters are correlated

    def __init__(self, mean: Any, covariance: Any = None, *, precision: Any = None) -> None:
        self._shapes: dict[str, torch.Size] = {}  # of the parameters, by name; empty if the mean is a tensor
        if isinstance(mean, Mapping):
            named = _weights(mean, "mean")
            self._shapes = {name: tensor.shape for name, tensor in named.items()}
            mean = torch.cat([tensor.flatten() for tensor in named.values()]) if named else torch.zeros(0)
        self._mean: Tensor = as_float64(mean, "mean")
        if self._mean.ndim not in (1, 2) or self._mean.numel() == 0:
            raise ValueError(f"mean has shape {tuple(self._mean.shape)}; pass (P,) or (P, K) parameters, P, K >= 1")
        check_finite(self._mean, "mean", "look at how it was made")
        if (covariance is None) == (precision is None):
            given = "neither" if covariance is None else "both"
            raise ValueError(f"{given} of covariance and precision given; pass exactly one of them")
        name, matrix = ("covariance", covariance) if precision is None else ("precision", precision)
        self._holds_precision = precision is not None
        matrix = as_float64(matrix, name).to(self._mean.device)
        if matrix.ndim == 0:
            matrix = matrix * self._identity()
        check_symmetric(matrix, name, self.num_parameters)
        self._cholesky, info = torch.linalg.cholesky_ex(matrix)
        if int(info) > 0:
            smallest = float(torch.linalg.eigvalsh(matrix).min())
            raise ValueError(
                f"{name} is not positive definite: its smallest eigenvalue is {smallest:.3g}; "
                "check how it was made, or add a small multiple of the identity"
            )

    def _moved(self, mean: Tensor, shapes: dict[str, torch.Size]) -> GaussianPosterior:
        """Return this Gaussian with another mean or with names, without factorizing its covariance again."""
        moved = object.__new__(GaussianPosterior)
        moved.__dict__ = {**self.__dict__, "_mean": mean, "_shapes": shapes}
        return moved

    def _named(self, vector: Tensor) -> dict[str, Tensor]:
        parts = vector.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    @property
    def mean(self) -> Any:
        """The mean as it was given, a (P,) or (P, K) tensor or a dict of tensors by name."""
        return self._named(self._mean) if self._shapes else self._mean

    def _identity(self) -> Tensor:
        return torch.eye(self.num_parameters, dtype=torch.float64, device=self._mean.device)

    # ------------------------------------------------------------------ the two forms of the matrix
    @property
    def num_parameters(self) -> int:
        """Number D of parameters."""
        return self._mean.numel()

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
        """Marginal variances of the parameters, in the shape of the mean; (P,) if that is a dict."""
        return self._root.square().sum(1).reshape(self._mean.shape)

    @property
    def log_det_covariance(self) -> Tensor:
        """Log-determinant of the covariance, a scalar."""
        half = self._cholesky.diagonal().log().sum()
        return -2 * half if self._holds_precision else 2 * half

    def _times_root(self, columns: Tensor, *, of_covariance: bool) -> Tensor:
        """Return Bᵀ columns for some B with B Bᵀ = covariance (their squared norms are variances), or = precision."""
        if self._holds_precision == of_covariance:
            return torch.linalg.solve_triangular(self._cholesky, columns, upper=False)
        return self._cholesky.T @ columns

    @cached_property
    def _root(self) -> Tensor:
        """A (D, D) triangular B with B Bᵀ = covariance."""
        return self._times_root(self._identity(), of_covariance=True).T if self._holds_precision else self._cholesky

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
        p = self._mean.shape[0]
        if features.ndim != 2 or features.shape[1] != p:
            raise ValueError(f"features have shape {tuple(features.shape)}; this posterior needs (N, {p})")
        means = features @ self._mean
        if self._mean.ndim == 1:
            return means, torch.linalg.vector_norm(features @ self._root, dim=1).square_()
        k, d = self._mean.shape[1], self.num_parameters
        jacobian = (features @ self._root.reshape(p, k * d)).reshape(-1, k, d)
        return means, jacobian @ jacobian.mT

    # ------------------------------------------------------------------ draws and divergences
    @overload
    def sample(self, generator: torch.Generator | None = None) -> dict[str, Tensor]: ...
    @overload
    def sample(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor: ...
    def sample(self, num_samples: Any = None, generator: Any = None) -> Any:  # type: ignore[misc]  # either is first
        """Draw parameters.

        Args:
            num_samples: number of independent draws, at least 1: (num_samples, P) or (num_samples, P, K). Leave it out
                if the mean is a dict, for one draw with a tensor for each name, as for any :class:`Posterior`.
            generator: torch random generator, for reproducible draws; of a dict it may be the first argument.
        """
        if self._shapes:
            given = generator if num_samples is None else num_samples
            if not isinstance(given, torch.Generator | None):
                raise ValueError(f"num_samples is {given!r}; a posterior with names draws one set of weights a call")
            return self._named(self._draws(1, given)[0])
        check_whole_number(num_samples, "num_samples", 1)
        return self._draws(num_samples, generator)

    def _draws(self, number: int, generator: torch.Generator | None) -> Tensor:
        shape = (self.num_parameters, number)
        noise = torch.randn(shape, dtype=torch.float64, device=self._mean.device, generator=generator)
        return self.from_standard_normal(noise.T)

    def from_standard_normal(self, noise: Tensor) -> Tensor:
        """Map (S, D) standard normal numbers to S draws, in the shape of the mean; (S, P) if that is a dict."""
        if self._holds_precision:
            deviation = torch.linalg.solve_triangular(self._cholesky.T, noise.T, upper=True).T
        else:
            deviation = noise @ self._cholesky.T
        return self._mean + deviation.reshape(-1, *self._mean.shape)

    def scale(self, name: str, gradients: Tensor) -> Tensor:
        """Turn (R, B, ...) gradients with respect to a parameter into (R, B, P) rows; see :meth:`Posterior.scale`.

        Example:
            >>> covariance = torch.tensor([[4.0, 2.0], [2.0, 5.0]])
            >>> q = GaussianPosterior({"a": torch.zeros(1), "b": torch.zeros(1)}, covariance)
            >>> g = torch.ones(1, 1, 1, dtype=torch.float64)
            >>> (q.scale("a", g) + q.scale("b", g)).square().sum()                   # the variance of a + b
            tensor(13., dtype=torch.float64)
        """
        if not self._shapes:
            raise ValueError(f"this posterior has no names, so no {name!r}; pass posterior(model) of it")
        return gradients.reshape(*gradients.shape[:2], -1) @ self._roots[name]

    @cached_property
    def _roots(self) -> dict[str, Tensor]:
        sizes = [shape.numel() for shape in self._shapes.values()]
        return dict(zip(self._shapes, self._root.split(sizes), strict=True))

    def posterior(self, model: torch.nn.Module) -> GaussianPosterior:
        """Return this Gaussian with its mean as a dict, under the names of a model's parameters.

        Args:
            model: a network, compiled or not, whose ``parameters_to_vector`` has the mean's length; its names do not
                matter if the mean is a dict already.

        Raises:
            ValueError: if the number of parameters is another one, or the mean is (P, K).
        """
        if self._shapes:
            return self
        if self._mean.ndim == 2:
            raise ValueError(
                f"the posterior's mean has shape {tuple(self._mean.shape)}, of a GLM; a network needs one vector of "
                "all parameters, in the order of torch.nn.utils.parameters_to_vector"
            )
        shapes = {name: parameter.shape for name, parameter in uncompiled(model).named_parameters()}
        number = sum(shape.numel() for shape in shapes.values())
        if number != self.num_parameters:
            raise ValueError(
                f"the posterior has {self.num_parameters} parameters and the model {number}; pass the vector of "
                "all its parameters, as torch.nn.utils.parameters_to_vector makes it, or a dict of some by name"
            )
        return self._moved(self._mean, shapes)

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
        shapes = tuple(self._mean.shape), tuple(other._mean.shape)
        if shapes[0] != shapes[1]:
            raise ValueError(f"means have shapes {shapes[0]} and {shapes[1]}; both must agree")
        shift = (self._mean - other._mean).reshape(-1, 1)
        distance = other._times_root(torch.cat([self._root, shift], 1), of_covariance=False).square().sum()
        return 0.5 * (distance - self.num_parameters + other.log_det_covariance - self.log_det_covariance)

    def __repr__(self) -> str:
        form = "precision" if self._holds_precision else "covariance"
        mean = f"{len(self._shapes)} names" if self._shapes else tuple(self._mean.shape)
        return f"GaussianPosterior(mean: {mean}, {form}: ({self.num_parameters},) * 2)"


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
            check_weights(name, centre, self.std[name])

    @property
    def num_parameters(self) -> int:
        """Number of weights, over all names."""
        return sum(tensor.numel() for tensor in self.mean.values())

    def sample(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
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

    def scale(self, name: str, gradients: Tensor) -> Tensor:
        """Turn (R, B, ...) gradients with respect to a parameter into (R, B, Q) rows; see :meth:`Posterior.scale`.

        Example:
            >>> q = DiagonalPosterior({"bias": torch.zeros(2)}, {"bias": torch.tensor([0.5, 2.0])})
            >>> q.scale("bias", torch.ones(1, 1, 2))
            tensor([[[0.5000, 2.0000]]])
        """
        return (gradients * self.std[name].to(gradients)).reshape(*gradients.shape[:2], -1)

    def independent_std(self, name: str) -> Tensor | None:
        """Return the standard deviations of a parameter: all weights are independent."""
        return self.std.get(name)

    def to(self, device: torch.device | str) -> DiagonalPosterior:
        """Return the posterior with its tensors on ``device``."""
        return DiagonalPosterior(*({name: t.to(device) for name, t in of.items()} for of in (self.mean, self.std)))

    def __repr__(self) -> str:
        return f"DiagonalPosterior({len(self.mean)} names, {self.num_parameters} weights)"


class KroneckerPosterior:
    r"""A Gaussian whose weights are independent in an orthonormal basis of each axis of a parameter, by parameter name.

    For a matrix :math:`M` with bases :math:`Q_1, Q_2` of its rows and columns, :math:`\theta = M + Q_1 E Q_2^\top` with
    independent :math:`E_{ij} \sim \mathcal N(0, \sigma_{ij}^2)`: the covariance is
    :math:`(Q_1 \otimes Q_2)\,\mathrm{diag}(\sigma^2)\,(Q_1 \otimes Q_2)^\top`. :class:`.EVON` learns one (Chapter 14).

    Args:
        mean: the means, a tensor of any real floating dtype for each name; kept, not copied.
        std: standard deviations >= 0 in the bases, of the same names, shapes and devices.
        bases: for each name that has some, the bases of its axes: (d, d) with orthonormal columns, or None for an axis
            as it is. The last stands for all remaining axes as one: filters (O, I, 3, 3) take bases of sizes O, I, 9.
            The weights of a name without bases are independent as they are.

    Raises:
        ValueError: as :class:`DiagonalPosterior` does, or if a basis has another size than its axis, or is not
            orthonormal.

    Example:
        >>> turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
        >>> q = KroneckerPosterior({"w": torch.zeros(2, 1)}, {"w": torch.tensor([[2.0], [1.0]])}, {"w": (turn, None)})
        >>> q.sample()["w"].shape
        torch.Size([2, 1])
        >>> rows = q.scale("w", torch.eye(2)[:, None, :, None])[:, 0]
        >>> rows @ rows.T                                        # the covariance
        tensor([[2.0800, 1.4400],
                [1.4400, 2.9200]])
    """

    def __init__(
        self, mean: Mapping[str, Tensor], std: Mapping[str, Tensor], bases: Mapping[str, Bases] | None = None
    ) -> None:
        plain = DiagonalPosterior(mean, std)
        self.mean, self.std = plain.mean, plain.std
        found = {} if bases is None else {name: _bases_of(name, of) for name, of in _mapping(bases, "bases").items()}
        self.bases = {name: of for name, of in found.items() if any(basis is not None for basis in of)}
        for name, of in self.bases.items():
            if name not in self.mean:
                raise ValueError(f"bases has {name!r}, which mean has not; mean has {', '.join(map(repr, self.mean))}")
            _check_bases(name, self.mean[name], of)

    @property
    def num_parameters(self) -> int:
        """Number of weights, over all names."""
        return sum(tensor.numel() for tensor in self.mean.values())

    def sample(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw one set of weights, for ``torch.func.functional_call``; as :meth:`DiagonalPosterior.sample`."""
        zero = {name: torch.zeros_like(s, dtype=_wide(self.mean[name])) for name, s in self.std.items()}
        noise = DiagonalPosterior(zero, self.std).sample(generator)
        return {name: (m.to(_wide(m)) + self._back(name, noise[name])).to(m.dtype) for name, m in self.mean.items()}

    def _back(self, name: str, noise: Tensor) -> Tensor:
        return back(noise, self._bases(name, noise.dtype)) if name in self.bases else noise

    def _bases(self, name: str, dtype: torch.dtype) -> Bases:
        return [None if basis is None else basis.to(dtype) for basis in self.bases[name]]

    def scale(self, name: str, gradients: Tensor) -> Tensor:
        """Turn (R, B, ...) gradients with respect to a parameter into (R, B, Q) rows; see :meth:`Posterior.scale`."""
        if name in self.bases:
            gradients = project(gradients, self._bases(name, gradients.dtype), lead=2)
        return (gradients * self.std[name].to(gradients)).reshape(*gradients.shape[:2], -1)

    def independent_std(self, name: str) -> Tensor | None:
        """Return the standard deviations of a parameter without bases, and None for one that has some."""
        return None if name in self.bases else self.std.get(name)

    def rotation(self, name: str) -> tuple[Bases, Tensor] | None:
        """Return the bases of a parameter and the standard deviations in them, or None if it has no bases."""
        return (self.bases[name], self.std[name]) if name in self.bases else None

    def to(self, device: torch.device | str) -> KroneckerPosterior:
        """Return the posterior with its tensors on ``device``."""
        mean, std = ({name: t.to(device) for name, t in of.items()} for of in (self.mean, self.std))
        bases = {name: [None if b is None else b.to(device) for b in of] for name, of in self.bases.items()}
        return KroneckerPosterior(mean, std, bases)

    def __repr__(self) -> str:
        return f"KroneckerPosterior({len(self.mean)} names, {len(self.bases)} turned, {self.num_parameters} weights)"


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _check_bases(name: str, mean: Tensor, bases: Bases) -> None:
    """Raise a ValueError unless each basis is orthonormal and as large as its axis, or axes, of the parameter."""
    shape = tuple(mean.shape)
    sizes = (*shape[: len(bases) - 1], math.prod(shape[len(bases) - 1 :]))
    if not 1 <= len(bases) <= len(shape):
        raise ValueError(
            f"{name!r} has shape {shape} and {len(bases)} bases; pass one for each axis, or for {axes_of(shape)}"
        )
    for axis, (size, basis) in enumerate(zip(sizes, bases, strict=True)):
        if basis is None:
            continue
        if tuple(basis.shape) != (size, size) or basis.device != mean.device:
            raise ValueError(
                f"basis {axis} of {name!r} has shape {tuple(basis.shape)} on {basis.device}; its axis needs "
                f"({size}, {size}) on {mean.device}"
            )
        distance = distance_from_orthonormal(basis)
        if not distance < 1e-3:
            raise ValueError(
                f"basis {axis} of {name!r} is not orthonormal: its products differ from the identity by up to "
                f"{distance:.2g}; orthonormalize it, for example with torch.linalg.qr(basis).Q"
            )


def check_weights(name: str, mean: Tensor, std: Tensor | None = None) -> None:
    """Raise a ValueError unless means are finite, and standard deviations match them, are finite and not negative."""
    check_finite(mean, f"mean of {name!r}", "look at how the posterior was made")
    if std is None:
        return
    if mean.shape != std.shape:
        raise ValueError(
            f"{name!r} has a mean of shape {tuple(mean.shape)} and a std of shape {tuple(std.shape)}; both need the "
            "parameter's"
        )
    if mean.device != std.device:
        raise ValueError(f"{name!r} has its mean on {mean.device} and its std on {std.device}; move one")
    check_finite(std, f"std of {name!r}", "look at how the posterior was made")
    if bool((std < 0).any()):
        raise ValueError(
            f"std of {name!r} has entries below 0, such as {float(std.min()):g}; look at how the posterior was made"
        )


def _mapping(values: Any, which: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{which} is {kind_of(values)}; pass a dict of tensors by parameter name")
    return values


def _bases_of(name: str, bases: Any) -> tuple[Tensor | None, ...]:
    """Return the bases of a parameter, detached, after a check that each is a matrix of numbers or None."""
    if not isinstance(bases, Sequence):
        raise ValueError(f"bases of {name!r} is {kind_of(bases)}; pass a list, of a basis or None for each axis")
    return tuple(
        None if basis is None else _weights({name: basis}, f"basis {axis}")[name] for axis, basis in enumerate(bases)
    )


def _weights(values: Mapping[str, Tensor], which: str) -> dict[str, Tensor]:
    """Return tensors by name, detached, after a check that they hold real floating-point numbers."""
    for name, value in _mapping(values, which).items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{which} of {name!r} is of type {given}; pass tensors of real floating-point numbers")
    return {name: value.detach() for name, value in values.items()}
