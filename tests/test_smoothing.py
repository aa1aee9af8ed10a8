"""Label smoothing: every strategy against a plain-Python loop, its closed form and automatic differentiation."""

import copy
import doctest
import importlib
import math
import subprocess
import sys

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import vlls.smoothing
from vlls.families import Categorical
from vlls.smoothing import (
    ACLS,
    EntropySmoothing,
    LabelSmoothingLoss,
    MeanPredictionSmoothing,
    OnlineLabelSmoothing,
    SmoothingLoss,
    entropy_rate,
    smooth_labels,
)

K = 5


# ------------------------------------------------------------------ references: lists and math, no torch
def plain_softmax(row):
    exps = [math.exp(f - max(row)) for f in row]
    return [e / sum(exps) for e in exps]


def plain_cross_entropy(label, row):
    log_total = max(row) + math.log(sum(math.exp(f - max(row)) for f in row))
    return -sum(y * (f - log_total) for y, f in zip(label, row, strict=True))


def plain_one_hot(y, k=K):
    return [1.0 if j == y else 0.0 for j in range(k)]


class PlainOLS:
    """Zhang et al. (2021), example by example: two separate losses, and a table of sums and counts."""

    def __init__(self, alpha, k, smoothing):
        self.alpha, self.k = alpha, k
        self.soft = [[1 - smoothing if j == y else smoothing / (k - 1) for j in range(k)] for y in range(k)]
        self.kept = set()  # classes that had no correct example in an epoch
        self.start()

    def start(self):
        self.sums = [[0.0] * self.k for _ in range(self.k)]
        self.counts = [0] * self.k

    def loss(self, logits, labels):
        hard = soft = 0.0
        for row, y in zip(logits, labels, strict=True):
            p = plain_softmax(row)
            hard += -math.log(p[y])
            soft += -sum(self.soft[y][j] * math.log(p[j]) for j in range(self.k))
            if p.index(max(p)) == y:
                self.sums[y] = [s + pj for s, pj in zip(self.sums[y], p, strict=True)]
                self.counts[y] += 1
        return self.alpha * hard / len(labels) + (1 - self.alpha) * soft / len(labels)

    def next_epoch(self):
        for y, count in enumerate(self.counts):
            if count:
                self.soft[y] = [s / count for s in self.sums[y]]
            else:
                self.kept.add(y)
        self.start()


def plain_entropy_loss(row, label, prior):
    p = plain_softmax(row)
    rate = 1 + sum(pj * math.log(pj) for pj in p) / math.log(len(row))
    return (1 - rate) * plain_cross_entropy(label, row) + rate * plain_cross_entropy(prior, row)


def plain_acls_loss(row, label, alpha, margin, pos, neg):
    predicted = row.index(max(row))
    reg = pos * max(0.0, row[predicted] - margin) ** 2
    for j, f in enumerate(row):
        if j != predicted:
            reg += neg / (len(row) - 1) * max(0.0, max(row) - f - margin) ** 2
    return plain_cross_entropy(label, row) + alpha * reg


