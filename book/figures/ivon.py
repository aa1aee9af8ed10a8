"""Figures of Chapter 5: the Hessian of IVON, its estimators, and the effects of the hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from vlls.plots._style import PALETTE, SINGLE, WIDTH, legend_above, styled

__all__ = [
    "plot_diagonal_std",
    "plot_gradsq_ratio",
    "plot_hessian_positivity",
    "plot_hessian_start",
    "plot_hessian_variance",
    "plot_ivon_hyperparameters",
]

_UNITS = {"ess": " (examples)", "hess_init": " (nats)"}


@styled
def plot_hessian_variance(
    distance: Tensor, measured: Tensor, predicted: Tensor, value: Tensor
) -> Figure:
    r"""Draw the standard deviation of one Hessian estimate against the distance of the mean from its optimum.

    Args:
        distance: (T,) distances from the optimum, in posterior standard deviations.
        measured: (T, P) standard deviations of the estimate over draws.
        predicted: (T, P) standard deviations by the quadratic formula.
        value: (T, P) the averaged Hessian, which is estimated.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.0))
    low, high = float(measured.min()) / 1.5, float(measured.max()) * 1.5
    axes[0].loglog(predicted.flatten(), measured.flatten(), "o", color=PALETTE[0], markersize=3.5)
    axes[0].loglog([low, high], [low, high], color="0.4", linewidth=1.0)
    axes[0].set(
        xlabel=r"std of $\hat h$, formula (nats)", ylabel=r"std of $\hat h$, measured (nats)"
    )
    ratio = measured / value
    axes[1].plot(
        distance,
        ratio.median(1).values,
        color=PALETTE[1],
        marker="o",
        markersize=4,
        label="median weight",
    )
    axes[1].fill_between(
        distance,
        ratio.amin(1),
        ratio.amax(1),
        color=PALETTE[1],
        alpha=0.2,
        label="range of weights",
    )
    axes[1].set(
        xlabel=r"distance of $\mathbf{m}$ from the optimum ($\sigma$)",
        ylabel=r"std of one $\hat h$ over $\mathbb{E}\,\hat h$ (ratio)",
    )
    axes[1].set_ylim(0, None)
    axes[1].legend(loc="upper left")
    return figure


@styled
def plot_hessian_positivity(paths: Mapping[str, Tensor]) -> Figure:
    r"""Draw paths of h + delta with and without the second-order term of line 5 of Alg. 1.

    Args:
        paths: for each variant, (T, C) values of h + delta; a path that has ended holds NaN.
    """
    figure, axes = plt.subplots(1, len(paths), figsize=(WIDTH, 2.9), sharey=True, squeeze=False)
    for ax, (name, path) in zip(axes[0], paths.items(), strict=True):
        for chain, color in zip(path.T, PALETTE * 10, strict=False):
            ax.plot(chain, color=color, linewidth=1.0, alpha=0.8)
            ended = (chain <= 0).nonzero()
            if len(ended):
                ax.plot(
                    int(ended[0]),
                    float(chain[ended[0]]),
                    "x",
                    color=color,
                    markersize=8,
                    markeredgewidth=2,
                )
        ax.axhline(0.0, color="black", linewidth=1.2)
        ax.set(title=name, xlabel="step")
    axes[0, 0].set_ylabel(r"$h + \delta$ (nats)")
    return figure


