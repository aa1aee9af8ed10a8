"""Figure of Chapter 12: images by class."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from vlls.plots._style import WIDTH, styled

__all__ = ["plot_class_images"]


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
