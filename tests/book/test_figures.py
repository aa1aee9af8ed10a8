"""The figures of the book's chapters: their examples run, chapters draw each, and they show their data."""

import doctest
import importlib
import math
import pkgutil
import re

import figures
import nbformat
import numpy as np
import pytest
import torch
from chapters import chapters
from figures import data_dependent, fixed_variance, label_errors, label_smoothing
from pandas import DataFrame
from smoothing_references import STRATEGIES, K, batch

MODULES = [module.name for module in pkgutil.walk_packages(figures.__path__, "figures.")]


@pytest.mark.parametrize("module", [*MODULES, "goals", "read_records"])
def test_examples_run(module):
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(importlib.import_module(module), optionflags=options).failed == 0


def test_a_chapter_draws_each_figure():
    drawn = set()
    for chapter in chapters():
        for cell in nbformat.read(chapter, as_version=4).cells:
            if cell.cell_type == "code":
                drawn |= set(re.findall(r"\b(?:plot|explore)_\w+(?=\()", cell.source))
    names = {name for module in MODULES for name in importlib.import_module(module).__all__}
    assert {name for name in names if name.startswith(("plot_", "explore_"))} <= drawn


# ------------------------------------------------------------------ Chapter 1
def test_strategy_panels_show_the_noise_of_every_example():
    logits, labels = batch(40)
    confidence = logits.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    wrong = logits.argmax(dim=1) != labels
    noise = {name: make().label_noise(logits, labels) for name, make in STRATEGIES.items()}
    figure = label_smoothing.plot_smoothing_strategies(
        noise, confidence, wrong, confidence_name="confidence in the label"
    )
    assert [ax.get_title() for ax in figure.axes] == list(STRATEGIES)
    assert figure.get_facecolor() == (1, 1, 1, 1) and figure.axes[0].get_facecolor() == (1, 1, 1, 1)
    assert figure.get_supylabel().endswith("(probability)")
    assert figure.get_supxlabel() == "confidence in the label (probability)"
    for ax, epsilon in zip(figure.axes, noise.values(), strict=True):
        for collection, rows in zip(ax.collections, (~wrong, wrong), strict=True):
            shown = torch.as_tensor(collection.get_offsets().data)
            expected = torch.stack([confidence[rows], epsilon[rows].abs().sum(dim=1)], dim=1)
            torch.testing.assert_close(shown, expected, rtol=1e-12, atol=1e-12)
            assert ax.get_ylim()[1] > epsilon.abs().sum(dim=1).max()
    with pytest.raises(ValueError, match=r"'highlight' has 3 rows for 40 confidences"):
        label_smoothing.plot_smoothing_strategies(noise, confidence, wrong[:3])
    with pytest.raises(ValueError, match=r"noise_by_name is empty"):
        label_smoothing.plot_smoothing_strategies({}, confidence)


def test_soft_label_heat_map_shows_the_matrix_on_a_log_scale():
    soft_labels = STRATEGIES["ols"]().soft_labels
    figure = label_smoothing.plot_soft_labels({"first": torch.eye(K), "later": soft_labels}, list("abcde"))
    first, later = (ax.images[0] for ax in figure.axes[:2])
    np.testing.assert_allclose(later.get_array(), soft_labels.clamp(min=1e-3), rtol=1e-12)
    assert first.get_array().min() == 1e-3  # zeros are drawn at the end of the scale, not left blank
    assert later.norm.vmin == 1e-3 and later.norm.vmax == 1.0 and type(later.norm).__name__ == "LogNorm"
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == list("abcde")
    assert figure.axes[-1].get_ylabel().endswith("(probability)")
    with pytest.raises(ValueError, match=r"2 class names for 5 classes"):
        label_smoothing.plot_soft_labels(soft_labels, ["a", "b"])
    with pytest.raises(ValueError, match=r"shape \(2, 5\); pass a square matrix"):
        label_smoothing.plot_soft_labels(soft_labels[:2])


