"""Figures and sentences of Chapter 6: estimates of a network's label noise, its layers, its scale, and SAM's noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from figures.learned_variance import valid_up_to
from vlls.optim import LearnedShare
from vlls.plots._style import PALETTE, SINGLE, WIDTH, legend_above, styled

__all__ = [
    "plot_layer_shares",
    "plot_noise_errors",
    "plot_noise_scale",
    "plot_sam_noise",
    "range_in_words",
    "share_in_words",
]


@styled
def plot_noise_errors(history: Mapping[int, Mapping[str, float]], title: str = "") -> Figure:
    """Draw the relative error of every estimate against the epoch of training.

    Args:
        history: for each epoch, the error by estimate; the first estimate is the reference's own error.
        title: the data that are shown.
    """
    figure, ax = plt.subplots(figsize=(SINGLE, 3.4))
    epochs = list(history)
    reference, *names = next(iter(history.values()))
    for name, color, marker in zip(names, PALETTE, "osD^v<>", strict=False):
        ax.plot(
            epochs,
            [100 * history[t][name] for t in epochs],
            color=color,
            marker=marker,
            markersize=5,
            label=name,
        )
    ax.plot(
        epochs, [100 * history[t][reference] for t in epochs], ":", color="0.3", label=reference
    )
    ax.set_yscale("log")
    ax.set(xlabel="epoch of training", ylabel="error of the magnitude (%)", title=title)
    ax.set_xticks(epochs)
    ax.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    ax.set_ylim(0.7 * min(map(min, (of.values() for of in history.values()))) * 100, 100)
    legend_above(figure, 3, fontsize=9)
    return figure


@styled
def plot_layer_shares(
    variances: Mapping[str, float], weights: Mapping[str, int], title: str = ""
) -> Figure:
    """Draw each layer's share of the noise's variance beside its share of the weights.

    Args:
        variances: by layer.
        weights: number of weights by layer.
        title: the data that are shown.
    """
    figure, ax = plt.subplots(figsize=(SINGLE, 2.8))
    place = np.arange(len(variances))
    for offset, values, color, label in (
        (-0.19, variances, PALETTE[3], "of the noise's variance"),
        (0.19, weights, "0.65", "of the weights"),
    ):
        whole = sum(values.values())
        shares = [100 * values[name] / whole for name in variances]
        bars = ax.bar(place + offset, shares, 0.36, color=color, label=label)
        ax.bar_label(bars, [f"{share:.0f}" for share in shares], padding=2, fontsize=9)
    ax.set_xticks(place, list(variances))
    ax.set(xlabel="layer", ylabel="share (%)", title=title)
    ax.margins(y=0.15)
    ax.grid(axis="x", visible=False)
    ax.set_axisbelow(True)
    ax.legend()
    return figure


@styled
def plot_noise_scale(
    scales: Sequence[float], curves: Mapping[str, Sequence[float]], title: str = ""
) -> Figure:
    """Draw standard deviation and mean of the noise against the scale of the posterior, with lines of slopes 1 and 2.

    Args:
        scales: factors c of the posterior's standard deviations.
        curves: ``std`` and ``mean``, a value for each scale.
        title: the data that are shown.
    """
    figure, ax = plt.subplots(figsize=(SINGLE, 3.2))
    c = np.asarray(scales)
    for (name, values), slope, color, marker in zip(
        curves.items(), (1, 2), PALETTE, "os", strict=False
    ):
        ax.loglog(c, values, marker, color=color, label=f"{name} of the noise")
        ax.loglog(c, values[-1] * (c / c[-1]) ** slope, color=color, linewidth=1.0, alpha=0.7)
    ax.set(
        xlabel="scale c of the posterior's standard deviations (×)",
        ylabel="root mean square (probability)",
        title=title,
    )
    ax.set_xticks(c, [f"{value:g}" for value in c])
    ax.xaxis.set_minor_locator(plt.NullLocator())
    ax.legend()
    return figure


@styled
def plot_sam_noise(
    ivon: Tensor, sam: Tensor, residual: Tensor, right: Tensor, title: str = ""
) -> Figure:
    """Draw the size of SAM's noise against that of IVON's, and against the residual.

    Args:
        ivon: (B,) magnitudes.
        sam: (B,) norms.
        residual: (B,) norms of prediction minus label.
        right: (B,) whether the label is right.
        title: the data that are shown.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.1), sharey=True)
    for rows, color, marker, label in (
        (right, PALETTE[0], "o", "right label"),
        (~right, PALETTE[3], "X", "wrong label"),
    ):
        for ax, x in zip(axes, (ivon, residual), strict=True):
            ax.plot(
                x[rows].cpu(),
                sam[rows].cpu(),
                marker,
                color=color,
                markersize=5,
                alpha=0.8,
                label=label,
            )
    axes[0].set(
        xscale="log",
        yscale="log",
        xlabel="IVON's noise (probability)",
        ylabel="SAM's noise (probability)",
    )
    axes[1].set(xlabel="residual (probability)")
    axes[1].legend()
    figure.suptitle(title, fontsize=11)
    return figure


def share_in_words(share: LearnedShare) -> str:
    """Say whether a network's posterior is learned, or still the isotropic one that IVON starts from.

    Args:
        share: of the optimizer that trained it.
    """
    if share.total < 0.1:
        verdict = "**The posterior is hardly learned**: it is nearly isotropic, and its width was chosen by us"
    elif share.total < 0.5:
        verdict = (
            "**A smaller part of the posterior is learned**: most of its width was chosen by us"
        )
    else:
        verdict = "**The posterior is learned**: the data decided most of its width"
    return (
        f"{verdict}. The data taught {share.median:.1%} of the median weight's Hessian and {share.total:.1%} in all. "
        f"The standard deviation was {share.std_start:.4f} at the start; now the weights have {share.std_low:.4f} to "
        f"{share.std_high:.4f} (5 % to 95 %)."
    )


def range_in_words(
    spreads: Sequence[float], errors: Mapping[str, Sequence[float]], now: float
) -> str:
    r"""Say up to which of the tried spreads of the logits each estimate is within 10 %.

    Args:
        spreads: :math:`\sqrt{\operatorname{tr} V}`, rising.
        errors: for each estimate, its relative errors.
        now: the spread at the posterior's own standard deviations.

    Example:
        >>> tried = {"Eq. 20": [0.02, 0.07, 0.3], "pushed": [0.0, 0.0, 0.1]}
        >>> print(range_in_words([0.5, 1.0, 2.0], tried, 1.0))
        Within 10 %: Eq. 20 up to σ‖J‖ = 1, pushed at all spreads tried (up to 2). The posterior here has 1.
    """
    told = []
    for name, of_name in errors.items():
        limit = valid_up_to(spreads, of_name)
        if limit is None:
            told.append(f"{name} at none")
        elif limit == spreads[-1]:
            told.append(f"{name} at all spreads tried (up to {limit:.2g})")
        else:
            told.append(f"{name} up to σ‖J‖ = {limit:.2g}")
    return f"Within 10 %: {', '.join(told)}. The posterior here has {now:.2g}."
