"""A page of disputed labels and of the examples with the most and the least label noise: one file, no network."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from vlls.data._errors import needs

__all__ = ["GalleryExample", "gallery"]

LARGEST = 128  # pixels of an image's longer side; larger ones are made smaller
BINS = 48
DECADES = 8  # of the histogram's axis, at most


@dataclass(frozen=True)
class GalleryExample:
    """An example of the gallery.

    Args:
        pixels: (H, W, C) uint8, of one or three channels.
        index: of the example.
        given: name of the label that it was given.
        predicted: name of the class that the network predicts.
        noise: size of its label noise.
        disagreement: probability that the network gives to other classes than ``given``.
        clean: name of the correct label, where it is known.
        file: where the image lies, if in a file of its own.
        part: of the data, in words, where there are several.
    """

    pixels: np.ndarray
    index: int
    given: str
    predicted: str
    noise: float
    disagreement: float
    clean: str | None = None
    file: str | None = None
    part: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether the given label is known to be wrong."""
        return self.clean is not None and self.clean != self.given


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

    Args:
        title: heading.
        facts: what is said of the run and of the noise, as pairs of a term and a text.
        noise: of all examples, (N,).
        highest: examples of the most noise, in the order in which they are shown.
        lowest: examples of the least.
        disputed: examples whose given label the posterior disagrees with most: where to look for wrong labels
            (Chapter 7). They come first.
        wrong: whether the given label of each example is wrong, (N,) in the order of ``noise``; None if not known.
        caution: what a reader has to know first; empty where there is nothing.

    Raises:
        ValueError: if Pillow is not installed.

    Example:
        >>> seven = GalleryExample(np.zeros((8, 8, 1), np.uint8), 5, "seven", "one", 0.31, 0.9, clean="one")
        >>> page = gallery("Noise", [("method", "SGD")], np.array([0.31, 0.02]), [seven], [])
        >>> page.startswith("<!doctype html>"), 'alt="example 5, labelled seven, predicted one' in page
        (True, True)
    """
    rows = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in facts)
    sections = [
        ("disputed", "Labels that may be wrong", "the one that the posterior disagrees with most first", disputed),
        ("most", "Most label noise", "the most first: ambiguous or atypical images, whatever their label", highest),
        ("least", "Least label noise", "the least first: easy images", lowest),
    ]
    sections = [section for section in sections if section[3]]
    links = "".join(f'<a href="#{key}">{heading}</a>' for key, heading, *_ in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{f'<p class=mark role=note>{escape(_sentence(caution))}</p>' if caution else ''}\n"
        f"{f'<nav>{links}</nav>' if links else ''}\n<dl>{rows}</dl>\n"
        f"<h2>All examples</h2>\n{_histogram(noise, wrong)}\n"
        f"{''.join(_section(*section) for section in sections)}"
        "</main>\n</body>\n</html>\n"
    )


# ---------------------------------------------------------------------- examples
def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _section(key: str, heading: str, order: str, examples: Sequence[GalleryExample]) -> str:
    number = f"{len(examples)} example{'s' if len(examples) > 1 else ''}"
    wrong = sum(example.wrong for example in examples)
    known = all(example.clean is not None for example in examples)
    told = f"{number}, {order}" + (f"; {wrong} with a wrong label" if known else "")
    figures = "\n".join(map(_figure, examples))
    return f'<h2 id="{key}">{heading}</h2>\n<p>{told}.</p>\n<div class="grid">\n{figures}\n</div>\n'


def _figure(example: GalleryExample) -> str:
    given, predicted = escape(example.given), escape(example.predicted)
    part = f"{escape(example.part)} " if example.part else ""
    alt = f"{part}example {example.index}, labelled {given}, predicted {predicted}, label noise {example.noise:#.3g}"
    mark = ""
    if example.wrong:
        clean = escape(example.clean or "")
        alt += f", correctly {clean}"
        mark = f'<p class="mark">wrong label: is {clean}</p>'
    names = "".join(_row(name, value) for name, value in (("label", given), ("predicted", predicted)))
    noise, disagreement = f"{example.noise:#.3g}", f"{100 * example.disagreement:.1f} %"
    cells = names + _row("noise", noise, "number") + _row("disagrees", disagreement, "number")
    title, place = "", f"{part}#{example.index}"
    if example.file:  # the last two names: for a folder of images, the class and the image
        title = f' title="{escape(example.file)}"'
        place += f" {escape('/'.join(Path(example.file).parts[-2:]))}"
    small = ' class="small"' if max(example.pixels.shape[:2]) < LARGEST // 2 else ""
    return (
        f"<figure{' class=wrong' if example.wrong else ''}{title}>"
        f'<img src="data:image/png;base64,{_png(example.pixels)}" alt="{alt}" loading="lazy"{small}>'
        f"<figcaption><p class=index>{place}</p><table>{cells}</table>{mark}</figcaption></figure>"
    )


def _row(name: str, value: str, kind: str = "name") -> str:
    return f"<tr><th scope=row>{name}</th><td class={kind}>{value}</td></tr>"


def _png(pixels: np.ndarray) -> str:
    """An image as base64 of a PNG file."""
    image_module = needs("PIL.Image", "a gallery")
    image = image_module.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((LARGEST, LARGEST))  # only ever makes it smaller
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


# ---------------------------------------------------------------------- histogram
def _histogram(noise: np.ndarray, wrong: np.ndarray | None) -> str:
    """The number of examples by noise, on a logarithmic axis: most examples have little, a few have much."""
    top = float(noise.max())
    if not top > 0:
        return "<p>No example has label noise.</p>"
    least = max(float(noise.min()), top * 10.0**-DECADES)
    low, high = math.log10(least), math.log10(top)
    if high - low < 0.1:
        low, high = low - 0.05, high + 0.05
    places = np.log10(np.maximum(noise, least))  # what is smaller stands in the first bar
    edges = np.linspace(low, high, BINS + 1)
    edges[-1] += 1e-9
    every = np.histogram(places, edges)[0]
    bad = np.zeros_like(every) if wrong is None else np.histogram(places[wrong], edges)[0]
    width, height, left, bottom = 720, 260, 72, 60
    step = (width - left - 8) / BINS
    scale = (height - bottom - 14) / max(int(every.max()), 1)
    base = height - bottom

    def bars(counts: np.ndarray, style: str) -> str:
        shapes = (
            f"M{left + i * step + 0.5:.1f} {base}v-{count * scale:.2f}h{step - 1:.2f}v{count * scale:.2f}z"
            for i, count in enumerate(counts)
            if count
        )
        return f'<path class="{style}" d="{"".join(shapes)}"/>'

    drawn = []
    for count in _round_steps(int(every.max())):
        y = base - count * scale
        drawn.append(f'<path class="line" d="M{left} {y:.1f}H{width - 8}"/>')
        drawn.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{count:,}</text>')
    drawn += [bars(every, "bar"), bars(bad, "bar bad")]
    for value in _marks(low, high):
        x = left + (math.log10(value) - low) / (high - low) * step * BINS
        drawn.append(f'<path class="tick" d="M{x:.1f} {base}v5"/>')
        drawn.append(f'<text x="{x:.1f}" y="{base + 24}" text-anchor="middle">{value:g}</text>')
    drawn.append(f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle">label noise (log scale)</text>')
    median = float(np.median(noise))
    alt = f"histogram of the label noise of {len(noise):,} examples: from {noise.min():.3g} to {top:.3g}, "
    alt += f"half of them below {median:.3g}"
    legend = '<p class="legend"><span class="key"></span>all examples'
    legend += "" if wrong is None else ' <span class="key bad"></span>of them with a wrong label'
    return (
        f'<div class="plot"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{alt}">{"".join(drawn)}</svg>'
        f"</div>\n{legend}; half of all have less noise than {median:.3g}.</p>"
    )


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


_STYLE = """
:root { color-scheme: light dark; --page: #fff; --card: #f4f4f1; --text: #1d1d1f; --quiet: #5a5a60; --line: #d9d9d4;
  --bar: #4a78b5; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #17181a; --card: #232528; --text: #ececec; --quiet: #a9abb0;
  --line: #3b3e43; --bar: #7aa7e0; --bad: #ff9a8d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; }
p { margin: .2rem 0 .7rem; color: var(--quiet); }
nav { margin: 0 0 1rem; display: flex; flex-wrap: wrap; gap: .3rem 1.5rem; }
a { color: var(--bar); }
dl { margin: 0; display: grid; gap: .3rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
dl div { display: grid; grid-template-columns: 7.5rem minmax(0, 1fr); }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
.plot { max-width: 52rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--quiet); font-size: 13px; }
.bar, .key { fill: var(--bar); background: var(--bar); }
.bad { fill: var(--bad); background: var(--bad); }
.line, .tick { stroke: var(--line); fill: none; }
.legend { font-size: .9rem; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .4em; }
.key.bad { background: var(--bad); margin-left: 1em; }
.grid { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
figure { margin: 0; padding: .6rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
figure.wrong { border-color: var(--bad); }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; }
img.small { image-rendering: pixelated; }
figcaption { margin-top: .4rem; font-size: .85rem; }
.index { margin: 0; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: normal; color: var(--quiet); padding: 0 .5rem 0 0; vertical-align: top; }
td { text-align: right; padding: 0; font-variant-numeric: tabular-nums; }
td.name { overflow-wrap: anywhere; }
td.number { white-space: nowrap; }
.mark { margin: .35rem 0 0; font-weight: 600; color: var(--bad); overflow-wrap: anywhere; }
@media (max-width: 480px) { svg text { font-size: 22px; } .grid { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  dl div { grid-template-columns: 7.2rem minmax(0, 1fr); } }
@media print { figure { break-inside: avoid; } }
"""
