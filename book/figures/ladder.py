r"""A ladder of Gaussian posteriors of a softmax regression, each at its variational optimum, and its figures (Chapter 14)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from torch import Tensor

import vlls
from figures.differences import by_rate, ladder_gaps
from vlls import GLM, Categorical, GaussianPosterior
from vlls.data import load
from vlls.data.corruption import corrupt
from vlls.plots._style import PALETTE, WIDTH, legend_above, styled

__all__ = [
    "FIRST_ORDER",
    "RUNGS",
    "Restriction",
    "adaptivity_in_words",
    "atypicality",
    "best_in_words",
    "climb",
    "compare",
    "diagonal",
    "digits_glm",
    "eigenspace",
    "fidelity_in_words",
    "hold",
    "isotropic",
    "kronecker_bases",
    "ladder",
    "ladder_step",
    "laplace",
    "matched",
    "measure",
    "noise_size",
    "on_contrasts",
    "order_in_words",
    "plot_first_and_second_order",
    "plot_ladder",
    "plot_rungs",
    "table_of",
    "values",
]

#: The rungs, from one variance for all weights to a whole covariance.
RUNGS = ("isotropic", "diagonal", "eigenspace", "full")
#: Variational gradient descent, by the covariance that it keeps.
FIRST_ORDER = {
    "identity": "Σ = I",
    "h0": "Σ from h₀ = 0.9",
    "matched": "Σ = sI, as much noise as VON",
}
#: IVON's start in the paper; with ess = N, and N δ = 1, its precision is N h0 + 1.
H0 = 0.9
Restriction = Callable[[Tensor], Tensor]
_COLORS = dict(
    zip((*RUNGS, *FIRST_ORDER), (*PALETTE[:4], PALETTE[4], PALETTE[7], PALETTE[5]), strict=True)
)
_MARKERS = dict(zip((*RUNGS, *FIRST_ORDER), "os^DPXv", strict=True))


# ---------------------------------------------------------------------- the data
def digits_glm(
    rate: float, seed: int, *, points: int = 64, scramblings: int = 2
) -> tuple[GLM, Tensor, tuple[Tensor, Tensor]]:
    """Return the softmax regression on scikit-learn's digits, with a share of wrong labels.

    Pixels are in [0, 1], a bias is the 65th feature, the regularizer is ½‖θ‖²: P = 650 parameters.

    Args:
        rate: share of the training labels that are changed, each to one of the nine others.
        seed: of the split into 1,437 images for training and 360 for testing, and of the errors.
        points: of the quadrature, in each of its scramblings.
        scramblings: their number.

    Returns:
        The model on the given labels, the right labels, and features and labels for testing.
    """
    data = load("digits")
    pixels = np.concatenate([data.train_x, data.test_x]).reshape(-1, 64) / 255
    labels = torch.as_tensor(np.concatenate([data.train_y, data.test_y]))
    rows = np.random.default_rng(seed).permutation(len(pixels))
    features = torch.from_numpy(np.c_[pixels, np.ones(len(pixels))][rows])
    right, train = labels[rows], len(data.train_y)
    given = right[:train]
    if rate:
        given = torch.as_tensor(corrupt(given, "symmetric", rate=rate, num_classes=10, seed=seed))
    family = Categorical(10, num_points=points, replicates=scramblings)
    return GLM(family, features[:train], given), right[:train], (features[train:], right[train:])


def atypicality(features: Tensor, labels: Tensor) -> np.ndarray:
    """Return each image's loss under a model that has not seen it, by 5-fold cross-validation.

    The labels are the right ones, so this measures the image, whatever label is given to it.
    """
    model = LogisticRegression(max_iter=2000)
    p = cross_val_predict(model, features.numpy(), labels.numpy(), method="predict_proba", cv=5)
    return -np.log(p[np.arange(len(p)), labels.numpy()])


# ---------------------------------------------------------------------- the rungs
def kronecker_bases(hessian: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the eigenbases of the two partial traces of a Hessian over (P, K) parameters, (P, P) and (K, K).

    Example:
        >>> a, b = torch.diag(torch.tensor([1.0, 2.0])), torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> inputs, outputs = kronecker_bases(torch.kron(a, b), (2, 2))
        >>> basis = torch.kron(inputs, outputs)
        >>> rotated = basis.T @ torch.kron(a, b) @ basis
        >>> bool((rotated - torch.diag(rotated.diagonal())).abs().max() < 1e-6)
        True
    """
    blocks = hessian.reshape(*shape, *shape)
    inputs, outputs = torch.einsum("akbk->ab", blocks), torch.einsum("akal->kl", blocks)
    return torch.linalg.eigh(inputs).eigenvectors, torch.linalg.eigh(outputs).eigenvectors


