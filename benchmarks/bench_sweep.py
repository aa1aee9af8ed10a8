"""How many runs an hour does a sweep do, one at a time and side by side?

    python benchmarks/bench_sweep.py                                        # a few minutes on a CPU
    python benchmarks/bench_sweep.py --device cuda --protocol reduced --side-by-side 2 4
    python benchmarks/bench_sweep.py --quick                                # to try the script

The first cells of Figure 5, which are IVON, SGD, LS and SAM at seed 0, are done from scratch in a new folder: one at a
time, several side by side in a process each (``--isolate``), and as many in threads of one process (``--no-isolate``),
in turn in every round. The start of the processes and their imports is part of the time, as in a sweep. Medians over
the rounds are reported.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
from pathlib import Path

import torch
from record import add_output, write_record

from vlls.experiments import LocalExecutor, cells, sweep
from vlls.experiments._executors import available_cores

module = importlib.import_module("vlls.experiments._sweep")


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--protocol", default="smoke", help="smoke, reduced or paper")
    parser.add_argument("--cells", type=int, default=12, help="number of runs in each measurement")
    parser.add_argument("--side-by-side", type=int, nargs="+", help="numbers of runs; the cores, or 2 and 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder with the data sets; $VLLS_DATA otherwise")
    add_output(parser)
    parser.add_argument("--quick", action="store_true", help="two runs, one round; no record")
    return parser.parse_args()


def runs_per_hour(arguments: argparse.Namespace, number: int, isolate: bool) -> float:
    """Return the throughput of one sweep from scratch."""
    with tempfile.TemporaryDirectory() as folder:
        executor = LocalExecutor(arguments.device, number, isolate=isolate)
        done = sweep("fig5", protocol=arguments.protocol, results=folder, executor=executor, root=arguments.data)
    if done.failed:
        raise SystemExit(f"error: {next(iter(done.failed.values()))}")
    return done.runs_per_hour


def main() -> None:
    arguments = arguments_of()
    if arguments.quick:
        arguments.cells, arguments.rounds = 2, 1
    chosen = cells("fig5", arguments.protocol, seeds=1, tune=False)[: arguments.cells]
    module.cells = lambda *_, **__: chosen  # the first cells only
    cuda = arguments.device.startswith("cuda")
    numbers = sorted({1, *(arguments.side_by_side or ([2, 4] if cuda else [available_cores()]))})
    ways = {"processes": numbers, "threads": [number for number in numbers if number > 1]}
    measured: dict[str, dict[int, list[float]]] = {way: {n: [] for n in of} for way, of in ways.items()}
    for _ in range(arguments.rounds):
        for number in numbers:
            for way, of in measured.items():
                if number in of:
                    of[number].append(runs_per_hour(arguments, number, way == "processes"))
    medians = {way: {n: statistics.median(values) for n, values in of.items()} for way, of in measured.items()}
    print(f"{len(chosen)} runs of Figure 5 at the {arguments.protocol} protocol on {arguments.device}")
    print(f"{'side by side':>12}  {'in':<9}{'runs an hour':>14}{'ratio':>8}")
    for way, of in medians.items():
        for number, value in of.items():
            print(f"{number:>12}  {way:<9}{value:>14.0f}{value / medians['processes'][1]:>8.2f}")
    if arguments.quick:
        return
    write_record(
        arguments.output / f"sweep-{'cuda' if cuda else 'cpu'}.json",
        __doc__,
        device=torch.cuda.get_device_name() if cuda else "cpu",
        protocol=arguments.protocol,
        cells=[cell.label for cell in chosen],
        rounds=arguments.rounds,
        runs_per_hour=measured["processes"],
        median_runs_per_hour=medians["processes"],
        runs_per_hour_in_threads=measured["threads"],
        median_runs_per_hour_in_threads=medians["threads"],
    )


if __name__ == "__main__":
    main()
