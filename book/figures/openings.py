r"""The picture at the head of each chapter: its idea before the first formula, computed in well under a second."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from sklearn.datasets import load_digits, make_moons
from torch import Tensor, nn

import vlls
from figures.by_protocol import gaps_by_panel, runs_by_protocol
from figures.differences import RESULTS, rows_of
from figures.ladder import climb, diagonal, isotropic, laplace
from vlls import GLM, IVON, Bernoulli, Gaussian, GaussianPosterior, Poisson
from vlls.data.corruption import transition_matrix
from vlls.experiments._choice import by_candidate
from vlls.plots._style import PALETTE, SINGLE, legend_above, styled
from vlls.smoothing import LabelSmoothingLoss, OnlineLabelSmoothing
from vlls.train import METHODS

__all__ = [
    "digits_run",
    "lesson",
    "moons_run",
    "of_mnist",
    "pixels",
    "plot_bent_means",
    "plot_bent_noise",
    "plot_drawn_and_human",
    "plot_found_labels",
    "plot_four_ellipses",
    "plot_gain_on_two_sets",
    "plot_lost_classes",
    "plot_newton_and_von",
    "plot_noise_of_digits",
    "plot_noisy_label",
    "plot_one_label",
    "plot_pattern_of_labels",
    "plot_price",
    "plot_slope_is_curvature",
    "plot_without_its_variance",
]

_DPI = 100  # less than elsewhere: a page's first picture is small
_BLUE, _ORANGE, _GREEN, _RED = PALETTE[:4]
_INK, _GRAY = "0.15", "0.6"
_RECORDS = RESULTS.parents[1] / "benchmarks" / "records"


def _panels(height: float, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    return plt.subplots(1, columns, figsize=(SINGLE, height), dpi=_DPI, **options)


# ---------------------------------------------------------------------- data of the pictures
def _by_ivon(model: nn.Module, x: Tensor, y: Tensor, loss: Any, steps: int, draws: int) -> Tensor:
    """Train a network by IVON and return its outputs at the mean, and then at ``draws`` draws of the weights."""
    generator = torch.Generator().manual_seed(0)
    options = {"hess_init": 0.05, "beta2": 0.995, "weight_decay": 1e-3, "generator": generator}
    optimizer = IVON(model.parameters(), lr=0.3, ess=len(y), **options)
    for _ in range(steps):
        rows = torch.randint(len(y), (100,), generator=generator)
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    found = []
    with torch.no_grad():
        found.append(model(x))
        for _ in range(draws):
            with optimizer.sampled_params():
                found.append(model(x))
    return torch.stack(found)


def digits_run(draws: int = 200) -> dict[str, Tensor]:
    """Train a small network on scikit-learn's digits by IVON, and return its predictions of the training digits.

    Args:
        draws: of the weights.

    Returns:
        ``images`` (N, 8, 8), ``right`` labels (N,), ``logits`` (N, 10) at the mean of the weights, ``mean`` (N, 10) and
        ``draws`` (S, N, 10), probabilities at the mean and at draws.
    """
    grey, labels = load_digits(return_X_y=True)
    right = torch.from_numpy(labels)
    x = torch.from_numpy(grey).float() / 16
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    logits = _by_ivon(model, x, right, nn.functional.cross_entropy, 200, draws).double()
    p = logits.softmax(-1)
    found = {"images": x.reshape(-1, 8, 8), "right": right}
    return {**found, "logits": logits[0], "mean": p[0], "draws": p[1:]}


def of_mnist() -> dict[str, Any]:
    """Return the record of ``benchmarks/mnist_pictures.py``."""
    record: dict[str, Any] = json.loads((RESULTS / "mnist_pictures.json").read_text())
    return record


def pixels(digits: Sequence[Mapping[str, Any]]) -> Tensor:
    """Return the images of a record, (N, 28, 28) in [0, 1]."""
    rows = [np.frombuffer(base64.b64decode(digit["pixels"]), np.uint8) for digit in digits]
    return torch.from_numpy(np.stack(rows).reshape(-1, 28, 28) / 255)


def moons_run(draws: int = 200) -> Tensor:
    """Train a small network on two moons by IVON; return its logits at the mean and at draws, (1 + S, N)."""
    points, labels = make_moons(200, noise=0.25, random_state=1)
    x, y = torch.from_numpy(points).float(), torch.from_numpy(labels).float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    loss = nn.functional.binary_cross_entropy_with_logits
    return _by_ivon(model, x, y, loss, 200, draws).double()


def lesson() -> GLM:
    """Return a logistic regression with two correlated features, on 20 made-up points."""
    generator = torch.Generator().manual_seed(4)
    features = 2 * torch.randn(20, 2, dtype=torch.float64, generator=generator)
    features[:, 1] = 0.45 * features[:, 0] + 0.22 * features[:, 1]
    p = features.sum(1).sigmoid()
    return GLM(Bernoulli(), features, torch.bernoulli(p, generator=generator))


def _ellipse(ax: Axes, mean: Any, covariance: Any, scale: float = 2.0, **look: Any) -> None:
    """Draw where a Gaussian of two weights is ``scale`` standard deviations from its mean."""
    variances, axes = np.linalg.eigh(np.asarray(covariance))
    width, height = 2 * scale * np.sqrt(variances)
    angle = float(np.degrees(np.arctan2(axes[1, 0], axes[0, 0])))
    ax.add_patch(Ellipse(tuple(np.asarray(mean)), width, height, angle=angle, fill=False, **look))


def _strip(axes: Any, images: Tensor, titles: list[str], colors: list[Any]) -> None:
    """Draw images, each below its title."""
    for ax, image, title, color in zip(axes, images, titles, colors, strict=True):
        ax.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=9, color=color, pad=3)
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.spines[:].set(visible=True, color="0.8")


# ---------------------------------------------------------------------- Chapters 1 to 3
@styled
def plot_one_label() -> Figure:
    """Draw the label of a clear and of a doubtful digit under no smoothing, two designed ones, and variational learning.

    The label of variational learning has the mean noise of IVON's posterior. The doubtful digit has the most noise; the
    clear one is the digit of its class with the largest probability of this class.
    """
    run = digits_run()
    epsilon = run["mean"] - run["draws"].mean(0)
    doubtful = int(epsilon.abs().sum(1).argmax())
    given = run["right"][doubtful]
    clear = int(run["mean"][:, given].where(run["right"] == given, 0.0).argmax())
    rows, label = [clear, doubtful], run["right"][[clear, doubtful]]
    plain = nn.functional.one_hot(label, 10).double()
    online = OnlineLabelSmoothing(0.5, 10)
    online(run["logits"], run["right"])
    online.next_epoch()
    logits = run["logits"][rows]
    labels = {
        "given label": plain,
        "label\nsmoothing": plain + LabelSmoothingLoss(0.5).label_noise(logits, label),
        "online label\nsmoothing": plain + online.label_noise(logits, label),
        "variational\nlearning": plain + epsilon[rows],
    }
    figure, axes = _panels(4.1, 2, sharey=True)
    for k, (ax, title) in enumerate(zip(axes, ("a clear digit", "a doubtful digit"), strict=True)):
        for place, values in zip(range(0, -len(labels), -1), labels.values(), strict=True):
            colors = [_ORANGE if c == int(label[k]) else _BLUE for c in range(10)]
            ax.bar(range(10), 0.7 * values[k].numpy(), 0.8, bottom=place, color=colors)
            ax.axhline(place, color=_GRAY, linewidth=0.8)
            own = values[k, int(label[k])].item()
            ax.text(int(label[k]) - 0.6, place + 0.45, f"{own:.2f}", ha="right", fontsize=9)
        ax.set(xlim=(-0.6, 9.6), ylim=(0.3 - len(labels), 2.4), title=title)
        strip = ax.inset_axes((2.6, 0.85, 3.8, 1.55), transform=ax.transData)
        digit = np.pad(run["images"][rows[k]], 1)  # which fills its image from edge to edge
        strip.imshow(digit, cmap="gray_r", interpolation="bicubic")
        strip.set_axis_off()
        ax.set_xticks(range(10))
        ax.set_yticks([0.25 - row for row in range(len(labels))], list(labels))
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False)
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("class")
    return figure


@styled
def plot_noisy_label(at: float = 2.0, var: float = 9.0) -> Figure:
    """Draw a loss, its average under a Gaussian, and the loss of another label that has the same slope at the mean.

    Args:
        at: the logit at the mean of the weights.
        var: variance of the logit.
    """
    family, f = Bernoulli(), torch.linspace(-3.5, 6.5, 300, dtype=torch.float64)
    point, spread = torch.tensor([at], dtype=torch.float64), torch.tensor([var]).double()
    noise = float(family.label_noise(point, spread))
    plain = family.log_partition(f)
    averaged = family.expected_log_partition(f, torch.full_like(f, var))
    height = float(family.expected_log_partition(point, spread))
    noisy = plain - noise * f
    noisy = noisy + height - float(family.log_partition(point) - noise * at)
    figure, ax = _panels(3.0)
    ax.plot(f, plain, color=_BLUE, label="loss of label 0")
    ax.plot(f, averaged, color=_ORANGE, label="loss averaged over the Gaussian")
    label = f"loss of label {noise:.2f} (moved up)"
    ax.plot(f, noisy, color=_BLUE, linestyle=(0, (4, 2)), label=label)
    bell = torch.exp(-((f - at) ** 2) / (2 * var))
    ax.fill_between(f, -1.3, -1.3 + bell, color=_ORANGE, alpha=0.25, linewidth=0)
    slope = float(family.expected_mean(point, spread))
    near = torch.tensor([at - 1.6, at + 1.6])
    ax.plot(near, height + slope * (near - at), color=_INK, linewidth=2.6, alpha=0.85)
    ax.plot(at, height, "o", color=_INK)
    ax.text(at, -1.15, "weights drawn", ha="center", fontsize=9)
    ax.annotate(
        "same slope:\nsame gradient step", (at, height), (at - 1.0, height + 1.9), ha="right",
        arrowprops={"arrowstyle": "-", "color": _GRAY}, fontsize=9,
    )  # fmt: skip
    ax.set(xlabel="logit $f$", ylabel="loss (nats)", xlim=(-3.5, 6.5), ylim=(-1.3, 6.2))
    figure.legend(loc="outside upper center", fontsize=9, ncols=1)
    return figure


@styled
def plot_bent_means(var: float = 3.0) -> Figure:
    """Draw the mean of y for three families at the mean of f, and averaged over f; the gap between them is the noise.

    Args:
        var: variance of f.
    """
    families = {"classes": Bernoulli(), "real numbers": Gaussian(), "counts": Poisson()}
    names = {
        "classes": (2.5, 0.55, "left"),
        "real numbers": (-0.75, -1.0, "left"),
        "counts": (-1.2, 2.3, "right"),
    }
    f = torch.linspace(-4, 4, 300, dtype=torch.float64)
    figure, ax = _panels(2.8)
    for (name, family), color in zip(families.items(), PALETTE, strict=False):
        at_mean, averaged = family.mean(f), family.expected_mean(f, torch.full_like(f, var))
        ax.fill_between(f, at_mean, averaged, color=color, alpha=0.25, linewidth=0)
        ax.plot(f, at_mean, color=color)
        ax.plot(f, averaged, color=color, linestyle=(0, (4, 2)))
        x, y, side = names[name]
        ax.text(x, y, name, color=color, ha=side, va="center", fontweight="bold")
    ax.plot([], [], color=_INK, label="at the mean of $f$")
    ax.plot([], [], color=_INK, linestyle=(0, (4, 2)), label="averaged over $f$")
    ax.fill_between([], [], color="0.8", label=r"noise $\epsilon$")
    ax.set(xlabel="mean of $f$", ylabel="mean of $y$ (unit of $y$)")
    ax.set(xlim=(-4, 4), ylim=(-1.3, 2.7))
    legend_above(figure, 3, fontsize=9)
    return figure


# ---------------------------------------------------------------------- Chapters 4 to 7
@styled
def plot_newton_and_von() -> Figure:
    """Draw the point where Newton's method ends and the Gaussian where VON ends, on the contours of the loss."""
    glm = lesson()
    newton = vlls.fit(glm, vlls.newton_step)
    von = vlls.fit(glm, vlls.von_step)
    q = von.final
    figure, ax = _panels(3.0)
    _contours(ax, glm, q, 3.2)
    draws = q.sample(40, generator=torch.Generator().manual_seed(0))
    ax.plot(*draws.T, ".", color=_RED, markersize=4)
    _ellipse(ax, q.mean, q.covariance, edgecolor=_RED, linewidth=1.6)
    ax.plot(*torch.stack(newton.states).T, color=_BLUE, marker=".", linewidth=1.2)
    ax.plot(*newton.final, "s", color=_BLUE, markersize=8, label="Newton's method: a point")
    ax.plot([], [], ".", color=_RED, label="VON: a Gaussian")
    legend_above(figure, 2, fontsize=9)
    return figure


