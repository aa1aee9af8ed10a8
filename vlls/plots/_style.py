"""The style of all figures: colours, sizes, an opaque white background, and a description in words."""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from cycler import cycler
from matplotlib.figure import Figure

from vlls.plots._parts import Cut

PALETTE = sns.color_palette("colorblind")
WIDTH = 7.0  # inches: 700 px in the book
SINGLE = 4.5  # of a figure with one column of panels: on a phone 9 points are 9.7 pixels
STYLE: Any = {  # matplotlib's type for it is a list of all its settings
    "axes.facecolor": "white",
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 120,
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "white",
}

_P = ParamSpec("_P")


def width_of(columns: int) -> float:
    """Return how wide a figure with so many columns of panels is, in inches."""
    return WIDTH if columns > 1 else SINGLE


def as_array(values: Any) -> np.ndarray:
    """Return a tensor, on any device, or a sequence as a numpy array."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    values = values.detach().cpu()
    return np.asarray((values.float() if "bfloat16" in str(values.dtype) else values).numpy())


def legend_above(figure: Figure, columns: int, *, opaque: bool = False, **look: Any) -> None:
    """Put one legend over all axes, with each label once, in as many columns as fit and at most ``columns``.

    ``opaque`` removes its transparency.
    """
    found = [ax.get_legend_handles_labels() for ax in figure.axes]
    entries = {label: handle for handles, labels in found for handle, label in zip(handles, labels, strict=True)}
    for fewer in range(columns, 0, -1) if entries else ():
        legend = figure.legend(entries.values(), entries, loc="outside upper center", ncols=fewer, **look)
        if opaque:
            plt.setp(legend.legend_handles, alpha=1)
        if legend.get_window_extent().width <= figure.bbox.width:
            break
        if fewer > 1:
            legend.remove()


def _plain(text: str) -> str:
    """Return a text without the marks of TeX and of reStructuredText, on one line."""
    text = re.sub(r":\w+:`([^`]*)`", r"\1", text).replace(r"\sqrt", "square root of ").replace(r"\,", " ")
    text = re.sub(r"\\(?:math[a-z]+|text[a-z]*|operatorname|boldsymbol|left|right|[;!])", "", text)
    return " ".join(re.sub(r"[\\${}`]", "", text).split())


def description(figure: Figure, first: str) -> str:
    """Describe a figure in words, for readers who cannot see it.

    After the sentence ``first`` come its title and, each once, the titles, axis labels and legends of its panels.
    """
    panels = figure.axes
    legends = [*figure.legends, *(axes.get_legend() for axes in panels)]
    parts: dict[str, list[str]] = {
        "Title": [figure.get_suptitle()],
        "Panels": [axes.get_title(loc) for axes in panels for loc in ("left", "center", "right")],
        "Horizontal axis": [figure.get_supxlabel(), *(axes.get_xlabel() for axes in panels)],
        "Vertical axis": [figure.get_supylabel(), *(axes.get_ylabel() for axes in panels)],
        "Legend": [text.get_text() for legend in legends if legend for text in legend.get_texts()],
    }
    sentences = [first]
    for name, texts in parts.items():
        if found := list(dict.fromkeys(filter(None, map(_plain, texts)))):
            sentences.append(f"{name}: {'; '.join(found)}.")
    return " ".join(sentences)


def _told(cut: Cut) -> str:
    """Return the parts of a figure in JSON, for the PNG of a notebook: pieces of left, top, width, height, x and y."""
    parts = [
        " ".join(part.split())
        if isinstance(part, str)
        else [[round(v) for v in (a, b, c - a, d - b, x, y)] for (a, b, c, d), x, y in part]
        for part in cut.parts()
    ]
    return json.dumps({"width": round(cut.width), "height": round(cut.height), "parts": parts}, separators=(",", ":"))


def _mimebundle(
    figure: Figure, text: str, include: Any = None, exclude: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a PNG for notebooks, at twice the pixels so that it is sharp, with its description as metadata."""
    buffer = io.BytesIO()
    dpi = figure.dpi
    with plt.rc_context(STYLE):
        figure.set_dpi(2 * dpi)  # letters have other widths at another resolution
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # a second layout, of the picture that is cropped, would move the legends
        for legend in figure.legends:
            legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)
        about = {"Description": text, "Parts": _told(Cut(figure, scale=2))}
        ground = figure.get_facecolor()  # transparent for photographs
        figure.savefig(buffer, format="png", dpi=figure.dpi, bbox_inches="tight", facecolor=ground, metadata=about)
        figure.set_dpi(dpi)
    png = buffer.getvalue()
    width = int.from_bytes(png[16:20], "big") // 2  # a PNG's size stands at its start
    told: dict[str, Any] = {"image/png": {"width": width, "alt": text}}
    if name := figure.get_label():  # by which other pages of a book show it too
        told["scrapbook"] = {"name": name}
    return {"image/png": png, "text/plain": text}, told


def _display(figure: Figure, text: str) -> None:
    """Show a figure in a notebook; IPython prefers this method to its PNG formatter, which drops the description."""
    from IPython.display import publish_display_data

    publish_display_data(*_mimebundle(figure, text))


def styled(function: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Give the figures that a function draws the book's style, and close them, so that a notebook shows each once.

    In a notebook the picture carries a description in words, which begins with the first line of the docstring.

    Example:
        >>> @styled
        ... def plot_line():
        ...     '''Draw a line.'''
        ...     figure, ax = plt.subplots()
        ...     ax.set_xlabel("iteration")
        ...     return figure
        >>> plot_line()._repr_mimebundle_()[0]["text/plain"]
        'A line. Horizontal axis: iteration.'
    """
    first = _plain((function.__doc__ or "").partition("\n")[0]).removeprefix("Draw ")

    @functools.wraps(function)
    def draw(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = function(*args, **kwargs)
        plt.close(figure)
        text = description(figure, first[:1].upper() + first[1:])
        for name, show in (("_repr_mimebundle_", _mimebundle), ("_ipython_display_", _display)):
            setattr(figure, name, functools.partial(show, figure, text))
        return figure

    return draw
