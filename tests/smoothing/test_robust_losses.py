"""GCE, SCE, ELR and negative label smoothing against sympy and plain loops from their papers, and the fast path."""

import copy
import math

import numpy as np
import pytest
import sympy as sp
import torch
import torch.nn.functional as F
from processes import in_two_processes, needs_gloo
from smoothing_references import K, batch, plain_cross_entropy, plain_one_hot, plain_softmax

from vlls.smoothing import (
    EarlyLearningRegularization,
    GeneralizedCrossEntropy,
    LabelSmoothingLoss,
    SymmetricCrossEntropy,
    smooth_labels,
)

A = -3.0  # SCE's log 0


# ------------------------------------------------------------------ the papers' losses: lists and math, no torch
def plain_gce(row, label, q):
    """Zhang and Sabuncu (2018), the mean over the label's classes."""
    return sum(y * (1 - p**q) / q for y, p in zip(label, plain_softmax(row), strict=True))


def plain_sce(row, label, alpha, beta, log_zero):
    """Wang et al. (2019): alpha times CE plus beta times reverse CE, with a finite log 0."""
    logs = [max(math.log(y), log_zero) if y > 0 else log_zero for y in label]
    reverse = -sum(p * log for p, log in zip(plain_softmax(row), logs, strict=True))
    return alpha * plain_cross_entropy(label, row) + beta * reverse


class PlainELR:
    """Liu et al. (2020), example by example: the target is updated first, then used in the loss."""

    def __init__(self, n, k, lam, beta):
        self.lam, self.beta, self.targets = lam, beta, [[0.0] * k for _ in range(n)]

    def loss(self, row, label, i):
        p = plain_softmax(row)
        self.targets[i] = [self.beta * t + (1 - self.beta) * pj for t, pj in zip(self.targets[i], p, strict=True)]
        inner = sum(pj * t for pj, t in zip(p, self.targets[i], strict=True))
        return plain_cross_entropy(label, row) + self.lam * math.log(1 - inner)


def plain_gls(row, label, r):
    """Wei et al. (2022): the cross-entropy with (1 - r) y + r/K, for r of either sign."""
    return plain_cross_entropy([(1 - r) * y + r / len(row) for y in label], row)


PLAIN = {
    "gce": (lambda **kw: GeneralizedCrossEntropy(0.6, **kw), lambda row, label: plain_gce(row, label, 0.6)),
    "sce": (
        lambda **kw: SymmetricCrossEntropy(0.3, 0.8, A, **kw),
        lambda row, label: plain_sce(row, label, 0.3, 0.8, A),
    ),
    "nls": (lambda **kw: LabelSmoothingLoss(-0.8, **kw), lambda row, label: plain_gls(row, label, -0.8)),
}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_loss_and_gradient_are_the_paper_s(name, soft):
    make, plain = PLAIN[name]
    logits, classes = batch(70, n=12)
    labels = batch(71, n=12)[0].softmax(dim=1) if soft else classes
    rows = labels.tolist() if soft else [plain_one_hot(c) for c in classes.tolist()]
    expected = [plain(row, label) for row, label in zip(logits.tolist(), rows, strict=True)]
    np.testing.assert_allclose(make(reduction="none")(logits, labels), expected, rtol=1e-12)
    assert float(make()(logits, labels)) == pytest.approx(sum(expected) / 12, rel=1e-12)
    assert float(make(reduction="sum")(logits, labels)) == pytest.approx(sum(expected), rel=1e-12)
    noise, step = make().label_noise(logits, labels), 1e-6
    for i, (row, label) in enumerate(zip(logits.tolist(), rows, strict=True)):
        p = plain_softmax(row)
        for k in range(K):
            up, down = ([f + sign * step * (j == k) for j, f in enumerate(row)] for sign in (1, -1))
            gradient = (plain(up, label) - plain(down, label)) / (2 * step)
            assert p[k] - label[k] - float(noise[i, k]) == pytest.approx(gradient, abs=1e-8)


# ------------------------------------------------------------------ the closed forms of the noise, in sympy
@pytest.fixture(scope="module")
def symbols():
    """Return logits, their softmax, and a one-hot label of the first of three classes."""
    logits = sp.Matrix(sp.symbols("f_1:4", real=True))
    exps = logits.applyfunc(sp.exp)
    return logits, exps / sum(exps), sp.Matrix([1, 0, 0])


def is_zero(matrix):
    return matrix.applyfunc(lambda entry: sp.cancel(sp.expand(entry))) == sp.zeros(*matrix.shape)


def gradient(loss, logits):
    return sp.Matrix([loss]).jacobian(logits).T


