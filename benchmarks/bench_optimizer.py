"""What does an optimizer's step cost, forward and backward passes aside?

The parameters are ResNet-34's for 32 x 32 images (21,282,122 in 110 tensors), float32, with constant gradients. In
every round each method makes two iterations, in turn, in one process, of which the second is timed; the table has
medians and the ratio to AdamW fused.

- sgd, adamw: torch's own; sgd with momentum 0.9.
- sam: `vlls.SAM` over fused SGD, both of its steps; sam plain is a reference with a clone and a loop.
- ivon-opt: the public package, `with sampled_params(train=True)` and `step()`.
- ivon: ours by executor; "default" is the one that IVON chooses. "context" is `sampled_params(train=True)` and
  `step()`; "closure" is `step(closure)`; "kept" is `step()` within `keep_sampled()`, where the update draws the next
  sample. On a GPU the fused ones also run captured in a CUDA graph.

The memory column is the peak beyond parameters and gradients, in bytes a parameter, of 4 iterations, on a CPU in a
separate process. There ivon-opt is timed alone as well, because beside other methods it reuses memory that they mapped.

With `--host` there are as many parameters, of four entries each, so that arithmetic costs nothing. The remainder is the
host's time, mostly Python's, given as processor time, which other programs hardly change. Before each step, not timed,
the gradients are replaced by others at other addresses, as after `zero_grad()`.

    python benchmarks/bench_optimizer.py                 # every method, on the CPU and on a GPU if there is one
    python benchmarks/bench_optimizer.py --device cpu --rounds 5
    python benchmarks/bench_optimizer.py --host          # the host's time of a step
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from memory import PeakMemory, resident_bytes
from record import add_output, write_record

from vlls import IVON, SAM
from vlls.train._machine import synchronize

Step = Callable[[], Any]


def parameters(device: str) -> list[torch.nn.Parameter]:
    """Return ResNet-34's parameters with constant gradients of a usual size."""
    from torchvision.models import resnet34

    torch.manual_seed(0)
    model = resnet34(num_classes=10)
    model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    params = list(model.to(device).parameters())
    for p in params:
        p.grad = torch.randn_like(p).mul_(1e-3)
    return params


class PlainSAM:
    """Sharpness-aware minimization written plainly: the reference for SAM's cost."""

    def __init__(self, params: list[torch.nn.Parameter], base: torch.optim.Optimizer, rho: float = 0.05) -> None:
        self.params, self.base, self.rho = params, base, rho

    @torch.no_grad()
    def step(self) -> None:
        norm = torch.stack([p.grad.norm() for p in self.params]).norm()
        before = [p.clone() for p in self.params]
        for p in self.params:
            p.add_(self.rho * p.grad / norm)
        for p, value in zip(self.params, before, strict=True):
            p.copy_(value)
        self.base.step()


def ivon(params: list[torch.nn.Parameter], how: str, **executor: bool) -> Step:
    """Return one iteration of ours without the passes through a network."""
    optimizer = IVON(params, lr=0.1, ess=50_000.0, hess_init=0.9, weight_decay=1e-3, **executor)

    def context() -> None:
        with optimizer.sampled_params(train=True):
            pass
        optimizer.step()

    if how == "context":
        return context
    if how == "closure":
        return lambda: optimizer.step(lambda: None)
    stack = contextlib.ExitStack()
    stack.enter_context(optimizer.keep_sampled())
    step = optimizer.step
    return lambda: (step(), stack)[0]  # the stack lives as long as the method


def captured(step: Step) -> Step:
    """Return the same iteration as a CUDA graph; it keeps all that the graph reads and writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return lambda: (graph.replay(), step)[0]  # dropping the step would free its optimizer's memory


def ivon_opt(params: list[torch.nn.Parameter]) -> Step:
    """Return the public package's iteration."""
    import ivon as public

    optimizer = public.IVON(params, lr=0.1, ess=50_000.0, hess_init=0.9, weight_decay=1e-3)

    def step() -> None:
        with optimizer.sampled_params(train=True):
            pass
        optimizer.step()

    return step


