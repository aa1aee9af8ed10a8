"""What does a step of EVON cost beside IVON's, and which part of it is matrix products?

The parameters are ResNet-34's for 32 x 32 images (21,282,122 in 110 tensors) or those of the 3-layer CNN of the small
experiments, float32, with constant gradients; forward and backward passes are left out. An iteration is
`sampled_params(train=True)` and `step()`. In every round each method makes one, in turn, in one process; medians are
reported. On a CPU they are of one thread's CPU time, because other work on the machine hardly changes it, while it
interrupts a long step more often than a short one.

- adamw fused, ivon fused: as in `bench_optimizer.py`.
- evon, with IVON's kernel (fused=True): a step by itself; a step that adds the gradients to the factors (every tenth of
  the interval); a step that changes the bases. The row "evon, interval 100" is their mean over an interval: 90, 9 and 1
  of 100 steps.
- evon without a kernel: a step by itself, by torch's operations (fused=None).
- soap-like: Adam in the same eigenbasis, written plainly: gradients into the basis and the step back, the factors at
  every step, a QR at every tenth.
- products: the four products of a step of EVON with its bases, and nothing else.
- in short: after `torch.set_float32_matmul_precision("medium")`: float32 products in bfloat16 on a CPU that has units
  for them, in TF32 on a GPU.

The memory column is the peak beyond parameters and gradients, in floats a parameter, measured in a separate process.

    python benchmarks/bench_evon.py                       # both networks, on the CPU and on a GPU if there is one
    python benchmarks/bench_evon.py --network cnn3 --rounds 20
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import time
from typing import Any

import torch
from bench_optimizer import Step, ivon, parameters, seconds
from memory import PeakMemory, resident_bytes
from record import add_output, write_record

from vlls import EVON
from vlls._bases import axes_of, back, project, turn_flat

INTERVAL = 100


def network(name: str, device: str) -> list[torch.nn.Parameter]:
    """Return the parameters of a network, with constant gradients."""
    if name == "resnet34":
        return parameters(device)
    from vlls.models import cnn3

    torch.manual_seed(0)
    params = list(cnn3(in_channels=1, image_size=28).to(device).parameters())
    for p in params:
        p.grad = torch.randn_like(p).mul_(1e-3)
    return params


def evon(params: list[torch.nn.Parameter], kind: str, fused: bool = True) -> Step:
    """Return an iteration of EVON that has its bases, of one of the three kinds."""
    optimizer = EVON(params, lr=0.1, ess=50_000.0, hess_init=0.9, weight_decay=1e-3, interval=1, fused=fused)

    def step() -> None:
        with optimizer.sampled_params(train=True):
            pass
        optimizer.step()

    step()  # makes bases
    # an interval of 19 adds gradients to the factors at every step, and changes bases at steps 19, 38, ...
    optimizer.param_groups[0]["interval"] = {"step": 10**9, "factors": 19, "bases": 1}[kind]

    def with_factors() -> None:
        for state in optimizer._weights.refresh():
            state.count = 1
        step()

    return with_factors if kind == "factors" else step


class SoapLike:
    """Adam in the eigenbasis of the gradients' factors, one tensor after the other."""

    def __init__(self, params: list[torch.nn.Parameter]) -> None:
        self.params, self.steps = params, 0
        self.first, self.second = ([torch.zeros_like(p) for p in params] for _ in range(2))
        sizes = [axes_of(p.shape) if p.ndim > 1 else () for p in params]
        like = {"device": params[0].device}
        self.factors = [[torch.eye(n, **like) for n in of if n <= 2048] for of in sizes]
        self.bases = [[torch.eye(n, **like) if n <= 2048 else None for n in of] for of in sizes]

    @torch.no_grad()
    def step(self) -> None:
        """Take one step."""
        self.steps += 1
        for p, m, v, factors, bases in zip(self.params, self.first, self.second, self.factors, self.bases, strict=True):
            assert p.grad is not None
            grad = project(p.grad, bases) if bases else p.grad
            m.lerp_(grad, 0.1)
            v.lerp_(grad.square(), 0.05)
            update = m / v.sqrt().add_(1e-8)
            p.sub_(back(update, bases) if bases else update, alpha=1e-3)
            axes = [k for k, basis in enumerate(bases) if basis is not None]
            for factor, k in zip(factors, axes, strict=True):
                rows = p.grad.reshape(axes_of(p.shape)).movedim(k, 0).flatten(1)
                factor.lerp_(rows @ rows.T, 0.05)
                if self.steps % 10 == 0:
                    bases[k] = torch.linalg.qr(factor @ bases[k]).Q


