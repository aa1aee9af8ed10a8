"""The mean noise and the sampled noise of a label, side by side (the front page and Chapter 2)."""

from __future__ import annotations

import math
from statistics import NormalDist

import matplotlib.pyplot as plt
import torch

from figures.interactive.html import COLOURS, ID, InteractiveFigure, inside, png, sliders
from vlls._quadrature import gaussian_expectation
from vlls.families import Bernoulli
from vlls.plots._style import WIDTH, styled

__all__ = ["explore_two_noises"]

LARGEST_LOGIT, SMALLEST_VARIANCE, LARGEST_VARIANCE = 6.0, 0.05, 9.0
DRAWS = (
    40  # of the weights, equally likely; an even number, so that half of them are on either side
)

MESSAGE = "Two noises of a label share one name: their mean is on the model’s side, one draw goes to either."


def explore_two_noises(logit: float = 1.5, variance: float = 2.0) -> InteractiveFigure:
    r"""Show the two noises of a label, of two classes or of three, with sliders for the logits and their variance.

    Left is the mean noise :math:`A'(f_t) - \mathbb E_q[A'(f)]` of Theorem 1, right the sampled noise
    :math:`A'(f_t) - A'(f)` of draws f from q, its size :math:`\sqrt{\mathbb E_q[\epsilon^2]}` and the first order of
    that, :math:`A''(f_t) V^{1/2} e` of Eqs. 14 and 20. The page integrates both by the trapezoid rule, within 1e-6 of
    :meth:`.Family.label_noise`. The variance v is that of a difference of two logits: with two classes that of f, with
    three :math:`V = \tfrac v2 I`.

    Args:
        logit: where the first slider starts: f with two classes, the first of three logits, whose last is 0.
        variance: where the slider of the variance v starts.

    Raises:
        ValueError: for a number that is not finite, or outside the sliders.

    Example:
        >>> explore_two_noises(logit=0.0)  # at a tie: no mean noise, and much of the other
        InteractiveFigure('Mean noise and sampled noise of a label, side by side')
    """
    inside(logit, "logit", -LARGEST_LOGIT, LARGEST_LOGIT)
    inside(variance, "variance", SMALLEST_VARIANCE, LARGEST_VARIANCE)
    unit = ' <span class="vlls-unit">logits</span>'
    limits = -LARGEST_LOGIT, LARGEST_LOGIT, 0.1
    moved = sliders(
        ("first", '<span data-part="first-name"></span>', unit, *limits, logit),
        ("second", "logit of B", unit, *limits, 0.0),
        ("variance", '<span data-part="variance-name"></span>', unit.replace("logits", "logits²"),
         SMALLEST_VARIANCE, LARGEST_VARIANCE, 0.05, variance),
    )  # fmt: skip
    choices = "".join(
        f'<label><input type="radio" name="{ID}-classes" data-part="{name}-classes" autocomplete="off"'
        f"{' checked' if name == 'two' else ''}> {name} classes</label>"
        for name in ("two", "three")
    )
    panels = "".join(
        f'<div class="vlls-side"><p><span class="vlls-key" style="--c: var(--vlls-{colour})"></span><b>{title}</b> '
        f'{formula}</p><p class="vlls-facts">{text}</p>'
        f'<svg data-part="{name}-plot" role="img" aria-label="{drawing}"></svg></div>'
        for name, colour, title, formula, text, drawing in (
            ("mean", "noise", "Mean noise", "A′(f<sub>t</sub>) − E<sub>q</sub>[A′(f)]",
             "The noise of Theorem 1, in every gradient of the expected loss. With two classes it takes the model’s side, is "
             "zero at a tie and stays below ½.",
             "Above: the labels with the mean noise. Below: the mean noise against the logit."),
            ("sampled", "blue", "Sampled noise", "A′(f<sub>t</sub>) − A′(f), f ~ q",
             "The noise of one draw of the weights, as IVON takes one in every step. It goes to either side, averages to "
             "the mean noise and stays below 1.",
             f"Above: the labels with the noise of {DRAWS} draws. Below: the size of the sampled noise against the logit."),
        )
    )  # fmt: skip
    numbers = "".join(
        f"<div{' class=vlls-wide' if name == 'mean' else ''}><dt>{term}</dt><dd data-part={name}></dd></div>"
        for name, term in (
            ("mean", "mean noise"),
            ("size", "sampled noise: size"),
            ("order", "its first order"),
        )
    )
    return InteractiveFigure(
        kind="two_noises",
        name="Mean noise and sampled noise of a label, side by side",
        instead=f"{MESSAGE} The mean noise A′(f) − E[A′(f)] is that of Theorem 1: of two classes "
        "it takes the model’s side, is zero at a tie and always less than ½. The sampled noise, of one draw of the weights "
        "as in each step of IVON, goes to both sides and takes one of the labels 0 and 1 beyond 0 or 1 in every draw. "
        "The figure that shows both with sliders needs JavaScript (in Jupyter, run the cell or trust the notebook).",
        body=f"<p><b>{MESSAGE}</b></p>\n"
        f'<fieldset class="vlls-legend"><legend>Labels of</legend>{choices}</fieldset>\n'
        f'<div class="vlls-sliders">{moved}</div>\n<div class="vlls-courses">{panels}</div>\n<dl>{numbers}</dl>\n'
        '<p class="vlls-says" data-part="says"></p>',
        data={"draws": [_draws(2), _draws(3)]},
        picture=png(_draw(logit, variance)),
    )