# ------------------------------------------------------------------ data and strategies
def batch(seed, n=40, k=K, scale=2.0, dtype=torch.float64):
    """Logits that lean to the label, so that some predictions are right and some are wrong."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=generator)
    logits = scale * torch.randn(n, k, generator=generator, dtype=torch.float64) + 2 * F.one_hot(labels, k)
    return logits.to(dtype), labels


def trained(criterion, epochs=2):
    """Give a strategy that learns from epoch to epoch something it has learned."""
    for epoch in range(epochs):
        criterion(*batch(100 + epoch))
        criterion.next_epoch()
    return criterion


STRATEGIES = {
    "ls": lambda **kw: LabelSmoothingLoss(0.3, **kw),
    "entropy": lambda **kw: EntropySmoothing(**kw),
    "acls": lambda **kw: ACLS(alpha=0.2, margin=1.0, pos_weight=0.7, neg_weight=0.4, **kw),
    "mean prediction": lambda **kw: trained(MeanPredictionSmoothing(0.3, K, **kw)),
    "ols first epoch": lambda **kw: OnlineLabelSmoothing(0.4, K, **kw),
    "ols": lambda **kw: trained(OnlineLabelSmoothing(0.4, K, **kw)),
}
ZERO_SUM = [name for name in STRATEGIES if name != "acls"]
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


# ------------------------------------------------------------------ Eq. 1
def test_smooth_labels_is_equation_1():
    labels = [0, 3, 3, 4, 1]
    plain = [[(1 - 0.3) * y + 0.3 * (1 / K) for y in plain_one_hot(c)] for c in labels]
    smoothed = smooth_labels(F.one_hot(torch.tensor(labels), K).double(), 0.3)
    assert smoothed.dtype == torch.float64
    np.testing.assert_allclose(smoothed, plain, rtol=0, atol=1e-15)
    from_classes = smooth_labels(torch.tensor(labels), 0.3, num_classes=K)
    assert from_classes.dtype == torch.float32
    np.testing.assert_allclose(from_classes, plain, rtol=0, atol=1e-7)


def test_smooth_labels_at_the_ends_of_the_rate():
    labels = torch.tensor([2, 0])
    assert torch.equal(smooth_labels(labels, 0.0, 3), torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    assert torch.equal(smooth_labels(labels, 1.0, 4), torch.full((2, 4), 0.25))


@settings(max_examples=40, deadline=None)
@given(k=st.integers(2, 30), n=st.integers(0, 8), smoothing=st.floats(0, 1), seed=st.integers(0, 2**31), data=st.data())
def test_smoothed_rows_are_probabilities(k, n, smoothing, seed, data):
    generator = torch.Generator().manual_seed(seed)
    soft = data.draw(st.booleans())
    labels = (
        torch.rand(n, k, generator=generator, dtype=torch.float64).add(1e-3)
        if soft
        else torch.randint(k, (n,), generator=generator).to(data.draw(st.sampled_from([torch.uint8, torch.int64])))
    )
    labels = labels / labels.sum(dim=1, keepdim=True) if soft else labels
    smoothed = smooth_labels(labels, smoothing, k)
    assert smoothed.shape == (n, k) and smoothed.dtype == (torch.float64 if soft else torch.float32)
    assert torch.all(smoothed >= 0)
    torch.testing.assert_close(smoothed.sum(dim=1), torch.ones(n, dtype=smoothed.dtype), rtol=0, atol=1e-6)
    given_label = labels.argmax(dim=1) if soft else labels.long()
    assert torch.all(smoothed.gather(1, given_label.unsqueeze(1)).squeeze(1) >= smoothed.amax(dim=1) - 1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True])
def test_label_smoothing_loss_is_torch_s(reduction, smoothing, soft):
    logits, labels = batch(0)
    labels = batch(1)[0].softmax(dim=1) if soft else labels
    ours = LabelSmoothingLoss(smoothing, reduction=reduction)(logits, labels)
    theirs = F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    assert ours.shape == (logits.shape[:1] if reduction == "none" else ())


# ------------------------------------------------------------------ Chapter 1: gradient, optimum and penalty of Eq. 1
@pytest.fixture(scope="module")
def symbols():
    """Logits, a label whose entries sum to one, the softmax and the rate, for three classes, in sympy."""
    alpha, logits = sp.symbols("alpha", positive=True), sp.Matrix(sp.symbols("f_1:4", real=True))
    first, second = sp.symbols("y_1:3", real=True)
    exps = logits.applyfunc(sp.exp)
    return alpha, logits, sp.Matrix([first, second, 1 - first - second]), exps / sum(exps)


def symbolic_gradient(label, logits, p):
    return sp.Matrix([-sum(y * sp.log(q) for y, q in zip(label, p, strict=True))]).jacobian(logits).T


@pytest.mark.guards("prop-ls-gradient")
def test_gradient_of_label_smoothing(symbols):
    alpha, logits, y, p = symbols
    uniform = sp.ones(3, 1) / 3
    difference = symbolic_gradient((1 - alpha) * y + alpha * uniform, logits, p) - (p - (y + alpha * (uniform - y)))
    assert difference.applyfunc(sp.simplify) == sp.zeros(3, 1)

    values, classes = batch(60, n=6)
    for row, c in zip(values.tolist(), classes.tolist(), strict=True):
        label = [0.7 * one + 0.3 / K for one in plain_one_hot(c)]
        epsilon = [0.3 * (1 / K - one) for one in plain_one_hot(c)]
        claimed = [q - one - e for q, one, e in zip(plain_softmax(row), plain_one_hot(c), epsilon, strict=True)]
        with mpmath.workdps(40):  # central differences, exact to 1e-20
            step = mpmath.mpf(10) ** -10
            for k in range(K):

                def loss(shift, row=row, label=label, k=k):
                    moved = [mpmath.mpf(f) + (shift if j == k else 0) for j, f in enumerate(row)]
                    log_total = mpmath.log(sum(map(mpmath.exp, moved)))
                    return log_total - sum(t * f for t, f in zip(label, moved, strict=True))

                assert abs((loss(step) - loss(-step)) / (2 * step) - claimed[k]) < 1e-14
        at = torch.tensor([row], dtype=torch.float64, requires_grad=True)
        criterion = LabelSmoothingLoss(0.3)
        (gradient,) = torch.autograd.grad(criterion(at, torch.tensor([c])), at)
        np.testing.assert_allclose(gradient[0], claimed, rtol=0, atol=1e-14)
        np.testing.assert_allclose(criterion.label_noise(at, torch.tensor([c]))[0], epsilon, rtol=0, atol=1e-15)


@pytest.mark.guards("prop-ls-optimum")
@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 1.0])
def test_best_logits_under_label_smoothing_are_finite(k, rate):
    alpha, size = sp.symbols("alpha K", positive=True)
    odds = 1 + size * (1 - alpha) / alpha  # e to the gap
    assert sp.simplify(odds / (odds + size - 1) - (1 - alpha + alpha / size)) == 0
    assert sp.simplify(1 / (odds + size - 1) - alpha / size) == 0

    gap = math.log(1 + k * (1 - rate) / rate)
    logits, label = np.zeros(k), np.full(k, rate / k) + np.eye(k)[0] * (1 - rate)
    for _ in range(50):  # Newton's method on the convex loss, from zero, with the constant direction filled in
        p = np.exp(logits - logits.max())
        p /= p.sum()
        step = np.linalg.solve(np.diag(p) - np.outer(p, p) + np.ones((k, k)) / k, p - label)
        logits -= step * min(1.0, 1 / np.abs(step).max() if step.any() else 1.0)
    np.testing.assert_allclose(logits[0] - logits[1:], gap, rtol=0, atol=1e-10)

    criterion, best = LabelSmoothingLoss(rate), torch.zeros(1, k, dtype=torch.float64)
    best[0, 0] = gap
    lowest = criterion(best, torch.tensor([0]))
    moves = torch.randn(50, k, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    elsewhere = LabelSmoothingLoss(rate, reduction="none")(best + moves, torch.zeros(50, dtype=torch.long))
    assert torch.all(elsewhere > lowest)
    torch.testing.assert_close(criterion(best + 7, torch.tensor([0])), lowest)


@pytest.mark.guards("prop-ls-optimum")
def test_without_smoothing_there_are_no_best_logits():
    gaps = torch.arange(0, 60, 2, dtype=torch.float64)
    logits = F.pad(gaps.unsqueeze(1), (0, K - 1))
    losses = LabelSmoothingLoss(0.0, reduction="none")(logits, torch.zeros(len(gaps), dtype=torch.long))
    closed = torch.log1p((K - 1) * torch.exp(-gaps))
    torch.testing.assert_close(losses, closed, rtol=0, atol=1e-14)
    assert torch.all(closed.diff() < 0) and 0 < closed[-1] < 1e-24


@pytest.mark.guards("prop-ls-penalty")
def test_label_smoothing_is_a_kl_penalty(symbols):
    alpha, _, y, _ = symbols
    p = sp.Matrix(sp.symbols("p_1:4", positive=True))
    uniform = sp.ones(3, 1) / 3

    def cross_entropy(label):
        return -sum(t * sp.log(q) for t, q in zip(label, p, strict=True))

    kl = sum(u * sp.log(u / q) for u, q in zip(uniform, p, strict=True))
    right = (1 - alpha) * cross_entropy(y) + alpha * kl + alpha * sp.log(3)
    assert sp.simplify(sp.expand(sp.expand_log(cross_entropy((1 - alpha) * y + alpha * uniform) - right))) == 0

    values, classes = batch(61, n=9)
    losses = LabelSmoothingLoss(0.3, reduction="none")(values, classes)
    for loss, row, c in zip(losses, values.tolist(), classes.tolist(), strict=True):
        divergence = sum(math.log(1 / K / q) / K for q in plain_softmax(row))
        expected = 0.7 * plain_cross_entropy(plain_one_hot(c), row) + 0.3 * divergence + 0.3 * math.log(K)
        assert float(loss) == pytest.approx(expected, rel=1e-13)


@pytest.mark.guards("prop-target-noise")
def test_noise_of_a_cross_entropy_with_noisy_labels(symbols):
    _, logits, y, p = symbols
    noise = sp.Matrix(sp.symbols("epsilon_1:4", real=True))
    difference = (p - y - symbolic_gradient(y + noise, logits, p)) - (noise - sum(noise) * p)
    assert difference.applyfunc(sp.simplify) == sp.zeros(3, 1)

    values, classes = batch(62, n=9)
    values.requires_grad_()
    one_hot, prediction = F.one_hot(classes, K).double(), values.detach().softmax(dim=1)
    for centred in (True, False):
        epsilon = torch.randn(9, K, dtype=torch.float64, generator=torch.Generator().manual_seed(63))
        epsilon = epsilon - epsilon.mean(dim=1, keepdim=True) if centred else epsilon
        losses = {
            "cross-entropy": F.cross_entropy(values, one_hot + epsilon, reduction="sum"),
            "Eq. 15": Categorical(K).nll(values, one_hot + epsilon).sum(),
        }
        error = {}
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, values)
            error[name] = prediction - one_hot - gradient - epsilon
        assert error["Eq. 15"].abs().max() < 1e-14
        expected = -epsilon.sum(dim=1, keepdim=True) * prediction
        torch.testing.assert_close(error["cross-entropy"], expected, rtol=0, atol=1e-14)
        assert (error["cross-entropy"].abs().max() < 1e-14) == centred


# ------------------------------------------------------------------ online label smoothing
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_online_label_smoothing_follows_zhang_et_al_over_three_epochs(dtype):
    ours, plain = OnlineLabelSmoothing(0.3, K, smoothing=0.2), PlainOLS(0.3, K, smoothing=0.2)
    right = wrong = 0
    for epoch in range(3):
        for step in range(4):
            logits, labels = batch(10 * epoch + step, n=17, dtype=dtype)
            if epoch == 1:
                logits[:, 2] -= 60  # nobody recognises class 2 in the second epoch
            loss = ours(logits, labels)
            expected = plain.loss(logits.tolist(), labels.tolist())
            assert loss.dtype == dtype
            assert abs(float(loss) - expected) <= 1e-6 * max(1.0, expected)
            correct = int((logits.argmax(dim=1) == labels).sum())
            right, wrong = right + correct, wrong + len(labels) - correct
        ours.next_epoch()
        plain.next_epoch()
        np.testing.assert_allclose(ours.soft_labels, plain.soft, rtol=0, atol=1e-6)
    assert right > 50 and wrong > 50 and plain.kept == {2}  # the run met every case


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
    assert max(mean) - min(mean) > 0.02  # it has left the uniform start


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
    assert (1 + (p * p.log()).sum(dim=1) / math.log(10)).min() < 0  # what rounding alone would give
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


# ------------------------------------------------------------------ noise: analytic against automatic differentiation
@pytest.mark.guards("prop-strategy-noise")
@pytest.mark.parametrize(
    "name, soft", [(name, soft) for name in STRATEGIES for soft in (False, True) if not (soft and "ols" in name)]
)
def test_gradient_is_softmax_minus_label_minus_noise(name, soft):
    criterion = STRATEGIES[name](reduction="sum")
    logits, labels = batch(11)
    labels = batch(12)[0].softmax(dim=1) if soft else labels
    logits.requires_grad_()
    noise = criterion.label_noise(logits, labels)
    assert not noise.requires_grad and noise.abs().max() > 0.01
    (gradient,) = torch.autograd.grad(criterion(logits, labels), logits)
    y = labels if soft else F.one_hot(labels, K)
    torch.testing.assert_close(gradient, logits.softmax(dim=1) - (y + noise), rtol=0, atol=1e-12)


def test_gradient_with_a_prior_reaches_neither_the_rate_nor_the_prior():
    logits, labels = batch(13)
    logits.requires_grad_()
    teacher = batch(14)[0].requires_grad_()
    criterion, prior = EntropySmoothing(reduction="sum"), teacher.softmax(dim=1)
    gradient, to_teacher = torch.autograd.grad(criterion(logits, labels, prior), (logits, teacher), allow_unused=True)
    noise = criterion.label_noise(logits, labels, prior)
    assert to_teacher is None
    torch.testing.assert_close(gradient, logits.softmax(dim=1) - (F.one_hot(labels, K) + noise), rtol=0, atol=1e-12)


@pytest.mark.guards("prop-strategy-noise")
def test_closed_forms_of_the_noise():
    logits, labels = batch(15)
    y = F.one_hot(labels, K).double()
    ols, mean = STRATEGIES["ols"](), STRATEGIES["mean prediction"]()
    rate = entropy_rate(logits).unsqueeze(1)
    closed = {
        LabelSmoothingLoss(0.3): smooth_labels(y, 0.3) - y,
        mean: 0.3 * (mean.mean_prediction - y),
        ols: 0.6 * (ols.soft_labels[labels] - y),
        EntropySmoothing(): rate / K - rate * y,
    }
    for criterion, noise in closed.items():
        torch.testing.assert_close(criterion.label_noise(logits, labels), noise, rtol=0, atol=1e-15)


@pytest.mark.guards("prop-strategy-noise")
@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(STRATEGIES)),
    n=st.integers(1, 6),
    scale=st.floats(0.1, 50),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_noise_keeps_labels_probabilities(name, n, scale, seed, dtype):
    logits, labels = batch(seed, n=n, scale=scale, dtype=dtype)
    criterion = STRATEGIES[name]()
    noise, loss = criterion.label_noise(logits, labels), criterion(logits, labels)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert noise.shape == logits.shape and noise.dtype == wide and loss.dtype == wide and loss.isfinite()
    if name in ZERO_SUM:
        torch.testing.assert_close(noise.sum(dim=1), torch.zeros(n, dtype=wide), rtol=0, atol=1e-6)
        assert torch.all(F.one_hot(labels, K) + noise >= -1e-6)
        assert torch.all(noise.gather(1, labels.unsqueeze(1)) <= 1e-6)  # a label only ever loses
    else:
        predicted = logits.argmax(dim=1, keepdim=True)
        assert torch.all(noise.gather(1, predicted) <= 0) and torch.all(noise.scatter(1, predicted, 0) >= 0)


# ------------------------------------------------------------------ state, modes and number formats
@pytest.mark.parametrize("make", [lambda: OnlineLabelSmoothing(0.4, K), lambda: MeanPredictionSmoothing(0.4, K)])
def test_state_dict_resumes_in_the_middle_of_an_epoch(make, tmp_path):
    whole, first = make(), make()
    for criterion in (whole, first):
        trained(criterion)
        criterion(*batch(20))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for criterion in (whole, second):
        criterion(*batch(21))
        criterion.next_epoch()
    assert torch.equal(whole(*batch(22)), second(*batch(22)))
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), second.buffers(), strict=True))
    first.next_epoch()  # without batch 21 the epoch ends elsewhere
    assert not torch.equal(first(*batch(22)), second(*batch(22)))


@pytest.mark.parametrize("name", ["ols", "mean prediction"])
def test_statistics_are_taken_in_training_mode_and_by_forward_only(name):
    criterion = STRATEGIES[name]()
    before = copy.deepcopy(criterion.state_dict())
    in_eval = criterion.eval()(*batch(23))
    criterion.train().label_noise(*batch(23))
    assert all(torch.equal(before[key], value) for key, value in criterion.state_dict().items())
    in_train = criterion(*batch(23))
    assert torch.equal(in_eval, in_train)
    changed = [key for key, value in criterion.state_dict().items() if not torch.equal(before[key], value)]
    assert changed == ["_prob_sum", "_count"]


@every_strategy
def test_autocast_gives_a_float32_loss_of_the_rounded_logits(name):
    torch.manual_seed(0)
    model, inputs, labels = torch.nn.Linear(8, K), torch.randn(64, 8), batch(24, n=64)[1]
    narrow, wide = STRATEGIES[name](), STRATEGIES[name]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(inputs)
        loss = narrow(logits, labels)
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), wide(logits.double(), labels), rtol=1e-6, atol=0)
    loss.backward()
    assert model.weight.grad.abs().sum() > 0
    for ours, reference in zip(narrow.buffers(), wide.buffers(), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-7)


def test_statistics_of_many_bfloat16_batches_do_not_saturate():
    criterion = OnlineLabelSmoothing(0.5, 2)
    logits = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16).expand(512, 2)
    for _ in range(4):
        criterion(logits, torch.zeros(512, dtype=torch.long))
    criterion.next_epoch()
    # a bfloat16 sum would have stopped growing at 256
    assert float(criterion.soft_labels[0, 0]) == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-6)


@every_strategy
def test_every_strategy_can_be_traced(name):
    criterion = STRATEGIES[name]()
    logits, labels = batch(25)
    expected = copy.deepcopy(criterion)(logits, labels)
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    assert torch.equal(compiled(logits, labels), expected)


def test_validation_can_be_switched_off():
    logits, labels = batch(26)
    logits[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"logits hold NaN or infinity in 1 of 40 rows \(the first is row 0\)"):
        LabelSmoothingLoss(0.1)(logits, labels)
    assert LabelSmoothingLoss(0.1, validate=False)(logits, labels).isnan()


def test_an_empty_batch_takes_part_in_a_sum():
    for name, make in STRATEGIES.items():
        logits = torch.zeros(0, K, requires_grad=True)
        loss = make(reduction="sum")(logits, torch.zeros(0, dtype=torch.long))
        loss.backward()
        assert loss == 0 and logits.grad.shape == (0, K), name


def test_print_shows_the_settings():
    shown = repr(OnlineLabelSmoothing(0.5, 10, smoothing=0.2))
    assert shown == "OnlineLabelSmoothing(alpha=0.5, n_classes=10, smoothing=0.2, reduction='mean')"


SHARE = """
import sys, torch, torch.distributed as dist
from vlls.smoothing import OnlineLabelSmoothing

