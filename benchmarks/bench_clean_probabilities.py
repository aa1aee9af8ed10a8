"""Can a network that was trained on wrong labels say how sure it is, without a single clean label?

    python benchmarks/bench_clean_probabilities.py       # three seeds, ten minutes on two cores; needs MNIST

6,000 images of MNIST with wrong labels, 2,000 others with wrong labels held out, the 3-layer CNN, 12 epochs. Reported
are accuracy and expected calibration error on the 10,000 test images, before and after
`vlls.label_errors.fit_correction` with the held-out images: at the mean of the weights, and averaged over 8 draws of
IVON's. Other seeds were used to develop the correction.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from typing import Any

import torch
from bench_one_run import DRAWS, ERRORS, settings
from one_run_cifar import calibration
from record import RESULTS, add_output, write_record

from vlls.label_errors import fit_correction, sampled_probabilities
from vlls.train import RunConfig, load_run, run

SEEDS = (10, 11, 12)
KINDS = ("symmetric 40 %", "pair flip 20 %")


def cell(task: tuple[str, str, int]) -> dict[str, Any]:
    """Train one run, and measure its calibration."""
    errors, method, seed = task
    torch.set_num_threads(1)
    data = {"dataset": "mnist", "train_size": 6000, "validation_size": 2000, "epochs": 12}
    rare = {"eval_every": 12, "thorough_every": 12, "eval_samples": 0, "seed": seed}
    config = RunConfig(**data, **rare, **ERRORS[errors], **{**settings("mnist", method), "ema": None})
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_run(run(config, folder).folder)
    for way, posterior in {"mean": None, "averaged": loaded.posterior}.items():
        if way == "averaged" and posterior is None:
            continue
        held, test = (
            sampled_probabilities(loaded.model, posterior, loaded.images(part), num_samples=DRAWS).mean(axis=0)
            for part in ("validation", "test")
        )
        assert loaded.data.validation is not None
        correct = fit_correction(held, loaded.data.validation.given)
        clean = loaded.data.test.given
        found[way] = {"before": calibration(test, clean), "after": calibration(correct(test), clean)}
    print(errors, method, seed, found, flush=True)
    return {"data": "mnist", "errors": errors, "method": method, "seed": seed, "calibration": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, a thread each")
    add_output(parser, RESULTS)
    arguments = parser.parse_args()
    tasks = [(errors, method, seed) for errors in KINDS for method in ("ivon", "sgd") for seed in SEEDS]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        cells = pool.map(cell, tasks, chunksize=1)
    data = "6,000 images of MNIST, 2,000 held out, 3-layer CNN, 12 epochs"
    write_record(arguments.output / "clean_probabilities.json", __doc__, data=data, cells=cells)


if __name__ == "__main__":
    main()
