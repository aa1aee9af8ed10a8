r"""The benchmarks' records as one table: measured numbers, devices, and whether goals are met (appendix on cost).

Each script of ``benchmarks/`` writes one JSON file. ``QUANTITIES`` lists the numbers that the book shows and the
project's goals. A record that is missing, damaged or of another form raises no error: its row says so.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from goals import QUANTITIES, KeyPath, Quantity
from pandas import DataFrame

__all__ = ["MISSING", "benchmark_records", "cost_table", "goals_met", "made_with"]

MISSING = "not measured"
"""The status of a quantity that no record holds."""


# ---------------------------------------------------------------------- reading
def benchmark_records(folder: str | os.PathLike[str]) -> DataFrame:
    """Read the benchmarks' records into one table.

    Args:
        folder: with the JSON files; it need not exist.

    Returns:
        A row for each of ``QUANTITIES``: ``record``, ``what``, ``name``, ``value`` (NaN if there is none),
        ``unit``, ``goal`` and ``stretch`` (NaN if there is none), ``at_least``, ``met`` and ``stretch_met`` (True,
        False or None), ``status`` (``"measured"``, ``"not measured"``, or the defect of the record), and the record's
        ``device``, ``torch``, ``date`` and ``protocol``. A JSON file that nothing here reads has a row as well.

    Example:
        >>> table = benchmark_records("nowhere")
        >>> set(table["status"])
        {'not measured'}
    """
    files = {_stem(path): _read(path) for path in sorted(Path(folder).glob("*.json"))}
    rows = [_row(quantity, files.get(quantity.record)) for quantity in QUANTITIES]
    known = {quantity.record for quantity in QUANTITIES}
    for name in files.keys() - known:
        unread = Quantity(name, "other records", name, "", ())
        rows.append(_row(unread, files[name]) | {"value": math.nan, "status": "not read here"})
    numbers = dict.fromkeys(("value", "goal", "stretch"), float)
    return pd.DataFrame(rows).astype(numbers).astype({"met": object, "stretch_met": object})


def _stem(path: Path) -> str:
    return path.stem.replace("-gpu", "-cuda")


def _read(path: Path) -> dict[str, Any] | str:
    """Return the record, or a sentence that says why it cannot be used."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # a decoding error is a ValueError
        return f"{path.name} cannot be read: {error}"
    return record if isinstance(record, dict) else f"{path.name} holds a {type(record).__name__}, not a record"


def _row(quantity: Quantity, record: dict[str, Any] | str | None) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(quantity, name) for name in ("record", "what", "name", "unit", "at_least")}
    row |= {"goal": quantity.goal, "stretch": quantity.stretch, "value": math.nan, "met": None, "stretch_met": None}
    row |= dict.fromkeys(("device", "torch", "date", "protocol"), "")
    if not isinstance(record, dict):
        return row | {"status": record or MISSING}
    row |= _provenance(record)
    try:
        value = _number(record, quantity.path)
        if quantity.over:
            value /= _number(record, quantity.over)
    except _Lacking as lacking:
        return row | {"status": str(lacking)}
    except ZeroDivisionError:
        return row | {"status": f"{quantity.record}.json: {_words(quantity.over)} is 0"}
    met = {name: _meets(value, bound, quantity.at_least) for name, bound in _bounds(quantity)}
    return row | {"value": value, "status": "measured"} | met


def _bounds(quantity: Quantity) -> tuple[tuple[str, float | None], ...]:
    return ("met", quantity.goal), ("stretch_met", quantity.stretch)


def _meets(value: float, bound: float | None, at_least: bool) -> bool | None:
    return None if bound is None else value >= bound if at_least else value <= bound


class _Lacking(Exception):
    """A record lacks a number."""


def _number(record: dict[str, Any], path: KeyPath) -> float:
    """Follow a path to a finite number."""
    found: Any = record
    for depth, step in enumerate(path):
        try:
            if callable(step):
                found = step(found)
            elif isinstance(step, tuple):
                found = next(row for row in found if row[step[0]] == step[1])
            else:
                found = found[step]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration, ZeroDivisionError):
            if isinstance(found, dict) and "failed" in found:
                raise _Lacking(f"failed: {found['failed']}") from None
            raise _Lacking(f"the record has no {_words(path[: depth + 1])}") from None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise _Lacking(f"{_words(path)} is {str(found)[:40]}, not a number")
    return float(found)