def _contours(ax: Axes, glm: GLM, q: GaussianPosterior, reach: float) -> None:
    """Draw the contours of the loss around a posterior of two weights."""
    sides = reach * q.covariance.diagonal().sqrt()
    x, y = (torch.linspace(float(m - s), float(m + s), 60).double()
            for m, s in zip(q.mean, sides, strict=True))  # fmt: skip
    loss = np.array([[float(glm.loss(torch.stack([a, b]))) for a in x] for b in y])
    levels = loss.min() + np.array([0.5, 2, 4.5])
    ax.contour(x, y, loss, levels, colors="0.7", linewidths=1.0)
    ax.set(xlabel="first weight", ylabel="second weight")
    ax.grid(visible=False)


@styled
def plot_slope_is_curvature(draws: int = 150, batch: int = 100) -> Figure:
    """Draw gradients of minibatches at perturbed weights: the slope of the cloud estimates the averaged Hessian.

    Args:
        draws: of the weight, each with its own minibatch.
        batch: examples in it.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 1, dtype=torch.float64, generator=generator)
    y = torch.bernoulli((1.5 * x[:, 0]).sigmoid(), generator=generator)
    glm = GLM(Bernoulli(), x, y)
    q = vlls.fit(glm, vlls.von_step).final
    std = float(q.covariance.sqrt())
    e = std * torch.randn(draws, dtype=torch.float64, generator=generator)
    rows = torch.stack([torch.randperm(len(x), generator=generator)[:batch] for _ in e])
    theta = q.mean + e  # (S,)
    residual = (theta[:, None] * x[rows, 0]).sigmoid() - y[rows]
    gradient = len(x) / batch * (x[rows, 0] * residual).sum(1) + theta
    estimate = float((e * gradient).mean() / std**2)
    exact = float(glm.expected_hessian(q))
    figure, ax = _panels(2.9)
    ax.plot(e, gradient, "o", color=_BLUE, markersize=3.5, alpha=0.5, markeredgewidth=0)
    line = torch.tensor([-3.2 * std, 3.2 * std])
    label = f"slope of the dots: {estimate:.0f}"
    ax.plot(line, gradient.mean() + estimate * line, color=_BLUE, label=label)
    label = f"averaged Hessian: {exact:.0f}"
    ax.plot(line, exact * line, color=_ORANGE, linestyle=(0, (4, 2)), label=label)
    ax.set(xlabel="noise added to the weight", ylabel="gradient there (nats)")
    ax.grid(visible=False)
    ax.legend(fontsize=9)
    return figure


@styled
def plot_bent_noise() -> Figure:
    """Draw how draws of a network's weights move the logits of two inputs, and with them the predicted probabilities.

    Each input has its dot at the mean, its draws, and the tangent by which Eq. 20 replaces the curve.
    """
    logits = moons_run()
    at, spread = logits[0], logits[1:].std(0)
    doubtful = int((at - 0.4).abs().argmin())
    certain = int((at - at.quantile(0.9)).abs().argmin())
    figure, ax = _panels(3.1)
    low, high = float(logits[:, [doubtful, certain]].min()), float(logits[:, certain].max())
    f = torch.linspace(min(low, -3) - 0.3, high + 0.3, 300)
    ax.plot(f, f.sigmoid(), color=_GRAY, zorder=1)
    pairs = ((doubtful, _ORANGE, "o", "in doubt"), (certain, _BLUE, "^", "certain"))
    for k, (row, color, marker, name) in enumerate(pairs):
        draws = logits[1:61, row]
        p, root = (
            float(at[row].sigmoid()),
            float((logits[1:, row].sigmoid() - at[row].sigmoid()).square().mean().sqrt()),
        )
        ax.plot(
            draws, draws.sigmoid(), marker, color=color, markersize=4, alpha=0.5, markeredgewidth=0
        )
        ends = torch.stack([at[row] - 2 * spread[row], at[row] + 2 * spread[row]])
        ax.plot(ends, p + p * (1 - p) * (ends - at[row]), color=color, linewidth=1.4)
        ax.plot(
            at[row],
            p,
            marker,
            color=color,
            markersize=9,
            markeredgecolor="white",
            label=f"{name}: noise ±{root:.2f}",
        )
        side = float(f[0]) + 0.12 + 0.25 * k
        ax.plot([side, side], [p - root, p + root], color=color, linewidth=5, solid_capstyle="butt")
    ax.plot([], [], color=_INK, linewidth=1.4, label="tangent: Eq. 20")
    ax.set(xlabel="logit $f$", ylabel="prediction (probability)", xlim=(float(f[0]), float(f[-1])))
    ax.legend(loc="lower right", fontsize=9)
    return figure


@styled
def plot_noise_of_digits() -> Figure:
    """Draw the label noise of MNIST's digits in order under two posteriors, seed 0, and the digits at the ends of one order."""
    record = of_mnist()
    names, ends = list(record["orders"]), ("most", "least")
    shown = len(record["orders"][names[1]]["most"])
    figure, axes = plt.subplot_mosaic(
        [["order"] * shown, *([f"{end} {k}" for k in range(shown)] for end in ends)],
        figsize=(SINGLE, 3.5),
        dpi=_DPI,
        height_ratios=(3.4, 1, 1),
    )
    ax = axes["order"]
    for name, color, dash in zip(names, PALETTE, ("dashed", "solid"), strict=False):
        noise = record["orders"][name]["noise"]
        place = 100 * np.arange(len(noise)) / len(noise)
        ax.semilogy(place, noise, color=color, linestyle=dash, label=name)
    smoothing = record["smoothing"]
    label = f"label smoothing, α = {smoothing['alpha']}"
    ax.axhline(smoothing["noise"], color="0.35", linestyle="dotted", label=label)
    ax.set(xlim=(0, 100), ylim=(1e-6, 1))
    ax.set_xlabel("place of a digit, from the most noise to the least (%)", fontsize=9)
    ax.set_ylabel("noise (probability)", fontsize=9)
    ax.legend(loc="lower left", fontsize=9)
    for end in ends:
        row = record["orders"][names[1]][end]
        strip = [axes[f"{end} {k}"] for k in range(shown)]
        titles = [f"{digit['noise']:.2f}" if end == "most" else "" for digit in row]
        _strip(strip, pixels(row), titles, [_INK] * shown)
        strip[0].set_ylabel(end, fontsize=9)
    figure.set_label("noise-of-digits")  # the front page shows it too
    return figure


