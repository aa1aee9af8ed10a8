r"""Chapters 7 and 8 on two posteriors, one with the paper's first std and one whose variances are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from vlls.noise import ExampleRanking
from vlls.plots._style import PALETTE, SINGLE, as_array, legend_above, styled, width_of

__all__ = [
    "COLORS",
    "finding_in_words",
    "noise_in_words",
    "order_in_words",
    "plot_estimator_range",
    "plot_two_orders",
    "tables_in_words",
    "valid_up_to",
]

#: The colours of the two posteriors, of which the first is the colour of IVON in the paper.
COLORS = ("#c1272d", "#0072b2")
_LEAST = 1e-5  # the bottom of the logarithmic axis
_NOISE = r"noise $\sqrt{\mathbb{E}\,\|\epsilon\|^2}$ (probability)"
_DASHES = ("solid", (0, (5, 1)), "dashdot", "dotted")


@styled
def plot_two_orders(
    tables: Mapping[str, ExampleRanking],
    titles: Sequence[str],
    smoothing: float,
    images: Tensor,
    *,
    shown: int = 9,
) -> Figure:
    """Draw Figure 3 of the paper for several posteriors: noise in order, and the images at both ends of each order.

    Args:
        tables: for each posterior's short name, the ranking of the same images.
        titles: for each posterior, its line in the legend.
        smoothing: the noise that label smoothing adds to every example, drawn as a dashed line.
        images: (N, H, W) grey values, as they were ranked.
        shown: images at each end.
    """
    ends = [(name, end) for name in tables for end in ("highest", "lowest")]
    figure, axes = plt.subplot_mosaic(
        [["order"] * shown, *([f"{name} {end} {i}" for i in range(shown)] for name, end in ends)],
        figsize=(SINGLE, 2.8 + 0.9 * len(ends)),
        height_ratios=(2.6, *[1] * len(ends)),
    )
    ax, below = axes["order"], ""
    for table, title, color, dash in zip(tables.values(), titles, COLORS, _DASHES, strict=False):
        size = table.noise.clip(_LEAST)
        ax.semilogy(np.arange(1, len(size) + 1), size, color=color, linestyle=dash, label=title)
        below = "\n(noise below 1e-5 is drawn there)" if (table.noise < _LEAST).any() else below
    ax.axhline(smoothing, color="0.35", linestyle="dotted", label="label smoothing")
    ax.set(xlim=(0, len(images) + 1), ylim=(_LEAST, 1))
    ax.set_xlabel(f"training images, each line in an order of its own{below}", fontsize=9)
    ax.set_ylabel(_NOISE, fontsize=9)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5)
    pictures = as_array(images)
    for (name, end), color in zip(ends, [c for c in COLORS for _ in range(2)], strict=False):
        table = tables[name]
        for i in range(shown):
            at = i if end == "highest" else len(table.noise) - shown + i
            ax = axes[f"{name} {end} {i}"]
            ax.imshow(pictures[table.index[at]], cmap="gray_r")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
            wrong = table.label[at] != table.predicted[at]
            text = f"{table.label[at]} → {table.predicted[at]}"
            ax.set_xlabel(text, fontsize=8.5, color=COLORS[0] if wrong else "0.15")
        first = axes[f"{name} {end} 0"]
        first.set_ylabel(
            f"{end} noise,\n{name}", rotation=0, ha="right", va="center", fontsize=8.5, color=color
        )
    return figure


@styled
def plot_estimator_range(
    errors: Mapping[str, Mapping[str, Sequence[float]]],
    spreads: Mapping[str, Sequence[float]],
    now: Mapping[str, float],
) -> Figure:
    r"""Draw the error of each estimator of the noise against the spread of the logits, a panel a posterior.

    Args:
        errors: for each posterior, for each estimator, its relative errors.
        spreads: for each posterior, the spread :math:`\sqrt{\operatorname{tr} V}` of each of them, rising.
        now: for each posterior, the spread at its own standard deviations.
    """
    figure, axes = plt.subplots(
        1, len(errors), figsize=(width_of(len(errors)), 3.2), sharey=True, squeeze=False
    )
    for ax, (name, of_posterior) in zip(axes[0], errors.items(), strict=True):
        for i, (estimator, values) in enumerate(of_posterior.items()):
            own = estimator.startswith("Monte")
            style = {"color": "0.5", "linestyle": "dotted"} if own else {"color": PALETTE[i]}
            marker = "" if own else "os^vD"[i]
            ax.loglog(
                spreads[name], 100 * np.array(values), marker=marker, label=estimator, **style
            )
        ax.axvline(now[name], color="0.15", linewidth=0.8, linestyle="dashed")
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(r"spread $\sqrt{\mathrm{tr}\,V}$ (logits)", fontsize=9)
        ax.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
        ticks = [0.25, 0.5, 1, 2, 4, 8]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_xlim(0.8 * min(map(min, spreads.values())), 1.25 * max(map(max, spreads.values())))
        ax.minorticks_off()
    axes[0, 0].set_ylabel("relative error (%)")
    legend_above(figure, 3)
    return figure


def valid_up_to(
    spreads: Sequence[float], errors: Sequence[float], allowed: float = 0.1
) -> float | None:
    """Return the largest spread up to which no error is above the allowed one; None if there is none.

    Args:
        spreads: rising.
        errors: of an estimator, one a spread.
        allowed: relative error.

    Example:
        >>> valid_up_to([0.5, 1.0, 2.0, 4.0], [0.02, 0.08, 0.3, 0.09])
        1.0
    """
    above = [i for i, error in enumerate(errors) if error > allowed]
    last = (above[0] if above else len(spreads)) - 1
    return spreads[last] if last >= 0 else None


def noise_in_words(tables: Mapping[str, ExampleRanking], smoothing: float) -> str:
    """Say how much noise the images get under each posterior, and how many get more than label smoothing gives.

    Args:
        tables: for each posterior, the ranking of the images.
        smoothing: the noise that label smoothing adds to every image.
    """
    said = []
    for name, table in tables.items():
        share = float(np.mean(table.noise > smoothing))
        more = "none gets" if share == 0 else f"{100 * share:.1f} % get"
        said.append(
            f"With {name}, half of the images get less than {np.median(table.noise):.0e}, "
            f"the highest {table.noise.max():.2f}; {more} more than the {smoothing:.3f} of label smoothing."
        )
    return " ".join(said)


def order_in_words(found: Mapping[str, Any]) -> str:
    """Say whether a learned covariance orders the images differently from the paper's start, from the numbers.

    One set of seeds is above another if all of its values are; otherwise the difference is not settled.

    Args:
        found: the results of ``benchmarks/bench_learned_noise.py`` on one data set.
    """
    agree = {
        name: np.mean([pair["rank_correlation"] for pair in pairs])
        for name, pairs in found["agreement"].items()
    }
    said = (
        f"Two networks that differ in their start order the images with a rank correlation of {agree['paper']:.2f} "
        f"at the paper's σ₀ and of {agree['learned']:.2f} with learned Σ; one of each with {agree['both']:.2f}: "
    )
    less = min(agree["paper"], agree["learned"]) - agree["both"]
    said += (
        "another posterior moves the order no more than another start does."
        if less < 0.05
        else "another posterior moves the order more than another start does."
    )
    control = np.mean([cell["isotropic"]["rank_correlation"] for cell in _cells(found, "learned")])
    said += f" At the mean of learned Σ, an isotropic Σ gives an order with a rank correlation of {control:.3f} to its own: "
    said += (
        "the variances of single weights hardly matter."
        if control > 0.95
        else "the variances of single weights matter."
    )
    paper, learned = (
        _of(found, name, lambda cell: cell["noise_of_first_tenth"]) for name in ("paper", "learned")
    )
    said += f" The tenth of the images with the most noise has {_range(paper, '%')} of its square at the paper's σ₀, "
    how = {"above": "more concentrated", "below": "less concentrated", "": "no more and no less"}
    told = how[_side(learned, paper)]
    end = "concentrated, as far as these seeds tell." if told == how[""] else "in all seeds."
    return said + f"and {_range(learned, '%')} with learned Σ, whose noise is {told} {end}"


def finding_in_words(found: Mapping[str, Any]) -> str:
    """Say whether the noise of a learned covariance finds wrong labels any better, from the numbers.

    One set of seeds is above another if all of its values are; otherwise the difference is not settled.

    Args:
        found: the results of ``benchmarks/bench_learned_noise.py`` on one data set.
    """

    def area(setting: str, score: str) -> list[float]:
        return _of(found, setting, lambda cell: cell["wrong_labels"]["auroc"][score])

    told = []
    for name, title in (("paper", "at the paper's σ₀"), ("learned", "with learned Σ")):
        kept = _of(found, name, lambda cell: cell["wrong_labels"]["predicts_wrong_label"])
        noise, disagreement = area(name, "noise (own)"), area(name, "disagreement (own)")
        told.append(
            f"{title} the noise finds the changed labels with an area of {_range(noise)} and the disagreement with "
            f"{_range(disagreement)}; the network predicts {_range(kept, '%')} of them"
        )
    said = f"{told[0][0].upper()}{told[0][1:]}. {told[1][0].upper()}{told[1][1:]}. "
    own, paper = area("learned", "noise (own)"), area("paper", "noise (own)")
    side = _side(own, paper)
    said += {
        "above": "With learned Σ the noise finds them better in all seeds",
        "below": "With learned Σ the noise finds them worse in all seeds",
        "": "Which noise finds them better is not settled",
    }[side]
    isotropic, doubt = (
        np.mean(area("learned", score)) - np.mean(own) for score in ("noise (isotropic)", "doubt")
    )
    return said + (
        f". On average, the area of the noise of an isotropic Σ at the same mean is {isotropic:+.3f} from that of "
        f"learned Σ, and that of the doubt {doubt:+.3f}."
    )


def _cells(found: Mapping[str, Any], setting: str) -> list[Any]:
    return [cell for cell in found["cells"] if cell["setting"] == setting]


def _of(found: Mapping[str, Any], setting: str, value: Any) -> list[float]:
    """Return one value for each seed."""
    return [float(value(cell)) for cell in _cells(found, setting)]


def _side(one: Sequence[float], other: Sequence[float]) -> str:
    """Return "above" or "below" if all values of one are above or below all of the other, else nothing."""
    return "above" if min(one) > max(other) else "below" if max(one) < min(other) else ""


def _range(values: Sequence[float], unit: str = "") -> str:
    low, high = (
        f"{value:.0%}".rstrip("%") if unit else f"{value:.2f}"
        for value in (min(values), max(values))
    )
    return (low if low == high else f"{low} to {high}") + (f" {unit}" if unit else "")


def tables_in_words(compared: Mapping[str, tuple[float, float, float]]) -> str:
    """Say for each posterior whether IVON's smoothed labels are similar to OLS's, and whether they are stronger.

    Similar means a rank correlation above 0.5. A single run decides on the strength only if IVON has half as much again
    as OLS, and more in 60 % of the pairs of classes, or the other way round.

    Args:
        compared: for each posterior, the rank correlation of its table with OLS's, how many times as much noise it
            has, and the share of the pairs of classes where it has more.

    Example:
        >>> print(tables_in_words({"wide Σ": (0.86, 5.9, 0.67)}))
        With wide Σ the tables are similar (rank correlation 0.86), and IVON's is stronger: 5.9 times as much, more in
        67 % of the pairs.
    """
    said = []
    for name, (rank, times, larger) in compared.items():
        alike = "similar" if rank > 0.5 else "not similar"
        if times > 1.5 and larger > 0.6:
            strength = "and IVON's is stronger"
        elif times < 1 / 1.5 and larger < 0.4:
            strength = "and IVON's is weaker"
        else:
            strength = "and which is stronger is not settled by one run"
        said.append(
            f"With {name} the tables are {alike} (rank correlation {rank:.2f}), {strength}: {times:.1f} times as much, "
            f"more in {100 * larger:.0f} % of the pairs."
        )
    return " ".join(said)
