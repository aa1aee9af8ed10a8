r"""The decision page: which method for which labels, at which cost, from the committed tables of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pandas as pd

from figures.differences import RESULTS, Gap, gap_of, rows_of
from figures.ledger import Shown
from figures.one_run import FOLDS, above_folds, calibrations, of_one_run
from vlls.experiments._choice import best_runs
from vlls.train import METHODS

__all__ = [
    "ADVICE",
    "SITUATIONS",
    "Advice",
    "accuracies_by_situation",
    "advice",
    "ahead_of",
    "costs",
    "runs_of",
]

#: The situations by name, each with the protocol and the panel of the tables that it is in.
SITUATIONS = {
    "labels by people": ("short", "CIFAR-10N, worst"),
    "40 % wrong, any class": ("short", "CIFAR-10, symmetric 40 %"),
    "40 % wrong, any class (MNIST)": ("mnist", "MNIST, symmetric 40 %"),
    "20 % flipped to the next class": ("mnist", "MNIST, pair flip 20 %"),
    "40 % flipped to the next class": ("mnist", "MNIST, pair flip 40 %"),
    "rates that differ by class": ("mnist", "MNIST, κ = 0.3"),
}
_TABLES = ("fig5", "fig7", "cifar_n", "rivals", "controls", "adamw")
#: Columns of the table: method, variant. AdamW is not a method of the package: ``benchmarks/adamw.py`` runs it.
_COLUMNS = {
    "SGD": ("sgd", ""),
    "AdamW": ("adamw", ""),
    "SGD, averaged weights": ("sgd", "averaged weights"),
    "LS": ("ls", ""),
    "SAM": ("sam", ""),
    "IVON": ("ivon", ""),
    "GCE": ("gce", ""),
    "SCE": ("sce", ""),
    "ELR": ("elr", ""),
    "IVON with ELR": ("ivon_elr", ""),
}


# ---------------------------------------------------------------------- the tables
@cache
def _rows(protocol: str) -> pd.DataFrame:
    """Return the runs of a protocol; for runs that average their weights, the accuracy is the average's."""
    rows = pd.concat(rows_of(name, protocol) for name in _TABLES).drop_duplicates("key")
    averaged = rows["ema_accuracy"].astype(float)
    return rows.assign(test_accuracy=averaged.fillna(rows["test_accuracy"]))


def runs_of(situation: str, column: str) -> pd.Series:
    """Return the test accuracies of a method in a situation (%), by seed, at its best value by test accuracy."""
    (protocol, panel), (method, variant) = SITUATIONS[situation], _COLUMNS[column]
    rows = _rows(protocol)
    rows = rows[(rows["panel"] == panel) & (rows["variant"] == variant)].assign(variant="")
    runs = best_runs(rows, method) if method in METHODS else rows[rows["method"] == method]
    return 100 * runs.set_index("seed")["test_accuracy"]


def accuracies_by_situation() -> pd.DataFrame:
    """Return the mean accuracy of each method in each situation, with its standard error over the seeds."""
    table = pd.DataFrame("not run", index=list(SITUATIONS), columns=list(_COLUMNS))
    for situation in SITUATIONS:
        for column in _COLUMNS:
            runs = runs_of(situation, column)
            if len(runs):
                error = f"\u00a0±\u00a0{runs.sem():.1f}" if len(runs) > 1 else ""
                table.loc[situation, column] = f"{runs.mean():.1f}{error}"
    return table


def costs() -> pd.DataFrame:
    """Return each method's training time relative to SGD's, on a CPU and on a GPU, and its requirements.

    CPU times are of the 3-layer CNN (``benchmarks/bench_one_run.py``), GPU times of ResNet-18 at protocol *short*, with
    five runs side by side.
    """
    cells = json.loads((RESULTS / "one_run.json").read_text())["cells"]
    seconds = pd.DataFrame([cell["seconds"] for cell in cells if cell["data"] == "mnist"])
    table = rows_of("cifar_n", "short")
    walls = table.pivot_table("wall_seconds", "seed", "method")  # of one seed, on one machine
    asks = {
        "sgd": "",
        "adamw": "a learning rate, on another scale than SGD's",
        "ls": "a value α, which depends on the errors",
        "sam": "a value ρ; if it is too large, SAM ends at a constant guess",
        "ivon": "h0 at its default",
        "evon": "h0 at its default; matrix products for each layer",
        "elr": "two values, and a memory for each training image",
    }
    rows = {}
    for method, ask in asks.items():
        plain = seconds["sgd, last"]
        own = next(
            (name for name in seconds if name.startswith(f"{method}, ") and "draws" not in name), ""
        )
        cpu = (seconds[own] / plain).mean() if own else float("nan")
        gpu = (walls[method] / walls["sgd"]).mean() if method in walls else float("nan")
        label = METHODS[method].label if method in METHODS else "AdamW"
        rows[label] = {"CPU": cpu, "GPU": gpu, "to be chosen": ask}
    return pd.DataFrame(rows).T


