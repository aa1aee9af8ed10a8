r"""The map of regimes: settings in which IVON learns its covariance, the causes, and its accuracy and calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from pandas import DataFrame, Series

from vlls.plots._style import PALETTE, SINGLE, styled
from vlls.train import RunConfig

__all__ = [
    "ERRORS",
    "MARKS",
    "NAMES",
    "Mark",
    "advice_in_words",
    "calibration_in_words",
    "causes_in_words",
    "cells_there",
    "clip_in_words",
    "drift_over_curvature",
    "expected_hessian",
    "half_learned_below",
    "live_and_recorded",
    "marks",
    "plot_causes",
    "plot_regimes",
    "predicted_shares",
    "regimes_in_words",
    "rule_in_words",
    "the_map",
    "with_parts",
]

RATIOS = (1, 4, 20, 200, 2000)
STARTS = (0.001, 0.01, 0.1, 0.9)
MATCHED = "matched"  # the row in which the posterior begins as wide as the paper's
PAPER_PRECISION = 50_000 * (0.9 + 0.001)
#: The data sets of the map, as texts name them.
NAMES = {"digits": "digits", "mnist": "MNIST, 5,000 images"}
#: The label errors of the map, as texts name them.
ERRORS = {"symmetric": "40 % symmetric errors", "none": "right labels"}
_PANELS = {  # column of the map: title, whether its scale is logarithmic, colours, a cell's text
    "learned_share": ("learned share (%)", False, "Blues", lambda x: f"{100 * x:.0f}"),
    "test_accuracy": ("test accuracy (%)", False, "Greens", lambda x: f"{100 * x:.0f}"),
    "posterior_ece": ("ECE, averaged (%)", False, "Oranges", lambda x: f"{100 * x:.0f}"),
    "spread": (r"spread $\sigma_{95}/\sigma_5$", True, "Purples", lambda x: f"{x:.2g}"),
}


@dataclass(frozen=True)
class Mark:
    """A setting that is used in practice, and its place in the map.

    The update of IVON depends on ``ess`` and not on the number of images. So a mark is at its own ``ess`` and
    :math:`h_0`: there a run begins with the mark's :math:`\\sigma_0` and the mark's :math:`h_0`.

    Attributes:
        letter: that is drawn.
        name: whose setting it is.
        ess: both ends of a range, equal for one value.
        hess_init: likewise.
    """

    letter: str
    name: str
    ess: tuple[float, float]
    hess_init: tuple[float, float]

    def place(self, images: int) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the ranges of ess / N and of h0 in the map of that many images.

        Example:
            >>> MARKS[0].place(5_000)
            ((10.0, 10.0), (0.9, 0.9))
        """
        low, high = self.ess
        return (low / images, high / images), self.hess_init


#: The paper's setting and three others, from its authors' scripts and papers.
MARKS = (
    Mark("P", "the paper, CIFAR", (5e4, 5e4), (0.9, 0.9)),
    Mark("S", "Shen et al., CIFAR", (5e4, 5e4), (0.5, 0.5)),
    Mark("B", "BDL competition, CIFAR", (2e5, 2e5), (0.005, 0.005)),
    Mark("L", "IVON-LoRA", (1e6, 1e8), (3e-4, 1e-3)),
)


def marks(images: int) -> tuple[Mark, ...]:
    """Return :data:`MARKS`, and the defaults that :mod:`vlls` has for a learned posterior of so many images.

    Example:
        >>> marks(1437)[-1].place(1437)[0][0] >= 1
        True
    """
    config = RunConfig(dataset="digits", train_size=images, posterior="learned").resolved()
    ess, start = config.ess or images, config.hess_init or 0.0
    return (*MARKS, Mark("V", 'vlls, posterior="learned"', (ess, ess), (start, start)))


