"""Families with a vector of natural parameters, integrated by quasi-Monte Carlo: Categorical and your own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vlls._quadrature import sobol_normal
from vlls._validation import as_float64, check_finite, check_whole_number, quote
from vlls.families._base import Family
from vlls.families._softmax import softmax_moments


class VectorFamily(Family):
    r"""A family with a vector of natural parameters per example, integrated by quasi-Monte Carlo.

    ``log_partition`` maps (..., K) to (...); derivatives default to automatic differentiation. Expectations under
    :math:`f \sim \mathcal N(\mu, V)` use scrambled Sobol points with antithetic pairs and exact first and second
    moments; the spread over independent scramblings gives their standard error. They are deterministic.

    Args:
        num_outputs: number K of natural parameters.
        num_points: points of one replicate, an even number.
        replicates: independent scramblings, at least 2.
        seed: of the first scrambling.
    """

    def __init__(self, num_outputs: int, *, num_points: int = 128, replicates: int = 8, seed: int = 0) -> None:
        for name, value in (("num_points", num_points), ("replicates", replicates)):
            if value < 2 or value % 2:
                raise ValueError(f"{name}={value!r}; pass an even number from 2")
        self._num_outputs = int(num_outputs)
        self.num_points, self.replicates, self.seed = num_points, replicates, seed

    @property
    def num_outputs(self) -> int:
        """Number K of natural parameters of one example."""
        return self._num_outputs

    def curvature(self, f: Tensor) -> Tensor:
        """Return the (..., K, K) Hessian of A at ``f`` (..., K)."""
        flat = f.reshape(-1, f.shape[-1])
        return torch.func.vmap(torch.func.hessian(self.log_partition))(flat).reshape(*f.shape, f.shape[-1])

    def expected_log_partition(self, mean: Tensor, var: Tensor) -> Tensor:
        """Return E[A(f)] (N,); arguments as in :meth:`expected_mean`."""
        return self._integrate(mean, var, lambda f: [self.log_partition(f).mean(2).T])[0].mean(0)

    def expected_mean(self, mean: Tensor, var: Tensor) -> Tensor:
        """Return E[A'(f)] (N, K) for f ~ N(mean, var).

        Args:
            mean: (N, K) or (K,) means.
            var: covariances (N, K, K), or variances (N, K) of independent outputs.

        Raises:
            ValueError: for shapes that do not fit or a covariance with a negative eigenvalue.
        """
        return self.expected_mean_with_error(mean, var)[0]

    def expected_mean_with_error(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[A'(f)] and its standard error over the replicates, both (N, K).

        Example:
            >>> zero, cov = torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[None]
            >>> value, error = Categorical(3).expected_mean_with_error(zero, cov)
            >>> bool(((value - 1 / 3).abs() <= 5 * error).all())
            True
        """
        (values,) = self._integrate(mean, var, lambda f: [self.mean(f).mean(2).transpose(0, 1)])
        return values.mean(0), values.std(0) / math.sqrt(self.replicates)

    def expected_curvature(self, mean: Tensor, var: Tensor) -> Tensor:
        """Return E[A''(f)] (N, K, K); arguments as in :meth:`expected_mean`."""
        return self.expected_derivatives(mean, var)[1]

    def expected_derivatives(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[A'(f)] (N, K) and E[A''(f)] (N, K, K) from the same points."""

        def moments(f: Tensor) -> list[Tensor]:
            return [value.mean(2).transpose(0, 1) for value in (self.mean(f), self.curvature(f))]

        first, second = self._integrate(mean, var, moments)
        return first.mean(0), second.mean(0)

    def _conditions(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, k = y.shape
        weights = torch.eye(k, dtype=y.dtype, device=y.device).repeat(n, 1)  # the range of the means is unknown
        rows = torch.arange(n, device=y.device).repeat_interleave(k)
        return rows, weights, torch.zeros(n * k, dtype=torch.bool, device=y.device)

    def _integrate(self, mean: Tensor, var: Tensor, moments: Callable[[Tensor], Sequence[Tensor]]) -> list[Tensor]:
        """Return moments (R, N, ...) by replicate; ``moments`` averages over the points (B, R, S, K) -> (R, B, ...)."""
        mean, root, points, shape = self._prepared(mean, var)
        rows = max(1, (1 << 21) // points.numel())
        blocks = zip(mean.split(rows), root.split(rows), strict=True)
        parts = [moments(m[:, None, None] + points @ b[:, None]) for m, b in blocks]
        averages = [torch.cat(part, 1) for part in zip(*parts, strict=True)]
        return [average.reshape(len(points), *shape, *average.shape[2:]) for average in averages]

    def _prepared(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
        """Check both; return means (N, K), roots (N, K, K), points (R, S, K) and the shape of the examples' axes."""
        k = self.num_outputs
        mean, var = torch.as_tensor(mean), torch.as_tensor(var)
        shape = mean.shape[:-1]
        if mean.ndim == 0 or mean.shape[-1] != k or tuple(var.shape) not in {(*mean.shape,), (*mean.shape, k)}:
            raise ValueError(
                f"mean {tuple(mean.shape)} and var {tuple(var.shape)} do not fit {self!r}; "
                f"pass (N, {k}) and (N, {k}, {k}), or (N, {k}) twice for independent outputs"
            )
        check_finite(var, "var")
        mean = mean.reshape(-1, k)
        root = self._root(var.reshape(-1, *var.shape[len(shape) :]))
        return mean, root, sobol_normal(k, self.num_points, self.replicates, self.seed).to(mean), shape

    def _root(self, var: Tensor) -> Tensor:
        """Return the symmetric square root of V: a continuous function of V, so that iterations over it converge."""
        if var.ndim == 2:
            lowest = float(var.min()) if var.numel() else 0.0
            root = torch.diag_embed(var.clamp_min(0).sqrt())
        else:
            eigenvalues, vectors = torch.linalg.eigh(var)
            scale = eigenvalues.abs().amax(-1, keepdim=True)
            relative = eigenvalues / scale.clamp_min(torch.finfo(var.dtype).tiny)
            lowest = float(relative.min()) if var.numel() else 0.0
            root = (vectors * eigenvalues.clamp_min(0).sqrt()[:, None]) @ vectors.mT
        if lowest < -math.sqrt(torch.finfo(var.dtype).eps):
            raise ValueError(f"var has a negative eigenvalue (relative {lowest:g}); pass a covariance matrix")
        return root


class Categorical(VectorFamily):
    r"""K classes, the softmax cross-entropy: :math:`A(\mathbf f) = \log \sum_k e^{f_k}` (Eq. 4 is its gradient).

    Targets are integer classes (N,), or (N, K) rows of probabilities that sum to 1.

    Args:
        num_classes: number K of classes, at least 2.
        **quasi_monte_carlo: ``num_points``, ``replicates`` and ``seed`` of :class:`VectorFamily`.

    Raises:
        ValueError: if ``num_classes`` is not a whole number from 2.

    Example:
        >>> Categorical(3).mean(torch.zeros(1, 3))
        tensor([[0.3333, 0.3333, 0.3333]])
    """

    def __init__(self, num_classes: int, **quasi_monte_carlo: int) -> None:
        check_whole_number(num_classes, "num_classes", 2)
        super().__init__(num_classes, **quasi_monte_carlo)
        self.support = f"whole classes 0 to {num_classes - 1}"  # type: ignore[misc]

    def log_partition(self, f: Tensor) -> Tensor:
        """Return log sum_k e^{f_k}: (..., K) -> (...)."""
        return torch.logsumexp(f, -1)

    def mean(self, f: Tensor) -> Tensor:
        """Return softmax(f): (..., K) -> (..., K)."""
        return torch.softmax(f, -1)

    def curvature(self, f: Tensor) -> Tensor:
        """Return diag(p) - p pᵀ with p = softmax(f): (..., K) -> (..., K, K)."""
        p = self.mean(f)
        return torch.diag_embed(p) - p[..., :, None] * p[..., None, :]

    def nll(self, f: Tensor, y: Tensor) -> Tensor:
        """Return -yᵀ f + A(f): (..., K) logits and (..., K) labels -> (...)."""
        return -(y * torch.log_softmax(f, -1)).sum(-1) + (1 - y.sum(-1)) * self.log_partition(f)

    def expected_mean_with_error(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        mean, root, points, shape = self._prepared(mean, var)
        by_replicate = softmax_moments(mean, root, points, root[..., :0]).by_replicate
        value, error = self.mean(mean) + by_replicate.mean(1), by_replicate.std(1) / math.sqrt(self.replicates)
        return value.reshape(*shape, -1), error.reshape(*shape, -1)

    def expected_derivatives(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        mean, root, points, shape = self._prepared(mean, var)
        by_replicate, _, covariance = softmax_moments(mean, root, points)
        first = self.mean(mean) + by_replicate.mean(1)
        second = torch.diag_embed(first) - first[:, :, None] * first[:, None] - covariance
        return first.reshape(*shape, -1), second.reshape(*shape, *second.shape[1:])

    def check_targets(self, targets: Tensor, num_examples: int) -> Tensor:
        """Return one-hot or soft labels (N, K) in float64; see :meth:`Family.check_targets`."""
        k = self.num_outputs
        y = as_float64(targets, "targets")
        if tuple(y.shape) == (num_examples, k):
            check_finite(y, "targets")
            if bool((y < 0).any()):
                raise ValueError(f"targets hold {quote(y[y < 0])}; soft labels are probabilities, so at least 0")
            off = (y.sum(1) - 1).abs() > 1e-6
            if bool(off.any()):
                raise ValueError(
                    f"rows of targets sum to {quote(y.sum(1)[off])}; soft labels must sum to 1, so divide by the sum"
                )
            return y
        if tuple(y.shape) != (num_examples,):
            raise ValueError(
                f"targets have shape {tuple(y.shape)}; {num_examples} rows of features and {k} classes need "
                f"({num_examples},) classes or ({num_examples}, {k}) probabilities"
            )
        y = super().check_targets(y, num_examples)
        return torch.nn.functional.one_hot(y.long(), k).to(torch.float64)

    def _conditions(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the conditions: the logits of the label's classes stay equal, and no other's grows beyond them."""
        label = y.argmax(1)
        rows, other = (label[:, None] != torch.arange(y.shape[1], device=y.device)).nonzero(as_tuple=True)
        unit = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
        return rows, unit[label[rows]] - unit[other], y[rows, other] == 0

    def _in_support(self, y: Tensor) -> Tensor:
        return (y >= 0) & (y < self.num_outputs) & (y == y.round())

    def __repr__(self) -> str:
        return f"Categorical({self.num_outputs})"
