r"""How well one run finds wrong labels, beside cross-validation: the table, the figure and their words (Chapter 13)."""

from __future__ import annotations

import json
import re
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures.differences import RESULTS, Gap, gap_of
from vlls.plots._style import SINGLE, legend_above, styled
from vlls.train.methods import METHODS

__all__ = [
    "FOLDS",
    "PUBLISHED",
    "RANKINGS",
    "above_folds",
    "bayes_in_words",
    "beside_folds_in_words",
    "calibration_table",
    "calibrations",
    "cifar_in_words",
    "cifar_table",
    "corrected_in_words",
    "cost_of",
    "few_in_words",
    "of_one_run",
    "of_one_run_cifar",
    "one_run_table",
    "plot_one_run",
]

FOLDS = "cleanlab, five folds"
#: The rankings of ``benchmarks/bench_one_run.py`` that are shown, by their names in tables.
RANKINGS = {
    "IVON": "ivon, 8 draws, self_confidence",
    "IVON, at the mean": "ivon, mean, self_confidence",
    "IVON, Bayes score": "ivon, 8 draws, bayes",
    "EVON": "evon, 8 draws, self_confidence",
    "SGD": "sgd, last, self_confidence",
    "SGD, averaged weights": "sgd, EMA, self_confidence",
    "SAM, ρ = 0.05": "sam, last, self_confidence",
    "LS, α = 0.5": "ls, last, self_confidence",
    "ELR": "elr, last, self_confidence",
    FOLDS: "sgd, five folds, cleanlab",
}
#: AUROC and average precision of 1 - p(given) on CIFAR-10N's "worst" labels, from the probabilities of cross-validated
#: networks that cleanlab's authors publish.
PUBLISHED = {"ResNet-18": (0.963, 0.951), "ResNet-50d": (0.976, 0.967), "Swin-B": (0.991, 0.988)}
_DATA = {"mnist": "MNIST", "digits": "digits"}
_PEOPLE = "cifar10n:worse_label"
_WAYS = {"mean": "at the mean", "averaged": "averaged"}
_SCORES = {"self_confidence": "1 − p(given)", "bayes": "Bayes score"}


# ---------------------------------------------------------------------- the records
def of_one_run() -> pd.DataFrame:
    """Return a row for each data set, kind of errors, seed and ranking of ``benchmarks/bench_one_run.py``.

    Besides these, its columns are ``auroc`` and ``precision``, fractions, and ``cost``: CPU time of training and
    predicting, relative to five-fold cross-validation.
    """
    rows = []
    for cell in json.loads((RESULTS / "one_run.json").read_text())["cells"]:
        seconds = cell["seconds"]
        for name, key in RANKINGS.items():
            where = {"data": _DATA[cell["data"]], "errors": cell["errors"], "seed": cell["seed"]}
            cost = seconds[key.rsplit(", ", 1)[0]] / seconds["sgd, five folds"]
            rows.append({**where, "ranking": name, **cell["rankings"][key], "cost": cost})
    return pd.DataFrame(rows)


def of_one_run_cifar() -> pd.DataFrame:
    """Return a row for each run and ranking of ``benchmarks/one_run_cifar.py``, as :func:`of_one_run`."""
    rows = []
    for cell in json.loads((RESULTS / "one_run_cifar.json").read_text())["cells"]:
        label = METHODS[cell["method"]].label
        for key, found in cell["rankings"].items():
            way, score = key.split(", ")
            several = cell["method"] == "ivon"
            ranking = ", ".join(
                filter(None, (label, _WAYS[way] if several else "", _SCORES[score]))
            )
            rows.append(
                {**{n: cell[n] for n in ("errors", "method", "seed")}, "ranking": ranking, **found}
            )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------- tables
def one_run_table(rows: pd.DataFrame, data: str) -> pd.DataFrame:
    """Return AUROC / average precision of each ranking and kind of errors of a data set, and the cost: means over seeds."""
    groups = rows[rows["data"] == data].groupby(["ranking", "errors"], sort=False)
    means = groups[["auroc", "precision"]].mean()
    shown = means.apply(lambda row: f"{row['auroc']:.3f}\u00a0/ {row['precision']:.3f}", axis=1)
    table = shown.unstack("errors")[list(rows["errors"].unique())]
    costs = groups["cost"].mean().groupby("ranking", sort=False).mean()
    table["cost (%)"] = [f"{100 * cost:.0f}" for cost in costs]
    return table.rename(columns=lambda name: name.replace(" %", "\u00a0%")).rename_axis(
        index=f"{data}: one run", columns=None
    )


