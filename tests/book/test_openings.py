"""The picture at the beginning of each chapter: it exists, and it agrees with its caption."""

import re

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from chapters import chapters
from figures import openings
from figures.by_protocol import gaps_by_panel, runs_by_protocol
from figures.ladder import climb, diagonal, isotropic, laplace
from figures.ledger import rows_of
from matplotlib.text import Text

import vlls


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.name)
def test_every_chapter_opens_with_its_picture_and_a_caption(path):
    _, picture, caption = nbformat.read(path, as_version=4).cells[:3]
    (name,) = re.fullmatch(r"from figures\.openings import (plot_\w+)\n\n\1\(\)", picture.source).groups()
    assert name in openings.__all__ and picture.metadata["tags"] == ["hide-input"]
    text = re.fullmatch(r"\(fig-opening-[\w-]+\)=\n\*([^*]+)\*", caption.source)[1]
    assert len(text.split()) < 80


def test_no_two_chapters_open_alike():
    drawn = [nbformat.read(path, as_version=4).cells[1].source for path in chapters()]
    assert len(set(drawn)) == len(drawn) == sum(name.startswith("plot_") for name in openings.__all__)


@pytest.mark.parametrize("name", [name for name in openings.__all__ if name.startswith("plot_")])
def test_on_a_phone_no_letter_of_an_opening_is_lower_than_nine_pixels(name):
    figure = getattr(openings, name)()
    figure.draw_without_rendering()
    inches = figure.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"]).width
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    assert min(sizes) / 72 * 358 / inches >= 9  # a phone's line has 358 pixels


def test_labels_sum_to_one_and_only_the_variational_one_depends_on_the_image():
    heights = []
    for ax in openings.plot_one_label().axes:
        bars = np.array([bar.get_height() for bar in ax.patches]).reshape(4, 10) / 0.7
        np.testing.assert_allclose(bars.sum(1), 1.0, atol=1e-12)
        heights.append(bars)
    clear, doubtful = heights
    np.testing.assert_allclose(clear[:3], doubtful[:3], atol=1e-12)
    assert abs(clear[3] - clear[0]).sum() < 0.1 < abs(doubtful[3] - doubtful[0]).sum()
    assert doubtful[3].max() > 1  # as the caption says


def test_the_clear_digit_is_the_one_of_its_class_of_which_the_network_is_most_certain():
    run = openings.digits_run()
    noise = (run["mean"] - run["draws"].mean(0)).abs().sum(1)
    same = [k for k in range(len(noise)) if run["right"][k] == run["right"][noise.argmax()]]
    clear = max(same, key=lambda k: run["mean"][k, run["right"][k]])
    assert run["mean"][clear].argmax() == run["right"][clear]
    (strip,) = openings.plot_one_label().axes[0].child_axes
    np.testing.assert_array_equal(strip.images[0].get_array()[1:-1, 1:-1], run["images"][clear])


def test_the_loss_of_the_noisy_label_touches_the_averaged_one():
    plain, averaged, noisy, *_ = openings.plot_noisy_label(at=2.0).axes[0].lines
    f = averaged.get_xdata()
    gap = np.asarray(averaged.get_ydata()) - np.asarray(noisy.get_ydata())
    near = np.abs(f - 2.0).argmin()
    assert abs(gap[near]) < 1e-3 and abs(np.gradient(gap, f)[near]) < 2e-2
    assert (np.asarray(averaged.get_ydata()) > np.asarray(plain.get_ydata())).all()  # the loss is convex


def test_only_straight_means_have_no_noise():
    lines = openings.plot_bent_means().axes[0].lines[:6]
    classes, numbers, counts = (
        np.subtract(averaged.get_ydata(), at_mean.get_ydata())
        for at_mean, averaged in zip(lines[::2], lines[1::2], strict=True)
    )
    assert abs(numbers).max() < 1e-12 < 0.05 < abs(classes).max() and (counts > 0).all()


def quadratic(ellipse, mean, covariance):
    """Return the squared distance from the mean, in standard deviations, of points on an ellipse."""
    points = ellipse.get_patch_transform().transform(ellipse.get_path().vertices) - np.asarray(mean)
    return np.einsum("ni,ij,nj->n", points, np.linalg.inv(covariance), points)


