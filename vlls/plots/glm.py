r"""Figures of Chapters 2 and 3: the label noise of a generalized linear model, and how it is computed."""

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
from vlls.plots._style import PALETTE, WIDTH, styled

__all__ = [
    "plot_digit_noise",
    "plot_expectation_error",
    "plot_family_noise",
    "plot_label_noise",
    "plot_noise_confidence",
    "plot_noise_factors",
    "plot_noise_peak",
    "plot_noisy_labels",
    "plot_taylor_noise",
    "plot_training_noise",
    "plot_update_difference",
]

_BLUE, _ORANGE, _GREEN, _RED = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3]
_INK = "0.15"
_MEAN_LABEL = "mean of the natural parameter $f_t$ (logit)"


def _array(values: Tensor | Sequence[float] | np.ndarray) -> np.ndarray:
    """Return values as a numpy array, from whatever device they are on."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


# --------------------------------------------------------------------------------------- Chapter 2
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
    figure, ax = plt.subplots(figsize=(WIDTH, 3.6))
    for color, var in zip(sns.color_palette("viridis_r", len(variances) + 1)[1:], variances, strict=True):
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
    ax.legend(title="variance of $f$", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def plot_noise_peak(variances: Tensor, location: Tensor, height: Tensor) -> Figure:
    r"""Draw where the Bernoulli noise peaks and how high, against the variance of f, with its limits dashed.

    Args:
        variances: (V,) positive.
        location: (V,) means :math:`\mu^\star` of the peak on the positive side.
        height: (V,) noise there.
    """
    v, where, size = _array(variances), _array(location), _array(height)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    left.semilogx(v, where, color=_BLUE, label="computed")
    left.axhline(np.log(2 + np.sqrt(3)), color=_INK, ls="--", lw=1, label=r"$\log(2+\sqrt{3})$")
    wide = v > 3
    left.semilogx(v[wide], 0.5 * np.log(2 * np.pi * v[wide]), color=_ORANGE, ls=":", label=r"$\frac{1}{2}\log 2\pi v$")
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
    at, spread, size = _array(f), _array(norm), np.abs(_array(noise))
    far = np.abs(at)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.9), sharey=True)
    grid = np.linspace(at.min(), at.max(), 1601)
    left.plot(grid, 0.5 * np.tanh(np.abs(grid) / 2), color=_INK, ls="--", lw=1)
    left.annotate(
        r"bound $\frac{1}{2}\,\tanh\,|f_t|/2$", (grid[-1], 0.5), xytext=(0, -13), textcoords="offset points", ha="right"
    )
    dots = left.scatter(at, size, c=spread, s=11, cmap="viridis_r", linewidths=0)
    left.set_xlabel("location $f_t$ (logit)")
    left.set_ylabel(r"label noise $|\epsilon|$ (probability)")
    bar: dict[str, Any] = {"location": "top", "pad": 0.03, "shrink": 0.9}
    figure.colorbar(dots, ax=left, label=r"colour: feature norm $\|\phi\|$", **bar)
    dots = right.scatter(spread, size, c=far, s=11, cmap="viridis", linewidths=0, vmax=np.quantile(far, 0.95))
    right.set_xlabel(r"feature norm $\|\phi\|$ (logit, s.d. of $f$)")
    figure.colorbar(dots, ax=right, label="colour: distance from the boundary $|f_t|$", extend="max", **bar)
    return figure


@styled
def plot_noisy_labels(f: Tensor, targets: Tensor, noise: Tensor, *, smoothing: float = 0.1) -> Figure:
    r"""Draw the labels :math:`y + \epsilon` on which a variational step trains, beside Eq. 1's smoothed ones.

    Args:
        f: (N,) means of the natural parameters.
        targets: (N,) labels 0 and 1.
        noise: (N,) label noise.
        smoothing: rate of the label smoothing drawn for comparison.
    """
    at, y, noisy = _array(f), _array(targets), _array(targets) + _array(noise)
    figure, ax = plt.subplots(figsize=(WIDTH, 3.4))
    ax.axhspan(0, 1, color="0.93", zorder=0)
    for label, color, marker, name in ((1, _ORANGE, "^", "label 1"), (0, _BLUE, "o", "label 0")):
        ax.scatter(
            at[y == label], noisy[y == label], s=14, color=color, marker=marker, alpha=0.6, linewidths=0, label=name
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
    ax.set_ylabel(r"label trained on, $y + \epsilon$")
    legend = figure.legend(loc="outside upper center", ncols=4)
    plt.setp(legend.legend_handles, alpha=1)
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
    for (name, curve), ls, color in zip(curves.items(), styles, (_INK, _GREEN, _ORANGE, _RED), strict=False):
        left.plot(_array(means), _array(curve), ls=ls, color=color, lw=2.4 if ls == "-" else 1.8, label=name)
    left.set_xlabel(_MEAN_LABEL)
    left.set_ylabel(r"$|\epsilon|$ (probability)")
    left.set_ylim(bottom=0)
    n, average, error = _array(samples), _array(averages), _array(standard_error)
    right.fill_between(n, average - 2 * error, average + 2 * error, color=_ORANGE, alpha=0.25, lw=0)
    right.semilogx(n, average, color=_ORANGE, ls=":", lw=1.8, label=r"average of Eq. 14, $\pm$ 2 s.e.")
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
    values = _array(noise)
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
    for color, ls, (name, index) in zip(PALETTE, ("-", "--", ":", "-."), examples.items(), strict=False):
        right.plot(steps, values[:, index], color=color, ls=ls, lw=2, label=name)
    right.axhline(0, color="0.6", lw=0.8)
    right.set_ylabel(r"label noise $\epsilon$ (probability)")
    for ax in (left, right):
        ax.set_xlabel("step")
        ax.set_xlim(0, len(values) - 1)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8.5, ncols=1 if ax is right else 3)
    return figure


# --------------------------------------------------------------------------------------- Chapter 3
@styled
def plot_family_noise(
    families: Mapping[str, Family], var: float = 1.0, limits: tuple[float, float] = (-5.0, 5.0)
) -> Figure:
    r"""Draw, a panel a family, :math:`A'(\mu)` and :math:`\mathbb E[A'(f)]`; the gap between them is the noise.

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
        at_mean, expected = family.mean(means), family.expected_mean(means, torch.full_like(means, var))
        top.plot(means, at_mean, color=_BLUE, label=r"$A'(\mu)$")
        top.plot(means, expected, color=_ORANGE, ls="--", label=r"$\mathbb{E}[A'(f)]$")
        top.fill_between(means, at_mean, expected, color="0.85", label=r"noise $\epsilon$")
        top.set_title(name, fontsize=10)
        noise = family.label_noise(means, torch.full_like(means, var))
        bottom.plot(means, noise, color=_INK)
        bottom.axhline(0, color="0.6", lw=0.8)
        bottom.set_xlabel(r"mean $\mu$ of $f$")
        if float(noise.abs().max()) == 0:
            bottom.set_ylim(-1, 1)
    axes[0, 0].set_ylabel("mean of $y$ (unit of $y$)")
    axes[1, 0].set_ylabel(r"noise $\epsilon$")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def plot_expectation_error(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], xlabel: str, *, log_x: bool = False
) -> Figure:
    """Draw the error of ways to compute an expectation against what they cost.

    Args:
        panels: for each panel's title, by the name of the rule, its costs and its errors.
        xlabel: what the cost is.
        log_x: draw costs on a logarithmic axis.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3.0), sharey=True, squeeze=False)
    for ax, (title, rules) in zip(axes[0], panels.items(), strict=True):
        for color, marker, (name, (cost, error)) in zip(
            (_BLUE, _ORANGE, _GREEN, _RED), "os^D", rules.items(), strict=False
        ):
            ax.plot(cost, np.maximum(_array(error), 1e-17), color=color, marker=marker, ms=4, label=name)
        ax.set_yscale("log")
        if log_x:
            ax.set_xscale("log")
        ax.set_title(title, fontsize=10)
        ax.set_xlabel(xlabel)
    axes[0, 0].set_ylabel("absolute error")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


@styled
def plot_digit_noise(images: Tensor, noise: Tensor, labels: Tensor, predicted: Tensor, rows: Sequence[str]) -> Figure:
    """Draw images, each above the label noise of its classes.

    Args:
        images: (R, C, H, W) grey values, a row of images for each name in ``rows``.
        noise: (R, C, K) label noise.
        labels: (R, C) classes.
        predicted: (R, C) classes that the model predicts.
        rows: what each row shows.
    """
    picture, bars, y, guess = (_array(t) for t in (images, noise, labels, predicted))
    r, c, k = bars.shape
    figure, axes = plt.subplots(2 * r, c, figsize=(WIDTH, 2.35 * r), height_ratios=(1.25, 1) * r, squeeze=False)
    limit = 1.1 * np.abs(bars).max()
    for i in range(r):
        for j in range(c):
            top, bottom = axes[2 * i, j], axes[2 * i + 1, j]
            top.imshow(picture[i, j], cmap="gray_r")
            top.set_axis_off()
            top.set_title(f"label {y[i, j]}, says {guess[i, j]}", fontsize=8.5)
            bottom.bar(range(k), bars[i, j], color=[_ORANGE if n == y[i, j] else _BLUE for n in range(k)])
            bottom.axhline(0, color="0.4", lw=0.8)
            bottom.set_ylim(-limit, limit)
            bottom.set_xticks(range(0, k, 3))
            bottom.tick_params(labelleft=j == 0, labelsize=8)
        axes[2 * i + 1, 0].set_ylabel(f"{rows[i]}\nnoise $\\epsilon_k$", fontsize=9)
    figure.supxlabel("class $k$ (orange: the label)", fontsize=9)
    return figure


@styled
def plot_noise_confidence(panels: Mapping[str, tuple[Tensor, Tensor]], correct: Tensor) -> Figure:
    r"""Draw, a panel a posterior, the size of the noise against the confidence, the largest class probability.

    Args:
        panels: by title, the confidences :math:`\max_k S_k` (N,) and the sizes :math:`\|\epsilon\|_1` (N,).
        correct: (N,) whether the prediction is the label.
    """
    right_guess = _array(correct).astype(bool)
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 3.2), sharex=True, squeeze=False)
    for ax, (title, (confidence, size)) in zip(axes[0], panels.items(), strict=True):
        x, amount = _array(confidence), _array(size)
        ax.scatter(x[right_guess], amount[right_guess], s=7, color=_BLUE, alpha=0.4, linewidths=0, label="correct")
        ax.scatter(x[~right_guess], amount[~right_guess], s=24, color=_ORANGE, marker="^", linewidths=0, label="wrong")
        ax.set_title(title, fontsize=10)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("confidence (probability)")
    axes[0, 0].set_ylabel(r"noise $\|\epsilon\|_1$ (probability)")
    legend = figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, markerscale=1.5
    )
    plt.setp(legend.legend_handles, alpha=1)
    return figure


@styled
def plot_update_difference(differences: Mapping[str, Sequence[float]], tolerance: float = 1e-10) -> Figure:
    """Draw the largest difference between two sequences of updates at every step.

    Args:
        differences: one value a step, by name; zeros are drawn at 1e-17.
        tolerance: where to draw the line below which two updates count as the same.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 3.0))
    for ls, (name, values) in zip(("-", "--", "-.", ":"), differences.items(), strict=False):
        ax.semilogy(range(1, len(values) + 1), np.maximum(_array(values), 1e-17), ls=ls, lw=2, label=name)
    ax.axhline(tolerance, color=_INK, lw=1, ls=(0, (5, 5)))
    ax.annotate(f"tolerance {tolerance:g}", (1, tolerance), textcoords="offset points", xytext=(0, 4), fontsize=8.5)
    ax.set_xlabel("step")
    ax.set_ylabel(r"largest $|\Delta\theta|$")
    figure.legend(loc="outside upper center", ncols=2)
    return figure