def eigenspace(basis: Tensor) -> Restriction:
    """Return the projection of a Hessian to the matrices that are diagonal in an orthogonal basis."""
    return lambda hessian: (basis * ((hessian @ basis) * basis).sum(0)) @ basis.T


def hold(precision: float) -> Restriction:
    """Return the projection of variational gradient descent: whatever the Hessian, the same multiple of I."""
    return lambda hessian: precision * torch.eye(len(hessian), dtype=hessian.dtype)


def isotropic(hessian: Tensor) -> Tensor:
    """Return the projection of a Hessian to the multiples of I."""
    return float(hessian.diagonal().mean()) * torch.eye(len(hessian), dtype=hessian.dtype)


def diagonal(hessian: Tensor) -> Tensor:
    """Return the projection of a Hessian to the diagonal matrices."""
    return torch.diag(hessian.diagonal())


def ladder_step(
    glm: GLM, q: GaussianPosterior, restrict: Restriction, lr: float = 0.8
) -> GaussianPosterior:
    r"""Return a step towards the optimum of a rung, a function for :func:`vlls.glm.fit`.

    The mean takes Newton's step on noisy labels (Theorem 2), with the whole averaged Hessian; the precision moves to
    that Hessian's projection. It rests where :math:`\mathbb E_q[\nabla\bar\ell] = 0` and the precision is the projection.

    Args:
        glm: the model.
        q: current posterior, of the rung.
        restrict: projection of the averaged Hessian to the rung's precisions.
        lr: step size, 1 for the whole step.
    """
    whole = vlls.von_step(glm, q)
    precision = (1 - lr) * q.precision + lr * restrict(whole.precision)
    return GaussianPosterior(q.mean + lr * (whole.mean - q.mean), precision=precision)


def climb(
    glm: GLM, restrict: Restriction, start: GaussianPosterior, tol: float = 1e-6
) -> GaussianPosterior:
    """Return the optimum of a rung, by :func:`ladder_step` from another posterior.

    Args:
        glm: the model.
        restrict: projection of the averaged Hessian to the rung's precisions.
        start: its mean, and the projection of its precision, are where the steps begin. A start with less noise than
            the optimum is safe; with much more, Newton's steps may be too long.
        tol: of :func:`vlls.glm.fit`.
    """
    start = GaussianPosterior(start.mean, precision=restrict(start.precision))
    return vlls.fit(glm, ladder_step, start, restrict=restrict, tol=tol, max_iter=200).final


def ladder(glm: GLM, tol: float = 1e-6) -> dict[str, GaussianPosterior]:
    """Return the variational optimum of each rung, by name.

    The eigenspace's basis is the Kronecker product of the eigenbases of the full optimum's averaged Hessian.

    Args:
        glm: a softmax regression.
        tol: of :func:`vlls.glm.fit`.
    """
    full = climb(glm, lambda hessian: hessian, laplace(glm), tol)
    basis = torch.kron(*kronecker_bases(full.precision, glm.parameter_shape))
    rungs = {"isotropic": isotropic, "diagonal": diagonal, "eigenspace": eigenspace(basis)}
    return {name: climb(glm, restrict, full, tol) for name, restrict in rungs.items()} | {
        "full": full
    }


