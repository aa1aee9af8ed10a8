"""Steps through a compiled network: the same up to rounding, and eager if torch cannot compile."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from training import StopAt, differences, normalizing, relative_difference, saved, tiny, without_machine

from vlls._compiled import Compiled
from vlls.noise import label_noise_moments
from vlls.train import Interrupted, Reporter, _trainer, run
from vlls.train._prepare import prepare
from vlls.train._trainer import Trainer

needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
CPU = torch.device("cpu")


class Notes(Reporter):
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


def trainer_of(config, model=None, monkeypatch=None, **options):
    if model is not None:
        monkeypatch.setattr(_trainer, "build", lambda *_, **__: model)
    config = config.resolved()
    return Trainer(config, prepare(config), CPU, **options)


# ---------------------------------------------------------------------- with a compiler
@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"method": "ivon", "ema": 0.9}, {"method": "ivon", "mc_samples": 2}, {"method": "sam"}], ids=str
)
def test_a_compiled_run_is_the_run_up_to_rounding(tmp_path, options):
    config, notes = tiny(**options, epochs=2, augment=True), Notes()
    plain = run(config, tmp_path / "plain")
    compiled = run(config, tmp_path / "compiled", compile=True, reporters=[notes])
    assert notes.told == [] and compiled.machine["compiled"] and not plain.machine["compiled"]
    assert compiled.machine["compile_seconds"] > 0 and plain.machine["compile_seconds"] == 0
    assert compiled.folder.name == plain.folder.name  # not part of the run's key
    assert type(compiled.model) is type(plain.model)
    assert relative_difference(compiled.model, plain.model) < 1e-5
    for name, value in plain.final.items():
        assert compiled.final[name] == pytest.approx(value, abs=5e-3), name
    one, two = (torch.load(r.folder / "checkpoint.pt", weights_only=True) for r in (plain, compiled))
    assert one["model"].keys() == two["model"].keys()
    if options["method"] == "ivon":  # label noise works as for any network
        x = torch.randn(4, 1, 8, 8)
        a, b = (label_noise_moments(r.model, r.posterior, x).magnitude for r in (plain, compiled))
        torch.testing.assert_close(a, b, rtol=1e-3, atol=0)


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_goes_on_bit_for_bit_and_says_if_it_cannot(tmp_path):
    config = tiny(method="ivon")
    whole = run(config, tmp_path / "whole", compile=True)
    for name in ("as it was", "plain"):
        with pytest.raises(Interrupted):
            run(config, tmp_path / name, compile=True, reporters=[StopAt(8)])
    resumed = run(config, tmp_path / "as it was", compile=True, resume=True)
    assert differences(saved(whole.folder), saved(resumed.folder)) == []
    assert resumed.machine["compile_seconds"] <= resumed.machine["wall_seconds"]
    with pytest.warns(UserWarning, match=r"other circumstances \(compiled: True, now False\)"):
        plain = run(config, tmp_path / "plain", resume=True)
    assert plain.machine["changes"] == [{"step": 8, "compiled": [True, False]}]
    assert plain.machine["compile_seconds"] > 0  # from the first part


@needs_compiler
@pytest.mark.slow
def test_running_statistics_are_those_of_the_steps(monkeypatch):
    found = []
    for compile in (False, True):
        trainer = trainer_of(tiny(method="sam"), normalizing(), monkeypatch, compile=compile)
        assert trainer.compiled == compile and int(trainer.model[1].num_batches_tracked) == 0
        trainer.batches.start(0, 0)
        for step in range(3):
            trainer.step(step)
        assert int(trainer.model[1].num_batches_tracked) == 3  # SAM's first passes only
        assert not any(name.startswith("_orig_mod") for name in trainer.state_dict()["model"])
        found.append(trainer.model)
    assert relative_difference(*found) < 1e-5


def test_a_process_may_compile_any_number_of_networks(monkeypatch):
    """By default torch compiles a code object, such as the forward of all Sequentials, at most eight times."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for compiled in (torch.compile, Compiled):
        for n in range(1, 12):
            model, x = torch.nn.Sequential(*(torch.nn.Linear(n, n) for _ in range(n))), torch.ones(3, n)
            assert torch.equal(compiled(model)(x), model(x))
    torch._dynamo.reset()


# ---------------------------------------------------------------------- without a compiler
def fails_at_once(function, **_):
    raise RuntimeError("torch.compile is not supported\nhere")


def fails_forward(function, **_):
    def call(*_):
        raise OSError("[Errno 30] Read-only file system")

    return call


def fails_backward(function, **_):
    def call(x):
        logits = function(x)
        logits.register_hook(lambda _: 1 / 0)
        return logits

    return call


@pytest.mark.parametrize("way", [fails_at_once, fails_forward, fails_backward])
def test_a_network_that_cannot_be_compiled_is_trained_as_it_is(tmp_path, monkeypatch, way):
    config, notes = tiny(method="ivon", epochs=1), Notes()
    plain = run(config, tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", way)
    result = run(config, tmp_path / "other", compile=True, reporters=[notes])
    (line,) = notes.told
    assert line.startswith("torch cannot compile the network, which is trained as it is (") and "\n" not in line
    assert result.machine["compiled"] is False
    assert differences(without_machine(plain.record()), without_machine(result.record())) == []
    assert differences(saved(plain.folder)[0]["model"], saved(result.folder)[0]["model"]) == []


def test_the_trial_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    dropping = torch.nn.Sequential(normalizing(), torch.nn.Dropout())
    before = {name: value.clone() for name, value in dropping.state_dict().items()}
    chance = torch.get_rng_state()
    trainer = trainer_of(tiny(method="sgd"), dropping, monkeypatch, compile=True)
    assert trainer.compiled and trainer.note == ""
    assert torch.equal(torch.get_rng_state(), chance)
    assert differences(before, dict(trainer.model.state_dict())) == []
    assert all(p.grad is None for p in trainer.model.parameters())


class Branching(torch.nn.Module):
    """A network with a branch that depends on its input, which a single graph cannot express."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.layer(x) if float(x.sum()) > 0 else self.layer(-x)


@pytest.mark.slow
def test_a_network_with_branches_is_not_compiled(monkeypatch):
    trainer = trainer_of(tiny(method="sgd"), Branching(), monkeypatch, compile=True)
    assert not trainer.compiled and "\n" not in trainer.note and "trained as it is" in trainer.note
    trainer.batches.start(0, 0)
    trainer.step(0)


@pytest.mark.slow
@pytest.mark.parametrize("lacking", ["compiler", "cache"])
def test_without_a_compiler_or_a_cache_the_command_says_so_in_a_line(tmp_path, lacking):
    if lacking == "cache" and not Path("/proc/self").exists():
        pytest.skip("needs a folder that nobody can write to")
    cache = "/proc" if lacking == "cache" else str(tmp_path / "cache")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cache}
    if lacking == "compiler":
        environment["CXX"] = "no-such-compiler"
    options = "--method sgd --epochs 1 --train-size 200 --eval-samples 0 --compile --json".split()
    command = [sys.executable, "-m", "vlls.cli", "train", *options, "--output", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["machine"]["compiled"] is False
    told = " ".join(done.stderr.split())
    assert told.count("torch cannot compile the network, which is trained as it is") == 1
    assert "Traceback" not in done.stderr