def test_noise_of_gce_in_sympy(symbols):
    logits, p, y = symbols
    q = sp.symbols("q", positive=True)
    noise = (1 - p[0] ** q) * (p - y)
    difference = gradient((1 - p[0] ** q) / q, logits) - (p - (y + noise))
    assert is_zero(difference)
    assert sp.limit((1 - sp.Symbol("x", positive=True) ** q) / q, q, 0) == -sp.log(sp.Symbol("x", positive=True))


def test_noise_of_sce_in_sympy(symbols):
    logits, p, y = symbols
    alpha, beta, log_zero = sp.symbols("alpha beta A", real=True)
    noise = (1 - (alpha - beta * log_zero * p[0])) * (p - y)
    loss = -alpha * sp.log(p[0]) - beta * log_zero * (p[1] + p[2])
    assert is_zero(gradient(loss, logits) - (p - (y + noise)))
    logs = sp.Matrix(sp.symbols("l_1:4", real=True))  # below, a label whose entries sum to one
    label = sp.Matrix([*sp.symbols("y_1:3", real=True), 0])
    label[2] = 1 - label[0] - label[1]
    noise = (1 - alpha) * (p - label) + beta * p.multiply_elementwise(logs - sp.ones(3, 1) * p.dot(logs))
    loss = -alpha * label.dot(p.applyfunc(sp.log)) - beta * p.dot(logs)
    assert is_zero(gradient(loss, logits) - (p - (label + noise)))


def test_noise_of_elr_in_sympy(symbols):
    logits, p, y = symbols
    strength, mean = sp.symbols("lambda", real=True), sp.Matrix(sp.symbols("t_1:4", positive=True))
    overlap = p.dot(mean)
    noise = strength / (1 - overlap) * p.multiply_elementwise(mean - sp.ones(3, 1) * overlap)
    loss = -sp.log(p[0]) + strength * sp.log(1 - overlap)
    assert is_zero(gradient(loss, logits) - (p - (y + noise)))


def test_negative_smoothing_undoes_symmetric_errors():
    rate, size = sp.symbols("r K", positive=True)
    smoothed = rate * size / (size - 1)  # of errors to any other class
    undone = -smoothed / (1 - smoothed)
    # smoothing twice is smoothing once, at the rate a + b - ab
    assert sp.simplify(smoothed + undone - smoothed * undone) == 0
    assert sp.limit(undone.subs(size, 10), rate, sp.Rational(9, 10), "-") == -sp.oo
    transition = torch.full((10, 10), 0.4 / 9, dtype=torch.float64).fill_diagonal_(0.6)
    eye = torch.eye(10, dtype=torch.float64)
    torch.testing.assert_close(transition, smooth_labels(eye, 0.4 * 10 / 9))
    # the mean loss over the errors is the cross-entropy with the clean labels
    logits, clean = batch(72, n=30, k=10)
    criterion, every = LabelSmoothingLoss(-0.8, reduction="none"), torch.arange(10)
    losses = torch.stack([criterion(logits, every[c].expand(30)) for c in range(10)], dim=1)
    expected = F.cross_entropy(logits, clean, reduction="none")
    torch.testing.assert_close((transition[clean] * losses).sum(dim=1), expected, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------ limits
def test_limits_of_the_losses():
    logits, labels = batch(73)
    plain = F.cross_entropy(logits, labels)
    p, y = logits.softmax(dim=1), F.one_hot(labels, K)
    index = torch.arange(len(logits))
    equal = {
        "GCE at q to 0": (GeneralizedCrossEntropy(1e-9)(logits, labels), plain, 1e-7),
        "GCE at q = 1": (GeneralizedCrossEntropy(1.0)(logits, labels), (p - y).abs().sum(dim=1).mean() / 2, 1e-13),
        "SCE of CE alone": (SymmetricCrossEntropy(1.0, 0.0)(logits, labels), plain, 1e-13),
        "ELR of no strength": (EarlyLearningRegularization(40, K, 0.0)(logits, labels, index), plain, 1e-13),
    }
    for name, (found, expected, tolerance) in equal.items():
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=0, msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [30.0, 1e3, 6e4])
def test_extreme_logits_have_finite_losses_and_right_gradients(dtype, size):
    logits = torch.tensor([[size, 0, -size], [-size, 0, size], [0, size, size], [-size, -size, -size]]).to(dtype)
    labels, index = torch.tensor([0, 0, 0, 2]), torch.arange(4)
    elr = EarlyLearningRegularization(4, 3, decay=0.5)
    for _ in range(12):  # until the mean is within 1e-3 of the prediction
        elr(logits, labels, index)
    for criterion in (GeneralizedCrossEntropy(), SymmetricCrossEntropy(), LabelSmoothingLoss(-0.8), elr.eval()):
        criterion.reduction = "sum"
        arguments = (labels, index) if criterion is elr else (labels,)
        found = []
        for form in (logits, logits.double()):
            form = form.clone().requires_grad_()
            loss = criterion(form, *arguments)
            (slope,) = torch.autograd.grad(loss, form)
            noise = criterion.label_noise(form, *arguments)
            expected = form.detach().to(noise.dtype).softmax(dim=1) - F.one_hot(labels, 3) - noise
            assert loss.isfinite() and slope.isfinite().all()
            resolution = torch.finfo(form.dtype).eps
            torch.testing.assert_close(slope.to(expected.dtype), expected, rtol=2 * resolution, atol=1e-5)
            found.append((loss.detach().double(), noise.double()))
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_a_masked_class_is_left_out_by_gce():
    logits = torch.tensor([[0.5, -math.inf, 2.0], [0.1, -math.inf, 0.3]], requires_grad=True)
    loss = GeneralizedCrossEntropy(validate=False)(logits, torch.tensor([0, 2]))
    expected = GeneralizedCrossEntropy()(logits[:, [0, 2]], torch.tensor([0, 1]))
    torch.testing.assert_close(loss, expected)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