# ------------------------------------------------------------------ the rule
def expected_hessian(
    hess_init: float,
    curvature: float,
    squared_gradient: float,
    *,
    ess: float,
    beta2: float,
    steps: int,
) -> float:
    r"""Return the Hessian that IVON has on average after T steps.

    .. math::

        \mathbb{E}\,h_T \approx \beta_2^T h_0 + (1 - \beta_2^T) \bigl(H + \tfrac12 (1 - \beta_2)\, \lambda\, g^2\bigr)

    Args:
        hess_init: :math:`h_0`.
        curvature: H, the expected Hessian of the loss on a batch.
        squared_gradient: :math:`g^2`, of a batch's gradient, on average.
        ess: :math:`\lambda`.
        beta2: of the running average.
        steps: T.

    Example:
        >>> round(expected_hessian(0.9, 0.0, 0.0, ess=1e4, beta2=0.99, steps=100), 3)
        0.329
    """
    kept = beta2**steps
    drift = 0.5 * (1 - beta2) * ess * squared_gradient
    return kept * hess_init + (1 - kept) * (curvature + drift)


def half_learned_below(taught: float, beta2: float, steps: int) -> float:
    r"""Return the :math:`h_0` at which half of the last Hessian is learned; below it, more is.

    Args:
        taught: curvature and drift together, the bracket of :func:`expected_hessian`.
        beta2: of the running average.
        steps: T.

    Example:
        >>> round(half_learned_below(1.0, 1 - 2 / 840, 840), 1)
        6.4
    """
    return taught * (1 - beta2**steps) / beta2**steps


def drift_over_curvature(ess: float, beta2: float, batch_size: int) -> float:
    r"""Return the ratio of drift to curvature in the learned Hessian, if gradients are as large as curvature implies.

    For labels that the model itself could have drawn, a weight's gradients have the variance H, and the mean of a
    batch has :math:`g^2 = H/B`. With :math:`\beta_2 = 1 - 2/T` the ratio is :math:`\lambda / (TB)`: ess over the number
    of images that the training sees.

    Example:
        >>> drift_over_curvature(50_000, 1 - 1e-5, 50) < 0.01       # the paper's
        True
    """
    return 0.5 * (1 - beta2) * ess / batch_size


# ------------------------------------------------------------------ the table
def with_parts(table: DataFrame) -> DataFrame:
    """Return the finished runs with the parts of their Hessian, as means over the weights.

    ``kept`` is left of the initial value, ``drift`` comes from the quadratic term, and ``curvature`` is the rest.
    ``total`` is the share of the last two, ``seen`` the number of images that training saw, and ``spread`` the ratio of
    the standard deviations at 95 % and 5 %.
    """
    rows = table[table["status"] == "finished"].copy()
    beta2, start = rows["beta2"], rows["hess_init"]
    of_itself = 0.5 * (1 - beta2) ** 2 * start / (start + rows["weight_decay"])
    rows["kept"] = start * (beta2 + of_itself) ** rows["steps"]
    rows["curvature"] = rows["hess_mean"] - rows["kept"] - rows["drift_mean"]
    rows["drift"] = rows["drift_mean"]
    rows["total"] = 1 - rows["kept"] / rows["hess_mean"]
    rows["seen"] = rows["steps"] * rows["batch_size"]
    rows["spread"] = rows["std_95"] / rows["std_5"]
    return rows


def the_map(table: DataFrame, dataset: str, corruption: str) -> DataFrame:
    """Return the existing cells of the map: means over the seeds, number of seeds and whether the network trains.

    A network trains if it classifies more than half of the test images correctly.

    Args:
        table: ``results/regimes.csv``.
        dataset: ``"digits"`` or ``"mnist"``.
        corruption: ``"symmetric"`` or ``"none"``.
    """
    rows = with_parts(table)
    rows = rows[(rows["dataset"] == dataset) & (rows["corruption"].fillna("none") == corruption)]
    rows = rows[~rows["protocol"].isin(["live", "clipped", "long"])]
    means = rows.groupby(["ess_over_n", "start"]).mean(numeric_only=True)
    means["seeds"] = rows.groupby(["ess_over_n", "start"])["seed"].nunique()
    means = means.reset_index()
    return means.assign(trains=means["test_accuracy"] > 0.5)


