"""Does a learned covariance put its label noise on other examples than a fixed one?

    python benchmarks/bench_learned_noise.py               # digits, three seeds, two minutes on a CPU
    python benchmarks/bench_learned_noise.py --data mnist  # eight minutes; replaces the record

The networks of Chapter 7: MNIST (1,500 images, 160 steps) and scikit-learn's digits (718 images, 320 steps), the
3-layer CNN, batches of 50. IVON trains them in two settings: *paper*, with the paper's first standard deviation,
where hardly anything of the Hessian is learned, and *learned*, with ess = 200 N and h0 = 0.01. Seeds differ in start,
order and label errors; the images are the same. For each network:

- clean: how much of the Hessian was learned, the rankings of the training images by their noise, the share of the
  squared noise in the first tenth, and the area under the ROC curve of noise and doubt for misclassified test images;
- wrong labels (pair flip, 20 %): the area under the ROC curve of noise, disagreement, doubt and loss for the changed
  labels.

*isotropic* is the control: the same mean with one standard deviation for all weights, such that the logits' variance,
averaged over the images, is the same as under the network's own posterior.
"""

from __future__ import annotations

import argparse
import time
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from record import RESULTS, add_output, write_record
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlls import IVON, DiagonalPosterior, label_noise_moments, learned_share
from vlls.data import load
from vlls.data.corruption import corrupt
from vlls.models import cnn3

PAPER_IMAGES, PAPER_H0, WEIGHT_DECAY, RATE = 50_000, 0.9, 1e-3, 0.2
SIZES = {"mnist": (1500, 160), "digits": (718, 320)}  # training images and steps
PAIRS = 4  # of draws, to estimate the mean of the logits


def settings(num: int) -> dict[str, dict[str, float]]:
    """Return IVON's ``ess`` and ``hess_init``: for the paper's first standard deviation, and to learn the Hessian."""
    matched = PAPER_IMAGES / num * (PAPER_H0 + WEIGHT_DECAY) - WEIGHT_DECAY
    return {"paper": {"ess": num, "hess_init": matched}, "learned": {"ess": 200 * num, "hess_init": 0.01}}