# ------------------------------------------------------------------ ELR's memory
def visits(epochs, n=30, size=10):
    """Yield batches of logits and classes with their indices, each epoch with every example in another order."""
    for epoch in range(epochs):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
        for step, index in enumerate(order.split(size)):
            logits, _ = batch(200 + 10 * epoch + step, n=size)
            yield epoch, logits, index % K, index


@pytest.mark.parametrize("told", [False, True])
def test_elr_follows_liu_et_al_over_three_epochs(told):
    ours, plain = EarlyLearningRegularization(30, K, 2.0, 0.6).double(), PlainELR(30, K, 2.0, 0.6)
    before = 0
    for epoch, logits, labels, index in visits(3):
        if told and epoch > before:
            ours.next_epoch()  # optional in a single process
            before = epoch
        noise = ours.label_noise(logits, labels, index)
        loss = ours(logits, labels, index)
        rows = zip(logits.tolist(), labels.tolist(), index.tolist(), strict=True)
        expected = [plain.loss(row, plain_one_hot(y), i) for row, y, i in rows]
        assert float(loss) == pytest.approx(sum(expected) / len(expected), rel=1e-12)
        for i, row, epsilon in zip(index.tolist(), logits.tolist(), noise.tolist(), strict=True):
            p, t = plain_softmax(row), plain.targets[i]
            inner = sum(a * b for a, b in zip(p, t, strict=True))
            closed = [2.0 * pj * (tj - inner) / (1 - inner) for pj, tj in zip(p, t, strict=True)]
            np.testing.assert_allclose(epsilon, closed, rtol=0, atol=1e-13)
    ours.next_epoch()
    np.testing.assert_allclose(ours.running_mean, plain.targets, rtol=0, atol=1e-14)


def test_elr_resumes_in_the_middle_of_an_epoch(tmp_path):
    whole, first = EarlyLearningRegularization(30, K), EarlyLearningRegularization(30, K)
    batches = list(visits(3))
    for _, *visit in batches[:4]:
        assert torch.equal(whole(*visit), first(*visit))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = EarlyLearningRegularization(30, K)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    fresh = EarlyLearningRegularization(30, K)
    losses = [[criterion(*visit) for _, *visit in batches[4:]] for criterion in (whole, second, fresh)]
    assert losses[0] == losses[1] and losses[0] != losses[2]


def test_elr_remembers_visits_in_training_mode_only():
    criterion = EarlyLearningRegularization(30, K)
    _, *visit = next(visits(1))
    before = copy.deepcopy(criterion.state_dict())
    in_eval = criterion.eval()(*visit)
    criterion.train().label_noise(*visit)
    assert all(torch.equal(before[key], value) for key, value in criterion.state_dict().items())
    assert torch.equal(criterion(*visit), in_eval)
    assert int(criterion._count.sum()) == 10 and not torch.equal(criterion(*visit), in_eval)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_leaves_the_means_of_elr_accurate(dtype):
    criterion = EarlyLearningRegularization(30, K).to(dtype)
    for _, logits, labels, index in visits(2):
        criterion(logits.to(dtype), labels, index)
    criterion.next_epoch()
    assert criterion.running_mean.dtype == torch.float32
    expected = torch.full((30,), 1 - 0.7**2)
    torch.testing.assert_close(criterion.running_mean.sum(dim=1), expected, rtol=1e-6, atol=0)


def test_a_replica_of_elr_is_refused_in_training():
    replica = EarlyLearningRegularization(30, K)._replicate_for_data_parallel()
    _, *visit = next(visits(1))
    with pytest.raises(RuntimeError, match="throws away the statistics.*use DistributedDataParallel"):
        replica(*visit)
    assert replica.eval()(*visit).isfinite()