def cells_there(cells: DataFrame) -> str:
    """Say how many of the map's cells exist, and with how many seeds.

    Example:
        >>> cells_there(DataFrame({"seeds": [1, 2]}))
        '2 of 25 cells, 1 to 2 seeds'
    """
    fewest, most = int(cells["seeds"].min()), int(cells["seeds"].max())
    seeds = f"{most} seed{'s' * (most > 1)}" if fewest == most else f"{fewest} to {most} seeds"
    return f"{len(cells)} of {len(RATIOS) * (len(STARTS) + 1)} cells, {seeds}"


def _at(cell: Mapping[str, Any] | Series) -> str:
    start = "the paper's σ₀" if cell["start"] == MATCHED else f"h₀ = {float(cell['start']):g}"
    return f"ess = {cell['ess_over_n']:,.0f} N and {start}"


# ------------------------------------------------------------------ figures
def _middles(values: Sequence[float]) -> np.ndarray:
    """Return the edges of cells around rising values: halfway between neighbours, and as far beyond the ends."""
    inner = (np.array(values)[1:] + np.array(values)[:-1]) / 2
    return np.r_[2 * values[0] - inner[0], inner, 2 * values[-1] - inner[-1]]


_X = _middles([math.log10(ratio) for ratio in RATIOS])
_Y = _middles([math.log10(start) for start in STARTS])
_TOP = (_Y[-1] + 0.25, _Y[-1] + 1.15)  # the row of the paper's sigma_0, apart from the others


@styled
def plot_regimes(cells: DataFrame, shown: Sequence[Mark] = MARKS) -> Figure:
    r"""Draw learned share, accuracy, calibration and spread over the plane of ess and h0, and settings in it.

    Missing cells stay white; a network that does not train has a grey number.

    Args:
        cells: of :func:`the_map`.
        shown: settings to mark, each at its own ess and :math:`h_0`.

    Raises:
        ValueError: if there are no cells.
    """
    if not len(cells):
        raise ValueError("there are no cells; pass a map of runs that are finished")
    images = int(cells["train_images"].iloc[0])
    figure, axes = plt.subplots(2, 2, figsize=(5.4, 6.2), sharex=True, sharey=True)
    for ax, (name, (title, logarithmic, colours, text)) in zip(
        axes.flat, _PANELS.items(), strict=True
    ):
        values = cells[name].astype(float)
        scale = LogNorm(1, max(2.0, values.max())) if logarithmic else Normalize(0, 1)
        if name == "posterior_ece":
            scale = Normalize(0, max(0.1, values.max()))
        for cell, value in zip(cells.to_dict("records"), values, strict=True):
            _draw_cell(ax, cell, plt.get_cmap(colours)(0.85 * scale(value)), text(value))
        _draw_marks(ax, shown, images)
        ax.set_title(title, fontsize=10)
        ax.set(xlim=(_X[0], _X[-1]), ylim=(_Y[0], _TOP[1]))
        ax.set_xticks(np.log10(RATIOS), [f"{ratio:,}" for ratio in RATIOS], fontsize=9)
        names = [*(f"{start:g}" for start in STARTS), "paper's\n" + r"$\sigma_0$"]
        ax.set_yticks([*np.log10(STARTS), sum(_TOP) / 2], names, fontsize=9)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    figure.supxlabel("ess / N", fontsize=10)
    figure.supylabel("$h_0$ (curvature of the mean loss)", fontsize=10)
    told = [f"{mark.letter}: {mark.name}" for mark in shown]
    lines = [", ".join(told[i : i + 2]) for i in range(0, len(told), 2)]
    figure.suptitle(",\n".join([*lines, r"dashed: the paper's $\sigma_0$"]), fontsize=9)
    return figure


