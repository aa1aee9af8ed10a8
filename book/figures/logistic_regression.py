r"""Figures of Chapter 2: the label noise of logistic regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from vlls.families import Bernoulli, Family
from vlls.plots._style import PALETTE, SINGLE, WIDTH, as_array, legend_above, styled

__all__ = [
    "plot_label_noise",
    "plot_noise_factors",
    "plot_noise_peak",
    "plot_noisy_labels",
    "plot_taylor_noise",
    "plot_training_noise",
]

_BLUE, _ORANGE, _GREEN, _RED = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3]
_INK = "0.15"
_MEAN_LABEL = "mean of the natural parameter $f_t$ (logit)"


@styled
def plot_label_noise(
    variances: Sequence[float] = (0.25, 1.0, 4.0, 16.0),
    *,
    family: Family | None = None,
    paper_variance: float = 1.0,
    limit: float = 8.0,
) -> Figure:
    r"""Draw Figure 2 of the paper: the magnitude of the label noise of Eq. 13 against the mean :math:`f_t`.

    Args:
        variances: a curve for each; the paper draws 1.
        family: a family with one natural parameter; Bernoulli unless given.
        paper_variance: the curve to draw thick.
        limit: means from -limit to limit.

    Returns:
        The figure; a dot marks each curve's peaks.
    """
    family = Bernoulli() if family is None else family
    means = torch.linspace(-limit, limit, 1601, dtype=torch.float64)
    figure, ax = plt.subplots(figsize=(SINGLE, 3.4))
    for color, var in zip(
        sns.color_palette("viridis_r", len(variances) + 1)[1:], variances, strict=True
    ):
        size = family.label_noise(means, torch.full_like(means, var)).abs()
        thick = var == paper_variance
        ax.plot(
            means,
            size,
            color=color,
            lw=3 if thick else 1.5,
            label=f"$v$ = {var:g}" + (" (paper)" if thick else ""),
            zorder=3 if thick else 2,
        )
        for side in (means < 0, means > 0):
            top = int(torch.where(side, size, -1.0).argmax())
            ax.plot(means[top], size[top], "o", color=color, ms=5, zorder=4)
    ax.set_xlim(-limit, limit)
    ax.set_ylim(bottom=0)
    ax.set_xlabel(_MEAN_LABEL)
    ax.set_ylabel(r"label noise $|\epsilon|$ (probability)")
    legend_above(figure, 4, title="variance of $f$", columnspacing=1.2)
    return figure


@styled
def plot_noise_peak(variances: Tensor, location: Tensor, height: Tensor) -> Figure:
    r"""Draw where the Bernoulli noise peaks and how high, against the variance of f, with its limits dashed.

    Args:
        variances: (V,) positive.
        location: (V,) means :math:`\mu^\star` of the peak on the positive side.
        height: (V,) noise there.
    """
    v, where, size = as_array(variances), as_array(location), as_array(height)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    left.semilogx(v, where, color=_BLUE, label="computed")
    left.axhline(np.log(2 + np.sqrt(3)), color=_INK, ls="--", lw=1, label=r"$\log(2+\sqrt{3})$")
    wide = v > 3
    left.semilogx(
        v[wide],
        0.5 * np.log(2 * np.pi * v[wide]),
        color=_ORANGE,
        ls=":",
        label=r"$\frac{1}{2}\log 2\pi v$",
    )
    left.set_ylabel(r"peak at $\mu^\star$ (logit)")
    left.set_ylim(bottom=0)
    left.legend(loc="upper left")
    right.loglog(v, size, color=_BLUE, label="computed")
    right.loglog(v, v / (12 * np.sqrt(3)), color=_INK, ls="--", lw=1, label=r"$v\,/\,12\sqrt{3}$")
    right.axhline(0.5, color=_ORANGE, ls=":", label=r"$\frac{1}{2}$")
    right.set_ylim(size.min() / 2, 1)
    right.set_ylabel(r"noise $\epsilon$ at the peak (probability)")
    right.legend(loc="lower right")
    for ax in (left, right):
        ax.set_xlabel("variance $v$ of $f$ (logit²)")
    return figure


@styled
def plot_noise_factors(f: Tensor, norm: Tensor, noise: Tensor) -> Figure:
    r"""Draw the label noise of real examples against its two factors, the location and the feature norm.

    Args:
        f: (N,) means of the natural parameters.
        norm: (N,) feature norms, the standard deviations of f under :math:`\mathcal N(\theta_t, I)`.
        noise: (N,) label noise.
    """
    at, spread, size = as_array(f), as_array(norm), np.abs(as_array(noise))
    far = np.abs(at)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.9), sharey=True)
    grid = np.linspace(at.min(), at.max(), 1601)
    left.plot(grid, 0.5 * np.tanh(np.abs(grid) / 2), color=_INK, ls="--", lw=1)
    left.annotate(
        r"bound $\frac{1}{2}\,\tanh\,|f_t|/2$",
        (grid[-1], 0.5),
        xytext=(0, -13),
        textcoords="offset points",
        ha="right",
    )
    dots = left.scatter(at, size, c=spread, s=11, cmap="viridis_r", linewidths=0)
    left.set_xlabel("location $f_t$ (logit)")
    left.set_ylabel(r"label noise $|\epsilon|$ (probability)")
    bar: dict[str, Any] = {"location": "top", "pad": 0.03, "shrink": 0.9}
    figure.colorbar(dots, ax=left, label=r"colour: feature norm $\|\phi\|$ (logit)", **bar)
    dots = right.scatter(
        spread, size, c=far, s=11, cmap="viridis", linewidths=0, vmax=np.quantile(far, 0.95)
    )
    right.set_xlabel(r"feature norm $\|\phi\|$ (logit, s.d. of $f$)")
    figure.colorbar(
        dots,
        ax=right,
        label="colour: distance $|f_t|$ from the boundary (logit)",
        extend="max",
        **bar,
    )
    return figure


@styled
def plot_noisy_labels(
    f: Tensor, targets: Tensor, noise: Tensor, *, smoothing: float = 0.1
) -> Figure:
    r"""Draw the labels :math:`y + \epsilon` on which a variational step trains, beside Eq. 1's smoothed ones.

    Args:
        f: (N,) means of the natural parameters.
        targets: (N,) labels 0 and 1.
        noise: (N,) label noise.
        smoothing: rate of the label smoothing drawn for comparison.
    """
    at, y, noisy = as_array(f), as_array(targets), as_array(targets) + as_array(noise)
    figure, ax = plt.subplots(figsize=(SINGLE, 3.4))
    ax.axhspan(0, 1, color="0.93", zorder=0)
    for label, color, marker, name in ((1, _ORANGE, "^", "label 1"), (0, _BLUE, "o", "label 0")):
        ax.scatter(
            at[y == label],
            noisy[y == label],
            s=14,
            color=color,
            marker=marker,
            alpha=0.6,
            linewidths=0,
            label=name,
        )
        ax.axhline(
            (1 - smoothing) * label + smoothing / 2,
            color=color,
            ls="--",
            lw=1.2,
            label=f"smoothed {label}, $\\alpha$ = {smoothing:g}",
        )
    ax.axvline(0, color=_INK, lw=0.8)
    ax.set_xlabel("location $f_t$ (logit)")
    ax.set_ylabel(r"label trained on, $y + \epsilon$ (probability)")
    legend_above(figure, 2, opaque=True)
    return figure


@styled
def plot_taylor_noise(
    means: Tensor,
    curves: Mapping[str, Tensor],
    samples: Tensor,
    averages: Tensor,
    standard_error: Tensor,
    exact: float,
) -> Figure:
    """Draw the approximations of the noise beside it, and Eq. 14 averaged over ever more samples.

    Args:
        means: (M,) means of f.
        curves: (M,) noise by name, the exact one first.
        samples: (S,) numbers of samples averaged.
        averages: (S,) the averages of Eq. 14 at one mean.
        standard_error: (S,) their standard errors.
        exact: the exact noise there.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.3))
    styles = ("-", "--", ":", "-.")
    for (name, curve), ls, color in zip(
        curves.items(), styles, (_INK, _GREEN, _ORANGE, _RED), strict=False
    ):
        left.plot(
            as_array(means),
            as_array(curve),
            ls=ls,
            color=color,
            lw=2.4 if ls == "-" else 1.8,
            label=name,
        )
    left.set_xlabel(_MEAN_LABEL)
    left.set_ylabel(r"$|\epsilon|$ (probability)")
    left.set_ylim(bottom=0)
    n, average, error = as_array(samples), as_array(averages), as_array(standard_error)
    right.fill_between(n, average - 2 * error, average + 2 * error, color=_ORANGE, alpha=0.25, lw=0)
    right.semilogx(
        n, average, color=_ORANGE, ls=":", lw=1.8, label=r"average of Eq. 14, $\pm$ 2 s.e."
    )
    right.axhline(exact, color=_INK, label="exact noise")
    right.axhline(0, color="0.6", lw=0.8)
    right.set_ylim(-4 * abs(exact), 4 * abs(exact))
    right.set_xlabel("samples $e$ averaged")
    right.set_ylabel(r"$\epsilon$ (probability)")
    for ax in (left, right):
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8.5)
    return figure