def test_elr_does_not_push_beyond_its_bound():
    criterion, index = EarlyLearningRegularization(1, 2), torch.tensor([0])
    certain, label = torch.tensor([[40.0, 0.0]], requires_grad=True), torch.tensor([1])
    for _ in range(60):  # until the mean is the one-hot prediction
        loss = criterion(certain, label, index)
    assert float(loss.detach()) == pytest.approx(40 + 3 * math.log(1e-4), rel=1e-6)
    assert criterion.label_noise(certain, label, index).abs().max() == 0
    (slope,) = torch.autograd.grad(loss, certain)
    torch.testing.assert_close(slope, torch.tensor([[1.0, -1.0]]))  # the cross-entropy's


# ------------------------------------------------------------------ bad input
LOGITS, CLASSES = torch.zeros(3, 4), torch.tensor([0, 1, 3])


def elr(**options):
    return EarlyLearningRegularization(**{"n_examples": 5, "n_classes": 4, **options})


BAD_INPUT = {
    "q of 0": (lambda: GeneralizedCrossEntropy(0), r"q=0 is outside \(0, 1\]; .* or cross-entropy, its limit at 0"),
    "q above 1": (lambda: GeneralizedCrossEntropy(1.2), r"q=1\.2 is outside \(0, 1\]"),
    "q NaN": (lambda: GeneralizedCrossEntropy(math.nan), r"q=nan is outside \(0, 1\]"),
    "negative weight": (lambda: SymmetricCrossEntropy(-0.1), r"ce_weight=-0\.1 is not allowed; choose a finite"),
    "infinite weight": (lambda: SymmetricCrossEntropy(rce_weight=math.inf), r"rce_weight=inf is not allowed"),
    "log of 0 above 0": (lambda: SymmetricCrossEntropy(log_zero=4), r"log_zero=4 is not allowed; .* below 0, such as"),
    "log of 0 infinite": (lambda: SymmetricCrossEntropy(log_zero=-math.inf), r"log_zero=-inf is not allowed"),
    "no examples": (lambda: elr(n_examples=0), r"n_examples=0 is not allowed; choose a whole number >= 1"),
    "one class": (lambda: elr(n_classes=1), r"n_classes is 1; pass the number of classes"),
    "negative strength": (lambda: elr(strength=-1), r"strength=-1 is not allowed"),
    "decay of 1": (lambda: elr(decay=1), r"decay=1 is outside \[0, 1\); choose a number in \[0, 1\)"),
    "no index": (lambda: elr()(LOGITS, CLASSES), r"index is a NoneType; pass the examples' places .* shape \(3,\)"),
    "index of floats": (lambda: elr()(LOGITS, CLASSES, torch.zeros(3)), r"index is of dtype float32 and shape \(3,\)"),
    "short index": (lambda: elr().label_noise(LOGITS, CLASSES, CLASSES[:2]), r"index is .*shape \(2,\); pass"),
    "index beyond": (lambda: elr()(LOGITS, CLASSES, CLASSES + 2), r"index lies in 2\.\.5, outside 0\.\.4; make the"),
    "index below": (lambda: elr()(LOGITS, CLASSES, CLASSES - 1), r"index lies in -1\.\.2, outside 0\.\.4"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named(case):
    call, message = BAD_INPUT[case]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ several processes
class WithLoss(torch.nn.Module):
    """A network that returns its loss, so that DistributedDataParallel broadcasts the buffers of both."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.criterion = torch.nn.Linear(4, K), EarlyLearningRegularization(30, K)

    def forward(self, x, y, index):
        return self.criterion(self.net(x), y, index)


def shares(epoch):
    """Return each process's examples in an epoch: others in every epoch, and different numbers."""
    return torch.randperm(30, generator=torch.Generator().manual_seed(epoch)).split([18, 12])


def means_of_two(rank):
    module = WithLoss()
    model, found = torch.nn.parallel.DistributedDataParallel(module), []
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(9))
    for epoch in range(3):
        for index in shares(epoch)[rank].split(6 if rank else 9):
            model(x[index], index % K, index).backward()
        module.criterion.next_epoch()
        found.append(module.criterion.running_mean.clone())
    return found


@pytest.mark.slow
@needs_gloo
def test_two_processes_share_their_means(tmp_path):
    alone, x = WithLoss(), torch.randn(30, 4, generator=torch.Generator().manual_seed(9))
    both = in_two_processes(tmp_path, means_of_two)
    for epoch in range(3):
        for part in shares(epoch):
            alone(x[part], part % K, part)
        for rank in range(2):
            torch.testing.assert_close(both[rank][epoch], alone.criterion._prob_sum, rtol=0, atol=1e-6)