def _words(path: KeyPath) -> str:
    parts = [f"{s[0]}={s[1]}" if isinstance(s, tuple) else getattr(s, "__name__", s) for s in path]
    return " → ".join(f"'{str(part).strip('_')}'" for part in parts)


def _provenance(record: Mapping[str, Any]) -> dict[str, str]:
    """Return machine, torch version, date and protocol, as far as the record names them."""
    device, machine = (str(record.get(name, "")) for name in ("device", "machine"))
    told = {"rounds": "{} rounds", "images": "{} images", "protocol": "{}", "draws": "{} draws"}
    told["threads_of_speed_and_memory"] = "threads: {}"
    protocol = [text.format(record[name]) for name, text in told.items() if isinstance(record.get(name), (int, str))]
    parameters = record.get("parameters")
    protocol += [f"{parameters:,} parameters"] if isinstance(parameters, int) else []
    runs = record.get("cells", record.get("runs"))
    protocol += [f"{len(runs)} runs"] if isinstance(runs, list) else []
    protocol += ["quick"] if record.get("quick") else []
    return {
        "device": machine if device in ("", "cpu") else device,
        "torch": str(record.get("torch", "")),
        "date": str(record.get("date", "")),
        "protocol": ", ".join(protocol),
    }


# ---------------------------------------------------------------------- tables and sentences
def cost_table(records: DataFrame) -> DataFrame:
    """Return some rows of ``benchmark_records`` as a table to read.

    Args:
        records: the rows.

    Returns:
        Text, indexed by ``what`` and ``name``, with the ``measured`` number or the reason for its lack, the ``goal``,
        and whether it is ``met``.

    Example:
        >>> cost_table(benchmark_records("nowhere"))["measured"].iloc[0]
        'not measured'
    """
    rows = []
    for row in records.itertuples():
        measured = _text(row.value, row.unit) if row.status == "measured" else row.status
        sign, verdicts, goals = "≥" if row.at_least else "≤", [], []
        for name, bound, met in (("", row.goal, row.met), ("stretch ", row.stretch, row.stretch_met)):
            if bound == bound:
                goals.append(f"{name}{sign} {bound:g}")
                verdicts += [] if met is None else [f"{name}{'met' if met else 'not met'}"]
        rows.append((row.what, row.name, measured, "; ".join(goals), "; ".join(verdicts)))
    return pd.DataFrame(rows, columns=["what", "name", "measured", "goal", "met"]).set_index(["what", "name"])


def made_with(records: DataFrame) -> str:
    """Say how each record was made, or why its numbers are missing, a line each.

    Args:
        records: rows of ``benchmark_records``.

    Example:
        >>> print(made_with(benchmark_records("nowhere")).splitlines()[0])
        optimizer-cpu: 20 numbers: not measured
    """
    lines = []
    for (record, status), rows in records.groupby(["record", "status"], sort=False):
        first = rows.iloc[0]
        told = [first["device"], first["torch"] and f"torch {first['torch']}", first["date"], first["protocol"]]
        about = ", ".join(filter(None, told)) if status == "measured" else f"{len(rows)} numbers: {status}"
        lines.append(f"{record}: {about}")
    return "\n".join(lines)


def _text(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.3g} {unit}".strip()


def goals_met(records: DataFrame) -> str:
    """Say in a few lines which goals are met, which are missed and which have no measurement.

    Args:
        records: rows of ``benchmark_records``.

    Example:
        >>> print(goals_met(benchmark_records("nowhere")).splitlines()[0])
        goals met: 0 of 0 that were measured
    """
    wanted = records[records["goal"].notna()]
    measured = wanted[wanted["met"].notna()]
    met = measured["met"].astype(bool)
    lines = [f"goals met: {int(met.sum())} of {len(measured)} that were measured"]
    for row in measured[~met].itertuples():
        sign = "≥" if row.at_least else "≤"
        lines.append(f"  not met: {row.what}, {row.name}: {_text(row.value, row.unit)}, goal {sign} {row.goal:g}")
    harder = measured[measured["stretch_met"].notna()]
    if len(harder):
        reached = int(harder["stretch_met"].astype(bool).sum())
        lines.append(f"stretch goals reached: {reached} of {len(harder)} that were measured")
    absent = wanted[wanted["met"].isna()]
    for (record, status), rows in absent.groupby(["record", "status"], sort=False):
        lines.append(f"{record}: {len(rows)} goals, {status}")
    return "\n".join(lines)
