"""How a figure is cut for narrow screens: every panel is in one part, with its labels, and no part is too wide."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from vlls.plots import styled
from vlls.plots._parts import NARROW, Cut
from vlls.plots._style import STYLE


def cut(rows, columns, **look):
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(7, 2 * rows + 1), squeeze=False, **look)
        axes[0, 0].set_ylabel("a label")
        figure.draw_without_rendering()
    plt.close(figure)
    return Cut(figure), axes


def own(part):
    """The box of a part that holds its panels: labels that it shares stand before it."""
    return part[-1]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("columns", [2, 3, 6])
def test_every_panel_is_whole_in_one_part_that_is_narrow(columns, shared):
    figure, axes = cut(2, columns, sharey=shared)
    boxes = [own(part) for part in figure.parts()]
    for ax in axes.flat:
        left, top, right, bottom = figure._frame(ax)
        inside = [a <= left and b <= top and c >= right and d >= bottom for a, b, c, d in boxes]
        assert inside.count(True) == 1
    for part in figure.parts():
        assert columns == 2 or sum(right - left for left, _, right, _ in part) <= NARROW  # a panel may be wider


def test_a_column_without_labels_brings_those_of_the_first():
    assert [len(part) for part in cut(1, 2, sharey=True)[0].parts()] == [1, 2]
    assert [len(part) for part in cut(1, 2)[0].parts()] == [1, 1]


def test_one_column_is_not_cut():
    assert cut(3, 1)[0].parts() == []


def test_a_bar_of_colours_stands_beside_each_panel_and_texts_are_texts():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(7, 3))
        image = [ax.imshow(np.eye(3)) for ax in axes][-1]
        figure.colorbar(image, ax=axes)
        figure.supxlabel("a note")
        figure.draw_without_rendering()
    plt.close(figure)
    *panels, note = Cut(figure).parts()
    assert note == "a note" and len(panels) == 2 and panels[0][-1] == panels[1][-1]


def test_the_picture_of_a_notebook_carries_its_parts():
    from io import BytesIO

    from PIL import Image

    @styled
    def plot_pair():
        """Draw two panels."""
        return plt.subplots(1, 2, figsize=(7, 3))[0]

    bundle, about = plot_pair()._repr_mimebundle_()
    with Image.open(BytesIO(bundle["image/png"])) as picture:
        told = json.loads(picture.info["Parts"])
        assert abs(picture.width / 2 - told["width"]) <= 2
    assert len(told["parts"]) == 2 and about["image/png"]["alt"].startswith("Two panels")


@pytest.mark.parametrize("columns, halves", [(10, [5, 5]), (7, [4, 3]), (6, [3, 3])])
def test_parts_are_of_like_length(columns, halves):
    figure, axes = plt.subplots(2, columns, figsize=(7, 2))
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    figure.draw_without_rendering()
    plt.close(figure)
    middles = [sum(Cut(figure)._frame(ax)[::2]) / 2 for ax in axes[0]]
    ends = [(part[-1][0], part[-1][2]) for part in Cut(figure).parts()]
    assert [sum(left < middle < right for middle in middles) for left, right in ends] == halves
