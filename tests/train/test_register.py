"""Registered methods train, resume, load and are sent to other processes as the paper's methods are."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from outside import ANNEALED, NOISE, SIGN, annealed
from training import StopAt, differences, saved, tiny, without_machine

from vlls.train import METHODS, Interrupted, Method, RunConfig, hyperparameters, load_run, methods, register, run


@pytest.fixture(autouse=True)
def registered():
    """Register the methods for one test."""
    before = dict(METHODS)
    for method in (ANNEALED, SIGN, NOISE):
        register(method)
    yield
    methods._METHODS.clear()
    methods._METHODS.update(before)


# ------------------------------------------------------------------ training
@pytest.mark.parametrize("options", [{"method": "annealed", "options": {"temperature": 9}}, {"method": "sign"}])
def test_a_method_from_outside_learns_resumes_and_is_loaded(tmp_path, options):
    config = tiny(**options, corruption="none", rate=0.0, train_size=None, epochs=4, eval_samples=0)
    whole = run(config, tmp_path / "whole")
    assert whole.status == "finished" and whole.final["test_accuracy"] > 0.5  # chance is 0.1
    with pytest.raises(Interrupted):
        run(config, tmp_path / "cut", reporters=[StopAt(40)])
    cut = run(config, tmp_path / "cut", resume=True)
    assert differences(saved(whole.folder), saved(cut.folder)) == []
    loaded = load_run(cut.folder)
    assert (
        loaded.config == whole.config and differences(dict(loaded.model.state_dict()), whole.model.state_dict()) == []
    )


def test_a_posterior_without_a_hessian_is_loaded(tmp_path):
    result = run(tiny(method="same_noise", epochs=1, eval_samples=2), tmp_path)
    assert "posterior_accuracy" in result.final and "learned_share" not in result.final
    loaded = load_run(result.folder)
    assert loaded.learned_share is None
    assert all(torch.equal(std, torch.full_like(std, 0.01)) for std in loaded.posterior.std.values())


def test_its_loss_hears_of_epochs(tmp_path):
    result = run(tiny(method="annealed", epochs=2), tmp_path)
    state = torch.load(result.folder / "checkpoint.pt", weights_only=True)
    assert float(state["processes"][0]["criterion"]["temperature"]) == pytest.approx(4**0.25)


def test_a_loss_that_is_sgd_at_a_value_is_sgd_there():
    at_one, sgd = (run(tiny(epochs=1, **options)) for options in (
        {"method": "annealed", "options": {"temperature": 1.0}}, {"method": "sgd"}
    ))  # fmt: skip
    assert at_one.final == sgd.final


@pytest.mark.slow
def test_a_process_that_does_not_know_the_method_learns_it_from_the_config(tmp_path):
    config = tiny(method="annealed", epochs=1, options={"temperature": 2.0})
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(config))
    code = (
        "import json, pickle, sys; from vlls.train import METHODS, run\n"
        "known = 'annealed' in METHODS; config = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(json.dumps([known, run(config).record()]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), *sys.path))}
    command = [sys.executable, "-c", code, str(tmp_path / "config.pickle")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    known, record = json.loads(done.stdout)
    assert not known
    assert without_machine(record) == without_machine(json.loads(json.dumps(run(config).record())))


# ------------------------------------------------------------------ configs
def test_options_are_hyperparameters():
    config = RunConfig(method="annealed", options={"temperature": 2})
    assert config == RunConfig.of({"method": "annealed", "temperature": 2.0}) and config["temperature"] == 2.0
    assert type(config["temperature"]) is float and config != RunConfig(method="annealed")
    assert RunConfig(method="annealed").resolved()["temperature"] == 4.0
    assert hyperparameters("digits", "sign")["lr"] == 1e-3 and RunConfig(method="sign").resolved()["nesterov"] is False
    for same in (RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))), pickle.loads(pickle.dumps(config))):
        assert same == config and hash(same) == hash(config) and same.key == config.key
    keys = {replace(config, options={"temperature": value}).key for value in (2, 3.0, 4.0)}
    assert len(keys) == 3 and RunConfig(method="annealed").key in keys
    assert "options" not in RunConfig(method="sgd").resolved().to_dict()
    with pytest.raises(TypeError):
        config.options["temperature"] = 3.0


@pytest.mark.parametrize(
    "values, message",
    [
        ({"method": "annealed", "options": {"temprature": 1.0}}, "'temprature' is unknown .did you mean 'temperature'"),
        ({"method": "sgd", "options": {"temperature": 1.0}}, "options=.* are not read by method='sgd'; leave them out"),
        ({"method": "annealed", "options": {"lr": 1.0}}, "options hold 'lr', which is a field; pass lr=1.0 by itself"),
        ({"method": "annealed", "options": {"temperature": "hot"}}, "temperature='hot' is not allowed; choose a float"),
        ({"method": "annealed", "options": {"temperature": float("inf")}}, "temperature=inf is not allowed"),
        ({"method": "sign", "options": {"nesterov": 1}}, "nesterov=1 is not allowed; choose a bool, such as False"),
        ({"method": "annealed", "smoothing": 0.1}, "smoothing=0.1 is not read by method='annealed', only by ls, ols"),
    ],
)  # fmt: skip
def test_options_are_checked(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        RunConfig(**values)
    assert "\n" not in str(caught.value)


def test_names_that_are_neither_fields_nor_options():
    for values in ({"method": "annealed", "temprature": 1.0}, {"method": "annealed", "smothing": 1.0}):
        with pytest.raises(ValueError, match="is unknown .did you mean"):
            RunConfig.of(values)


# ------------------------------------------------------------------ records
@pytest.mark.parametrize(
    "method, message",
    [
        (ANNEALED, "^a method 'annealed' is registered already; choose another name$"),
        (Method(name="ivon"), "^a method 'ivon' is registered already; choose another name$"),
        (Method(name="new", reads={"lr": 0.1}), "reads='lr' of the method 'new' is read by all methods.* presets$"),
        (Method(name="new", presets={"shedule": "cosine"}), "presets='shedule' is unknown .did you mean 'schedule'"),
        (Method(name="new", tuned="temprature"), "tuned='temprature' is unknown"),
        (Method(name="new", shares_presets_of="ivn"), "shares_presets_of='ivn' is unknown .did you mean 'ivon'"),
    ],
)
def test_records_are_checked(method, message):
    with pytest.raises(ValueError, match=message) as caught:
        register(method)
    assert "\n" not in str(caught.value) and "new" not in METHODS


def test_the_paper_s_records_pass_the_checks_of_others():
    """``register`` accepts every method of the table."""
    table = {name: method for name, method in METHODS.items() if name not in ("annealed", "sign")}
    for name, method in table.items():
        del methods._METHODS[name]
        register(method)
    assert all(METHODS[name] is method for name, method in table.items())


def test_what_is_left_out_is_sgd_s():
    record = Method(name="new", criterion=annealed)
    sgd = METHODS["sgd"]
    assert record.label == "new" and (record.optimizer, record.passes, record.reads) == (sgd.optimizer, 1, {})
