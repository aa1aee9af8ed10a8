"""Figures need the extra ``plots``; without it this folder is not collected."""

from importlib.util import find_spec

import pytest

collect_ignore_glob = [] if find_spec("seaborn") else ["test_*.py"]


@pytest.fixture(autouse=True)
def _close_figures():
    """Close the figures that an error in drawing leaves open."""
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