def _draw_cell(ax: Axes, cell: Mapping[str, Any], colour: tuple[float, ...], text: str) -> None:
    at = RATIOS.index(int(cell["ess_over_n"]))
    if cell["start"] == MATCHED:
        low, high = _TOP
    else:
        row = STARTS.index(float(cell["start"]))
        low, high = _Y[row], _Y[row + 1]
    width, height = _X[at + 1] - _X[at], high - low
    ax.add_patch(Rectangle((_X[at], low), width, height, facecolor=colour, edgecolor="white"))
    dark = np.dot(colour[:3], (0.3, 0.59, 0.11)) < 0.6
    shade = ("white" if dark else "0.1") if cell["trains"] else ("0.85" if dark else "0.5")
    ax.text(
        _X[at] + width / 2,
        high - 0.24 * height,
        text,
        ha="center",
        va="center",
        fontsize=9,
        color=shade,
        path_effects=[withStroke(linewidth=2, foreground=colour)],
    )


def _draw_marks(ax: Axes, shown: Sequence[Mark], images: int) -> None:
    ess = np.geomspace(10 ** _X[0], 10 ** _X[-1], 200) * images
    line = np.log10(np.clip(PAPER_PRECISION / ess - 1e-3, 1e-9, None))
    inside = (line <= _Y[-1]) & (line >= _Y[0])
    dashes: Any = {"color": "0.25", "linewidth": 1, "dashes": (4, 2), "zorder": 1.5}
    ax.plot(np.log10(ess / images)[inside], line[inside], **dashes)
    for mark in shown:
        ratios, starts = (np.log10(np.array(ends)) for ends in mark.place(images))
        if mark.ess[0] < mark.ess[1] or mark.hess_init[0] < mark.hess_init[1]:
            box = (ratios[0], starts[0]), min(ratios[1], _X[-1]) - ratios[0], starts[1] - starts[0]
            ax.add_patch(Rectangle(*box, fill=False, edgecolor="0.15", linewidth=1.2))
        x = ratios[0] if ratios[0] == ratios[1] else _X[-1] - 0.25
        y = max(starts.mean(), _Y[0] + 0.2)
        ax.text(
            x,
            y,
            mark.letter,
            ha="center",
            va="center",
            fontsize=7.5,
            fontweight="bold",
            gid=f"mark {mark.letter}",
            bbox={
                "boxstyle": "circle,pad=0.12",
                "facecolor": "white",
                "edgecolor": "0.15",
                "linewidth": 0.8,
            },
        )


@styled
def plot_causes(table: DataFrame) -> Figure:
    r"""Draw the parts of the learned Hessian, drift over curvature, against ess over the number of images seen.

    Args:
        table: ``results/regimes.csv``; runs that do not train are left out.
    """
    rows = _trained(table)
    figure, ax = plt.subplots(figsize=(SINGLE, 3.8))
    looks = {
        (data, errors): (PALETTE[i], m)
        for i, (data, m) in enumerate((("digits", "o"), ("mnist", "s")))
        for errors in ERRORS
    }
    for (data, errors), (colour, marker) in looks.items():
        part = rows[(rows["dataset"] == data) & (rows["corruption"].fillna("none") == errors)]
        if len(part):
            fill = colour if errors == "symmetric" else "white"
            ax.loglog(
                part["ess"] / part["seen"],
                part["drift"] / part["curvature"],
                marker,
                color=colour,
                markerfacecolor=fill,
                label=f"{data if data == 'digits' else 'MNIST'}, {ERRORS[errors]}",
            )
    ends = np.array([rows["ess"].div(rows["seen"]).min(), rows["ess"].div(rows["seen"]).max()])
    ax.loglog(ends, ends, color="0.4", linewidth=1, label=r"expected: ess / images seen")
    ax.axhline(1, color="0.4", linewidth=0.8, linestyle="dotted")
    ax.set_xlabel("ess / number of images seen in training")
    ax.set_ylabel("drift / curvature\nin what is learned")
    ax.legend(fontsize=9, loc="upper left")
    return figure


