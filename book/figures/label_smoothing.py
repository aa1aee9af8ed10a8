"""Figures of Chapter 1: the effect of label smoothing on logits, the noise of each strategy, the soft labels of OLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from vlls.plots._style import PALETTE, SINGLE, WIDTH, legend_above, styled, width_of

__all__ = ["plot_accuracies", "plot_logit_gap", "plot_smoothing_strategies", "plot_soft_labels"]

_MARKERS = "os^Dvp"
_INK = "0.15"


@styled
def plot_logit_gap(
    gap_by_rate: Mapping[float, Tensor], limit_by_rate: Mapping[float, float]
) -> Figure:
    r"""Draw the logit gap of one example while gradient descent runs, and the finite gap where it must end.

    Args:
        gap_by_rate: for each smoothing rate α the gap :math:`f_y - f_j` after every step, shape (T,).
        limit_by_rate: for each rate its gap at the minimum, in logits; infinite ones are left out.

    Example:
        >>> import torch
        >>> figure = plot_logit_gap({0.1: torch.linspace(0, 4.5, 50)}, {0.1: 4.5})
        >>> figure.axes[0].get_xscale()
        'log'
    """
    figure, ax = plt.subplots(figsize=(SINGLE, 3.2))
    steps = 1
    for (rate, gap), color in zip(gap_by_rate.items(), PALETTE, strict=False):
        values = gap.detach().cpu().double().numpy()
        steps = max(steps, len(values))
        ax.plot(np.arange(1, len(values) + 1), values, color=color, label=rf"$\alpha = {rate:g}$")
        if np.isfinite(limit_by_rate[rate]):
            ax.axhline(limit_by_rate[rate], color=color, ls="--", lw=1)
    ax.set_xscale("log")
    ax.set_xlim(1, steps)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("gradient step")
    ax.set_ylabel("gap $f_y - f_j$ (logits)")
    ax.legend()
    return figure


@styled
def plot_smoothing_strategies(
    noise_by_name: Mapping[str, Tensor],
    confidence: Tensor,
    highlight: Tensor | None = None,
    *,
    highlight_name: str = "wrong label",
    confidence_name: str = "confidence in the prediction",
    columns: int = 3,
) -> Figure:
    r"""Draw how much noise each strategy gives each example, against the model's confidence, a panel a strategy.

    The amount is :math:`\|\epsilon\|_1 = \sum_k |\epsilon_k|`, in units of probability: label smoothing gives
    every example the same, an adaptive strategy does not. Each panel has its own scale, from zero. A line joins
    the medians of the ten tenths of the confidence axis, for the examples that are highlighted and for the others.

    Args:
        noise_by_name: the noise (N, K) of each strategy, as its ``label_noise`` returns it, in drawing order.
        confidence: how sure the model is of each example, probabilities (N,): of the predicted class, or of the label.
        highlight: which examples to set apart, booleans of shape (N,); mislabelled ones, say.
        highlight_name: their name in the legend.
        confidence_name: the label of the horizontal axis.
        columns: panels in a row.

    Raises:
        ValueError: if there is no strategy, or the noise, the confidences and ``highlight`` differ in length.

    Example:
        >>> import torch
        >>> from vlls.smoothing import LabelSmoothingLoss
        >>> logits, labels = torch.randn(50, 3), torch.randint(3, (50,))
        >>> confidence = logits.softmax(dim=1).max(dim=1).values
        >>> noise = {"label smoothing": LabelSmoothingLoss(0.1).label_noise(logits, labels)}
        >>> plot_smoothing_strategies(noise, confidence).axes[0].get_title()
        'label smoothing'
    """
    if not noise_by_name:
        raise ValueError(
            "noise_by_name is empty; pass at least one strategy, as {name: criterion.label_noise(...)}"
        )
    rows_of = {**noise_by_name, **({} if highlight is None else {"highlight": highlight})}
    for name, values in rows_of.items():
        if len(values) != len(confidence):
            raise ValueError(
                f"{name!r} has {len(values)} rows for {len(confidence)} confidences; pass one for each"
            )
    x = confidence.detach().cpu().double().numpy()
    marked = (
        np.zeros(len(x), dtype=bool) if highlight is None else highlight.cpu().numpy().astype(bool)
    )
    columns = min(columns, len(noise_by_name))
    rows = -(-len(noise_by_name) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(width_of(columns), 2.4 * columns), 2.15 * rows + 0.3),
        sharex=True,
        squeeze=False,
    )
    for ax, (name, noise) in zip(axes.flat, noise_by_name.items(), strict=False):
        _scatter(
            ax, x, noise.detach().cpu().double().abs().sum(dim=1).numpy(), marked, highlight_name
        )
        ax.set_title(name, fontsize=10)
    for ax in axes.flat[len(noise_by_name) :]:
        ax.remove()
    figure.supylabel(r"noise $\|\epsilon\|_1$ (probability)", fontsize=10)
    figure.supxlabel(f"{confidence_name} (probability)", fontsize=10)
    for ax in axes.flat[max(0, len(noise_by_name) - columns) : len(noise_by_name)]:
        ax.tick_params(labelbottom=True)
    if marked.any():
        legend_above(figure, 2, opaque=True, markerscale=2)
    return figure


def _scatter(
    ax: Axes, x: np.ndarray, amount: np.ndarray, marked: np.ndarray, marked_name: str
) -> None:
    """Draw the examples of one strategy and the medians, marked ones and others separately."""
    groups = (
        (~marked, "right label", "o", PALETTE[0], 5),
        (marked, marked_name, "^", PALETTE[1], 9),
    )
    for rows, name, marker, color, size in groups:
        label = name if marked.any() else "example"
        ax.scatter(
            x[rows],
            amount[rows],
            s=size,
            marker=marker,
            alpha=0.35,
            color=color,
            linewidths=0,
            label=label,
        )
    tenth = np.minimum((10 * x).astype(int), 9)
    for rows, _, marker, color, _ in groups:
        filled = [t for t in range(10) if (rows & (tenth == t)).sum() >= 5]
        medians = [np.median(amount[rows & (tenth == t)]) for t in filled]
        ax.plot(
            (np.array(filled) + 0.5) / 10,
            medians,
            color=_INK,
            lw=0.9,
            marker=marker,
            ms=4,
            mfc=color,
        )
    ax.set_xlim(-0.02, 1.02)
    ax.set_xticks([0, 0.5, 1])
    ax.set_ylim(0, 1.08 * max(amount.max(), 1e-3))


@styled
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
            raise ValueError(
                f"soft labels have shape {tuple(matrix.shape)}; pass a square matrix, ({k}, {k})"
            )
    names = [str(y) for y in range(k)] if class_names is None else list(class_names)
    if len(names) != k:
        raise ValueError(
            f"{len(names)} class names for {k} classes; pass one for each row of the soft labels"
        )
    side = (WIDTH - 1.2) / max(2, len(matrices))
    figure, axes = plt.subplots(
        1,
        len(matrices),
        figsize=(side * len(matrices) + 1.2, side + 0.4),
        sharey=True,
        squeeze=False,
    )
    for ax, (title, matrix) in zip(axes[0], matrices.items(), strict=True):
        image = ax.imshow(
            matrix.detach().cpu().double().clamp(min=smallest).numpy(),
            cmap="viridis",
            norm=LogNorm(smallest, 1.0),
        )
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("class $k$")
        ax.set_xticks(range(k), names, rotation=90 if max(map(len, names)) > 2 else 0)
        ax.set_yticks(range(k), names)
        ax.tick_params(length=0)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("labelled class $y$")
    figure.colorbar(
        image,
        ax=axes,
        label="soft label $s_{yk}$ (probability)",
        extend="min",
        shrink=0.85,
        pad=0.02,
    )
    return figure


@styled
def plot_accuracies(accuracy_by_name: Mapping[str, Tensor]) -> Figure:
    """Draw the accuracy of every strategy: a dot a seed, a bar for the mean; a line joins a seed's runs.

    Args:
        accuracy_by_name: accuracies in percent, one a seed and in the same order of seeds, shape (S,) each.

    Example:
        >>> import torch
        >>> figure = plot_accuracies({"plain": torch.tensor([80.0, 82.0]), "smoothed": torch.tensor([85.0, 86.0])})
        >>> figure.axes[0].get_xlabel()
        'accuracy on correctly labelled test data (%)'
    """
    names = list(accuracy_by_name)
    values = np.stack(
        [accuracy_by_name[name].detach().cpu().double().numpy() for name in names]
    )  # (methods, seeds)
    rows = np.arange(len(names))[::-1]
    figure, ax = plt.subplots(figsize=(SINGLE, 0.36 * len(names) + 1.3))
    for seed, column in enumerate(values.T):
        color, marker = PALETTE[seed % len(PALETTE)], _MARKERS[seed % len(_MARKERS)]
        ax.plot(
            column, rows, color=color, lw=0.6, alpha=0.6, marker=marker, ms=5, label=f"seed {seed}"
        )
    ax.vlines(
        values.mean(axis=1), rows - 0.3, rows + 0.3, color=_INK, lw=2.5, label="mean", zorder=3
    )
    ax.set_yticks(rows, names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel("accuracy on correctly labelled test data (%)")
    legend_above(figure, 3)
    return figure
