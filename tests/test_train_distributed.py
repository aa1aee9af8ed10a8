"""Two processes that share each batch learn what one process with two weight samples does."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from training import differences, tiny, without_machine

from vlls.train import run

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


STOPPING = str(Path(__file__).with_name("stopping.py"))


def command(folder, config, program=("-m", "vlls.cli")):
    """What a user types: torchrun, and an option for every field that is not at its default."""
    given = {f.name: getattr(config, f.name) for f in fields(config) if getattr(config, f.name) != f.default}
    options = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        options += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return [sys.executable, *TORCHRUN, *program, "train", *options, "--output", str(folder), "--resume"]


def two_processes(folder, config):
    done = subprocess.run(
        command(folder, config), capture_output=True, text=True, timeout=600, env=ONE_THREAD, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((folder / config.name / "record.json").read_text())
    return record, torch.load(folder / config.name / "checkpoint.pt", weights_only=True)


def relative_difference(a, b):
    a, b = (torch.cat([v.double().reshape(-1) for v in state.values()]) for state in (a, b))
    return float((a - b).norm() / b.norm())


def test_two_ranks_are_one_process_with_two_samples(tmp_path):
    record, state = two_processes(tmp_path / "two", tiny(method="ivon"))
    alone = run(tiny(method="ivon", mc_samples=2), tmp_path / "one")
    assert record["machine"]["processes"] == 2
    assert relative_difference(state["model"], alone.model.state_dict()) < 1e-5
    one = torch.load(alone.folder / "checkpoint.pt", weights_only=True)
    for i, slot in one["optimizer"]["state"].items():  # the learned variances too
        assert torch.allclose(state["optimizer"]["state"][i]["hess"], slot["hess"], rtol=1e-5, atol=1e-7)
    single = run(tiny(method="ivon"))  # a sample, where there were two
    assert relative_difference(single.model.state_dict(), alone.model.state_dict()) > 1e-3
    for ours, theirs in zip(record["epochs"], alone.epochs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=3e-3)  # a prediction on the edge may tip over


@pytest.mark.parametrize("method", ["sgd", "sam", "ols"])
def test_other_methods_do_not_depend_on_the_number_of_processes(tmp_path, method):
    config = tiny(method=method, augment=True)
    record, state = two_processes(tmp_path / "two", config)
    alone = run(config)
    assert relative_difference(state["model"], alone.model.state_dict()) < (1e-5 if method == "sgd" else 1e-3)
    assert record["final"] == pytest.approx(alone.final, rel=1e-2, abs=2e-2)


def test_stopped_and_resumed_together(tmp_path):
    config = tiny(method="ivon", epochs=6, eval_every=6, thorough_every=6)
    folder = tmp_path / "cut"
    stopped = subprocess.run(
        command(folder, config, [STOPPING, "24"]), stderr=subprocess.DEVNULL, timeout=600, env=ONE_THREAD, check=False
    )
    assert stopped.returncode != 0
    state = torch.load(folder / config.name / "checkpoint.pt", weights_only=True)
    assert state["step"] == 24 and len(state["processes"]) == 2
    with pytest.raises(ValueError, match="was saved by 2 processes and there are 1"):
        run(config, folder, resume=True)
    record, state = two_processes(folder, config)
    whole_record, whole = two_processes(tmp_path / "whole", config)
    assert differences(without_machine(record), without_machine(whole_record)) == []
    assert differences(state["model"], whole["model"]) == []
