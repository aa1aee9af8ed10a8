r"""Figures of Chapter 7: which examples get label noise, and whether it finds those whose labels were changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from figures.learned_variance import COLORS
from vlls.plots._style import PALETTE, SINGLE, WIDTH, as_array, legend_above, styled

__all__ = [
    "plot_noise_structure",
    "plot_regular_and_atypical",
    "plot_relabelled_auroc",
    "plot_relabelled_scores",
]

_BLUE, _ORANGE = PALETTE[0], PALETTE[1]
_GRAY, _INK = "0.6", "0.15"
_LEAST = 1e-5  # the bottom of logarithmic axes: less noise than that is drawn there
_NOISE = r"noise $\sqrt{\mathbb{E}\,\|\epsilon\|^2}$ (probability)"


@styled
def plot_regular_and_atypical(
    images: Tensor,
    smoothing: Tensor,
    noise: Mapping[str, Tensor],
    rows: Sequence[str],
    titles: Sequence[str],
) -> Figure:
    """Draw Figure 1 of the paper: examples, each beside the noise of its classes.

    Args:
        images: (R, H, W) grey values.
        smoothing: (R, K) size of label smoothing's noise of each class.
        noise: for each posterior's name, (R, K) size of variational learning's noise of each class.
        rows: the name of each row.
        titles: a line above the bars of each row.
    """
    picture, plain = as_array(images), as_array(smoothing)
    adaptive = {name: as_array(values) for name, values in noise.items()}
    num, k = plain.shape
    figure, axes = plt.subplots(
        num, 2, figsize=(SINGLE + 0.6, 1.9 * num + 0.4), width_ratios=(1, 2.6), squeeze=False
    )
    top, width = 1.5 * max(plain.max(), *(values.max() for values in adaptive.values())), 0.27
    for row, (left, right) in enumerate(axes):
        left.imshow(picture[row], cmap="gray_r")
        left.set(xticks=[], yticks=[])
        left.set_xlabel(rows[row], fontsize=9)
        left.grid(visible=False)
        left.spines[:].set_visible(False)
        places = np.arange(k) - width * len(adaptive) / 2
        label = r"label smoothing: $|\epsilon_k|$"
        right.bar(places, plain[row], width, color=_GRAY, label=label)
        for i, (name, values) in enumerate(adaptive.items()):
            label = rf"{name}: std of $\epsilon_k$"
            right.bar(places + width * (i + 1), values[row], width, color=COLORS[i], label=label)
        right.set_xticks(range(k))
        right.set(ylim=(0, top), ylabel="noise (probability)")
        right.set_title(f"{rows[row]}, {titles[row]}", fontsize=9, loc="left")
        right.set_axisbelow(True)
    axes[0, 1].legend(loc="upper right", fontsize=8)
    axes[-1, 1].set_xlabel("class $k$")
    return figure


@styled
def plot_noise_structure(
    doubt: Tensor, noise: Tensor, correct: Tensor, labels: Tensor | np.ndarray, other: Tensor
) -> Figure:
    r"""Draw noise against the doubt of the prediction, by class, and against the noise of another network.

    Args:
        doubt: (N,) one minus the largest class probability.
        noise: (N,) noise of the network.
        correct: (N,) whether its prediction is the label.
        labels: (N,) classes.
        other: (N,) noise of the same examples under another network.
    """
    x, size, y, second = (as_array(values) for values in (doubt, noise, labels, other))
    right = as_array(correct).astype(bool)
    figure, (first, middle, last) = plt.subplots(1, 3, figsize=(WIDTH, 2.9))
    for ax, at, floor in ((first, x, _LEAST), (last, second, _LEAST)):
        at, up = at.clip(floor), size.clip(_LEAST)
        ax.loglog(
            at[right], up[right], "o", color=_BLUE, markersize=2.5, alpha=0.4, markeredgewidth=0
        )
        ax.loglog(at[~right], up[~right], "^", color=_ORANGE, markersize=5, markeredgewidth=0)
        ax.set(xlim=(floor / 1.5, 1.4), ylim=(_LEAST / 1.5, 1.4))
        ax.set_xticks([1e-5, 1e-3, 1e-1])
        ax.set_yticks([1e-5, 1e-3, 1e-1])
        ax.minorticks_off()
    first.plot([], [], "o", color=_BLUE, markersize=4, label="correct")
    first.plot([], [], "^", color=_ORANGE, markersize=5, label="misclassified")
    first.legend(loc="lower right", fontsize=8, handletextpad=0.1)
    first.set_xlabel("doubt (probability)", fontsize=9)
    first.set_ylabel(_NOISE, fontsize=9)
    last.plot([_LEAST, 1], [_LEAST, 1], color=_INK, linewidth=0.8)
    last.set_xlabel("second network (probability)", fontsize=9)
    last.set_ylabel("noise, first network (probability)", fontsize=9)
    classes = np.unique(y)
    parts = middle.boxplot(
        [size[y == k] for k in classes],
        positions=classes,
        widths=0.6,
        showfliers=False,
        whis=(5, 95),
    )
    plt.setp(parts["medians"], color=_ORANGE, linewidth=1.6)
    means = [size[y == k].mean() for k in classes]
    middle.plot(classes, means, "D", color=_BLUE, markersize=4)
    middle.set(xlabel="class", ylim=(0, None))
    middle.set_ylabel("noise (probability)", fontsize=9)
    middle.set_xticks(classes, [str(k) for k in classes], fontsize=8)
    return figure


@styled
def plot_relabelled_scores(scores: Mapping[str, Tensor], wrong: Tensor) -> Figure:
    """Draw for each score how it is distributed among examples with changed labels and among the others.

    Args:
        scores: for each panel, (N,) values.
        wrong: (N,) whether the label was changed.
    """
    changed = as_array(wrong).astype(bool)
    figure, axes = plt.subplots(1, len(scores), figsize=(WIDTH, 2.9), sharey=True, squeeze=False)
    groups: tuple[tuple[np.ndarray, str, Any, str], ...] = (
        (~changed, "label as it was", _BLUE, "solid"),
        (changed, "label changed", _ORANGE, "dashed"),
    )
    for ax, (name, score) in zip(axes[0], scores.items(), strict=True):
        for rows, label, color, style in groups:
            values = np.sort(as_array(score)[rows])
            share = np.arange(1, len(values) + 1) / len(values)
            ax.step(values, share, where="post", color=color, linestyle=style, label=label)
        most = float(score.max())
        ax.set(xlabel=name, xlim=(-0.07 * most, 1.03 * most), ylim=(0, 1))
    axes[0, 0].set_ylabel("share of images at or below")
    axes[0, 0].legend(loc="lower right")
    return figure


@styled
def plot_relabelled_auroc(
    auroc: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
) -> Figure:
    """Draw the area under the ROC curve of each score against the rate of errors, a panel a kind of errors.

    Args:
        auroc: for each kind, for each score, for each rate, one value a seed; the line is their mean, the bar their
            standard deviation.
    """
    figure, axes = plt.subplots(1, len(auroc), figsize=(WIDTH, 3.4), sharey=True, squeeze=False)
    for ax, (kind, by_score) in zip(axes[0], auroc.items(), strict=True):
        _curves(ax, by_score)
        ax.axhline(0.5, color=_INK, linewidth=0.9, linestyle="dotted")
        ax.set(title=kind, xlabel="rate of changed labels (%)", ylim=(0.4, 1.02))
    axes[0, 0].set_ylabel("area under the ROC curve")
    legend_above(figure, 3)
    return figure


def _curves(ax: Axes, by_score: Mapping[str, Mapping[float, Sequence[float]]]) -> None:
    """Draw a line with bars for each score, shifted a little so that none covers another."""
    for i, ((name, by_rate), marker) in enumerate(zip(by_score.items(), "os^vDP", strict=False)):
        rates = 100 * np.array(list(by_rate)) + 0.3 * (i - 2.5)
        centre = np.array([np.mean(values) for values in by_rate.values()])
        spread = np.array(
            [np.std(values, ddof=1) if len(values) > 1 else 0.0 for values in by_rate.values()]
        )
        ax.errorbar(
            rates,
            centre,
            spread,
            color=PALETTE[i],
            marker=marker,
            markersize=4.5,
            linewidth=1.2,
            capsize=2,
            label=name,
        )
    ax.set_xticks([100 * rate for rate in next(iter(by_score.values()))])
