"""Images on their way into the network: in batches from the device or from files, cut out, flipped, normalised.

Batches fill the same buffers before each step, and the step reads from them, so that a CUDA graph can hold it.
"""

from __future__ import annotations

import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vlls.data import ImageFiles
from vlls.train._prepare import Images, derive_seed

PADDING = 4  # pixels on each side, the usual augmentation of CIFAR
Draw = tuple[Tensor, Tensor, Tensor]  # rows, columns and flips, (B,) each, of the images of a batch


def pad(images: Tensor, by: int) -> Tensor:
    """Pad uint8 images (N, H, W, C) with black on all sides, once for a whole data set."""
    n, height, width, channels = images.shape
    padded = images.new_zeros(n, height + 2 * by, width + 2 * by, channels)
    padded[:, by : by + height, by : by + width] = images
    return padded


def draw(batch_size: int, room: int, generator: torch.Generator) -> Draw:
    """Draw where to cut each image, 0..``room`` pixels from its top and left, and whether to flip it.

    The numbers are those of a whole batch: processes and weight samples that share it each take their rows.
    """
    device = generator.device
    top, left = torch.randint(0, room + 1, (2, batch_size), generator=generator, device=device)
    flip = torch.randint(0, 2, (batch_size,), generator=generator, device=device)
    return top, left, flip.bool()


def crop_flip(images: Tensor, rows: Tensor, size: int, how: Draw) -> Tensor:
    """Cut ``size`` × ``size`` pixels out of the images (N, H, W, C) with these rows (B,), flip some; in one gather."""
    top, left, flip = how
    along = torch.arange(size, device=images.device)
    across = torch.where(flip[:, None], along.flip(0), along)
    y = (top[:, None] + along)[:, :, None]
    x = (left[:, None] + across)[:, None, :]
    return images[rows[:, None, None], y, x]


def center(images: Tensor, size: int) -> Tensor:
    """Return the middle ``size`` × ``size`` pixels of images (N, H, W, C), as a view."""
    top, left = (images.shape[1] - size) // 2, (images.shape[2] - size) // 2
    return images[:, top : top + size, left : left + size]


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn uint8 images (B, H, W, C) into float32 (B, C, H, W), channels last in memory, of mean 0 and variance 1."""
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


# ---------------------------------------------------------------------- batches
class Batches(ABC):
    """Batches of one epoch after another, in an order that follows from the seed and the epoch alone.

    ``batch_size`` counts the images of all processes together, ``rows`` are this process's; the images are larger by
    ``room`` pixels than the network's input, ``image_size``. ``augment`` cuts at random places and flips.
    """

    image_size: int
    index: Tensor  # of this process's images among the training images, (B,), in a buffer too

    def __init__(
        self, count: int, batch_size: int, rows: slice, device: torch.device, seed: int, room: int, augment: bool
    ) -> None:
        if batch_size > count:
            raise ValueError(f"batch_size={batch_size} exceeds the {count} training images; choose a smaller one")
        self.count, self.batch_size, self.rows, self.device, self.seed = count, batch_size, rows, device, seed
        self.room, self.augment = room, augment
        self.generator = torch.Generator(device).manual_seed(derive_seed(seed, "augmentation"))
        self.unreadable: set[int] = set()  # images whose file could not be read, replaced by others
        self.steps = count // batch_size  # an incomplete last batch is left out, with other images each epoch

    def order(self, epoch: int) -> Tensor:
        """Return the indices of each batch's images, (steps, batch_size), on the CPU."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order = torch.randperm(self.count, generator=generator)
        return order[: self.steps * self.batch_size].view(self.steps, self.batch_size)

    def _draw(self) -> Draw | None:
        if not self.augment:
            return None
        top, left, flip = draw(self.batch_size, self.room, self.generator)
        return top[self.rows], left[self.rows], flip[self.rows]

    @abstractmethod
    def start(self, epoch: int, step: int) -> None:
        """Go to a step of an epoch."""

    @abstractmethod
    def fill(self) -> None:
        """Fetch the next batch into the buffers."""

    @abstractmethod
    def batch(self) -> tuple[Tensor, Tensor]:
        """Return this process's augmented images (B, H, W, C), uint8, and labels (B,), from the buffers."""


class DeviceBatches(Batches):
    """A data set that lies on the device as uint8; a batch is one gather."""

    def __init__(self, data: Images, *, augment: bool, **options: Any) -> None:
        room = 2 * PADDING if augment else 0
        super().__init__(len(data), room=room, augment=augment, **options)
        images = torch.from_numpy(np.ascontiguousarray(data.images))
        self.image_size = images.shape[1]
        self.images = (pad(images, PADDING) if augment else images).to(self.device)
        self.labels = torch.from_numpy(data.given).to(self.device)
        self.index = torch.zeros(self.rows.stop - self.rows.start, dtype=torch.int64, device=self.device)

    def start(self, epoch: int, step: int) -> None:
        self._order, self._next = self.order(epoch)[:, self.rows].to(self.device), step

    def fill(self) -> None:
        self.index.copy_(self._order[self._next])
        self._next += 1

    def batch(self) -> tuple[Tensor, Tensor]:
        labels = self.labels[self.index]
        if (how := self._draw()) is None:
            return self.images[self.index], labels
        return crop_flip(self.images, self.index, self.image_size, how), labels


class FileBatches(Batches):
    """A data set of files, decoded by ``workers`` processes of a DataLoader to images larger than the crop."""

    def __init__(self, data: Images, *, image_size: int, workers: int, augment: bool, **options: Any) -> None:
        self.files: Any = data.images
        super().__init__(len(data), room=self.files.size - image_size, augment=augment, **options)
        self.image_size, self.workers = image_size, workers
        self.given = torch.from_numpy(data.given)
        shape = (self.rows.stop - self.rows.start, self.files.size, self.files.size, 3)
        self._images = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        self._labels = torch.zeros(shape[0], dtype=torch.int64, device=self.device)
        self.index = torch.zeros_like(self._labels)
        self._loaded: Iterator[Any] = iter(())

    def start(self, epoch: int, step: int) -> None:
        batches = self.order(epoch)[step:, self.rows].tolist()
        self._asked = iter(batches)
        self._loaded = iter(file_loader(self.files, batches, self.workers, pin=self.device.type == "cuda"))

    def fill(self) -> None:
        images, _, index, failed = next(self._loaded)
        self.unreadable.update(i for i, bad in zip(next(self._asked), failed.tolist(), strict=True) if bad)
        self._images.copy_(images, non_blocking=True)
        self._labels.copy_(self.given[index], non_blocking=True)
        self.index.copy_(index, non_blocking=True)

    def batch(self) -> tuple[Tensor, Tensor]:
        if (how := self._draw()) is None:
            return center(self._images, self.image_size), self._labels
        rows = torch.arange(len(self._labels), device=self.device)
        return crop_flip(self._images, rows, self.image_size, how), self._labels


def file_loader(files: Any, batches: list[list[int]], workers: int, *, pin: bool = False) -> DataLoader[Any]:
    """Load batches of indices in other processes, which are not forked if this process has used a GPU.

    A fork would inherit this process's CUDA graphs and abort as soon as it collected them as garbage, because CUDA does
    not work in forks.
    """
    context = None
    if workers and torch.cuda.is_initialized() and "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([ImageFiles.__module__])  # once, for all workers of all epochs
    return DataLoader(
        files, batch_sampler=batches, num_workers=workers, pin_memory=pin, multiprocessing_context=context
    )
