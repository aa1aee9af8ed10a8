"""Predictions of a run's network, at the mean of the weights and averaged over their posterior, and their measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vlls.optim import VariationalOptimizer, learned_share
from vlls.train._batches import center, file_loader
from vlls.train._metrics import classification_metrics, memorisation
from vlls.train._prepare import Images, derive_seed
from vlls.train._trainer import Trainer

BATCH = {"cpu": 500, "cuda": 2000}  # images of 32×32 pixels; fewer of larger ones


@torch.no_grad()
def evaluate(trainer: Trainer, epoch: int, *, thorough: bool = True) -> dict[str, float]:
    """Measure on the test and held-out images; if thorough, average over the posterior too and predict training images.

    The posterior's samples take random numbers of the epoch; those of the training are left alone. Each process
    measures its part, and all return the whole.
    """
    config, data = trainer.config, trainer.data
    found: dict[str, float] = {}

    def measure(name: str, images: Images, samples: int = 0, model: nn.Module | None = None) -> None:
        probabilities, read = predict_probabilities(trainer, images, samples=samples, epoch=epoch, model=model)
        metrics = classification_metrics(probabilities[read], torch.from_numpy(images.given)[read])
        found.update({f"{name}_{metric}": value for metric, value in metrics.items()})

    measure("test", data.test)
    if trainer.average is not None:
        measure("ema", data.test, model=trainer.average)
    if data.validation is not None:
        measure("validation", data.validation)
    if not thorough:
        return found
    if isinstance(trainer.optimizer, VariationalOptimizer):
        if config.eval_samples:
            measure("posterior", data.test, config.eval_samples)
        found |= posterior_width(trainer.optimizer)
    if data.train.clean is not None and isinstance(data.train.images, np.ndarray):
        predicted = predict_probabilities(trainer, data.train)[0].argmax(dim=1)
        found |= memorisation(predicted, *(torch.from_numpy(y) for y in (data.train.given, data.train.clean)))
    return found


def posterior_width(optimizer: VariationalOptimizer) -> dict[str, float]:
    """Return the posterior's standard deviations and the learned share, of an optimizer that learns a Hessian."""
    try:
        found = learned_share(optimizer)
    except ValueError:  # a registered optimizer with another posterior
        return {}
    share = {"learned_share": found.median, "learned_share_5": found.low, "learned_share_95": found.high}
    std = {"std_start": found.std_start, "std_5": found.std_low, "std_50": found.std_median, "std_95": found.std_high}
    return share | std


@torch.no_grad()
def predict_probabilities(
    trainer: Trainer, images: Images, *, samples: int = 0, epoch: int = 0, model: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """Return class probabilities (N, K), and whether each image could be read, (N,), both on the CPU.

    They are added up on the device and leave it once. Without ``samples`` they are taken from ``model``, by default the
    network at the mean of its weights.
    """
    model = trainer.model if model is None else model
    total = torch.zeros(len(images), trainer.data.num_classes, device=trainer.device)
    read = torch.ones(len(images), dtype=torch.bool)
    at, last = (len(images) * rank // trainer.world for rank in (trainer.rank, trainer.rank + 1))
    if trainer.world > 1:  # running statistics differ between processes until the next forward pass
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    model.eval()
    try:
        for batch, ok in _batches(trainer, images, at, last):
            rows = slice(at, at + len(batch))
            for i in range(max(samples, 1)):
                with _sample(trainer, epoch, i) if samples else nullcontext():
                    total[rows] += trainer.logits(model, batch).softmax(dim=1)
            read[rows] = ok
            at = rows.stop
    finally:
        model.train()
    if trainer.world > 1:
        readable = read.int().to(trainer.device)
        dist.all_reduce(total)
        dist.all_reduce(readable, dist.ReduceOp.MIN)
        read = readable.bool().cpu()
    return (total / max(samples, 1)).cpu(), read


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
            batch = trainer.on_device(images.images, slice(at, min(at + count, last)))
            yield batch, torch.ones(len(batch), dtype=torch.bool)
        return
    rows = [list(range(at, min(at + count, last))) for at in range(first, last, count)]
    for batch, _, _, failed in file_loader(images.images, rows, trainer.workers):
        yield center(batch, size).to(trainer.device), ~failed
