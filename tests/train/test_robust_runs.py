"""Losses that are made for wrong labels beat plain SGD with 40 % wrong labels."""

import pytest

from vlls.train import RunConfig, run

SEEDS = (0, 1)
RIVALS = ("gce", "sce", "elr")


def accuracies(method):
    """Return each seed's test accuracy (%) after the last of twenty epochs."""
    measured = {"epochs": 20, "eval_every": 20, "thorough_every": 20, "eval_samples": 0}
    errors = {"dataset": "digits", "corruption": "symmetric", "rate": 0.4}
    return [100 * run(RunConfig(method=method, seed=s, **errors, **measured)).final["test_accuracy"] for s in SEEDS]


@pytest.fixture(scope="module")
def of_sgd():
    return accuracies("sgd")


@pytest.mark.slow
@pytest.mark.parametrize("method", RIVALS)
def test_a_loss_for_wrong_labels_reaches_above_sgd(method, of_sgd):
    found = accuracies(method)
    gains = [ours - sgd for ours, sgd in zip(found, of_sgd, strict=True)]
    assert min(gains) > 0 and sum(gains) / len(gains) > 1, (found, of_sgd)  # 2.3 to 3.3 points where it was measured
