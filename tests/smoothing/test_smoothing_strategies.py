"""The adaptive strategies of Section 2, example by example against plain Python."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from smoothing_references import (
    STRATEGIES,
    K,
    PlainOLS,
    batch,
    plain_acls_loss,
    plain_cross_entropy,
    plain_entropy_loss,
    plain_one_hot,
    plain_softmax,
    trained,
)

from vlls.smoothing import (
    ACLS,
    EntropySmoothing,
    MeanPredictionSmoothing,
    OnlineLabelSmoothing,
)
from vlls.smoothing._example import entropy_rate


# ------------------------------------------------------------------ online label smoothing
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_online_label_smoothing_follows_zhang_et_al_over_three_epochs(dtype):
    ours, plain = OnlineLabelSmoothing(0.3, K, smoothing=0.2), PlainOLS(0.3, K, smoothing=0.2)
    right = wrong = 0
    for epoch in range(3):
        for step in range(4):
            logits, labels = batch(10 * epoch + step, n=17, dtype=dtype)
            if epoch == 1:
                logits[:, 2] -= 60  # class 2 has no correct example in the second epoch
            loss = ours(logits, labels)
            expected = plain.loss(logits.tolist(), labels.tolist())
            assert loss.dtype == dtype
            assert abs(float(loss) - expected) <= 1e-6 * max(1.0, expected)
            correct = int((logits.argmax(dim=1) == labels).sum())
            right, wrong = right + correct, wrong + len(labels) - correct
        ours.next_epoch()
        plain.next_epoch()
        np.testing.assert_allclose(ours.soft_labels, plain.soft, rtol=0, atol=1e-6)
    assert right > 50 and wrong > 50 and plain.kept == {2}  # all cases occurred


def test_soft_labels_are_the_mean_of_the_correct_predictions():
    logits, labels = batch(3)
    criterion = OnlineLabelSmoothing(0.5, K)
    criterion(logits, labels)
    criterion.next_epoch()
    p = logits.softmax(dim=1)
    for y in range(K):
        correct = (labels == y) & (p.argmax(dim=1) == y)
        assert 0 < correct.sum() < (labels == y).sum()
        torch.testing.assert_close(criterion.soft_labels[y], p[correct].mean(dim=0), rtol=0, atol=1e-15)


def test_a_class_without_a_correct_example_keeps_its_soft_label():
    criterion = trained(OnlineLabelSmoothing(0.5, K))
    before = criterion.soft_labels.clone()
    logits, labels = batch(4)
    logits[:, 1] = -50.0
    criterion(logits, labels)
    criterion.next_epoch()
    assert torch.equal(criterion.soft_labels[1], before[1])
    assert not torch.isclose(criterion.soft_labels[0], before[0]).any()
    criterion.next_epoch()  # an epoch without any batch changes nothing at all
    torch.testing.assert_close(criterion.soft_labels.sum(dim=1), torch.ones(K, dtype=torch.float64))
    assert torch.equal(criterion.soft_labels[1], before[1])


def test_online_label_smoothing_between_its_extremes():
    logits, labels = batch(5)
    torch.testing.assert_close(
        OnlineLabelSmoothing(1.0, K)(logits, labels), F.cross_entropy(logits, labels), rtol=1e-13, atol=0
    )
    # the first epoch's labels are Eq. 1 at the rate smoothing K / (K - 1)
    torch.testing.assert_close(
        OnlineLabelSmoothing(0.0, K, smoothing=0.2)(logits, labels),
        F.cross_entropy(logits, labels, label_smoothing=0.2 * K / (K - 1)),
        rtol=1e-13,
        atol=0,
    )


# ------------------------------------------------------------------ the other strategies, example by example
def test_mean_prediction_follows_equations_3_to_5():
    criterion = MeanPredictionSmoothing(0.3, K)
    mean = [1 / K] * K
    for epoch in range(3):
        predictions = []
        for step in range(3):
            logits, labels = batch(50 + 10 * epoch + step, n=11)
            loss, noise = criterion(logits, labels), criterion.label_noise(logits, labels)
            expected = 0.0
            for i, (row, y) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
                epsilon = [0.3 * (u - yj) for u, yj in zip(mean, plain_one_hot(y), strict=True)]
                np.testing.assert_allclose(noise[i], epsilon, rtol=0, atol=1e-14)
                label = [yj + e for yj, e in zip(plain_one_hot(y), epsilon, strict=True)]
                expected += plain_cross_entropy(label, row) / len(labels)
                predictions.append(plain_softmax(row))
            assert float(loss) == pytest.approx(expected, rel=1e-12)
        criterion.next_epoch()
        mean = [sum(p[j] for p in predictions) / len(predictions) for j in range(K)]
        np.testing.assert_allclose(criterion.mean_prediction, mean, rtol=0, atol=1e-14)
    assert max(mean) - min(mean) > 0.02  # the mean has left its uniform start


@pytest.mark.parametrize("given_prior", ["uniform", "shared", "per example"])
def test_entropy_smoothing_follows_lee_et_al(given_prior):
    logits, labels = batch(6)
    prior = {"uniform": None, "shared": batch(7)[0][0].softmax(0), "per example": batch(7)[0].softmax(1)}[given_prior]
    rows = torch.full_like(logits, 1 / K) if prior is None else prior.expand_as(logits)
    losses = EntropySmoothing(reduction="none")(logits, labels, prior)
    for loss, row, y, u in zip(losses, logits.tolist(), labels.tolist(), rows.tolist(), strict=True):
        assert float(loss) == pytest.approx(plain_entropy_loss(row, plain_one_hot(y), u), rel=1e-12)


def test_entropy_rate_at_its_ends_and_in_between():
    rows = torch.tensor([[0.0, 0, 0, 0], [0, 0, -800, -800], [0, -800, -800, -800], [1, 2, 3, 4]]).double()
    p = plain_softmax([1, 2, 3, 4])
    expected = [0.0, 0.5, 1.0, 1 + sum(q * math.log(q) for q in p) / math.log(4)]
    np.testing.assert_allclose(entropy_rate(rows), expected, rtol=0, atol=1e-15)


def test_entropy_rate_stays_in_its_range_despite_rounding():
    nearly_uniform = 1e-4 * torch.randn(2000, 10, generator=torch.Generator().manual_seed(0))
    p = nearly_uniform.softmax(dim=1)
    assert (1 + (p * p.log()).sum(dim=1) / math.log(10)).min() < 0  # the formula, only rounded, would be negative
    rate = entropy_rate(nearly_uniform)
    assert rate.min() >= 0 and rate.max() < 1e-6


@pytest.mark.parametrize("margin", [0.0, 1.5])
def test_acls_follows_park_et_al(margin):
    logits, labels = batch(8)
    criterion = ACLS(0.2, margin, 0.7, 0.4, reduction="none")
    for loss, row, y in zip(criterion(logits, labels), logits.tolist(), labels.tolist(), strict=True):
        expected = plain_acls_loss(row, plain_one_hot(y), 0.2, margin, 0.7, 0.4)
        assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.guards("prop-strategy-noise")
def test_acls_noise_is_conditional_and_linear_in_the_logit():
    tops = torch.tensor([8.0, 10.0, 12.0, 14.0, 16.0])
    logits = torch.zeros(5, 4)
    logits[:, 2] = tops
    noise = ACLS(alpha=0.1, margin=10.0, pos_weight=1.0, neg_weight=0.3).label_noise(logits, torch.full((5,), 2))
    torch.testing.assert_close(noise[:, 2], torch.tensor([0.0, 0.0, -0.4, -0.8, -1.2]))
    torch.testing.assert_close(noise[:, 0], torch.tensor([0.0, 0.0, 0.04, 0.08, 0.12]))
    assert noise[4].sum() < -0.5  # unlike the other strategies' noise it does not sum to zero,
    assert noise[4, 2] + 1 < 0  # and the noisy label is not a probability


def test_acls_alone_measures_logits_from_zero():
    logits, labels = batch(9)
    for name, make in STRATEGIES.items():
        criterion = make().eval()
        change = float((criterion(logits + 3, labels) - criterion(logits, labels)).abs())
        assert (change > 0.1) if name == "acls" else (change < 1e-12), name
