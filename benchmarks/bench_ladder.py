"""Is the label noise of a flexible covariance more adaptive, and is a second-order method better, on a GLM?

    python benchmarks/bench_ladder.py            # a quarter of an hour on one core; replaces the record
    python benchmarks/bench_ladder.py --seeds 1  # to try it

Softmax regression on scikit-learn's digits (8 by 8 pixels in [0, 1] and a bias, ½‖θ‖², 650 parameters, 1,437 images
for training and 360 for testing), 0, 20 and 40 % symmetric label errors; a seed is a split and its errors. Every
posterior is at its variational optimum, found to 1e-3: the rungs isotropic, diagonal, eigenspace (Kronecker product of
the eigenbases of the full optimum's averaged Hessian) and full; and variational gradient descent with its covariance
kept at I, at IVON's start for h0 = 0.9 and ess = N, and at the multiple of I whose noise is as large as the full one's.
Averages are quasi-Monte Carlo, 128 points; the ELBO is computed again with 512 others. ``measure`` of
book/figures/ladder.py explains each number. *eigenspace_gradients* has the bases of the gradients' second moments
instead, as EVON has; *laplace* holds the KL of the rungs of Laplace's approximation to the full one.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, add_output, write_record
from torch import Tensor

from vlls import GLM, Categorical, GaussianPosterior

BOOK = Path(__file__).parents[1] / "book"
sys.path.insert(0, str(BOOK))
from figures.ladder import (  # noqa: E402
    RUNGS,
    atypicality,
    climb,
    compare,
    digits_glm,
    eigenspace,
    kronecker_bases,
    laplace,
    measure,
)

RATES, TOL = (0.0, 0.2, 0.4), 1e-3


def gradient_bases(glm: GLM, q: GaussianPosterior) -> tuple[Tensor, Tensor]:
    """Return the eigenbases of the second moments of the examples' gradients under q, over inputs and over outputs."""
    average, curvature = glm.family.expected_derivatives(*q.marginal(glm.features))
    y, p = glm.targets[:, :, None], average[:, :, None]
    moment = torch.diag_embed(average) - curvature - p * y.mT - y * p.mT + y * y.mT  # E (p - y)(p - y)ᵀ
    inputs = glm.features.T @ (moment.diagonal(dim1=1, dim2=2).sum(1)[:, None] * glm.features)
    outputs = torch.einsum("nkl,n->kl", moment, glm.features.square().sum(1))
    return torch.linalg.eigh(inputs).eigenvectors, torch.linalg.eigh(outputs).eigenvectors


def cell(rate: float, seed: int) -> dict[str, Any]:
    """Compute all posteriors at one rate and seed."""
    glm, right, test = digits_glm(rate, seed)
    finer = GLM(Categorical(10, num_points=128, replicates=4, seed=1000), glm.features, glm.targets)
    found, atypical = compare(glm, TOL), atypicality(glm.features, right)
    full = found["full"]
    restrict = eigenspace(torch.kron(*gradient_bases(glm, full)))
    found["eigenspace_gradients"] = climb(glm, restrict, full, TOL)
    hessian = laplace(glm).precision
    basis = torch.kron(*kronecker_bases(hessian, glm.parameter_shape))
    diagonals = {
        "isotropic": hessian.diagonal().mean().expand(len(hessian)),
        "diagonal": hessian.diagonal(),
        "eigenspace": ((hessian @ basis) * basis).sum(0),
    }
    at_mode = {name: float(d.log().sum() - hessian.logdet()) / 2 for name, d in diagonals.items()}
    numbers = {n: measure(glm, q, full, right, test, atypical, finer=finer) for n, q in found.items()}
    return {"rate": rate, "seed": seed, "posteriors": numbers, "laplace": at_mode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    add_output(parser, RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cells = []
    for seed, rate in product(range(arguments.seeds), RATES):
        start = time.perf_counter()
        cells.append(cell(rate, seed))
        kl = {name: round(cells[-1]["posteriors"][name]["kl"], 1) for name in RUNGS}
        print(f"rate {rate}, seed {seed}: KL {kl}, {time.perf_counter() - start:.0f} s", flush=True)
    write_record(
        arguments.output / "ladder.json",
        __doc__,
        protocol="softmax regression on scikit-learn's digits, exact optima",
        rates=RATES,
        cells=cells,
    )


if __name__ == "__main__":
    main()