# ---------------------------------------------------------------------- Chapters 8 to 12
@styled
def plot_pattern_of_labels() -> Figure:
    """Draw IVON's smoothed labels and label smoothing's against those of online label smoothing, for pairs of classes."""
    table = pd.read_csv(RESULTS / "fig4_labels.csv")
    table = table[
        (table["protocol"] == table["protocol"].iloc[0]) & (table["label"] != table["other"])
    ]
    table = table[table["panel"] == table["panel"].iloc[0]]
    pairs = table.groupby(["label", "other", "method"])["smoothed"].mean().unstack()
    figure, ax = _panels(2.8)
    for method in ("ls", "ivon"):
        record = METHODS[method]
        look = {"color": record.colour, "marker": record.marker, "label": record.label}
        ax.loglog(pairs["ols"], pairs[method], linestyle="none", markersize=4.5, alpha=0.7, **look)
    label, other = pairs["ivon"].idxmax()
    most = pairs.loc[(label, other)]
    ax.annotate(
        f"{label} → {other}", (most["ols"], most["ivon"]), (0, 5), textcoords="offset points",
        ha="center", fontsize=9,
    )  # fmt: skip
    ax.minorticks_off()
    ax.set(xlabel="moved to the other class by OLS (probability)", ylabel="moved by LS, by IVON")
    ax.legend(fontsize=9)
    return figure


