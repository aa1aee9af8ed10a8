"""A job of a sweep that is done in this process: how it fails, and what it waits for."""

from contextlib import ExitStack
from types import SimpleNamespace

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