def methods(device: str) -> dict[str, Callable[[list[torch.nn.Parameter]], Step]]:
    """Return every method by its name in the table; each makes an iteration for given parameters."""
    sgd: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9}
    made: dict[str, Callable[[list[torch.nn.Parameter]], Step]] = {
        "adamw fused": lambda p: torch.optim.AdamW(p, fused=True).step,
        "adamw foreach": lambda p: torch.optim.AdamW(p, foreach=True).step,
        "sgd fused": lambda p: torch.optim.SGD(p, fused=True, **sgd).step,
        "sgd foreach": lambda p: torch.optim.SGD(p, foreach=True, **sgd).step,
        "sam plain": lambda p: PlainSAM(p, torch.optim.SGD(p, fused=True, **sgd)).step,
        "sam": lambda p: _sam(p, foreach=False, fused=True, **sgd),
        "sam foreach": lambda p: _sam(p, foreach=True, fused=True, **sgd),
        "ivon-opt": ivon_opt,
        "ivon default, context": lambda p: ivon(p, "context"),
        "ivon default, closure": lambda p: ivon(p, "closure"),
        "ivon single, context": lambda p: ivon(p, "context", foreach=False),
        "ivon foreach, context": lambda p: ivon(p, "context", foreach=True),
        "ivon fused, context": lambda p: ivon(p, "context", fused=True),
        "ivon fused, closure": lambda p: ivon(p, "closure", fused=True),
        "ivon fused, kept": lambda p: ivon(p, "kept", fused=True),
    }
    if device != "cpu":
        made["adamw fused, graph"] = lambda p: captured(torch.optim.AdamW(p, fused=True, capturable=True).step)
        for how in ("context", "closure", "kept"):
            made[f"ivon fused, {how}, graph"] = lambda p, how=how: captured(ivon(p, how, fused=True))
    return made


def _sam(params: list[torch.nn.Parameter], *, foreach: bool, **base: Any) -> Step:
    optimizer = SAM(params, torch.optim.SGD, rho=0.05, foreach=foreach, **base)

    def step() -> None:
        optimizer.first_step()
        optimizer.second_step()

    return step


def seconds(step: Step, device: str, repeats: int = 1) -> float:
    """Return the wall time of one iteration."""
    synchronize(torch.device(device))
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    synchronize(torch.device(device))
    return (time.perf_counter() - start) / repeats


def peak_bytes(name: str, device: str, threads: int) -> tuple[float, float]:
    """Return peak bytes a parameter beyond parameters and gradients, and the seconds of an iteration alone."""
    torch.set_num_threads(threads)
    params = parameters(device)
    numel = sum(p.numel() for p in params)
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step = methods(device)[name](params)
        times = [seconds(step, device) for _ in range(4)]
        return (torch.cuda.max_memory_allocated() - before) / numel, statistics.median(times[1:])
    if name.startswith(("ivon fused", "ivon default")):
        ivon([torch.nn.Parameter(torch.ones(9))], "closure", fused=True)  # loads the kernel
    before = resident_bytes()
    with PeakMemory() as memory:
        step = methods(device)[name](params)
        times = [seconds(step, device) for _ in range(4)]
    return (memory.peak - before) / numel, statistics.median(times[1:])