@styled
def plot_training_noise(noise: Tensor, examples: Mapping[str, int]) -> Figure:
    """Draw how the label noise changes while a model trains.

    Args:
        noise: (T, N) noise of every example at every step.
        examples: index of the examples to follow, by name.
    """
    values = as_array(noise)
    steps = np.arange(len(values))
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    size = np.abs(values)
    for low, high, alpha in ((0.05, 0.95, 0.2), (0.25, 0.75, 0.35)):
        left.fill_between(
            steps,
            *np.quantile(size, (low, high), axis=1),
            color=_BLUE,
            alpha=alpha,
            lw=0,
            label=f"{low:.0%} to {high:.0%}",
        )
    left.plot(steps, np.median(size, axis=1), color=_BLUE, label="median")
    left.set_ylabel(r"label noise $|\epsilon|$ (probability)")
    left.set_ylim(bottom=0)
    for color, ls, (name, index) in zip(
        PALETTE, ("-", "--", ":", "-."), examples.items(), strict=False
    ):
        right.plot(steps, values[:, index], color=color, ls=ls, lw=2, label=name)
    right.axhline(0, color="0.6", lw=0.8)
    right.set_ylabel(r"label noise $\epsilon$ (probability)")
    for ax in (left, right):
        ax.set_xlabel("step")
        ax.set_xlim(0, len(values) - 1)
        ax.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            fontsize=8.5,
            ncols=1 if ax is right else 3,
        )
    return figure
