"""Figures of Chapters 10 and 12: which labels are given to the images of each class, and images by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlls.plots._style import WIDTH, styled

__all__ = ["plot_class_images", "plot_confusion"]

_WRONG, _DIAGONAL = "Reds", "0.9"


@styled
def plot_class_images(
    images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 7
) -> Figure:
    """Draw images in rows, each under its title.

    Args:
        images: arrays of shape (H, W, 3) or (H, W), uint8 or in [0, 1].
        titles: one for each image.
        columns: images in a row.

    Raises:
        ValueError: if there is not one title for each image.

    Example:
        >>> import numpy as np
        >>> figure = plot_class_images([np.zeros((4, 4, 3))] * 2, ("coat", "hat"))
        >>> [ax.get_title() for ax in figure.axes if ax.get_title()]
        ['coat', 'hat']
    """
    if len(images) != len(titles):
        raise ValueError(
            f"there are {len(images)} images and {len(titles)} titles; pass one title for each image"
        )
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, 1.3 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image, cmap="gray")
        ax.set_title(title, fontsize=8)
    return figure


@styled
def plot_confusion(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    r"""Draw which label an image of each class is given, a heat map for each matrix.

    The colour shows wrong labels only, on one scale for all matrices; the diagonal is grey. Entries are in per cent;
    those that round to zero are left out.

    Args:
        matrices: for each panel's title, the shares of the given labels by correct class, fractions of shape (K, K);
            rows are correct classes and sum to one.
        classes: the K class names.

    Raises:
        ValueError: if a matrix is not of shape (K, K), or its rows do not sum to one.

    Example:
        >>> import numpy as np
        >>> figure = plot_confusion({"a": np.array([[0.9, 0.1], [0.2, 0.8]])}, ("cat", "dog"))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['90', '10', '20', '80']
    """
    number = len(classes)
    for title, matrix in matrices.items():
        if matrix.shape != (number, number) or not np.allclose(matrix.sum(1), 1):
            raise ValueError(
                f"matrix {title!r} of shape {matrix.shape} must have shape ({number}, {number}) and rows that sum to "
                "one; pass the shares of the given labels of each correct class"
            )
    size = (WIDTH, WIDTH / len(matrices) + 0.9)
    figure, axes = plt.subplots(1, len(matrices), figsize=size, sharey=True, squeeze=False)
    largest = max(float((matrix * (1 - np.eye(number))).max()) for matrix in matrices.values())
    for ax, (title, matrix) in zip(axes[0], matrices.items(), strict=True):
        _heat_map(ax, 100 * matrix, classes, max(100 * largest, 1e-9))
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("given label")
    axes[0, 0].set_ylabel("correct class")
    return figure


def _heat_map(ax: Axes, matrix: np.ndarray, classes: Sequence[str], largest: float) -> None:
    """Draw one matrix of per cents."""
    number = len(classes)
    colours = plt.get_cmap(_WRONG).with_extremes(bad=_DIAGONAL)
    ax.imshow(
        np.ma.masked_where(np.eye(number, dtype=bool), matrix), cmap=colours, vmin=0, vmax=largest
    )
    for (i, j), value in np.ndenumerate(matrix):
        if round(value):
            dark = i != j and value > 0.6 * largest
            ax.text(
                j,
                i,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
    ax.set_xticks(range(number), classes, rotation=90, fontsize=8)
    ax.set_yticks(range(number), classes, fontsize=8)
    ax.tick_params(length=0)
    ax.grid(visible=False)
