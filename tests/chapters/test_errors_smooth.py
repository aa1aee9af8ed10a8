"""Symmetric label errors are a label smoothing in expectation (Chapter 9)."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from vlls.data.corruption import corrupt, transition_matrix
from vlls.smoothing import LabelSmoothingLoss, smooth_labels

SETTINGS = [(2, 0.1), (2, 0.5), (3, 0.6), (10, 0.2), (10, 0.4), (10, 0.9), (100, 0.4)]


def some_logits(k, n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    return logits, torch.randint(k, (n,), generator=generator)


def one_hot(labels, k):
    return torch.eye(k, dtype=torch.float64)[labels]


@pytest.mark.guards("prop-errors-smooth")
@pytest.mark.parametrize(("k", "rate"), SETTINGS)
def test_the_expected_loss_of_symmetric_errors_is_that_of_label_smoothing(k, rate):
    logits, labels = some_logits(k)
    rows = torch.tensor(transition_matrix("symmetric", k, rate))[labels]
    every = torch.stack([cross_entropy(logits, torch.full((40,), j), reduction="none") for j in range(k)], 1)
    smoothing = min(1.0, rate * k / (k - 1))
    smoothed = LabelSmoothingLoss(smoothing, reduction="none")(logits, one_hot(labels, k))
    assert (rows * every).sum(1).numpy() == pytest.approx(smoothed.numpy(), abs=1e-12, rel=1e-12)
    other = LabelSmoothingLoss(rate, reduction="none")(logits, one_hot(labels, k))  # the rate is not α
    assert float((other - smoothed).abs().max()) > 1e-3


@pytest.mark.guards("prop-errors-smooth")
@pytest.mark.parametrize(("k", "rate"), [(3, 0.5), (10, 0.4)])
def test_drawn_errors_have_this_loss_within_the_standard_error(k, rate):
    logits, labels = some_logits(k, n=4)
    number = 50_000
    loss = LabelSmoothingLoss(rate * k / (k - 1), reduction="none")(logits, one_hot(labels, k))
    for i in range(4):
        drawn = corrupt(labels[i].repeat(number), "symmetric", rate=rate, num_classes=k, seed=i)
        losses = -logits[i].log_softmax(0)[drawn]
        assert abs(float(losses.mean() - loss[i])) < 4.5 * float(losses.std()) / number**0.5


@pytest.mark.guards("prop-errors-smooth")
@pytest.mark.parametrize(("k", "rate"), [(k, rate) for k, rate in SETTINGS if rate < (k - 1) / k - 1e-9])
def test_errors_and_smoothing_compose_and_move_no_predicted_class(k, rate):
    matrix = torch.tensor(transition_matrix("symmetric", k, rate))
    generator = torch.Generator().manual_seed(1)
    p = torch.softmax(torch.randn(2000, k, generator=generator, dtype=torch.float64), 1)
    for second in (0.0, 0.1, 0.5, 0.9):
        optimum = smooth_labels(p @ matrix, second)
        alpha = 1 - (1 - rate * k / (k - 1)) * (1 - second)
        torch.testing.assert_close(optimum, smooth_labels(p, alpha), rtol=0, atol=1e-14)
        assert optimum.argmax(1).equal(p.argmax(1))
        logits = optimum.log().requires_grad_()  # nothing is left of the gradient there
        LabelSmoothingLoss(second, reduction="sum")(logits, p @ matrix).backward()
        assert float(logits.grad.abs().max()) < 1e-14


@pytest.mark.guards("prop-errors-smooth")
def test_at_the_critical_rate_labels_are_uniform_and_beyond_it_the_class_is_the_least_likely():
    for k in (2, 10):
        assert transition_matrix("symmetric", k, (k - 1) / k) == pytest.approx(np.full((k, k), 1 / k), abs=1e-15)
        beyond = transition_matrix("symmetric", k, (k - 1) / k + 0.05)
        assert (beyond.argmin(1) == np.arange(k)).all()


@pytest.mark.guards("prop-errors-smooth")
@pytest.mark.parametrize(("k", "smoothing"), [(2, 0.5), (10, 0.1), (10, 0.5), (10, 0.9), (100, 0.3)])
def test_label_smoothing_asks_for_a_finite_margin(k, smoothing):
    margin = math.log(1 + k * (1 - smoothing) / smoothing)

    def loss(at, rate):
        logits = torch.zeros(1, k, dtype=torch.float64)
        logits[0, 1] = at
        return float(LabelSmoothingLoss(rate)(logits, one_hot(torch.tensor([1]), k)))

    for step in (-1.0, -0.01, 0.01, 1.0):
        assert loss(margin + step, smoothing) > loss(margin, smoothing)
    assert loss(margin + 1, 0.0) < loss(margin, 0.0)  # without smoothing it goes on falling