@styled
def plot_diagonal_std(names: Sequence[str], stds: Mapping[str, Tensor]) -> Figure:
    """Draw the posterior standard deviation of every weight under several approximations.

    Args:
        names: of the P weights.
        stds: for each approximation, (P,) standard deviations.
    """
    figure, ax = plt.subplots(figsize=(SINGLE, 3.6))
    styles: list[dict[str, Any]] = [
        {"marker": "s", "markersize": 7},
        {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.8},
        {"marker": "x", "markersize": 7, "markeredgewidth": 1.8},
        {"marker": "+", "markersize": 11, "markeredgewidth": 1.8},
    ]
    for (label, values), style, color in zip(stds.items(), styles, PALETTE, strict=False):
        ax.plot(np.arange(len(names)), values, linestyle="none", color=color, label=label, **style)
    ax.set_xticks(np.arange(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    ax.set(
        ylabel="posterior std (logits)", ylim=(0, 1.1 * max(map(float, map(max, stds.values()))))
    )
    legend_above(figure, 2)
    return figure


@styled
def plot_gradsq_ratio(batches: Sequence[int], ratios: Mapping[str, Tensor]) -> Figure:
    """Draw the expectation of each estimator of the Hessian, over its true value, against the batch size.

    Args:
        batches: batch sizes.
        ratios: for each estimator, (len(batches), P) expectations over the true diagonal.
    """
    figure, ax = plt.subplots(figsize=(SINGLE, 3.6))
    for (label, ratio), color, marker in zip(ratios.items(), PALETTE, "os^D", strict=False):
        ax.loglog(
            batches, ratio.median(1).values, color=color, marker=marker, markersize=5, label=label
        )
        ax.fill_between(batches, ratio.amin(1), ratio.amax(1), color=color, alpha=0.2)
    ax.axhline(1.0, color="black", linewidth=0.9, linestyle="dashed")
    ax.set_xticks(batches, [str(b) for b in batches])
    ax.minorticks_off()
    ax.set(
        xlabel="batch size $B$ (examples)",
        ylabel="expected estimate over\nthe true diagonal Hessian (ratio)",
    )
    legend_above(figure, 2)
    return figure


@styled
def plot_hessian_start(
    paths: Mapping[float, Mapping[float, Tensor]], target: float, seen: float
) -> Figure:
    r"""Draw the Hessian over steps from several starts, a panel a decay rate.

    Args:
        paths: for each beta2 and each hess_init, the (T,) Hessian averaged over weights and chains.
        target: the diagonal Hessian of the fixed point, averaged over weights.
        seen: largest step that is shown.
    """
    figure, axes = plt.subplots(1, len(paths), figsize=(WIDTH, 2.9), sharey=True, squeeze=False)
    for ax, (beta2, by_start) in zip(axes[0], paths.items(), strict=True):
        for color, (start, path) in zip(PALETTE, by_start.items(), strict=False):
            ax.semilogy(
                np.arange(1, len(path) + 1), path, color=color, label=f"hess_init {start:g}"
            )
        ax.axhline(target, color="black", linewidth=1.0, linestyle="dashed")
        if 1 / (1 - beta2) < seen:
            ax.axvline(1 / (1 - beta2), color="0.5", linewidth=1.0, linestyle="dotted")
        ax.set(title=rf"$1 - \beta_2$ = {1 - beta2:.5g}", xlabel="step", xlim=(-0.04 * seen, seen))
    axes[0, 0].set_ylabel(r"$h$, mean over the weights (nats)")
    legend_above(figure, 3)
    return figure


@styled
def plot_ivon_hyperparameters(
    results: Mapping[str, Mapping[float, Mapping[str, Tensor]]], default: Mapping[str, float]
) -> Figure:
    """Draw the effect of each hyperparameter on noise, test loss and accuracy; bands are one std over seeds.

    Args:
        results: for each hyperparameter, for each value, ``std``, ``nll``, ``nll_mean``, ``accuracy`` and
            ``accuracy_mean``, (S,) over seeds.
        default: the value that the other columns use.
    """
    figure, axes = plt.subplots(
        3, len(results), figsize=(WIDTH, 5.6), sharex="col", sharey="row", squeeze=False
    )
    rows = {
        r"rms $\sigma$ of the weights": {"std": None},
        "test loss (nats)": {"nll": "averaged over $q$", "nll_mean": r"at the mean $\mathbf{m}$"},
        "test accuracy (%)": {
            "accuracy": "averaged over $q$",
            "accuracy_mean": r"at the mean $\mathbf{m}$",
        },
    }
    for column, (name, by_value) in enumerate(results.items()):
        for row, keys in enumerate(rows.values()):
            ax = axes[row, column]
            for color, (key, label) in zip(
                PALETTE[2:] if row == 0 else PALETTE, keys.items(), strict=False
            ):
                found = [values[key] for values in by_value.values()]
                centre, spread = (
                    np.array([float(f(v)) for v in found])
                    for f in (lambda v: v.mean(), lambda v: v.std())
                )
                ax.plot(list(by_value), centre, color=color, marker="o", markersize=4, label=label)
                ax.fill_between(
                    list(by_value), centre - spread, centre + spread, color=color, alpha=0.2
                )
            ax.axvline(default[name], color="0.5", linewidth=1.0, linestyle="dotted")
            ax.set_xscale("log")
        axes[2, column].set_xlabel(name + _UNITS.get(name, ""))
    for ax, label in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(label)
    axes[0, 0].set_yscale("log")
    legend_above(figure, 2)
    return figure
