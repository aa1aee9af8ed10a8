r"""Networks whose posteriors differ in their covariance only: a figure, a table and sentences (Chapter 14)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from figures.differences import RESULTS, Gap, gap_of
from vlls import EVON, GLM, IVON, GaussianPosterior
from vlls.plots._style import WIDTH, styled
from vlls.train.methods import METHODS

__all__ = [
    "LEARNED",
    "above",
    "cost_in_words",
    "covariance_table",
    "covariances",
    "least_gain",
    "network_order_in_words",
    "noise_in_words",
    "plot_covariances",
    "price_in_words",
    "trained",
]

LEARNED = {
    "evon": "EVON",
    "ivon": "IVON",
    "ivon_permuted": "IVON, permuted σ",
    "ivon_isotropic": "IVON, isotropic σ",
    "ivon_fixed": "IVON, fixed σ",
}
"""The covariances at the setting under which they are learned, from the most flexible to the least."""
_PAPER = "IVON at the paper's setting"
_SCALES = {"test_accuracy": 100.0, "posterior_accuracy": 100.0, "posterior_ece": 100.0}


def covariances() -> pd.DataFrame:
    """Return the runs of ``benchmarks/bench_covariances.py``, with the name of each ``covariance``."""
    rows = pd.DataFrame(json.loads((RESULTS / "covariances.json").read_text())["rows"])
    names = [
        LEARNED[method] if posterior == "learned" else _PAPER
        for method, posterior in zip(rows["method"], rows["posterior"], strict=True)
    ]
    order = [_PAPER, *LEARNED.values()]
    return rows.assign(covariance=pd.Categorical(names, order)).sort_values(["covariance", "seed"])


def trained(
    glm: GLM, optimizer: type[IVON], steps: int = 1500, seed: int = 0, **options: float
) -> GaussianPosterior:
    """Train a softmax regression by an optimizer, and return its posterior over the parameters.

    All examples are in every batch, the learning rate falls from 0.1 to 0, and the prior is that of the GLM.

    Args:
        glm: with a :class:`.Categorical` family and the prior ½ ‖θ‖².
        optimizer: :class:`.IVON` or :class:`.EVON`.
        steps: their number.
        seed: of the samples.
        **options: of the optimizer.
    """
    x, y, num = glm.features.float(), glm.targets.float(), len(glm.features)
    model = torch.nn.Linear(x.shape[1], y.shape[1], bias=False)
    torch.nn.init.zeros_(model.weight)
    generator = torch.Generator().manual_seed(seed)
    how = {"hess_init": 0.1, "beta2": 0.995, "weight_decay": 1 / num, "rescale_lr": False}
    made = optimizer(model.parameters(), lr=0.1, ess=num, generator=generator, **how, **options)
    for step in range(steps):
        made.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        with made.sampled_params(train=True):
            made.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
        made.step()
    q = made.posterior(model)
    order = torch.arange(model.weight.numel()).reshape(model.weight.shape).T.flatten()
    bases = q.bases["weight"] if isinstance(made, EVON) else [torch.eye(model.weight.numel())]
    root = torch.eye(1, dtype=torch.float64)
    for basis in bases:
        root = torch.kron(root, basis.double())
    root = (root * q.std["weight"].double().flatten())[order]  # the GLM has inputs first
    return GaussianPosterior(model.weight.detach().double().T.contiguous(), root @ root.T)


def _of(rows: pd.DataFrame, covariance: str, number: str) -> pd.Series:
    rows = rows[rows["covariance"] == covariance]
    return _SCALES.get(number, 1.0) * rows.set_index("seed")[number]


def above(rows: pd.DataFrame, one: str, other: str, number: str) -> Gap:
    """Return how far a number is higher with one covariance than with another, seed by seed.

    Args:
        rows: of :func:`covariances`.
        one: the name of a covariance there.
        other: the name of another.
        number: a column; accuracies and calibration errors are in percent.
    """
    found = gap_of(_of(rows, one, number), _of(rows, other, number), least=0)
    if found is None:
        raise ValueError(
            f"{one} and {other} have no seed in common; run bench_covariances.py again"
        )
    return found


def covariance_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean ± standard deviation over the seeds of each number, a row a covariance."""
    numbers = {
        "learned_share": ("learned share", ".2f"),
        "test_accuracy": ("accuracy (%)", ".1f"),
        "posterior_nll": ("averaged NLL", ".3f"),
        "posterior_ece": ("averaged ECE (%)", ".1f"),
        "noise_variation": ("variation of the noise", ".2f"),
        "rank_correlation_with_evon": ("rank correlation with EVON's", ".2f"),
        "auroc_noise": ("AUROC of the noise", ".2f"),
    }
    table = {}
    for name in rows["covariance"].cat.categories:
        found = {title: _of(rows, name, number) for number, (title, _) in numbers.items()}
        forms = dict(numbers.values())
        table[name] = {
            title: f"{values.mean():{forms[title]}} ± {values.std():{forms[title]}}"
            for title, values in found.items()
        }
    return pd.DataFrame(table).T


