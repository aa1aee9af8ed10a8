"""Which runs stand for a method in a panel: the runs of its best value, SGD's among them where the method is SGD.

Tables and figures choose here, each from the rows of one panel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlls._names import check_known
from vlls.train.methods import METHODS, PROPOSED, SGD

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["best_runs", "check_method", "compared", "finished", "methods_in", "sgd_last", "tried"]


def check_method(name: str) -> None:
    """Raise a ValueError unless there is a method of this name."""
    check_known(name, METHODS, "method", ", or one that vlls.train.register adds")


def methods_in(rows: DataFrame) -> list[str]:
    """The methods that a table holds, in the order of :data:`.METHODS`.

    Raises:
        ValueError: for a method that is unknown here.
    """
    there = set(rows["method"])
    for name in sorted(there):
        check_method(name)
    return [name for name in METHODS if name in there]


def compared() -> list[str]:
    """The methods that the paper compares: its own, SGD, and those that are SGD at one of their values."""
    return [name for name, method in METHODS.items() if name in (PROPOSED, SGD) or method.sgd_value is not None]


def sgd_last(methods: Iterable[str]) -> list[str]:
    """The same methods, SGD behind those that have it as one of their values."""
    return sorted(methods, key=lambda name: name == SGD)


def finished(rows: DataFrame) -> DataFrame:
    """The runs that came to their end."""
    return rows[rows["status"] == "finished"]


def tried(rows: DataFrame, method: str) -> DataFrame:
    """The runs of a method, and SGD's with the value at which the method is SGD; ``value`` is a float."""
    sgd_value = METHODS[method].sgd_value
    names = [method] if sgd_value is None else [method, SGD]
    rows = rows[rows["method"].isin(names)]
    return rows.assign(value=rows["value"].where(rows["method"] == method, sgd_value).astype(float))


def best_runs(rows: DataFrame, method: str, how: str = "test") -> DataFrame:
    """The runs of a method that were trained on all images with its best value; all of them where none is tried.

    Args:
        rows: of one panel.
        method: its name.
        how: ``"test"`` takes the value with the highest mean test accuracy, ``"validation"`` that with the highest
            mean accuracy on images held out: of the runs to tune by, or of all where there are none (data sets that
            come with such images).

    Returns:
        Finished and diverged runs; none at all where no run of the value is finished, or the method has no run itself.
    """
    rows = tried(rows, method)
    main = rows[rows["role"] == "main"]
    candidates = finished(main)
    if candidates.empty or method not in set(main["method"]):
        return main[:0]
    if candidates["value"].isna().all():
        return main
    column = "test_accuracy"
    chosen_by = candidates
    if how == "validation":
        column = "validation_accuracy"
        held_out = finished(rows[rows["role"] == "tune"])
        chosen_by = candidates if held_out.empty else held_out
    means = chosen_by.groupby("value")[column].mean().dropna()
    best = main[main["value"] == means.idxmax()] if len(means) else main[:0]
    return best if len(finished(best)) else best[:0]
