"""A posterior that is not learned and one that is: figures and sentences of Chapters 7 and 8, and their record."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from figures.examples import plot_regular_and_atypical
from figures.learned_variance import (
    COLORS,
    finding_in_words,
    noise_in_words,
    order_in_words,
    plot_estimator_range,
    plot_two_orders,
    tables_in_words,
    valid_up_to,
)

from vlls.noise import ExampleRanking

RECORD = json.loads((Path(__file__).parents[2] / "book" / "results" / "learned_noise.json").read_text())


def cell(setting, seed, *, tenth=0.5, control=0.99, noise=0.6, isotropic=0.6, doubt=0.6, kept=0.1):
    """Return the part of the benchmark's record of one seed that the sentences read."""
    auroc = {"noise (own)": noise, "noise (isotropic)": isotropic, "disagreement (own)": 0.95, "doubt": doubt}
    return {
        "setting": setting,
        "seed": seed,
        "noise_of_first_tenth": tenth,
        "isotropic": {"rank_correlation": control},
        "wrong_labels": {"auroc": auroc, "predicts_wrong_label": kept},
    }


def found(paper=(), learned=(), agreement=(0.8, 0.8, 0.8)):
    """Return a record of two seeds, with changes to each cell of a setting."""
    paper, learned = paper or ({}, {}), learned or ({}, {})
    cells = [cell("paper", i, **change) for i, change in enumerate(paper)]
    cells += [cell("learned", i, **change) for i, change in enumerate(learned)]
    pairs = {
        name: [{"rank_correlation": rho}] for name, rho in zip(("paper", "learned", "both"), agreement, strict=True)
    }
    return {"cells": cells, "agreement": pairs}


# ------------------------------------------------------------------ sentences
@pytest.mark.parametrize(
    ("both", "said"), [(0.8, "no more than another start does"), (0.6, "the order more than another start does")]
)
def test_another_posterior_is_compared_with_another_start(both, said):
    text = order_in_words(found(agreement=(0.82, 0.84, both)))
    assert said in text and f"of 0.82 at the paper's σ₀ and of 0.84 with learned Σ; one of each with {both:.2f}" in text


@pytest.mark.parametrize(("control", "said"), [(0.99, "hardly matter"), (0.8, "single weights matter")])
def test_the_control_tells_whether_single_variances_matter(control, said):
    assert said in order_in_words(found(learned=({"control": control}, {"control": control})))


@pytest.mark.parametrize(
    ("tenths", "said"),
    [
        ((0.7, 0.8), "is more concentrated in all seeds"),
        ((0.2, 0.3), "is less concentrated in all seeds"),
        ((0.3, 0.8), "is no more and no less concentrated, as far as these seeds tell"),
    ],
)
def test_concentration_is_told_only_if_all_seeds_agree(tenths, said):
    text = order_in_words(found(({"tenth": 0.5}, {"tenth": 0.6}), [{"tenth": t} for t in tenths]))
    assert said in text and "50 to 60 % of its square at the paper's σ₀" in text


@pytest.mark.parametrize(
    ("areas", "said"),
    [((0.8, 0.9), "finds them better in all"), ((0.5, 0.5), "worse in all"), ((0.5, 0.9), "is not settled")],
)
def test_which_noise_finds_wrong_labels_is_told_only_if_all_seeds_agree(areas, said):
    text = finding_in_words(
        found(({"noise": 0.6}, {"noise": 0.7}), [{"noise": a, "isotropic": a - 0.04, "doubt": a} for a in areas])
    )
    assert (
        said in text and "0.60 to 0.70" in text and "is -0.040 from that of learned" in text and "doubt +0.000" in text
    )
    assert text.startswith("At the paper's σ₀ the noise finds") and "predicts 10 % of them" in text


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((0.9, 5.9, 0.7), "are similar (rank correlation 0.90), and IVON's is stronger: 5.9 times"),
        ((0.9, 1.2, 0.47), "which is stronger is not settled by one run"),
        ((0.9, 2.0, 0.5), "which is stronger is not settled by one run"),
        ((0.4, 0.3, 0.2), "are not similar (rank correlation 0.40), and IVON's is weaker"),
    ],
)
def test_tables_of_labels_are_compared_by_pattern_and_strength(numbers, said):
    text = tables_in_words({"a": numbers, "b": (0.7, 3.0, 0.9)})
    assert said in text and text.startswith("With a the tables") and "With b the tables are similar" in text


def test_the_noise_is_compared_with_that_of_label_smoothing():
    noise = np.array([0.4, 0.2, 1e-3, 1e-5])
    columns = [np.zeros(4, dtype=int)] * 2
    tables = {
        name: ExampleRanking(np.arange(4), *columns, size, size, size)
        for name, size in (("a", noise), ("b", 0.1 * noise))
    }
    text = noise_in_words(tables, 0.095)
    assert "With a, half of the images get less than 1e-01, the highest 0.40; 50.0 % get more than the 0.095" in text
    assert "With b, half of the images get less than 1e-02, the highest 0.04; none gets more" in text


