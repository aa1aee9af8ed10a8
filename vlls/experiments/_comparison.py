"""Read a table of runs in words: how far IVON is above other methods, and which runs are missing.

Chapters 9, 10 and 12 print these lines, whatever runs there are.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from vlls.experiments._cells import Cell, cells, panels_at
from vlls.experiments._choice import candidate_label
from vlls.experiments._grids import EXPERIMENTS
from vlls.experiments._protocols import PROTOCOLS
from vlls.experiments._results import choose
from vlls.train.methods import METHODS, PROPOSED

if TYPE_CHECKING:
    from pandas import DataFrame


def gains(table: DataFrame, other: str, how: str) -> DataFrame:
    """Return, by panel, how many points IVON's ``accuracy`` is above another method's at its best value: ``gain``.

    ``error`` is its standard error over seeds, NaN with one; ``clear`` tells whether it is more than two standard
    errors from zero.
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
    """Return in words how many runs of an experiment there are at each protocol, and which are missing.

    Args:
        name: a key of :data:`.EXPERIMENTS`.
        table: of :func:`.collate` or :func:`.load_table`.

    Returns:
        A line for each protocol; where some runs of it are there and others are not, one for each panel with the
        missing methods and values, the reductions, and the devices.

    Raises:
        ValueError: for an unknown experiment.

    Example:
        >>> from vlls.experiments import load_table
        >>> print(coverage("fig10", load_table("nothing.csv")))
        paper: 0 of 90 runs are there
        short: 0 of 54 runs are there
        reduced: 0 of 54 runs are there
        mnist: 0 of 36 runs are there
        smoke: 0 of 18 runs are there
        probe: 0 of 18 runs are there
    """
    lines = []
    for size in PROTOCOLS:
        rows = table[(table["protocol"] == size) & (table["role"] == "main")]
        done = set(_positions(rows))
        planned = [_position(*_candidate(cell), cell.config.seed) for cell in _planned(name, size)]
        lines.append(f"{size}: {len(done & set(planned))} of {len(planned)} runs are there")
        lacking: dict[str, dict[str, None]] = defaultdict(dict)
        for position in planned:
            if done and position not in done:
                panel, method, variant, value, _ = position
                lacking[panel][" ".join(filter(None, (method, variant and f"({variant})", value)))] = None
        lines += [f"  missing in part or whole, {panel}: {', '.join(what)}" for panel, what in lacking.items()]
        for text in ("reduced", "device"):
            told = [str(value) for value in rows[text].unique() if value]
            lines += [f"  {text}: {'; '.join(told)}"] if told else []
    return "\n".join(lines)


def missing(name: str, rows: DataFrame) -> str:
    """Say which panels and candidates of an experiment have no run among the rows of one protocol; empty if all have.

    It is empty too for an experiment or a protocol that is not registered, and if there are no rows of its panels.
    """
    size = rows["protocol"].iloc[0]
    if name not in EXPERIMENTS or size not in PROTOCOLS:
        return ""
    done = {position[:4] for position in _positions(rows)}
    planned = {_position(*_candidate(cell), 0)[:4]: cell for cell in _planned(name, size, 1)}
    begun = dict.fromkeys(position[0] for position in planned if position in done)
    if not begun:
        return ""
    lacking: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for position, cell in planned.items():
        if position not in done and cell.panel in begun:
            who = cell.panel, cell.config.method, cell.variant, cell.parameter
            lacking[who].append(float("nan") if cell.value is None else cell.value)
    where: dict[str, list[str]] = defaultdict(list)
    for (panel, method, variant, parameter), values in lacking.items():
        some = any(position[:3] == (panel, method, variant) for position in done)
        where[candidate_label(method, variant, parameter, values if some else ())].append(panel)
    by_panels: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for label, those in where.items():
        by_panels[tuple(those)].append(label)
    told = []
    for panels, labels in by_panels.items():  # candidates missing in all panels are listed without panels
        at = "" if len(panels) == len(begun) else f" for {'; '.join(panels)}"
        told.append(f"Not run{at}: {'; '.join(labels)}")
    empty = dict.fromkeys(cell.panel for cell in planned.values() if cell.panel not in begun)
    return ". ".join([*told, f"No run for {'; '.join(empty)}"] if empty else told)


def _planned(name: str, size: str, seeds: int | None = None) -> list[Cell]:
    """The main cells of an experiment; none at a protocol that has none of its panels."""
    return cells(name, size, seeds=seeds, tune=False) if panels_at(name, size) else []


def _candidate(cell: Cell) -> tuple[str, str, str, float | None]:
    return cell.panel, cell.config.method, cell.variant, cell.value


def _positions(rows: DataFrame) -> list[tuple[str, str, str, str, int]]:
    rows = rows if "variant" in rows else rows.assign(variant="")
    names = ["panel", "method", "variant", "value", "seed"]
    return [_position(*row) for row in rows[names].itertuples(index=False)]


def _position(panel: str, method: str, variant: str, value: float | None, seed: int) -> tuple[str, str, str, str, int]:
    return panel, method, variant or "", "" if value is None or value != value else f"{value:g}", int(seed)
