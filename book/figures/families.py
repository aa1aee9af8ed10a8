r"""Figures of Chapter 3: the label noise of every family, and how well its expectations are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from vlls.families import Family
from vlls.plots._style import PALETTE, SINGLE, WIDTH, as_array, legend_above, styled, width_of

__all__ = [
    "plot_digit_noise",
    "plot_expectation_error",
    "plot_family_noise",
    "plot_noise_confidence",
    "plot_update_difference",
]

_BLUE, _ORANGE, _GREEN, _RED = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3]
_INK = "0.15"


@styled
def plot_family_noise(
    families: Mapping[str, Family], var: float = 1.0, limits: tuple[float, float] = (-5.0, 5.0)
) -> Figure:
    r"""Draw :math:`A'(\mu)` and :math:`\mathbb E[A'(f)]`, a panel a family; the gap between them is the noise.

    Args:
        families: families with one natural parameter, by name.
        var: variance of f.
        limits: range of the mean.
    """
    means = torch.linspace(*limits, 401, dtype=torch.float64)
    figure, axes = plt.subplots(
        2,
        len(families),
        figsize=(max(WIDTH, 1.85 * len(families)), 4.0),
        sharex=True,
        height_ratios=(1.5, 1),
        squeeze=False,
    )
    for (top, bottom), (name, family) in zip(axes.T, families.items(), strict=True):
        at_mean, expected = (
            family.mean(means),
            family.expected_mean(means, torch.full_like(means, var)),
        )
        top.plot(means, at_mean, color=_BLUE, label=r"$A'(\mu)$")
        top.plot(means, expected, color=_ORANGE, ls="--", label=r"$\mathbb{E}[A'(f)]$")
        top.fill_between(
            means, at_mean, expected, color="0.85", label=r"noise $\epsilon$ (unit of $y$)"
        )
        top.set_title(name, fontsize=10)
        noise = family.label_noise(means, torch.full_like(means, var))
        bottom.axhline(0, color="0.6", lw=0.8)
        bottom.plot(means, noise, color=_INK)
        bottom.set_xlabel(r"mean $\mu$ of $f$ (unit of $f$)")
        if float(noise.abs().max()) == 0:
            bottom.set_ylim(-1, 1)
    axes[0, 0].set_ylabel("mean of $y$ (unit of $y$)")
    axes[1, 0].set_ylabel(r"noise $\epsilon$ (unit of $y$)")
    legend_above(figure, 3)
    return figure


@styled
def plot_expectation_error(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    xlabel: str,
    *,
    log_x: bool = False,
) -> Figure:
    """Draw the error of ways to compute an expectation against their cost.

    Args:
        panels: for each panel's title, by the name of the rule, its costs and its errors.
        xlabel: label of the costs' axis.
        log_x: draw costs on a logarithmic axis.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width_of(len(panels)), 3.0), sharey=True, squeeze=False
    )
    for ax, (title, rules) in zip(axes[0], panels.items(), strict=True):
        for color, marker, (name, (cost, error)) in zip(
            (_BLUE, _ORANGE, _GREEN, _RED), "os^D", rules.items(), strict=False
        ):
            ax.plot(
                cost,
                np.maximum(as_array(error), 1e-17),
                color=color,
                marker=marker,
                ms=4,
                label=name,
            )
        ax.set_yscale("log")
        if log_x:
            ax.set_xscale("log")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(xlabel)
    axes[0, 0].set_ylabel("absolute error (probability)")
    legend_above(figure, 4)
    return figure


@styled
def plot_digit_noise(
    images: Tensor, noise: Tensor, labels: Tensor, predicted: Tensor, rows: Sequence[str]
) -> Figure:
    """Draw images, each above the label noise of its classes.

    Args:
        images: (R, C, H, W) grey values, a row of images for each name in ``rows``.
        noise: (R, C, K) label noise.
        labels: (R, C) classes.
        predicted: (R, C) classes that the model predicts.
        rows: the name of each row.
    """
    picture, bars, y, guess = (as_array(t) for t in (images, noise, labels, predicted))
    r, c, k = bars.shape
    figure, axes = plt.subplots(
        2 * r, c, figsize=(WIDTH, 2.35 * r), height_ratios=(1.25, 1) * r, squeeze=False
    )
    limit = 1.1 * np.abs(bars).max()
    for i in range(r):
        for j in range(c):
            top, bottom = axes[2 * i, j], axes[2 * i + 1, j]
            top.imshow(picture[i, j], cmap="gray_r")
            top.set_axis_off()
            top.set_title(f"label {y[i, j]}, says {guess[i, j]}", fontsize=8.5)
            bottom.bar(
                range(k), bars[i, j], color=[_ORANGE if n == y[i, j] else _BLUE for n in range(k)]
            )
            bottom.axhline(0, color="0.4", lw=0.8)
            bottom.set_ylim(-limit, limit)
            bottom.set_xticks(range(0, k, 3))
            bottom.tick_params(labelleft=j == 0, labelsize=8)
        axes[2 * i + 1, 0].set_ylabel(f"{rows[i]} noise\n$\\epsilon_k$ (probability)", fontsize=8.5)
    figure.supxlabel("class $k$ (orange: the label)", fontsize=9)
    return figure


@styled
def plot_noise_confidence(panels: Mapping[str, tuple[Tensor, Tensor]], correct: Tensor) -> Figure:
    r"""Draw the size of the noise against the confidence, the largest class probability, a panel a posterior.

    Args:
        panels: by title, the confidences :math:`\max_k S_k` (N,) and the sizes :math:`\|\epsilon\|_1` (N,).
        correct: (N,) whether the prediction is the label.
    """
    right_guess = as_array(correct).astype(bool)
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3.2), sharex=True, squeeze=False)
    for ax, (title, (confidence, size)) in zip(axes[0], panels.items(), strict=True):
        x, amount = as_array(confidence), as_array(size)
        ax.scatter(
            x[right_guess],
            amount[right_guess],
            s=7,
            color=_BLUE,
            alpha=0.4,
            linewidths=0,
            label="correct",
        )
        ax.scatter(
            x[~right_guess],
            amount[~right_guess],
            s=24,
            color=_ORANGE,
            marker="^",
            linewidths=0,
            label="wrong",
        )
        ax.set_title(title, fontsize=10)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("confidence (probability)")
    axes[0, 0].set_ylabel(r"noise $\|\epsilon\|_1$ (probability)")
    legend_above(figure, 2, opaque=True, markerscale=1.5)
    return figure


@styled
def plot_update_difference(
    differences: Mapping[str, Sequence[float]], tolerance: float = 1e-10
) -> Figure:
    """Draw the largest difference between two sequences of updates at every step.

    Args:
        differences: one value a step, by name; zeros are drawn at 1e-17.
        tolerance: where to draw the line below which two updates count as the same.
    """
    figure, ax = plt.subplots(figsize=(SINGLE, 3.0))
    for ls, (name, values) in zip(("-", "--", "-.", ":"), differences.items(), strict=False):
        ax.semilogy(
            range(1, len(values) + 1), np.maximum(as_array(values), 1e-17), ls=ls, lw=2, label=name
        )
    ax.axhline(tolerance, color=_INK, lw=1, ls=(0, (5, 5)))
    ax.annotate(
        f"tolerance {tolerance:g}",
        (max(map(len, differences.values())), tolerance),
        textcoords="offset points",
        xytext=(0, 4),
        ha="right",
        fontsize=8.5,
    )
    ax.set_xlabel("step")
    ax.set_ylabel(r"largest $|\Delta\theta|$ (logits)")
    legend_above(figure, 2)
    return figure