@styled
def plot_covariances(rows: pd.DataFrame) -> Figure:
    """Draw accuracy, calibration and label noise under each covariance, a dot a seed.

    Args:
        rows: of :func:`covariances`.
    """
    panels = {
        "test_accuracy": "test accuracy of the mean (%)",
        "posterior_ece": "calibration error (%, less is better)",
        "noise_variation": "variation of the noise",
        "rank_correlation_with_evon": "rank correlation with EVON's noise",
    }
    names = list(rows["covariance"].cat.categories)
    colours = ["0.45", *(METHODS[method].colour for method in LEARNED)]
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.6), sharey=True)
    for ax, (number, title) in zip(axes.flat, panels.items(), strict=True):
        for at, (name, colour) in enumerate(zip(names, colours, strict=True)):
            values = _of(rows, name, number)
            ax.plot(values, [at] * len(values), "o", color=colour, alpha=0.6, markersize=4)
            ax.plot(values.mean(), at, "|", color="0.1", markersize=14)
        ax.set_title(title, fontsize=9)
    for ax in axes[:, 0]:
        ax.set_yticks(range(len(names)), names, fontsize=8)
    axes[0, 0].invert_yaxis()
    return figure


def _clear(gap: Gap, more: str, less: str) -> str:
    """Say in a word which side a difference is on."""
    return {1: more, -1: less, 0: "not clearly different"}[gap.side]


def price_in_words(rows: pd.DataFrame) -> str:
    """Say what a learned posterior costs beside the paper's setting, for EVON and IVON."""
    numbers: Mapping[str, tuple[str, int, str]] = {
        "test_accuracy": ("accuracy", 1, " points"),
        "posterior_nll": ("averaged NLL", 3, ""),
        "posterior_ece": ("averaged ECE", 1, " points"),
    }
    told = []
    for name in ("EVON", "IVON"):
        share = _of(rows, name, "learned_share")
        sides = []
        for number, (title, digits, unit) in numbers.items():
            gap = above(rows, name, _PAPER, number)
            size = f"{gap.points:+.{digits}f} ± {gap.error or 0:.{digits}f}{unit}".replace("-", "−")
            sides.append(f"{title} {size} ({_clear(gap, 'higher', 'lower')})")
        told.append(f"- **{name}** learns {share.mean():.0%} of its Hessian: {'; '.join(sides)}.")
    paper = _of(rows, _PAPER, "learned_share").mean()
    seeds = rows["seed"].nunique()
    head = (
        f"Against {_PAPER}, where {paper:.1%} is learned, over {seeds} seeds "
        "(mean of the differences ± standard error):"
    )
    return "\n".join([head, "", *told])


def noise_in_words(rows: pd.DataFrame) -> str:
    """Say whether the noise differs more between examples, and follows EVON's order, the more flexible Σ is."""
    sides = []
    for name in list(LEARNED.values())[1:]:
        gap = above(rows, "EVON", name, "noise_variation")
        rank = _of(rows, name, "rank_correlation_with_evon").mean()
        side = _clear(gap, "more", "less")
        unequal = f"{side} unequal than" if gap.side else "as unequal as"
        sides.append(f"{unequal} with {name} (rank correlation {rank:.2f})")
    found = rows[rows["posterior"] == "learned"].groupby("covariance", observed=True)
    by_size, by_doubt = found["auroc_noise"].mean(), found["auroc_disagreement"].mean()
    blind = "says little about" if by_size.max() < 0.65 else "tells something of"
    return (
        f"EVON's noise is {'; '.join(sides)}. Its size {blind} which labels are wrong "
        f"(area under the ROC curve {by_size.min():.2f} to {by_size.max():.2f}, most with {by_size.idxmax()}), "
        f"but disagreement with the label says much more ({by_doubt.min():.3f} to {by_doubt.max():.3f})."
    )


def network_order_in_words(rows: pd.DataFrame) -> str:
    """Say whether learning the covariance (second order) is better than keeping it (first order)."""
    told = []
    for number, title, digits in (
        ("test_accuracy", "accuracy", 1),
        ("posterior_nll", "averaged NLL", 3),
        ("noise_variation", "variation of the noise", 2),
    ):
        gap = above(rows, "IVON", "IVON, fixed σ", number)
        size = f"{gap.points:+.{digits}f} ± {gap.error or 0:.{digits}f}".replace("-", "−")
        told.append(f"{title} {size}, {_clear(gap, 'higher', 'lower')}")
    return f"IVON with a learned Σ against the same start held fixed: {'; '.join(told)}."


def least_gain(rows: pd.DataFrame) -> float:
    """Return by how many points the accuracy of a learned posterior is below the paper's, at most."""
    return max(-above(rows, name, _PAPER, "test_accuracy").points for name in ("EVON", "IVON"))


def cost_in_words(record: dict[str, Any]) -> str:
    """Say what a step of EVON costs beside IVON's kernel, and how much of it is matrix products.

    Args:
        record: of ``benchmarks/bench_evon.py``.
    """
    told = []
    for network in dict.fromkeys(row["network"] for row in record["rows"]):
        of = {row["method"]: row for row in record["rows"] if row["network"] == network}
        (evon,) = (row for name, row in of.items() if name.startswith("evon, interval"))
        time = f"{evon['ms']:.3g} ms" if evon["ms"] < 1000 else f"{evon['ms'] / 1000:.2f} s"
        short = of.get("evon: step in short")
        brief = (
            f", {short['over_ivon_fused']:.1f} if torch takes products in bfloat16" if short else ""
        )
        told.append(
            f"{network}: {time}, {evon['over_ivon_fused']:.1f} times IVON's kernel{brief} "
            f"({of['products']['over_ivon_fused']:.1f} for the products alone; "
            f"Adam in the same basis, {of['soap-like']['over_ivon_fused']:.1f})"
        )
    machine = record["machine"] if record["device"] == "cpu" else record["device"]
    return (
        f"The time of a step of EVON whose bases change every 100 steps, on {machine}, without forward "
        f"and backward passes: {'; '.join(told)}."
    )
