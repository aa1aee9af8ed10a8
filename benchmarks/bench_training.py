"""How many images a second does the training engine learn from, beside a plain eager loop with ivon-opt?

    python benchmarks/bench_training.py                       # on a CPU: the 3-layer CNN, images of 8×8 and 28×28
    python benchmarks/bench_training.py --device cuda         # on a GPU: ResNet-34 on images of CIFAR-10's size
    python benchmarks/bench_training.py --quick               # to try the script

The plain loop is the obvious first version: torchvision's transforms in a DataLoader, float32, IVON from the public
package. All train the same model with the same batch on the same made-up images, in alternating rounds of one process;
medians are compared. On a GPU it also measures the device's matrix peak, the share of it that is used, the engine with
a compiled network, and several runs side by side, each with its own thread and stream, as a sweep does them.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import ivon
import numpy as np
import torch
import torch.nn.functional as F
from record import add_output, write_record
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from vlls.experiments._executors import _own_stream
from vlls.models._networks import build
from vlls.train._config import RunConfig
from vlls.train._machine import synchronize
from vlls.train._prepare import Images, RunData
from vlls.train._trainer import Trainer

PLAIN, ENGINE, COMPILED = "plain loop, ivon-opt, DataLoader", "engine", "engine, compiled network"
PAPER_IMAGES = 200 * 50_000  # of a run on CIFAR-10


def made_up(dataset: str, count: int = 10_000) -> RunData:
    """Return random images and labels of a data set's shape: speed does not depend on their content."""
    rng = np.random.default_rng(0)
    shape = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[dataset]
    images = Images(rng.integers(0, 256, (count, *shape), dtype=np.uint8), rng.integers(0, 10, count), None)
    return RunData(train=images, validation=None, test=images, classes=tuple("0123456789"), skipped=0)


# ---------------------------------------------------------------------- the ways to train
class Plain(Dataset):
    """The images in the usual form for a DataLoader."""

    def __init__(self, data: RunData) -> None:
        self.images, self.labels = data.train.images, data.train.given
        colour = self.images.shape[3] == 3
        crop = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if colour else []
        scale = transforms.Normalize((0.5,) * self.images.shape[3], (0.25,) * self.images.shape[3])
        self.transform = transforms.Compose([transforms.ToPILImage(), *crop, transforms.ToTensor(), scale])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[i]), int(self.labels[i])


class PlainLoop:
    """An eager loop with ivon-opt and a DataLoader; ``tuned`` adds bfloat16 autocast and channels_last."""

    def __init__(self, config: RunConfig, data: RunData, device: torch.device, workers: int, tuned: bool) -> None:
        self.device, self.tuned = device, tuned
        self.batch_size = config.batch_size
        channels = data.train.images.shape[3]
        model = build(config.model, 10, in_channels=channels, image_size=data.train.images.shape[1]).to(device)
        self.model = model.to(memory_format=torch.channels_last) if tuned else model
        self.optimizer = ivon.IVON(self.model.parameters(), lr=config.lr, ess=len(data.train), weight_decay=1e-3)
        self.loader = DataLoader(
            Plain(data),
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )
        self.batches: Iterator[Any] = iter(())

    def step(self) -> None:
        try:
            images, labels = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            images, labels = next(self.batches)
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        if self.tuned:
            images = images.to(memory_format=torch.channels_last)
        with self.optimizer.sampled_params(train=True):
            self.optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16) if self.tuned else nullcontext():
                loss = F.cross_entropy(self.model(images), labels)
            loss.backward()
        self.optimizer.step()


class Engine:
    """The engine, step by step."""

    def __init__(self, config: RunConfig, data: RunData, device: torch.device, **how: bool) -> None:
        self.trainer = Trainer(config, data, device, **how)
        if self.trainer.note:
            print(f"  {self.trainer.note}")
        self.batch_size = config.batch_size
        self.total = self.trainer.config.epochs * self.trainer.steps_per_epoch
        self.taken = 0

    def step(self) -> None:
        if self.taken % self.trainer.steps_per_epoch == 0:
            self.trainer.batches.start(self.taken // self.trainer.steps_per_epoch, 0)
        self.trainer.step(self.taken % self.total)
        self.taken += 1


def images_per_second(thing: Any, device: torch.device, seconds: float) -> float:
    """Return the throughput over about this many seconds; waits for the device at both ends."""
    synchronize(device)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            thing.step()
        steps += 10
        synchronize(device)
    return steps * thing.batch_size / (time.perf_counter() - began)


# ---------------------------------------------------------------------- ceilings
def flops_per_image(config: RunConfig, data: RunData) -> float:
    """Return the floating-point operations of a forward and backward pass, per image."""
    size, channels = data.train.images.shape[1], data.train.images.shape[3]
    model = build(config.model, 10, in_channels=channels, image_size=size)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(torch.randn(2, channels, size, size)), torch.tensor([0, 1])).backward()
    return counter.get_total_flops() / 2


def matrix_peak(device: torch.device) -> float:
    """Return the FLOP/s of a large bfloat16 matrix product, the median of ten."""
    n = 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(12):
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        times.append(time.perf_counter() - began)
    return 2 * n**3 / statistics.median(times[2:])