def cifar_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return AUROC and average precision on CIFAR-10's labels, those of people and drawn ones, and published ones."""
    found = {}
    for (errors, ranking), of_both in rows.groupby(["errors", "ranking"], sort=False):
        pair = " / ".join(f"{of_both[name].mean():.3f}" for name in ("auroc", "precision"))
        seeds = ", ".join(str(seed) for seed in of_both["seed"])
        found[ranking, errors] = f"{pair} (seed{'s' * (len(of_both) > 1)} {seeds})"
    table = pd.Series(found).unstack().rename(columns={_PEOPLE: "people, worst"})
    for network, pair in PUBLISHED.items():
        name = f"cross-validated {network}, published"
        table.loc[name, "people, worst"] = " / ".join(f"{number:.3f}" for number in pair)
    return table.fillna("–").sort_index(
        key=lambda names: names.str.contains("published"), kind="stable"
    )


def calibrations() -> pd.DataFrame:
    """Return accuracy and calibration error on correct test labels before and after the correction, in per cent.

    A row is a run of ``benchmarks/bench_clean_probabilities.py`` or ``benchmarks/one_run_cifar.py`` at the mean of
    its weights, or averaged over its posterior.
    """
    rows = []
    for name in ("clean_probabilities", "one_run_cifar"):
        for cell in json.loads((RESULTS / f"{name}.json").read_text())["cells"]:
            data = f"MNIST, {cell['errors']}" if "data" in cell else "CIFAR-10N, worst"
            for way, pair in cell["calibration"].items():
                numbers = {
                    f"{number} {when}": 100 * pair[when][number]
                    for number in ("accuracy", "ece")
                    for when in ("before", "after")
                }
                run = {
                    "data": data,
                    "method": METHODS[cell["method"]].label,
                    "way": _WAYS[way],
                    "seed": cell["seed"],
                }
                rows.append({**run, **numbers})
    return pd.DataFrame(rows)


def calibration_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the means of :func:`calibrations` over the seeds."""
    groups = rows.groupby(["data", "method", "way"], sort=False)
    table = groups[[name for name in rows if name.endswith(("before", "after"))]].mean().round(1)
    return table.assign(seeds=groups["seed"].nunique())


# ---------------------------------------------------------------------- the figure
@styled
def plot_one_run(rows: pd.DataFrame) -> Figure:
    """Draw the AUROC of each method's single run, and as a black bar that of cross-validation.

    The scale is logarithmic in 1 - AUROC, the share of pairs of a wrong and a right label that are ordered wrong.
    """
    sets = list(rows["data"].unique())
    figure, axes = plt.subplots(
        len(sets), 1, figsize=(SINGLE, 2.7 * len(sets)), squeeze=False, sharex=True
    )
    shown = [name for name in rows["ranking"].unique() if name != FOLDS]
    for ax, data in zip(axes[:, 0], sets, strict=True):
        of_data = rows[rows["data"] == data]
        errors = list(of_data["errors"].unique())
        lost = 1 - of_data.groupby(["ranking", "errors"])["auroc"].mean()
        for k, name in enumerate(shown):
            at = np.arange(len(errors)) + 0.7 * ((k + 0.5) / len(shown) - 0.5)
            ax.plot(at, lost[name][errors], **_look(name))
        for k, kind in enumerate(errors):
            label = FOLDS if k == 0 else None
            ax.plot(
                [k - 0.42, k + 0.42],
                [lost[FOLDS][kind]] * 2,
                color="black",
                linewidth=1.6,
                label=label,
                zorder=1,
            )
        ax.set_yscale("log")
        ticks = [
            at
            for at in (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005, 0.0002, 0.0001)
            if lost.min() / 1.5 < at < lost.max() * 1.5
        ]
        ticks = ticks[:: 1 + len(ticks) // 10]
        ax.set_yticks(ticks, [f"{1 - at:g}" for at in ticks])
        ax.minorticks_off()
        ax.invert_yaxis()
        ax.set_xticks(range(len(errors)), _ticks(errors), fontsize=8)
        ax.set(title=data, ylabel="AUROC (higher is better)")
    legend_above(figure, 3, fontsize=8, columnspacing=1.0)
    return figure


def _ticks(errors: list[str]) -> list[str]:
    """Return the rates of errors, and in the middle of those of one kind its name on lines below."""
    parts = [re.split(r",? (?=\S+ %|\S+ = )", kind) for kind in errors]
    kinds, ticks = ([part[k] for part in parts] for k in (0, 1))
    for kind in dict.fromkeys(kinds):
        middle = kinds.index(kind) + (kinds.count(kind) - 1) // 2
        ticks[middle] += "\n" + kind.replace("-", "-\n")
    return ticks


def _look(name: str) -> dict[str, Any]:
    """Return the colour and the marker of a ranking."""
    method = METHODS[RANKINGS[name].split(",")[0]]
    fill = {
        "IVON, at the mean": "left",
        "IVON, Bayes score": "none",
        "SGD, averaged weights": "none",
    }.get(name, "full")
    look = {"color": method.colour, "marker": method.marker, "label": name, "fillstyle": fill}
    return {**look, "linestyle": "none", "markersize": 5}


# ---------------------------------------------------------------------- in words
def above_folds(rows: pd.DataFrame, ranking: str, number: str = "auroc") -> dict[str, Gap]:
    """Return by how much a ranking is above five-fold cross-validation, in points, by data set and kind of errors."""
    found = {}
    for (data, errors), cell in rows.groupby(["data", "errors"], sort=False):
        by_seed = 100 * cell.pivot(index="seed", columns="ranking", values=number)
        gap = gap_of(by_seed[ranking], by_seed[FOLDS], least=0.0)
        assert gap is not None
        found[f"{data}, {errors}"] = gap
    return found


def cost_of(rows: pd.DataFrame, ranking: str) -> float:
    """Return the CPU time of a ranking relative to cross-validation, the mean over all settings."""
    return float(rows[rows["ranking"] == ranking]["cost"].mean())


def beside_folds_in_words(rows: pd.DataFrame, ranking: str = "IVON") -> str:
    """Say in how many settings a single run ranks labels better than cross-validation, in which worse, and its cost."""
    parts = []
    for number, name in (("auroc", "AUROC"), ("precision", "average precision")):
        found = above_folds(rows, ranking, number)
        behind = [f"{where} −{-gap.points:.1f}" for where, gap in found.items() if gap.side < 0]
        ahead = sum(gap.side > 0 for gap in found.values())
        text = f"{name} is clearly above five folds' in {ahead} of {len(found)} settings and clearly below in {len(behind)}"
        parts.append(text + (f" ({', '.join(behind)} points)" if behind else ""))
    cost = f"It takes {100 * cost_of(rows, ranking):.0f} % of the folds' CPU time."
    return f"**{ranking}, one run:** the {'; the '.join(parts)}. {cost}"


def bayes_in_words(rows: pd.DataFrame, errors: str = "pair flip 40 %") -> str:
    """Compare the Bayes score of :func:`.find_label_errors` with 1 − p(given) for labels flipped between classes."""
    parts = []
    for data, of_data in rows[rows["errors"] == errors].groupby("data", sort=False):
        mean = of_data.groupby("ranking")["auroc"].mean()
        parts.append(
            f"on {data} IVON has {mean['IVON']:.3f} by 1 − p(given) and {mean['IVON, Bayes score']:.3f} by the Bayes score, "
            f"five folds {mean[FOLDS]:.3f}"
        )
    return f"AUROC with {errors}: {'; '.join(parts)}."


def few_in_words(rows: pd.DataFrame) -> str:
    """Give the average precision of IVON's rankings and of cross-validation where 5 % of the labels are wrong."""
    few = rows[rows["errors"].str.endswith(" 5 %")]
    parts = []
    for (data, errors), cell in few.groupby(["data", "errors"], sort=False):
        found = cell.groupby("ranking")["precision"].agg(["mean", "std"])
        mean, bayes, folds = (
            f"{found['mean'][name]:.3f} ± {found['std'][name]:.3f}"
            for name in ("IVON, at the mean", "IVON, Bayes score", FOLDS)
        )
        parts.append(
            f"on {data} with {errors} {mean}, by the Bayes score {bayes}, by five folds {folds}"
        )
    seeds = few["seed"].nunique()
    return f"Average precision of one run of IVON at the mean of its weights, ± over {seeds} seeds: {'; '.join(parts)}."


