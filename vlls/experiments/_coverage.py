"""Say which runs of an experiment a table holds, and which are missing."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from vlls.experiments._cells import cells
from vlls.experiments._protocols import PROTOCOLS

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["coverage"]

Position = tuple[str, str, str, int]


def coverage(name: str, table: DataFrame) -> str:
    """Return in words how many runs of an experiment there are at each protocol, and what is missing.

    Args:
        name: a key of :data:`.EXPERIMENTS`.
        table: of :func:`.collate` or :func:`.load_table`.

    Returns:
        A line for each protocol; where some runs of it are there and others are not, one for each panel with the
        missing methods and values; and what was reduced, and on which devices.

    Raises:
        ValueError: for an unknown experiment.

    Example:
        >>> from vlls.experiments import load_table
        >>> print(coverage("fig7", load_table("nothing.csv")))
        paper: 0 of 300 runs are there
        reduced: 0 of 180 runs are there
        smoke: 0 of 60 runs are there
    """
    lines = []
    for size in PROTOCOLS:
        rows = table[(table["protocol"] == size) & (table["role"] == "main")]
        done = {_position(*row) for row in rows[["panel", "method", "value", "seed"]].itertuples(index=False)}
        planned = [_position(c.panel, c.config.method, c.value, c.config.seed) for c in cells(name, size, tune=False)]
        lines.append(f"{size}: {len(done & set(planned))} of {len(planned)} runs are there")
        missing: dict[str, dict[str, None]] = defaultdict(dict)
        for position in planned:
            if done and position not in done:
                panel, method, value, _ = position
                missing[panel][f"{method} {value}".strip()] = None
        lines += [f"  missing in part or whole, {panel}: {', '.join(what)}" for panel, what in missing.items()]
        for text in ("reduced", "device"):
            told = [str(value) for value in rows[text].unique() if value]
            lines += [f"  {text}: {'; '.join(told)}"] if told else []
    return "\n".join(lines)


def _position(panel: str, method: str, value: float | None, seed: int) -> Position:
    return panel, method, "" if value is None or value != value else f"{value:g}", int(seed)
