"""Predictions of a run's network, at the mean of the weights and averaged over their posterior, and their measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from vlls.optim import VariationalOptimizer
from vlls.train._augment import center
from vlls.train._batches import file_loader
from vlls.train._metrics import classification_metrics, memorisation
from vlls.train._prepare import Images, derive_seed
from vlls.train._trainer import Trainer

__all__ = ["evaluate", "predict_probabilities"]

BATCH = {"cpu": 500, "cuda": 2000}  # images of 32×32 pixels; fewer of larger ones


@torch.no_grad()
def evaluate(trainer: Trainer, epoch: int, *, thorough: bool = True) -> dict[str, float]:
    """Measure on clean test data, on the held-out part, and on the wrongly and rightly labelled training images.

    Each process measures its part, and all return the whole.

    Args:
        trainer: between steps.
        epoch: whose random numbers the posterior's samples take; those of the training are left alone.
        thorough: whether to average over the posterior, and to predict the training images.

    Returns:
        ``test_accuracy``, ``test_nll``, ``test_ece``, ``test_brier`` at the mean; the same with ``posterior_`` for
        ``test_``, averaged over samples; with ``validation_``; and those of :func:`.memorisation`.
    """
    config, data = trainer.config, trainer.data
    found: dict[str, float] = {}
    sets = {"test": data.test, "validation": data.validation}
    for name, images in sets.items():
        if images is None:
            continue
        probabilities, read = predict_probabilities(trainer, images)
        labels = torch.from_numpy(images.given)[read]
        found |= _named(name, classification_metrics(probabilities[read], labels))
    if not thorough:
        return found
    if isinstance(trainer.optimizer, VariationalOptimizer) and config.eval_samples:
        probabilities, read = predict_probabilities(trainer, data.test, samples=config.eval_samples, epoch=epoch)
        labels = torch.from_numpy(data.test.given)[read]
        found |= _named("posterior", classification_metrics(probabilities[read], labels))
    if data.train.clean is not None and isinstance(data.train.images, np.ndarray):
        predicted = predict_probabilities(trainer, data.train)[0].argmax(dim=1)
        found |= memorisation(predicted, *(torch.from_numpy(y) for y in (data.train.given, data.train.clean)))
    return found


def _named(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}


@torch.no_grad()
def predict_probabilities(
    trainer: Trainer, images: Images, *, samples: int = 0, epoch: int = 0
) -> tuple[Tensor, Tensor]:
    """Return class probabilities (N, K), on the CPU, and whether each image could be read, (N,).

    Args:
        trainer: between steps.
        images: without augmentation.
        samples: number of weight samples to average over; 0 for the mean of the weights.
        epoch: whose random numbers the samples take.
    """
    total = torch.zeros(len(images), trainer.data.num_classes)
    read = torch.ones(len(images), dtype=torch.bool)
    at, last = (len(images) * rank // trainer.world for rank in (trainer.rank, trainer.rank + 1))
    with _evaluating(trainer):
        for batch, ok in _batches(trainer, images, at, last):
            rows = slice(at, at + len(batch))
            for i in range(max(samples, 1)):
                with _sample(trainer, epoch, i) if samples else nullcontext():
                    total[rows] += trainer.logits(trainer.model, batch).softmax(dim=1).cpu()
            read[rows] = ok
            at = rows.stop
    if trainer.world > 1:
        total, read = _gathered(total, trainer.device), _gathered(read.int(), trainer.device, dist.ReduceOp.MIN).bool()
    return total / max(samples, 1), read


def _gathered(values: Tensor, device: torch.device, how: Any = dist.ReduceOp.SUM) -> Tensor:
    values = values.to(device)
    dist.all_reduce(values, how)
    return values.cpu()


@contextmanager
def _evaluating(trainer: Trainer) -> Iterator[None]:
    if trainer.world > 1:  # running statistics differ between processes until the next forward pass
        for buffer in trainer.model.buffers():
            dist.broadcast(buffer, 0)
    trainer.model.eval()
    try:
        yield
    finally:
        trainer.model.train()


@contextmanager
def _sample(trainer: Trainer, epoch: int, i: int) -> Iterator[None]:
    """Set the weights to an evaluation's sample ``i``, which is the same for every batch, process and call."""
    optimizer = trainer.optimizer
    assert isinstance(optimizer, VariationalOptimizer)
    seed = derive_seed(trainer.config.seed, "evaluation", epoch, i)
    of_training, optimizer.generator = optimizer.generator, torch.Generator(trainer.device).manual_seed(seed)
    try:
        with optimizer.sampled_params(train=False):
            yield
    finally:
        optimizer.generator = of_training


def _batches(trainer: Trainer, images: Images, first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of images (B, H, W, C) on the device, and whether each image could be read, (B,)."""
    size = trainer.batches.image_size
    count = max(1, BATCH.get(trainer.device.type, 500) * 32**2 // max(size, 32) ** 2)
    if isinstance(images.images, np.ndarray):
        for at in range(first, last, count):
            batch = torch.tensor(images.images[at : min(at + count, last)], device=trainer.device)
            yield batch, torch.ones(len(batch), dtype=torch.bool)
        return
    rows = [list(range(at, min(at + count, last))) for at in range(first, last, count)]
    for batch, _, _, failed in file_loader(images.images, rows, trainer.workers):
        yield center(batch, size).to(trainer.device), ~failed
