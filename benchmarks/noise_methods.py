"""The methods that ``bench_noise.py`` compares: ours, laplace-torch, torch.func, and a plain loop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from vlls import DiagonalPosterior
from vlls.noise import label_noise_moments, logit_covariance

Run = Callable[[Tensor], Any]
OURS: dict[str, dict[str, Any]] = {
    "exact, no pairs": {"method": "exact", "curvature_pairs": 0},
    "exact": {"method": "exact"},
    "rank 3, no pairs": {"method": "rank", "rank": 3, "curvature_pairs": 0},
    "rank 3": {"method": "rank", "rank": 3},
    "rank 2, no pairs": {"method": "rank", "rank": 2, "curvature_pairs": 0},
    "rank 1, no pairs": {"method": "rank", "rank": 1, "curvature_pairs": 0},
    "direction": {"method": "direction", "num_samples": 1},
    "monte carlo, 2 draws": {"method": "monte_carlo", "num_samples": 2},
    "monte carlo, 16 draws": {"method": "monte_carlo", "num_samples": 16},
    "monte carlo, 64 draws": {"method": "monte_carlo", "num_samples": 64},
}
# of interest for their error only: they cost as much as the method of the same name
ALSO: dict[str, dict[str, Any]] = {
    "exact, no push (Eq. 20)": {"method": "exact", "linear": True, "curvature_pairs": 0},
    "exact, 16 pairs": {"method": "exact", "curvature_pairs": 16},
    "rank 3, 16 pairs": {"method": "rank", "rank": 3, "curvature_pairs": 16},
}
COVARIANCE, BACKPACK = "exact, covariance alone", "laplace-torch BackPACK"


def ours(model: nn.Module, posterior: DiagonalPosterior, options: dict[str, Any]) -> Run:
    """Return a function that computes the whole label noise by one of our methods."""
    return lambda x: label_noise_moments(model, posterior, x, **options)


def laplace_torch(model: nn.Module, posterior: DiagonalPosterior, backend: str, chunk: int | None = None) -> Run:
    """Return a function for the functional variance of a diagonal Laplace whose posterior is ours; in chunks or not."""
    from laplace import DiagLaplace
    from laplace.curvature import BackPackGGN

    model = copy.deepcopy(model)  # BackPACK leaves hooks in it
    precision = torch.cat([posterior.std[name].square().reciprocal().flatten() for name, _ in model.named_parameters()])
    kind = BackPackGGN if backend == "BackPACK" else None
    laplace = DiagLaplace(model, "classification", prior_precision=precision, backend=kind)
    # without a fit its Hessian is zero: the posterior's precision is the prior's. A fit also notes the outputs' number:
    model.output_size = laplace.n_outputs = list(model.children())[-1].out_features

    def run(x: Tensor) -> Tensor:
        parts = x.split(chunk or len(x))
        return torch.cat([laplace.functional_variance(laplace.backend.jacobians(part)[0]) for part in parts])

    return run


def vmap_jacrev(model: nn.Module, posterior: DiagonalPosterior) -> Run:
    """Return a function for every example's Jacobian by torch.func, and its product with the variances."""
    mean = posterior.mean

    def jacobian(example: Tensor) -> dict[str, Tensor]:
        return jacrev(lambda weights: functional_call(model, weights, (example[None],))[0])(mean)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            rows = {name: j.flatten(2) for name, j in vmap(jacobian)(x).items()}
            return sum((j * posterior.std[name].square().flatten()) @ j.mT for name, j in rows.items())

    return run


def naive_loop(model: nn.Module, posterior: DiagonalPosterior) -> Run:
    """Return the obvious loop over examples and classes with autograd.grad."""
    names, weights = zip(*model.named_parameters(), strict=True)
    var = torch.cat([posterior.std[name].square().flatten() for name in names])

    def run(x: Tensor) -> Tensor:
        found = []
        for example in x:
            logits = model(example[None])[0]
            rows = [torch.autograd.grad(logit, weights, retain_graph=True) for logit in logits]
            jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
            found.append((jacobian * var) @ jacobian.T)
        return torch.stack(found)

    return run


def methods(model: nn.Module, posterior: DiagonalPosterior, chunks: dict[str, int]) -> dict[str, Callable[[], Run]]:
    """Return a builder of each method, by its name in the table."""
    made: dict[str, Callable[[], Run]] = {
        name: lambda options=options: ours(model, posterior, options) for name, options in OURS.items()
    }
    made[COVARIANCE] = lambda: lambda x: logit_covariance(model, posterior, x)
    made[BACKPACK] = lambda: laplace_torch(model, posterior, "BackPACK")
    for backend, chunk in chunks.items():
        name = f"laplace-torch {backend}, chunks of {chunk}"
        made[name] = lambda backend=backend, chunk=chunk: laplace_torch(model, posterior, backend, chunk)
    made["torch.func vmap(jacrev)"] = lambda: vmap_jacrev(model, posterior)
    made["loop of autograd.grad"] = lambda: naive_loop(model, posterior)
    return made


def quiet() -> None:
    """Suppress two warnings that our code does not cause: of torch's jvp and laplace's imports, of BackPACK's hooks."""
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
