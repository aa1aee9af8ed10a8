"""What a table of runs says: how far IVON is above other methods, and what is missing.

Chapters 9, 10 and 12 print these lines, whatever runs there are.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from vlls.experiments._cells import cells
from vlls.experiments._protocols import PROTOCOLS
from vlls.experiments._results import choose
from vlls.train.methods import METHODS, PROPOSED

if TYPE_CHECKING:
    from pandas import DataFrame


def gains(table: DataFrame, other: str, how: str) -> DataFrame:
    """Return, by panel, IVON's ``accuracy`` less that of another method at its best value in points, as ``gain``.

    ``error`` is its standard error over seeds, NaN with one; ``clear`` tells whether it is more than two of them from
    zero.
    """
    chosen = choose(table, how=how, methods=(PROPOSED, other))
    columns = ["accuracy", "std", "seeds"]
    mine, others = (chosen[chosen["method"] == name].set_index("panel")[columns] for name in (PROPOSED, other))
    pair = mine.merge(others, left_index=True, right_index=True, suffixes=("", "_other")).astype(float)
    pair["gain"] = pair["accuracy"] - pair["accuracy_other"]
    pair["error"] = (pair["std"] ** 2 / pair["seeds"] + pair["std_other"] ** 2 / pair["seeds_other"]) ** 0.5
    pair["clear"] = pair["gain"].abs() > 2 * pair["error"]
    return pair[["gain", "error", "clear"]]


def compare(table: DataFrame, other: str, *, how: str = "test") -> str:
    """Say in how many panels IVON is above the best of another method, in how many clearly, and by how much.

    Clearly is by more than two standard errors over seeds.

    Args:
        table: of :func:`.collate` or :func:`.load_table`, with one protocol.
        other: the method, such as ``"ls"``, at the value that :func:`.choose` chooses.
        how: ``"test"`` or ``"validation"``.

    Raises:
        ValueError: as :func:`.choose`.

    Example:
        >>> from vlls.experiments import load_table
        >>> compare(load_table("nothing.csv"), "ls")
        'IVON against the best LS, chosen by test accuracy: no panel has both'
    """
    found = gains(table, other, how)
    ours, name = METHODS[PROPOSED].label, METHODS[other].label
    if METHODS[other].tuned:
        name = f"the best {name.rpartition(', ')[2]}, chosen by {how} accuracy"  # "IVON, fixed variance" is long
    if found.empty:
        return f"{ours} against {name}: no panel has both"
    gain, clear = found["gain"], found["clear"]
    above, below = gain > 0, gain < 0
    return (
        f"{ours} against {name}, in {len(gain)} panel{'s' * (len(gain) != 1)}:\n"
        f"  above it in {above.sum()} ({(clear & above).sum()} clear), "
        f"below it in {below.sum()} ({(clear & below).sum()} clear); "
        f"from {gain.min():+.1f} to {gain.max():+.1f} points"
    )


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


def _position(panel: str, method: str, value: float | None, seed: int) -> tuple[str, str, str, int]:
    return panel, method, "" if value is None or value != value else f"{value:g}", int(seed)
