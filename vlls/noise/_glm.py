r"""Label noise of a generalized linear model: the paper's approximations of it and a Monte-Carlo reference.

The exact noise (Eqs. 10, 13, 16, 26) is :meth:`vlls.glm.GLM.label_noise` for a model and
:meth:`vlls.families.Family.label_noise` for a Gaussian over the natural parameter. Chapter 2 compares them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlls._validation import check_whole_number
from vlls.families import Family
from vlls.glm import GLM
from vlls.posterior import GaussianPosterior


def taylor_label_noise(family: Family, mean: Tensor, var: Tensor, e: Tensor) -> Tensor:
    r"""Return the one-sample Taylor noise of Eq. 14, :math:`A''(\mu) \, v^{1/2} e` (Chapter 2).

    Averaged over e it tends to zero, not to the exact noise: it tells how large the noise can be on an example,
    not what it is. The paper drops the minus sign of the Taylor step, which the symmetry of e allows.

    Args:
        family: a family with a scalar natural parameter.
        mean: Gaussian means of f, (N,).
        var: its variances, (N,), not negative.
        e: standard normal numbers, broadcastable to (N,).

    Example:
        >>> from vlls import Bernoulli
        >>> taylor_label_noise(Bernoulli(), torch.zeros(1), torch.ones(1), torch.tensor(2.0))
        tensor([0.5000])
    """
    return family.curvature(mean) * var.sqrt() * e


def second_order_label_noise(family: Family, mean: Tensor, var: Tensor) -> Tensor:
    r"""Return :math:`-\tfrac12 A'''(\mu) \, v`, the leading term of the exact noise as the variance shrinks.

    The first-order term of the Taylor series averages to zero, so this is the first one that survives (Chapter 2).

    Args:
        family: a family with a scalar natural parameter.
        mean: Gaussian means of f, (N,).
        var: its variances, (N,), not negative.

    Example:
        >>> from vlls import Poisson
        >>> second_order_label_noise(Poisson(), torch.zeros(1), torch.tensor([0.1]))
        tensor([-0.0500])
    """
    third = torch.func.grad(lambda t: family.curvature(t).sum())(mean)
    return -0.5 * third * var


def monte_carlo_label_noise(
    glm: GLM, q: GaussianPosterior, num_samples: int = 1000, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return the label noise by drawing parameters, and its standard error: the reference for the exact noise.

    Args:
        glm: the model.
        q: posterior over its parameters.
        num_samples: draws of the parameters, at least 2.
        generator: torch random generator.

    Returns:
        Noise and standard error, each in the shape of the targets.

    Raises:
        ValueError: for fewer than 2 samples.

    Example:
        >>> from vlls import Bernoulli
        >>> glm = GLM(Bernoulli(), torch.ones(1, 1), torch.ones(1))
        >>> q = GaussianPosterior([1.0], 1.0)
        >>> noise, error = monte_carlo_label_noise(glm, q, 4000, generator=torch.Generator().manual_seed(0))
        >>> bool((noise - glm.label_noise(q)).abs() < 4 * error)
        True
    """
    check_whole_number(num_samples, "num_samples", 2)  # a standard error needs two
    mean, square = torch.zeros_like(glm.targets), torch.zeros_like(glm.targets)
    for count, theta in enumerate(q.sample(num_samples, generator=generator), 1):
        value = glm.family.mean(glm.features @ theta)
        delta = value - mean
        mean = mean + delta / count
        square = square + delta * (value - mean)
    error = (square / (num_samples - 1)).sqrt() / math.sqrt(num_samples)
    return glm.family.mean(glm.features @ q.mean) - mean, error