def _above_sgd(rows: pd.DataFrame, panel: str) -> dict[str, Any]:
    """Return by how far each method is above SGD in a panel, at its best value."""
    found = {m: gaps_by_panel(rows, m, "sgd").get(panel) for m in ("ls", "sam", "ivon")}
    return {method: gap for method, gap in found.items() if gap is not None}


def _draw_gains(panels: Mapping[str, dict[str, Any]]) -> Figure:
    """Draw bars of the points above SGD, a group for each panel, with standard errors."""
    figure, ax = _panels(2.8)
    places, names = [], []
    for group, (title, gains) in enumerate(panels.items()):
        for k, (method, gap) in enumerate(gains.items()):
            place, record = 4.4 * group + k, METHODS[method]
            bar = ax.barh(
                place,
                gap.points,
                0.75,
                xerr=gap.error or 0,
                color=record.colour,
                error_kw={"capsize": 2, "lw": 1},
            )
            ax.bar_label(bar, [f"{gap.points:.1f}"], padding=4, fontsize=9)
            places, names = [*places, place], [*names, record.label]
        ax.text(0.01, 4.4 * group - 0.75, title, transform=ax.get_yaxis_transform(), fontsize=10)
    ax.axvline(0, color=_INK, linewidth=0.9)
    ax.set_yticks(places, names)
    ax.set_ylim(max(places) + 0.6, -1.5)
    ax.margins(x=0.1)
    ax.set_xlabel("test accuracy above SGD's (points)")
    ax.grid(visible=False, axis="y")
    return figure


