"""Does one run find wrong labels as well as cross-validation does, and at which share of its cost?

    python benchmarks/bench_one_run.py                # three seeds, an hour on two cores; needs MNIST
    python benchmarks/bench_one_run.py --runs folder  # keeps finished cells there, and goes on where it was cut

6,000 images of MNIST and all of the 8 by 8 digits, the 3-layer CNN, batches of 50. For every kind of label errors and
every seed the given labels of the training images are ranked by 1 - p(given) and by `score="bayes"` of
`vlls.find_label_errors`, with the probabilities of

- one run of each method on all of the images: of IVON and EVON averaged over 8 draws of the weights, and at their mean;
  of SGD at its last weights, and at their exponential average (EMA);
- SGD in five-fold cross-validation, each network predicting the images that it has not seen, as cleanlab advises, with
  cleanlab's own score.

Reported are the area under the ROC curve, the average precision, and the CPU time of training and predicting, on one
thread each.
"""

from __future__ import annotations

import argparse
import itertools
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
from record import RESULTS, add_output, write_record

from vlls.label_errors import label_errors_from_probabilities, sampled_probabilities
from vlls.train import METHODS as METHODS_BY_NAME
from vlls.train import RunConfig, load_run, run
from vlls.train._prepare import RunData, prepare
from vlls.train._presets import STEP_TO_LEARN

ERRORS = {
    "symmetric 5 %": {"corruption": "symmetric", "rate": 0.05},
    "symmetric 20 %": {"corruption": "symmetric", "rate": 0.2},
    "symmetric 40 %": {"corruption": "symmetric", "rate": 0.4},
    "pair flip 5 %": {"corruption": "pair_flip", "rate": 0.05},
    "pair flip 20 %": {"corruption": "pair_flip", "rate": 0.2},
    "pair flip 40 %": {"corruption": "pair_flip", "rate": 0.4},
    "class-dependent, κ = 0.1": {"corruption": "class_dependent", "rate": 0.1, "rate_step": 0.05},
}
DATA: dict[str, dict[str, Any]] = {
    "mnist": {"dataset": "mnist", "train_size": 6000, "epochs": 12},
    "digits": {"dataset": "digits", "epochs": 30},
}
LR = {"mnist": {True: 0.05, False: 0.02}, "digits": {True: 0.1, False: 0.05}}  # of variational methods, of others
METHODS: dict[str, dict[str, Any]] = {
    "ivon": {},
    "evon": {"posterior": "learned"},
    "sgd": {"ema": 0.998},
    "sam": {"rho": 0.05},
    "ls": {"smoothing": 0.5},
    "elr": {},
}
FOLDS, DRAWS = 5, 8


def settings(name: str, method: str) -> dict[str, Any]:
    """Return the config of a method on a data set; EVON's step is longer than IVON's, as in a run by its defaults."""
    lr = LR[name][METHODS_BY_NAME[method].variational] * STEP_TO_LEARN.get(method, 1.0)
    return {"method": method, "lr": lr, **METHODS[method]}


Asked = dict[str, tuple[np.ndarray, float]]


def asked(config: RunConfig, data: RunData, part: str) -> Asked:
    """Train, and return the probabilities (S, N, K) of a part by each way to predict, with the CPU time of both."""
    start, found = time.process_time(), {}
    with tempfile.TemporaryDirectory() as folder:
        result = run(config, folder, data=data)
        trained = time.process_time() - start
        loaded = load_run(result.folder, data=data)
        images, model = loaded.images(part), loaded.model

        def ask(way: str, posterior: Any = None) -> None:
            start = time.process_time()
            probabilities = sampled_probabilities(model, posterior, images, num_samples=DRAWS)
            found[way] = probabilities, trained + time.process_time() - start

        if loaded.posterior is not None:
            ask(f"{DRAWS} draws", loaded.posterior)
        ask("mean" if found else "last")
        if config.ema is not None:
            average = torch.load(result.folder / "checkpoint.pt", weights_only=True)["average"]
            torch.nn.modules.utils.consume_prefix_in_state_dict_if_present(average, "module.")
            average.pop("n_averaged")
            model.load_state_dict(average)
            ask("EMA")
    return found