# ------------------------------------------------------------------ in words
def predicted_shares(cells: DataFrame) -> DataFrame:
    """Return the total learned share of each cell that trains, beside its prediction from the other cells of its ess.

    The prediction takes the learned part, curvature and drift, from the median of the other cells of the column. Of the
    cell itself it uses only ess and :math:`h_0`.

    Args:
        cells: of :func:`the_map`.
    """
    rows = cells[cells["trains"]]
    kept = rows["beta2"] ** rows["steps"]
    taught = (rows["curvature"] + rows["drift"]) / (1 - kept)
    found = []
    for index, cell in rows.iterrows():
        others = taught[(rows["ess_over_n"] == cell["ess_over_n"]) & (rows.index != index)]
        if len(others):
            learned = (1 - kept[index]) * others.median()
            share = learned / (learned + kept[index] * cell["hess_init"])
            found.append((cell["ess_over_n"], cell["start"], share, cell["total"]))
    return DataFrame(found, columns=["ess_over_n", "start", "predicted", "total"])


def rule_in_words(cells: DataFrame) -> str:
    """Say how well the rule predicts the learned share of the map's cells.

    Args:
        cells: of :func:`the_map`.
    """
    found = predicted_shares(cells)
    if not len(found):
        return "There are too few cells to test the rule."
    off = (found["predicted"] - found["total"]).abs()
    right = int(((found["predicted"] > 0.5) == (found["total"] > 0.5)).sum())
    rows = cells[cells["trains"]]
    kept = rows["beta2"] ** rows["steps"]
    limits = ((rows["curvature"] + rows["drift"]) / kept).groupby(rows["ess_over_n"]).median()
    ends = [f"{limits.iloc[i]:.2g} at ess = {limits.index[i]:,.0f} N" for i in (0, -1)]
    return (
        f"At least half of the whole Hessian is learned if h₀ is below {' and below '.join(ends)}. For each of the {len(found)} cells that train, "
        f"the other cells of the same ess predict the share to {100 * off.median():.0f} points in the median (at most {100 * off.max():.0f}); "
        f"for {right} of them they predict the right side of one half."
    )


def _trained(table: DataFrame) -> DataFrame:
    rows = with_parts(table)
    return rows[(rows["test_accuracy"] > 0.5) & rows["hess_clip"].isna() & (rows["curvature"] > 0)]


def causes_in_words(table: DataFrame) -> str:
    """Say how much of IVON's learned Hessian is curvature and how much is drift, from the runs.

    Args:
        table: ``results/regimes.csv``.
    """
    rows = _trained(table)
    ratio, expected = rows["drift"] / rows["curvature"], rows["ess"] / rows["seen"]
    off = ratio / expected
    near = off.between(1 / 3, 3).mean()
    said = (
        f"In the {len(rows)} runs that train, the ratio of ess to the images seen spans {np.log10(expected.max() / expected.min()):.1f} decades. "
        f"Drift over curvature is {off.median():.2g} times this ratio in the median, and within a factor of 3 of it in {near:.0%} of the runs."
    )
    part = (rows["drift"] / (rows["drift"] + rows["curvature"])).rename("part")
    learned = rows.assign(part=part)[rows["learned_share"] > 0.5]
    usual = learned[learned["protocol"] != "long"]
    if len(usual):
        said += (
            f" In the {len(usual)} runs of the usual length whose median weight's Hessian is more than half learned, the drift is "
            f"{usual['part'].min():.0%} to {usual['part'].max():.0%} of the learned part"
        )
        mostly = usual["part"].min() > 0.5
        said += ": they learn squared gradients more than curvature." if mostly else "."
    for run in rows.assign(part=part)[rows["protocol"] == "long"].to_dict("records"):
        errors = ERRORS["none" if run["corruption"] != run["corruption"] else run["corruption"]]
        said += (
            f" With {run['epochs']} epochs, ess = {run['ess_over_n']:.0f} N and h₀ = {float(run['start']):g} ({errors}) the drift is {run['part']:.0%} of the learned part; "
            f"{run['total']:.0%} of the Hessian is learned in all, {run['learned_share']:.0%} of the median weight's, at a test accuracy of "
            f"{run['test_accuracy']:.1%}."
        )
    return said


