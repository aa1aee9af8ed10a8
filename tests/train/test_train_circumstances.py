"""A run that is resumed elsewhere keeps its executor, or notes the change to its user and in its record."""

import json

import pytest
import torch
from training import StopAt, differences, saved, tiny

from vlls.optim.ivon._cpu import KERNEL
from vlls.train import Interrupted, Reporter, methods, run
from vlls.train._files import load_checkpoint, save_checkpoint

needs_kernel = pytest.mark.skipif(not KERNEL.available(), reason="no C compiler")


def without_compiler(monkeypatch):
    monkeypatch.setattr(methods, "_has_kernel", lambda training: False)


def cut(config, folder):
    with pytest.raises(Interrupted):
        run(config, folder, reporters=[StopAt(8)])


class Notes(Reporter):
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


def rewrite(folder, config, change):
    path = folder / config.name / "checkpoint.pt"
    state = load_checkpoint(path, config.key)
    change(state)
    save_checkpoint(path, state)


@needs_kernel
def test_the_record_tells_the_executor(tmp_path, monkeypatch):
    config = tiny(method="ivon", epochs=1)
    kernel = run(config, tmp_path / "kernel")
    without_compiler(monkeypatch)
    plain = run(config, tmp_path / "plain")
    assert plain.final != kernel.final and plain.config.key == kernel.config.key  # the record must distinguish these
    kernel, plain = (json.loads((r.folder / "record.json").read_text())["machine"] for r in (kernel, plain))
    assert kernel["executor"].startswith("cpu ivon-") and plain["executor"] == "single"
    assert kernel["changes"] == plain["changes"] == []
    assert run(tiny(method="sgd", epochs=1)).machine["executor"] == "torch fused"


@needs_kernel
def test_a_run_that_was_begun_without_the_kernel_goes_on_without_it(tmp_path, monkeypatch):
    config = tiny(method="ivon")
    with monkeypatch.context() as patch:
        without_compiler(patch)
        whole = run(config, tmp_path / "whole")
        cut(config, tmp_path / "cut")
    notes = Notes()
    resumed = run(config, tmp_path / "cut", resume=True, reporters=[notes])
    assert resumed.machine["executor"] == "single" and resumed.machine["changes"] == [] and notes.told == []
    assert differences(saved(whole.folder), saved(resumed.folder)) == []


@needs_kernel
def test_a_run_that_was_begun_with_the_kernel_says_that_it_goes_on_without(tmp_path, monkeypatch):
    config, notes = tiny(method="ivon"), Notes()
    cut(config, tmp_path)
    without_compiler(monkeypatch)
    with pytest.raises(Interrupted), pytest.warns(UserWarning, match="other circumstances"):  # from the reporter StopAt
        run(config, tmp_path, resume=True, reporters=[notes, StopAt(13)])
    (line,) = notes.told
    assert "goes on under other circumstances (executor: cpu ivon-" in line and "now single)" in line
    assert "\n" not in line
    result = run(config, tmp_path, resume=True, reporters=[notes])  # no further change, no further note
    assert len(notes.told) == 1
    (change,) = result.machine["changes"]
    assert change["step"] == 8 and change["executor"][1] == "single"
    assert json.loads((result.folder / "record.json").read_text())["machine"]["changes"] == [change]


@pytest.mark.parametrize(
    "name, value", [("device", "another processor"), ("threads", 7), ("torch", "1"), ("vlls", "0")]
)
def test_other_circumstances_are_told_without_a_reporter_too(tmp_path, name, value):
    config = tiny(method="sgd", epochs=2)
    cut(config, tmp_path)
    rewrite(tmp_path, config, lambda state: state["circumstances"].update({name: value}))
    with pytest.warns(UserWarning, match=rf"other circumstances \({name}: {value}, now "):
        result = run(config, tmp_path, resume=True)
    assert result.machine["changes"][0][name][0] == value


def test_checkpoints_without_circumstances_are_resumed(tmp_path):
    config = tiny(method="ivon")
    whole = run(config, tmp_path / "whole")
    cut(config, tmp_path / "cut")

    def age(state):
        for name in ("circumstances", "changes", "fused"):
            del state[name]

    rewrite(tmp_path / "cut", config, age)
    notes = Notes()
    resumed = run(config, tmp_path / "cut", resume=True, reporters=[notes])
    assert notes.told == [] and differences(saved(whole.folder), saved(resumed.folder)) == []


def test_random_numbers_of_another_kind_of_device_are_refused(tmp_path):
    config = tiny(method="sgd")
    cut(config, tmp_path)
    short = torch.zeros(16, dtype=torch.uint8)  # a GPU's generator

    def move(state):
        state["processes"][0] |= {"augmentation": short, "samplers": [short]}

    rewrite(tmp_path, config, move)
    with pytest.raises(ValueError, match="saved on another kind of device than cpu.*--overwrite") as caught:
        run(config, tmp_path, resume=True)
    assert "\n" not in str(caught.value)
