r"""Chapter 5's test under distribution shift: corrupted images, a figure, and a sentence that compares two methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage, stats
from torch import Tensor

from vlls.plots._style import PALETTE, SINGLE, styled

__all__ = ["CORRUPTIONS", "corrupted", "differences_in_words", "plot_shift"]

_MOVES = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


def _contrast(images: np.ndarray, _: np.random.Generator) -> np.ndarray:
    means = images.mean((1, 2), keepdims=True)
    return means + 0.3 * (images - means)


def _translation(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    moves = _MOVES[rng.integers(0, 4, len(images))]
    return np.stack(
        [ndimage.shift(x, move, order=1) for x, move in zip(images, moves, strict=True)]
    )


def _rotation(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angles = rng.choice([-25, 25], len(images))
    turned = zip(images, angles, strict=True)
    return np.stack([ndimage.rotate(x, angle, reshape=False, order=1) for x, angle in turned])


#: For each corruption, the function of images and a generator that makes it.
CORRUPTIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "clean": lambda images, _: images,
    "Gaussian noise": lambda images, rng: images + rng.normal(0, 0.25, images.shape),
    "blur": lambda images, _: ndimage.gaussian_filter(images, (0, 0.8, 0.8)),
    "contrast": _contrast,
    "translation": _translation,
    "rotation": _rotation,
}


def corrupted(images: Tensor, kind: str, seed: int = 0) -> Tensor:
    """Return images with one of the :data:`CORRUPTIONS`, clipped to [0, 1].

    Gaussian noise has a standard deviation of 0.25, the blur one of 0.8 pixels; contrast is reduced to 30 %. A
    translation is by one pixel along an axis and a rotation by 25 degrees, in a direction drawn for each image.

    Args:
        images: (N, H, W) in [0, 1].
        kind: the corruption's name.
        seed: of the random numbers.

    Raises:
        ValueError: for an unknown corruption.

    Example:
        >>> image = torch.zeros(1, 5, 5)
        >>> image[0, 2, 2] = 1
        >>> [round(float(corrupted(image, kind).max()), 2) for kind in ("blur", "contrast")]
        [0.25, 0.33]
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {kind!r}; choose one of {', '.join(CORRUPTIONS)}")
    changed = CORRUPTIONS[kind](images.double().numpy(), np.random.default_rng(seed))
    return torch.from_numpy(changed).clamp(0, 1).to(images)


def differences_in_words(differences: Mapping[str, Tensor], method: str, other: str) -> str:
    """Say under which corruptions a method is above another one, below it, or neither.

    It is above or below if the 95 % interval of the mean difference (Student's t) leaves out zero.

    Args:
        differences: for each corruption, the method's accuracy minus the other's in points, for each of the runs that
            share everything but the method.
        method: its name.
        other: the other's.

    Raises:
        ValueError: if there are fewer than two runs.

    Example:
        >>> runs = {"blur": torch.tensor([2.0, 2.5, 3.0]), "rotation": torch.tensor([-1.0, 0.0, 1.5])}
        >>> differences_in_words(runs, "IVON", "SGD")
        'IVON above SGD: blur (+2.5 ± 1.2); not settled: rotation (+0.2 ± 3.1).'
    """
    found: dict[str, list[str]] = {}
    for kind, values in differences.items():
        if len(values) < 2:
            raise ValueError(f"{len(values)} run under {kind}: an interval needs two or more")
        mean = float(values.mean())
        half = float(stats.t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5)
        side = (
            "not settled"
            if abs(mean) <= half
            else f"{method} {'above' if mean > 0 else 'below'} {other}"
        )
        found.setdefault(side, []).append(f"{kind} ({mean:+.1f} ± {half:.1f})")
    order = [f"{method} above {other}", f"{method} below {other}", "not settled"]
    return "; ".join(f"{side}: {', '.join(found[side])}" for side in order if side in found) + "."


@styled
def plot_shift(
    example: Mapping[str, Tensor], accuracy: Mapping[str, Mapping[str, Tensor]]
) -> Figure:
    """Draw an image under each corruption and, below it, the accuracy of each method.

    Args:
        example: for each corruption, the image (H, W).
        accuracy: for each method and corruption, the accuracy of its runs in per cent.
    """
    kinds = list(example)
    figure = plt.figure(figsize=(SINGLE, 4.2))
    grid = figure.add_gridspec(2, len(kinds), height_ratios=(1, 2.6))
    for column, (kind, image) in enumerate(example.items()):
        ax = figure.add_subplot(grid[0, column])
        ax.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(kind.replace(" ", "\n"), fontsize=8.5)
        ax.axis("off")
    ax = figure.add_subplot(grid[1, :])
    for i, (method, by_kind) in enumerate(accuracy.items()):
        at = np.arange(len(kinds)) + 0.16 * (i - (len(accuracy) - 1) / 2)
        means = [float(by_kind[kind].mean()) for kind in kinds]
        spread = [float(by_kind[kind].std()) for kind in kinds]
        look = {"color": PALETTE[i], "marker": "osD^"[i % 4], "markersize": 5, "linestyle": "none"}
        ax.errorbar(at, means, spread, label=method, capsize=2, **look)
    ax.set_xticks(range(len(kinds)), [kind.replace(" ", "\n") for kind in kinds], fontsize=8.5)
    ax.set_ylabel("test accuracy (%)")
    ax.set_xlim(-0.5, len(kinds) - 0.5)
    ax.legend(fontsize=9)
    return figure