def clip_in_words(table: DataFrame) -> str:
    """Say how much is learned with a clipped estimate of the Hessian, beside the same runs without.

    Args:
        table: ``results/regimes.csv``.
    """
    rows = with_parts(table)
    place, told = ["dataset", "corruption", "ess_over_n", "start"], []
    for at, clipped in rows[rows["protocol"] == "clipped"].groupby(place):
        free = rows[
            (rows[place] == list(at)).all(axis=1) & rows["protocol"].isin(["smoke", "mnist"])
        ]
        means = clipped.groupby("hess_clip").mean(numeric_only=True)
        shares = [
            f"{row['learned_share']:.1%} with a clip of {clip:g}" for clip, row in means.iterrows()
        ]
        shares = [f"{free['learned_share'].mean():.1%} without a clip"] * (len(free) > 0) + shares
        last = means.iloc[-1]
        told.append(
            f"At {_at(clipped.iloc[0])} the median weight's learned share is {', '.join(shares)} (at the largest clip: test accuracy "
            f"{last['test_accuracy']:.1%}, averaged ECE {last['posterior_ece']:.3f}, NLL {last['posterior_nll']:.3f})."
        )
        if len(free) and clipped["learned_share"].max() < 0.5 * free["learned_share"].min():
            told.append("The clip removes the drift, but also the curvature.")
    return " ".join(told) or "There are no runs with a clipped estimate."


def regimes_in_words(cells: DataFrame) -> str:
    """Say how many cells train, how many of them learn, and which are the most accurate.

    Args:
        cells: of :func:`the_map`.
    """
    trains = cells[cells["trains"]]
    if not len(trains):
        return f"{cells_there(cells)}; no network trains."
    learned, rest = trains[trains["learned_share"] > 0.5], trains[trains["learned_share"] <= 0.5]
    said = f"{cells_there(cells)}; {len(trains)} train, and {len(learned)} of these learn more than half of the median weight's Hessian."
    shown = [
        ("The most accurate of these is at", learned.nlargest(1, "test_accuracy")),
        ("The most accurate of the others is at", rest.nlargest(1, "test_accuracy")),
        ("The paper's σ₀ with ess = N has", trains.query("start == @MATCHED and ess_over_n == 1")),
    ]
    for name, part in shown:
        for cell in part.to_dict("records"):
            place = "" if name.startswith("The paper's") else f"{_at(cell)}, with "
            said += (
                f" {name} {place}{cell['test_accuracy']:.1%} (learned {cell['learned_share']:.1%}, averaged ECE "
                f"{cell['posterior_ece']:.3f}, NLL {cell['posterior_nll']:.3f})."
            )
    return said


def calibration_in_words(cells: DataFrame) -> str:
    """Say where predictions that are averaged over the posterior are calibrated best and most likely, learned or not.

    Args:
        cells: of :func:`the_map`.
    """
    trains = cells[cells["trains"]]
    learned, rest = trains[trains["learned_share"] > 0.5], trains[trains["learned_share"] <= 0.5]
    if not (len(learned) and len(rest)):
        return "There are no cells of both kinds to compare."
    said = []
    for name, column in (("NLL", "posterior_nll"), ("ECE", "posterior_ece")):
        one, other = (part.loc[part[column].idxmin()] for part in (learned, rest))
        side = "for" if one[column] < other[column] else "against"
        said.append(
            f"The averaged {name} speaks {side} learning: it is {one[column]:.3f} in the best cell that learns ({_at(one)}) and {other[column]:.3f} in the best "
            f"that does not ({_at(other)})."
        )
    return " ".join(said)


