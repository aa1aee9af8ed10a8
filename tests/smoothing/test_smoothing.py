"""Label smoothing and the noise of every strategy: closed forms, sympy, autograd; guards Chapter 1."""

import math

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from smoothing_references import (
    PROBABILITIES,
    STRATEGIES,
    ZERO_SUM,
    K,
    batch,
    plain_cross_entropy,
    plain_one_hot,
    plain_softmax,
)

from vlls.families import Categorical
from vlls.smoothing import (
    EntropySmoothing,
    LabelSmoothingLoss,
    smooth_labels,
)
from vlls.smoothing._example import entropy_rate


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
    """Return sympy's logits, a label whose entries sum to one, the softmax and the rate, for three classes."""
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
    odds = 1 + size * (1 - alpha) / alpha  # exp of the gap
    assert sp.simplify(odds / (odds + size - 1) - (1 - alpha + alpha / size)) == 0
    assert sp.simplify(1 / (odds + size - 1) - alpha / size) == 0

    gap = math.log(1 + k * (1 - rate) / rate)
    logits, label = np.zeros(k), np.full(k, rate / k) + np.eye(k)[0] * (1 - rate)
    for _ in range(50):  # Newton's method on the convex loss, from zero; ones((k, k)) / k makes the Hessian invertible
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
    if name in PROBABILITIES:
        assert torch.all(F.one_hot(labels, K) + noise >= -1e-6)
        assert torch.all(noise.gather(1, labels.unsqueeze(1)) <= 1e-6)  # the noise never raises the label's entry
    if name == "acls":
        predicted = logits.argmax(dim=1, keepdim=True)
        assert torch.all(noise.gather(1, predicted) <= 0) and torch.all(noise.scatter(1, predicted, 0) >= 0)
