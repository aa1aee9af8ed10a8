"""Draw the picture of the README, book/readme.png: the labels of 8 by 8 digits that one training run takes for wrong.

Run it from the project's root: ``python book/readme_picture.py``. A fifth of the labels were replaced.
"""

import sys
import tempfile
from pathlib import Path

import torch

import vlls
from vlls.train import RunConfig, load_run, run

sys.path.insert(0, str(Path(__file__).parent))

from figures.label_errors import plot_class_images


def main() -> None:
    """Train, find, draw."""
    torch.set_num_threads(1)
    config = RunConfig(
        dataset="digits", corruption="symmetric", rate=0.2, epochs=15, eval_samples=0
    )
    with tempfile.TemporaryDirectory() as folder:
        trained = load_run(run(config, folder).folder)
    train = trained.data.train
    suspects = vlls.find_label_errors(
        trained.model, trained.posterior, trained.images("train"), train.given
    )
    first = suspects[:14]
    images = [train.images[at].squeeze() for at in first["index"]]
    pairs = zip(first["given"], first["suggested"], strict=True)
    figure = plot_class_images(images, [f"{given}, or {suggested}?" for given, suggested in pairs])
    figure.savefig(Path(__file__).parent / "readme.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
