"""Does one run of IVON find wrong labels as well as cross-validation does, and at which share of its cost?

    python benchmarks/bench_one_run.py                # three seeds, a quarter of an hour on two cores; needs MNIST
    python benchmarks/bench_one_run.py --runs folder  # keeps finished cells there, and goes on where it was cut

6,000 images of MNIST, the 3-layer CNN, 12 epochs, batches of 50. For every kind of label errors and every seed the
given labels are ranked by 1 - p(given) and by `score="bayes"` of `vlls.find_label_errors`, with the probabilities of

- IVON, trained on all 6,000 images once, averaged over 8 draws of its weights and at their mean;
- SGD, trained on all of them once;
- SGD in five-fold cross-validation, each network asked for the images that it has not seen, as cleanlab advises, with
  cleanlab's own score.

Told are the area under the ROC curve and the average precision, and the CPU time of training and asking, a thread each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_record

from vlls.label_errors import label_errors_from_probabilities, sampled_probabilities
from vlls.train import RunConfig, load_run, run
from vlls.train._prepare import RunData, prepare

ERRORS = {
    "symmetric 20 %": {"corruption": "symmetric", "rate": 0.2},
    "symmetric 40 %": {"corruption": "symmetric", "rate": 0.4},
    "pair flip 20 %": {"corruption": "pair_flip", "rate": 0.2},
    "pair flip 40 %": {"corruption": "pair_flip", "rate": 0.4},
    "class-dependent, κ = 0.1": {"corruption": "class_dependent", "rate": 0.1, "rate_step": 0.05},
}
COMMON = {"dataset": "mnist", "train_size": 6000, "epochs": 12, "eval_every": 12, "thorough_every": 12}
METHODS: dict[str, dict[str, Any]] = {"ivon": {"lr": 0.05}, "sgd": {"lr": 0.02}}
FOLDS, DRAWS = 5, 8


def asked(config: RunConfig, data: RunData, part: str, draws: tuple[int, ...]) -> tuple[list[np.ndarray], float]:
    """Train, and return the probabilities (S, N, K) of a part for each number of draws, with the CPU time."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = run(config, folder, data=data)
        loaded = load_run(result.folder, data=data)
        images, posterior = loaded.images(part), loaded.posterior
        found = [sampled_probabilities(loaded.model, posterior, images, num_samples=number) for number in draws]
    return found, time.process_time() - start


def measured(probabilities: np.ndarray, given: np.ndarray, wrong: np.ndarray, **options: Any) -> dict[str, float]:
    """How well a ranking finds the wrong labels."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    table = label_errors_from_probabilities(probabilities, given, **options)
    score = np.empty(len(given))
    score[np.asarray(table["index"])] = np.asarray(table["score"])
    return {"auroc": float(roc_auc_score(wrong, score)), "precision": float(average_precision_score(wrong, score))}


def cell(errors: str, seed: int) -> dict[str, Any]:
    """All rankings for one kind of errors and one seed."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.metrics import average_precision_score, roc_auc_score

    torch.set_num_threads(1)
    config = RunConfig(**COMMON, **ERRORS[errors], seed=seed)
    data = prepare(config.resolved())
    assert data.train.clean is not None
    given, wrong = data.train.given, data.train.given != data.train.clean
    rows, seconds = {}, {}
    for method, settings in METHODS.items():
        draws = (DRAWS, 0) if method == "ivon" else (0,)
        found, seconds[method] = asked(replace(config, method=method, **settings), data, "train", draws)
        for number, probabilities in zip(draws, found, strict=True):
            for score in ("self_confidence", "bayes"):
                name = f"{method}, {f'{number} draws' if number else 'mean'}, {score}"
                rows[name] = measured(probabilities, given, wrong, score=score)
    crossed, seconds["sgd, five folds"] = np.empty((len(given), 10)), 0.0
    order = np.random.default_rng(seed).permutation(len(given))
    for held in np.array_split(order, FOLDS):
        held = np.sort(held)
        seen = np.setdiff1d(order, held)
        fold = replace(data, train=data.train.subset(seen), test=data.train.subset(held))
        (found,), took = asked(replace(config, method="sgd", **METHODS["sgd"]), fold, "test", (0,))
        crossed[held] = found[0]
        seconds["sgd, five folds"] += took
    crossed /= crossed.sum(axis=1, keepdims=True)
    quality = -get_label_quality_scores(given, crossed)
    rows["sgd, five folds, cleanlab"] = {
        "auroc": float(roc_auc_score(wrong, quality)),
        "precision": float(average_precision_score(wrong, quality)),
    }
    rows["sgd, five folds, bayes"] = measured(crossed, given, wrong, score="bayes")
    return {"errors": errors, "seed": seed, "wrong": int(wrong.sum()), "rankings": rows, "seconds": seconds}


def kept(task: tuple[str, int, Path]) -> dict[str, Any]:
    """A cell, from its file if it is there."""
    errors, seed, folder = task
    path = folder / f"{errors.replace(' ', '-').replace('%', 'per-cent')}-{seed}.json"
    if not path.exists():
        found = cell(errors, seed)
        path.with_suffix(".tmp").write_text(json.dumps(found))
        path.with_suffix(".tmp").replace(path)
        print(f"{errors}, seed {seed}: done", flush=True)
    return dict(json.loads(path.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="cells at a time, a thread each")
    parser.add_argument("--runs", type=Path, default=None, help="where to keep finished cells")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "book" / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tasks = [(errors, seed, folder) for seed in range(arguments.seeds) for errors in ERRORS]
        with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
            cells = pool.map(kept, tasks, chunksize=1)
    for errors in ERRORS:
        of = [found for found in cells if found["errors"] == errors]
        print(f"\n{errors}, {len(of)} seeds: AUROC, average precision")
        for name in of[0]["rankings"]:
            both = [[found["rankings"][name][which] for found in of] for which in ("auroc", "precision")]
            told = "  ".join(f"{statistics.mean(v):.3f} ± {statistics.pstdev(v):.3f}" for v in both)
            print(f"  {name:<34}{told}")
        print(
            "  seconds "
            + ", ".join(f"{n}: {statistics.mean(f['seconds'][n] for f in of):.0f}" for n in of[0]["seconds"])
        )
    write_record(
        arguments.output / "one_run.json",
        __doc__,
        data=f"MNIST, {COMMON['train_size']} images, 3-layer CNN, {COMMON['epochs']} epochs",
        cells=cells,
    )


if __name__ == "__main__":
    main()
