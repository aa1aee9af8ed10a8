"""A job of a sweep that is done in this process: its failures and its waiting."""

from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from sweeping import tiny

from vlls.experiments import Job
from vlls.experiments import _work as work_module
from vlls.experiments._work import work
from vlls.train._files import folder_lock


def test_out_of_memory_is_one_line(monkeypatch, tmp_path):
    def fill(*_, **__):
        raise torch.cuda.OutOfMemoryError("lots of numbers\nover many lines")

    monkeypatch.setattr("vlls.experiments._work.run", fill)
    outcome = work(Job(tiny()[0], tmp_path))
    assert (outcome.status, outcome.reason) == (
        "failed",
        "the GPU has not enough memory; choose fewer --workers-per-device",
    )


@pytest.mark.parametrize(
    ("device", "protocol", "asked", "compiled"),
    [
        ("cuda:0", "paper", None, True),
        ("cuda:0", "short", None, True),
        ("cuda:0", "reduced", None, False),
        ("cuda:0", "paper", False, False),
        ("cpu", "paper", None, False),
        ("cpu", "smoke", True, True),
    ],
)
def test_long_runs_on_a_gpu_compile_their_network_unless_told(monkeypatch, tmp_path, device, protocol, asked, compiled):
    seen = []

    def run(*_, compile, **__):
        seen.append(compile)
        raise ValueError("enough")

    monkeypatch.setattr("vlls.experiments._work.run", run)
    work(Job(replace(tiny()[0], protocol=protocol), tmp_path, device=device, compile=asked))
    assert seen == [compiled]


def test_a_defect_is_told_with_its_place(monkeypatch, tmp_path):
    monkeypatch.setattr("vlls.experiments._work.run", lambda *_, **__: {}["missing"])
    outcome = work(Job(tiny()[0], tmp_path))
    assert outcome.status == "failed" and outcome.reason.startswith("KeyError at test_work.py:")


def test_a_run_waits_for_a_process_that_lets_go_of_it(monkeypatch, tmp_path):
    cell = tiny(epochs=1, methods=("sgd",))[0]
    holding, slept = ExitStack(), []
    holding.enter_context(folder_lock(tmp_path / cell.config.name))

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            holding.close()

    monkeypatch.setattr(work_module, "time", SimpleNamespace(monotonic=lambda: sum(slept), sleep=sleep))
    assert work(Job(cell, tmp_path)).status == "finished"
    assert slept == [0.5] * 3