@styled
def plot_gain_on_two_sets() -> Figure:
    """Draw by how many points of accuracy LS, SAM and IVON are above SGD on two data sets with 40 % wrong labels."""
    sizes = runs_by_protocol(rows_of("fig5"))
    return _draw_gains(
        {
            "CIFAR-10": _above_sgd(sizes["short"], "CIFAR-10, symmetric 40 %"),
            "MNIST": _above_sgd(sizes["mnist"], "MNIST, symmetric 40 %"),
        }
    )


@styled
def plot_without_its_variance() -> Figure:
    """Draw the accuracy of IVON on MNIST as it is, with its variances shuffled or replaced by one, and of SGD."""
    rows = rows_of("controls", "mnist")
    found = by_candidate(rows[rows["panel"] == "MNIST, symmetric 40 %"])
    kinds = {
        "IVON": "ivon",
        "its variances shuffled": "ivon_permuted",
        "one variance for all": "ivon_isotropic",
        "SGD": "sgd",
    }
    figure, ax = _panels(2.0)
    for place, method in enumerate(kinds.values()):
        record = METHODS[method]
        values = 100 * found[record.label]["test_accuracy"].to_numpy(float)
        color = METHODS["ivon" if place == 0 else method].colour
        ax.plot(values, [place] * len(values), record.marker, color=color, markersize=6, alpha=0.8)
        ax.vlines(values.mean(), place - 0.3, place + 0.3, color=_INK, linewidth=2.5)
    ax.set_yticks(range(len(kinds)), list(kinds))
    ax.set_ylim(len(kinds) - 0.4, -0.6)
    ax.set_xlabel("test accuracy (%); bar: mean")
    ax.margins(x=0.08)
    return figure


