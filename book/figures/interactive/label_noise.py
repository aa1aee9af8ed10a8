"""Figure 2 of the paper with a mean and a variance to choose (Chapter 2)."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import torch

from figures.interactive.html import COLOURS, InteractiveFigure, inside, png, sliders
from vlls.families import Bernoulli
from vlls.plots._style import WIDTH, styled

__all__ = ["explore_label_noise"]

STEP = (
    1 / 8
)  # of the table, in the mean and in the standard deviation; a power of two, so that places are exact
DIGITS = 6
BEYOND = 2  # logits by which the axis extends beyond the largest mean


def explore_label_noise(
    mean: float = 1.0, variance: float = 1.0, *, limit: float = 8.0, largest_variance: float = 16.0
) -> InteractiveFigure:
    r"""Show the label noise of Eq. 13, :math:`\epsilon = \sigma(f_t) - \mathbb E_q[\sigma(f)]`, with two sliders.

    Above are the Gaussian of f and the sigmoid, below the noise against the mean, beside them the numbers. These come
    from :meth:`.Family.label_noise` of :class:`.Bernoulli`, on a grid that is embedded; the page runs a cubic between
    its entries, which is off by less than 5e-6.

    Args:
        mean: where the first slider starts, the mean :math:`f_t`, in logits.
        variance: where the second starts, the variance v of f.
        limit: means from -limit to limit; at most 30.
        largest_variance: variances up to this one; at most 100.

    Raises:
        ValueError: for a number that is not finite, or outside the sliders.

    Example:
        >>> figure = explore_label_noise(mean=2.0, variance=4.0)
        >>> "aria-label" in figure._repr_html_()
        True
    """
    inside(limit, "limit", 1.0, 30.0)
    inside(largest_variance, "largest_variance", 1.0, 100.0)
    inside(mean, "mean", -limit, limit)
    inside(variance, "variance", 0.05, largest_variance)
    family, axis = Bernoulli(), math.ceil(limit) + BEYOND
    # One more row and column than is shown: the cubic needs a value on either side.
    means = STEP * torch.arange(round(axis / STEP) + 3, dtype=torch.float64)
    stds = STEP * torch.arange(
        math.ceil(math.sqrt(largest_variance) / STEP) + 3, dtype=torch.float64
    )
    noise = family.label_noise(means, stds.square()[:, None])
    largest = float(noise[:-2].max())
    tick = next(t for t in (0.1, 0.2, 0.3, 0.4, 0.5) if t > 0.7 * largest)
    data = {
        "step": STEP,
        "columns": len(means),
        "noise": [round(e, DIGITS) for e in noise.flatten().tolist()],
        "sigmoid": [round(p, DIGITS) for p in family.mean(means).tolist()],
        "axis": axis,
        "top": max(1.05 * largest, tick),
        "tick": tick,
    }
    moved = sliders(
        ("mean", "mean f<sub>t</sub>", ' <span class="vlls-unit">logits</span>', -limit, limit, 0.1, mean),
        ("variance", "variance v of f", ' <span class="vlls-unit">logits²</span>', 0.05, largest_variance, 0.05,
         variance),
    )  # fmt: skip
    numbers = "".join(
        f"<div{' class=vlls-wide' if name == 'noise' else ''}>"
        f"<dt>{_key(colour)}{term}</dt><dd data-part={name}></dd></div>"
        for name, colour, term in (
            ("sigma", "blue", "σ(f<sub>t</sub>)"),
            ("expected", "orange", "E<sub>q</sub>[σ(f)]"),
            ("noise", "noise", "noise ε"),
            ("zero", "", "y + ε for y = 0"),
            ("one", "", "y + ε for y = 1"),
        )
    )
    body = (
        f'<div class="vlls-sliders">{moved}</div>\n'
        '<svg class="vlls-plot" data-part="plot" role="img" aria-label="Above: the Gaussian of f and the sigmoid. '
        'Below: the label noise against the mean, with the chosen point on it."></svg>\n'
        f'<dl>{numbers}</dl>\n<p class="vlls-says" data-part="says"></p>'
    )
    return InteractiveFigure(
        kind="label_noise",
        name="Label noise of one example against mean and variance of f",
        instead="Here two sliders set the mean and the variance of f and show the label noise; they need JavaScript "
        "(in Jupyter, run the cell or trust the notebook). The figure without sliders is in this chapter too.",
        body=body,
        data=data,
        picture=png(_draw(mean, variance, axis)),
    )


@styled
def _draw(mean: float, variance: float, limit: float) -> plt.Figure:
    f = torch.linspace(-limit, limit, 401, dtype=torch.float64)
    place, spread = torch.tensor(mean, dtype=torch.float64), math.sqrt(variance)
    family = Bernoulli()
    noise, sigma = family.label_noise(f, torch.full_like(f, variance)), float(family.mean(place))
    here = float(family.label_noise(place, torch.full_like(place, variance)))
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.7))
    bell = 0.95 / (1 + spread) * torch.exp(-((f - mean) ** 2) / (2 * variance))
    left.fill_between(f, bell, color="0.85", label="Gaussian of f")
    left.plot(f, family.mean(f), color="0.4", label="σ(f)")
    left.plot([mean], [sigma], "o", color=COLOURS["blue"], label="σ at the mean")
    left.plot(
        [mean],
        [sigma - here],
        "o",
        color=COLOURS["orange"],
        label="mean of σ(f) under the Gaussian",
    )
    left.vlines(mean, sigma - here, sigma, color=COLOURS["noise"])
    left.legend(fontsize=7, loc="upper left")
    left.set_ylim(0, 1.45)
    right.plot(f, noise, color=COLOURS["noise"])
    right.plot([mean], [here], "o", color=COLOURS["noise"])
    right.set_title(f"mean {mean:g}, variance {variance:g}: noise {here:.4f}", fontsize=9)
    left.set_xlabel("f (logit)")
    right.set_xlabel("mean of f (logit)")
    right.set_ylabel("label noise ε")
    return figure


def _key(colour: str) -> str:
    return f'<span class="vlls-key" style="--c: var(--vlls-{colour})"></span>' if colour else ""
