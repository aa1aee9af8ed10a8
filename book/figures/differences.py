"""Differences between methods: seed by seed, with their standard errors, from the committed tables of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vlls.experiments import load_table
from vlls.experiments._choice import best_runs

__all__ = ["Gap", "by_rate", "gap", "gap_of", "ladder_gaps", "rows_of"]

RESULTS = Path(__file__).parent.parent / "results"
ON_REAL_IMAGES = ("paper", "short", "reduced", "mnist")
"""The protocols that count for a verdict; runs on the drawn or 8 by 8 digits of the smoke protocol do not."""


@dataclass(frozen=True)
class Gap:
    """How far one method is above another, in points of test accuracy at the last epoch or another unit.

    Attributes:
        points: the mean over the seeds that both have.
        error: its standard error, of the differences seed by seed; None with one seed.
        seeds: their number.
        least: the smallest difference of a single seed that counts, in the same unit.
    """

    points: float
    error: float | None
    seeds: int
    least: float = 1.0

    @property
    def side(self) -> int:
        """1 if it is clearly above, -1 if clearly below, 0 if that is not settled.

        Clear is a difference of at least ``least`` over the number of seeds, and of more than two standard errors where
        there are several: the spread of two or three seeds is too uncertain itself.
        """
        clear = abs(self.points) >= self.least / self.seeds and abs(self.points) > 2 * (
            self.error or 0.0
        )
        return 0 if not clear else 1 if self.points > 0 else -1

    def __str__(self) -> str:
        points = (
            f"{self.points:+.1f}".replace("-", "−").replace("−0.0", "0.0").replace("+0.0", "0.0")
        )
        spread = (
            f" ± {self.error:.1f} in {self.seeds} seeds" if self.error is not None else ", one seed"
        )
        return f"{points}{spread}"


def rows_of(name: str, protocol: str = "") -> pd.DataFrame:
    """Return an experiment's finished main runs, at one protocol or at those on real images."""
    table = load_table(RESULTS / f"{name}.csv")
    if "variant" not in table:
        table["variant"] = ""
    table = table[(table["role"] == "main") & (table["status"] == "finished")]
    wanted = (protocol,) if protocol else ON_REAL_IMAGES
    table = table[table["protocol"].isin(wanted)].astype({"test_accuracy": float, "value": float})
    return table.assign(variant=table["variant"].astype(object).fillna(""))


def accuracies(rows: pd.DataFrame, method: str, variant: str = "") -> pd.Series:
    """Return the test accuracies of a method's best value (%), by seed; SGD is a value of LS and of SAM."""
    best = best_runs(rows[rows["variant"] == variant].assign(variant=""), method)
    return 100 * best.set_index("seed")["test_accuracy"]


def gap_of(one: pd.Series, other: pd.Series, least: float = 1.0) -> Gap | None:
    """Return how far one method's percentages, by seed, are above another's; None if they have no seed in common."""
    differences = (one - other).dropna()
    if differences.empty:
        return None
    seeds = len(differences)
    error = float(differences.std() / seeds**0.5) if seeds > 1 else None
    return Gap(float(differences.mean()), error, seeds, least)


def gap(
    rows: pd.DataFrame, one: str, other: str, *, variants: tuple[str, str] = ("", "")
) -> Gap | None:
    """Return how far one method's best value is above another's in one panel; None if one is missing."""
    both = [
        accuracies(rows, name, variant)
        for name, variant in zip((one, other), variants, strict=True)
    ]
    return gap_of(*both)


def ladder_gaps(
    record: Mapping[str, Any], one: str, other: str, number: str, scale: float = 1.0
) -> dict[float, Gap]:
    """Return how far one posterior of ``ladder.json`` is above another, seed by seed, for each rate of wrong labels.

    Args:
        record: the record of ``benchmarks/bench_ladder.py``.
        one: a posterior.
        other: another.
        number: the name of a number of both.
        scale: of the difference.
    """
    found = {}
    for rate in record["rates"]:
        cells = [cell for cell in record["cells"] if cell["rate"] == rate]
        one_s, other_s = (
            pd.Series({cell["seed"]: scale * cell["posteriors"][name][number] for cell in cells})
            for name in (one, other)
        )
        if (between := gap_of(one_s, other_s, least=0)) is not None:
            found[rate] = between
    return found


def by_rate(found: Mapping[float, Gap], above: str, below: str) -> str:
    """Say at which rates of wrong labels a difference is clear, and on which side.

    Example:
        >>> by_rate({0.0: Gap(1.0, 0.1, 3), 0.2: Gap(0.1, 0.1, 3), 0.4: Gap(2.0, 0.1, 3)}, "higher", "lower")
        'higher at 0 and 40 %, not clearly different at 20 %'
    """
    parts = []
    for side, word in ((1, above), (-1, below), (0, "not clearly different")):
        rates = [f"{100 * rate:g}" for rate, between in found.items() if between.side == side]
        if rates:
            several = ", ".join(rates[:-1]) + " and " if rates[1:] else ""
            parts.append(f"{word} at {several}{rates[-1]} %")
    return ", ".join(parts)