# ------------------------------------------------------------------ the committed record
@pytest.mark.parametrize("name", RECORD["data"])
def test_the_paper_start_is_not_learned_and_the_other_one_is(name):
    measured = RECORD["data"][name]
    cells = {setting: [c for c in measured["cells"] if c["setting"] == setting] for setting in ("paper", "learned")}
    assert len(cells["paper"]) == len(cells["learned"]) == len({c["seed"] for c in measured["cells"]}) >= 3
    for c in cells["paper"]:
        start, low, _, high = c["std"]
        assert start == pytest.approx((50_000 * 0.901) ** -0.5, rel=1e-3)
        assert c["learned_share"][2] < 0.1 and high < 1.03 * low
    for c in cells["learned"]:
        assert c["learned_share_total"] > 0.5 and c["std"][3] > 2 * c["std"][1]


@pytest.mark.parametrize("name", RECORD["data"])
def test_the_chapter_says_of_the_record_what_is_in_it(name):
    """The text beside the sentences: the order is the doubt's, and single variances hardly matter to it."""
    measured = RECORD["data"][name]
    text = order_in_words(measured) + finding_in_words(measured)
    assert "hardly matter" in text
    for c in measured["cells"]:
        auroc = c["wrong_labels"]["auroc"]
        assert abs(auroc["noise (own)"] - auroc["doubt"]) < 0.05
        assert auroc["disagreement (own)"] > auroc["noise (own)"]
        assert abs(c["misclassified"]["noise"] - c["misclassified"]["doubt"]) < 0.05
    assert {len(pairs) for pairs in measured["agreement"].values()} == {3, 6}


def test_a_record_with_other_numbers_gets_other_sentences():
    measured = copy.deepcopy(next(iter(RECORD["data"].values())))
    before = order_in_words(measured), finding_in_words(measured)
    for c in measured["cells"]:
        c["noise_of_first_tenth"] = 0.99 if c["setting"] == "learned" else 0.2
        c["wrong_labels"]["auroc"]["noise (own)"] = 0.99 if c["setting"] == "learned" else 0.2
    assert "more concentrated in all seeds" in order_in_words(measured) != before[0]
    assert "finds them better in all seeds" in finding_in_words(measured) != before[1]


# ------------------------------------------------------------------ figures
def ranking(num=30, seed=0):
    rng = np.random.default_rng(seed)
    noise = np.sort(10.0 ** rng.uniform(-7, 0, num))[::-1]
    label = rng.integers(0, 3, num)
    return ExampleRanking(rng.permutation(num), label, (label + (np.arange(num) == 0)) % 3, noise, noise, noise)


def test_both_orders_show_their_curves_and_the_images_at_their_ends():
    tables = {"a": ranking(seed=0), "b": ranking(seed=1)}
    images = torch.arange(30.0)[:, None, None].expand(30, 4, 4)
    figure = plot_two_orders(tables, ["a: 1 % learned", "b: 87 % learned"], 0.1, images, shown=4)
    order, *pictures = figure.axes
    assert len(pictures) == 16
    labels = [text.get_text() for text in order.get_legend().get_texts()]
    assert labels == ["a: 1 % learned", "b: 87 % learned", "label smoothing"]
    for line, table, color in zip(order.lines, tables.values(), COLORS, strict=False):
        np.testing.assert_array_equal(line.get_ydata(), table.noise.clip(1e-5))
        assert line.get_color() == color
    shown = [int(ax.images[0].get_array()[0, 0]) for ax in pictures]
    expected = [i for table in tables.values() for part in (table.index[:4], table.index[-4:]) for i in part]
    assert shown == expected
    assert pictures[0].xaxis.label.get_color() == COLORS[0] != pictures[1].xaxis.label.get_color()
    assert "below 1e-5" in order.get_xlabel()


def test_figure_1_has_a_bar_for_label_smoothing_and_for_each_posterior():
    noise = {"a": torch.rand(2, 5), "b": torch.rand(2, 5)}
    smoothing = torch.full((2, 5), 0.1)
    figure = plot_regular_and_atypical(torch.rand(2, 4, 4), smoothing, noise, ["x", "y"], ["p", "q"])
    for row, ax in enumerate(figure.axes[1::2]):
        heights = torch.tensor([[bar.get_height() for bar in bars] for bars in ax.containers]).float()
        torch.testing.assert_close(heights, torch.stack([smoothing[row], noise["a"][row], noise["b"][row]]))
    legend = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert [name.partition(":")[0] for name in legend] == ["label smoothing", "a", "b"]


def test_the_range_of_the_estimators_is_drawn_for_each_posterior():
    errors = {name: {"Eq. 20": [0.1, 0.4], "Monte Carlo's own": [0.05, 0.05]} for name in "ab"}
    figure = plot_estimator_range(errors, {"a": [0.5, 1.0], "b": [2.0, 4.0]}, {"a": 1.0, "b": 4.0})
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [10, 40])
    np.testing.assert_allclose(figure.axes[1].lines[0].get_xdata(), [2, 4])
    assert figure.axes[1].lines[-1].get_xdata()[0] == 4.0


@pytest.mark.parametrize(
    ("errors", "limit"), [([0.1, 0.1, 0.1], 4.0), ([0.02, 0.2, 0.05], 1.0), ([0.3, 0.01, 0.01], None)]
)
def test_an_estimator_holds_up_to_the_first_error_that_is_too_large(errors, limit):
    assert valid_up_to([1.0, 2.0, 4.0], errors) == limit