def _ours(table: DataFrame, maps: Mapping[str, DataFrame]) -> str:
    """Say how the clipped setting with the largest ess does beside the map's cells."""
    clipped = with_parts(table).query("protocol == 'clipped'")
    clipped = clipped[clipped["ess_over_n"] == clipped["ess_over_n"].max()]
    said = ""
    for (data, errors), runs in clipped.groupby(["dataset", "corruption"]):
        name = f"{NAMES[data]}, {ERRORS[errors]}"
        trains = maps[name][maps[name]["trains"]] if name in maps else DataFrame()
        if not len(trains):
            continue
        best, likely = trains["test_accuracy"].max(), trains["posterior_nll"].min()
        mine = runs.mean(numeric_only=True)
        more = "more" if mine["test_accuracy"] > best else "not more"
        less = "above" if mine["posterior_nll"] > likely else "not above"
        said += (
            f"On {name}, {_at(runs.iloc[0])} with a clip of {mine['hess_clip']:g} ({len(runs)} seed{'s' * (len(runs) > 1)}) is {more} accurate than "
            f"every cell of the map ({mine['test_accuracy']:.1%}, the best cell {best:.1%}), and its averaged NLL is {less} the lowest "
            f"({mine['posterior_nll']:.3f}, {likely:.3f}). "
        )
    return said


def advice_in_words(maps: Mapping[str, DataFrame], table: DataFrame) -> str:
    """Say which setting to take, from the maps: whether any cell that learns is as good as the best that does not.

    Args:
        maps: for each name of data and labels, the cells.
        table: of all runs, for those beside the map.
    """
    better: list[str] = []
    worse: list[str] = []
    for name, cells in maps.items():
        trains = cells[cells["trains"]]
        learned = trains[trains["learned_share"] > 0.5]
        rest = trains[trains["learned_share"] <= 0.5]
        if len(learned) and len(rest):
            gap = rest["posterior_nll"].min() - learned["posterior_nll"].min()
            (better if gap > 0 else worse).append(name)
    said = "**A small h₀ alone does not make a better posterior.** " if worse and not better else ""
    for names, which in ((worse, "does not learn"), (better, "learns")):
        if names:
            said += (
                f"On {' / '.join(names)} the best cell that {which} has the lower averaged NLL. "
            )
    for name, cells in maps.items():
        trains = cells[cells["trains"]]
        if len(trains) > 1:
            best = trains.loc[trains["posterior_nll"].idxmin()]
            wide = best["std_start"] * PAPER_PRECISION**0.5
            said += f"The lowest on {name} is at {_at(best)}, where σ begins {wide:.1f} times as wide as the paper's. "
    return (
        said
        + _ours(table, maps)
        + (
            "Look at the learned share before you say that Σ was learned, and at ess over the images seen before you call it "
            "curvature. To learn curvature, three things must hold together: h₀ below about six times the curvature, ess (h₀ + δ) large "
            "enough that the network trains, and ess below the number of images that the training sees, which takes a long training."
        )
    )


# ------------------------------------------------------------------ live
@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def live_and_recorded(table: DataFrame) -> DataFrame:
    """Train the four short cells of digits, and return them beside the rows of the table.

    It needs the folder ``benchmarks`` on Python's path.

    Args:
        table: ``results/regimes.csv``.

    Returns:
        For each cell ``ess / N``, ``h0``, and both learned shares, ratios of standard deviations and test accuracies.
    """
    from bench_regimes import config_of, live_cells, measured

    live = (
        table[table["protocol"] == "live"].astype({"start": str}).set_index(["ess_over_n", "start"])
    )
    rows = []
    with _one_thread():
        for cell in live_cells():
            place = cell.ratio, str(cell.start)
            if place not in live.index:
                raise ValueError(
                    f"the table has no live run at ess = {place[0]} N and h0 = {place[1]}; run benchmarks/bench_regimes.py"
                )
            now, then = measured(cell), live.loc[place]
            row = {"ess / N": cell.ratio, "h0": config_of(cell).hess_init}
            for name, of in (
                ("share", lambda r: r["learned_share"]),
                ("spread", lambda r: r["std_95"] / r["std_5"]),
                ("accuracy", lambda r: r["test_accuracy"]),
            ):
                row |= {name: float(of(now)), f"{name}, recorded": float(of(then))}
            rows.append(row)
    return DataFrame(rows)