def soft_labels(rank, store, batch):
    dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
    try:
        logits, labels = torch.load(batch, weights_only=True)
        criterion = OnlineLabelSmoothing(0.5, 5)
        criterion(logits[rank::2], labels[rank::2])
        criterion.next_epoch()
        return criterion.soft_labels
    finally:
        dist.destroy_process_group()

if __name__ == "__main__":
    torch.save(soft_labels(1, *sys.argv[1:3]), sys.argv[3])
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without distributed")
def test_ranks_share_their_statistics(tmp_path):
    torch.save(batch(27), tmp_path / "batch.pt")
    paths = [str(tmp_path / name) for name in ("store", "batch.pt", "rank1.pt")]
    other = subprocess.Popen([sys.executable, "-c", SHARE, *paths])
    here = {"__name__": "rank0"}
    exec(SHARE, here)
    shared = here["soft_labels"](0, *paths[:2])
    assert other.wait(timeout=60) == 0
    alone = OnlineLabelSmoothing(0.5, K)
    alone(*batch(27))
    alone.next_epoch()
    torch.testing.assert_close(shared, alone.soft_labels)
    assert torch.equal(torch.load(paths[2], weights_only=True), shared)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_strategy
def test_on_a_gpu_inside_a_cuda_graph(name):
    on_cpu = STRATEGIES[name]()
    on_gpu = copy.deepcopy(on_cpu).to("cuda")
    logits, labels = (t.cuda() for t in batch(28))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        copy.deepcopy(on_gpu)(logits, labels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = on_gpu(logits, labels)
    for seed in (29, 30):
        for static, fresh in zip((logits, labels), batch(seed), strict=True):
            static.copy_(fresh)
        graph.replay()
        torch.testing.assert_close(loss.cpu(), on_cpu(*batch(seed)), rtol=1e-12, atol=1e-12)
    for criterion in (on_cpu, on_gpu):
        if hasattr(criterion, "next_epoch"):
            criterion.next_epoch()
    for ours, reference in zip(on_gpu.buffers(), on_cpu.buffers(), strict=True):
        torch.testing.assert_close(ours.cpu(), reference, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------ bad input
LOGITS = torch.zeros(3, 4)
CLASSES = torch.tensor([0, 1, 3])
ROWS = torch.full((3, 4), 0.25)
nan = math.nan


BAD_INPUT = {
    "rate above 1": (lambda: LabelSmoothingLoss(1.5), r"smoothing=1\.5 is outside \[0, 1\]"),
    "rate NaN": (lambda: LabelSmoothingLoss(nan), r"smoothing=nan is outside \[0, 1\]"),
    "negative rate": (lambda: smooth_labels(CLASSES, -0.1, 4), r"smoothing=-0\.1 is outside \[0, 1\]"),
    "alpha": (lambda: OnlineLabelSmoothing(2, 4), r"alpha=2 is outside \[0, 1\]"),
    "first epoch's rate": (lambda: OnlineLabelSmoothing(0.5, 4, smoothing=-1), r"smoothing=-1 is outside"),
    "mean prediction's rate": (lambda: MeanPredictionSmoothing(3, 4), r"smoothing=3 is outside \[0, 1\]"),
    "one class": (lambda: OnlineLabelSmoothing(0.5, 1), r"n_classes is 1; pass the number of classes"),
    "half a class": (lambda: MeanPredictionSmoothing(0.5, 2.5), r"n_classes is 2\.5; pass .* integer"),
    "negative margin": (lambda: ACLS(margin=-1.0), r"margin=-1\.0 is not allowed; choose a finite number"),
    "infinite weight": (lambda: ACLS(pos_weight=math.inf), r"pos_weight=inf is not allowed"),
    "reduction": (lambda: LabelSmoothingLoss(0.1, reduction="avg"), r"reduction='avg' .* 'mean', 'sum' or 'none'"),
    "K unknown": (lambda: smooth_labels(CLASSES, 0.1), r"num_classes is not given.*pass num_classes=K"),
    "K disagrees": (lambda: smooth_labels(ROWS, 0.1, 7), r"shape \(3, 4\).*shape \(N, 7\)"),
    "label too large": (lambda: smooth_labels(CLASSES, 0.1, 3), r"labels lie in 0\.\.3, outside 0\.\.2; number"),
    "label negative": (
        lambda: EntropySmoothing()(LOGITS, CLASSES - 100),
        r"labels lie in -100\.\.-97, outside 0\.\.3",
    ),
    "labels a list": (lambda: EntropySmoothing()(LOGITS, [0, 1, 3]), r"labels are a list; pass a tensor"),
    "labels 2-D integers": (lambda: ACLS()(LOGITS, CLASSES[:, None]), r"int64 and shape \(3, 1\); pass classes"),
    "labels bool": (lambda: ACLS()(LOGITS, ROWS > 0), r"labels of dtype bool and shape \(3, 4\) cannot be used"),
    "labels 1-D floats": (
        lambda: ACLS()(LOGITS, CLASSES.float()),
        r"float32 and shape \(3,\).*or classes as integers",
    ),
    "too few labels": (lambda: ACLS()(LOGITS, CLASSES[:2]), r"3 rows of logits meet 2 labels"),
    "negative rows": (lambda: smooth_labels(ROWS - 0.5, 0.1), r"labels hold -0\.25, not a probability"),
    "NaN rows": (lambda: smooth_labels(ROWS * nan, 0.1), r"labels hold nan, not a probability; pass softmax"),
    "rates that do not sum": (
        lambda: LabelSmoothingLoss(0.1)(LOGITS, ROWS * torch.tensor([[1.0], [1.2], [0.5]])),
        r"labels do not sum to 1 in 2 of 3 rows \(row 1 sums to 1\.2\); divide each row by its sum",
    ),
    "infinite row": (lambda: smooth_labels(ROWS / 0, 0.1), r"do not sum to 1 in 3 of 3 rows \(row 0 sums to inf\)"),
    "logits integers": (lambda: ACLS()(LOGITS.long(), CLASSES), r"logits are of dtype int64 and shape \(3, 4\)"),
    "logits 3-D": (lambda: ACLS()(LOGITS[None], CLASSES), r"logits are .*shape \(1, 3, 4\); pass floats of shape"),
    "logits one column": (lambda: entropy_rate(LOGITS[:, :1]), r"number of columns of logits is 1"),
    "logits NaN": (lambda: ACLS().label_noise(LOGITS * nan, CLASSES), r"logits hold NaN or infinity in 3 of 3 rows"),
    "OLS soft labels": (
        lambda: OnlineLabelSmoothing(0.5, 4)(LOGITS, ROWS),
        r"needs classes.*labels\.argmax\(dim=1\)",
    ),
    "OLS columns": (
        lambda: OnlineLabelSmoothing(0.5, 9)(LOGITS, CLASSES),
        r"logits have 4 columns, but n_classes=9",
    ),
    "device": (lambda: OnlineLabelSmoothing(0.5, 4).to("meta")(LOGITS, CLASSES), r"on cpu.*criterion\.to\('cpu'\)"),
    "prior a list": (lambda: EntropySmoothing()(LOGITS, CLASSES, [1, 0]), r"prior is a list; pass softmax"),
    "prior length": (lambda: EntropySmoothing()(LOGITS, CLASSES, ROWS[:2]), r"3 labels meet 2 rows of prior"),
    "prior width": (lambda: EntropySmoothing()(LOGITS, CLASSES, ROWS[0, :3]), r"prior of .*shape \(3, 3\) cannot"),
    "prior sums": (lambda: EntropySmoothing()(LOGITS, CLASSES, ROWS * 2), r"prior do not sum to 1 in 3 of 3 rows"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named(case):
    call, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_failed_call_leaves_no_trace_in_the_statistics():
    criterion = OnlineLabelSmoothing(0.5, 4)
    before = copy.deepcopy(criterion.state_dict())
    for logits, labels in [(LOGITS * nan, CLASSES), (LOGITS, CLASSES + 9)]:
        with pytest.raises(ValueError, match=r"NaN|outside"):
            criterion(logits, labels)
    assert all(torch.equal(before[key], value) for key, value in criterion.state_dict().items())


def test_rows_that_sum_to_one_but_for_rounding_are_accepted():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        rows = torch.randn(20, 100, generator=torch.Generator().manual_seed(0)).softmax(dim=1).to(dtype)
        assert not torch.equal(rows.double().sum(dim=1), torch.ones(20, dtype=torch.float64))
        assert smooth_labels(rows, 0.1).dtype == dtype


# ------------------------------------------------------------------ documentation
def test_docstring_examples_run():
    modules = [
        vlls.smoothing,
        *(importlib.import_module(f"vlls.smoothing.{m}") for m in ("_base", "_epoch", "_example")),
    ]
    results = [doctest.testmod(module) for module in modules]
    assert all(result.failed == 0 and result.attempted > 0 for result in results)


def test_every_public_name_is_documented_with_an_example():
    for name in vlls.smoothing.__all__:
        member = getattr(vlls.smoothing, name)
        assert member.__doc__ and (">>>" in member.__doc__ or member is SmoothingLoss), name


# ------------------------------------------------------------------ figures
def test_strategy_panels_show_the_noise_of_every_example():
    plots = pytest.importorskip("vlls.plots.smoothing")
    logits, labels = batch(40)
    confidence = logits.softmax(dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    wrong = logits.argmax(dim=1) != labels
    noise = {name: make().label_noise(logits, labels) for name, make in STRATEGIES.items()}
    figure = plots.plot_smoothing_strategies(noise, confidence, wrong, confidence_name="confidence in the label")
    try:
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
    finally:
        plots.plt.close(figure)
    with pytest.raises(ValueError, match=r"'highlight' has 3 rows for 40 confidences"):
        plots.plot_smoothing_strategies(noise, confidence, wrong[:3])
    with pytest.raises(ValueError, match=r"noise_by_name is empty"):
        plots.plot_smoothing_strategies({}, confidence)


def test_soft_label_heat_map_shows_the_matrix_on_a_log_scale():
    plots = pytest.importorskip("vlls.plots.smoothing")
    soft_labels = STRATEGIES["ols"]().soft_labels
    figure = plots.plot_soft_labels({"first": torch.eye(K), "later": soft_labels}, list("abcde"))
    try:
        first, later = (ax.images[0] for ax in figure.axes[:2])
        np.testing.assert_allclose(later.get_array(), soft_labels.clamp(min=1e-3), rtol=1e-12)
        assert first.get_array().min() == 1e-3  # zeros are drawn at the end of the scale, not left blank
        assert later.norm.vmin == 1e-3 and later.norm.vmax == 1.0 and type(later.norm).__name__ == "LogNorm"
        assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == list("abcde")
        assert figure.axes[-1].get_ylabel().endswith("(probability)")
    finally:
        plots.plt.close(figure)
    with pytest.raises(ValueError, match=r"2 class names for 5 classes"):
        plots.plot_soft_labels(soft_labels, ["a", "b"])
    with pytest.raises(ValueError, match=r"shape \(2, 5\); pass a square matrix"):
        plots.plot_soft_labels(soft_labels[:2])


def test_logit_gap_figure_shows_every_rate_and_its_limit():
    plots = pytest.importorskip("vlls.plots.smoothing")
    gaps = {0.0: torch.linspace(0, 9, 40), 0.1: torch.linspace(0, 4, 40)}
    (ax,) = plots.plot_logit_gap(gaps, {0.0: math.inf, 0.1: 4.5}).axes
    plain, smoothed, limit = ax.lines  # an infinite limit has no line
    np.testing.assert_allclose(plain.get_ydata(), gaps[0.0])
    np.testing.assert_allclose(smoothed.get_ydata(), gaps[0.1])
    assert set(limit.get_ydata()) == {4.5} and limit.get_linestyle() == "--"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [r"$\alpha = 0$", r"$\alpha = 0.1$"]


def test_accuracy_figure_joins_the_runs_of_a_seed():
    plots = pytest.importorskip("vlls.plots.smoothing")
    accuracy = {"plain": torch.tensor([80.0, 90.0]), "smoothed": torch.tensor([84.0, 91.0])}
    (ax,) = plots.plot_accuracies(accuracy).axes
    assert [list(line.get_xdata()) for line in ax.lines] == [[80, 84], [90, 91]]
    assert [segment[0, 0] for segment in ax.collections[0].get_segments()] == [85, 87.5]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["plain", "smoothed"]
    assert ax.lines[0].get_ydata()[0] > ax.lines[0].get_ydata()[1]  # the first strategy is on top


def test_figure_docstring_examples_run():
    plots = pytest.importorskip("vlls.plots.smoothing")
    result = doctest.testmod(plots)
    plots.plt.close("all")
    assert result.failed == 0 and result.attempted >= 8