# ---------------------------------------------------------------------- several runs side by side
def side_by_side(count: int, config: RunConfig, device: torch.device, seconds: float, **how: bool) -> float:
    """Return the images a second of ``count`` runs together, each with its own thread and stream in this process."""
    data, barrier = made_up(config.dataset), threading.Barrier(count)

    def one(_: int) -> float:
        with _own_stream(str(device)):
            thing = Engine(config, data, device, **how)
            images_per_second(thing, device, seconds / 2)
            barrier.wait(300)
            return images_per_second(thing, device, seconds)

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(one, range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, help="of the timing (7)")
    parser.add_argument("--seconds", type=float, help="of each measurement (3)")
    parser.add_argument("--quick", action="store_true", help="one short round, to try the script")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="add the engine with a compiled network",
    )
    parser.add_argument("--workers", type=int, default=None, help="processes of the plain loop's DataLoader")
    parser.add_argument("--side-by-side", type=int, nargs="*", help="numbers of runs (2 and 4 on a GPU)")
    add_output(parser)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    cuda = device.type == "cuda"
    usual: dict[str, Any] = {"rounds": 7, "seconds": 3.0, "compile": cuda, "side_by_side": [2, 4] if cuda else []}
    usual |= {"rounds": 1, "seconds": 0.2} if arguments.quick else {}
    for name, value in usual.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    workers = arguments.workers if arguments.workers is not None else (8 if cuda else 2)
    results = {
        dataset: compare(dataset, device, workers, arguments)
        for dataset in (["cifar10"] if cuda else ["digits", "mnist"])
    }
    write_record(
        arguments.output / f"training-{device.type}.json",
        __doc__,
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        rounds=arguments.rounds,
        quick=arguments.quick,
        workers_of_the_plain_loop=workers,
        **results,
    )


def compare(dataset: str, device: torch.device, workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the throughput of each way to train on images of a data set's size."""
    cuda = device.type == "cuda"
    config = RunConfig(dataset=dataset, method="ivon", batch_size=50, epochs=200).resolved()
    data = made_up(dataset)
    sgd = RunConfig(dataset=dataset, method="sgd", batch_size=50, epochs=200).resolved()
    things: dict[str, Any] = {
        PLAIN: PlainLoop(config, data, device, workers, tuned=False),
        ENGINE: Engine(config, data, device),
        "engine, plain SGD": Engine(sgd, data, device),
    }
    if arguments.compile:
        things[COMPILED] = Engine(config, data, device, compile=True)
    if cuda:
        things["plain loop, bfloat16, channels_last"] = PlainLoop(config, data, device, workers, tuned=True)
        things["engine without CUDA graph"] = Engine(config, data, device, cuda_graph=False)
    measured: dict[str, list[float]] = {name: [] for name in things}
    for round_ in range(arguments.rounds + 1):  # the first warms up
        for name, thing in things.items():
            speed = images_per_second(thing, device, arguments.seconds)
            if round_:
                measured[name].append(speed)
    speeds = {name: statistics.median(values) for name, values in measured.items()}
    size = data.train.images.shape[1]
    what = f"{config.model}, {size}×{size} pixels, batch {config.batch_size}"
    print(f"{what}, {device}: medians of {arguments.rounds} alternating rounds")
    for name, speed in sorted(speeds.items(), key=lambda item: item[1]):
        spread = f"{min(measured[name]):,.0f}-{max(measured[name]):,.0f}"
        print(f"  {name:<38}{speed:>10,.0f} images/s  ({spread})  x {speed / speeds[PLAIN]:.2f}")
    flops = flops_per_image(config, data)
    found = {"model": config.model, "batch_size": config.batch_size, "flops_per_image": flops}
    found |= {"images_per_second": measured, "medians": speeds, "ratio": speeds[ENGINE] / speeds[PLAIN]}
    del things
    speed = speeds.get(COMPILED, speeds[ENGINE])  # of the paper's runs on a GPU
    if cuda:
        found |= on_gpu(speed, flops, device)
    if arguments.side_by_side:
        together = {1: speed}
        for count in arguments.side_by_side:
            together[count] = side_by_side(count, config, device, 2 * arguments.seconds, compile=arguments.compile)
        hours = {count: value * 3600 / PAPER_IMAGES for count, value in together.items()}
        for count, value in together.items():
            print(f"  {count} runs side by side {value:,.0f} images/s, {hours[count]:.1f} runs of the paper an hour")
        found |= {"side_by_side_images_per_second": together, "runs_an_hour": hours}
    return found


def on_gpu(speed: float, flops: float, device: torch.device) -> dict[str, float]:
    """Return epoch and run times, and the share of the matrix peak."""
    peak = matrix_peak(device)
    print(f"  matrix peak {peak / 1e12:.0f} TFLOP/s; {flops / 1e9:.2f} GFLOP an image; used {speed * flops / peak:.1%}")
    print(f"  an epoch of 50,000 images {50_000 / speed:.1f} s, 200 epochs {PAPER_IMAGES / speed / 60:.1f} min")
    return {
        "matrix_peak_flops": peak,
        "share_of_peak": speed * flops / peak,
        "epoch_seconds": 50_000 / speed,
        "run_minutes": PAPER_IMAGES / speed / 60,
    }


if __name__ == "__main__":
    main()
