"""Compare IVON with the best of another method, in numbers and words; the range of accuracies over a hyperparameter.

Chapters 9, 10 and 12 print these lines, whatever runs there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlls.experiments._choice import finished
from vlls.experiments._results import choose
from vlls.train.methods import METHODS, PROPOSED

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["compare", "gains", "spans"]


def gains(table: DataFrame, other: str, *, how: str = "test") -> DataFrame:
    r"""Subtract the accuracy of another method at its best value from IVON's, in every panel that has both.

    Args:
        table: of :func:`.collate` or :func:`.load_table`, with one protocol.
        other: the method, such as ``"ls"``, at the value that :func:`.choose` chooses.
        how: ``"test"`` or ``"validation"``.

    Returns:
        Indexed by panel, with ``gain`` in percentage points, its standard error over seeds ``error`` (NaN with one
        seed), and ``clear``: whether the gain is more than two standard errors away from zero.

    Raises:
        ValueError: as :func:`.choose`.

    Example:
        >>> from vlls.experiments import load_table
        >>> len(gains(load_table("nothing.csv"), "ls"))
        0
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
    r"""Say in how many panels IVON is above the best of another method, and by how much.

    Args:
        table: as for :func:`gains`.
        other: as for :func:`gains`.
        how: as for :func:`gains`.

    Raises:
        ValueError: as :func:`.choose`.

    Example:
        >>> from vlls.experiments import load_table
        >>> compare(load_table("nothing.csv"), "ls")
        'IVON against the best LS, chosen by test accuracy: no panel has both'
    """
    found = gains(table, other, how=how)
    ours, record = METHODS[PROPOSED].label, METHODS[other]
    name = record.label
    if record.tuned:
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


def spans(table: DataFrame, method: str, *, above: float = 0.0) -> Series:
    r"""Return the range of a method's mean test accuracy over the values that were tried of its hyperparameter.

    Args:
        table: as for :func:`gains`.
        method: such as ``"ls"``, over α, or ``"ivon"``, over :math:`h_0`.
        above: only values larger than this one count; 0 leaves SGD out.

    Returns:
        Best less worst in percentage points, indexed by panel; panels with a single value are left out.

    Example:
        >>> from vlls.experiments import load_table
        >>> len(spans(load_table("nothing.csv"), "sam"))
        0
    """
    rows = finished(table[(table["role"] == "main") & (table["method"] == method)])
    rows = rows.astype({"value": float, "test_accuracy": float})
    rows = rows[rows["value"] > above]
    means = 100 * rows.groupby(["panel", "value"], sort=False)["test_accuracy"].mean()
    per_panel = means.groupby("panel", sort=False).agg(["min", "max", "count"])
    return (per_panel["max"] - per_panel["min"])[per_panel["count"] > 1]
