"""The look of a figure, and the ranking by label noise."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

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