def matched(
    glm: GLM, like: GaussianPosterior, start: GaussianPosterior, tol: float = 1e-4
) -> GaussianPosterior:
    """Return the optimum with covariance sI, with s such that its noise is as large as another posterior's, on average.

    Args:
        glm: the model.
        like: the posterior whose noise is matched.
        start: an optimum with less noise, whose covariance is a multiple of I.
        tol: of :func:`vlls.glm.fit`.
    """
    target, q = float(noise_size(glm, like).mean()), start
    for _ in range(30):
        ratio = target / float(noise_size(glm, q).mean())
        if abs(ratio - 1) < 1e-3:
            return q
        # the size grows like the root of the variance, or slower
        q = climb(glm, hold(float(q.precision[0, 0]) / ratio**2), q, tol)
    raise ValueError(
        f"no multiple of I has noise of the size {target:.3g}; it ended at a ratio of {ratio:.3g}"
    )


def compare(glm: GLM, tol: float = 1e-6) -> dict[str, GaussianPosterior]:
    """Return the rungs of :func:`ladder` and the optima of variational gradient descent of ``FIRST_ORDER``.

    Args:
        glm: a softmax regression with the regularizer ½‖θ‖².
        tol: of :func:`vlls.glm.fit`.
    """
    rungs = ladder(glm, tol)
    full, mode = rungs["full"], laplace(glm)
    identity = climb(glm, hold(1.0), full, tol)
    sharp = climb(glm, hold(H0 * len(glm.features) + 1.0), mode, tol)
    kept = {"identity": identity, "h0": sharp, "matched": matched(glm, full, sharp)}
    return rungs | kept


def laplace(glm: GLM) -> GaussianPosterior:
    """Return Laplace's approximation: the mode, and the Hessian there as the precision."""
    mode = vlls.fit(glm, vlls.newton_step, lr=0.5, tol=1e-6).final  # whole steps may diverge
    return GaussianPosterior(mode, precision=glm.hessian(mode))


# ---------------------------------------------------------------------- measures
def noise_size(glm: GLM, q: GaussianPosterior) -> Tensor:
    r"""Return the size of the sampled label noise of every example, :math:`\sqrt{\mathbb E_q\|A'(f_i(\mathbf m)) - A'(f_i)\|^2}`.

    For the softmax :math:`\mathbb E\|p\|^2 = 1 - \operatorname{tr}\mathbb E[A'']`, so two moments are enough.
    """
    mean, variance = q.marginal(glm.features)
    average, curvature = glm.family.expected_derivatives(mean, variance)
    square = 1 - curvature.diagonal(dim1=1, dim2=2).sum(1)
    moved = (glm.family.mean(mean) - average).square().sum(1)
    return (moved + square - average.square().sum(1)).clamp_min(0).sqrt()


def on_contrasts(q: GaussianPosterior) -> GaussianPosterior:
    """Return the distribution of the K - 1 contrasts between the classes' weights, on which predictions depend."""
    p, k = q.mean.shape
    ones = torch.ones(k, 1, dtype=torch.float64)
    contrasts = torch.linalg.qr(torch.cat([ones, torch.eye(k, dtype=torch.float64)], 1)).Q[:, 1:]
    jacobian = torch.kron(torch.eye(p, dtype=torch.float64), contrasts.contiguous())
    covariance = jacobian.T @ q.covariance @ jacobian
    return GaussianPosterior(q.mean @ contrasts, (covariance + covariance.T) / 2)


def _variation(x: Tensor) -> float:
    return float(x.std() / x.mean())


