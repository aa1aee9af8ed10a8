"""Chapters 10 and 12: the labels that the images of each class are given, and tables and sentences on human errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from vlls.experiments._choice import by_candidate, finished
from vlls.plots._style import WIDTH, styled, width_of

__all__ = [
    "PUBLISHED",
    "beside_published",
    "calibration",
    "calibration_in_words",
    "errors_in_words",
    "plot_class_images",
    "plot_confusion",
]

_WRONG, _DIAGONAL = "Reds", "0.9"
_WEI = "Wei et al. (2022)"
#: Published accuracies for the labels "worst" of CIFAR-10N, ResNet-34, at the best epoch (%), and their sources.
PUBLISHED: Mapping[str, tuple[float, str]] = {
    "cross-entropy": (77.69, _WEI),
    "GCE": (80.66, _WEI),
    "positive LS": (82.76, _WEI),
    "negative LS": (82.99, _WEI),
    "ELR": (83.58, _WEI),
    "SGD, averaged weights": (86.71, "Morales-Brotons et al. (2024)"),
    "DivideMix": (92.56, _WEI),
    "PES (semi)": (92.68, _WEI),
}


@styled
def plot_class_images(
    images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 7
) -> Figure:
    """Draw images in rows, each under its title.

    Args:
        images: arrays of shape (H, W, 3) or (H, W), uint8 or in [0, 1].
        titles: one for each image.
        columns: images in a row.

    Raises:
        ValueError: if there is not one title for each image.

    Example:
        >>> import numpy as np
        >>> figure = plot_class_images([np.zeros((4, 4, 3))] * 2, ("coat", "hat"))
        >>> [ax.get_title() for ax in figure.axes if ax.get_title()]
        ['coat', 'hat']
    """
    if len(images) != len(titles):
        raise ValueError(
            f"there are {len(images)} images and {len(titles)} titles; pass one title for each image"
        )
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, 1.3 * rows), squeeze=False)
    photographs = any(np.ndim(image) == 3 for image in images)
    if photographs:  # on a dark page they keep their colours, and its ground is theirs
        figure.set_facecolor("none")
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(image, cmap="gray_r")
        ax.set_title(title, fontsize=9, color="0.46" if photographs else "black")
    return figure


@styled
def plot_confusion(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    r"""Draw which label an image of each class is given, a heat map for each matrix.

    The colour shows wrong labels only, on one scale for all matrices; the diagonal is grey. Entries are in per cent;
    those that round to zero are left out.

    Args:
        matrices: for each panel's title, the shares of the given labels by correct class, fractions of shape (K, K);
            rows are correct classes and sum to one.
        classes: the K class names.

    Raises:
        ValueError: if a matrix is not of shape (K, K), or its rows do not sum to one.

    Example:
        >>> import numpy as np
        >>> figure = plot_confusion({"a": np.array([[0.9, 0.1], [0.2, 0.8]])}, ("cat", "dog"))
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['90', '10', '20', '80']
    """
    number = len(classes)
    for title, matrix in matrices.items():
        if matrix.shape != (number, number) or not np.allclose(matrix.sum(1), 1):
            raise ValueError(
                f"matrix {title!r} of shape {matrix.shape} must have shape ({number}, {number}) and rows that sum to "
                "one; pass the shares of the given labels of each correct class"
            )
    width = width_of(len(matrices))
    size = (width, width / len(matrices) + 0.9)
    figure, axes = plt.subplots(1, len(matrices), figsize=size, sharey=True, squeeze=False)
    largest = max(float((matrix * (1 - np.eye(number))).max()) for matrix in matrices.values())
    for ax, (title, matrix) in zip(axes[0], matrices.items(), strict=True):
        fontsize = 9 if len(matrices) == 1 else 7.5  # a phone shows one panel smaller than two
        _heat_map(ax, 100 * matrix, classes, max(100 * largest, 1e-9), fontsize)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("given label")
    axes[0, 0].set_ylabel("correct class")
    return figure


def _heat_map(
    ax: Axes, matrix: np.ndarray, classes: Sequence[str], largest: float, fontsize: float
) -> None:
    """Draw one matrix of per cents."""
    number = len(classes)
    colours = plt.get_cmap(_WRONG).with_extremes(bad=_DIAGONAL)
    ax.imshow(
        np.ma.masked_where(np.eye(number, dtype=bool), matrix), cmap=colours, vmin=0, vmax=largest
    )
    for (i, j), value in np.ndenumerate(matrix):
        if round(value):
            dark = i != j and value > 0.6 * largest
            ax.text(
                j,
                i,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=fontsize,
                color="white" if dark else "black",
            )
    ax.set_xticks(range(number), classes, rotation=90, fontsize=fontsize + 1)
    ax.set_yticks(range(number), classes, fontsize=fontsize + 1)
    ax.tick_params(length=0)
    ax.grid(visible=False)


# ---------------------------------------------------------------------- in words
def errors_in_words(shares: np.ndarray, classes: Sequence[str], people: bool) -> str:
    """Say how the wrong labels at hand differ from symmetric errors, and whether people made them.

    Args:
        shares: the shares of the given labels by correct class, fractions of shape (K, K).
        classes: the K class names.
        people: whether people gave the labels; if not, they are symmetric errors that were drawn.

    Example:
        >>> import numpy as np
        >>> errors_in_words(np.array([[0.6, 0.4], [0.4, 0.6]]), ("a", "b"), people=False)[:22]
        'These errors are drawn'
    """
    wrong = shares * (1 - np.eye(len(classes)))
    rates = wrong.sum(1)
    spread = f"from {100 * rates.min():.0f} to {100 * rates.max():.0f} %"
    top = 100 * wrong.max(1).sum() / rates.sum()
    even = 100 / (len(classes) - 1)
    told = f"{top:.0f} % of the errors name the most frequent wrong label of their class"
    if not people:
        return (
            f"These errors are drawn, all at one rate, and spread evenly: the rates of the classes go {spread}, and "
            f"{told}, by chance more than {even:.0f} %. With the labels of CIFAR-10N this page shows errors of people."
        )
    pairs = [("cat", "dog"), ("automobile", "truck")]
    named = [
        f"{100 * wrong[classes.index(a), classes.index(b)] / rates[classes.index(a)]:.0f} % of the wrong labels of {a} name {b}"
        for a, b in pairs
    ]
    return (
        f"Each class has its own rate, {spread}, and its own favourite wrong label: {told}, where {even:.0f} % would do so if "
        f"they were symmetric. The favourites are look-alikes: {', '.join(named)}. So the errors of people lie between "
        "symmetric errors and pair flips."
    )


def calibration(runs: DataFrame) -> DataFrame:
    """Return the calibration of every candidate in one panel, at the mean of the weights and averaged over samples.

    Args:
        runs: finished runs of one panel and protocol, of :func:`~vlls.experiments.load_table`.

    Returns:
        A row for each candidate, the best calibrated first, with expected calibration error and accuracy in per cent, and
        negative log-likelihood in nats, means over seeds; NaN if there are no samples.
    """
    names = {"test_ece": "ECE (%)", "test_nll": "NLL", "test_accuracy": "accuracy (%)"}
    names |= {
        f"posterior_{m}": f"{names[f'test_{m}']}, averaged" for m in ("ece", "nll", "accuracy")
    }
    rows = {
        label: [of_one[name].astype(float).mean() for name in names]
        for label, of_one in by_candidate(finished(runs)).items()
    }
    table = DataFrame.from_dict(rows, orient="index", columns=list(names.values()))
    table.loc[:, table.columns.str.contains("%")] *= 100
    return table.sort_values("ECE (%)")


def calibration_in_words(table: DataFrame) -> str:
    """Say which candidate of :func:`calibration` is best calibrated, and the effect of averaging over the posterior."""
    errors = table["ECE (%)"]
    others = ", ".join(f"{name} {error:.0f} %" for name, error in errors.iloc[1:].items())
    told = (
        f"{errors.index[0]} is the best calibrated, with an expected calibration error of {errors.iloc[0]:.0f} % at the "
        f"mean of its weights. The others have: {others}."
    )
    if "IVON" not in table.index:
        return told
    ivon = table.loc["IVON"]
    more = ivon["ECE (%), averaged"] - ivon["ECE (%)"]
    if more != more:
        return told
    change = ivon["accuracy (%), averaged"] - ivon["accuracy (%)"]
    averaged = f"{ivon['ECE (%), averaged']:.0f} %, and accuracy {'falls' if change < 0 else 'rises'} by {abs(change):.1f} points"
    verb = "makes it worse" if more > 0 else "makes it better"
    return f"{told} Averaging predictions over IVON's posterior {verb}: {averaged}."


def beside_published(runs: DataFrame) -> DataFrame:
    """Return our accuracies on the labels "worst" of CIFAR-10N among those of :data:`PUBLISHED`, in order.

    Args:
        runs: finished runs of this panel at one protocol, with ``best_test_accuracy`` where it was measured.
    """
    rows = [(name, np.nan, best, "ResNet-34", source) for name, (best, source) in PUBLISHED.items()]
    protocol = runs["protocol"].iloc[0] if len(runs) else ""
    for label, of_one in by_candidate(finished(runs)).items():
        last, best = (
            100 * of_one[name].astype(float).mean()
            for name in ("test_accuracy", "best_test_accuracy")
        )
        rows.append((label, last, best, of_one["model"].iloc[0], f"ours, {protocol}"))
    columns = ["method", "last epoch (%)", "best epoch (%)", "network", "by"]
    return DataFrame(rows, columns=columns).sort_values("best epoch (%)", ignore_index=True)
