"""Probabilities and given labels: random ones, and those at which a definition may go wrong."""

import numpy as np


def random_case(seed, num=None, k=None):
    """Return probabilities (N, K), from nearly certain to nearly flat, and labels, every class at least once."""
    rng = np.random.default_rng(seed)
    k = k or rng.integers(2, 8)
    num = num or rng.integers(k, 120)
    p = rng.dirichlet(np.full(k, rng.choice([0.1, 0.5, 2.0])), num)
    p = np.maximum(p, 1e-12)
    p /= p.sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(k, p=row) for row in 0.5 * p + 0.5 / k])
    labels[:k] = np.arange(k)
    return p, labels


def _cases():
    rng = np.random.default_rng(0)
    some = rng.dirichlet(np.ones(4), 40)
    coarse = np.round(some * 4) / 4
    coarse[coarse.sum(axis=1) == 0] = 0.25
    coarse /= coarse.sum(axis=1, keepdims=True)
    each = np.arange(40) % 4
    return {
        "flat": (np.full((40, 4), 0.25), each),
        "ties": (coarse, each),
        "one-hot": (np.eye(4)[rng.integers(0, 4, 40)], each),
        "a class without labels": (some, each % 3),
        "one class": (some, np.zeros(40, int)),
        "classes with one example": (some, np.array([0, 1, 2, 3] + [0] * 36)),
        "one example each": (some[:4], np.arange(4)),
        "float32": (some.astype(np.float32), each),
        "two classes": (rng.dirichlet([1, 1], 40), each % 2),
    }


CASES = _cases()
