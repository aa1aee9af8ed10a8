"""A GLM of each family, with random features that partly explain the targets."""

import math

import numpy as np
from scipy.special import expit

from vlls import GLM, Bernoulli, Binomial, Categorical, Gaussian, Poisson

FAMILIES = [Bernoulli(), Binomial(7), Categorical(3), Gaussian(), Poisson()]


def problem(family, n=500, p=20, **options):
    """Return a model with (n, p) features, whose rows have a length of about one."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, p)) / math.sqrt(p)
    f = features @ rng.normal(size=p)
    targets = {
        "Bernoulli": lambda: rng.binomial(1, expit(f)),
        "Binomial": lambda: rng.binomial(family.trials, expit(f)),
        "Categorical": lambda: rng.integers(0, family.num_outputs, n),
        "Gaussian": lambda: f + rng.normal(size=n),
        "Poisson": lambda: rng.poisson(np.exp(f)),
    }[type(family).__name__]()
    return GLM(family, features, targets, **options)
