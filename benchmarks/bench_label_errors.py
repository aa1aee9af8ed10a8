"""By how much does IVON beat plain SGD on MNIST where 40 % of 6,000 training labels are wrong?

    python benchmarks/bench_label_errors.py                 # five seeds, two runs at a time; needs MNIST ($VLLS_DATA)
    python benchmarks/bench_label_errors.py --runs runs     # keeps the runs there, and goes on where it was cut

The 3-layer CNN, 20 epochs, batches of 50, the hyperparameters of `vlls.train.hyperparameters` for both. A further run
trains IVON on all 60,000 images with clean labels for two epochs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import add_output, write_record

from vlls.train import RunConfig, run

NOISY = {
    "dataset": "mnist",
    "corruption": "symmetric",
    "rate": 0.4,
    "train_size": 6000,
    "epochs": 20,
    "thorough_every": 10,
}
WIDE = {"hess_init": 0.9, "beta2": 0.99999}  # the paper's h0, whatever the number of images; the Hessian hardly moves
CLEAN = {"dataset": "mnist", "method": "ivon", "epochs": 2, **WIDE}
SHOWN = ("test_accuracy", "posterior_accuracy", "test_nll", "test_ece", "memorised", "recovered")


def train(task: tuple[dict[str, Any], str]) -> dict[str, Any]:
    """Train one run on one thread, or go on with one that was begun or finished before."""
    torch.set_num_threads(1)
    values, folder = task
    return run(RunConfig(**values), folder, resume=True).record()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument(
        "--runs", type=Path, default=None, help="where to keep the runs; a temporary folder if not given"
    )
    add_output(parser)
    arguments = parser.parse_args()
    configs = [
        {**NOISY, **(WIDE if method == "ivon" else {}), "method": method, "seed": seed}
        for seed in range(arguments.seeds)
        for method in ("ivon", "sgd")
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(arguments.runs or temporary)
        with multiprocessing.get_context("forkserver").Pool(arguments.processes) as pool:
            records = pool.map(train, [(values, folder) for values in [*configs, CLEAN]], chunksize=1)
    clean = records.pop()
    by_method = {m: [r for r in records if r["config"]["method"] == m] for m in ("ivon", "sgd")}
    print(f"MNIST, 6,000 images, 40 % symmetric errors, 20 epochs, {arguments.seeds} seeds: mean (standard deviation)")
    for method, runs in by_method.items():
        told = []
        for name in SHOWN:
            values = [r["final"][name] for r in runs if name in r["final"]]
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                told.append(f"{name} {statistics.mean(values):.4f} ({spread:.4f})")
        print(f"  {method:<5} {', '.join(told)}")
    gains = [
        i["final"]["test_accuracy"] - s["final"]["test_accuracy"] for i, s in zip(*by_method.values(), strict=True)
    ]
    print(f"  IVON minus SGD, points: {', '.join(f'{100 * gain:.1f}' for gain in gains)}")
    print(f"  all 60,000 images, clean labels, 2 epochs: IVON {100 * clean['final']['test_accuracy']:.2f} %")
    write_record(
        arguments.output / "label-errors.json",
        __doc__,
        gains=gains,
        clean=clean["final"],
        runs=[{name: r[name] for name in ("config", "final", "machine")} for r in records],
    )


if __name__ == "__main__":
    main()
