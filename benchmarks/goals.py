"""The numbers of the benchmarks' records that the book shows, and the project's goals for them (appendix on cost)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

__all__ = ["QUANTITIES", "Quantity"]

Step = str | tuple[str, Any] | Callable[[Any], Any]
KeyPath = tuple[Step, ...]


@dataclass(frozen=True)
class Quantity:
    """A number of a record, or the ratio of two.

    Attributes:
        record: the file's name without ``.json``.
        what: the subject; quantities with the same ``what`` have the same unit and are drawn together.
        name: the method or setting that the number belongs to.
        unit: the unit.
        path: steps to the number: a key, a pair (key, value) that picks a row of a list, or a function.
        over: steps to the number that it is divided by, if any.
        goal: the project's own bound, if any.
        stretch: a harder bound, if any.
        at_least: whether the goal is a lower bound.
    """

    record: str
    what: str
    name: str
    unit: str
    path: KeyPath
    over: KeyPath = ()
    goal: float | None = None
    stretch: float | None = None
    at_least: bool = False


# ---------------------------------------------------------------------- the numbers
def _optimizer(device: str) -> Iterable[Quantity]:
    record, where = f"optimizer-{device}", "CPU" if device == "cpu" else "GPU"
    context, closure, kept = (f"ivon fused, {how}" for how in ("context", "closure", "kept"))
    plain = "ivon single, context" if device == "cpu" else "ivon foreach, context"
    names = {
        "sgd fused": "SGD, fused",
        "adamw foreach": "AdamW, foreach",
        "sam": "SAM over fused SGD",
        kept: "IVON fused, keep_sampled",
        closure: "IVON fused, step(closure)",
        context: "IVON fused, sampled_params",
        plain: "IVON, fused=False",
        "ivon-opt": "ivon-opt",
    }
    goals: dict[str, tuple[float, float | None]]
    goals = {name: (4.0, 2.0) for name in (kept, closure, context, plain)}
    if device != "cpu":
        goals = {context: (3.0, None), closure: (1.35, 1.15)}
    for method, name in names.items():
        row: KeyPath = ("rows", ("method", method))
        goal, stretch = goals.get(method, (None, None))
        what = f"step over AdamW fused, {where}"
        yield Quantity(record, what, name, "×", (*row, "over_adamw_fused"), goal=goal, stretch=stretch)
        goal, stretch = (16.0, 12.0) if method.startswith("ivon ") else (None, None)
        what = f"memory beyond parameters and gradients, {where}"
        yield Quantity(record, what, name, "B/param", (*row, "peak_bytes_a_parameter"), goal=goal, stretch=stretch)
    for method in (kept, closure, context, plain):
        public: KeyPath = ("rows", ("method", "ivon-opt"), "ms")
        goal = 20.0 if device == "cpu" else None
        yield Quantity(
            record,
            f"step, faster than ivon-opt, {where}",
            names[method],
            "×",
            public,
            ("rows", ("method", method), "ms"),
            goal,
            at_least=True,
        )


def _evon(device: str) -> Iterable[Quantity]:
    where = "CPU" if device == "cpu" else "GPU"
    for network in ("cnn3", "resnet34") if device == "cpu" else ("resnet34",):

        def rows(found: Any, network: str = network) -> Any:
            return [row for row in found if row["network"] == network]

        short = ("evon: step in short", "products in short") if device == "cpu" else ()  # no GPU has measured them yet
        for method in ("evon, interval 100", "products", *short, "soap-like"):
            what = f"step over IVON fused, {network}, {where}"
            path: KeyPath = ("rows", rows, ("method", method), "over_ivon_fused")
            goal = 4.0 if method.startswith("evon,") else None
            yield Quantity(f"evon-{device}", what, method, "×", path, goal=goal)
        if network == "resnet34":
            what = f"peak memory beside weights and gradients, {network}, {where}"
            for method, goal in (("evon, interval 100", 5.0), ("ivon fused", None)):
                path = ("rows", rows, ("method", method), "floats_a_parameter")
                yield Quantity(f"evon-{device}", what, method, "floats a weight", path, goal=goal)


def _fastest_laplace(speed: Mapping[str, Any]) -> Any:
    return min(row["ms"] for name, row in speed.items() if name.startswith("laplace-torch"))


def _noise(device: str) -> Iterable[Quantity]:
    record, where = f"noise-{device}", "CPU" if device == "cpu" else "GPU"
    ours = ("exact", "exact, no pairs", "rank 3", "rank 3, no pairs", "direction", "monte carlo, 64 draws")
    others, backpack = ("torch.func vmap(jacrev)", "loop of autograd.grad"), "laplace-torch BackPACK"
    for name in (*ours, *others):
        goal = 14.0 if name.startswith("rank") else 5.0 if name.startswith("exact") else None
        paths: tuple[KeyPath, KeyPath] = ("speed", backpack, "ms"), ("speed", name, "ms")
        yield Quantity(record, f"label noise, faster than BackPACK, {where}", name, "×", *paths, goal, at_least=True)
    yield Quantity(
        record,
        f"label noise, faster than BackPACK, {where}",
        "laplace-torch at its fastest",
        "×",
        ("speed", backpack, "ms"),
        ("speed", _fastest_laplace),
        at_least=True,
    )
    for name in (*ours, *others, backpack):
        goal = 100.0 if name.startswith("exact") and device == "cpu" else None  # a GPU may take more by default
        yield Quantity(record, f"label noise, peak memory, {where}", name, "MB", ("peak_megabytes", name), goal=goal)
    for name in ours:
        goal = 0.03 if name.startswith("exact") else 0.05 if name.startswith("rank") else None
        path: KeyPath = ("error", "rows", name, "magnitude")
        yield Quantity(record, f"label noise, relative error of its size, {where}", name, "", path, goal=goal)
    path = ("throughput", "images_per_second")
    yield Quantity(
        record, f"label noise of a training set, {where}", "rank_examples, rank 3", "images/s", path, at_least=True
    )


def _images() -> Iterable[Quantity]:
    for name, goal in (("exact", 1500.0), ("rank 3", 3000.0), ("monte carlo, 16 draws", None), ("direction", None)):
        path: KeyPath = ("images_per_second_resnet18", name)
        stretch = None if goal is None else 2 * goal
        what = "label noise of ResNet-18, GPU"
        yield Quantity("noise-cuda", what, name, "images/s", path, goal=goal, stretch=stretch, at_least=True)


def _host(device: str) -> Iterable[Quantity]:
    where = "CPU" if device == "cpu" else "GPU"
    for method, goal in (("ivon default, context", 3.0), ("ivon default, closure", 3.0), ("ivon fused, kept", None)):
        path: KeyPath = ("rows", ("method", method), "over_adamw_fused")
        what, name = f"host's time of a step over AdamW fused, {where}", method.replace("ivon", "IVON")
        yield Quantity(f"optimizer-host-{device}", what, name, "×", path, goal=goal)


def _classes(device: str) -> Iterable[Quantity]:
    where, time = ("one core", "processor_ms_an_example") if device == "cpu" else ("GPU", "ms_an_example")
    for number in (10, 100, 1000):
        path: KeyPath = ("rows", ("classes", number), time)
        goal, stretch = (30.0, 10.0) if number == 1000 and device == "cpu" else (None, None)
        what, name = f"label noise of rank 3 by the number of classes, {where}", f"{number:,} classes"
        yield Quantity(f"many-classes-{device}", what, name, "ms/example", path, goal=goal, stretch=stretch)


def _most(numbers: Mapping[str, Any]) -> Any:
    """Return the largest throughput of several runs side by side."""
    return max(value for count, value in numbers.items() if int(count) > 1)


def _training(device: str) -> Iterable[Quantity]:
    record, where = f"training-{device}", "CPU" if device == "cpu" else "GPU"
    sets = {"digits": "8×8 pixels", "mnist": "28×28 pixels"}
    for dataset, name in (sets if device == "cpu" else {"cifar10": "ResNet-34, 32×32"}).items():
        engine: KeyPath = (dataset, "medians", "engine")
        yield Quantity(record, f"training, {where}", name, "images/s", engine, at_least=True)
        if device != "cpu":
            path: KeyPath = (dataset, "medians", "engine, compiled network")
            yield Quantity(record, f"training, {where}", f"{name}, compiled", "images/s", path, at_least=True)
        plain: KeyPath = (dataset, "medians", "plain loop, ivon-opt, DataLoader")
        goal, stretch = (5.0, 10.0) if device != "cpu" else (None, None)
        what = f"training, over a plain loop with ivon-opt, {where}"
        yield Quantity(record, what, name, "×", engine, plain, goal, stretch, at_least=True)
        sgd: KeyPath = (dataset, "medians", "engine, plain SGD")
        yield Quantity(record, f"training, time of IVON over SGD, {where}", name, "×", sgd, engine)
        if device != "cpu":
            minutes = (dataset, "run_minutes")
            yield Quantity(record, "a run of the paper, GPU", name, "min", minutes, goal=10.0, stretch=6.0)
            best: KeyPath = (dataset, "runs_an_hour", _most)
            what = "runs an hour, paper's size, GPU"
            yield Quantity(record, what, "side by side", "runs/h", best, goal=10.0, stretch=15.0, at_least=True)


def _sweep(device: str) -> Iterable[Quantity]:
    record, where = f"sweep-{device}", "CPU" if device == "cpu" else "GPU"
    one: KeyPath = ("median_runs_per_hour", "1")
    ways: dict[str, KeyPath] = {
        "in processes": ("median_runs_per_hour", _most),
        "in threads": ("median_runs_per_hour_in_threads", _most),
    }
    yield Quantity(record, f"sweep, {where}", "one at a time", "runs/h", one, at_least=True)
    for way, many in ways.items():
        yield Quantity(record, f"sweep, {where}", f"side by side, {way}", "runs/h", many, at_least=True)
    for way, many in ways.items():
        what = f"sweep, gain of side by side, {where}"
        yield Quantity(record, what, way, "×", many, one, at_least=True)


def _glm() -> Iterable[Quantity]:
    for power in (3, 4, 5, 6):
        n = 10**power
        row: KeyPath = ("rows", ("n", n))
        goal, stretch = (3.0, 1.5) if power == 5 else (None, None)
        name, what = f"N = {n:,}", "GLM, VON over Newton"
        yield Quantity("glm", what, name, "×", (*row, "von_over_newton"), goal=goal, stretch=stretch)
        if power < 6:
            what = "GLM, Monte Carlo of 1000 draws over VON"
            yield Quantity("glm", what, name, "×", (*row, "monte_carlo_over_von"), at_least=True)
        yield Quantity("glm", "GLM, memory over that of the features", name, "×", (*row, "memory_over_features"))
    large: KeyPath = ("rows", ("n", 10**6), "von")
    small: KeyPath = ("rows", ("n", 10**5), "von")
    yield Quantity("glm", "GLM, VON's time at ten times the examples", "N = 1,000,000 over 100,000", "×", large, small)


def _middle(method: str) -> Callable[[list[Mapping[str, Any]]], float]:
    def median(runs: list[Mapping[str, Any]]) -> float:
        seconds = sorted(r["machine"]["training_seconds"] for r in runs if r["config"]["method"] == method)
        return (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2

    return median


def _others() -> Iterable[Quantity]:
    paths: tuple[KeyPath, KeyPath] = ("runs", _middle("ivon")), ("runs", _middle("sgd"))
    what = "MNIST with 40 % wrong labels"
    yield Quantity("label-errors", f"{what}, time of IVON over SGD", "median over seeds", "×", *paths)
    gain: KeyPath = ("gains", lambda gains: 100 * sum(gains) / len(gains))
    name = "mean over seeds"
    yield Quantity("label-errors", f"{what}, IVON minus SGD", name, "points", gain, at_least=True)
    for theorem in ("Theorem 1", "Theorem 2"):
        largest: KeyPath = ("rows", _largest(theorem))
        yield Quantity("accuracy", "largest error of both sides", theorem, "", largest)


def _largest(start: str) -> Callable[[Mapping[str, float]], float]:
    return lambda rows: max(value for name, value in rows.items() if name.startswith(start))


def _together(quantities: Iterable[Quantity]) -> tuple[Quantity, ...]:
    """Return the quantities with those of one subject together, in order of first appearance."""
    groups: dict[str, list[Quantity]] = {}
    for quantity in quantities:
        groups.setdefault(quantity.what, []).append(quantity)
    return tuple(chain.from_iterable(groups.values()))


_BY_DEVICE = (_optimizer, _host, _evon, _noise, _classes, _training, _sweep)
QUANTITIES: tuple[Quantity, ...] = _together(
    chain(
        *(of(device) for of in _BY_DEVICE for device in ("cpu", "cuda")),
        _images(),
        _glm(),
        _others(),
    )
)
"""Every number that the book reads from the records."""
