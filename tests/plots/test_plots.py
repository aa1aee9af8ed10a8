"""The look of a figure, and the matrix of given against correct labels."""

import numpy as np
import pytest

pytest.importorskip("seaborn")
import matplotlib.pyplot as plt

from vlls.plots import plot_confusion, styled


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


def test_rows_of_a_confusion_matrix_are_shares():
    with pytest.raises(ValueError, match="rows that sum to one"):
        plot_confusion({"a": np.eye(3)}, ("x", "y"))
