"""How exact are the theorems and the expectations behind them?

Prints the largest differences that the README quotes and writes them as a record:

- Theorem 1: both sides over 100 steps, for every family, N = 500, P = 20.
- Theorem 2: both sides over 10 steps, the same problems.
- E_q[A'] of the logistic loss against 50-digit integration, at small and at large variances.
- VON on scikit-learn's breast cancer data: stationarity, and its ELBO beside the Laplace approximation's.

    python benchmarks/bench_accuracy.py
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import mpmath
import torch
from record import add_output, write_record
from sklearn.datasets import load_breast_cancer

from vlls import (
    GLM,
    Bernoulli,
    Binomial,
    Categorical,
    Gaussian,
    GaussianPosterior,
    Poisson,
    fit,
    gd_step,
    newton_step,
    variational_gd_step,
    von_step,
)


def problems(n: int = 500, p: int = 20) -> Iterator[GLM]:
    """Yield one model of each family, with targets drawn from it."""
    torch.manual_seed(0)
    features = torch.randn(n, p, dtype=torch.float64) / p**0.5
    f = features @ torch.randn(p, dtype=torch.float64)
    yield GLM(Bernoulli(), features, torch.bernoulli(torch.sigmoid(f)))
    yield GLM(Binomial(7), features, torch.binomial(torch.full_like(f, 7.0), torch.sigmoid(f)))
    yield GLM(Categorical(3), features, torch.distributions.Categorical(logits=torch.randn(n, 3)).sample())
    yield GLM(Gaussian(), features, f + torch.randn(n, dtype=torch.float64))
    yield GLM(Poisson(), features, torch.poisson(torch.exp(f)))


def theorem_1(glm: GLM, steps: int = 100, lr: float = 1e-3) -> float:
    """Return the largest difference between variational gradient descent and gradient descent on noisy labels."""
    q, theta = GaussianPosterior(torch.zeros(glm.parameter_shape), 1.0), torch.zeros(glm.parameter_shape)
    largest = 0.0
    for _ in range(steps):
        noise = glm.label_noise(GaussianPosterior(theta, 1.0))
        q, theta = variational_gd_step(glm, q, lr), gd_step(glm, theta, lr, label_noise=noise)
        largest = max(largest, float((q.mean - theta).abs().max()))
    return largest


def theorem_2(glm: GLM, steps: int = 10) -> float:
    """Return the largest difference of VON with rho = 1 from Newton's method with noisy labels and averaged Hessian."""
    q = GaussianPosterior(torch.zeros(glm.parameter_shape), 1.0)
    theta, precision = q.mean, q.precision
    largest = 0.0
    for _ in range(steps):
        other = GaussianPosterior(theta, precision=precision)
        noise, precision = glm.label_noise(other), glm.expected_hessian(other)
        q, theta = von_step(glm, q), newton_step(glm, theta, label_noise=noise, hessian=precision)
        largest = max(largest, float((q.mean - theta).abs().max()))
    return largest


def expectation_error(variances: list[float]) -> float:
    """Return the largest error of E[sigma(f)] over a grid of means, against 50 digits."""
    largest = 0.0
    with mpmath.workdps(50):
        for var in variances:
            std = mpmath.sqrt(mpmath.mpf(var))
            for mean in (0.3, -3.0, 30.0):
                knees = [(offset - mean) / std for offset in (-60, -25, -8, -2, 0, 2, 8, 25, 60)]
                breaks = sorted([-14, -9, -5, -2, 0, 2, 5, 9, 14] + [k for k in knees if -14 < k < 14])
                exact = mpmath.quad(
                    lambda e, mean=mean, std=std: mpmath.npdf(e) / (1 + mpmath.exp(-(mean + std * e))), breaks
                )
                value = Bernoulli().expected_mean(*torch.tensor([mean, var], dtype=torch.float64))
                largest = max(largest, float(abs(mpmath.mpf(float(value)) - exact)))
    return largest


def von_on_breast_cancer() -> dict[str, float]:
    """Return the stationarity of VON at convergence, and how far its ELBO is above the Laplace approximation's."""
    x, y = load_breast_cancer(return_X_y=True)
    features = torch.from_numpy((x - x.mean(0)) / x.std(0))
    glm = GLM(Bernoulli(), torch.cat([features, torch.ones(len(x), 1)], 1), y)
    mode = fit(glm, newton_step).final
    laplace = GaussianPosterior(mode, precision=glm.hessian(mode))
    q = fit(glm, von_step, laplace, lr=0.8, tol=1e-12).final
    precision = glm.expected_hessian(q)
    return {
        "VON stationarity: |E_q gradient|": float(glm.expected_gradient(q).abs().max()),
        "VON stationarity: precision, relative": float((precision - q.precision).abs().max() / precision.abs().max()),
        "VON above Laplace, ELBO in nats": float(glm.elbo(q) - glm.elbo(laplace)),
    }


def main() -> None:
    """Compute, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output(parser)
    arguments = parser.parse_args()
    rows: dict[str, float] = {}
    for glm in problems():
        rows[f"Theorem 1, {glm.family!r}"] = theorem_1(glm)
        rows[f"Theorem 2, {glm.family!r}"] = theorem_2(glm)
    rows["E_q[sigma], variances to 10"] = expectation_error([1e-6, 0.3, 1.0, 4.0, 6.3, 10.0])
    rows["E_q[sigma], variances to 1e6"] = expectation_error([100.0, 1e4, 1e6])
    rows |= von_on_breast_cancer()
    for name, value in rows.items():
        print(f"{name:45s} {value:.1e}")
    write_record(arguments.output / "accuracy.json", __doc__, rows=rows)


if __name__ == "__main__":
    main()