@styled
def plot_lost_classes(rate: float = 0.5, rate_step: float = 0.05) -> Figure:
    """Draw for each class the share of its labels that are right, beside the share that each wrong class has.

    Args:
        rate: κ of Eq. 21.
        rate_step: β of Eq. 21.
    """
    matrix = transition_matrix("class_dependent", 10, rate, rate_step)
    right, wrong = matrix.diagonal(), np.where(np.eye(10), -1.0, matrix).max(1)
    figure, ax = _panels(2.8)
    classes = np.arange(1, 11)
    colors = [_BLUE if a > b else _ORANGE for a, b in zip(right, wrong, strict=True)]
    ax.bar(classes - 0.2, 100 * right, 0.4, color=colors, label="right label")
    ax.bar(classes + 0.2, 100 * wrong, 0.4, color="0.75", label="each of the wrong ones")
    ax.plot([], [], "s", color=_ORANGE, markersize=8, label="right label, class lost")
    ax.set_xticks(classes)
    ax.set(xlabel="class $i$", ylabel="share of its labels (%)", xlim=(0.4, 10.6))
    ax.grid(visible=False, axis="x")
    ax.legend(fontsize=9)
    return figure


@styled
def plot_drawn_and_human() -> Figure:
    """Draw by how many points LS, SAM and IVON are above SGD on CIFAR-10, with errors of people and with drawn ones."""
    human = runs_by_protocol(rows_of("cifar_n"))["short"]
    drawn = runs_by_protocol(rows_of("fig5"))["short"]
    return _draw_gains(
        {
            "errors that people made": _above_sgd(human, "CIFAR-10N, worst"),
            "errors that were drawn": _above_sgd(drawn, "CIFAR-10, symmetric 40 %"),
        }
    )


