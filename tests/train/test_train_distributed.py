"""Two processes that share each batch learn what one process with two weight samples does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import differences, relative_difference, tiny, without_machine

from vlls.train import RunConfig, run
from vlls.train._loop import AGREE_EVERY

pytestmark = pytest.mark.slow
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(folder, config, program=("-m", "vlls.cli")):
    """Return a user's command: torchrun, and an option for every field that is not at its default."""
    defaults = RunConfig().to_dict()
    given = {name: value for name, value in config.to_dict().items() if value != defaults[name]}
    options = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        options += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return [sys.executable, *TORCHRUN, *program, "train", *options, "--output", str(folder), "--resume"]


def kept(folder, config):
    record = json.loads((folder / config.name / "record.json").read_text())
    return record, torch.load(folder / config.name / "checkpoint.pt", weights_only=True)


def finish(arguments):
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, env=ONE_THREAD, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


WHOLE = tiny(method="ivon")
OTHERS = {method: tiny(method=method, augment=True, ema=0.9) for method in ("sgd", "sam", "ols", "elr")}
CONTROL = {"method": "ivon_permuted", "hess_init": 0.1, "ess": 3000.0, "beta2": 0.99, "ema": 0.9}
PROGRAM = """
import json, sys
import torch.distributed as dist
from vlls.train import RunConfig, run

dist.init_process_group("gloo")
for config in json.loads(sys.argv[2]):
    run(RunConfig.from_dict(config), sys.argv[1])
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Return a folder with a run of IVON by two processes."""
    folder = tmp_path_factory.mktemp("together")
    finish(command(folder, WHOLE))
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Return a folder with runs of the other methods and of an IVON control, all by the same two processes."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "program.py").write_text(PROGRAM)
    configs = json.dumps([config.to_dict() for config in (*OTHERS.values(), tiny(**CONTROL))])
    finish([sys.executable, *TORCHRUN, str(folder / "program.py"), str(folder), configs])
    return folder


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_two_ranks_compile_their_network(together, tmp_path):
    finish([*command(tmp_path, WHOLE), "--compile"])
    (record, compiled), (_, plain) = kept(tmp_path, WHOLE), kept(together, WHOLE)
    assert record["machine"]["compiled"] and compiled["model"].keys() == plain["model"].keys()
    assert relative_difference(compiled["model"], plain["model"]) < 1e-5


def test_two_ranks_are_one_process_with_two_samples(together, tmp_path):
    record, state = kept(together, WHOLE)
    alone = run(tiny(method="ivon", mc_samples=2), tmp_path / "one")
    assert record["machine"]["processes"] == 2
    assert relative_difference(state["model"], alone.model.state_dict()) < 1e-5
    one = torch.load(alone.folder / "checkpoint.pt", weights_only=True)
    for i, slot in one["optimizer"]["state"].items():  # the learned variances too
        assert torch.allclose(state["optimizer"]["state"][i]["hess"], slot["hess"], rtol=1e-5, atol=1e-7)
    single = run(tiny(method="ivon"))  # one sample instead of two
    assert relative_difference(single.model.state_dict(), alone.model.state_dict()) > 1e-3
    for ours, theirs in zip(record["epochs"], alone.epochs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=3e-3)  # a borderline prediction may change


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_do_not_depend_on_the_number_of_processes(others, tmp_path, method):
    record, state = kept(others, OTHERS[method])
    assert record["machine"]["processes"] == 2
    alone, one = kept(run(OTHERS[method], tmp_path).folder.parent, OTHERS[method])
    for weights in ("model", "average"):
        assert relative_difference(state[weights], one[weights]) < (1e-5 if method == "sgd" else 1e-3)
    assert record["final"] == pytest.approx(alone["final"], rel=1e-2, abs=2e-2)


def test_two_ranks_of_a_control_are_one_process_with_two_samples(others, tmp_path):
    _, state = kept(others, tiny(**CONTROL))
    _, one = kept(run(tiny(**CONTROL, mc_samples=2), tmp_path).folder.parent, tiny(**CONTROL, mc_samples=2))
    for weights in ("model", "average"):
        assert relative_difference(state[weights], one[weights]) < 1e-4
    for i, slot in one["optimizer"]["state"].items():
        assert torch.allclose(state["optimizer"]["state"][i]["hess"], slot["hess"], rtol=1e-3, atol=1e-5)


def test_stopped_and_resumed_together(together, tmp_path):
    stopping = [str(Path(__file__).parents[1] / "stopping.py"), "7"]
    arguments = command(tmp_path, WHOLE, stopping)
    stopped = subprocess.run(arguments, stderr=subprocess.DEVNULL, timeout=600, env=ONE_THREAD, check=False)
    assert stopped.returncode != 0
    state = torch.load(tmp_path / WHOLE.name / "checkpoint.pt", weights_only=True)
    assert state["step"] == AGREE_EVERY == 10 and len(state["processes"]) == 2  # in the middle of the second epoch
    with pytest.raises(ValueError, match="was saved by 2 processes and there are 1"):
        run(WHOLE, tmp_path, resume=True)
    finish(command(tmp_path, WHOLE))
    (record, state), (whole_record, whole) = kept(tmp_path, WHOLE), kept(together, WHOLE)
    assert differences(without_machine(record), without_machine(whole_record)) == []
    assert differences(state["model"], whole["model"]) == []