def cifar_in_words(rows: pd.DataFrame) -> str:
    """Say how IVON's single run on people's labels compares with the published cross-validated network of its kind."""
    people = rows[
        (rows["errors"] == _PEOPLE) & (rows["ranking"] == "IVON, at the mean, 1 − p(given)")
    ]
    sgd = rows[(rows["errors"] == _PEOPLE) & (rows["ranking"] == "SGD, 1 − p(given)")]
    (auroc, precision), names = PUBLISHED["ResNet-18"], ("auroc", "precision")
    ours, plain = (people[list(names)].mean(), sgd[list(names)].mean())
    ahead = all(
        round(ours[name], 3) >= value - 0.001
        for name, value in zip(names, (auroc, precision), strict=True)
    )
    return (
        f"On people's labels one run of IVON has AUROC {ours['auroc']:.3f} and average precision {ours['precision']:.3f} "
        f"({len(people)} seeds), {'level with' if ahead else 'below'} the cross-validated ResNet-18 ({auroc}, {precision}), "
        f"and one run of SGD has {plain['auroc']:.3f} and {plain['precision']:.3f}."
    )


def corrected_in_words(rows: pd.DataFrame) -> str:
    """Say how far the correction lowers IVON's calibration error at the mean of its weights, and how accuracy changes."""
    parts = []
    ivon = rows[(rows["method"] == "IVON") & (rows["way"] == "at the mean")]
    for data, of_data in ivon.groupby("data", sort=False):
        change = float((of_data["accuracy after"] - of_data["accuracy before"]).mean())
        parts.append(
            f"on {data} from {of_data['ece before'].mean():.1f} to {of_data['ece after'].mean():.1f} % (accuracy "
            f"{change:+.1f} points)"
        )
    return f"The correction lowers IVON's calibration error at the mean of the weights {'; '.join(parts)}."
