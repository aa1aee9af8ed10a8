"""Figures of Chapter 1: the noise that each strategy adds to the labels, and the soft labels of OLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["plot_smoothing_strategies", "plot_soft_labels"]

_COLORS = sns.color_palette("colorblind")
_CLEAN, _HIGHLIGHT, _MEDIAN = _COLORS[0], _COLORS[1], "0.15"


def plot_smoothing_strategies(
    noise_by_name: Mapping[str, Tensor],
    confidence: Tensor,
    highlight: Tensor | None = None,
    *,
    highlight_name: str = "wrong label",
    columns: int = 3,
) -> Figure:
    r"""Draw, a panel a strategy, how much noise each example gets against the model's confidence in its label.

    The amount is :math:`\|\epsilon\|_1 = \sum_k |\epsilon_k|`, in units of probability: label smoothing gives
    every example the same, an adaptive strategy does not. Each panel has its own scale, from zero. A line joins
    the medians of the ten tenths of the confidence axis.

    Args:
        noise_by_name: the noise (N, K) of each strategy, as its ``label_noise`` returns it, in drawing order.
        confidence: the probability (N,) that the model gives to each example's label, in [0, 1].
        highlight: which examples to set apart, booleans of shape (N,); mislabelled ones, say.
        highlight_name: what the legend calls them.
        columns: panels in a row.

    Returns:
        The figure, on an opaque white background.

    Raises:
        ValueError: if there is no strategy, or the noise, the confidences and ``highlight`` differ in length.

    Example:
        >>> from vlls.smoothing import LabelSmoothingLoss
        >>> logits, labels = torch.randn(50, 3), torch.randint(3, (50,))
        >>> confidence = logits.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
        >>> noise = {"label smoothing": LabelSmoothingLoss(0.1).label_noise(logits, labels)}
        >>> plot_smoothing_strategies(noise, confidence).axes[0].get_title()
        'label smoothing'
    """
    if not noise_by_name:
        raise ValueError("noise_by_name is empty; pass at least one strategy, as {name: criterion.label_noise(...)}")
    highlight = torch.zeros(len(confidence), dtype=torch.bool) if highlight is None else highlight
    for name, values in {**noise_by_name, "highlight": highlight}.items():
        if len(values) != len(confidence):
            raise ValueError(f"{name!r} has {len(values)} rows for {len(confidence)} confidences; pass one for each")
    columns = min(columns, len(noise_by_name))
    rows = -(-len(noise_by_name) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.7 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    figure.set_facecolor("white")
    x, marked = confidence.detach().cpu().double().numpy(), highlight.cpu().numpy().astype(bool)
    for ax, (name, noise) in zip(axes.flat, noise_by_name.items(), strict=False):
        _scatter(ax, x, noise.detach().cpu().double().abs().sum(dim=1).numpy(), marked, highlight_name)
        ax.set_title(name)
    for ax in axes.flat[len(noise_by_name) :]:
        ax.remove()
    for ax in axes[:, 0]:
        ax.set_ylabel("noise $\\|\\epsilon\\|_1$ (probability)")
    for ax in axes.flat[max(0, len(noise_by_name) - columns) : len(noise_by_name)]:
        ax.set_xlabel("confidence in the label (probability)")
        ax.tick_params(labelbottom=True)
    if marked.any():
        handles, names = axes[0, 0].get_legend_handles_labels()
        legend = figure.legend(
            handles, names, loc="outside upper center", ncols=len(names), frameon=False, markerscale=2
        )
        plt.setp(legend.legend_handles, alpha=1)
    return figure


def _scatter(ax: Axes, x: np.ndarray, amount: np.ndarray, marked: np.ndarray, marked_name: str) -> None:
    """Draw the examples of one strategy, its medians, and set apart what is marked."""
    ax.set_facecolor("white")
    ax.scatter(x[~marked], amount[~marked], s=5, alpha=0.35, color=_CLEAN, linewidths=0, label="example")
    ax.scatter(
        x[marked], amount[marked], s=11, marker="^", alpha=0.6, color=_HIGHLIGHT, linewidths=0, label=marked_name
    )
    tenth = np.minimum((10 * x).astype(int), 9)
    filled = np.unique(tenth)
    medians = [np.median(amount[tenth == t]) for t in filled]
    ax.plot((filled + 0.5) / 10, medians, color=_MEDIAN, lw=1.2, marker="o", ms=3, label="median")
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(0, 1.08 * max(amount.max(), 1e-3))
    sns.despine(ax=ax)


def plot_soft_labels(
    soft_labels: Tensor | Mapping[str, Tensor],
    class_names: Sequence[str] | None = None,
    *,
    smallest: float = 1e-3,
) -> Figure:
    """Draw soft labels as a heat map, on a logarithmic colour scale that shows which classes share probability.

    Args:
        soft_labels: a (K, K) matrix whose row y is the soft label of class y, as
            :attr:`vlls.smoothing.OnlineLabelSmoothing.soft_labels`, or several by name, drawn side by side.
        class_names: names of the K classes; their numbers unless given.
        smallest: the probability at the dark end of the scale; smaller ones are drawn like it.

    Returns:
        The figure, on an opaque white background.

    Raises:
        ValueError: if a matrix is not square, or ``class_names`` are not as many as its rows.

    Example:
        >>> from vlls.smoothing import OnlineLabelSmoothing
        >>> figure = plot_soft_labels(OnlineLabelSmoothing(0.5, 3).soft_labels, ["cat", "dog", "owl"])
        >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        ['cat', 'dog', 'owl']
    """
    matrices = soft_labels if isinstance(soft_labels, Mapping) else {"": soft_labels}
    k = len(next(iter(matrices.values())))
    for matrix in matrices.values():
        if tuple(matrix.shape) != (k, k):
            raise ValueError(f"soft labels have shape {tuple(matrix.shape)}; pass a square matrix, ({k}, {k})")
    names = [str(y) for y in range(k)] if class_names is None else list(class_names)
    if len(names) != k:
        raise ValueError(f"{len(names)} class names for {k} classes; pass one for each row of the soft labels")
    side = min(max(0.36 * k, 2.6), 7.0)
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(side * len(matrices) + 1.6, side + 0.9), squeeze=False, layout="constrained"
    )
    figure.set_facecolor("white")
    for ax, (title, matrix) in zip(axes[0], matrices.items(), strict=True):
        image = ax.imshow(
            matrix.detach().cpu().double().clamp(min=smallest).numpy(), cmap="viridis", norm=LogNorm(smallest, 1.0)
        )
        ax.set_title(title)
        ax.set_xlabel("class $k$")
        ax.set_xticks(range(k), names, rotation=90 if max(map(len, names)) > 2 else 0)
        ax.set_yticks(range(k), names)
        ax.tick_params(length=0)
    axes[0, 0].set_ylabel("labelled class $y$")
    figure.colorbar(image, ax=axes, label="soft label $s_{yk}$ (probability)", extend="min", shrink=0.9, pad=0.02)
    return figure