@styled
def _draw(logit: float, variance: float) -> plt.Figure:
    family, f = Bernoulli(), torch.linspace(-LARGEST_LOGIT, LARGEST_LOGIT, 241, dtype=torch.float64)
    at = torch.tensor([logit], dtype=torch.float64)
    drawn = at + math.sqrt(variance) * torch.tensor(_draws(2), dtype=torch.float64)[:, 0]

    def mean(f: torch.Tensor) -> torch.Tensor:
        return family.label_noise(f, torch.full_like(f, variance))

    def size(f: torch.Tensor) -> torch.Tensor:
        std = torch.full_like(f, math.sqrt(variance))
        return gaussian_expectation(lambda g: (family.mean(g) - family.mean(f)) ** 2, f, std).sqrt()

    figure, axes = plt.subplots(
        2, 2, figsize=(WIDTH, 4.2), sharex="row", sharey="row", height_ratios=(2, 3)
    )
    for ax, colour, title in zip(
        axes[0], ("noise", "blue"), ("mean noise", "sampled noise"), strict=True
    ):
        ax.axvspan(0, 1, color="0.93")
        ax.set_title(title, color=COLOURS[colour])
        ax.set_yticks([0, 1], ["label 0", "label 1"])
        ax.set(xlim=(-1, 2), ylim=(-0.5, 1.5))
        ax.grid(visible=False)
    for label in (0, 1):
        axes[0, 0].plot(
            [label, label + float(mean(at))], [label] * 2, color=COLOURS["noise"], linewidth=6
        )
        axes[0, 1].plot(
            [label - float(size(at)), label + float(size(at))],
            [label] * 2,
            color=COLOURS["blue"],
            linewidth=6,
        )
        places = label + family.mean(at) - family.mean(drawn)
        axes[0, 1].plot(places, [label - 0.25] * DRAWS, "|", color=COLOURS["blue"])
    axes[1, 0].plot(f, mean(f), color=COLOURS["noise"])
    axes[1, 0].plot(at, mean(at), "o", color=COLOURS["noise"])
    axes[1, 1].fill_between(f, -size(f), size(f), color=COLOURS["blue"], alpha=0.25)
    order = family.curvature(f) * math.sqrt(variance)
    for sign in (-1, 1):
        axes[1, 1].plot(f, sign * order, color="0.4", linestyle="dashed")
        axes[1, 1].plot(at, sign * size(at), "o", color=COLOURS["blue"])
    axes[1, 0].set_ylabel("noise (probability)")
    for ax in axes[1]:
        ax.set_xlabel(f"logit; dots at {logit:g}, variance {variance:g}")
    return figure


def _draws(classes: int) -> list[list[float]]:
    """Return equally likely standard normal points in one dimension fewer than there are classes.

    Example:
        >>> _draws(2)[:2], len(_draws(3)[0])
        ([[-2.2414], [-1.7805]], 2)
    """
    chances = [(i + 0.5) / DRAWS for i in range(DRAWS)]
    if classes == 2:
        return [[round(NormalDist().inv_cdf(p), 4)] for p in chances]
    points = []
    for i, p in enumerate(chances):  # a sunflower: radii are quantiles, angles the golden one
        radius, angle = math.sqrt(-2 * math.log1p(-p)), math.pi * (3 - math.sqrt(5)) * i
        points.append([round(radius * math.cos(angle), 4), round(radius * math.sin(angle), 4)])
    return points
