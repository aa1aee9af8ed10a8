"""What does a network's label noise cost, and how right is it?

    python benchmarks/bench_noise.py                      # every part; needs MNIST and CIFAR-10 ($VLLS_DATA)
    python benchmarks/bench_noise.py --skip resnet        # all but the longest part
    python benchmarks/bench_noise.py --quick              # a minute or two on few images, to try the script

The networks are trained by IVON on real images first: the 3-layer CNN on MNIST, ResNet-18 on CIFAR-10.

- speed: seconds for 256 images and 10 classes, methods in turn in every round of one process, on one thread; the table
  has medians and the ratio to the exact noise. Ours is the whole label noise with the push, and with curvature pairs
  unless the name says none; "covariance alone" and the competitors give the covariance of the logits only. All
  covariances must agree, and the table has their difference; rank r is compared along its r directions only.
  laplace-torch gets our variances as its posterior's (prior precision 1/variance, no Hessian), so that its diagonal
  Laplace is our posterior. It runs its own Jacobians and `functional_variance`, in chunks of the size that is fastest
  on 64 images, and with BackPACK also all images at once. Processor time is less disturbed by other programs.
- memory: peak above the resident state before, of a method in a separate process that has run two images before.
- error: relative rms error of magnitude, std and mean_shift, and Spearman's rho of magnitude, against Monte Carlo with
  4096 draws of the weights, with the standard error of the reference itself, from 8 groups of draws. Measured twice:
  with the standard deviations near their start at h0 = 0.9, and wider, after the decay of the paper's runs.
- resnet: the same for ResNet-18 after a short training; few images on a CPU, where the reference is slow.
- classes: milliseconds an example of rank 3 with the push and curvature pairs, for the 3-layer CNN with up to 1,000
  classes, not trained; one thread, medians of alternating rounds. Its record is `many-classes-DEVICE.json`.
- images: images a second of ResNet-18, not trained, on random images of 32 x 32 (1,024 on a GPU, 4 on a CPU).
- throughput: `vlls.rank_examples` with rank 3 for a whole training set, the 60,000 images of MNIST through the CNN on a
  CPU, the 50,000 of CIFAR-10 through ResNet-34 on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import math
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from memory import PeakMemory, resident_bytes
from noise_methods import ALSO, BACKPACK, OURS, Run, laplace_torch, methods, ours, quiet
from record import add_output, write_record
from torch import Tensor, nn

from vlls import DiagonalPosterior
from vlls.models import cnn3, resnet18
from vlls.noise import LabelNoise, label_noise_moments, logit_covariance, rank_examples
from vlls.train import RunConfig
from vlls.train._batches import normalize
from vlls.train._machine import synchronize
from vlls.train._prepare import Images, RunData, prepare
from vlls.train._trainer import Trainer, pixel_moments

PARTS = ("speed", "memory", "error", "resnet", "images", "throughput", "classes")
SLOW, SLOW_ROUNDS = 4.0, 3  # methods that take more seconds are measured in fewer rounds
CHUNKS = (1, 2, 4, 8, 16, 32)
MOMENTS = ("magnitude", "std", "mean_shift")
CLASSES = (10, 100, 1000)
GROUPS = 8  # of draws of the reference
AGREEMENT = {"cpu": 1e-4, "cuda": 3e-2}  # TF32 convolutions on a GPU


# ---------------------------------------------------------------------- networks
@dataclass
class Network:
    """A trained network, its posterior, and training images as it sees them."""

    model: nn.Module
    posterior: DiagonalPosterior
    data: RunData
    told: dict[str, Any]

    def images(self, count: int | None = None) -> Tensor:
        """Return the first training images, all if no number is given."""
        return self.seen(self.data.train, count)

    def seen(self, images: Images, count: int | None) -> Tensor:
        """Return the first of some images, as the network sees them."""
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(images.images[:count]).to(device)
        parts = [normalize(part, *pixel_moments(self.data.train, device)) for part in pixels.split(10_000)]
        return torch.cat(parts).contiguous()


def train(config: RunConfig, device: torch.device) -> Network:
    """Train a network and describe it."""
    config = config.resolved()
    data = prepare(config)
    trainer = Trainer(config, data, device)
    began = time.perf_counter()
    for step in range(config.epochs * trainer.steps_per_epoch):
        epoch, within = divmod(step, trainer.steps_per_epoch)
        if within == 0:
            trainer.epoch_sums()  # resets the last epoch's
            trainer.batches.start(epoch, 0)
        trainer.step(step)
    loss = trainer.epoch_sums()[0] / (trainer.steps_per_epoch * trainer.batches.batch_size)
    if not math.isfinite(loss):
        raise SystemExit(f"{config.model} did not learn: its loss is {loss}")
    seconds = time.perf_counter() - began
    model, posterior = trainer.model.eval(), trainer.optimizer.posterior(trainer.model)
    plain = DiagonalPosterior(*({n: t.contiguous() for n, t in own.items()} for own in (posterior.mean, posterior.std)))
    network = Network(model.to(memory_format=torch.contiguous_format), plain, data, {})
    network.told = {
        "model": config.model,
        "dataset": config.dataset,
        "train_size": len(data.train),
        "epochs": config.epochs,
        "lr": config.lr,
        "ess": config.ess,
        "hess_init": config.hess_init,
        "beta2": config.beta2,
        "train_loss": loss,
        "test_accuracy": accuracy(network, 1000),
        "training_seconds": seconds,
    }
    sizes = f"{len(data.train):,} images of {config.dataset}, {config.epochs} epochs, {seconds:.0f} s"
    print(f"{config.model}: {sizes}, test accuracy {network.told['test_accuracy']:.3f}", flush=True)
    return network


@torch.no_grad()
def accuracy(network: Network, count: int) -> float:
    """Return the accuracy of the mean of the weights on the first test images."""
    x = network.seen(network.data.test, count)
    found = torch.cat([network.model(part).argmax(1) for part in x.split(250)]).cpu()
    return float((found == torch.from_numpy(network.data.test.given[:count])).float().mean())


# ---------------------------------------------------------------------- speed
def seconds(run: Run, x: Tensor) -> tuple[float, float, Any]:
    """Return the wall time of one call, its processor time, and its result."""
    synchronize(x.device)
    began, busy = time.perf_counter(), time.process_time()
    result = run(x)
    synchronize(x.device)
    return time.perf_counter() - began, time.process_time() - busy, result


def best_chunks(network: Network, x: Tensor) -> dict[str, int]:
    """Return the chunk size with which laplace-torch is fastest, for each backend."""
    best = {}
    for backend in ("BackPACK", "default"):
        times: dict[int, float] = {}
        for chunk in CHUNKS:
            if times and min(times.values()) < 0.5 * times[max(times)]:  # it is long past its best
                break
            run = laplace_torch(network.model, network.posterior, backend, chunk)
            run(x[:2])
            times[chunk] = seconds(run, x)[0]
        best[backend] = min(times, key=lambda chunk: times[chunk])
        shown = ", ".join(f"{chunk}: {1e3 * t:.0f}" for chunk, t in times.items())
        print(f"  laplace-torch {backend}, ms for {len(x)} images by size of the chunk: {shown}", flush=True)
    return best


def measure_speed(network: Network, x: Tensor, rounds: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Measure times by alternating rounds, and how far the covariances agree with ours."""
    print(f"speed: {len(x)} images, {torch.get_num_threads()} thread(s)", flush=True)
    chunks = best_chunks(network, x[:64])
    runs = {name: make() for name, make in methods(network.model, network.posterior, chunks).items()}
    exact = logit_covariance(network.model, network.posterior, x)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    rounds_of, differences = {}, {}
    for name, run in runs.items():  # a round to warm up and to compare results
        first, _, result = seconds(run, x)
        differences[name] = disagreement(name, result, exact)
        rounds_of[name] = min(rounds, SLOW_ROUNDS) if first > SLOW else rounds
        del result
    for round_ in range(rounds):
        for name, run in runs.items():
            if round_ < rounds_of[name]:
                times[name].append(seconds(run, x)[:2])
    middle = {name: [statistics.median(column) for column in zip(*taken, strict=True)] for name, taken in times.items()}
    rows = {}
    for name, taken in times.items():
        walls = [wall for wall, _ in taken]
        rows[name] = {
            "ms": 1e3 * middle[name][0],
            "over_exact": middle[name][0] / middle["exact"][0],
            "processor_ms": 1e3 * middle[name][1],
            "least_ms": 1e3 * min(walls),
            "most_ms": 1e3 * max(walls),
            "rounds": len(walls),
            "disagreement": differences[name],
        }
    return rows, chunks