def test_logit_gap_figure_shows_every_rate_and_its_limit():
    gaps = {0.0: torch.linspace(0, 9, 40), 0.1: torch.linspace(0, 4, 40)}
    (ax,) = label_smoothing.plot_logit_gap(gaps, {0.0: math.inf, 0.1: 4.5}).axes
    plain, smoothed, limit = ax.lines  # an infinite limit has no line
    np.testing.assert_allclose(plain.get_ydata(), gaps[0.0])
    np.testing.assert_allclose(smoothed.get_ydata(), gaps[0.1])
    assert set(limit.get_ydata()) == {4.5} and limit.get_linestyle() == "--"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [r"$\alpha = 0$", r"$\alpha = 0.1$"]


def test_accuracy_figure_joins_the_runs_of_a_seed():
    accuracy = {"plain": torch.tensor([80.0, 90.0]), "smoothed": torch.tensor([84.0, 91.0])}
    (ax,) = label_smoothing.plot_accuracies(accuracy).axes
    assert [list(line.get_xdata()) for line in ax.lines] == [[80, 84], [90, 91]]
    assert [segment[0, 0] for segment in ax.collections[0].get_segments()] == [85, 87.5]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["plain", "smoothed"]
    assert ax.lines[0].get_ydata()[0] > ax.lines[0].get_ydata()[1]  # the first strategy is on top


# ------------------------------------------------------------------ Chapters 10 to 12
def test_accuracy_by_class_shades_the_lost_classes():
    rates = {"a": [0.55, 0.95], "b": [0.1, 0.2]}
    figure = data_dependent.plot_accuracy_by_class(
        rates, {title: {"ivon": [0.9, 0.1], "sgd": [0.5, 0.2]} for title in rates}
    )
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    line = {line.get_label(): line for line in figure.axes[0].lines}["SGD"]
    assert list(line.get_xdata()) == pytest.approx([55, 95])
    assert list(line.get_ydata()) == pytest.approx([50, 20])
    assert figure.axes[0].patches[0].get_x() == pytest.approx(50)  # half for two classes


@pytest.mark.parametrize("accuracies", [{}, {"a": {}}, {"a": {"ivon": [0.5]}}])
def test_accuracy_by_class_needs_every_class(accuracies):
    with pytest.raises(ValueError, match="one accuracy for each class"):
        data_dependent.plot_accuracy_by_class({"a": [0.1, 0.2]}, accuracies)


def test_std_in_training_is_points_an_arrow_and_a_line():
    names = ["method", "start_std", "end_std", "test_accuracy", "memorised"]
    rows = [("sgd", None, None, 0.8, 0.9), ("ivon_fixed", 0.2, 0.2, 0.1, 0.1), ("ivon_fixed", 0.02, 0.02, 0.9, 0.3)]
    rows += [("ivon", 0.05, 0.1, 0.95, 0.05)]
    figure = fixed_variance.plot_std_in_training(DataFrame(rows, columns=names))
    accuracy, memorised = figure.axes
    assert accuracy.lines[0].get_xdata().tolist() == [0.02, 0.2]
    assert accuracy.lines[0].get_ydata().tolist() == pytest.approx([90, 10])
    assert memorised.lines[1].get_xdata().tolist() == [0.05, 0.1]
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "SGD (σ = 0)"
    with pytest.raises(ValueError, match="lacks the columns memorised"):
        fixed_variance.plot_std_in_training(DataFrame(rows, columns=names).drop(columns="memorised"))


def test_class_images_need_a_title_each():
    with pytest.raises(ValueError, match="one title for each"):
        label_errors.plot_class_images([np.zeros((2, 2))], ())


def test_rows_of_a_confusion_matrix_are_shares():
    with pytest.raises(ValueError, match="rows that sum to one"):
        label_errors.plot_confusion({"a": np.eye(3)}, ("x", "y"))
