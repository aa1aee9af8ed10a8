"""Images with the most and the least label noise, each with its noise by class (Chapter 7)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from figures.interactive.html import COLOURS, ID, InteractiveFigure, alpha_png, png
from vlls._validation import as_float64, check_finite
from vlls.noise import LabelNoise
from vlls.plots._style import WIDTH, styled

__all__ = ["explore_examples"]

INK = (0.0, 0.0, 0.0)


def explore_examples(
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    noise: LabelNoise,
    *,
    shown: int = 12,
    classes: Sequence[str] | None = None,
) -> InteractiveFigure:
    r"""Show the images with the most and the least label noise; pointing at one tells its noise by class.

    The panel names label, prediction at the posterior's mean and :math:`\sqrt{\mathbb E\,\|\epsilon\|^2}`, and draws
    the standard deviation of :math:`\epsilon_k` under the posterior for each class k.

    Args:
        images: (N, H, W) grey values from 0, the ground, to the largest, the ink.
        labels: (N,) classes.
        noise: of the same examples, as :func:`.label_noise_moments` gives it, of K > 1 logits.
        shown: images at each end; at most N / 2.
        classes: (K,) their names; numbers unless given.

    Raises:
        ValueError: if the arguments do not fit together, or hold values that are not finite.

    Example:
        >>> import torch
        >>> from vlls import DiagonalPosterior, label_noise_moments
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> q = DiagonalPosterior(*({n: f(p.detach()) for n, p in model.named_parameters()} for f in (
        ...     torch.clone, torch.ones_like)))
        >>> images = torch.rand(5, 8, 8)
        >>> explore_examples(images, [0, 1, 2, 0, 1], label_noise_moments(model, q, images), shown=2)
        InteractiveFigure('4 images with the most and the least label noise')
    """
    grey, given = as_float64(images, "images").cpu(), as_float64(labels, "labels").cpu()
    names = _check(grey, given, noise, shown, classes)
    size = noise.magnitude.cpu()
    order = size.argsort(descending=True, stable=True).tolist()
    ends = order[:shown], order[: -shown - 1 : -1]
    p = noise.logits.double().softmax(1).cpu()
    std = noise.std.double().cpu()
    examples: list[dict[str, Any]] = []
    pictures: list[str] = []
    ink = (grey / grey.max().clamp_min(1e-12)).clamp(0, 1).numpy()
    for i in [*ends[0], *ends[1]]:
        label, predicted, told = int(given[i]), int(p[i].argmax()), _number(float(size[i]))
        examples.append(
            {
                "label": label,
                "predicted": predicted,
                "noise": told,
                "std": [_number(s) for s in std[i].tolist()],
                "bars": [float(f"{s:.3g}") for s in std[i].tolist()],
                "p": [f"{100 * value:.1f} %" for value in p[i].tolist()],
            }
        )
        alt = f"label {escape(names[label])}, predicted {escape(names[predicted])}, noise {told}"
        pictures.append(
            f'<label><img class="dark-light" src="{alpha_png(ink[i], INK)}" alt="{alt}" width="{ink.shape[2]}" '
            f'height="{ink.shape[1]}"><input type="radio" name="{ID}" autocomplete="off"'
            f"{' checked' if len(examples) == 1 else ''}>{_number(float(size[i]), 1)}</label>"
        )
    groups = "".join(
        f"<fieldset><legend>{name} label noise</legend>"
        f'<div class="vlls-images" style="--vlls-columns: {min(shown, 12)}">{"".join(part)}</div></fieldset>\n'
        for name, part in (("Most", pictures[:shown]), ("Least", pictures[shown:]))
    )
    head = "<span class=vlls-head><i>class</i><i></i><i>std of ε</i><i>predicted</i></span>"
    body = (
        '<div class="vlls-panel" data-part="panel" aria-live="polite">'
        '<div class="vlls-large"><img class="dark-light" data-part="image" alt=""></div>'
        '<p class="vlls-facts">label <b data-part="label"></b> · predicted <b data-part="predicted"></b> · '
        'size of the noise <b data-part="noise"></b> (probability)</p>'
        f'<div class="vlls-bars" data-part="bars">{head}</div></div>'
    )
    return InteractiveFigure(
        kind="examples",
        name=f"{2 * shown} images with the most and the least label noise",
        instead="The number under an image is the size of its label noise. Pointing at one would show its noise by "
        "class; that needs JavaScript (in Jupyter, run the cell or trust the notebook).",
        body=body,
        data={
            "examples": examples,
            "classes": names,
            "top": max(float(std[[*ends[0], *ends[1]]].max()), 1e-12),
        },
        picture=png(_draw(ink[[*ends[0], *ends[1]]], examples, names)),
        still=groups,
    )


@styled
def _draw(ink: np.ndarray, examples: list[dict[str, Any]], names: list[str]) -> plt.Figure:
    """Draw the images and, under each, its noise by class: images with the most noise above, with the least below."""
    columns = len(ink) // 2
    figure, axes = plt.subplots(
        4, columns, figsize=(WIDTH, 3.4), height_ratios=(2, 3, 2, 3), squeeze=False
    )
    top = max(max(example["bars"]) for example in examples)
    for i, example in enumerate(examples):
        row, column = 2 * (i // columns), i % columns
        image, bars = axes[row : row + 2, column]
        image.imshow(ink[i], cmap="gray_r", vmin=0, vmax=1)
        image.set_title(example["noise"].replace("·", "·\n", 1), fontsize=6)
        image.axis("off")
        chosen = [COLOURS["orange" if k == example["label"] else "blue"] for k in range(len(names))]
        bars.barh(range(len(names)), example["bars"], color=chosen)
        bars.set(xlim=(0, 1.05 * top), xticks=[])
        bars.set_yticks(
            range(len(names)), names if column == 0 else [], fontsize=5, parse_math=False
        )
        bars.invert_yaxis()
        bars.grid(visible=False)
    axes[0, 0].text(-0.9, 0.5, "most", rotation=90, va="center", transform=axes[0, 0].transAxes)
    axes[2, 0].text(-0.9, 0.5, "least", rotation=90, va="center", transform=axes[2, 0].transAxes)
    return figure


def _number(value: float, digits: int = 2) -> str:
    """Format a number with two digits or, below 1e-3, with ``digits`` digits and a power of ten.

    Example:
        >>> _number(0.314), _number(3.14e-7), _number(0.0)
        ('0.31', '3.1·10⁻⁷', '0')
    """
    if value == 0:
        return "0"
    if value >= 1e-3:
        return f"{value:#.2g}"
    leading, exponent = f"{value:.{digits - 1}e}".split("e")
    return (
        f"{leading}·10⁻{str(-int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    )


def _check(
    grey: Tensor, given: Tensor, noise: LabelNoise, shown: int, classes: Sequence[str] | None
) -> list[str]:
    """Raise a ValueError if the arguments do not fit together; return the names of the classes."""
    num, k = noise.std.shape
    if k < 2:
        raise ValueError(
            "the noise is that of a single logit; pass the noise of a network with K > 1 logits"
        )
    if grey.ndim != 3 or len(grey) != num or 0 in grey.shape:
        raise ValueError(
            f"images have shape {tuple(grey.shape)}; the noise of {num} examples needs ({num}, H, W)"
        )
    if tuple(given.shape) != (num,):
        raise ValueError(
            f"labels have shape {tuple(given.shape)}; the noise of {num} examples needs ({num},)"
        )
    for name, values in (("images", grey), ("labels", given), ("noise.std", noise.std), ("noise.logits", noise.logits),
                         ("noise.magnitude", noise.magnitude)):  # fmt: skip
        check_finite(values, name)
    if bool((grey < -1e-3 * grey.abs().max()).any()):
        raise ValueError(
            f"images hold {float(grey.min()):g}; pass grey values >= 0, not standardized ones"
        )
    wrong = given[(given != given.round()) | (given < 0) | (given >= k)]
    if len(wrong):
        raise ValueError(f"labels hold {float(wrong[0]):g}; pass integers from 0 to {k - 1}")
    if isinstance(shown, bool) or not isinstance(shown, int) or not 1 <= shown <= num // 2:
        raise ValueError(
            f"shown={shown!r} of {num} examples at each end; choose an integer from 1 to {num // 2}"
        )
    names = [str(name) for name in (range(k) if classes is None else classes)]
    if len(names) != k:
        raise ValueError(f"classes has {len(names)} names; the noise has {k} classes")
    return names