def test_von_is_drawn_at_two_standard_deviations_and_newton_at_the_minimum():
    ax = openings.plot_newton_and_von().axes[0]
    glm = openings.lesson()
    q = vlls.fit(glm, vlls.von_step).final
    on_curve = quadratic(ax.patches[0], q.mean, q.covariance)[[0, 3, 6, 9, 12]]  # the others are control points
    np.testing.assert_allclose(on_curve, 4.0)
    (end,) = [line for line in ax.lines if line.get_label().startswith("Newton")]
    theta = torch.tensor([end.get_xdata()[0], end.get_ydata()[0]])
    assert glm.gradient(theta).abs().max() < 1e-6


def test_each_rung_has_its_ellipse_and_the_leaning_one_has_more_room():
    ax = openings.plot_four_ellipses().axes[0]
    glm, areas = openings.lesson(), []
    for ellipse, restrict in zip(ax.patches, (isotropic, diagonal, lambda hessian: hessian), strict=True):
        q = climb(glm, restrict, laplace(glm))
        np.testing.assert_allclose(quadratic(ellipse, q.mean, q.covariance)[[0, 6, 12]], 4.0)
        areas.append(ellipse.width * ellipse.height)
    assert areas[2] > max(areas[:2])


def test_the_slope_of_the_dots_is_the_hessian_within_its_error():
    ax = openings.plot_slope_is_curvature().axes[0]
    e, gradient = (np.asarray(values) for values in ax.lines[0].get_data())
    estimate, exact = (float(text.get_text().rsplit(" ", 1)[1]) for text in ax.get_legend().get_texts())
    std = float((np.ptp(ax.lines[1].get_xdata())) / 6.4)
    draws = e * gradient / std**2
    assert abs(draws.mean() - estimate) <= 0.51  # rounded
    assert abs(estimate - exact) < 3 * draws.std(ddof=1) / len(draws) ** 0.5 + 1


def test_doubt_has_more_noise_than_certainty():
    texts = [text.get_text() for text in openings.plot_bent_noise().axes[0].get_legend().get_texts()]
    doubt, certain = (float(text.rsplit("±", 1)[1]) for text in texts[:2])
    assert doubt > 2 * certain > 0


def test_ivon_has_the_pattern_of_ols_and_ls_has_none():
    ls, ivon = openings.plot_pattern_of_labels().axes[0].lines
    rank = [np.argsort(np.argsort(values)) for values in ivon.get_data()]
    assert np.corrcoef(rank)[0, 1] > 0.7
    np.testing.assert_allclose(ls.get_ydata(), ls.get_ydata()[0], rtol=1e-5)


def test_captions_of_results_say_what_the_tables_say():
    """If a table changes, so must the caption of its picture."""
    fig5, human = (runs_by_protocol(rows_of(name)) for name in ("fig5", "cifar_n"))
    gains = {}
    for size, panel, rows in (
        ("short", "CIFAR-10, symmetric 40 %", fig5),
        ("mnist", "MNIST, symmetric 40 %", fig5),
        ("short", "CIFAR-10N, worst", human),
    ):
        found = {m: gaps_by_panel(rows[size], m, "sgd")[panel].points for m in ("ivon", "ls", "sam")}
        gains[panel] = found
    cifar, mnist, people = gains.values()
    assert max(cifar, key=cifar.get) == "ivon" and min(mnist, key=mnist.get) == "ivon"
    assert people["ivon"] > cifar["ivon"]
    ax = openings.plot_gain_on_two_sets().axes[0]
    bars = [bar.get_width() for bar in ax.patches]
    assert bars == [*(cifar[m] for m in ("ls", "sam", "ivon")), *(mnist[m] for m in ("ls", "sam", "ivon"))]


def test_ivon_without_its_variances_stays_above_sgd():
    lines = openings.plot_without_its_variance().axes[0].lines
    means = [np.mean(line.get_xdata()) for line in lines]
    spread = [np.ptp(line.get_xdata()) for line in lines]
    assert min(means[:3]) > means[3] and max(means[:3]) - min(means[:3]) < min(spread[:3])


def test_lost_classes_are_those_from_the_threshold_on():
    bars = openings.plot_lost_classes(0.5).axes[0].patches
    lost = [right.get_height() <= wrong.get_height() + 1e-9 for right, wrong in zip(bars[:10], bars[10:], strict=True)]
    assert lost == [False] * 7 + [True] * 3
    assert [bar.get_facecolor() == bars[7].get_facecolor() for bar in bars[:10]] == lost


def test_the_price_is_that_of_the_record():
    memory, time = openings.plot_price().axes
    sgd, adamw, _, ivon = (round(bar.get_width() / 4) for bar in memory.patches)
    assert (sgd, adamw, ivon) == (1, 2, 3)  # arrays of four bytes
    assert 1 < time.patches[3].get_width() < 2 and time.patches[1].get_width() == 1
