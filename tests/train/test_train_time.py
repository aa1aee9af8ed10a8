"""The times and speeds that a run reports, on a device that queues work and does it later, as a GPU does."""

import importlib
import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from training import tiny

from vlls.train import Reporter, run
from vlls.train._machine import synchronize
from vlls.train._reporters import Progress
from vlls.train._trainer import Trainer

loop, reporters = (importlib.import_module(f"vlls.train.{name}") for name in ("_loop", "_reporters"))
STEP, EVALUATION, SENDING = 2.0, 5.0, 0.25  # seconds on the device, and of the program to send a step


class Device:
    """A clock that advances when the program waits for the device, and hardly when it sends work."""

    def __init__(self):
        self.now = self.waiting = 0.0

    def send(self, seconds):
        self.now += SENDING
        self.waiting += seconds

    def synchronize(self, _=None):
        self.now += self.waiting
        self.waiting = 0.0


@pytest.fixture
def device(monkeypatch):
    made = Device()
    clock = SimpleNamespace(perf_counter=lambda: made.now, monotonic=lambda: 0.0)
    take, measure = Trainer.step, loop.evaluate

    def step(self, number):
        made.send(STEP - SENDING)
        take(self, number)

    def evaluate(*args, **options):
        made.send(EVALUATION - SENDING)
        return measure(*args, **options)

    for module in (loop, reporters):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(loop, "synchronize", made.synchronize)
    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(loop._Run, "look_every", 4)  # as on a GPU, not at every step
    return made


CONFIG = tiny(method="sgd", eval_samples=0)  # 3 epochs of 6 steps of 50 images


def test_the_record_waits_for_the_device_before_it_reads_the_clock(device):
    machine = run(CONFIG).machine
    assert machine["training_seconds"] == pytest.approx(18 * STEP)
    assert machine["wall_seconds"] == pytest.approx(18 * STEP + 3 * EVALUATION)
    assert machine["images_per_second"] == pytest.approx(50 / STEP)


def test_the_bar_tells_the_speed_and_the_time_left_of_steps_that_are_done(device):
    told = []

    class Look(Reporter):
        def __init__(self, progress):
            self.progress = progress

        def step(self, step):
            told.append((step, self.progress._pace()))

    text = io.StringIO()
    with Progress(Console(file=text, width=200)) as progress:
        run(CONFIG, reporters=[progress, Look(progress)])
    assert dict(told)[4] == []  # nothing is known yet
    assert dict(told)[6][0] == "25 images/s" and dict(told)[18][0] == "25 images/s"
    lines = [line for line in text.getvalue().splitlines() if line.startswith("epoch")]
    assert ["25 images/s" in line for line in lines] == [True] * 3
    epoch = 6 * STEP + EVALUATION
    left = [f"0:00:{round(epochs * epoch):02d} left" for epochs in (2, 1, 0)]
    assert [line.rpartition(", ")[2] for line in lines] == left


@pytest.mark.parametrize("streams", [True, False])
def test_synchronize_waits_for_the_run_s_own_work(monkeypatch, streams):
    waited = []
    stream = SimpleNamespace(synchronize=lambda: waited.append("stream"))
    module = SimpleNamespace(synchronize=lambda: waited.append("device"))
    if streams:  # CUDA, XPU
        module.current_stream = lambda device: stream
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    synchronize(torch.device("cpu"))
    assert waited == []
    synchronize(torch.device("cuda", 0) if streams else torch.device("mps"))
    assert waited == ["stream" if streams else "device"]