# ---------------------------------------------------------------------- Chapters 13 and 14, and the appendix
@styled
def plot_price() -> Figure:
    """Draw the memory that an optimizer needs, and the time of its step over AdamW's, for SGD, AdamW, SAM and IVON."""
    record = json.loads((_RECORDS / "optimizer-cpu.json").read_text())
    rows = {row["method"]: row for row in record["rows"]}
    names = {"SGD": "sgd fused", "AdamW": "adamw fused", "SAM": "sam", "IVON": "ivon fused, kept"}
    figure, axes = _panels(2.2, 2, sharey=True)
    units = {
        "peak_bytes_a_parameter": "memory (bytes a weight)",
        "over_adamw_fused": "time of a step (AdamW = 1)",
    }
    for ax, (column, unit) in zip(axes, units.items(), strict=True):
        values = [rows[name][column] for name in names.values()]
        colors = [METHODS["ivon"].colour if name == "IVON" else "0.7" for name in names]
        bars = ax.barh(list(names), values, 0.65, color=colors)
        ax.bar_label(bars, [f"{value:.2g}" for value in values], padding=3, fontsize=9)
        ax.set_xlabel(unit, fontsize=9)
        ax.margins(x=0.15)
        ax.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    return figure


@styled
def plot_four_ellipses() -> Figure:
    """Draw the best Gaussian of each rung of the ladder, as ellipses over the two weights of a small regression.

    With one output and two weights the eigenspace's Gaussian is the full one.
    """
    glm = lesson()
    rungs = {
        "isotropic": isotropic,
        "diagonal": diagonal,
        "eigenspace, full": lambda hessian: hessian,
    }
    figure, ax = _panels(2.6)
    for (name, restrict), color, style in zip(
        rungs.items(), PALETTE, ("--", "-.", "-"), strict=False
    ):
        q = climb(glm, restrict, laplace(glm))
        _ellipse(
            ax, q.mean, q.covariance, edgecolor=color, linestyle=style, linewidth=2.0, label=name
        )
    ax.autoscale_view()
    ax.set(xlabel="first weight", ylabel="second weight")
    ax.grid(visible=False)
    legend_above(figure, 3, fontsize=9)
    return figure


@styled
def plot_found_labels(columns: int = 6) -> Figure:
    """Draw the digits of MNIST whose given labels one run of IVON doubts the most; a fifth of all labels are wrong.

    Args:
        columns: digits in each of the two rows.
    """
    first = of_mnist()["doubted"]["first"][: 2 * columns]
    figure, axes = plt.subplots(2, columns, figsize=(SINGLE, 2.4), dpi=_DPI)
    titles = [f"“{digit['given']}”" for digit in first]
    colors = [_RED if digit["given"] != digit["right"] else _BLUE for digit in first]
    _strip(axes.flatten(), pixels(first), titles, colors)
    return figure
