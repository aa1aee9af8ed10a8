"""The look of a figure, and the ranking by label noise."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from vlls.plots import plot_noise_order, styled


@styled
def plot_line():
    """Draw a line."""
    figure, ax = plt.subplots()
    ax.plot([0, 1], label=r"$\mathcal{L}$")
    ax.set_xlabel("iteration")
    ax.legend()
    return figure


def test_a_styled_figure_is_closed_and_says_what_it_shows():
    figure = plot_line()
    assert plt.get_fignums() == []
    data, metadata = figure._repr_mimebundle_()
    assert data["text/plain"] == "A line. Horizontal axis: iteration. Legend: L."
    assert metadata["image/png"]["alt"] == data["text/plain"]
    assert figure.get_facecolor() == (1, 1, 1, 1)


@pytest.mark.parametrize(("least", "told"), [(1e-4, False), (1e-7, True)])
def test_the_axis_says_that_small_noise_is_drawn_higher(least, told):
    noise, classes = np.array([0.1, least]), np.array([0, 1])
    figure = plot_noise_order(noise, 0.05, np.zeros((2, 4, 4)), classes, classes, shown=1)
    assert ("values below 1e-5 are drawn there" in figure.axes[0].get_xlabel()) == told


def order_of(number, shown=9, **changes):
    arrays = {"noise": np.logspace(-1, -3, number), "images": np.zeros((number, 4, 4))}
    arrays |= {name: np.arange(number) for name in ("labels", "predicted")}
    arrays = {"smoothing": 0.05, **arrays, **changes}
    return plot_noise_order(**arrays, shown=shown)


def test_of_few_examples_all_are_shown_at_both_ends():
    titles = [ax.get_title() for ax in order_of(2).axes[1:]]
    assert titles == ["0 → 0", "1 → 1"] * 2
    assert order_of(2, noise=torch.tensor([0.1, 0.01], dtype=torch.bfloat16)).axes
    colours = order_of(1, images=np.zeros((1, 4, 4, 3))).axes[1].images[0].get_array()
    assert colours.shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"number": 0}, r"shapes \(0,\), \(0, 4, 4\), .* at least one"),
        ({"labels": np.zeros(2)}, r"shapes \(3,\), \(3, 4, 4\), \(2,\), \(3,\); pass N of each"),
        ({"noise": np.ones((3, 1))}, r"shapes \(3, 1\), "),
        ({"images": np.zeros((3, 1, 4, 4))}, r"images have shape \(3, 1, 4, 4\); pass \(N, H, W\) grey values"),
        ({"noise": np.array([0.1, math.nan, 0.1])}, "noise holds values that are negative, NaN or infinite"),
        ({"smoothing": -0.1}, "smoothing holds values that are negative"),
        ({"shown": 1.5}, "shown=1.5 is not allowed"),
    ],
)
def test_what_cannot_be_drawn_is_told(changes, told):
    with pytest.raises(ValueError, match=told):
        order_of(**{"number": 3, **changes})
    assert plt.get_fignums() == []
