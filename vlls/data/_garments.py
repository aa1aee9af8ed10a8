"""Drawings of garments, 14 kinds, for the made-up miniature of Clothing1M."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlls._errors import needs
from vlls.data._pen import Pen, Points, background, cloth, colours


@dataclass(frozen=True)
class Garment:
    """The cut of a garment, in the coordinates of :class:`.Pen`."""

    details: str  # names in DETAILS, drawn in this order; those with "?" on half of the images
    patterns: str = "plain"  # one of these is its pattern
    shoulder: float = 0.42  # where the shoulders end
    chest: float = 0.4  # half width below the arms
    waist: float = 0.38  # half width in the middle
    flare: float = 0.4  # half width at the hem
    hem: float = 0.6  # where it ends
    neck: float = 0.12  # depth of the neckline
    sleeve: float = 1.1  # length of the sleeves
    arm: float = 0.17  # width of the sleeves at their ends
    outline: Points = ()  # right half of the body from top to bottom, in place of the one that follows from the above
    opacity: float = 1.0  # of the cloth; 1 hides the background


_SHAWL = ((0.0, -0.5), (0.16, -0.66), (0.42, -0.5), (0.72, 0.0), (0.92, 0.42), (0.5, 0.52), (0.0, 0.66))
_BRIEFS = ((0.0, 0.2), (0.5, 0.18), (0.5, 0.32), (0.3, 0.44), (0.12, 0.7), (0.0, 0.72))
GARMENTS = {
    "T-Shirt": Garment("neckline print?", "plain plain stripes", sleeve=0.42, arm=0.24),
    "Shirt": Garment("cuffs collar buttons pocket?", "plain checks upright", hem=0.66, arm=0.14),
    "Knitwear": Garment("ribs roll? buttons?", "knit knit cable", hem=0.56, arm=0.19, neck=0.2),
    "Chiffon": Garment(
        "ruffle bow?", "plain dots", neck=0.3, flare=0.52, sleeve=0.75, arm=0.32, hem=0.55, opacity=0.72
    ),
    "Sweater": Garment("ribs neckline band?", "plain knit stripes", hem=0.56, arm=0.19),
    "Hoodie": Garment("ribs hood strings kangaroo", "plain", hem=0.58, arm=0.19),
    "Windbreaker": Garment("yoke stand hood? zip", "plain", chest=0.44, flare=0.46, hem=0.62, arm=0.2),
    "Jacket": Garment("ribs? collar zip flaps", "plain", chest=0.44, flare=0.42, hem=0.46, arm=0.2),
    "Downcoat": Garment(
        "quilt stand hood? fur? zip", "plain", shoulder=0.46, chest=0.5, waist=0.5, flare=0.52, hem=0.84, arm=0.27
    ),
    "Suit": Garment("lapels tie? buttoned flaps?", "plain plain upright", shoulder=0.46, hem=0.76, arm=0.16),
    "Shawl": Garment("drape fringe", "plain knit checks", sleeve=0.0, outline=_SHAWL),
    "Dress": Garment(
        "belt? ruffle?", "plain dots stripes", 0.3, chest=0.3, waist=0.22, flare=0.6, hem=0.95, neck=0.2, sleeve=0.0
    ),
    "Vest": Garment("neckline straps zip?", "plain knit", shoulder=0.26, sleeve=0.0, neck=0.34, hem=0.58),
    "Underwear": Garment("bra", "plain dots", sleeve=0.0, outline=_BRIEFS),
}


def draw_garment(name: str, random: np.random.RandomState) -> Any:
    """Return a drawing of a garment, a ``PIL.Image`` of 64×64 pixels in RGB; ``random`` decides every pixel."""
    cut = GARMENTS[name]
    back, colour = colours(random)
    pen = Pen(random, colour)
    _body(pen, cut)
    for detail in cut.details.split():
        if not detail.endswith("?") or random.random_sample() < 0.5:
            DETAILS[detail.rstrip("?")](pen, cut)
    drawn, cover = pen.sheet()
    cover = cover * cut.opacity
    pixels = background(random, back) * (1 - cover) + drawn * cloth(random, cut.patterns) * cover
    pixels += 12 * (random.random_sample(pixels.shape) - 0.5)  # grain
    return needs("PIL.Image", "drawing a garment").fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _body(pen: Pen, cut: Garment) -> None:
    """Draw the sleeves, and the body over them."""
    if cut.sleeve:
        pen.area(_sleeve(pen, cut), pen.colour, twice=True)
    above = [(0.0, cut.neck - 0.72), (0.16, -0.72), (cut.shoulder, -0.62), (cut.chest, -0.25)]
    below = [(cut.waist, 0.1), (cut.flare, cut.hem), (0.0, cut.hem + 0.03)]
    pen.area(cut.outline or above + below, pen.colour)


def _sleeve(pen: Pen, cut: Garment, start: float = 0.0) -> Points:
    """Return the right sleeve, or its part from a fraction of its length on."""
    lean = 0.2 + 0.35 * pen.spread + (0.5 if cut.sleeve < 0.6 else 0.0)
    along = cut.sleeve * np.array([np.sin(lean), np.cos(lean)])
    across = cut.arm * np.array([-np.cos(lean), np.sin(lean)])
    top, pit = np.array([cut.shoulder - 0.02, -0.62]), np.array([cut.chest - 0.04, -0.2])
    outer, inner = top + along, top + along + across
    corners = [top + start * (outer - top), outer, inner, pit + start * (inner - pit)]
    return [(x, y) for x, y in np.array(corners).tolist()]


# ------------------------------------------------------------------ details
def _ribs(pen: Pen, cut: Garment) -> None:
    pen.area([(0.0, cut.hem - 0.08), (cut.flare, cut.hem - 0.1), (cut.flare - 0.04, cut.hem + 0.02)], pen.dark)
    pen.area(_sleeve(pen, cut, 0.88), pen.dark, twice=True)


def _buttons(pen: Pen, cut: Garment) -> None:
    pen.stroke([(0.05, -0.45), (0.05, cut.hem)], pen.dark, 2)
    for y in np.linspace(-0.35, cut.hem - 0.12, 5).tolist():
        pen.area([(0.03, y), (0.0, y + 0.04)], pen.light)


def _hood(pen: Pen, cut: Garment) -> None:
    pen.area([(0.0, -1.0), (0.2, -0.94), (0.3, -0.72), (0.22, -0.5), (0.0, -0.4)], pen.colour)
    pen.area([(0.0, -0.88), (0.12, -0.83), (0.18, -0.7), (0.1, -0.55), (0.0, -0.48)], pen.dark)


def _lapels(pen: Pen, cut: Garment) -> None:
    pen.area([(0.0, -0.74), (0.15, -0.76), (0.0, 0.08)], (240, 240, 240))
    pen.area([(0.14, -0.76), (0.28, -0.46), (0.2, -0.36), (0.0, 0.1)], pen.dark, twice=True)
    pen.stroke([(0.0, 0.1), (0.04, cut.hem)], pen.dark)


def _quilt(pen: Pen, cut: Garment) -> None:
    for start in (0.25, 0.5, 0.75):
        (x, y), *_, (u, v) = _sleeve(pen, cut, start)
        pen.stroke([(x, y), (u, v)], pen.dark)
    for y in np.linspace(-0.42, cut.hem - 0.14, 6).tolist():
        pen.stroke([(0.0, y + 0.03), (cut.chest, y)], pen.dark, 4)


def _fringe(pen: Pen, cut: Garment) -> None:
    for x in np.linspace(0.04, 0.88, 9).tolist():
        y = 0.66 - 0.25 * x
        pen.stroke([(x, y), (x + 0.02, y + 0.2)], pen.colour)


def _ruffle(pen: Pen, cut: Garment) -> None:
    for depth in (0.0, 0.1):
        waves = [(0.12 + 0.05 * np.sin(7 * t) - 0.1 * t, depth - 0.66 + 0.5 * t) for t in np.linspace(0, 1, 9)]
        pen.stroke(waves, pen.light)
    x = np.linspace(0, cut.flare, 12)
    pen.stroke(list(zip(x.tolist(), (cut.hem - 0.05 + 0.03 * np.sin(25 * x)).tolist(), strict=True)), pen.light)


def _drape(pen: Pen, cut: Garment) -> None:
    pen.area([(0.0, -0.5), (0.16, -0.66), (0.12, -0.4), (0.0, -0.2)], pen.dark)
    for x in (0.3, 0.55, 0.78):
        pen.stroke([(0.2 + 0.2 * x, -0.5), (0.6 * x, 0.0), (x, 0.45)], pen.dark, 2)


def _bra(pen: Pen, cut: Garment) -> None:
    pen.stroke([(0.2, -0.3), (0.3, -0.75)], pen.colour, 5)
    pen.area([(0.04, -0.12), (0.2, -0.36), (0.4, -0.28), (0.44, -0.06), (0.22, 0.02)], pen.colour, twice=True)
    pen.stroke([(0.0, -0.1), (0.1, -0.08)], pen.colour, 5)
    pen.stroke([(0.02, 0.24), (0.48, 0.22)], pen.light)


def _area(points: Points, shade: str, *, twice: bool = False) -> Callable[[Pen, Garment], None]:
    """Return a detail that is one shape in a colour of the pen."""
    return lambda pen, cut: pen.area(points, getattr(pen, shade), twice=twice)


def _stroke(points: Points, shade: str, width: int) -> Callable[[Pen, Garment], None]:
    """Return a detail that is one line, in a colour of the pen; the hem cuts it off."""
    return lambda pen, cut: pen.stroke([(x, min(y, cut.hem)) for x, y in points], getattr(pen, shade), width)


DETAILS: dict[str, Callable[[Pen, Garment], None]] = {
    "band": _area([(0.0, -0.1), (0.39, -0.1), (0.38, 0.12), (0.0, 0.12)], "accent"),
    "belt": _area([(0.0, 0.05), (0.24, 0.05), (0.25, 0.15), (0.0, 0.15)], "accent"),
    "bow": _area([(0.0, -0.42), (0.16, -0.5), (0.16, -0.32)], "accent", twice=True),
    "bra": _bra,
    "buttoned": _area([(0.03, 0.16), (0.0, 0.2), (0.03, 0.24)], "light"),
    "buttons": _buttons,
    "collar": _area([(0.0, -0.5), (0.07, -0.8), (0.26, -0.7), (0.2, -0.46)], "light", twice=True),
    "cuffs": lambda pen, cut: pen.area(_sleeve(pen, cut, 0.88), pen.light, twice=True),
    "drape": _drape,
    "flaps": _area([(0.14, 0.14), (0.32, 0.12), (0.32, 0.22), (0.14, 0.24)], "dark", twice=True),
    "fringe": _fringe,
    "fur": _stroke([(0.0, -1.0), (0.2, -0.94), (0.3, -0.72), (0.22, -0.5)], "light", 11),
    "hood": _hood,
    "kangaroo": _area([(0.0, 0.12), (0.18, 0.12), (0.3, 0.42), (0.0, 0.44)], "dark"),
    "lapels": _lapels,
    "neckline": lambda pen, cut: pen.stroke([(0.0, cut.neck - 0.72), (0.16, -0.72)], pen.dark, 6),
    "pocket": _area([(0.12, -0.2), (0.3, -0.2), (0.3, 0.02), (0.12, 0.02)], "light", twice=True),
    "print": _area([(0.0, -0.3), (0.2, -0.25), (0.22, 0.05), (0.0, 0.15)], "accent"),
    "quilt": _quilt,
    "ribs": _ribs,
    "roll": _area([(0.0, -0.84), (0.17, -0.84), (0.2, -0.64), (0.0, -0.58)], "colour"),
    "ruffle": _ruffle,
    "stand": _area([(0.0, -0.86), (0.18, -0.88), (0.24, -0.64), (0.0, -0.52)], "colour"),
    "straps": _stroke([(0.26, -0.62), (0.3, -0.4), (0.4, -0.25)], "dark", 5),
    "strings": _stroke([(0.07, -0.48), (0.09, -0.1)], "light", 4),
    "tie": _area([(0.0, -0.7), (0.04, -0.66), (0.06, -0.1), (0.0, 0.02)], "accent"),
    "yoke": _area([(0.0, -0.6), (0.16, -0.72), (0.42, -0.62), (0.42, -0.2), (0.0, -0.14)], "accent"),
    "zip": _stroke([(0.0, -0.6), (0.0, 2.0)], "light", 5),
}