def measure(device: str, rounds: int, only: list[str] | None) -> list[dict[str, Any]]:
    """Measure times of all methods by alternating rounds, then memory, on a CPU each method in a separate process."""
    repeats = 1 if device == "cpu" else 20
    chosen = {name: make for name, make in methods(device).items() if only is None or name in only}
    steps: dict[str, Step] = {}
    rows: list[dict[str, Any]] = []
    for name, make in chosen.items():
        try:
            steps[name] = make(parameters(device))
            for _ in range(3):
                steps[name]()
        except (ImportError, RuntimeError) as error:
            steps.pop(name, None)
            rows.append({"method": name, "failed": str(error).splitlines()[0]})
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()  # not timed: it starts with the memory and caches of the method before
            times[name].append(seconds(step, device, repeats))
    steps.clear()
    base = statistics.median(times["adamw fused"])
    context = multiprocessing.get_context("spawn")
    print(f"\n{device}: {'method':<26} {'ms':>9} {'x AdamW fused':>14} {'bytes/param':>12} {'alone ms':>9}")
    for name, values in times.items():
        if device == "cpu":
            with context.Pool(1) as pool:
                memory, alone = pool.apply(peak_bytes, (name, device, torch.get_num_threads()))
        else:  # its allocator counts the bytes of this process
            memory, alone = peak_bytes(name, device, torch.get_num_threads())
        middle = statistics.median(values)
        row = {
            "method": name,
            "ms": 1e3 * middle,
            "quartiles_ms": [1e3 * q for q in statistics.quantiles(values, n=4)[::2]],
            "over_adamw_fused": middle / base,
            "peak_bytes_a_parameter": memory,
            "alone_ms": 1e3 * alone,
        }
        rows.append(row)
        print(
            f"{device}: {name:<26} {1e3 * middle:9.2f} {middle / base:14.2f} {memory:12.1f} {1e3 * alone:9.1f}",
            flush=True,
        )
    for row in rows:
        if "failed" in row:
            print(f"{device}: {row['method']:<26} failed: {row['failed']}")
    return rows


HOST = ("adamw fused", "ivon default, context", "ivon default, closure", "ivon fused, kept")


def measure_host(device: str, rounds: int) -> list[dict[str, Any]]:
    """Measure the host's time of a step over many small parameters, by alternating rounds."""
    makers = methods(device)
    groups = {name: [torch.nn.Parameter(torch.ones(4, device=device)) for _ in range(110)] for name in HOST}
    for params in groups.values():
        _give_gradients(params)
    steps = {name: makers[name](params) for name, params in groups.items()}
    times: dict[str, list[float]] = {name: [] for name in HOST}
    for count in range(3 + rounds):
        for name, step in steps.items():
            _give_gradients(groups[name])
            synchronize(torch.device(device))
            start = time.process_time()
            step()
            times[name] += [time.process_time() - start] * (count >= 3)
    base = statistics.median(times["adamw fused"])
    rows = []
    print(f"\n{device}: {'method':<26} {'host us':>9} {'x AdamW fused':>14}")
    for name, values in times.items():
        middle = statistics.median(values)
        rows.append({"method": name, "host_us": 1e6 * middle, "over_adamw_fused": middle / base})
        print(f"{device}: {name:<26} {1e6 * middle:9.0f} {middle / base:14.2f}")
    return rows


def _give_gradients(params: list[torch.nn.Parameter]) -> None:
    """Set gradients in new memory, while the last ones still exist."""
    for p, new in zip(params, [torch.full_like(p, 1e-3) for p in params], strict=True):
        p.grad = new


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    parser.add_argument("--device", nargs="+", default=available, choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, help="rounds of alternating iterations (15; with --host 300)")
    parser.add_argument("--host", action="store_true", help="the host's time of a step over many small parameters")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="names from the table; adamw fused is needed")
    add_output(parser)
    arguments = parser.parse_args()
    for device in arguments.device:
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        if arguments.host:
            torch.set_num_threads(1)
            rounds, of, numel = arguments.rounds or 300, "optimizer-host", 440
            rows = measure_host(device, rounds)
        else:
            rounds, of, numel = arguments.rounds or 15, "optimizer", 21_282_122
            rows = measure(device, rounds, arguments.only)
        path = arguments.output / f"{of}-{device}.json"
        write_record(path, __doc__, device=name, parameters=numel, rounds=rounds, rows=rows)


if __name__ == "__main__":
    main()