def products(params: list[torch.nn.Parameter]) -> Step:
    """Return the products of a step of EVON: the noise back, gradient and mean into the bases, the step back."""
    turned = [p.detach() for p in params if p.ndim > 1]
    axes = [[(n, torch.eye(n, device=p.device) if 1 < n <= 2048 else None) for n in axes_of(p.shape)] for p in turned]
    buffers = torch.empty(2, max(p.numel() for p in turned), device=turned[0].device)

    def step() -> None:
        for p, of in zip(turned, axes, strict=True):
            for side in (1, 0, 0, 1):
                turn_flat(p.view(-1), of, side, list(buffers[:, : p.numel()]))

    return step


def in_short(step: Step) -> Step:
    """Return the step with products in reduced precision."""

    def short() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        step()
        torch.set_float32_matmul_precision(before)

    return short


def gigaflop(params: list[torch.nn.Parameter]) -> float:
    """Return the GFLOP of these products."""
    return sum(4 * 2e-9 * p.numel() * sum(n for n in axes_of(p.shape) if n <= 2048) for p in params if p.ndim > 1)


METHODS: dict[str, Any] = {
    "adamw fused": lambda p: torch.optim.AdamW(p, fused=True).step,
    "ivon fused": lambda p: ivon(p, "context", fused=True),
    "evon: step": lambda p: evon(p, "step"),
    "evon: step in short": lambda p: in_short(evon(p, "step")),
    "evon: step with factors": lambda p: evon(p, "factors"),
    "evon: step with bases": lambda p: evon(p, "bases"),
    "evon without a kernel": lambda p: evon(p, "step", fused=False),
    "soap-like": lambda p: SoapLike(p).step,
    "products": products,
    "products in short": lambda p: in_short(products(p)),
}


def peak_floats(name: str, method: str, device: str, threads: int) -> float:
    """Return the peak floats a parameter beyond parameters and gradients."""
    torch.set_num_threads(threads)
    params = network(name, device)
    numel = sum(p.numel() for p in params)
    if device != "cpu":
        gc.collect()  # of the method before
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step = METHODS[method](params)
        for _ in range(2):
            step()
        return (torch.cuda.max_memory_allocated() - before) / numel / 4
    ivon([torch.nn.Parameter(torch.ones(9))], "context", fused=True)  # loads the kernel
    before = resident_bytes()
    with PeakMemory() as memory:
        step = METHODS[method](params)
        for _ in range(2):
            step()
    return (memory.peak - before) / numel / 4


def cpu_seconds(step: Step) -> float:
    """Return the CPU time of one iteration."""
    start = time.process_time()
    step()
    return time.process_time() - start


def measure(name: str, device: str, rounds: int) -> list[dict[str, Any]]:
    """Measure times by alternating rounds, then memory, on a CPU each method in a separate process."""
    steps = {method: make(network(name, device)) for method, make in METHODS.items()}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {method: [] for method in steps}
    for _ in range(rounds):
        for method, step in steps.items():
            times[method].append(cpu_seconds(step) if device == "cpu" else seconds(step, device))
    middle = {method: statistics.median(values) for method, values in times.items()}
    step, factors, bases = (middle[f"evon: {kind}"] for kind in ("step", "step with factors", "step with bases"))
    middle[f"evon, interval {INTERVAL}"] = (90 * step + 9 * factors + bases) / INTERVAL
    rows: list[dict[str, Any]] = []
    work = gigaflop(network(name, device))
    print(f"\n{name} on {device}: {work:.3g} GFLOP of products a step")
    print(f"{'method':<26} {'ms':>10} {'x IVON fused':>13} {'floats a parameter':>19}")
    for method, value in middle.items():
        made = method if method in METHODS else "evon: step with bases"
        if device == "cpu":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                memory = pool.apply(peak_floats, (name, made, device, torch.get_num_threads()))
        else:  # its allocator counts the bytes of this process
            memory = peak_floats(name, made, device, torch.get_num_threads())
        row = {"method": method, "ms": 1e3 * value, "over_ivon_fused": value / middle["ivon fused"]}
        rows.append({"network": name, **row, "floats_a_parameter": memory})
        print(f"{method:<26} {1e3 * value:10.2f} {row['over_ivon_fused']:13.2f} {memory:19.2f}", flush=True)
    print(f"products: {work / middle['products']:.0f} GFLOP/s")
    return rows


def main() -> None:
    """Measure, print the tables, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    available = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    parser.add_argument("--device", nargs="+", default=available, choices=["cpu", "cuda"])
    parser.add_argument("--network", nargs="+", default=["cnn3", "resnet34"], choices=["cnn3", "resnet34"])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of alternating iterations")
    add_output(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for device in arguments.device:
        rows = [row for name in arguments.network for row in measure(name, device, arguments.rounds)]
        machine = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        write_record(
            arguments.output / f"evon-{device}.json", __doc__, device=machine, rounds=arguments.rounds, rows=rows
        )


if __name__ == "__main__":
    main()
