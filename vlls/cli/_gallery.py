"""A page of disputed labels and of the examples with the most and the least label noise: one file, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlls.cli._pages import PIXELATED, encoded, render

LARGEST = 128  # pixels of an image's longer side; larger ones are made smaller
BINS = 48
DECADES = 8  # of the histogram's axis, at most


@dataclass(frozen=True)
class GalleryExample:
    """An example of the gallery, with the names of its labels."""

    pixels: np.ndarray  # (H, W, C) uint8, of one or three channels
    index: int
    given: str
    predicted: str
    noise: float
    disagreement: float  # probability that the network gives to other classes than the given one
    clean: str | None = None  # the correct label, if it is known
    file: str | None = None
    part: str | None = None  # of the data, in words, if there are several

    @property
    def wrong(self) -> bool:
        """Whether the given label is known to be wrong."""
        return self.clean is not None and self.clean != self.given

    @property
    def small(self) -> bool:
        """Whether the image is enlarged, so that its pixels should show."""
        return max(self.pixels.shape[:2]) < PIXELATED

    @property
    def alt(self) -> str:
        """The example in words, for readers who cannot see the image."""
        part = f"{self.part} " if self.part else ""
        names = f"labelled {self.given}, predicted {self.predicted}"
        correct = f", correctly {self.clean}" if self.wrong else ""
        return f"{part}example {self.index}, {names}, label noise {self.noise:#.3g}{correct}"

    @property
    def caption(self) -> str:
        """Part, index and the last two names of the path: for a folder of images, the class and the image."""
        part = f"{self.part} " if self.part else ""
        return f"{part}#{self.index}" + (f" {'/'.join(Path(self.file).parts[-2:])}" if self.file else "")

    @property
    def png(self) -> str:
        """The image as base64 of a PNG file."""
        return encoded(self.pixels, LARGEST, "a gallery")


def gallery(
    title: str,
    facts: Sequence[tuple[str, str]],
    noise: np.ndarray,
    highest: Sequence[GalleryExample],
    lowest: Sequence[GalleryExample],
    disputed: Sequence[GalleryExample] = (),
    wrong: np.ndarray | None = None,
    caution: str = "",
) -> str:
    """Return the page as HTML, with images and styles in it.

    ``facts`` are terms and texts about the run; ``noise``, and ``wrong`` if the correct labels are known, are of all
    examples, (N,). Disputed labels come first, because many wrong ones are among them (Chapter 7); ``caution`` is above
    everything.
    """
    sections = [
        ("disputed", "Labels that may be wrong", "the one that the posterior disagrees with most first", disputed),
        ("most", "Most label noise", "the most first: ambiguous or atypical images, whatever their label", highest),
        ("least", "Least label noise", "the least first: easy images", lowest),
    ]
    values = {"title": title, "caution": caution, "facts": facts, "plot": _histogram(noise, wrong)}
    return render("gallery.html", "a gallery", **values, sections=[section for section in sections if section[3]])


def _histogram(noise: np.ndarray, wrong: np.ndarray | None) -> dict[str, Any] | None:
    """Return the drawing of the number of examples by noise, on a logarithmic axis; None if there is no noise."""
    top = float(noise.max())
    if not top > 0:
        return None
    least = max(float(noise.min()), top * 10.0**-DECADES)
    low, high = math.log10(least), math.log10(top)
    if high - low < 0.1:
        low, high = low - 0.05, high + 0.05
    exponents = np.log10(np.maximum(noise, least))  # smaller noise counts in the first bar
    edges = np.linspace(low, high, BINS + 1)
    edges[-1] += 1e-9
    counts = np.histogram(exponents, edges)[0]
    wrong_counts = np.zeros_like(counts) if wrong is None else np.histogram(exponents[wrong], edges)[0]
    most = int(counts.max())
    width, height, left, right, base = 720, 260, 72, 712, 200
    step, scale = (right - left) / BINS, (base - 14) / max(most, 1)
    ticks = [(left + (math.log10(mark) - low) / (high - low) * (right - left), mark) for mark in _marks(low, high)]
    median = f"{np.median(noise):.3g}"

    def bars(counts: np.ndarray) -> list[tuple[str, str]]:
        return [(f"{left + i * step + 0.5:.1f}", f"{n * scale:.2f}") for i, n in enumerate(counts.tolist()) if n]

    return {
        **{"width": width, "height": height, "left": left, "right": right, "base": base, "bar": f"{step - 1:.2f}"},
        "all": bars(counts),
        "wrong": bars(wrong_counts),
        "lines": [(round(base - count * scale, 1), count) for count in _round_steps(most)],
        "ticks": [(round(at, 1), mark) for at, mark in ticks],
        "known": wrong is not None,
        "median": median,
        "alt": f"histogram of the label noise of {len(noise):,} examples: from {noise.min():.3g} to {top:.3g}, "
        f"half of them below {median}",
    }


def _round_steps(most: int) -> list[int]:
    """A few round numbers from 0 to ``most``.

    Example:
        >>> _round_steps(1234)
        [0, 500, 1000]
    """
    size = 10 ** max(len(str(most)) - 1, 0)
    step = next(s for s in (size // 5, size // 2, size, 2 * size) if s and most // s <= 4)
    return list(range(0, most + 1, step))


def _marks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten, given by their exponents: decades, or 1, 2 and 5 of them.

    Example:
        >>> _marks(-3.2, -1)
        [0.001, 0.01, 0.1]
    """
    exponents = range(math.floor(low), math.ceil(high) + 1)
    for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        marks = [float(f"{digit}e{e}") for e in exponents for digit in digits]
        marks = [mark for mark in marks if low - 1e-9 <= math.log10(mark) <= high + 1e-9]
        if len(marks) >= 3:
            break
    return marks
