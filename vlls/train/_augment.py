"""Images on their way into the network, on the device: cut out, flipped, normalised."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Draw", "center", "crop_flip", "draw", "normalize", "pad"]

Draw = tuple[Tensor, Tensor, Tensor]
"""Rows, columns and flips, (B,) each, of the images of a batch."""


def pad(images: Tensor, by: int) -> Tensor:
    """Pad uint8 images (N, H, W, C) with black on all sides, once for a whole data set."""
    n, height, width, channels = images.shape
    padded = images.new_zeros(n, height + 2 * by, width + 2 * by, channels)
    padded[:, by : by + height, by : by + width] = images
    return padded


def draw(batch_size: int, room: int, generator: torch.Generator) -> Draw:
    """Draw where to cut each image, 0..``room`` pixels from its top and left, and whether to flip it.

    The numbers are those of a whole batch: processes and weight samples that share it each take their rows.
    """
    device = generator.device
    top, left = torch.randint(0, room + 1, (2, batch_size), generator=generator, device=device)
    flip = torch.randint(0, 2, (batch_size,), generator=generator, device=device)
    return top, left, flip.bool()


def crop_flip(images: Tensor, rows: Tensor, size: int, how: Draw) -> Tensor:
    """Cut ``size`` × ``size`` pixels out of ``images[rows]`` and flip some, in one gather.

    Args:
        images: (N, H, W, C) uint8.
        rows: (B,) which images.
        size: height and width of the result.
        how: (B,) each, of :func:`draw`.

    Returns:
        Images (B, size, size, C), uint8.

    Example:
        >>> images = torch.arange(9, dtype=torch.uint8).reshape(1, 3, 3, 1)
        >>> how = (torch.tensor([1]), torch.tensor([0]), torch.tensor([True]))
        >>> crop_flip(images, torch.tensor([0]), 2, how).squeeze().tolist()
        [[4, 3], [7, 6]]
    """
    top, left, flip = how
    along = torch.arange(size, device=images.device)
    across = torch.where(flip[:, None], along.flip(0), along)
    y = (top[:, None] + along)[:, :, None]
    x = (left[:, None] + across)[:, None, :]
    return images[rows[:, None, None], y, x]


def center(images: Tensor, size: int) -> Tensor:
    """Return the middle ``size`` × ``size`` pixels of images (N, H, W, C), as a view."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    return images[:, top : top + size, left : left + size]


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn uint8 images (B, H, W, C) into float32 (B, C, H, W), channels last in memory, of mean 0 and variance 1.

    Args:
        images: (B, H, W, C) uint8.
        mean: (C,) of the training images, in 0..255.
        std: (C,) in 0..255.
    """
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)