def measure(
    glm: GLM,
    q: GaussianPosterior,
    full: GaussianPosterior,
    right: Tensor,
    test: tuple[Tensor, Tensor],
    atypical: np.ndarray,
    *,
    finer: GLM | None = None,
) -> dict[str, float]:
    """Return the numbers of one posterior: fidelity, ELBO, adaptivity of its noise, predictions.

    Args:
        glm: the model.
        q: the posterior.
        full: the full optimum.
        right: right labels of the training images.
        test: features and labels of the test images.
        atypical: of the training images, from :func:`atypicality`.
        finer: the same model with a finer quadrature, for the ELBO.
    """
    size, of_full = noise_size(glm, q), noise_size(glm, full)
    eq_16, eq_16_of_full = (glm.label_noise(p).norm(dim=1) for p in (q, full))
    mean, variance = q.marginal(glm.features)
    curvature = glm.family.curvature(mean)
    eq_20 = (curvature @ variance @ curvature).diagonal(dim1=1, dim2=2).sum(1).clamp_min(0).sqrt()
    k = mean.shape[1]
    seen = variance.diagonal(dim1=1, dim2=2).sum(1) - variance.sum((1, 2)) / k  # of the contrasts
    predicted = glm.family.expected_mean(*q.marginal(test[0]))
    wrong = (glm.targets.argmax(1) != right).numpy()
    found = {"auroc_wrong": float(roc_auc_score(wrong, size))} if wrong.any() else {}
    return found | {
        "kl": max(0.0, float(q.kl(full))),
        "kl_contrasts": max(0.0, float(on_contrasts(q).kl(on_contrasts(full)))),
        "elbo": float((finer or glm).elbo(q)),
        "noise": float(size.mean()),
        "variation": _variation(size),
        "variation_eq16": _variation(eq_16),
        "variation_eq20": _variation(eq_20),
        "variation_variance": _variation(seen),
        "rank_with_full": float(spearmanr(size, of_full)[0]),
        "rank_with_full_eq16": float(spearmanr(eq_16, eq_16_of_full)[0]),
        "rank_with_atypical": float(spearmanr(size, atypical)[0]),
        "accuracy": float((predicted.argmax(1) == test[1]).double().mean()),
        "nll": float(-predicted.gather(1, test[1][:, None]).log().mean()),
    }


# ---------------------------------------------------------------------- the record, in words
def values(record: Mapping[str, Any], rate: float, posterior: str, name: str) -> np.ndarray:
    """Return one number of a posterior at a rate of wrong labels, by seed."""
    cells = sorted((c for c in record["cells"] if c["rate"] == rate), key=lambda c: c["seed"])
    return np.array([cell["posteriors"][posterior][name] for cell in cells], dtype=float)