def measured(probabilities: np.ndarray, given: np.ndarray, wrong: np.ndarray, score: str) -> dict[str, float]:
    """Return how well a score of `vlls.find_label_errors` finds the wrong labels."""
    table = label_errors_from_probabilities(probabilities, given, score=score)
    found = np.empty(len(given))
    found[np.asarray(table["index"])] = np.asarray(table["score"])
    return ranked(found, wrong)


def ranked(score: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
    """Return how well a score finds the wrong labels."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return {"auroc": float(roc_auc_score(wrong, score)), "precision": float(average_precision_score(wrong, score))}


def cell(name: str, errors: str, seed: int) -> dict[str, Any]:
    """Compute all rankings for one data set, kind of errors and seed."""
    from cleanlab.rank import get_label_quality_scores

    torch.set_num_threads(1)
    epochs = DATA[name]["epochs"]
    config = RunConfig(
        **DATA[name], **ERRORS[errors], seed=seed, eval_every=epochs, thorough_every=epochs, eval_samples=0
    )
    data = prepare(config.resolved())
    data = replace(data, test=data.test.subset(np.arange(100)))  # the cost of testing is not compared
    assert data.train.clean is not None
    given, wrong = data.train.given, data.train.given != data.train.clean
    rows, seconds = {}, {}
    for method in METHODS:
        for way, (probabilities, took) in asked(replace(config, **settings(name, method)), data, "train").items():
            seconds[f"{method}, {way}"] = took
            for score in ("self_confidence", "bayes"):
                rows[f"{method}, {way}, {score}"] = measured(probabilities, given, wrong, score)
    crossed, seconds["sgd, five folds"] = np.empty((len(given), 10)), 0.0
    order = np.random.default_rng(seed).permutation(len(given))
    for held in np.array_split(order, FOLDS):
        held = np.sort(held)
        seen = np.setdiff1d(order, held)
        fold = replace(data, train=data.train.subset(seen), test=data.train.subset(held))
        probabilities, took = asked(replace(config, **{**settings(name, "sgd"), "ema": None}), fold, "test")["last"]
        crossed[held] = probabilities[0]
        seconds["sgd, five folds"] += took
    crossed /= crossed.sum(axis=1, keepdims=True)
    rows["sgd, five folds, cleanlab"] = ranked(-get_label_quality_scores(given, crossed), wrong)
    rows["sgd, five folds, bayes"] = measured(crossed, given, wrong, "bayes")
    return {
        "data": name,
        "errors": errors,
        "seed": seed,
        "wrong": int(wrong.sum()),
        "rankings": rows,
        "seconds": seconds,
    }


def kept(task: tuple[str, str, int, Path]) -> dict[str, Any]:
    """Return a cell, from its file if it exists."""
    name, errors, seed, folder = task
    path = folder / f"{name}-{errors.replace(' ', '-').replace('%', 'per-cent')}-{seed}.json"
    if not path.exists():
        found = cell(name, errors, seed)
        path.with_suffix(".tmp").write_text(json.dumps(found))
        path.with_suffix(".tmp").replace(path)
        print(f"{name}, {errors}, seed {seed}: done", flush=True)
    return dict(json.loads(path.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2, help="cells at a time, a thread each")
    parser.add_argument("--runs", type=Path, default=None, help="where to keep finished cells")
    add_output(parser, RESULTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tasks = [(name, errors, seed, folder) for seed in range(arguments.seeds) for name in DATA for errors in ERRORS]
        with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
            cells = pool.map(kept, tasks, chunksize=1)
    for name, errors in itertools.product(DATA, ERRORS):
        of = [found for found in cells if (found["data"], found["errors"]) == (name, errors)]
        print(f"\n{name}, {errors}, {len(of)} seeds: AUROC, average precision")
        for ranking in of[0]["rankings"]:
            both = [[found["rankings"][ranking][which] for found in of] for which in ("auroc", "precision")]
            told = "  ".join(f"{statistics.mean(v):.3f} ± {statistics.pstdev(v):.3f}" for v in both)
            print(f"  {ranking:<34}{told}")
        means = {method: statistics.mean(found["seconds"][method] for found in of) for method in of[0]["seconds"]}
        print("  CPU seconds " + ", ".join(f"{method}: {mean:.0f}" for method, mean in means.items()))
    write_record(
        arguments.output / "one_run.json",
        __doc__,
        data="6,000 images of MNIST, 12 epochs; 8 by 8 digits, 30 epochs; 3-layer CNN",
        cells=cells,
    )


if __name__ == "__main__":
    main()