def disagreement(name: str, result: Tensor | LabelNoise, exact: Tensor) -> float | None:
    """Return the relative difference of the logits' covariance from the exact one; for rank r, along its r directions.

    99 of 100 examples differ less: at the kink of a ReLU or of a maximum, rounding decides which side's gradient is
    taken. None if the method draws at random.
    """
    options = OURS.get(name, {"method": "exact"})
    if options["method"] in ("direction", "monte_carlo"):
        return None
    found = (result if isinstance(result, Tensor) else result.logit_covariance).double()
    exact = exact.double()
    if options["method"] == "rank":
        ways = torch.linalg.eigh(found)[1][..., -options["rank"] :]
        exact = ways @ (ways.mT @ exact @ ways) @ ways.mT
    apart = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    difference = float(apart.quantile(0.99))
    if not difference < AGREEMENT[found.device.type]:
        raise SystemExit(f"{name} gives another covariance: relative difference {difference:.2g}")
    return difference


# ---------------------------------------------------------------------- memory
def measure_memory(network: Network, x: Tensor, chunks: dict[str, int]) -> dict[str, float]:
    """Return the peak MB of each method above the resident state before it, each in a separate process."""
    context, found = multiprocessing.get_context("spawn"), {}
    print(f"memory: {len(x)} images", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt"
        posterior = network.posterior
        torch.save((network.model, posterior.mean, posterior.std, x), path)
        for name in methods(network.model, posterior, chunks):
            with context.Pool(1) as pool:
                found[name] = pool.apply(peak_bytes, (name, str(path), chunks)) / 1e6
    return found


def peak_bytes(name: str, path: str, chunks: dict[str, int]) -> float:
    """Return the peak of one method's memory above the memory before, on one thread of this process."""
    torch.set_num_threads(1)
    quiet()
    model, mean, std, x = torch.load(path, weights_only=False)
    run = methods(model, DiagonalPosterior(mean, std), chunks)[name]()
    run(x[:2])  # loads libraries
    if x.device.type == "cuda":
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        run(x)
        return torch.cuda.max_memory_allocated(x.device) - before
    with contextlib.suppress(OSError, AttributeError):  # glibc's: release freed memory before measuring
        ctypes.CDLL(None).malloc_trim(0)
    before = resident_bytes()
    with PeakMemory() as memory:
        run(x)
    return memory.peak - before


# ---------------------------------------------------------------------- error
@dataclass
class Reference:
    """Moments of the noise by Monte Carlo, and their standard errors."""

    values: dict[str, Tensor]
    errors: dict[str, Tensor]
    seconds: float


def reference(network: Network, x: Tensor, draws: int) -> Reference:
    """Return Monte Carlo moments with many draws of the weights, in groups whose spread gives the standard error."""
    each = max(2, draws // GROUPS)
    began = time.perf_counter()
    groups = []
    for group in range(GROUPS):
        generator = torch.Generator(x.device).manual_seed(1 + group)
        noise = label_noise_moments(
            network.model, network.posterior, x, method="monte_carlo", num_samples=each, generator=generator
        )
        groups.append({name: getattr(noise, name).double() for name in MOMENTS})
        if group == 0:
            synchronize(x.device)
            print(f"  reference: about {GROUPS * (time.perf_counter() - began):.0f} s", flush=True)
    stacked = {name: torch.stack([g[name] for g in groups]) for name in MOMENTS}
    shift = stacked["mean_shift"].mean(0)
    square = (stacked["std"].square() * (each - 1) / each + stacked["mean_shift"].square()).mean(0)
    n = each * GROUPS
    values = {
        "magnitude": stacked["magnitude"].square().mean(0).sqrt(),
        "std": ((square - shift.square()).clamp_min(0) * n / (n - 1)).sqrt(),
        "mean_shift": shift,
    }
    errors = {name: column.std(0) / math.sqrt(GROUPS) for name, column in stacked.items()}
    synchronize(x.device)
    return Reference(values, errors, time.perf_counter() - began)


def measure_error(network: Network, count: int, draws: int) -> dict[str, Any]:
    """Return relative rms errors and rank correlation of each of our methods."""
    x = network.images(count)
    print(f"error: {network.told['model']}, {len(x)} images, reference of {draws} draws", flush=True)
    true = reference(network, x, draws)
    of_reference = {name: _rms(true.errors[name]) / _rms(true.values[name]) for name in MOMENTS}
    rows = {}
    for number, (name, options) in enumerate((OURS | ALSO).items()):
        generator = torch.Generator(x.device).manual_seed(1000 + number)
        run = ours(network.model, network.posterior, {**options, "generator": generator})
        took, _, noise = seconds(run, x)
        row = {m: _rms(getattr(noise, m).double() - true.values[m]) / _rms(true.values[m]) for m in MOMENTS}
        rows[name] = {**row, "spearman": spearman(noise.magnitude, true.values["magnitude"]), "seconds": took}
    magnitude = true.values["magnitude"]
    print(f"  magnitude: median {float(magnitude.median()):.3g}, largest {float(magnitude.max()):.3g}")
    print(f"  {'':<28}{'magnitude':>11}{'std':>9}{'mean_shift':>12}{'Spearman':>10}")
    head = "".join(f"{of_reference[m]:>{w}.4f}" for m, w in zip(MOMENTS, (11, 9, 12), strict=True))
    print(f"  {'reference, standard error':<28}{head}")
    for name, row in rows.items():
        print(
            f"  {name:<28}{row['magnitude']:>11.4f}{row['std']:>9.4f}{row['mean_shift']:>12.4f}{row['spearman']:>10.4f}"
        )
    return {
        **network.told,
        "images": len(x),
        "draws": max(2, draws // GROUPS) * GROUPS,
        "reference_seconds": true.seconds,
        "median_magnitude": float(magnitude.median()),
        "standard_error_of_reference": of_reference,
        "rows": rows,
    }


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def spearman(a: Tensor, b: Tensor) -> float:
    """Return the rank correlation."""
    ranks = torch.stack([column.argsort().argsort().double() for column in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


# ---------------------------------------------------------------------- throughput
def measure_throughput(network: Network, count: int | None, threads: list[int]) -> dict[str, Any]:
    """Return the seconds for a whole training set with rank 3; the best number of threads counts."""
    x = network.images(count)
    labels = network.data.train.given[: len(x)]
    times = {}
    for number in threads:
        torch.set_num_threads(number)
        rank_examples(network.model, network.posterior, x[:256], labels[:256])
        times[number] = seconds(lambda x: rank_examples(network.model, network.posterior, x, labels), x)[0]
    best = min(times.values())
    told = ", ".join(f"{number} thread(s) {took:.1f} s" for number, took in times.items())
    print(f"throughput: {network.told['model']}, {len(x):,} images, rank 3: {told}; {len(x) / best:,.0f} images/s")
    return {
        "model": network.told["model"],
        "images": len(x),
        "seconds_by_threads": times,
        "images_per_second": len(x) / best,
    }


# ---------------------------------------------------------------------- many classes
def measure_classes(device: torch.device, images: int, rounds: int) -> list[dict[str, float]]:
    """Return the milliseconds an example by number of classes, of the whole label noise with rank 3."""
    runs, times = {}, {}
    for number in CLASSES:
        torch.manual_seed(0)
        model = cnn3(number).to(device).eval()
        mean = {name: p.detach().clone() for name, p in model.named_parameters()}
        posterior = DiagonalPosterior(mean, {name: torch.full_like(p, 0.02) for name, p in mean.items()})
        runs[number], times[number] = ours(model, posterior, OURS["rank 3"]), []
    x = torch.randn(images, 1, 28, 28, device=device)
    for run in runs.values():
        run(x[:2])
    for _ in range(rounds):
        for number, run in runs.items():
            times[number].append(seconds(run, x)[:2])
    print(f"classes: {images} images, rank 3, {torch.get_num_threads()} thread(s)")
    rows = []
    for number, taken in times.items():
        wall, busy = (1e3 * statistics.median(column) / images for column in zip(*taken, strict=True))
        print(f"  {number:>5} classes: {wall:.2f} ms an example, {busy:.2f} ms of the processor")
        rows.append({"classes": number, "ms_an_example": wall, "processor_ms_an_example": busy})
    return rows


# ---------------------------------------------------------------------- a network of the paper's size
def measure_images(device: torch.device, count: int, rounds: int) -> dict[str, float]:
    """Return the images a second of ResNet-18, by method."""
    torch.manual_seed(0)
    model = resnet18(10).to(device).eval()
    mean = {name: p.detach().clone() for name, p in model.named_parameters()}
    posterior = DiagonalPosterior(mean, {name: torch.full_like(p, 1e-3) for name, p in mean.items()})
    x = torch.randn(count, 3, 32, 32, device=device)
    runs = {
        name: ours(model, posterior, OURS[name]) for name in ("exact", "rank 3", "monte carlo, 16 draws", "direction")
    }
    for run in runs.values():
        run(x[:2])
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, x)[0])
    speeds = {name: count / statistics.median(taken) for name, taken in times.items()}
    print(f"images: ResNet-18, {count} images: " + ", ".join(f"{name} {v:,.0f}/s" for name, v in speeds.items()))
    return speeds


# ---------------------------------------------------------------------- goals
def goals(speed: dict[str, Any] | None, memory: dict[str, Any] | None, error: dict[str, Any] | None) -> list[dict]:
    """Return the goals for label noise, and whether they are met."""
    others = [name for name in speed or {} if name.startswith("laplace-torch")]
    best = min(others, key=lambda name: speed[name]["ms"], default=BACKPACK)

    def faster(name: str, than: str) -> float | None:
        return speed[than]["ms"] / speed[name]["ms"] if speed else None

    def off(name: str) -> float | None:
        return error["rows"][name]["magnitude"] if error else None

    wanted: list[tuple[str, float | None, str, float | None]] = [
        (f"exact, no pairs, times faster than {BACKPACK}", faster("exact, no pairs", BACKPACK), ">=", 5.0),
        (f"exact, times faster than {BACKPACK}", faster("exact", BACKPACK), ">=", 5.0),
        ("exact, peak MB", memory["exact"] if memory else None, "<=", 100.0),
        ("exact, no pairs, error of magnitude", off("exact, no pairs"), "<=", 0.03),
        ("exact, error of magnitude", off("exact"), "<=", 0.03),
        (f"rank 3, no pairs, times faster than {BACKPACK}", faster("rank 3, no pairs", BACKPACK), ">=", 14.0),
        (f"rank 3, times faster than {BACKPACK}", faster("rank 3", BACKPACK), ">=", 14.0),
        ("rank 3, no pairs, error of magnitude", off("rank 3, no pairs"), "<=", 0.05),
        ("rank 3, error of magnitude", off("rank 3"), "<=", 0.05),
        (f"exact, times faster than {best}", faster("exact", best), ">=", None),
        (f"rank 3, times faster than {best}", faster("rank 3", best), ">=", None),
    ]
    found = []
    print("goals")
    for what, value, sign, bound in wanted:
        met = None if value is None or bound is None else (value >= bound if sign == ">=" else value <= bound)
        verdict = "not measured" if value is None else "no goal" if bound is None else "met" if met else "not met"
        number = "-" if value is None else f"{value:.3g}"
        goal = "" if bound is None else f"{sign} {bound:g}"
        print(f"  {what:<62}{number:>8}  {goal:<8}{verdict}")
        found.append({"what": what, "value": value, "goal": goal, "met": met})
    return found


def print_costs(speed: dict[str, Any], memory: dict[str, float] | None) -> None:
    """Print the table of times and memory."""
    print(f"  {'':<36}{'ms':>7}{'x exact':>9}{'processor ms':>14}{'rounds':>8}{'peak MB':>9}{'disagreement':>14}")
    for name, row in sorted(speed.items(), key=lambda item: item[1]["ms"]):
        peak = f"{memory[name]:.0f}" if memory else "-"
        apart = "-" if row["disagreement"] is None else f"{row['disagreement']:.1e}"
        taken = f"{row['ms']:>7.0f}{row['over_exact']:>9.2f}{row['processor_ms']:>14.0f}{row['rounds']:>8}"
        print(f"  {name:<36}{taken}{peak:>9}{apart:>14}")


# ---------------------------------------------------------------------- the whole
def arguments_of() -> argparse.Namespace:
    """Return the command line's arguments; defaults depend on the device and on --quick."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, help="of the timing (7)")
    parser.add_argument("--skip", nargs="+", default=[], choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--images", type=int, help="of speed, memory and error (256)")
    parser.add_argument("--draws", type=int, help="of the reference of the CNN (4096)")
    parser.add_argument("--epochs", type=int, default=2, help="of the CNN's training")
    parser.add_argument("--train-size", type=int, help="images of the CNN's training (all)")
    parser.add_argument("--resnet-images", type=int, help="for the error of ResNet-18 (16; 256 on a GPU)")
    parser.add_argument("--resnet-draws", type=int, help="of its reference (4096)")
    parser.add_argument("--resnet-epochs", type=int, help="of its training (4; 20 on a GPU)")
    parser.add_argument("--resnet-train-size", type=int, help="images of its training (2000; all on a GPU)")
    parser.add_argument("--throughput-images", type=int, help="to be ordered (all)")
    add_output(parser)
    arguments = parser.parse_args()
    usual = {"rounds": 7, "images": 256, "draws": 4096, "resnet_draws": 4096}
    usual |= {"resnet_images": 16, "resnet_epochs": 4, "resnet_train_size": 2000}
    if arguments.device == "cuda":
        usual |= {"resnet_images": 256, "resnet_epochs": 20, "resnet_train_size": None}
    if arguments.quick:
        usual |= {"rounds": 1, "images": 32, "draws": 256, "train_size": 3000, "throughput_images": 1000}
        usual |= {"resnet_images": 4, "resnet_draws": 16, "resnet_epochs": 1, "resnet_train_size": 100}
    for name, value in usual.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    missing = [name for name in ("laplace", "backpack") if importlib.util.find_spec(name) is None]
    if missing and not {"speed", "memory"} <= set(arguments.skip):
        parser.error(
            f"{' and '.join(missing)} cannot be imported; pip install 'vlls[bench]', or leave out what needs it: "
            "--skip speed memory"
        )
    return arguments


def small(arguments: argparse.Namespace, beta2: float | None = 0.99999) -> RunConfig:
    """Return the config of the 3-layer CNN; with ``beta2=None`` the Hessian's start decays as in the paper's runs."""
    size = {"train_size": arguments.train_size, "epochs": arguments.epochs, "ess": 60_000.0}
    return RunConfig(dataset="mnist", method="ivon", model="cnn3", hess_init=0.9, beta2=beta2, **size)


def resnet(arguments: argparse.Namespace, model: str) -> RunConfig:
    """Return the config of a ResNet's short training with the paper's hyperparameters for IVON."""
    size = {"train_size": arguments.resnet_train_size, "epochs": arguments.resnet_epochs, "ess": 50_000.0}
    peak = {"lr": 0.2, "hess_init": 0.9, "weight_decay": 1e-3, "schedule": "cosine"}
    warmup = min(5.0, arguments.resnet_epochs / 4)
    return RunConfig(dataset="cifar10", method="ivon", model=model, warmup_epochs=warmup, **size, **peak)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all parts that are not skipped."""
    device, threads = torch.device(arguments.device), torch.get_num_threads()
    cuda, wanted = device.type == "cuda", set(PARTS) - set(arguments.skip)
    found: dict[str, Any] = {}
    speed = memory = error = network = None
    if wanted & {"speed", "memory", "error"} or ("throughput" in wanted and not cuda):
        network = train(small(arguments), device)
        found["network"] = network.told
    if network is not None and wanted & {"speed", "memory"}:
        x = network.images(arguments.images)
        torch.set_num_threads(1)
        if "speed" in wanted:
            speed, chunks = measure_speed(network, x, arguments.rounds)
        else:
            chunks = {"BackPACK": 16, "default": 1}  # about the best
        memory = measure_memory(network, x, chunks) if "memory" in wanted else None
        torch.set_num_threads(threads)
        if speed:
            print_costs(speed, memory)
        else:
            print("".join(f"  {name:<36}{peak:>7.0f} MB\n" for name, peak in (memory or {}).items()), end="")
        found |= {"images": len(x), "speed": speed, "peak_megabytes": memory}
    if network is not None and "error" in wanted:
        found["error"] = error = measure_error(network, arguments.images, arguments.draws)
        wider = train(small(arguments, beta2=None), device)
        found["network_wider"] = wider.told
        found["error_wider"] = measure_error(wider, arguments.images, arguments.draws)
    if "resnet" in wanted:
        deep = train(resnet(arguments, "resnet18"), device)
        found["error_resnet18"] = measure_error(deep, arguments.resnet_images, arguments.resnet_draws)
    if "images" in wanted:
        count = 8 if arguments.quick else 1024 if cuda else 4
        found["images_per_second_resnet18"] = measure_images(device, count, min(3, arguments.rounds))
    if "throughput" in wanted:
        if cuda:
            network = train(resnet(arguments, "resnet34"), device)
        numbers = [threads] if cuda else sorted({1, threads})
        found["throughput"] = measure_throughput(network, arguments.throughput_images, numbers)
        torch.set_num_threads(threads)
    return found and {**found, "goals": goals(speed, memory, error)}


def main() -> None:
    arguments = arguments_of()
    quiet()
    cuda = arguments.device == "cuda"
    told = {"device": torch.cuda.get_device_name() if cuda else "cpu", "quick": arguments.quick}
    if found := measure(arguments):
        path = arguments.output / f"noise-{arguments.device}.json"
        write_record(path, __doc__, **told, threads_of_speed_and_memory=1, **found)
    if "classes" not in arguments.skip:
        torch.set_num_threads(1)
        rows = measure_classes(torch.device(arguments.device), min(64, arguments.images), arguments.rounds)
        write_record(arguments.output / f"many-classes-{arguments.device}.json", __doc__, **told, rows=rows)


if __name__ == "__main__":
    main()