def _at(rates: Sequence[float]) -> str:
    """Name rates of wrong labels: "at 0, 20 and 40 %"."""
    shown = [f"{100 * rate:g}" for rate in rates]
    return "at " + (" and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))) + " %"


def _spread(record: Mapping[str, Any], rate: float, posterior: str, name: str, form: str) -> str:
    v = values(record, rate, posterior, name)
    return f"{v.mean():{form}} ± {v.std(ddof=1):{form}}"


def fidelity_in_words(record: Mapping[str, Any]) -> str:
    """Say how far each rung is from the full optimum, and which share of the diagonal's distance the eigenspace has."""
    last, said = max(record["rates"]), []
    for name in RUNGS[:-1]:
        numbers = ", ".join(_spread(record, rate, name, "kl", ".0f") for rate in record["rates"])
        said.append(f"{name} {numbers}")
    share = values(record, last, "eigenspace", "kl") / values(record, last, "diagonal", "kl")
    seen = values(record, last, "diagonal", "kl_contrasts").mean()
    whole = values(record, last, "diagonal", "kl").mean()
    return (
        f"KL to the full optimum in nats {_at(record['rates'])} wrong labels (mean and standard deviation of "
        f"{_seeds(record)} seeds): {'; '.join(said)}. {_at([last]).capitalize()} the eigenspace keeps "
        f"{100 * share.min():.1f} to {100 * share.max():.1f} % of the diagonal's distance, "
        f"{'less' if share.max() < 1 / 3 else 'not less'} than a third. Of the diagonal's {whole:.0f} nats, "
        f"{whole - seen:.0f} are in directions that change no prediction."
    )


def _seeds(record: Mapping[str, Any]) -> int:
    return len({cell["seed"] for cell in record["cells"]})


def adaptivity_in_words(record: Mapping[str, Any]) -> str:
    """Say whether a more flexible covariance makes the noise more adaptive, and for which rates."""
    words = ("more unequal", "less unequal")

    def against(one: str, other: str, number: str = "variation") -> str:
        return by_rate(ladder_gaps(record, one, other, number), *words)

    steps = "; ".join(
        f"{one} against {other}: {against(one, other)}"
        for one, other in zip(RUNGS[1:], RUNGS[:-1], strict=True)
    )
    return "\n".join(
        [
            f"How unequal the noise is, over {_seeds(record)} seeds:\n",
            f"- Size of the sampled noise, from rung to rung: {steps}.",
            f"- Mean noise of Theorem 2 (Eq. 16), full against isotropic: {against('full', 'isotropic', 'variation_eq16')}.",
            f"- First order in Σ (Eqs. 14 and 20), full against isotropic: {against('full', 'isotropic', 'variation_eq20')}.",
            f"- Full against one variance with as much noise (*matched*): {against('full', 'matched')}.",
        ]
    )


def order_in_words(record: Mapping[str, Any]) -> str:
    """Say how well each rung's order of the examples agrees with the full one's, and how it relates to errors."""
    last = max(record["rates"])
    agree = {
        name: [
            float(values(record, rate, name, "rank_with_full").mean()) for rate in record["rates"]
        ]
        for name in RUNGS[:-1]
    }
    told = "; ".join(f"{name} {', '.join(f'{v:.2f}' for v in of)}" for name, of in agree.items())
    found = np.concatenate([values(record, last, name, "auroc_wrong") for name in RUNGS])
    blind = "says little about" if found.max() < 0.65 else "tells"
    return (
        f"Rank correlation of the size of the noise with the full covariance's {_at(record['rates'])} wrong labels: {told}. "
        f"{_at([last]).capitalize()} the size of the noise {blind} which labels are wrong, on any rung: its area under the "
        f"ROC curve is {found.min():.2f} to {found.max():.2f}."
    )


def best_in_words(record: Mapping[str, Any]) -> str:
    """Say whether VON is ahead of variational gradient descent, in accuracy and in the adaptivity of its noise."""
    numbers = {
        "accuracy": "test accuracy",
        "nll": "test NLL",
        "variation": "coefficient of variation of the noise",
        "rank_with_atypical": "rank correlation of the noise with atypicality",
    }
    said = [f"VON with a full Σ, over {_seeds(record)} seeds:\n"]
    for name, label in FIRST_ORDER.items():
        sides = [
            f"{title} {by_rate(ladder_gaps(record, 'full', name, number), 'higher', 'lower')}"
            for number, title in numbers.items()
        ]
        said.append(f"- against gradient descent with {label}: {'; '.join(sides)}.")
    return "\n".join(said)


def table_of(
    record: Mapping[str, Any], posteriors: Sequence[str], numbers: Mapping[str, str]
) -> pd.DataFrame:
    """Return numbers of posteriors as text, mean ± standard deviation over the seeds.

    Args:
        record: of ``benchmarks/bench_ladder.py``.
        posteriors: the rows.
        numbers: for each number its format, such as ``{"accuracy": ".3f"}``; a column each at each rate.
    """
    columns = {
        (number, f"{100 * rate:g} %"): [
            _spread(record, rate, name, number, form) for name in posteriors
        ]
        for number, form in numbers.items()
        for rate in record["rates"]
    }
    table = pd.DataFrame(columns, index=[FIRST_ORDER.get(name, name) for name in posteriors])
    return table.rename(columns=lambda name: name.replace("_", " "))


# ---------------------------------------------------------------------- figures
def _title(rate: float) -> str:
    return f"{100 * rate:g} % wrong labels"


@styled
def plot_rungs(sizes: Mapping[str, Tensor], wrong: Tensor) -> Figure:
    """Draw the noise of every example on each lower rung against that of the full covariance.

    Args:
        sizes: for each rung, the size of every example's noise.
        wrong: booleans, the examples whose label was changed.
    """
    lower = [name for name in RUNGS if name != "full"]
    figure, axes = plt.subplots(1, len(lower), figsize=(WIDTH, 2.9), sharex=True, sharey=True)
    top = 1.05 * max(float(size.max()) for size in sizes.values())
    for ax, name in zip(axes, lower, strict=True):
        for rows, marker, color, label in (
            (~wrong, ".", PALETTE[0], "right label"),
            (wrong, "x", PALETTE[1], "wrong label"),
        ):
            look = {"color": color, "markersize": 3, "alpha": 0.5, "rasterized": True}
            ax.plot(sizes["full"][rows], sizes[name][rows], marker, label=label, **look)
        ax.plot([0, top], [0, top], color="0.3", linewidth=0.8)
        ax.set(title=name, xlim=(0, top), ylim=(0, top), xlabel="noise, full Σ (probability)")
    axes[0].set_ylabel("noise on this rung (probability)")
    legend_above(figure, 2, opaque=True, markerscale=2)
    return figure


@styled
def plot_ladder(record: Mapping[str, Any]) -> Figure:
    """Draw each rung's distance to the full optimum, the inequality of its noise, and its order's agreement.

    Args:
        record: of ``benchmarks/bench_ladder.py``.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 3.2))
    panels = (
        ("kl", "KL to the full optimum (nats)", RUNGS[:-1]),
        ("variation", "coefficient of variation", RUNGS),
        ("rank_with_full", "rank correlation with full Σ's", RUNGS[:-1]),
    )
    rates = record["rates"]
    for ax, (number, label, rungs) in zip(axes, panels, strict=True):
        for i, name in enumerate(rungs):
            found = np.array([values(record, rate, name, number) for rate in rates])
            at = 100 * np.array(rates) + 0.8 * (i - 1.5)
            spread = found.std(1, ddof=1)
            look = {"color": _COLORS[name], "marker": _MARKERS[name], "capsize": 2}
            ax.errorbar(at, found.mean(1), spread, label=name, **look)
        ax.set_title(label, fontsize=9)
        ax.set_xticks([100 * rate for rate in rates])
        ax.set_xlabel("wrong labels (%)")
    axes[0].set_yscale("log")
    axes[0].set_yticks([10, 30, 100, 300, 1000], ["10", "30", "100", "300", "1000"])
    axes[0].minorticks_off()
    legend_above(figure, 4)
    return figure


@styled
def plot_first_and_second_order(record: Mapping[str, Any]) -> Figure:
    """Draw how far each test accuracy is above VON's against the variation of the noise, a panel a rate of wrong labels.

    Args:
        record: of ``benchmarks/bench_ladder.py``.
    """
    rates = record["rates"]
    figure, axes = plt.subplots(1, len(rates), figsize=(WIDTH, 3.3))
    labels = {"full": "VON, full Σ", "diagonal": "VON, diagonal Σ"}
    labels |= {name: f"GD, {text}" for name, text in FIRST_ORDER.items()}
    for ax, rate in zip(axes, rates, strict=True):
        von = values(record, rate, "full", "accuracy")
        for name, label in labels.items():
            x = values(record, rate, name, "variation")
            y = 100 * (values(record, rate, name, "accuracy") - von)
            errors = {"xerr": x.std(ddof=1) / len(x) ** 0.5, "yerr": y.std(ddof=1) / len(y) ** 0.5}
            look = {"color": _COLORS[name], "marker": _MARKERS[name], "linestyle": "none"}
            ax.errorbar(x.mean(), y.mean(), **errors, **look, capsize=2, label=label)
        ax.set_title(_title(rate), fontsize=10)
        ax.set_xlabel("variation of the noise", fontsize=9)
        ax.margins(0.2)
    axes[0].set_ylabel("accuracy above VON's (points)")
    legend_above(figure, 2)
    return figure
