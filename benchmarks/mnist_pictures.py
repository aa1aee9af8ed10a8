"""The digits of MNIST that are shown on the front page, in the README and at the beginning of Chapters 7 and 13.

    python benchmarks/mnist_pictures.py          # some minutes on a CPU; writes book/results/mnist_pictures.json

There are three runs of IVON on 6,000 images. Two are on right labels, at the paper's setting and with a learned
posterior, and give the label noise of all images. The third is at the paper's setting on labels of which a fifth are
wrong, and finds them. The record holds the pixels of the images that are shown; a test compares them with the data set.
"""

from __future__ import annotations

import argparse
import base64
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, add_output, write_record

import vlls
from vlls.smoothing import LabelSmoothingLoss
from vlls.train import LoadedRun, RunConfig, load_run, run

SOURCE = "MNIST, training images (Y. LeCun, C. Cortes and C. J. C. Burges), CC BY-SA 3.0"
SETTING: dict[str, Any] = {"dataset": "mnist", "method": "ivon", "train_size": 6000, "epochs": 8, "eval_samples": 0}
POSTERIORS = {"paper": "the paper's σ₀", "learned": "learned Σ"}
WRONG, ALPHA = 0.2, 0.1
SMOOTHING = float(LabelSmoothingLoss(ALPHA).label_noise(torch.zeros(1, 10), torch.tensor([0])).norm())  # of each label
NOISY, DOUBTED = 10, 12  # images that are shown: at each end of the order, and with doubtful labels
EVERY = 10  # one of this many values of the ordered noise is kept


def trained(data: Path | None, **fields: Any) -> LoadedRun:
    """Train on images of MNIST and load the result."""
    with tempfile.TemporaryDirectory() as folder:
        return load_run(run(RunConfig(**SETTING, **fields), folder, root=data).folder, root=data)


def picture(loaded: LoadedRun, row: int, **facts: Any) -> dict[str, Any]:
    """Return an image of the training set: facts about it, and its pixels."""
    return {**facts, "pixels": base64.b64encode(np.ascontiguousarray(loaded.data.train.images[row])).decode()}


def noisy_and_clear(loaded: LoadedRun) -> dict[str, Any]:
    """Return the label noise of all images in order, and the images at both ends."""
    table = vlls.rank_examples(
        loaded.model, loaded.posterior, loaded.images("train"), loaded.data.train.clean, curvature_pairs=4
    )

    def at(k: int) -> dict[str, Any]:
        facts = {"label": int(table.label[k]), "predicted": int(table.predicted[k]), "noise": float(table.noise[k])}
        return picture(loaded, int(table.index[k]), **facts)

    ends = {"most": range(NOISY), "least": range(len(table.noise) - NOISY, len(table.noise))}
    noise = np.asarray(table.noise)
    return {
        "images": len(noise),
        "noise": [float(f"{value:.3g}") for value in noise[::EVERY]],
        "share_of_first_hundredth": float(noise[: len(noise) // 100].sum() / noise.sum()),
        "share_above_smoothing": float((noise > SMOOTHING).mean()),
        **{end: [at(k) for k in places] for end, places in ends.items()},
    }


def in_doubt(loaded: LoadedRun) -> dict[str, Any]:
    """Return the labels that the run doubts most, and how many wrong ones are among the first of its list."""
    train = loaded.data.train
    table = vlls.find_label_errors(loaded.model, loaded.posterior, loaded.images("train"), train.given)
    order, wrong = np.asarray(table["index"]), np.asarray(train.given != train.clean)
    first = [
        picture(loaded, int(row), given=int(train.given[row]), right=int(train.clean[row]), suggested=int(suggested))
        for row, suggested in zip(order[:DOUBTED], table["suggested"][:DOUBTED], strict=True)
    ]
    found = int(wrong[order[: wrong.sum()]].sum())
    return {"first": first, "wrong": int(wrong.sum()), "found": found, "images": len(wrong)}


def main() -> None:
    """Train, rank, find, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with MNIST; $VLLS_DATA otherwise")
    add_output(parser, RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    orders = {name: noisy_and_clear(trained(arguments.data, posterior=kind)) for kind, name in POSTERIORS.items()}
    doubted = in_doubt(trained(arguments.data, corruption="symmetric", rate=WRONG))
    write_record(
        arguments.output / "mnist_pictures.json",
        __doc__,
        source=SOURCE,
        setting=SETTING,
        rate=WRONG,
        smoothing={"alpha": ALPHA, "noise": SMOOTHING},
        orders=orders,
        doubted=doubted,
    )


if __name__ == "__main__":
    main()
