"""Both sides of Theorem 1, in numpy and by the package."""

import math

import numpy as np
import pytest
import torch
from scipy import special

from vlls import (
    GLM,
    Bernoulli,
    Binomial,
    Categorical,
    Family,
    Gaussian,
    GaussianPosterior,
    Poisson,
    gd_step,
)

N, P, STEPS, LR = 500, 20, 100, 0.02


class TruncatedPoisson(Family):
    """Counts from 1: the family that Chapter 3 adds by writing A alone."""

    def log_partition(self, f):
        rate = torch.exp(f)
        return rate + torch.log(-torch.expm1(-rate))


FAMILIES = {
    "bernoulli": Bernoulli(),
    "binomial": Binomial(7),
    "gaussian": Gaussian(),
    "poisson": Poisson(),
    "categorical": Categorical(4, num_points=8, replicates=2),
    "truncated poisson": TruncatedPoisson(),
}
SCALAR = [name for name in FAMILIES if name != "categorical"]
every_family = pytest.mark.parametrize("name", FAMILIES)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def problem(name, n=N, p=P, regularizer=None):
    """Return a model of the family with targets that the features partly explain; f's variances are about one half."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, p)) / math.sqrt(2 * p)
    f = features @ rng.normal(size=p)
    targets = {
        "bernoulli": lambda: rng.random(n) < special.expit(f),
        "binomial": lambda: rng.binomial(7, special.expit(f)),
        "gaussian": lambda: f + rng.normal(size=n),
        "poisson": lambda: rng.poisson(np.exp(f)),
        "categorical": lambda: (f[:, None] + rng.gumbel(size=(n, 4))).argmax(1),
        "truncated poisson": lambda: 1 + rng.poisson(np.exp(f)),
    }[name]()
    return GLM(FAMILIES[name], features, targets.astype(float), regularizer)


def full_covariance(glm, seed=1):
    """Return a covariance that is far from a multiple of the identity, with variances around one."""
    d = math.prod(glm.parameter_shape)
    root = np.random.default_rng(seed).normal(size=(d, d)) / math.sqrt(d)
    return torch.from_numpy(0.2 * np.eye(d) + root @ root.T)


def with_noise(glm, covariance, steps=STEPS, lr=LR):
    """Iterate the right side of Theorem 1, gradient descent on noisy labels, and return iterates and noise."""
    theta, path, noise = torch.zeros(glm.parameter_shape, dtype=torch.float64), [], []
    for _ in range(steps):
        noise.append(glm.label_noise(GaussianPosterior(theta, covariance)))
        theta = gd_step(glm, theta, lr, label_noise=noise[-1])
        path.append(theta)
    return torch.stack(path), torch.stack(noise)


# ------------------------------------------------------------------ references that know nothing of label noise
NODES = np.arange(-9.0, 9.05, 0.1)
WEIGHTS = 0.1 * np.exp(-NODES * NODES / 2) / math.sqrt(2 * math.pi)


def plain_mean(name, f):
    """A'(f), in numpy."""
    return {
        "bernoulli": special.expit,
        "binomial": lambda f: 7 * special.expit(f),
        "gaussian": lambda f: f,
        "poisson": np.exp,
        "truncated poisson": lambda f: np.exp(f) / -np.expm1(-np.exp(f)),
    }[name](f)


def plain_expectation(function, mean, var):
    """Return E[function(f)] for f ~ N(mean, var), by a dense sum."""
    return function(mean[:, None] + np.sqrt(var)[:, None] * NODES) @ WEIGHTS


def plain_variational_gd(name, glm, covariance, steps=STEPS, lr=LR):
    """Iterate the left side of Theorem 1 for a scalar family, in numpy alone."""
    features, targets, sigma = glm.features.numpy(), glm.targets.numpy(), np.asarray(covariance)
    var = np.einsum("np,pq,nq->n", features, sigma, features)
    theta, path = np.zeros(features.shape[1]), []
    for _ in range(steps):
        expected = plain_expectation(lambda f: plain_mean(name, f), features @ theta, var)
        theta = theta - lr * (features.T @ (expected - targets) + theta)
        path.append(theta)
    return torch.from_numpy(np.stack(path))


def autograd_variational_gd(glm, covariance, steps=STEPS, lr=LR):
    """Iterate the left side of Theorem 1 by differentiating the objective of Eq. 7, whose integrand is A, not A'."""
    theta, path = torch.zeros(glm.parameter_shape, dtype=torch.float64), []
    for _ in range(steps):
        mean = theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(-glm.elbo(GaussianPosterior(mean, covariance)), mean)
        theta = theta - lr * gradient
        path.append(theta)
    return torch.stack(path)