def train(x: Tensor, y: Tensor, setting: dict[str, float], seed: int, steps: int) -> tuple[nn.Module, Any, Any]:
    """Return a trained network, its posterior, and how much of it was learned."""
    torch.manual_seed(seed)
    model = cnn3(10, image_size=x.shape[-1])
    optimizer = IVON(model.parameters(), lr=0.5, beta2=1 - 2 / steps, weight_decay=WEIGHT_DECAY, **setting)
    rows = torch.cat([torch.randperm(len(x)) for _ in range(-(-50 * steps // len(x)))])[: 50 * steps]
    for step, batch in enumerate(rows.split(50), start=1):
        optimizer.param_groups[0]["lr"] = 0.5 * min(10 * step / steps, 0.5 * (1 + np.cos(np.pi * step / steps)))
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return model.eval(), optimizer.posterior(model), learned_share(optimizer)


def isotropic(model: nn.Module, posterior: DiagonalPosterior, x: Tensor) -> DiagonalPosterior:
    """Return a posterior with one standard deviation, under which the logits of these images vary as much as before."""
    ones = DiagonalPosterior(posterior.mean, {name: torch.ones_like(std) for name, std in posterior.std.items()})
    variances = [
        label_noise_moments(model, q, x, curvature_pairs=0).logit_covariance.diagonal(dim1=1, dim2=2).sum(1).mean()
        for q in (posterior, ones)
    ]
    std = float((variances[0] / variances[1]).sqrt())
    return DiagonalPosterior(posterior.mean, {name: std * one for name, one in ones.std.items()})


def noise_of(model: nn.Module, posterior: DiagonalPosterior, x: Tensor) -> Any:
    """Return the label noise of every image."""
    return label_noise_moments(model, posterior, x, method="rank", curvature_pairs=PAIRS)


def of_clean(trained: tuple[nn.Module, Any, Any], x: Tensor, test_x: Tensor, test_y: Tensor) -> dict[str, Any]:
    """Measure a network that was trained on right labels; the rankings are under ``noise``."""
    model, posterior, share = trained
    size, control = (noise_of(model, q, x).magnitude for q in (posterior, isotropic(model, posterior, x[:200])))
    on_test = noise_of(model, posterior, test_x)
    p = on_test.logits.softmax(1)
    missed, square = p.argmax(1) != test_y, size.double().square().sort(descending=True).values
    return {
        "accuracy": float((~missed).float().mean()),
        "learned_share": [share.low, share.median, share.high],
        "learned_share_total": share.total,
        "std": [share.std_start, share.std_low, share.std_median, share.std_high],
        "noise_of_first_tenth": float(square[: len(square) // 10].sum() / square.sum()),
        "median_noise": float(size.median()),
        "misclassified": {
            "noise": float(roc_auc_score(missed, on_test.magnitude)),
            "doubt": float(roc_auc_score(missed, 1 - p.amax(1))),
        },
        "noise": {"own": size.numpy(), "isotropic": control.numpy()},
    }


def of_wrong(trained: tuple[nn.Module, Any, Any], x: Tensor, given: Tensor, clean: Tensor) -> dict[str, Any]:
    """Measure how well a network that was trained on wrong labels finds them."""
    model, posterior, share = trained
    noises = {"own": noise_of(model, posterior, x)}
    noises["isotropic"] = noise_of(model, isotropic(model, posterior, x[:200]), x)
    p, at = noises["own"].logits.softmax(1), given[:, None]
    scores = {"doubt": 1 - p.amax(1), "loss": -p.gather(1, at)[:, 0].clamp_min(1e-30).log()}
    for name, noise in noises.items():
        scores |= {f"noise ({name})": noise.magnitude}
        scores |= {f"disagreement ({name})": 1 - (p - noise.mean_shift).gather(1, at)[:, 0]}
    wrong = given != clean
    return {
        "learned_share": [share.low, share.median, share.high],
        "auroc": {name: float(roc_auc_score(wrong, score)) for name, score in scores.items()},
        "predicts_wrong_label": float((p.argmax(1) == given)[wrong].float().mean()),
    }


def agreement(one: np.ndarray, two: np.ndarray) -> dict[str, float]:
    """Return the rank correlation of two rankings, and the share of the first tenth that they have in common."""
    tenth = len(one) // 10
    common = set(np.argsort(-one)[:tenth]) & set(np.argsort(-two)[:tenth])
    return {"rank_correlation": float(spearmanr(one, two)[0]), "common_tenth": len(common) / tenth}


def measure(name: str, seeds: int) -> dict[str, Any]:
    """Train and measure all networks of one data set, and compare their rankings."""
    data, (num, steps) = load(name), SIZES[name]
    rows = np.random.default_rng(0).permutation(len(data.train_y))[:num]
    centre, scale = data.train_x.mean(), data.train_x.std()
    x, test_x = (
        torch.from_numpy((pixels - centre) / scale).float().permute(0, 3, 1, 2)
        for pixels in (data.train_x[rows], data.test_x[:800])
    )
    y, test_y = torch.tensor(data.train_y[rows]), torch.tensor(data.test_y[:800])
    cells, rankings = [], {}
    for setting, seed in product(settings(num), range(seeds)):
        start, values = time.perf_counter(), settings(num)[setting]
        clean = of_clean(train(x, y, values, seed, steps), x, test_x, test_y)
        rankings[setting, seed] = clean.pop("noise")
        given = torch.as_tensor(corrupt(y, "pair_flip", rate=RATE, num_classes=10, seed=seed))
        wrong = of_wrong(train(x, given, values, seed + 100, steps), x, given, y)
        control = agreement(*rankings[setting, seed].values())
        cells.append({"setting": setting, "seed": seed, **clean, "isotropic": control, "wrong_labels": wrong})
        print(f"{name} {setting} {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    own = {key: found["own"] for key, found in rankings.items()}
    pairs: dict[str, list[dict[str, float]]] = {"paper": [], "learned": [], "both": []}
    for (one, first), (two, second) in combinations(own, 2):
        if first != second:  # two seeds, in one setting or in both
            pairs[one if one == two else "both"].append(agreement(own[one, first], own[two, second]))
    return {"images": num, "steps": steps, "settings": settings(num), "cells": cells, "agreement": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", choices=SIZES, default=["digits"])
    add_output(parser, RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measure(name, arguments.seeds) for name in arguments.data}
    write_record(arguments.output / "learned_noise.json", __doc__, wrong_labels=f"pair flip, {RATE:.0%}", data=found)


if __name__ == "__main__":
    main()
