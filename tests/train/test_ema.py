"""Weight averaging: the average of a run's weights, its metrics, and that it does not change the training."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy
from training import StopAt, differences, saved, tiny

from vlls.cli._report import results_table
from vlls.train import Interrupted, RunConfig, load_run, run
from vlls.train._files import CHECKPOINT, load_checkpoint
from vlls.train._prepare import prepare
from vlls.train._trainer import Trainer

NAMES = ("accuracy", "nll", "ece", "brier")
SMALL_RESNET = {"model": "resnet18", "train_size": 100, "epochs": 1, "eval_samples": 0}


def states_of(trainer, steps):
    """Take steps and return the network's state after each."""
    states = []
    for step in range(steps):
        if step % trainer.steps_per_epoch == 0:
            trainer.batches.start(step // trainer.steps_per_epoch, 0)
        trainer.step(step)
        states.append(
            {name: value.clone() for name, value in trainer.model.state_dict().items() if value.is_floating_point()}
        )
    return states


def plain_average(states, decay):
    """Return the exponential average of the states in float64, which begins at the first."""
    average = {name: value.double() for name, value in states[0].items()}
    for state in states[1:]:
        for name, value in state.items():
            average[name] = decay * average[name] + (1 - decay) * value.double()
    return average


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"method": "sgd"}, id="sgd"),
        pytest.param({"method": "sam"}, id="sam"),
        pytest.param({"method": "ivon"}, id="ivon"),
        pytest.param({"method": "ivon", "mc_samples": 2}, id="two samples"),
        pytest.param({"method": "ivon", **SMALL_RESNET}, id="running statistics", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_average_is_that_of_a_plain_loop(fields, decay):
    config = tiny(**fields, ema=decay).resolved()
    trainer = Trainer(config, prepare(config), torch.device("cpu"))
    states = states_of(trainer, 2 if "model" in fields else 12)
    expected, found = plain_average(states, decay), trainer.average.module.state_dict()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-6 * value.norm(), name
        if decay:  # a running variance or a bias may hardly move, the weights of a layer do
            assert not name.endswith("weight") or (found[name] - states[-1][name]).norm() > 1e-4 * value.norm(), name


@pytest.mark.parametrize("method", ["sgd", "ivon"])
def test_the_training_is_that_without_an_average(method):
    plain, averaged = run(tiny(method=method)), run(tiny(method=method, ema=0.9))
    assert differences(dict(plain.model.state_dict()), dict(averaged.model.state_dict())) == []
    assert not any(name.startswith("ema") for epoch in plain.epochs for name in epoch)
    for before, now in zip(plain.epochs, averaged.epochs, strict=True):
        assert now.keys() - before.keys() == {f"ema_{name}" for name in NAMES}  # after every epoch
        assert all(now[name] == value for name, value in before.items())


def test_what_is_measured_is_the_average(tmp_path):
    config = tiny(method="sgd", ema=0.95)
    result = run(config, tmp_path)
    loaded = load_run(result.folder)
    assert differences(dict(loaded.model.state_dict()), dict(result.model.state_dict())) == []  # the last weights
    average = copy.deepcopy(loaded.model)
    state = load_checkpoint(result.folder / CHECKPOINT)["average"]
    average.load_state_dict({name.removeprefix("module."): v for name, v in state.items() if name != "n_averaged"})
    test = loaded.images("test")
    with torch.no_grad():
        logits = average(test.batch(range(len(test))))
    assert result.final["ema_accuracy"] == pytest.approx(
        float(multiclass_accuracy(logits, test.given, num_classes=10, average="micro")), abs=1e-6
    )
    nll = float(torch.nn.functional.cross_entropy(logits.double(), test.given))
    assert result.final["ema_nll"] == pytest.approx(nll, rel=1e-5)
    assert abs(result.final["ema_nll"] - result.final["test_nll"]) > 1e-3


@pytest.mark.parametrize("method", ["sgd", "ivon"])
def test_average_is_resumed_bit_for_bit(tmp_path, method):
    config = tiny(method=method, ema=0.9)
    whole = run(config, tmp_path / "whole")
    for at in (1, 7):
        with pytest.raises(Interrupted):
            run(config, tmp_path / "cut", resume=True, reporters=[StopAt(at)])
    cut = run(config, tmp_path / "cut", resume=True)
    assert differences(saved(whole.folder), saved(cut.folder)) == []
    assert int(saved(cut.folder)[0]["average"]["n_averaged"]) == 3 * (300 // config.resolved().batch_size)


def test_table_of_a_run_has_a_column_for_the_average():
    results = [run(tiny(method=method, ema=0.9)) for method in ("sgd", "ivon")]
    heads = [column.header for column in results_table(results).columns]
    assert [head for head in heads if "averaged" in head and "posterior" not in head] == [
        "SGD\nweights\naveraged",
        "IVON\nweights\naveraged",
    ]
    column = list(results_table(results[:1]).columns)[2]
    assert column.header == "weights\naveraged"
    assert next(iter(column.cells)) == f"{100 * results[0].final['ema_accuracy']:.2f} %"


# ------------------------------------------------------------------ configs
def test_runs_without_an_average_keep_their_keys():
    assert RunConfig(ema=None).key == RunConfig().key != RunConfig(ema=0.998).key
    assert RunConfig(ema=0).key == RunConfig(ema=0.0).key


@pytest.mark.parametrize("ema", [1, 1.0, -0.1, float("nan"), float("inf"), "0.9", True, np.float64(1.5)])
def test_decays_that_are_none_are_refused(ema):
    with pytest.raises(ValueError, match=r"^ema=.* is outside \[0, 1\); choose a decay such as 0\.998"):
        RunConfig(ema=ema)
    with pytest.raises(ValueError, match=r"^ema="):
        dataclasses.replace(RunConfig(), ema=ema)


# ------------------------------------------------------------------ on a GPU
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["sgd", "ivon"])
def test_average_of_captured_steps_is_that_of_a_plain_loop(method):
    config = tiny(method=method, ema=0.9, precision="float32").resolved()
    trainer = Trainer(config, prepare(config), torch.device("cuda", 0))
    states = states_of(trainer, 8)
    assert trainer.captured
    found = trainer.average.module.state_dict()
    for name, value in plain_average(states, 0.9).items():
        assert (found[name] - value).norm() <= 1e-6 * value.norm(), name
