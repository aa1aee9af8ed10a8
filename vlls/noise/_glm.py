r"""Label noise of a generalized linear model: the paper's approximations of it.

The exact noise (Eqs. 10, 13, 16, 26) is :meth:`vlls.glm.GLM.label_noise` for a model and
:meth:`vlls.families.Family.label_noise` for a Gaussian over the natural parameter. Chapter 2 compares them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlls.families import Family


def taylor_label_noise(family: Family, mean: Tensor, var: Tensor, e: Tensor) -> Tensor:
    r"""Return the one-sample Taylor noise of Eq. 14, :math:`A''(\mu) \, v^{1/2} e` (Chapter 2).

    Averaged over e it tends to zero, not to the exact noise: it tells how large the noise can be on an example,
    not its value. The paper drops the minus sign of the Taylor step, which the symmetry of e allows.

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
