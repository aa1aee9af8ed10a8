"""Watch Theorem 1 happen: two optimizers from one start, and switches that break it (Chapter 2)."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from figures.interactive.html import COLOURS, ID, InteractiveFigure, png
from vlls import GLM, Bernoulli, GaussianPosterior, gd_step, variational_gd_step
from vlls.plots._style import WIDTH, legend_above, styled

__all__ = ["explore_theorem_1", "two_paths"]

FLOOR = 1e-17  # of the drawn distance, for one that is zero

NOISES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "exact": ("the noise of Theorem 1", lambda now, first: now),
    "stale": ("that of the first step, kept", lambda now, first: first),
    "sign": ("the wrong sign", lambda now, first: -now),
    "none": ("none", lambda now, first: torch.zeros_like(now)),
}
"""The label noises by name, each with its name on the page and its value from this step's and the first step's noise."""


def two_paths(
    glm: GLM, start: Tensor, *, noise: str = "exact", lr: float = 0.03, steps: int = 60
) -> tuple[Tensor, Tensor]:
    r"""Return the paths of variational gradient descent and of gradient descent on noisy labels.

    Args:
        glm: the model; its regularizer is :math:`\frac12\|\theta\|^2`.
        start: (P,) of both.
        noise: a key of ``NOISES``; with ``"exact"`` the labels are those of Theorem 1, computed at the path's own place.
        lr: the step size ρ.
        steps: their number.

    Returns:
        Two tensors (steps + 1, P).

    Example:
        >>> glm = GLM(Bernoulli(), torch.eye(2), targets=torch.tensor([True, False]))
        >>> variational, plain = two_paths(glm, torch.zeros(2), steps=5)
        >>> float((variational - plain).abs().max()) < 1e-12
        True
    """
    q = GaussianPosterior(mean=start, covariance=1.0)
    theta, first = q.mean, glm.label_noise(q)
    variational, plain = [q.mean], [theta]
    for _ in range(steps):
        now = glm.label_noise(GaussianPosterior(mean=theta, covariance=1.0))
        theta = gd_step(glm, theta, lr=lr, label_noise=NOISES[noise][1](now, first))
        q = variational_gd_step(glm, q, lr=lr)
        variational.append(q.mean)
        plain.append(theta)
    return torch.stack(variational), torch.stack(plain)


def explore_theorem_1(seed: int = 3, examples: int = 24) -> InteractiveFigure:
    r"""Show variational gradient descent and gradient descent on noisy labels from one start, step by step.

    A switch gives the labels the noise of Theorem 1, a stale one, one of the wrong sign, or none. Left are the paths of
    both in the plane of the two weights, right their distance. All is computed beforehand, in float64, by
    :func:`~vlls.glm.gd_step` and :func:`~vlls.glm.variational_gd_step`.

    Args:
        seed: of the made-up examples.
        examples: their number, at least 2.

    Raises:
        ValueError: for fewer than two examples.

    Example:
        >>> explore_theorem_1()
        InteractiveFigure('Theorem 1 step by step: two optimizers from one start')
    """
    if examples < 2:
        raise ValueError(f"examples={examples!r} is not allowed; choose a number of 2 or more")
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, 2, dtype=torch.float64, generator=random) * torch.tensor(
        [1.6, 1.1]
    )
    chances = torch.sigmoid(features @ torch.tensor([1.2, -0.8], dtype=torch.float64))
    glm = GLM(
        Bernoulli(),
        features,
        targets=torch.rand(examples, dtype=torch.float64, generator=random) < chances,
    )
    start = torch.tensor([-1.5, 1.5], dtype=torch.float64)
    paths = {noise: two_paths(glm, start, noise=noise) for noise in NOISES}
    distances = {noise: (one - other).norm(dim=1) for noise, (one, other) in paths.items()}
    choices = "".join(
        f'<label><input type="radio" name="{ID}-noise" data-part="{noise}" value="{noise}" autocomplete="off"'
        f"{' checked' if noise == 'exact' else ''}> {text}</label>"
        for noise, (text, _) in NOISES.items()
    )
    last = len(paths["exact"][0]) - 1
    buttons = "".join(
        f'<button type="button" data-part="{name}">{text}</button>'
        for name, text in (("play", "Play"), ("back", "Back"), ("next", "Next"))
    )
    key = '<span class="vlls-key" style="--c: var(--vlls-{})"></span>'
    body = (
        f'<fieldset class="vlls-legend"><legend>Noise on the labels of gradient descent</legend>{choices}</fieldset>\n'
        f'<div class="vlls-steps">{buttons}<div><label for="{ID}-step">step</label> '
        f'<output for="{ID}-step" data-part="step-value"></output><input type="range" id="{ID}-step" data-part="step" '
        f'min="0" max="{last}" step="1" value="{last}" autocomplete="off"></div></div>\n'
        f'<p class="vlls-legend"><span>{key.format("noise")}variational gradient descent on q = N(θ, I)</span>'
        f'<span>{key.format("blue")}gradient descent on y + ε</span></p>\n'
        '<div class="vlls-courses"><svg data-part="plane" role="img" aria-label="The two paths in the plane of the two '
        'weights."></svg><svg data-part="distance" role="img" aria-label="The distance of the two paths against the '
        'step, on a logarithmic scale."></svg></div>\n'
        '<p class="vlls-says" data-part="says" aria-live="polite"></p>'
    )  # fmt: skip
    ends = ", ".join(
        f"{text} {float(distances[noise][-1]):.1g}" for noise, (text, _) in NOISES.items()
    )
    return InteractiveFigure(
        kind="theorem_1",
        name="Theorem 1 step by step: two optimizers from one start",
        instead="Variational gradient descent and gradient descent on y + ε take the same steps, up to rounding. With any "
        f"other noise they part. Distance after {last} steps by the noise on the labels: {ends}. To turn the noise off "
        "and watch the steps needs JavaScript (in Jupyter, run the cell or trust the notebook).",
        body=body,
        data={
            "noises": {
                noise: {
                    "text": text,
                    "variational": _rounded(paths[noise][0]),
                    "plain": _rounded(paths[noise][1]),
                    "distance": [float(f"{max(d, FLOOR):.3g}") for d in distances[noise].tolist()],
                }
                for noise, (text, _) in NOISES.items()
            },
            "floor": FLOOR,
        },
        picture=png(_draw(paths, distances)),
    )


def _rounded(path: Tensor) -> list[list[float]]:
    return [[round(value, 5) for value in point] for point in path.tolist()]


@styled
def _draw(paths: dict[str, tuple[Tensor, Tensor]], distances: dict[str, Tensor]) -> plt.Figure:
    figure, axes = plt.subplots(1, len(paths), figsize=(WIDTH, 2.6), sharex=True, sharey=True)
    for ax, (noise, (one, other)) in zip(axes, paths.items(), strict=True):
        ax.plot(*one.T, color=COLOURS["noise"], linewidth=3, label="variational gradient descent")
        ax.plot(
            *other.T, color=COLOURS["blue"], linestyle="dashed", label="gradient descent on y + ε"
        )
        ax.set_title(
            f"{NOISES[noise][0]}\nin the end {float(distances[noise][-1]):.1g} apart", fontsize=8
        )
        ax.set_xlabel("first weight", fontsize=8)
    axes[0].set_ylabel("second weight", fontsize=8)
    legend_above(figure, 2, fontsize=8)
    return figure
