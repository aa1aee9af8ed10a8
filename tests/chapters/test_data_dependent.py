"""Errors that depend on the class: Eqs. 21-22, and their effect on a fit to the given labels (Chapter 11)."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from vlls.data.corruption import corrupt, transition_matrix
from vlls.smoothing import LabelSmoothingLoss

SETTINGS = [(10, 0.1, 0.05), (10, 0.4, 0.05), (10, 0.5, 0.05), (3, 0.0, 0.3), (7, 0.3, 0.1), (10, 0.6, 0.0)]


def matrix_of(k, base, step):
    return transition_matrix("class_dependent", k, base, step)


def exact_rates(k, base, step):
    """Return the rates of Eq. 21 as fractions, so that ties are exact."""
    base, step = (Fraction(str(value)) for value in (base, step))
    return [base + step * i for i in range(1, k + 1)]


@pytest.mark.guards("prop-class-errors")
@pytest.mark.parametrize(("k", "base", "step"), SETTINGS)
def test_rows_sum_to_one_and_columns_only_where_the_rates_are_equal(k, base, step):
    matrix, rates = matrix_of(k, base, step), np.array(exact_rates(k, base, step), float)
    assert matrix.sum(1) == pytest.approx(np.ones(k), abs=1e-14)
    assert matrix.sum(0) == pytest.approx(1 + k * (rates.mean() - rates) / (k - 1), abs=1e-14)
    assert (np.abs(matrix.sum(0) - 1).max() < 1e-14) == (step == 0)


@pytest.mark.guards("prop-class-errors")
@pytest.mark.parametrize(("k", "base", "step"), SETTINGS)
def test_the_optimum_weighs_each_class_by_its_signal(k, base, step):
    matrix = torch.tensor(matrix_of(k, base, step))
    signal = torch.tensor([float(1 - Fraction(k, k - 1) * w) for w in exact_rates(k, base, step)], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(2 * torch.randn(3000, k, generator=generator, dtype=torch.float64), 1)
    given = p @ matrix
    weighed = p * signal
    rest = given - weighed
    assert float((rest - rest[:, :1]).abs().max()) < 1e-13
    top = weighed.topk(2, dim=1).values
    sure = top[:, 0] - top[:, 1] > 1e-6
    assert sure.float().mean() > 0.9
    assert given.argmax(1)[sure].equal(weighed.argmax(1)[sure])
    moved = (given.argmax(1) != p.argmax(1)).double().mean()
    assert (moved > 0.02) == (step > 0)  # symmetric errors move none
    logits = given.log().requires_grad_()
    LabelSmoothingLoss(0.0, reduction="sum")(logits, given).backward()
    assert float(logits.grad.abs().max()) < 1e-14


@pytest.mark.guards("prop-class-errors")
@pytest.mark.parametrize(("k", "base", "step"), SETTINGS)
def test_a_class_is_lost_exactly_from_the_threshold_on(k, base, step):
    matrix = matrix_of(k, base, step)
    for i, rate in enumerate(exact_rates(k, base, step)):
        others = np.delete(matrix[i], i)
        if rate < Fraction(k - 1, k):
            assert (matrix[i, i] > others + 1e-9).all()
        elif rate == Fraction(k - 1, k):
            assert matrix[i] == pytest.approx(np.full(k, 1 / k), abs=1e-15)
        else:
            assert (matrix[i, i] < others - 1e-9).all()
    kept = sum(rate < Fraction(k - 1, k) for rate in exact_rates(k, base, step))
    if step:
        base, step = Fraction(str(base)), Fraction(str(step))
        formula = -((base - Fraction(k - 1, k)) // step) - 1  # the ceiling, less one
        assert kept == min(k, max(0, formula))


@pytest.mark.guards("prop-class-errors")
def test_the_papers_setting_loses_one_class_at_0_4_and_three_at_0_5():
    kept = {
        base: sum(rate < Fraction(9, 10) for rate in exact_rates(10, base, 0.05)) for base in (0.1, 0.2, 0.3, 0.4, 0.5)
    }
    assert kept == {0.1: 10, 0.2: 10, 0.3: 10, 0.4: 9, 0.5: 7}
    assert matrix_of(10, 0.5, 0.05)[9, 9] == 0  # class 10 never has its own label
    assert matrix_of(10, 0.4, 0.05).diagonal().mean() == pytest.approx(0.325)
    assert matrix_of(10, 0.5, 0.05).diagonal().mean() == pytest.approx(0.225)


@pytest.mark.guards("prop-class-errors")
def test_drawn_labels_keep_to_the_threshold_and_to_the_share_of_correct_ones():
    number = 20_000
    labels = np.repeat(np.arange(10), number)
    given = corrupt(labels, "class_dependent", rate=0.5, rate_step=0.05, num_classes=10, seed=0)
    counts = np.zeros((10, 10))
    np.add.at(counts, (labels, given), 1)
    p = matrix_of(10, 0.5, 0.05)
    assert (np.abs(counts / number - p) <= 4.5 * np.sqrt(p * (1 - p) / number)).all()
    assert (counts.argmax(1)[:7] == np.arange(7)).all()
    assert (counts.argmax(1)[8:] != np.arange(8, 10)).all()
    assert counts[9, 9] == 0
    error = np.sqrt((p.diagonal() * (1 - p.diagonal())).mean() / (10 * number))
    assert abs((labels == given).mean() - 0.225) < 4.5 * error
