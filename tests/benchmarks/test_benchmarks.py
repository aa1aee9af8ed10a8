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

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WITH_OUTPUT = sorted(path.stem for path in BENCHMARKS.glob("*.py") if "arguments.output" in path.read_text())


@pytest.fixture
def on_the_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


@pytest.fixture
def optimizers(on_the_path):
    return importlib.import_module("bench_optimizer")


@pytest.mark.parametrize("name", WITH_OUTPUT)
def test_an_output_that_is_no_folder_is_refused_before_anything_is_measured(
    name, on_the_path, monkeypatch, tmp_path, capsys
):
    (tmp_path / "record.json").write_text("kept")
    script = importlib.import_module(name)
    for output in ("record.json", "record.json/below"):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--output", str(tmp_path / output)])
        with pytest.raises(SystemExit) as end:
            script.main()
        told = capsys.readouterr()
        assert end.value.code == 2 and not told.out
        assert f"argument --output: the folder {tmp_path / output} could not be made" in told.err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("record.json", "kept")]
    assert len(WITH_OUTPUT) > 15


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
