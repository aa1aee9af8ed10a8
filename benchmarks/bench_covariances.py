"""Which covariance makes the label noise depend on the example most: learned in an eigenbasis, diagonal, or less?

The runs are those of the experiment `ladder` (`vlls sweep ladder --protocol mnist`): a 3-layer CNN on 5,000 images of
MNIST, of which 40 % have a wrong label. The methods are IVON at the paper's setting and, with the settings under which
the covariance is learned, EVON, IVON, and three controls: IVON with its standard deviations permuted within each
tensor, with their median for every weight, and fixed at the start. Each run's row has its metrics; for the label noise
of its first 1,000 training images (rank 3, the default pairs of draws) the variation between images and how well it
finds wrong labels; and the rank correlation of the images' noise with their noise under EVON of the same seed.

    python benchmarks/bench_covariances.py --runs runs                # five seeds; finished runs are kept
    python benchmarks/bench_covariances.py --runs runs --seeds 0 2    # some of them: rows are added to the record
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, add_output, write_record
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from vlls import label_noise_moments
from vlls.experiments import cells
from vlls.train import load_run, run

IMAGES = 1_000
MEASURES = (
    "test_accuracy", "test_nll", "test_ece", "posterior_accuracy", "posterior_nll", "posterior_ece", "memorised",
    "learned_share_5", "learned_share", "learned_share_95", "std_start", "std_5", "std_50", "std_95",
)  # fmt: skip


def noise_of(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return training images' noise, one minus the averaged probability of their label, and whether it is wrong."""
    loaded = load_run(folder)
    images = loaded.images("train")
    rows = range(min(IMAGES, len(images.given)))
    given, true = images.given[: len(rows)], images.clean[: len(rows)]
    noise = label_noise_moments(loaded.model, loaded.posterior, images.batch(rows), method="rank")
    averaged = noise.logits.softmax(1) - noise.mean_shift
    doubt = 1 - averaged.gather(1, given[:, None])[:, 0]
    return noise.magnitude.double().numpy(), doubt.numpy(), (given != true).numpy()


def measure(cell: Any, runs: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Return the row of a run, and the size of its images' noise."""
    result = run(cell.config, runs)
    assert result.folder is not None
    size, doubt, wrong = noise_of(result.folder)
    ordered = np.sort(size**2)[::-1]
    return {
        "method": cell.config.method,
        "posterior": cell.config.posterior or "paper",
        "seed": cell.config.seed,
        **{name: result.final[name] for name in MEASURES if name in result.final},
        "noise_median": float(np.median(size)),
        "noise_variation": float(size.std() / size.mean()),
        "noise_of_first_tenth": float(ordered[: len(ordered) // 10].sum() / ordered.sum()),
        "auroc_noise": float(roc_auc_score(wrong, size)),
        "auroc_disagreement": float(roc_auc_score(wrong, doubt)),
    }, size


def main() -> None:
    """Train the missing runs, measure, write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs; those in it are not done again")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add_output(parser, RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.output / "covariances.json"
    grid = cells("ladder", "mnist", seeds=max(arguments.seeds) + 1)
    for seed in arguments.seeds:
        sizes: dict[int, np.ndarray] = {}
        rows: list[dict[str, Any]] = []
        for cell in (cell for cell in grid if cell.config.seed == seed):
            row, sizes[len(rows)] = measure(cell, arguments.runs)
            rows.append(row)
            print(*(f"{name}={v:.4g}" if isinstance(v, float) else v for name, v in row.items()), flush=True)
        like = next(number for number, row in enumerate(rows) if row["method"] == "evon")
        for number, row in enumerate(rows):
            row["rank_correlation_with_evon"] = float(spearmanr(sizes[number], sizes[like])[0])
        # rows that another process has written meanwhile stay
        before = json.loads(path.read_text())["rows"] if path.exists() else []
        kept = [row for row in before if row["seed"] != seed]
        both = sorted(kept + rows, key=lambda row: row["seed"])
        protocol = "mnist: 5,000 images of MNIST, 40 % symmetric label errors, cnn3, 12 epochs"
        write_record(path, __doc__, protocol=protocol, images=IMAGES, rows=both)


if __name__ == "__main__":
    main()
