"""A pen that draws a garment in a pose, and the cloth and the background that go with the drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vlls._errors import needs

SIZE = 64  # pixels of an image
_FINE = 2 * SIZE  # pixels that its lines are drawn at
Points = Sequence[tuple[float, float]]
Colour = tuple[int, int, int]
_Y, _X = np.mgrid[:SIZE, :SIZE].astype(np.float64)


class Pen:
    """Draws in a garment's own coordinates, in its pose and colours, on a transparent sheet.

    Lengths are in half the height of an image; x = 0 is the middle of the garment, y = 1 the lower edge. Colours (3,)
    are in 0 to 255; ``spread`` in [0, 1) says how far the sleeves stand off.
    """

    def __init__(self, random: np.random.RandomState, colour: np.ndarray) -> None:
        image, draw = needs("PIL.Image", "drawing a garment"), needs("PIL.ImageDraw", "drawing a garment")
        self._image = image.new("RGBA", (_FINE, _FINE))
        self._draw = draw.Draw(self._image)
        turn, wide, high, right, down, self.spread = random.random_sample(6).tolist()
        cos, sin = np.cos(0.5 * (turn - 0.5)), np.sin(0.5 * (turn - 0.5))
        wide, high = ((0.74 + 0.24 * stretch) * _FINE / 2 for stretch in (wide, high))
        self._pose = (wide * cos, wide * sin, -high * sin, high * cos)
        self._centre = tuple(_FINE * (0.5 + 0.12 * (shift - 0.5)) for shift in (right, down))
        self.colour, self.dark, self.light = (_rgb(c) for c in (colour, colour * 0.55, colour * 0.45 + 140))
        self.accent = _rgb(255 * random.random_sample(3))

    def area(self, points: Points, colour: Colour, *, twice: bool = False) -> None:
        """Fill a shape and its mirror image: as one shape, or ``twice`` if they are apart."""
        mirrored = [(-x, y) for x, y in points]
        for part in [points, mirrored] if twice else [[*points, *mirrored[::-1]]]:
            self._draw.polygon(self._at(part), fill=(*colour, 255))
            self._line([*part, part[0]], self.dark, 2)

    def stroke(self, points: Points, colour: Colour, width: int = 3) -> None:
        """Draw a line and its mirror image."""
        for sign in (1, -1):
            self._line([(sign * x, y) for x, y in points], colour, width)

    def sheet(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the drawing: colours (64, 64, 3) in 0 to 255, and how much they cover (64, 64, 1) in 0 to 1."""
        pixels = np.asarray(self._image.reduce(_FINE // SIZE), np.float64)
        return pixels[..., :3], pixels[..., 3:] / 255

    def _line(self, points: Points, colour: Colour, width: int) -> None:
        self._draw.line(self._at(points), fill=(*colour, 255), width=width, joint="curve")

    def _at(self, points: Points) -> list[tuple[float, float]]:
        (a, b, c, d), (right, down) = self._pose, self._centre
        return [(a * x + b * y + right, c * x + d * y + down) for x, y in points]


def _rgb(colour: np.ndarray) -> Colour:
    red, green, blue = np.clip(colour, 0, 255).astype(int).tolist()
    return red, green, blue


def colours(random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Draw two colours (3,) that can be told apart: the background's, often light, and the garment's."""
    back = _muted(random) if random.random_sample() < 0.5 else 205 + 50 * random.random_sample(3)
    while True:
        colour = _muted(random)
        if np.abs(back - colour).max() > 70:
            return back, colour


def _muted(random: np.random.RandomState) -> np.ndarray:
    colour = 20 + 220 * random.random_sample(3)
    return colour.mean() + (0.3 + 0.7 * random.random_sample()) * (colour - colour.mean())


def background(random: np.random.RandomState, colour: np.ndarray) -> np.ndarray:
    """Return a background (64, 64, 3) that grows lighter to one side, with up to three boxes on it."""
    a, b = (1.25 * (random.random_sample(2) - 0.5)).tolist()
    pixels: np.ndarray = colour + (a * (_X - SIZE / 2) + b * (_Y - SIZE / 2))[..., None]
    for _ in range(int(4 * random.random_sample())):
        top, left, high, wide = (SIZE * random.random_sample(4) * [1, 1, 0.5, 0.5]).astype(int).tolist()
        pixels[top : top + high, left : left + wide] += 70 * (random.random_sample(3) - 0.5)
    return pixels


def cloth(random: np.random.RandomState, patterns: str) -> np.ndarray:
    """Return the brightness (64, 64, 1) of one of these patterns, with folds."""
    names = patterns.split()
    pattern = PATTERNS[names[int(len(names) * random.random_sample())]](_X, _Y)
    phase, pitch, lean = random.random_sample(3).tolist()
    folds = np.sin(2 * np.pi * ((_X + lean * _Y) / (10 + 12 * pitch) + phase))
    return ((1 - 0.35 * pattern) * (1 + 0.1 * folds))[..., None]


# how dark a pattern is at pixels (x, y)
PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray | float]] = {
    "plain": lambda x, y: 0.0,
    "stripes": lambda x, y: y % 8 < 3.5,
    "upright": lambda x, y: x % 5 < 1.5,
    "checks": lambda x, y: ((x % 8 < 2.5) + 0.0 + (y % 8 < 2.5)) / 1.4,
    "dots": lambda x, y: (x % 7 - 3.5) ** 2 + (y % 7 - 3.5) ** 2 < 3.5,
    "knit": lambda x, y: (y + np.abs(x % 6 - 3)) % 4.5 < 2,
    "cable": lambda x, y: np.abs(x % 10 - 5 - 2.5 * np.sin(y / 2.5)) < 1.5,
}