# ---------------------------------------------------------------------- the advice
def ahead_of(situation: str, column: str, other: str) -> Gap | None:
    """Return how far one method is above another in a situation, in points."""
    return gap_of(runs_of(situation, column), runs_of(situation, other))


@dataclass(frozen=True)
class Advice:
    """A piece of advice and the numbers that support it.

    Attributes:
        wanted: the reader's aim.
        take: the method.
        because: returns the reason, in numbers.
        holds: returns whether the tables still say so.
    """

    wanted: str
    take: str
    because: Callable[[], str]
    holds: Callable[[], bool]


def _more_accurate(
    wanted: str, take: str, situations: tuple[str, ...], columns: tuple[str, ...], *others: str
) -> Advice:
    """Return advice on accuracy: the best of ``columns`` is clearly ahead of the others in all of these situations."""

    def first(situation: str) -> str:
        return max(columns, key=lambda column: runs_of(situation, column).mean())

    def because() -> str:
        parts = []
        for situation in situations:
            shown = dict.fromkeys((first(situation), *others))
            accuracy = ", ".join(f"{name} {runs_of(situation, name).mean():.1f}" for name in shown)
            parts.append(f"{SITUATIONS[situation][1]}: {accuracy}")
        return "; ".join(parts) + " (% right)"

    def holds() -> bool:
        found = [ahead_of(at, first(at), other) for at in situations for other in others]
        return all(gap is not None and gap.side > 0 for gap in found)

    return Advice(wanted, take, because, holds)


def _found() -> str:
    rows = of_one_run()
    mean = rows[rows["errors"] == "symmetric 40 %"].groupby("ranking")["auroc"].mean()
    cost = rows.groupby("ranking")["cost"].mean()
    return (
        f"symmetric 40 % of MNIST and digits, AUROC: ELR {mean['ELR']:.3f}, IVON {mean['IVON']:.3f}, SGD {mean['SGD']:.3f}, "
        f"five-fold cross-validation {mean[FOLDS]:.3f} at {1 / cost['IVON']:.0f} times IVON's cost"
    )


def _calibrated() -> str:
    rows = calibrations()
    ivon = rows[(rows["method"] == "IVON") & (rows["way"] == "at the mean")]
    parts = [
        f"{data}: {of['ece before'].mean():.0f} → {of['ece after'].mean():.1f}"
        for data, of in ivon.groupby("data", sort=False)
    ]
    return f"IVON's calibration error in per cent, {'; '.join(parts)}"


ADVICE = (
    _more_accurate(
        "the most accurate of IVON, SAM, LS and SGD on labels that people gave",
        "IVON",
        ("labels by people",),
        ("IVON",),
        *("SAM", "LS", "SGD"),
    ),
    _more_accurate(
        "accuracy if labels are wrong at random",
        "a loss made for wrong labels: SCE, ELR",
        ("40 % wrong, any class (MNIST)",),
        ("SCE", "ELR"),
        *("IVON", "LS", "SGD"),
    ),
    _more_accurate(
        "accuracy if each class is taken for one other class",
        "ELR, alone or under IVON; not IVON alone",
        ("40 % flipped to the next class",),
        ("ELR", "IVON with ELR"),
        *("LS", "SAM", "IVON", "SGD"),
    ),
    _more_accurate(
        "accuracy if some classes have many more wrong labels",
        "SCE, GCE",
        ("rates that differ by class",),
        ("SCE", "GCE"),
        *("IVON", "LS", "SGD"),
    ),
    _more_accurate(
        "a free gain for plain SGD",
        "averaged weights (--ema 0.998)",
        ("40 % wrong, any class (MNIST)",),
        ("SGD, averaged weights",),
        "SGD",
    ),
    Advice(
        "to know which labels are wrong",
        "one training run, then find_label_errors or vlls clean",
        _found,
        lambda: all(gap.side >= 0 for gap in above_folds(of_one_run(), "IVON").values()),
    ),
    Advice(
        "probabilities that can be trusted",
        "fit_correction after training",
        _calibrated,
        lambda: bool((calibrations()["ece after"] < calibrations()["ece before"]).all()),
    ),
)
"""The page's advice, in its order."""


def advice() -> Shown:
    """Return the advice as a table, its texts whole."""
    rows = {one.wanted: {"take": one.take, "for": one.because()} for one in ADVICE}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("you want", axis="columns")
    with pd.option_context("display.max_colwidth", None):
        html = table.to_html(border=0, justify="left")
    return Shown(html, [(f"{one.wanted}:", f"{one.take}. {one.because()}") for one in ADVICE])
