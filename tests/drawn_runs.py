"""Made-up tables of runs, and the curves, lines, bars and texts of a figure read back from its axes."""

import math
import statistics

import pandas as pd

A, B = "symmetric 20 %", "pair flip 40 %"


def run(method, accuracy, *, value=math.nan, panel=A, seed=0, **fields):
    """Return one row of a table; metrics that are not given follow from the accuracy."""
    return {
        "experiment": "fig5",
        "protocol": "paper",
        "role": "main",
        "panel": panel,
        "rate": 0.2 if panel == A else 0.4,
        "method": method,
        "value": value,
        "seed": seed,
        "status": "finished",
        "test_accuracy": accuracy,
        "test_nll": 2 * (1 - accuracy),
        "test_ece": (1 - accuracy) / 4,
        "posterior_nll": 1 - accuracy if method == "ivon" else None,
        "posterior_ece": (1 - accuracy) / 8 if method == "ivon" else None,
        "memorised": 0.5 * (1 - accuracy),
        "recovered": 0.5 * accuracy,
        "posterior_std": math.nan,
        "reduced": "",
        **fields,
    }


def seeds(method, *accuracies, **fields):
    return [run(method, accuracy, seed=seed, **fields) for seed, accuracy in enumerate(accuracies)]


def sweep(panel=A, shift=0.0, ivon=(0.90, 0.92)):
    """Return two seeds of every method; the best LS has α = 0.3, the best SAM ρ = 0.05."""
    cells = [("sgd", math.nan, 0.80), ("ls", 0.3, 0.86), ("ls", 0.1, 0.84)]
    cells += [("sam", 0.05, 0.93), ("sam", 0.01, 0.82), ("sam", 0.5, 0.30)]
    rows = seeds("ivon", *(accuracy + shift for accuracy in ivon), panel=panel)
    for method, value, accuracy in cells:
        rows += seeds(method, accuracy + shift - 0.01, accuracy + shift + 0.01, value=value, panel=panel)
    return rows


def table(*rows):
    return pd.DataFrame([one for part in rows for one in (part if isinstance(part, list) else [part])])


def curve(ax, name):
    """Return the points of a line with error bars: x, y and the length of the bars, NaN if there is none."""
    for container in ax.containers:
        if container.get_label() == name:
            line, _, (bars,) = container.lines
            lengths = [(s[1, 1] - s[0, 1]) / 2 if len(s) else math.nan for s in bars.get_segments()]
            return list(line.get_xdata()), list(line.get_ydata()), lengths
    return None


def level(ax):
    """Return the heights of the horizontal lines."""
    return [
        line.get_ydata()[0] for line in ax.lines if list(line.get_xdata()) == [0, 1] and line.get_marker() == "None"
    ]


def bars(ax):
    """Return for each label the heights of its bars."""
    found = {}
    for container in ax.containers:
        if hasattr(container, "patches"):
            found[container.get_label()] = [patch.get_height() for patch in container.patches]
    return found


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(figure):
    return [text.get_text() for part in figure.legends for text in part.get_texts()]


def std(*values):
    return 100 * statistics.stdev(values)
