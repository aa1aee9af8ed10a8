"""Does the label noise find the examples whose labels were changed?

    python benchmarks/bench_relabelled.py                # five seeds, half an hour on a CPU; needs MNIST ($VLLS_DATA)
    python benchmarks/bench_relabelled.py --runs folder  # keeps finished cells there, and goes on where it was cut

2,000 images of MNIST at half resolution (14×14), the 3-layer CNN, 15 epochs, batches of 50. IVON's posterior begins as
wide as the paper's, and its Hessian forgets its start as in the paper's runs (β2 = 1 − 2/steps). For every kind and
rate of label errors and every seed, scores rank the training images by suspicion of a changed label. The record has
each score's area under the ROC curve:

- noise: magnitude of IVON's label noise (rank 3), which does not look at the label;
- disagreement: 1 - E_q p(given label), from the same noise;
- loss: cross-entropy of the given label, at IVON's mean and under a network trained by SGD;
- entropy: of IVON's posterior predictive distribution;
- self-confidence: cleanlab's, from out-of-sample predictions of networks trained by SGD (two-fold cross-validation).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cleanlab.rank import get_label_quality_scores
from record import RESULTS, add_output, write_record
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from vlls import IVON, DiagonalPosterior, label_noise_moments
from vlls.data import load
from vlls.data.corruption import corrupt
from vlls.models import cnn3
from vlls.train._presets import hess_init_for

KINDS = ("symmetric", "pair_flip", "class_dependent")
RATES = (0.05, 0.1, 0.2, 0.4)
SCORES = ("noise", "disagreement", "loss", "loss (SGD)", "entropy", "self-confidence")
NUM, BATCH = 2000, 50


def train(x: Tensor, y: Tensor, *, variational: bool, epochs: int, seed: int) -> tuple[nn.Module, Any]:
    """Train a network by IVON or by SGD with momentum, on a cosine schedule after a short warm-up; return both."""
    torch.manual_seed(seed)
    model, steps = cnn3(image_size=14), epochs * (len(x) // BATCH)
    if variational:
        options = {"hess_init": hess_init_for(0.9, len(x), 1e-3), "weight_decay": 1e-3, "beta2": 1 - 2 / steps}
        lr, optimizer = 0.1, IVON(model.parameters(), lr=0.1, ess=len(x), **options)
    else:
        lr, optimizer = 0.05, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    step = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = lr * min(step / (0.1 * steps), 0.5 * (1 + np.cos(np.pi * step / steps)))

            def closure(rows: Tensor = rows) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[rows]), y[rows])
                loss.backward()
                return loss

            optimizer.step(closure)
    return model.eval(), optimizer


@torch.no_grad()
def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """Return predictions, (N, K)."""
    return torch.cat([model(part).softmax(1) for part in x.split(500)])


def out_of_sample(x: Tensor, y: Tensor, epochs: int, seed: int) -> Tensor:
    """Return predictions for each half by a network trained on the other."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    halves, found = order.chunk(2), torch.empty(len(x), 10)
    for seen, held in (halves, halves[::-1]):
        model, _ = train(x[seen], y[seen], variational=False, epochs=epochs, seed=seed)
        found[held] = probabilities(model, x[held])
    return found


def cell(kind: str, rate: float, seed: int, epochs: int, images: Tensor, clean_all: np.ndarray) -> dict[str, Any]:
    """Compute all scores for one kind and rate of errors and one seed."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(clean_all))[:NUM])
    x, clean = images[torch.from_numpy(rows)], torch.from_numpy(clean_all[rows])
    # the rates of the classes are kappa + beta i, i = 1..10: with these two their mean is the rate
    step = 0.1 * rate if kind == "class_dependent" else 0.0
    base = 0.45 * rate if kind == "class_dependent" else rate
    given = corrupt(clean, kind, rate=base, rate_step=step, num_classes=10, seed=seed)
    model, optimizer = train(x, given, variational=True, epochs=epochs, seed=seed)
    posterior: DiagonalPosterior = optimizer.posterior(model)
    noise = label_noise_moments(model, posterior, x, method="rank", rank=3)
    p = probabilities(model, x)
    expected = (p - noise.mean_shift).clamp_min(1e-12)
    own = torch.arange(NUM)
    plain, _ = train(x, given, variational=False, epochs=epochs, seed=seed)
    crossed = out_of_sample(x, given, epochs, seed).double().numpy()
    scores = {
        "noise": noise.magnitude,
        "disagreement": 1 - expected[own, given],
        "loss": -p[own, given].clamp_min(1e-30).log(),
        "loss (SGD)": -probabilities(plain, x)[own, given].clamp_min(1e-30).log(),
        "entropy": -(expected * expected.log()).sum(1),
        "self-confidence": -torch.from_numpy(
            get_label_quality_scores(given.numpy(), crossed / crossed.sum(1, keepdims=True), method="self_confidence")
        ),
    }
    wrong = given != clean
    missed = p.argmax(1) != clean
    return {
        "kind": kind,
        "rate": rate,
        "seed": seed,
        "wrong": int(wrong.sum()),
        "auroc": {name: float(roc_auc_score(wrong.numpy(), score.numpy())) for name, score in scores.items()},
        "predicts_clean": float((p.argmax(1) == clean).double().mean()),
        "predicts_wrong_label": float((p.argmax(1) == given)[wrong].double().mean()),
        "noise_of_relabelled_over_rest": float(noise.magnitude[wrong].mean() / noise.magnitude[~wrong].mean()),
        "noise_of_misclassified_over_rest": float(noise.magnitude[missed].mean() / noise.magnitude[~missed].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--runs", type=Path, default=None, help="where to keep finished cells")
    add_output(parser, RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load("mnist")
    images = F.avg_pool2d(torch.from_numpy(data.train_x).permute(0, 3, 1, 2).float(), 2)
    images = (images - images.mean()) / images.std()
    tasks = [(kind, rate, seed) for seed in range(arguments.seeds) for rate in RATES for kind in KINDS]
    cells = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for i, (kind, rate, seed) in enumerate(tasks):
            path = folder / f"{kind}-{rate}-{seed}-{arguments.epochs}.json"
            if not path.exists():
                start = time.perf_counter()
                found = cell(kind, rate, seed, arguments.epochs, images, data.train_y)
                path.with_suffix(".tmp").write_text(json.dumps(found))
                path.with_suffix(".tmp").replace(path)
                print(f"{i + 1}/{len(tasks)} {kind} {rate:.0%}: {time.perf_counter() - start:.0f} s", flush=True)
            cells.append(json.loads(path.read_text()))
    print(f"AUROC of relabelled examples, mean (standard deviation) over {arguments.seeds} seeds")
    print(f"{'':<24}" + "".join(f"{name:>18}" for name in SCORES))
    for kind in KINDS:
        for rate in RATES:
            runs = [c["auroc"] for c in cells if (c["kind"], c["rate"]) == (kind, rate)]
            told = []
            for name in SCORES:
                values = [run[name] for run in runs]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                told.append(f"{statistics.mean(values):.3f} ({spread:.3f})".rjust(18))
            print(f"{kind:<16}{rate:>6.0%}  " + "".join(told))
    write_record(
        arguments.output / "relabelled.json",
        __doc__,
        data=f"MNIST at half resolution, {NUM} images, 3-layer CNN, {arguments.epochs} epochs",
        cells=cells,
    )


if __name__ == "__main__":
    main()
