"""Figures are cut for narrow screens: every panel is in one part, with its labels, and no part is too wide."""

import json
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

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
    """Return the box of a part's panels; the boxes of shared labels come before it."""
    return part[-1][0]


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
        wide = max(x + right - left for (left, _, right, _), x, _ in part)
        assert columns == 2 or wide <= NARROW  # a single panel may be wider


def test_a_column_brings_what_it_has_in_common_with_the_first():
    assert [len(part) for part in cut(1, 2, sharey=True)[0].parts()] == [1, 3]  # the label, its ticks, the panel
    assert [len(part) for part in cut(1, 2)[0].parts()] == [1, 2]  # the label and the panel
    figure, axes = cut(1, 2)
    axes[0, 1].set_ylabel("its own")
    assert [len(part) for part in figure.parts()] == [1, 1]


def test_ticks_of_the_vertical_axis_come_without_those_of_the_horizontal_one():
    figure, axes = cut(2, 2, sharey=True)
    for ax in axes[:, 0]:
        ax.set_xticks([0, 1], ["a wide label"] * 2)
    labels = [label for ax in axes[:, 0] for label in ax.get_xticklabels()]
    whole = [figure._box(label.get_window_extent()) for label in labels]
    _, *ticks, _ = (box for box, _, _ in figure.parts()[1])  # between the label and the panels
    assert len(ticks) == 2 and any(box[0] < ticks[0][2] for box in whole)
    for left, top, right, bottom in ticks:
        assert not any(a < right and c > left and b < bottom and d > top for a, b, c, d in whole)


def test_a_part_ends_below_its_own_panels_and_keeps_the_figure_s_label():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(7, 5))
        axes[1, 1].set_visible(False)
        figure.supylabel("a label of all")
        figure.draw_without_rendering()
    plt.close(figure)
    whole, half = Cut(figure).parts()
    high = [max(y + bottom - top for (_, top, _, bottom), _, y in part) for part in (whole, half)]
    assert high[1] < 0.6 * high[0]
    _, top, _, bottom = Cut(figure)._tight(figure._supylabel)
    assert half[0][0][1] <= top and half[0][0][3] >= bottom


def test_one_column_is_not_cut_but_from_its_legend_and_its_note():
    figure, axes = cut(3, 1)
    assert figure.parts() == []
    figure.figure.legend([axes[0, 0].plot([0, 1])[0]], ["a line"], loc="outside upper center")
    figure.figure.supxlabel("a note")
    entry, end, panels, note = Cut(figure.figure).parts()
    assert [end, note] == ["", "a note"] and len(entry) == len(panels) == 1


def test_a_bar_of_colours_stands_beside_each_panel_and_texts_are_texts():
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(7, 3))
        image = [ax.imshow(np.eye(3)) for ax in axes][-1]
        figure.colorbar(image, ax=axes)
        figure.supxlabel("a note")
        figure.draw_without_rendering()
    plt.close(figure)
    *panels, note = Cut(figure).parts()
    assert note == "a note" and len(panels) == 2 and own(panels[0]) == own(panels[1])


def test_the_picture_of_a_notebook_carries_its_parts():
    @styled
    def plot_pair():
        """Draw two panels."""
        return plt.subplots(1, 2, figsize=(7, 3))[0]

    bundle, about = plot_pair()._repr_mimebundle_()
    with Image.open(BytesIO(bundle["image/png"])) as picture:
        told = json.loads(picture.info["Parts"])
        assert abs(picture.width / 2 - told["width"]) <= 2
    assert len(told["parts"]) == 2 and about["image/png"]["alt"].startswith("Two panels")


def test_the_parts_are_of_the_picture_as_it_is_saved_with_a_legend_that_is_wider_than_the_figure():
    @styled
    def plot_wide_legend():
        """Draw lines with long names."""
        figure, ax = plt.subplots(figsize=(4, 3))
        for number in range(3):
            ax.plot([0, number], label=f"a name of many letters, number {number}")
        figure.legend(loc="outside upper center", ncols=3, fontsize=8)
        return figure

    figure = plot_wide_legend()
    for _ in range(2):  # the second result equals the first
        with Image.open(BytesIO(figure._repr_mimebundle_()[0]["image/png"])) as picture:
            told = json.loads(picture.info["Parts"])
            assert picture.width > 2 * 4 * 120 and len(told["parts"]) == 5
            assert (told["width"], told["height"]) == pytest.approx((picture.width / 2, picture.height / 2), abs=1)


@pytest.mark.parametrize("columns, halves", [(10, [5, 5]), (7, [4, 3]), (6, [3, 3])])
def test_parts_are_of_like_length(columns, halves):
    figure, axes = plt.subplots(2, columns, figsize=(7, 2))
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    figure.draw_without_rendering()
    plt.close(figure)
    middles = [sum(Cut(figure)._frame(ax)[::2]) / 2 for ax in axes[0]]
    ends = [own(part)[::2] for part in Cut(figure).parts()]
    assert [sum(left < middle < right for middle in middles) for left, right in ends] == halves
