r"""Figures of the appendix on cost, with goals as marks if the rows have them."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from pandas import DataFrame

from vlls.plots._style import PALETTE, SINGLE, styled

__all__ = ["plot_cost"]

_PLAIN, _MET, _MISSED, _MARK = "0.72", PALETTE[0], PALETTE[1], "#111111"
_LINE = 35  # letters of a title
_ROW, _HEAD = 0.24, 0.75  # inches of a bar, and of a panel's title and axis


@styled
def plot_cost(rows: DataFrame, mark: str = "goal") -> Figure:
    r"""Draw measured numbers as bars or dots on log axes, a panel for each thing compared, with goals as marks.

    Ratios (unit ×) are bars that begin at 1, other numbers are dots. They are blue if the goal is met, orange if it is
    not, grey if there is none. Unmeasured numbers are left out, and panels without any number.

    Args:
        rows: with the columns ``what`` (the panel), ``name``, ``value`` > 0 or NaN, ``unit``; and if there are any
            ``mark``, ``met`` (True, False or None) and ``at_least`` (whether more is better), as
            ``benchmark_records()`` has them.
        mark: the column that holds the marks, NaN if there is none.

    Raises:
        ValueError: if a column is missing or a value is not positive.

    Example:
        >>> from pandas import DataFrame
        >>> table = DataFrame({"what": "step", "name": ["a", "b"], "value": [1.5, 9.0], "unit": "×", "goal": [2, 4]})
        >>> figure = plot_cost(table.assign(met=[True, False]))
        >>> [float(round(bar.get_x() + bar.get_width(), 1)) for bar in figure.axes[0].patches]
        [1.5, 9.0]
    """
    missing = [name for name in ("what", "name", "value", "unit") if name not in rows]
    if missing:
        raise ValueError(
            f"the table lacks the columns {', '.join(missing)}; pass rows of benchmark_records()"
        )
    there = rows[rows["value"].notna()]
    if (there["value"] <= 0).any():
        bad = there[there["value"] <= 0].iloc[0]
        raise ValueError(
            f"{bad['name']!r} of {bad['what']!r} is {bad['value']:g}; a log axis needs positive values"
        )
    panels = {what: part for what, part in there.groupby("what", sort=False)}
    if not panels:
        return _nothing()
    heights = [_HEAD + _ROW * len(part) for part in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(SINGLE, sum(heights)),
        squeeze=False,
        gridspec_kw={"height_ratios": [len(part) + 0.3 for part in panels.values()]},
    )
    for ax, (what, part) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(ax, str(what), part, mark)
    return figure


def _nothing() -> Figure:
    """Return a figure that says that nothing has been measured yet."""
    figure, ax = plt.subplots(figsize=(SINGLE, 1.0))
    ax.set_axis_off()
    ax.text(0.5, 0.5, "Not measured yet: make bench", ha="center", va="center", color="0.45")
    return figure


def _panel(ax: Axes, what: str, part: DataFrame, mark: str) -> None:
    """Draw bars or dots from the top down, their numbers beside them."""
    values = part["value"].to_numpy(float)
    marks = part[mark].to_numpy(float) if mark in part else np.full(len(part), np.nan)
    met = list(part["met"]) if "met" in part else [None] * len(part)
    colours = [_PLAIN if m is None or m != m else _MET if m else _MISSED for m in met]
    places = np.arange(len(part))
    known, ratio = ~np.isnan(marks), part["unit"].iloc[0] == "×"
    every = np.concatenate([values, marks[known], [1.0] if ratio else []])
    low, high = 0.6 * every.min(), 3.0 * every.max()
    start = 1.0 if ratio else low  # ratios begin where nothing is gained or lost
    if ratio:
        ax.barh(places, values - start, left=start, color=colours, height=0.7, zorder=2)
    else:  # on a log axis there is no zero from which a bar could begin
        ax.scatter(values, places, s=50, color=colours, zorder=2)
    ax.scatter(
        marks[known], places[known], marker="|", s=150, linewidths=2.2, color=_MARK, zorder=3
    )
    for place, value, bound in zip(places, values, marks, strict=True):
        end = max(value, start)
        behind = bound if bound == bound and end <= bound < 1.6 * end else end
        ax.annotate(
            _number(value),
            (behind, place),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            zorder=4,
        )
    ax.set(xscale="log", xlim=(low, high), ylim=(len(part) - 0.4, -0.6))
    if high < 100 * low:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.set_yticks(places, part["name"], fontsize=9)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _number(x)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(visible=False, axis="y")
    better = ""
    if "at_least" in part:
        better = "more is better" if bool(part["at_least"].iloc[0]) else "less is better"
    unit = part["unit"].iloc[0]
    head = f"{what} ({unit})" if unit else what
    title = ", ".join(filter(None, [head, better]))
    if len(title) > _LINE:
        title = "\n".join([*textwrap.wrap(head, _LINE), *([better] if better else [])])
    ax.set_title(title, fontsize=9, loc="left")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
