"""An interactive figure as one piece of HTML: an element with its style, its data and its script."""

from __future__ import annotations

import base64
import io
import json
import secrets
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from numbers import Real
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vlls.plots._style import PALETTE

__all__ = ["COLOURS", "InteractiveFigure", "alpha_png", "inside", "png", "sliders"]

COLOURS = {
    "blue": PALETTE[0],
    "orange": PALETTE[1],
    "green": PALETTE[2],
    "noise": PALETTE[3],
    "sky": PALETTE[9],
}
LIGHTER = 0.35  # share of white in the colours of lines and marks on a dark ground
DPI = 150  # of the pictures
ID = "@id@"  # stands in bodies for the id of the element


@dataclass(frozen=True, repr=False)
class InteractiveFigure:
    """A figure with sliders, buttons or things to point at.

    Args:
        kind: name of its script, ``<kind>.js`` beside this file.
        name: its accessible name.
        instead: a sentence for readers without JavaScript.
        body: HTML of the controls, shown by the script; ``@id@`` stands for the id of the element.
        data: what the script draws; JSON.
        still: HTML that is shown with and without the script.
        picture: a PNG that stands for it in the PDF and, unless there is ``still``, without the script.

    Example:
        >>> from figures.interactive import explore_label_noise
        >>> explore_label_noise(mean=2.0)  # in a notebook: two sliders
        InteractiveFigure('Label noise of one example against mean and variance of f')
    """

    kind: str
    name: str
    instead: str
    body: str
    data: dict[str, Any]
    picture: bytes
    still: str = ""

    def __repr__(self) -> str:
        return f"InteractiveFigure({self.name!r})"

    def _repr_png_(self) -> bytes:
        """Return the picture that stands for it in the PDF."""
        return self.picture

    def _repr_html_(self) -> str:
        """Return the element, with a new id at each call, because a page may hold it twice."""
        data = json.dumps(self.data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        picture = ""
        if not self.still:
            address = f"data:image/png;base64,{base64.b64encode(self.picture).decode()}"
            picture = f'<img class="vlls-picture" src="{address}" alt="{escape(self.name)}">'
        inside = (
            f"<style>{_colours()}{_file('figure.css')}</style>\n"
            f'<div class="vlls-instead"><p>{escape(self.instead)}</p>{picture}</div>\n{self.still}\n'
            f'<div class="vlls-live" hidden>\n{self.body}\n</div>\n'
        ).replace(ID, f"vlls-{secrets.token_hex(6)}")
        script = "\n".join(
            [_file("shared.js"), _file(f"{self.kind}.js"), f'start("{self.kind}", show);']
        )
        return (
            f'<figure class="vlls-figure" data-vlls="{self.kind}" role="group" aria-label="{escape(self.name)}">\n'
            f'{inside}<script type="application/json">{data}</script>\n'
            f'<script>(() => {{\n"use strict";\n{script}\n}})();</script>\n</figure>'
        )


def alpha_png(values: np.ndarray, colour: tuple[float, float, float]) -> str:
    """Return a picture of one colour with given opacities, as the data URI of a PNG.

    Args:
        values: (H, W) opacities from 0 to 1; they are rounded to 255 levels.
        colour: red, green and blue from 0 to 1.

    Example:
        >>> alpha_png(np.eye(3), (0.0, 0.0, 0.0))[:22]
        'data:image/png;base64,'
    """
    image = Image.fromarray(np.rint(255 * values).astype(np.uint8), "P")
    image.putpalette(256 * [round(255 * c) for c in colour])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, transparency=bytes(range(256)))
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG of few colours, sharp enough to print."""
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png", dpi=DPI, bbox_inches="tight")
    with Image.open(whole) as picture:
        few = picture.convert("RGB").quantize(32, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True, dpi=(DPI, DPI))
    return small.getvalue()


def sliders(*rows: tuple[str, str, str, float, float, float, float]) -> str:
    """Return sliders: a row is name, label and unit (HTML), lowest and highest value, step, and where it starts.

    Its input is the part ``<name>``, the text beside it ``<name>-value``.

    Example:
        >>> "data-part" in sliders(("mean", "mean", "", -8.0, 8.0, 0.1, 1.0))
        True
    """
    return "".join(
        f'<div><label for="{ID}-{name}">{label}</label>'
        f'<span><output for="{ID}-{name}" data-part="{name}-value"></output>{unit}</span>'
        f'<input type="range" id="{ID}-{name}" data-part="{name}" min="{low:g}" max="{high:g}" step="{step}" '
        f'value="{value:g}" autocomplete="off"></div>'
        for name, label, unit, low, high, step, value in rows
    )


def inside(value: float, name: str, low: float, high: float) -> None:
    """Raise a ValueError unless a value is a number from ``low`` to ``high``.

    Example:
        >>> inside(1.0, "mean", 0.0, 2.0)
    """
    if (
        not isinstance(value, Real) or isinstance(value, bool) or not low <= float(value) <= high
    ):  # a NaN is outside
        raise ValueError(
            f"{name}={value!r} is not allowed; choose a number from {low:g} to {high:g}"
        )


@cache
def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


@cache
def _colours() -> str:
    """Return the book's palette as CSS variables, ``-light`` for light backgrounds and ``-dark`` for dark ones."""
    rules = []
    for name, colour in COLOURS.items():
        for suffix, white in (("", 0.0), ("-dark", LIGHTER)):
            channels = ", ".join(str(round(255 * (c + white * (1 - c)))) for c in colour)
            rules.append(f"--vlls-{name}{suffix or '-light'}: rgb({channels});")
    return f".vlls-figure {{ {' '.join(rules)} }}\n"
