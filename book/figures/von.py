"""Figures of Chapter 4: adaptive variances, the convergence of VON, and the label noise over a plane."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from vlls.plots._style import PALETTE, WIDTH, legend_above, styled

__all__ = ["plot_adaptive_variance", "plot_noise_plane", "plot_von_convergence"]

_LEAST = 1e-7  # less noise than that is drawn there


@styled
def plot_adaptive_variance(
    variance_fixed: Tensor,
    variance_learned: Tensor,
    noise_fixed: Tensor,
    noise_learned: Tensor,
    wrong: Tensor,
) -> Figure:
    """Draw variance and label noise of every example under a fixed covariance against those under VON's.

    Args:
        variance_fixed: (N,) variances of f under the fixed covariance (Eq. 12).
        variance_learned: (N,) variances under the learned one (Eq. 19).
        noise_fixed: (N,) label noise under the fixed covariance.
        noise_learned: (N,) label noise under the learned one.
        wrong: (N,) booleans, the examples that the model misclassifies.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.1))
    pairs = ((variance_fixed, variance_learned), (noise_fixed.abs(), noise_learned.abs()))
    for ax, (x, y), least in zip(axes, pairs, (0.0, _LEAST), strict=True):
        y = y.clamp_min(least)
        ax.loglog(
            x[~wrong],
            y[~wrong],
            ".",
            color=PALETTE[0],
            markersize=4,
            alpha=0.6,
            label="classified correctly",
        )
        ax.loglog(x[wrong], y[wrong], "^", color=PALETTE[1], markersize=6, label="misclassified")
        ax.axline((1e-3, 1e-3), (1, 1), color="0.4", linewidth=1.0)
        ax.set(xlim=(0.7 * float(x.min()), 1.4 * float(x.max())))
        ax.set(ylim=(0.7 * float(y.min()), 1.4 * float(x.max())))
    axes[0].set(
        xlabel=r"variance of $f_i$, $\Sigma = I$ (logit²)",
        ylabel=r"variance of $f_i$, VON's $\Sigma$ (logit²)",
    )
    axes[1].set(
        xlabel=r"$|\epsilon_i|$, $\Sigma = I$ (probability)",
        ylabel=r"$|\epsilon_i|$, VON's $\Sigma$ (probability)",
    )
    legend_above(figure, 2, handletextpad=0.1)
    return figure


@styled
def plot_von_convergence(gaps: Mapping[float, Tensor], changes: Mapping[float, Tensor]) -> Figure:
    r"""Draw how far VON is from its fixed point, and how far it moves, at each iteration for several step sizes.

    Args:
        gaps: for each step size rho, L(q_t) minus its smallest value, in nats.
        changes: for each step size, the largest move of a parameter's mean in that iteration.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.0), sharex=True)
    for color, rho in zip(PALETTE, gaps, strict=False):
        axes[0].semilogy(
            np.arange(len(gaps[rho])),
            gaps[rho].clamp_min(1e-13),
            color=color,
            label=rf"$\rho = {rho:g}$",
        )
        axes[1].semilogy(np.arange(1, len(changes[rho]) + 1), changes[rho], color=color)
    axes[0].set(
        xlabel="iteration",
        ylabel=r"$\mathcal{L}(q_t) - \min \mathcal{L}$ (nats)",
        ylim=(1e-12, None),
    )
    axes[1].set(xlabel="iteration", ylabel="largest move of a parameter (logits)")
    axes[0].legend()
    return figure


@styled
def plot_noise_plane(
    points: Tensor,
    labels: Tensor,
    x: Tensor,
    y: Tensor,
    noise: Mapping[str, Tensor],
    probability: Mapping[str, Tensor],
) -> Figure:
    """Draw the size of the label noise over the plane, a panel a posterior, with the data and the decision boundary.

    Args:
        points: (N, 2) inputs.
        labels: (N,) labels, 0 or 1.
        x: (W,) first coordinates of the grid.
        y: (H,) second coordinates of the grid.
        noise: for each panel, the label noise on the grid, (H, W).
        probability: for each panel, the averaged prediction E[sigma(f)] on the grid, (H, W).
    """
    figure, axes = plt.subplots(
        1, len(noise), figsize=(WIDTH, 3.2), sharex=True, sharey=True, squeeze=False
    )
    largest = max(float(values.abs().max()) for values in noise.values())
    for ax, (name, values) in zip(axes[0], noise.items(), strict=True):
        image = ax.pcolormesh(
            x,
            y,
            values.abs(),
            cmap="magma_r",
            vmin=0,
            vmax=largest,
            shading="auto",
            rasterized=True,
        )
        ax.contour(
            x, y, probability[name], [0.1, 0.9], colors="0.6", linewidths=1.0, linestyles="dashed"
        )
        ax.contour(x, y, probability[name], [0.5], colors="#2f9bff", linewidths=1.6)
        for value, marker, color in ((0, "o", PALETTE[9]), (1, "^", PALETTE[2])):
            shown = points[labels == value]
            ax.scatter(
                shown[:, 0],
                shown[:, 1],
                14,
                color=color,
                marker=marker,
                edgecolor="white",
                linewidth=0.4,
            )
        ax.set(title=name, xlabel="first coordinate")
        ax.grid(False)
    axes[0, 0].set_ylabel("second coordinate")
    figure.colorbar(image, ax=axes[0], label=r"$|\epsilon|$ (probability)", pad=0.02)
    return figure
