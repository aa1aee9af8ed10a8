"""What does a VON iteration cost beside a Newton iteration, and beside naive Monte Carlo?

One logistic regression with P features and N examples; in every round each method takes one iteration from the same
state, in turn, so that changes of the machine's speed affect all. Medians and ratios of medians are reported.

- newton: `newton_step`, one gradient and one Hessian.
- von: `von_step`, the same under a Gaussian with a full covariance, by deterministic quadrature (error < 1e-13).
- monte carlo: E_q[sigma] and E_q[sigma'] from 1000 draws of the parameters, f = features @ draws in blocks of rows.

The memory column is the process's peak resident memory during VON iterations at that N, above what it held before the
features were made, as a multiple of the features' own size; each N runs in a separate process.

    python benchmarks/bench_glm.py                       # the table, N = 1e3 .. 1e6, P = 50
    python benchmarks/bench_glm.py --sizes 1000 100000 --rounds 5
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time

import torch
from memory import PeakMemory, resident_bytes
from record import add_output, write_record
from torch import Tensor

from vlls import GLM, Bernoulli, GaussianPosterior, newton_step, von_step

DRAWS = 1000


def monte_carlo_step(glm: GLM, q: GaussianPosterior) -> GaussianPosterior:
    """Take a VON step (lr = 1) whose expectations are averages over draws of the parameters."""
    draws = q.sample(DRAWS).T
    gradient, hessian = q.mean.clone(), torch.eye(len(q.mean), dtype=torch.float64)
    for x, y in zip(glm.features.split(4096), glm.targets.split(4096), strict=True):
        p = torch.sigmoid(x @ draws)
        gradient += x.T @ (p.mean(1) - y)
        hessian += x.T @ ((p * (1 - p)).mean(1)[:, None] * x)
    step = torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(hessian))[:, 0]
    return GaussianPosterior(q.mean - step, precision=hessian)


def make_features(n: int, p: int) -> Tensor:
    """Return standard normal features in float64, filled block by block so that making them needs no second copy."""
    features = torch.empty(n, p, dtype=torch.float64)
    for block in features.split(1 << 14):
        block.normal_(generator=torch.Generator().manual_seed(block.storage_offset()))
    return features


def measure(n: int, p: int, rounds: int, with_monte_carlo: bool) -> dict[str, float]:
    """Time one size in this process: medians in seconds, and VON's memory as a multiple of the features."""
    before = resident_bytes()
    features = make_features(n, p)
    truth = torch.randn(p, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / p**0.5
    targets = (torch.rand(n, generator=torch.Generator().manual_seed(2)) < torch.sigmoid(features @ truth)).double()
    glm = GLM(Bernoulli(), features, targets)
    theta = newton_step(glm, torch.zeros(p, dtype=torch.float64))
    q = von_step(glm, GaussianPosterior(theta, precision=glm.hessian(theta)))
    with PeakMemory() as memory:
        for _ in range(2):
            von_step(glm, q)
    methods = {"newton": lambda: newton_step(glm, theta), "von": lambda: von_step(glm, q)}
    if with_monte_carlo:
        methods["monte_carlo"] = lambda: monte_carlo_step(glm, q)
    times: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method()
    for r in range(rounds):
        for name, method in methods.items():
            if name == "monte_carlo" and r >= 3:
                continue
            start = time.perf_counter()
            method()
            times[name].append(time.perf_counter() - start)
    row: dict[str, float] = {"n": n, "p": p}
    row |= {name: statistics.median(values) for name, values in times.items()}
    row["von_over_newton"] = row["von"] / row["newton"]
    if with_monte_carlo:
        row["monte_carlo_over_von"] = row["monte_carlo"] / row["von"]
    row["memory_over_features"] = (memory.peak - before) / (features.numel() * 8)
    return row


def main() -> None:
    """Measure every size, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6], help="numbers of examples N"
    )
    parser.add_argument("--features", type=int, default=50, help="number of features P")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of alternating iterations")
    parser.add_argument("--monte-carlo-up-to", type=int, default=10**5, help="largest N for naive Monte Carlo")
    add_output(parser)
    arguments = parser.parse_args()

    print(f"{'N':>9} {'newton ms':>10} {'von ms':>9} {'von/newton':>11} {'MC ms':>9} {'MC/von':>7} {'memory/X':>9}")
    rows = []
    context = multiprocessing.get_context("spawn")
    for n in arguments.sizes:
        with context.Pool(1) as pool:
            job = (n, arguments.features, arguments.rounds, n <= arguments.monte_carlo_up_to)
            row = pool.apply(measure, job)
        rows.append(row)
        mc = f"{1e3 * row['monte_carlo']:9.1f} {row['monte_carlo_over_von']:7.1f}" if "monte_carlo" in row else " " * 17
        print(
            f"{n:9d} {1e3 * row['newton']:10.2f} {1e3 * row['von']:9.2f} {row['von_over_newton']:11.2f} {mc} "
            f"{row['memory_over_features']:9.2f}",
            flush=True,
        )
    write_record(arguments.output / "glm.json", __doc__, rounds=arguments.rounds, draws=DRAWS, rows=rows)


if __name__ == "__main__":
    main()
