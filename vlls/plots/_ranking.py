"""The label noise of a ranking, drawn: the values in order and the examples at both ends."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from vlls._names import check_whole_number
from vlls.plots._style import WIDTH, as_array, styled

_RED, _INK = "#c1272d", "0.15"  # the paper's colour for IVON, dark enough beside the grey line
_LEAST = 1e-5  # the bottom of the logarithmic axis
_NOISE = r"noise $\sqrt{\mathbb{E}\,\|\epsilon\|^2}$ (probability)"


@styled
def plot_noise_order(
    noise: Tensor | np.ndarray,
    smoothing: float,
    images: Tensor,
    labels: Tensor | np.ndarray,
    predicted: Tensor | np.ndarray,
    *,
    shown: int = 9,
) -> Figure:
    """Draw Figure 3 of the paper: the noise of all examples in order, and those with the highest and the lowest.

    Values below 1e-5 are drawn at 1e-5, and the label of the axis says so.

    Args:
        noise: (N,) noise of every example, the highest first, as :func:`.rank_examples` sorts it.
        smoothing: the noise that label smoothing adds to every example, drawn as a dashed line.
        images: (N, H, W) grey values, or (N, H, W, 3) colours, in the same order.
        labels: (N,) classes.
        predicted: (N,) classes that the model predicts.
        shown: examples at each end, at most; all of them if they are fewer.

    Raises:
        ValueError: if the arrays differ in length, are empty or of other shapes, the noise or ``smoothing`` is negative
            or not finite, or ``shown`` is no whole number from 1.

    Example:
        >>> import torch
        >>> noise, images = torch.logspace(-1, -4, 20), torch.rand(20, 8, 8)
        >>> figure = plot_noise_order(noise, 0.1, images, torch.zeros(20), torch.ones(20), shown=3)
        >>> len(figure.axes)  # the curve, and three images at each end
        7
    """
    size, picture, y, guess = (as_array(values) for values in (noise, images, labels, predicted))
    check_whole_number(shown, "shown", 1)
    if size.ndim != 1 or not len(size) or not len(size) == len(picture) == len(y) == len(guess):
        shapes = ", ".join(str(np.shape(values)) for values in (size, picture, y, guess))
        raise ValueError(f"noise, images, labels and predicted have shapes {shapes}; pass N of each, at least one")
    if picture.ndim != 3 and (picture.ndim != 4 or picture.shape[3] != 3):
        raise ValueError(f"images have shape {picture.shape}; pass (N, H, W) grey values or (N, H, W, 3) colours")
    for name, values in (("noise", size), ("smoothing", np.asarray(smoothing))):
        if not ((values >= 0) & np.isfinite(values)).all():
            raise ValueError(f"{name} holds values that are negative, NaN or infinite; pass finite ones, 0 or more")
    shown = min(shown, len(size))
    figure, axes = plt.subplot_mosaic(
        [["order"] * shown, [f"high{i}" for i in range(shown)], [f"low{i}" for i in range(shown)]],
        figsize=(WIDTH, 4.6),
        height_ratios=(2.6, 1, 1),
    )
    ax = axes["order"]
    ax.semilogy(np.arange(1, len(size) + 1), size.clip(_LEAST), color=_RED, label="IVON")
    ax.axhline(smoothing, color="0.35", linestyle="dashed", label="label smoothing")
    below = "; values below 1e-5 are drawn there" if (size < _LEAST).any() else ""
    ax.set(xlim=(0, len(size) + 1), ylim=(_LEAST, 1), xlabel=f"training image, in the order of IVON's noise{below}")
    ax.set_ylabel(_NOISE, fontsize=9)
    ax.legend(loc="lower left")
    for row, name in (("high", "highest"), ("low", "lowest")):
        for i in range(shown):
            at = i if row == "high" else len(size) - shown + i
            ax = axes[f"{row}{i}"]
            ax.imshow(picture[at], cmap="gray_r")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
            wrong = y[at] != guess[at]
            ax.set_title(f"{y[at]} → {guess[at]}", fontsize=8.5, color=_RED if wrong else _INK)
        axes[f"{row}0"].set_ylabel(f"{name}\nnoise", fontsize=9)
    return figure
