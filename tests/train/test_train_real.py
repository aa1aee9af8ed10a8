"""Real images: MNIST and CIFAR-10 if ``VLLS_DATA`` has them, through the users' function.

``benchmarks/bench_label_errors.py`` and its record compare five seeds; here it is one seed, and a shorter run.
"""

import json
import os
from pathlib import Path

import pytest

from vlls._errors import DataError
from vlls.data import load
from vlls.train import RunConfig, run

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "records" / "label-errors.json"


def needs(name):
    try:
        if not os.environ.get("VLLS_DATA"):
            raise DataError("not set")
        load(name, download=False)
    except DataError:
        return pytest.mark.skip(reason=f"VLLS_DATA has no {name}")
    return pytest.mark.skipif(False, reason="")


@needs("mnist")
def test_a_third_of_mnist_reaches_97_percent():
    result = run(RunConfig(dataset="mnist", method="ivon", epochs=1, eval_samples=2, train_size=20_000))
    assert result.final["test_accuracy"] >= 0.97
    assert result.final["posterior_accuracy"] >= 0.97


@needs("mnist")
def test_ivon_beats_sgd_where_labels_are_wrong():
    """With the recorded comparison's initial variance, which is larger than the paper's, on half of its images."""
    config = {"dataset": "mnist", "corruption": "symmetric", "rate": 0.4, "train_size": 3000, "epochs": 16}
    ivon, sgd = (
        run(RunConfig(method=m, hess_init=h0, eval_every=16, thorough_every=16, eval_samples=0, **config)).final
        for m, h0 in (("ivon", 0.9), ("sgd", None))
    )
    assert ivon["test_accuracy"] > sgd["test_accuracy"] + 0.05
    assert ivon["memorised"] < sgd["memorised"] - 0.1


def test_recorded_comparison_is_five_seeds_and_five_points():
    record = json.loads(RECORD.read_text())
    assert len(record["gains"]) == 5 and min(record["gains"]) >= 0.05
    assert record["clean"]["test_accuracy"] >= 0.985
    configs = [RunConfig.from_dict(entry["config"]) for entry in record["runs"]]
    assert {(c.method, c.seed) for c in configs} == {(m, s) for m in ("ivon", "sgd") for s in range(5)}
    assert {(c.dataset, c.corruption, c.rate, c.train_size, c.epochs) for c in configs} == {
        ("mnist", "symmetric", 0.4, 6000, 20)
    }


@needs("cifar10")
@pytest.mark.parametrize("method", ["ivon", "sgd"])
def test_cifar10_is_learned_on_a_cpu(method):
    config = RunConfig(
        dataset="cifar10", model="cnn3", method=method, train_size=2000, epochs=4, eval_every=4, thorough_every=4,
        eval_samples=0,
        lr=0.2 if method == "ivon" else 0.05,
    )  # fmt: skip
    result = run(config)
    assert result.final["test_accuracy"] > 0.3  # chance is 0.1, and SGD reaches 0.38
