"""The runs that represent a method in a panel: those at its best value, which are SGD's where the method is SGD."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlls._names import check_known
from vlls.train.methods import METHODS, PROPOSED, SGD

if TYPE_CHECKING:
    from pandas import DataFrame, Series


def check_method(name: str) -> None:
    """Raise a ValueError unless there is a method of this name."""
    check_known(name, METHODS, "method", ", or one that vlls.train.register adds")


def methods_in(rows: DataFrame) -> list[str]:
    """Return the methods that a table holds, in the order of :data:`.METHODS`; raise a ValueError for unknown ones."""
    there = set(rows["method"])
    for name in sorted(there):
        check_method(name)
    return [name for name in METHODS if name in there]


def compared() -> list[str]:
    """Return the methods that the paper compares: its own, SGD, and those that are SGD at one of their values."""
    return [name for name, method in METHODS.items() if name in (PROPOSED, SGD) or method.sgd_value is not None]


def sgd_last(methods: Iterable[str]) -> list[str]:
    """Return the methods with SGD last, behind those that are SGD at one of their values."""
    return sorted(methods, key=lambda name: name == SGD)


def without_variants(rows: DataFrame) -> DataFrame:
    """Return the runs of the paper's methods, without variants; an older table has no such column, and no variants."""
    return rows[rows["variant"].fillna("") == ""] if "variant" in rows else rows


def candidate_label(method: str, variant: str = "", parameter: str = "", values: Iterable[float] = ()) -> str:
    """Return the name of a method with its variant and values, such as ``"LS, α = 0.5"``, in tables and figures."""
    known = METHODS[method]
    symbol = known.symbol if parameter in ("", known.tuned) else parameter
    told = ", ".join(f"{value:g}" for value in values if value == value)
    return ", ".join(filter(None, (known.label, variant, f"{symbol or known.tuned} = {told}" if told else "")))


def by_candidate(rows: DataFrame) -> dict[str, DataFrame]:
    """Return the rows of each method, variant and value by their label, in the order of :data:`.METHODS`.

    If a run averages its weights, its test metrics are taken at the average.
    """
    for name in ("accuracy", "nll", "ece", "brier"):
        if {f"ema_{name}", f"test_{name}"} <= set(rows):
            rows = rows.assign(**{f"test_{name}": rows[f"ema_{name}"].fillna(rows[f"test_{name}"])})
    order = {name: i for i, name in enumerate(methods_in(rows))}
    texts = {name: rows[name].fillna("") if name in rows else "" for name in ("variant", "parameter")}
    rows = rows.assign(**texts, value=rows["value"].astype(float))
    groups = rows.groupby(["method", "variant", "parameter", "value"], sort=False, dropna=False)
    found = sorted(groups, key=lambda group: (order[group[0][0]], group[0][1] != "", group[0][3]))
    return {
        candidate_label(method, variant, parameter, [value]): of_candidate
        for (method, variant, parameter, value), of_candidate in found
    }


def finished(rows: DataFrame) -> DataFrame:
    """Return the runs that finished."""
    return rows[rows["status"] == "finished"]


def tried(rows: DataFrame, method: str) -> DataFrame:
    """Return the runs of a method, and SGD's with the value at which the method is SGD; ``value`` is a float.

    Variants of them are other methods.
    """
    sgd_value = METHODS[method].sgd_value
    names = [method] if sgd_value is None else [method, SGD]
    rows = without_variants(rows)
    rows = rows[rows["method"].isin(names)]
    return rows.assign(value=rows["value"].where(rows["method"] == method, sgd_value).astype(float))


def best_runs(rows: DataFrame, method: str, how: str = "test") -> DataFrame:
    """Return the runs of one panel that were trained on all images with a method's best value; all if none is tried.

    The value has the highest mean accuracy on the test images, or, if ``how`` is ``"validation"``, on images held out.
    The table is empty if no run of that value is finished, or if the method itself has none.
    """
    rows = tried(rows, method)
    main = rows[rows["role"] == "main"]
    if finished(main).empty or method not in set(main["method"]):
        return main[:0]
    if finished(main)["value"].isna().all():
        return main
    held_out = rows[rows["role"] == "tune"]
    by_all = how == "test" or finished(held_out).empty  # some data sets come with images held out
    means = _means(main if by_all else held_out, f"{how}_accuracy")
    best = main[main["value"] == means.idxmax()] if len(means) else main[:0]
    return best if len(finished(best)) else best[:0]


def _means(rows: DataFrame, column: str) -> Series:
    """Return the mean of each value over the seeds that all values have, so that none wins by its seeds.

    If they share no seed, each mean is over all seeds of its value. Values with a run that diverged are left out if
    there are others.
    """
    diverged = rows.loc[rows["status"] != "finished", "value"]
    whole = rows[~rows["value"].isin(diverged)]
    by_value = finished(whole if len(whole) else rows).pivot_table(column, "value", "seed")
    shared = by_value.dropna(axis="columns")
    return (by_value if shared.empty else shared).mean(axis="columns").dropna()
