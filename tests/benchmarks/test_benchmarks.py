"""The foundations of the benchmarks' numbers that can be tested without a GPU."""

import gc
import importlib
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from vlls import IVON


@pytest.fixture
def optimizers(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    return importlib.import_module("bench_optimizer")


class Stream:
    def wait_stream(self, other):
        pass


class Graph:
    """Like a CUDA graph, knows the memory that it writes to and does not keep it alive."""

    replays = 0

    def replay(self):
        Graph.replays += 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["context", "closure", "kept"])
def test_a_captured_step_keeps_the_optimizer_whose_memory_it_writes_to(optimizers, monkeypatch, how):
    for name, stand_in in (
        ("Stream", Stream),
        ("current_stream", Stream),
        ("stream", lambda stream: nullcontext()),
        ("CUDAGraph", Graph),
        ("graph", lambda graph: nullcontext()),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    made = []
    monkeypatch.setattr(optimizers, "IVON", lambda *a, **k: made.append(IVON(*a, **k)) or made[-1])
    params = [torch.nn.Parameter(torch.ones(9))]
    params[0].grad = torch.ones(9)
    step = optimizers.captured(optimizers.ivon(params, how, foreach=False))
    optimizer = weakref.ref(made.pop())
    gc.collect()
    assert optimizer() is not None
    before = Graph.replays
    step()
    assert Graph.replays == before + 1
    del step
    gc.collect()
    assert optimizer() is None
