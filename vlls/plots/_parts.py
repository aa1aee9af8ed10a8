"""Cut a figure into parts that a narrow screen shows one below the other: its legend, and its columns of panels.

Nothing is drawn again: a part is a piece of the same picture. A column of panels that shares the labels of its vertical
axis, or a colour bar, with others has them in its part too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

NARROW = 440.0  # pixels: columns stand together in a part as long as it is no wider

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels from the left top of the picture
Piece = tuple[Box, float, float]  # of the picture, and where its left top is in the part
Span = tuple[float, float]  # left, right
Columns = list[list[Axes]]


class Cut:
    """A figure whose layout is done, as :meth:`~matplotlib.figure.Figure.draw_without_rendering` does it.

    Args:
        figure: with its layout.
        scale: dots of the figure in a pixel of a page.

    Attributes:
        width: of its picture, in pixels of a page.
        height: likewise.

    Example:
        >>> figure, _ = plt.subplots(1, 2, figsize=(8, 3))
        >>> [len(boxes) for boxes in Cut(figure).parts()]
        [1, 1]
    """

    def __init__(self, figure: Figure, scale: float = 1.0):
        self.figure = figure
        self._scale = scale
        page = figure.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])
        self._left, self._top = page.x0 * figure.dpi, page.y1 * figure.dpi
        self.width, self.height = (float(side) * figure.dpi / scale for side in (page.width, page.height))
        self._tight = cache(lambda artist: self._box(artist.get_tightbbox()))

    def parts(self) -> list[str | list[Piece]]:
        """Return the parts, from top to bottom; a figure with one column of panels, no legend and no note has none.

        A part is a text, or a list of pieces of the picture; an empty text ends a line.
        """
        blocks = self._blocks()
        below = self.figure.get_supxlabel()
        if all(len(columns) == 1 for columns in blocks) and not self.figure.legends and not below:
            return []
        found: list[str | list[Piece]] = []
        for legend in self.figure.legends:
            found += [[(self._entry(text), 0.0, 0.0)] for text in legend.get_texts()]
        found += [""] if found else []
        tops = [min(self._tight(ax)[1] for ax in _all(columns)) - 3 for columns in blocks]
        titles = [getattr(columns[0][0].figure, "_suptitle", None) for columns in blocks]
        ends = [top if title is None else self._tight(title)[1] for top, title in zip(tops, titles, strict=True)]
        for columns, title, top, bottom in zip(blocks, titles, tops, [*ends[1:], self.height], strict=True):
            found += [title.get_text()] if title else []
            for labels, spans in self._packed(columns):
                own = [
                    ax for ax in _all(columns) if any(left < _middle(self._frame(ax)) < right for left, right in spans)
                ]
                end = min(bottom, max(self._tight(ax)[3] for ax in own) + 3)
                found.append(self._placed(columns[0], labels, spans, top, end))
        return [*found, below] if below else found

    def _placed(
        self, first: list[Axes], labels: list[Span], spans: list[Span], top: float, bottom: float
    ) -> list[Piece]:
        """Return the pieces of a part: labels that it shares with the first column, and panels beside them."""
        found: list[Piece] = []
        x = 0.0
        for left, right in labels:
            if left == 0:  # of the axes; that of a figure may stand beside panels that the part lacks
                for a, low, c, end in map(self._tight, self._names(first)):
                    inside = top <= low and end <= bottom
                    y = low - top if inside else max((bottom - top - end + low) / 2, 0.0)
                    found.append(((a - 2, low - 2, c + 2, end + 2), x + a - 2, max(y - 2, 0.0)))
            else:  # of ticks, without those of the horizontal axis, which reach into it
                for frame in map(self._frame, first):
                    low, end = max(frame[1] - 9, top), min(frame[3] + 9, bottom)
                    found += [((left, low, right, end), x, low - top)] if low < end else []
            x += right - left
        for left, right in spans:
            found.append(((left, top, right, bottom), x, 0.0))
            x += right - left
        return found

    # ------------------------------------------------------------------ positions
    def _box(self, found: Any) -> Box:
        edges = (found.x0 - self._left, self._top - found.y1, found.x1 - self._left, self._top - found.y0)
        return tuple(float(edge) / self._scale for edge in edges)  # type: ignore[return-value]

    def _frame(self, ax: Axes) -> Box:
        return self._box(ax.get_window_extent())

    def _entry(self, text: Any) -> Box:
        """Return the box of a legend's entry, with the mark before its text."""
        left, top, right, bottom = self._box(text.get_window_extent())
        mark = 3.2 * text.get_fontsize() / 72 * self.figure.dpi / self._scale
        return (left - mark, top - 3, right + 4, bottom + 3)

    def _blocks(self) -> list[Columns]:
        """Return the columns of panels in blocks; a row whose columns differ from those above begins a new block."""
        panels = sorted((ax for ax in self.figure.axes if ax.get_visible()), key=lambda ax: self._frame(ax)[1])
        rows: list[list[Axes]] = []
        for ax in panels:
            if rows and self._frame(ax)[1] < min(self._frame(other)[3] for other in rows[-1]) - 1:
                rows[-1].append(ax)
            else:
                rows.append([ax])
        blocks: list[Columns] = []
        for columns in map(self._columns, rows):
            both = self._columns([*_all(blocks[-1]), *_all(columns)]) if blocks else []
            if len(both) == max(map(len, (columns, *blocks[-1:]))) and both[0][0].figure is both[0][-1].figure:
                blocks[-1] = both
            else:
                blocks.append(columns)
        return blocks

    def _columns(self, panels: Iterable[Axes]) -> Columns:
        """Return panels by columns, from left to right."""
        columns: Columns = []
        for ax in sorted(panels, key=lambda ax: self._frame(ax)[0]):
            if columns and self._frame(ax)[0] < max(self._frame(other)[2] for other in columns[-1]) - 1:
                columns[-1].append(ax)
            else:
                columns.append([ax])
        return columns

    def _packed(self, columns: Columns) -> list[tuple[list[Span], list[Span]]]:
        """Return the horizontal spans of the labels, and of the panels, in each part of a block."""
        lefts = [min(self._tight(ax)[0] for ax in column) for column in columns]
        rights = [max(self._tight(ax)[2] for ax in column) for column in columns]
        cuts = [0.0, *((a + b) / 2 for a, b in zip(rights, lefts[1:], strict=False)), self.width]
        spans = list(pairwise(cuts))
        bars = [span for span, column in zip(spans, columns, strict=True) if all(map(_is_bar, column))]

        def pack(most: float) -> list[tuple[list[Span], list[Span]]]:
            packed: list[tuple[list[Span], list[Span]]] = []
            for span, column in zip(spans, columns, strict=True):
                if span in bars:
                    continue
                if packed and _length([*packed[-1][0], (packed[-1][1][0][0], span[1]), *bars]) <= most:
                    packed[-1][1][0] = (packed[-1][1][0][0], span[1])
                else:
                    packed.append((self._labels(columns[0], column), [span]))
            return [(labels, [*panels, *bars]) for labels, panels in packed]

        def widest_of(packed: list[tuple[list[Span], list[Span]]]) -> float:
            return max(_length([*labels, *panels]) for labels, panels in packed)

        packed, widest = pack(NARROW), math.inf
        while (now := widest_of(packed)) < widest:  # as many parts, but of similar width
            widest, tighter = now, pack(now - 1)
            packed = tighter if len(tighter) == len(packed) else packed
        return packed

    def _labels(self, first: list[Axes], column: list[Axes]) -> list[Span]:
        """Return the horizontal spans of the labels that a column shares with the first one."""
        if column is first:
            return []
        names = [] if any(ax.get_ylabel() for ax in column) else self._names(first)
        end = max((self._tight(name)[2] + 2 for name in names), default=0.0)
        spans = [(0.0, end)] if names else []
        if self._labelled(first) and not self._labelled(column):
            spans.append((end or 1.0, min(self._frame(ax)[0] for ax in first) - 2))
        return spans

    def _names(self, first: list[Axes]) -> list[Any]:
        """Return the labels of the first column's vertical axes: the figure's label, or each axis's."""
        if self.figure.get_supylabel():
            return [self.figure._supylabel]  # type: ignore[attr-defined]
        return [ax.yaxis.label for ax in first if ax.axison and ax.get_ylabel()]

    def _labelled(self, column: list[Axes]) -> bool:
        """Say whether a vertical axis of these panels has labels."""
        return any(ax.axison and ax.yaxis.get_tightbbox() is not None for ax in column)


def _all(columns: Columns) -> list[Axes]:
    return [ax for column in columns for ax in column]


def _middle(box: Box) -> float:
    return (box[0] + box[2]) / 2


def _length(spans: list[Span]) -> float:
    return sum(right - left for left, right in spans)


def _is_bar(ax: Axes) -> bool:
    return ax.get_label() == "<colorbar>"
