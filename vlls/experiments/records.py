r"""The benchmarks' records as one table: what was measured, on what, and whether it meets the goal (Chapter 13).

Each script of ``benchmarks/`` writes one JSON file. :data:`.QUANTITIES` says which numbers of them the book shows and
which goals the project has set itself. Nothing here fails for want of a record: what is missing, damaged or of another
form is listed as such.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlls.data._errors import needs

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["MISSING", "QUANTITIES", "Quantity", "benchmark_records", "cost_table", "goals_met"]

MISSING = "not measured"
"""The status of what no record holds."""

Step = str | tuple[str, Any] | Callable[[Any], Any]
Path_ = tuple[Step, ...]


@dataclass(frozen=True)
class Quantity:
    """A number of a record, or the ratio of two.

    Attributes:
        record: the file's name without ``.json``.
        what: what is compared; quantities with the same ``what`` have the same unit and are drawn together.
        name: whose number it is.
        unit: the unit.
        path: the way to the number: a key, a pair (key, value) that picks a row of a list, or a function.
        over: the way to the number that it is divided by, if any.
        goal: the bound that the project has set itself, if any.
        stretch: a harder one, if any.
        at_least: whether the goal is a lower bound.
    """

    record: str
    what: str
    name: str
    unit: str
    path: Path_
    over: Path_ = ()
    goal: float | None = None
    stretch: float | None = None
    at_least: bool = False


# ---------------------------------------------------------------------- what is in the records
def _optimizer(device: str) -> Iterable[Quantity]:
    record, where = f"optimizer-{device}", "CPU" if device == "cpu" else "GPU"
    context, closure, kept = (f"ivon fused, {how}" for how in ("context", "closure", "kept"))
    plain = "ivon single, context" if device == "cpu" else "ivon foreach, context"
    names = {
        "sgd fused": "SGD, fused",
        "adamw foreach": "AdamW, foreach",
        "sam": "SAM over fused SGD",
        kept: "IVON fused, keep_sampled",
        closure: "IVON fused, step(closure)",
        context: "IVON fused, sampled_params",
        plain: "IVON, default",
        "ivon-opt": "ivon-opt",
    }
    goals: dict[str, tuple[float, float | None]]
    goals = {name: (4.0, 2.0) for name in (kept, closure, context, plain)}
    if device != "cpu":
        goals = {context: (3.0, None), closure: (1.35, 1.15)}
    for method, name in names.items():
        row: Path_ = ("rows", ("method", method))
        goal, stretch = goals.get(method, (None, None))
        what = f"step over AdamW fused, {where}"
        yield Quantity(record, what, name, "×", (*row, "over_adamw_fused"), goal=goal, stretch=stretch)
        goal, stretch = (16.0, 12.0) if method.startswith("ivon ") else (None, None)
        what = f"memory beyond parameters and gradients, {where}"
        yield Quantity(record, what, name, "B/param", (*row, "peak_bytes_a_parameter"), goal=goal, stretch=stretch)
    for method in (kept, closure, context, plain):
        public: Path_ = ("rows", ("method", "ivon-opt"), "ms")
        goal = 20.0 if device == "cpu" else None
        yield Quantity(
            record,
            f"step, faster than ivon-opt, {where}",
            names[method],
            "×",
            public,
            ("rows", ("method", method), "ms"),
            goal,
            at_least=True,
        )


def _fastest_laplace(speed: Mapping[str, Any]) -> Any:
    return min(row["ms"] for name, row in speed.items() if name.startswith("laplace-torch"))


def _noise(device: str) -> Iterable[Quantity]:
    record, where = f"noise-{device}", "CPU" if device == "cpu" else "GPU"
    own = ("exact", "exact, no pairs", "rank 3", "rank 3, no pairs", "direction", "monte carlo, 64 draws")
    others, backpack = ("torch.func vmap(jacrev)", "loop of autograd.grad"), "laplace-torch BackPACK"
    for name in (*own, *others):
        goal = 14.0 if name.startswith("rank") else 5.0 if name.startswith("exact") else None
        paths: tuple[Path_, Path_] = ("speed", backpack, "ms"), ("speed", name, "ms")
        yield Quantity(record, f"label noise, faster than BackPACK, {where}", name, "×", *paths, goal, at_least=True)
    yield Quantity(
        record,
        f"label noise, faster than BackPACK, {where}",
        "laplace-torch at its fastest",
        "×",
        ("speed", backpack, "ms"),
        ("speed", _fastest_laplace),
        at_least=True,
    )
    for name in (*own, *others, backpack):
        goal = 100.0 if name.startswith("exact") and device == "cpu" else None  # a GPU may take more by default
        yield Quantity(record, f"label noise, peak memory, {where}", name, "MB", ("peak_megabytes", name), goal=goal)
    for name in own:
        goal = 0.03 if name.startswith("exact") else 0.05 if name.startswith("rank") else None
        path: Path_ = ("error", "rows", name, "magnitude")
        yield Quantity(record, f"label noise, relative error of its size, {where}", name, "", path, goal=goal)
    path = ("throughput", "images_per_second")
    yield Quantity(
        record, f"label noise of a training set, {where}", "rank_examples, rank 3", "images/s", path, at_least=True
    )


def _most(numbers: Mapping[str, Any]) -> Any:
    """The largest throughput of several processes."""
    return max(value for count, value in numbers.items() if int(count) > 1)


def _training(device: str) -> Iterable[Quantity]:
    record, where = f"training-{device}", "CPU" if device == "cpu" else "GPU"
    sets = {"digits": "8×8 pixels", "mnist": "28×28 pixels"}
    for dataset, name in (sets if device == "cpu" else {"cifar10": "ResNet-34, 32×32"}).items():
        engine: Path_ = (dataset, "medians", "engine")
        yield Quantity(record, f"training, {where}", name, "images/s", engine, at_least=True)
        plain: Path_ = (dataset, "medians", "plain loop, ivon-opt, DataLoader")
        goal, stretch = (5.0, 10.0) if device != "cpu" else (None, None)
        what = f"training, over a plain loop with ivon-opt, {where}"
        yield Quantity(record, what, name, "×", engine, plain, goal, stretch, at_least=True)
        sgd: Path_ = (dataset, "medians", "engine, plain SGD")
        yield Quantity(record, f"training, time of IVON over SGD, {where}", name, "×", sgd, engine)
        if device != "cpu":
            minutes = (dataset, "run_minutes")
            yield Quantity(record, "a run of the paper, GPU", name, "min", minutes, goal=10.0, stretch=6.0)
            best: Path_ = (dataset, "runs_an_hour", _most)
            what = "runs an hour, paper's size, GPU"
            yield Quantity(record, what, "side by side", "runs/h", best, goal=10.0, stretch=15.0, at_least=True)


def _sweep(device: str) -> Iterable[Quantity]:
    record, where = f"sweep-{device}", "CPU" if device == "cpu" else "GPU"
    one: Path_ = ("median_runs_per_hour", "1")
    many: Path_ = ("median_runs_per_hour", _most)
    yield Quantity(record, f"sweep, {where}", "one at a time", "runs/h", one, at_least=True)
    yield Quantity(record, f"sweep, {where}", "side by side", "runs/h", many, at_least=True)
    yield Quantity(record, f"sweep, gain of side by side, {where}", "runs an hour", "×", many, one, at_least=True)


def _glm() -> Iterable[Quantity]:
    for power in (3, 4, 5, 6):
        n = 10**power
        row: Path_ = ("rows", ("n", n))
        goal, stretch = (3.0, 1.5) if power == 5 else (None, None)
        name, what = f"N = {n:,}", "GLM, VON over Newton"
        yield Quantity("glm", what, name, "×", (*row, "von_over_newton"), goal=goal, stretch=stretch)
        if power < 6:
            what = "GLM, Monte Carlo of 1000 draws over VON"
            yield Quantity("glm", what, name, "×", (*row, "monte_carlo_over_von"), at_least=True)
        yield Quantity("glm", "GLM, memory over that of the features", name, "×", (*row, "memory_over_features"))
    large: Path_ = ("rows", ("n", 10**6), "von")
    small: Path_ = ("rows", ("n", 10**5), "von")
    yield Quantity("glm", "GLM, VON's time at ten times the examples", "N = 1,000,000 over 100,000", "×", large, small)


def _middle(method: str) -> Callable[[list[Mapping[str, Any]]], float]:
    def median(runs: list[Mapping[str, Any]]) -> float:
        seconds = sorted(r["machine"]["training_seconds"] for r in runs if r["config"]["method"] == method)
        return (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2

    return median


def _others() -> Iterable[Quantity]:
    paths: tuple[Path_, Path_] = ("runs", _middle("ivon")), ("runs", _middle("sgd"))
    what = "MNIST with 40 % wrong labels"
    yield Quantity("label-errors", f"{what}, time of IVON over SGD", "median over seeds", "×", *paths)
    gain: Path_ = ("gains", lambda gains: 100 * sum(gains) / len(gains))
    name = "mean over seeds"
    yield Quantity("label-errors", f"{what}, IVON minus SGD", name, "points", gain, at_least=True)
    for theorem in ("Theorem 1", "Theorem 2"):
        largest: Path_ = ("rows", _largest(theorem))
        yield Quantity("accuracy", "largest error of both sides", theorem, "", largest)


def _largest(start: str) -> Callable[[Mapping[str, float]], float]:
    return lambda rows: max(value for name, value in rows.items() if name.startswith(start))


def _together(quantities: Iterable[Quantity]) -> tuple[Quantity, ...]:
    """In order of first appearance, what is compared side by side."""
    groups: dict[str, list[Quantity]] = {}
    for quantity in quantities:
        groups.setdefault(quantity.what, []).append(quantity)
    return tuple(chain.from_iterable(groups.values()))


QUANTITIES: tuple[Quantity, ...] = _together(
    chain(
        *(of(device) for of in (_optimizer, _noise, _training, _sweep) for device in ("cpu", "cuda")),
        _glm(),
        _others(),
    )
)
"""Every number that the book reads from the records."""


# ---------------------------------------------------------------------- reading
def benchmark_records(folder: str | os.PathLike[str]) -> DataFrame:
    """Read the benchmarks' records into one table.

    Args:
        folder: with the JSON files; it need not exist.

    Returns:
        A row for each of :data:`.QUANTITIES`: ``record``, ``what``, ``name``, ``value`` (NaN where there is none),
        ``unit``, ``goal`` and ``stretch`` (NaN where there is none), ``at_least``, ``met`` and ``stretch_met`` (True,
        False or None), ``status`` (``"measured"``, ``"not measured"``, or what is wrong with the record), and of the
        record ``device``, ``torch``, ``date`` and ``protocol``. A JSON file that nothing here reads has a row as well.

    Example:
        >>> table = benchmark_records("nowhere")
        >>> set(table["status"])
        {'not measured'}
    """
    needs("pandas", "a table of records")
    import pandas as pd

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
    """The record, or what is wrong with it."""
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
    """A record does not hold what it should."""


def _number(record: dict[str, Any], path: Path_) -> float:
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


def _words(path: Path_) -> str:
    parts = [f"{s[0]}={s[1]}" if isinstance(s, tuple) else getattr(s, "__name__", s) for s in path]
    return " → ".join(f"'{str(part).strip('_')}'" for part in parts)


def _provenance(record: Mapping[str, Any]) -> dict[str, str]:
    """Where, with what and how the record was made, as far as it says."""
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


# ---------------------------------------------------------------------- telling
def cost_table(records: DataFrame) -> DataFrame:
    """Return some rows of :func:`benchmark_records` as a table to read.

    Args:
        records: the rows.

    Returns:
        Text, indexed by ``what`` and ``name``: the ``measured`` number or why there is none, the ``goal``, whether it
        is ``met``, and the record's ``device``, ``torch``, ``date`` and ``protocol``.

    Example:
        >>> cost_table(benchmark_records("nowhere"))["measured"].iloc[0]
        'not measured'
    """
    import pandas as pd

    rows = []
    for row in records.itertuples():
        measured = _text(row.value, row.unit) if row.status == "measured" else row.status
        sign, verdicts, goals = "≥" if row.at_least else "≤", [], []
        for name, bound, met in (("", row.goal, row.met), ("stretch ", row.stretch, row.stretch_met)):
            if bound == bound:
                goals.append(f"{name}{sign} {bound:g}")
                verdicts += [] if met is None else [f"{name}{'met' if met else 'not met'}"]
        place = (row.what, row.name, measured, "; ".join(goals), "; ".join(verdicts))
        rows.append((*place, row.device, row.torch, row.date, row.protocol))
    heads = ["what", "name", "measured", "goal", "met", "device", "torch", "date", "protocol"]
    return pd.DataFrame(rows, columns=heads).set_index(["what", "name"])


def _text(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.3g} {unit}".strip()


def goals_met(records: DataFrame) -> str:
    """Say in a few lines which goals are met, which are not, and which nothing has been measured for.

    Args:
        records: rows of :func:`benchmark_records`.

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
