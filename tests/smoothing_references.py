"""Plain references of the smoothing losses, their data and every strategy."""

import math

import pytest
import torch
import torch.nn.functional as F

from vlls.smoothing import (
    ACLS,
    EarlyLearningRegularization,
    EntropySmoothing,
    GeneralizedCrossEntropy,
    LabelSmoothingLoss,
    MeanPredictionSmoothing,
    OnlineLabelSmoothing,
    SymmetricCrossEntropy,
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
        self.kept = set()  # classes without a correct example in some epoch
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
    """Return logits that favour the label, so that some predictions are right and some are wrong, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=generator)
    logits = scale * torch.randn(n, k, generator=generator, dtype=torch.float64) + 2 * F.one_hot(labels, k)
    return logits.to(dtype), labels


def trained(criterion, epochs=2):
    """Train an adaptive strategy for some epochs and return it."""
    for epoch in range(epochs):
        criterion(*batch(100 + epoch))
        criterion.next_epoch()
    return criterion


class InOrder(EarlyLearningRegularization):
    """Early-learning regularisation of a training set of one batch."""

    def forward(self, logits, labels):
        return super().forward(logits, labels, torch.arange(len(logits), device=logits.device))

    def label_noise(self, logits, labels):
        return super().label_noise(logits, labels, torch.arange(len(logits), device=logits.device))


STRATEGIES = {
    "ls": lambda **kw: LabelSmoothingLoss(0.3, **kw),
    "ls below 0": lambda **kw: LabelSmoothingLoss(-0.8, **kw),
    "entropy": lambda **kw: EntropySmoothing(**kw),
    "acls": lambda **kw: ACLS(alpha=0.2, margin=1.0, pos_weight=0.7, neg_weight=0.4, **kw),
    "gce": lambda **kw: GeneralizedCrossEntropy(0.6, **kw),
    "sce": lambda **kw: SymmetricCrossEntropy(0.3, 0.8, -3.0, **kw),
    "elr": lambda **kw: trained(InOrder(64, K, **kw)),
    "mean prediction": lambda **kw: trained(MeanPredictionSmoothing(0.3, K, **kw)),
    "ols first epoch": lambda **kw: OnlineLabelSmoothing(0.4, K, **kw),
    "ols": lambda **kw: trained(OnlineLabelSmoothing(0.4, K, **kw)),
}
ZERO_SUM = [name for name in STRATEGIES if name != "acls"]
PROBABILITIES = [name for name in ZERO_SUM if name not in ("ls below 0", "sce", "elr")]  # of noisy labels
every_strategy = pytest.mark.parametrize("name", STRATEGIES)
