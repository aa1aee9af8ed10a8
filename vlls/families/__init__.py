r"""Exponential families: the log-partition function A(f), its derivatives and their Gaussian expectations.

A family fixes the loss of Eq. 15, :math:`\ell(f) = -y f + A(f)`. The paper needs
:math:`A`, :math:`A'` (:meth:`Family.mean`), :math:`A''` (:meth:`Family.curvature`) and their expectations under a
Gaussian :math:`f \sim \mathcal N(\mu, v)`. Chapters 2 and 3 of the book derive the formulas that are used here.

>>> import torch
>>> family = Bernoulli()
>>> family.label_noise(torch.tensor([-1.5, 0.0, 1.5]), torch.tensor([1.0, 1.0, 1.0]))
tensor([-0.0390,  0.0000,  0.0390])
"""

from vlls.families._base import Family
from vlls.families._scalar import Bernoulli, Binomial, Gaussian, Poisson
from vlls.families._vector import Categorical, VectorFamily

__all__ = ["Bernoulli", "Binomial", "Categorical", "Family", "Gaussian", "Poisson", "VectorFamily"]
