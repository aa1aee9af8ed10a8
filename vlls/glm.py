r"""Generalized linear models and the four updates that Theorems 1 and 2 compare.

A model is :math:`\bar\ell(\theta) = \sum_i [-y_i f_i + A(f_i)] + \mathcal R_0(\theta)` with
:math:`f_i = \phi_i^\top \theta` (Eqs. 6 and 15). The theorems are one line each:

>>> from vlls import Bernoulli, GaussianPosterior
>>> _ = torch.manual_seed(0)
>>> features = torch.randn(50, 3, dtype=torch.float64)
>>> glm = GLM(Bernoulli(), features, (features.sum(1) > 0).long())
>>> q = GaussianPosterior(torch.zeros(3), 1.0)
>>> noise = glm.label_noise(q)
>>> torch.allclose(variational_gd_step(glm, q, 0.1).mean, gd_step(glm, q.mean, 0.1, label_noise=noise))  # Theorem 1
True
>>> hessian = glm.expected_hessian(q)
>>> torch.allclose(von_step(glm, q).mean, newton_step(glm, q.mean, label_noise=noise, hessian=hessian))  # Theorem 2
True
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vlls._names import kind_of
from vlls._regularizers import CallableRegularizer, Ridge
from vlls._separation import falling_direction
from vlls._validation import as_float64, check_finite, check_rate, check_symmetric, check_whole_number, is_number
from vlls.families import Family
from vlls.posterior import GaussianPosterior

__all__ = ["GLM", "Trajectory", "fit", "gd_step", "newton_step", "variational_gd_step", "von_step"]

_CHUNK = 1 << 19  # elements of one block of features: 4 MB, which stays in cache


# --------------------------------------------------------------------------------------- the model
class GLM:
    r"""A generalized linear model: a family, features, targets and a regularizer (Eqs. 6 and 15).

    Everything is float64 on the device of ``features``, and is accumulated over blocks of rows: besides the
    features themselves, memory grows only with N, not with N P.

    Args:
        family: an exponential family of :mod:`vlls.families`, or one's own.
        features: (N, P) matrix, one feature vector a row.
        targets: (N,) labels, or (N, K) probabilities of a vector family.
        regularizer: :class:`.Ridge` (½‖θ‖² unless given), or any convex function of the parameters written in torch,
            (P,) or (P, K) to a scalar.

    Raises:
        ValueError: for NaN or infinite features, shapes that do not fit, targets outside the family's support.

    Example:
        >>> from vlls import Poisson
        >>> glm = GLM(Poisson(), torch.ones(4, 1), torch.tensor([1, 2, 3, 2]), regularizer=Ridge(0.0))
        >>> round(float(fit(glm, newton_step).final), 6)      # the log of the mean count
        0.693147
    """

    def __init__(
        self, family: Family, features: Any, targets: Any, regularizer: Ridge | Callable[[Tensor], Tensor] | None = None
    ) -> None:
        if not isinstance(family, Family):
            made = family.__name__ if isinstance(family, type) and issubclass(family, Family) else "Bernoulli"
            raise ValueError(f"family={family!r} is no family; pass an instance, such as {made}()")
        self.family = family
        self.features = as_float64(features, "features")
        if self.features.ndim != 2 or 0 in self.features.shape:
            raise ValueError(f"features have shape {tuple(self.features.shape)}; pass a matrix (N, P) with N, P >= 1")
        check_finite(self.features, "features")
        self.targets = family.check_targets(targets, len(self.features)).to(self.features.device)
        regularizer = Ridge() if regularizer is None else regularizer
        if not callable(regularizer):
            raise ValueError(f"regularizer={regularizer!r}; pass Ridge(precision) or a function of the parameters")
        self.regularizer: Any = regularizer if isinstance(regularizer, Ridge) else CallableRegularizer(regularizer)
        probe = self.regularizer(torch.zeros(self.parameter_shape, dtype=torch.float64, device=self.features.device))
        if not isinstance(probe, Tensor) or probe.ndim != 0:
            raise ValueError(f"regularizer returned {probe!r}; it must return a scalar tensor")

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Shape of the parameters, (P,) or (P, K) for a vector family."""
        k = self.family.num_outputs
        return (self.features.shape[1],) if k is None else (self.features.shape[1], k)

    def _blocks(self) -> Iterator[slice]:
        n, p = self.features.shape
        rows = max(64, _CHUNK // (p * (self.family.num_outputs or 1) ** 2))
        for start in range(0, n, rows):
            yield slice(start, min(n, start + rows))

    def _parameters(self, theta: Any) -> Tensor:
        theta = as_float64(theta, "theta").to(self.features.device)
        if tuple(theta.shape) != self.parameter_shape:
            raise ValueError(f"theta has shape {tuple(theta.shape)}; this model needs {self.parameter_shape}")
        return theta

    def _posterior(self, q: GaussianPosterior) -> GaussianPosterior:
        if not isinstance(q, GaussianPosterior):
            raise ValueError(f"the posterior is {kind_of(q)}; pass GaussianPosterior(mean, covariance)")
        if isinstance(q.mean, dict):
            raise ValueError("the posterior's mean is a dict, of a network; pass a tensor of the model's parameters")
        if tuple(q.mean.shape) != self.parameter_shape:
            raise ValueError(f"the posterior's mean has shape {tuple(q.mean.shape)}; needs {self.parameter_shape}")
        return q

    def _noisy_targets(self, label_noise: Tensor | None) -> Tensor:
        if label_noise is None:
            return self.targets
        label_noise = as_float64(label_noise, "label_noise").to(self.targets.device)
        if label_noise.shape != self.targets.shape:
            raise ValueError(
                f"label_noise has shape {tuple(label_noise.shape)}; the targets have {tuple(self.targets.shape)}"
            )
        return self.targets + label_noise

    # ------------------------------------------------------------------ at one parameter
    def loss(self, theta: Tensor) -> Tensor:
        """Return the regularized loss of Eq. 6 at ``theta``, a scalar."""
        theta = self._parameters(theta)
        return self.family.nll(self.features @ theta, self.targets).sum() + self.regularizer(theta)

    def gradient(self, theta: Tensor, label_noise: Tensor | None = None) -> Tensor:
        r"""Return :math:`\sum_i \phi_i [A'(f_i) - (y_i + \epsilon_i)] + \nabla \mathcal R_0`, as in Eq. 9.

        Args:
            theta: parameters, (P,) or (P, K).
            label_noise: :math:`\epsilon`, in the shape of the targets, added to them; none unless given.

        Raises:
            ValueError: for shapes that do not fit.
        """
        theta, targets = self._parameters(theta), self._noisy_targets(label_noise)
        residual = self.family.mean(self.features @ theta) - targets
        return self.features.T @ residual + self.regularizer.gradient(theta)

    def hessian(self, theta: Tensor) -> Tensor:
        """Return the (D, D) Hessian of :meth:`loss` at ``theta``."""
        return self._gradient_and_hessian(self._parameters(theta), None)[1]

    def _gradient_and_hessian(self, theta: Tensor, label_noise: Tensor | None) -> tuple[Tensor, Tensor]:
        def derivatives(rows: slice) -> tuple[Tensor, Tensor]:
            f = self.features[rows] @ theta
            return self.family.mean(f), self.family.curvature(f)

        gradient, hessian = self._accumulate(derivatives, self._noisy_targets(label_noise))
        return gradient + self.regularizer.gradient(theta), hessian + self.regularizer.hessian(theta)

    def _accumulate(
        self, derivatives: Callable[[slice], tuple[Tensor, Tensor]], targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum φ(A' - y) and the blocks A'' ⊗ φφᵀ over the rows, from A' and A'' of each block of rows."""
        p, k = self.features.shape[1], self.family.num_outputs
        gradient = self.features.new_zeros(self.parameter_shape)
        hessian = self.features.new_zeros((p, p) if k is None else (p * k * k, p))
        for rows in self._blocks():
            x = self.features[rows]
            mean, curvature = derivatives(rows)
            gradient += x.T @ (mean - targets[rows])
            weighted = x * curvature[:, None] if k is None else torch.einsum("np,nkl->nplk", x, curvature).flatten(1)
            hessian.addmm_(weighted.T, x)
        if k is not None:  # rows are (p, l, k), columns p': the parameters are ordered (p, k)
            hessian = hessian.reshape(p, k, k, p).permute(0, 2, 3, 1).reshape(p * k, p * k)
        return gradient, 0.5 * (hessian + hessian.T)

    def _falls_forever(self, theta: Tensor) -> bool:
        """Tell whether the loss has no minimum; ``theta`` is the best candidate for one."""
        ridge = self.regularizer if isinstance(self.regularizer, Ridge) else None
        free = torch.ones_like(theta, dtype=torch.bool) if ridge is None else ridge._at(theta) == 0
        if not bool(free.any()):
            return False
        rows, weights, strict = self.family._conditions(self.targets)
        if not bool(strict.any()) or self._is_stationary(theta, rows, weights, strict):
            return False
        found = falling_direction(self.features, rows, weights, strict, free.view(len(free), -1))
        if found is None or ridge is not None:
            return found is not None
        found = (found / found.norm()).view_as(theta)
        return float((self.regularizer.gradient(1e8 * found) * found).sum()) <= 1e-9  # the penalty stops growing too

    def _is_stationary(self, theta: Tensor, rows: Tensor, weights: Tensor, strict: Tensor) -> bool:
        """Tell whether Newton's step is short and not lost in rounding, so that there is a minimum nearby.

        If there is none, the step changes a natural parameter by 1 or more: A'' is at most the distance of A' from
        its end.
        """
        gradient, hessian = self._gradient_and_hessian(theta, None)
        factor, info = torch.linalg.cholesky_ex(hessian)
        if int(info) > 0 or not bool(torch.isfinite(factor).all()):
            return False
        step = torch.cholesky_solve(gradient.reshape(-1, 1), factor).view(self.features.shape[1], -1)
        f = (self.features @ theta).view(len(self.features), -1)
        away = (self.family.mean(f.view_as(self.targets)) - self.targets).view_as(f)
        least = ((away[rows] * weights).abs().amax(1) if weights.shape[1] == 1 else away.abs()).min()
        change = ((self.features @ step)[rows] * weights).sum(1).abs().max()
        return float(least) > 1e-8 and float(change) < 0.25

    # ------------------------------------------------------------------ under a posterior
    def label_noise(self, q: GaussianPosterior) -> Tensor:
        r"""Return :math:`\epsilon_i = A'(f_i(\mathbf m)) - \mathbb E_q[A'(f_i)]` of every example (Eqs. 10, 16, 26).

        It is the noise of Theorems 1 and 2 (Chapters 2 to 4).

        Args:
            q: posterior over the parameters.

        Returns:
            Noise in the shape of the targets, to be **added** to them.
        """
        q = self._posterior(q)
        out = torch.empty_like(self.targets)
        for rows in self._blocks():
            out[rows] = self.family.label_noise(*q.marginal(self.features[rows]))
        return out

    def expected_gradient(self, q: GaussianPosterior) -> Tensor:
        """Return E_q of the gradient of :meth:`loss`, in the shape of the parameters (Eq. 11, Chapter 2)."""
        q = self._posterior(q)
        gradient = self.regularizer.expected_gradient(q)
        for rows in self._blocks():
            x = self.features[rows]
            gradient = gradient + x.T @ (self.family.expected_mean(*q.marginal(x)) - self.targets[rows])
        return gradient

    def expected_hessian(self, q: GaussianPosterior) -> Tensor:
        """Return E_q of the Hessian of :meth:`loss`, (D, D) (Eq. 18, Chapter 4)."""
        return self._expected_gradient_and_hessian(q)[1]

    def _expected_gradient_and_hessian(self, q: GaussianPosterior) -> tuple[Tensor, Tensor]:
        q = self._posterior(q)

        def derivatives(rows: slice) -> tuple[Tensor, Tensor]:
            return self.family.expected_derivatives(*q.marginal(self.features[rows]))

        gradient, hessian = self._accumulate(derivatives, self.targets)
        return gradient + self.regularizer.expected_gradient(q), hessian + self.regularizer.expected_hessian(q)

    def elbo(self, q: GaussianPosterior) -> Tensor:
        r"""Return the evidence lower bound :math:`-\mathcal L(q)`, the negative of Eq. 7, in nats.

        The prior is :math:`p \propto \exp(-\mathcal R_0)`, normalised for :class:`.Ridge`; for another regularizer
        its constant, which does not depend on ``q``, is left out, as is the base measure of the targets.
        """
        q = self._posterior(q)
        total = q.entropy() - self.regularizer.expected(q) - self.regularizer.log_normalizer(q.mean)
        for rows in self._blocks():
            mean, var = q.marginal(self.features[rows])
            total = total + (self.targets[rows] * mean).sum() - self.family.expected_log_partition(mean, var).sum()
        return total


# --------------------------------------------------------------------------------------- the four updates
def gd_step(glm: GLM, theta: Tensor, lr: float, label_noise: Tensor | None = None) -> Tensor:
    r"""Return one step of gradient descent, Eq. 9, on labels :math:`y + \epsilon` (Chapter 2).

    Args:
        glm: the model.
        theta: parameters, (P,) or (P, K).
        lr: step size :math:`\rho_t`, positive.
        label_noise: :math:`\epsilon`, in the shape of the targets; none unless given.

    Raises:
        ValueError: for a step size that is not positive, or shapes that do not fit.
    """
    _check_lr(lr)
    theta = glm._parameters(theta)
    return theta - lr * glm.gradient(theta, label_noise)


def variational_gd_step(glm: GLM, q: GaussianPosterior, lr: float) -> GaussianPosterior:
    r"""Return one step of gradient descent on :math:`\mathcal L(q)` over the mean, the covariance kept.

    Theorem 1 (Chapter 2): the new mean is :func:`gd_step`'s from the old one on labels with :meth:`GLM.label_noise`.

    Args:
        glm: the model.
        q: current posterior; Theorem 1 has covariance I, and holds for any that is kept fixed.
        lr: step size :math:`\rho_t`, positive.

    Raises:
        ValueError: for a step size that is not positive, or shapes that do not fit.
    """
    _check_lr(lr)
    q = glm._posterior(q)
    return q._moved(q.mean - lr * glm.expected_gradient(q), {})


def newton_step(
    glm: GLM, theta: Tensor, lr: float = 1.0, label_noise: Tensor | None = None, hessian: Tensor | None = None
) -> Tensor:
    r"""Return one step of Newton's method, Eq. 17, on labels :math:`y + \epsilon` (Chapter 4).

    Args:
        glm: the model.
        theta: parameters, (P,) or (P, K).
        lr: step size :math:`\rho_t`; 1 is Newton's method, smaller is damped.
        label_noise: :math:`\epsilon`, in the shape of the targets; none unless given.
        hessian: (D, D) matrix to use for the Hessian at ``theta`` (Theorem 2 uses its average).

    Raises:
        ValueError: for shapes that do not fit, a step size that is not positive, or a singular Hessian.
    """
    _check_lr(lr)
    theta = glm._parameters(theta)
    if hessian is None:
        gradient, hessian = glm._gradient_and_hessian(theta, label_noise)
    else:
        hessian = as_float64(hessian, "hessian").to(theta.device)
        check_symmetric(hessian, "hessian", theta.numel())
        gradient = glm.gradient(theta, label_noise)
    factor = _factorize(hessian)
    return theta - lr * torch.cholesky_solve(gradient.reshape(-1, 1), factor).reshape(theta.shape)


def von_step(glm: GLM, q: GaussianPosterior, lr: float = 1.0) -> GaussianPosterior:
    r"""Return one step of Variational Online Newton, Eq. 18 (Theorem 2 at ``lr=1``, Chapter 4).

    .. math::
        \Sigma_{t+1}^{-1} = (1 - \rho_t) \Sigma_t^{-1} + \rho_t \mathbb E_{q_t}[\nabla^2 \bar\ell], \qquad
        \theta_{t+1} = \theta_t - \rho_t \Sigma_{t+1} \mathbb E_{q_t}[\nabla \bar\ell]

    The theorem: the new mean is :func:`newton_step`'s from the old one on labels with :meth:`GLM.label_noise` and with
    :meth:`GLM.expected_hessian`.

    Args:
        glm: the model.
        q: current posterior.
        lr: step size :math:`\rho_t` in (0, 1].

    Raises:
        ValueError: for a step size outside (0, 1], shapes that do not fit, or a singular precision.
    """
    check_rate(lr, "lr", include_zero=False)
    gradient, precision = glm._expected_gradient_and_hessian(q)
    if lr < 1.0:
        precision = (1 - lr) * q.precision + lr * precision
    factor = _factorize(precision)
    step = torch.cholesky_solve(gradient.reshape(-1, 1), factor).reshape(q.mean.shape)
    return GaussianPosterior(q.mean - lr * step, precision=precision)


def _check_lr(lr: float) -> None:
    if not is_number(lr) or not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"lr={lr!r}; a step size must be a positive number")


def _factorize(hessian: Tensor) -> Tensor:
    if not bool(torch.isfinite(hessian).all()):
        raise ValueError("the Hessian is not finite: the iteration has diverged; use a smaller lr or a better start")
    factor, info = torch.linalg.cholesky_ex(hessian)
    pivots = factor.diagonal() / hessian.diagonal().clamp_min(torch.finfo(hessian.dtype).tiny).sqrt()
    if int(info) > 0 or float(pivots.min()) < 1e-7:  # a pivot lost to rounding: squared, 1e-14 of its entry
        raise ValueError(
            "the Hessian is singular (collinear features, separated labels, or a direction that the data leave free); "
            "add a regularizer, for instance GLM(..., regularizer=Ridge(1e-3))"
        )
    return factor


# --------------------------------------------------------------------------------------- iteration
@dataclass(frozen=True)
class Trajectory:
    """The states that :func:`fit` passed through.

    Attributes:
        glm: the model.
        states: parameters or posteriors, the start first.
        converged: whether the tolerance was reached and the loss has a minimum.
    """

    glm: GLM = field(repr=False)
    states: list[Any] = field(repr=False)
    converged: bool

    @cached_property
    def objective(self) -> Tensor:
        """Loss of every state (Eq. 6), or L(q) of every posterior (Eq. 7), in nats, (len(states),) float64."""
        posterior = isinstance(self.states[0], GaussianPosterior)
        return torch.stack([-self.glm.elbo(s) if posterior else self.glm.loss(s) for s in self.states])

    @property
    def final(self) -> Any:
        """The last state."""
        return self.states[-1]

    def __len__(self) -> int:
        """Return the number of steps taken."""
        return len(self.states) - 1


def fit(
    glm: GLM,
    step: Callable[..., Any],
    init: Any = None,
    *,
    tol: float = 1e-10,
    max_iter: int = 100,
    callback: Callable[[int, Any], None] | None = None,
    **options: Any,
) -> Trajectory:
    """Iterate a step to a tolerance and return every state.

    If labels are separated and some parameters have no penalty, the loss has no minimum and the steps shrink without
    converging. Then a warning says so, and ``converged`` is False.

    Args:
        glm: the model.
        step: :func:`gd_step`, :func:`newton_step`, :func:`variational_gd_step`, :func:`von_step`, or any function
            ``step(glm, state, **options)`` that returns the next state.
        init: first state; zeros, or N(0, I) for the variational steps, unless given.
        tol: stop when no parameter, and no entry of a posterior's precision relative to its largest, moves by more.
        max_iter: largest number of steps; a warning says when they did not suffice.
        callback: called as ``callback(iteration, state)`` after each step, for a progress bar.
        **options: passed to ``step``, such as ``lr=0.5``.

    Raises:
        ValueError: from the step, or when the iteration leaves the finite numbers.

    Example:
        >>> from vlls import Bernoulli
        >>> glm = GLM(Bernoulli(), torch.eye(2), torch.tensor([0, 1]))
        >>> fit(glm, von_step).converged
        True
    """
    check_whole_number(max_iter, "max_iter", 1)
    if not is_number(tol) or not tol > 0:
        raise ValueError(f"tol={tol!r} is not allowed; choose a number > 0, such as 1e-10")
    if init is None:
        init = torch.zeros(glm.parameter_shape, dtype=torch.float64, device=glm.features.device)
        if step in (variational_gd_step, von_step):
            init = GaussianPosterior(init, 1.0)
    states, converged = [init], False
    ours = getattr(step, "func", step) in _STEPS and options.get("label_noise") is None

    def falls_forever() -> bool:
        return ours and glm._falls_forever(states[-1] if isinstance(states[-1], Tensor) else states[-1].mean)

    for iteration in range(1, max_iter + 1):
        try:
            states.append(step(glm, states[-1], **options))
        except ValueError:  # far out the Hessian is singular in float64
            if iteration > 1 and falls_forever():
                break
            raise
        change = _change(states[-2], states[-1])
        if not math.isfinite(change):
            raise ValueError(f"iteration {iteration} left the finite numbers: use a smaller lr, or scale the features")
        if callback is not None:
            callback(iteration, states[-1])
        converged = change <= tol
        if converged:
            break
    if falls_forever():
        converged = False
        warnings.warn(
            "the loss has no minimum: in some direction it falls forever, because the labels are separated (classes "
            "that the features tell apart without an error, all successes or none, counts that are all zero); the "
            "parameters grow as long as fit goes on. Add a regularizer, for instance GLM(..., regularizer=Ridge(1e-3))",
            stacklevel=2,
        )
    elif not converged:
        warnings.warn(
            f"fit stopped after max_iter={max_iter} steps with a change of {change:.1e} > tol={tol:.1e}; "
            "raise max_iter, or use a smaller lr if the objective oscillates",
            stacklevel=2,
        )
    return Trajectory(glm, states, converged)


_STEPS = (gd_step, newton_step, variational_gd_step, von_step)


def _change(old: Any, new: Any) -> float:
    if not isinstance(new, GaussianPosterior):
        return float((new - old).abs().max())
    change = float((new.mean - old.mean).abs().max())
    if new._cholesky is not old._cholesky:
        before, after = old.precision, new.precision
        change = max(change, float((after - before).abs().max() / after.abs().max()))
    return change
