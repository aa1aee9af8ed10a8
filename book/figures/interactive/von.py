"""The label noise over a plane while VON learns (Chapter 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from contourpy import contour_generator
from torch import Tensor

from figures.interactive.html import COLOURS, ID, InteractiveFigure, alpha_png, png
from figures.von import plot_noise_plane
from vlls._validation import as_float64, check_finite
from vlls.families import Bernoulli
from vlls.glm import GLM
from vlls.posterior import GaussianPosterior

__all__ = ["explore_von_steps"]


def explore_von_steps(
    glm: GLM,
    posteriors: Mapping[int, GaussianPosterior],
    feature_map: Callable[[Tensor], Tensor],
    points: Tensor,
    x: Tensor,
    y: Tensor,
) -> InteractiveFigure:
    """Show the label noise over the plane at several iterations of VON, with a slider and buttons to step through.

    Each step shows the size of the noise, the averaged prediction at 0.1, 0.5 and 0.9, and the data; below are the
    iteration, the noise at the data and the evidence lower bound. The colours are on one scale for all steps.

    Args:
        glm: a model of Bernoulli labels.
        posteriors: for each iteration that is to be shown, in order, the posterior before it.
        feature_map: from (M, 2) inputs to (M, P) features.
        points: (N, 2) inputs of the model's examples.
        x: (W,) first coordinates of a grid, equidistant.
        y: (H,) second coordinates of the grid, equidistant.

    Raises:
        ValueError: for another family, no or disordered iterations, points that are not the model's, or coordinates
            that do not ascend in equal steps.

    Example:
        >>> from vlls import von_step
        >>> inputs = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> glm, q = GLM(Bernoulli(), inputs, [0, 1, 1]), GaussianPosterior(torch.zeros(2), 1.0)
        >>> axis = torch.linspace(-1, 2, 20)
        >>> explore_von_steps(glm, {0: q, 1: von_step(glm, q)}, lambda inputs: inputs, inputs, axis, axis)
        InteractiveFigure('Label noise over the plane in 2 iterations of VON')
    """
    points, x, y = (
        as_float64(value, name).cpu() for name, value in (("points", points), ("x", x), ("y", y))
    )
    _check_iterations(posteriors)
    _check_examples(glm, points, feature_map)
    _check_axis(x, "x")
    _check_axis(y, "y")
    grid = feature_map(torch.cartesian_prod(y, x).flip(1))
    family = glm.family
    shape = (len(y), len(x))
    marginals = {t: q.marginal(grid) for t, q in posteriors.items()}
    noise = {
        t: family.label_noise(*f).abs().reshape(shape).cpu().numpy() for t, f in marginals.items()
    }
    top = max(float(size.max()) for size in noise.values())
    probabilities = {
        t: family.expected_mean(*f).reshape(shape).cpu().numpy() for t, f in marginals.items()
    }
    steps: list[dict[str, Any]] = []
    for t, q in posteriors.items():
        contours = contour_generator(x.numpy(), y.numpy(), probabilities[t])
        at_data = glm.label_noise(q).abs()
        steps.append(
            {
                "iteration": t,
                "elbo": round(float(glm.elbo(q)), 4),
                "largest": round(float(at_data.max()), 6),
                "mean": round(float(at_data.mean()), 6),
                "plane": alpha_png(
                    noise[t][::-1] / (top or 1.0), COLOURS["noise"]
                ),  # pictures start at the top
                "half": _lines(contours, 0.5),
                "tenths": _lines(contours, 0.1) + _lines(contours, 0.9),
            }
        )
    iterations = list(posteriors)
    printed = dict.fromkeys([iterations[0], *iterations[1:2], iterations[-1]])
    dx, dy = (
        float(axis[1] - axis[0]) / 2 for axis in (x, y)
    )  # a pixel reaches half a step to either side
    located = torch.cat([points, glm.targets[:, None].cpu()], 1)
    data = {
        "steps": steps,
        "first": max(
            range(len(steps)), key=lambda i: steps[i]["mean"]
        ),  # at the start there may be no noise to see
        "points": [[round(a, 3), round(b, 3), int(label)] for a, b, label in located.tolist()],
        "x": [float(x[0]) - dx, float(x[-1]) + dx],
        "y": [float(y[0]) - dy, float(y[-1]) + dy],
        "top": top,
    }
    return InteractiveFigure(
        kind="von",
        name=f"Label noise over the plane in {len(steps)} iterations of VON",
        instead=f"Here a slider and a play button go through {len(steps)} iterations of VON, with the label noise over "
        "the plane at each; they need JavaScript (in Jupyter, run the cell or trust the notebook). The figure of this "
        "chapter that stands still shows the last of them.",
        body=_body(len(steps), top),
        data=data,
        picture=png(
            plot_noise_plane(
                points,
                glm.targets.cpu(),
                x,
                y,
                {f"iteration {t}": torch.from_numpy(noise[t]) for t in printed},
                {f"iteration {t}": probabilities[t] for t in printed},
            )
        ),
    )


def _body(num: int, top: float) -> str:
    numbers = "".join(
        f'<div><dt>{term}</dt><dd><span data-part="{name}"></span>{unit}</dd></div>'
        for name, term, unit in (
            ("iteration", "iteration", ""),
            ("largest", "largest |ε| at the data", ""),
            ("mean", "mean |ε| at the data", ""),
            ("elbo", "ELBO", ' <span class="vlls-unit">nats</span>'),
        )
    )
    sample = '<svg viewBox="0 0 28 14" aria-hidden="true"><path class="vlls-{}" d="{}"/></svg>'
    keys = (
        (sample.format("curve", "M0 7H28"), "averaged prediction ½"),
        (sample.format("curve vlls-dashed", "M0 7H28"), "0.1 and 0.9"),
        (sample.format("point0", "M9 7a5 5 0 0 0 10 0a5 5 0 0 0 -10 0"), "y = 0"),
        (sample.format("point1", "M14 1l6 11h-12Z"), "y = 1"),
        ('<i class="vlls-ramp" aria-hidden="true"></i>', f"|ε| from 0 to {top:.2f}"),
    )
    legend = "".join(f"<span>{key}{text}</span>" for key, text in keys)
    courses = "".join(
        f'<div><p class="vlls-unit">{title}</p>'
        f'<svg data-part="course-{name}" role="img" aria-label="{title} against the iteration"></svg></div>'
        for name, title in (("mean", "mean |ε| at the data (probability)"), ("elbo", "ELBO (nats)"))
    )
    return (
        '<div class="vlls-steps"><button type="button" data-part="back">Back</button>'
        '<button type="button" data-part="play">Play</button><button type="button" data-part="next">Next</button>'
        f'<div><label for="{ID}-step" class="vlls-unit">iteration of VON</label>'
        f'<input type="range" id="{ID}-step" data-part="step" min="0" max="{num - 1}" step="1" value="0" '
        'autocomplete="off"></div></div>\n'
        '<svg data-part="plane" role="img" aria-label="The plane of the two inputs: the data, the size of the label '
        'noise, and where the averaged prediction is 0.1, one half and 0.9"></svg>\n'
        f'<div class="vlls-legend">{legend}</div>\n<dl>{numbers}</dl>\n'
        f'<div class="vlls-courses">{courses}</div>'
    )


def _lines(contours: Any, level: float) -> list[list[float]]:
    """Return contour lines as [x, y, x, y, ...]; three decimals are finer than a pixel."""
    return [np.round(line, 3).flatten().tolist() for line in contours.lines(level)]


def _check_iterations(posteriors: Mapping[int, GaussianPosterior]) -> None:
    iterations = list(posteriors)
    if not iterations:
        raise ValueError(
            "posteriors is empty; pass {iteration: posterior} for at least one iteration"
        )
    whole = all(isinstance(t, int) and t >= 0 for t in iterations)
    if not whole or sorted(set(iterations)) != iterations:
        raise ValueError(
            f"posteriors has the iterations {iterations}; pass integers >= 0 in ascending order"
        )


def _check_examples(glm: GLM, points: Tensor, feature_map: Callable[[Tensor], Tensor]) -> None:
    if not isinstance(glm.family, Bernoulli):
        raise ValueError(
            f"the model has the family {type(glm.family).__name__}; pass one of Bernoulli labels"
        )
    num = len(glm.targets)
    if tuple(points.shape) != (num, 2):
        raise ValueError(
            f"points have shape {tuple(points.shape)}; the model's examples need ({num}, 2)"
        )
    check_finite(points, "points")
    features, own = as_float64(feature_map(points), "features").cpu(), glm.features.cpu()
    if features.shape != own.shape or not torch.allclose(features, own):
        raise ValueError(
            "feature_map(points) are not the model's features; pass the map and the points it was made of"
        )


def _check_axis(axis: Tensor, name: str) -> None:
    if axis.ndim != 1 or len(axis) < 2:
        raise ValueError(
            f"{name} has shape {tuple(axis.shape)}; pass two or more coordinates in a row"
        )
    check_finite(axis, name)
    step = axis.diff()
    if not bool((step > 0).all()) or float(step.max() - step.min()) > 1e-4 * float(step.mean()):
        raise ValueError(
            f"{name} does not ascend in equal steps; pass torch.linspace(low, high, number)"
        )
