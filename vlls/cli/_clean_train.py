"""The networks of ``vlls clean``: their training images, settings and predictions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from vlls._files import expanded
from vlls.cli._terminal import note
from vlls.data import ImageFiles
from vlls.data._labelled import (
    MISSING,
    LabelledImages,
    labelled_folder,
    printable,
    read_list,
    read_pixels,
    shorter_side,
)
from vlls.train import (
    Images,
    LoadedRun,
    Progress,
    RunConfig,
    RunData,
    RunImages,
    load_run,
    run,
)
from vlls.train._chance import at_chance, label_counts
from vlls.train._presets import settings
from vlls.train._trainer import pixel_moments, seen_size
from vlls.train.methods import METHODS as KNOWN

SMALL, LARGER = 32, 64  # pixels that a network sees of images in files, on a CPU and on a GPU
# Few epochs, so that the network does not memorise the labels: as many as in the protocol ``mnist``, fewer for many
# images, and more for few; for a ResNet as many as in the protocol ``short``.
EPOCHS, LEAST_EPOCHS, RESNET_EPOCHS = 12, 5, 30
PASSES = 60_000  # of images through the small network in a run, at most, while it has LEAST_EPOCHS or more
STEPS = 200  # of the small network, at least
LR = {True: 0.05, False: 0.02}  # of the small network, by whether the method is variational; as in ``mnist``
BATCH = 50
PIXELS = 2**18  # of a batch that is judged

Told = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Training:
    """The options that say how the networks are trained; None for the defaults."""

    method: str = "ivon"
    model: str | None = None
    epochs: int | None = None
    lr: float | None = None
    image_size: int | None = None
    augment: bool | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Source:
    """Labels to judge, and the predictions that judge them.

    Attributes:
        data: the labels, all of them.
        images: the images, in the same order, as networks take them.
        read: whether each image could be read, (N,).
        judged: rows whose labels are judged, (M,).
        base: the folder, list or run that the user passed.
        run: an earlier run whose network judges them; None if networks are to be trained.
        config: function that returns the config of a network to train from the number of its training images.
    """

    data: LabelledImages
    images: Images
    read: npt.NDArray[np.bool_]
    judged: npt.NDArray[np.int64]
    base: Path
    config: Callable[[int], RunConfig]
    run: LoadedRun | None = None

    @property
    def variational(self) -> bool:
        """Whether the networks have a posterior, from which weights are drawn."""
        return KNOWN[self.config(len(self.data)).method].variational

    @property
    def to_train_on(self) -> npt.NDArray[np.int64]:
        """Rows of training images with a label, that can be read."""
        part = self.data.parts == "train" if self.run is None else np.ones(len(self.data), bool)
        return np.flatnonzero(part & self.read & (self.data.labels != MISSING))

    @property
    def to_test(self) -> npt.NDArray[np.int64]:
        """Rows of the images that networks are measured on; empty if there is no such part."""
        return np.flatnonzero((self.data.parts == "test") & self.read & (self.data.labels != MISSING))


# ---------------------------------------------------------------------- where labels come from
def of_labels(data: LabelledImages, base: Path, part: str, training: Training, device: Any, told: Told) -> Source:
    """Return the source for labels of a folder or of a list: their images, small and in memory."""
    judged = np.flatnonzero((data.parts == part) | (part == "all"))
    if not len(judged):
        raise ValueError(f"{base} has no part {part!r}, only {', '.join(np.unique(data.parts))}; choose one of them")
    assert data.files is not None
    most = LARGER if device.type == "cuda" else SMALL
    size = training.image_size or max(8, min(shorter_side(data.files) or most, most))
    pixels, read = read_pixels(data.files, size, progress=told)
    network = training.model or ("resnet18" if device.type == "cuda" and pixels.shape[3] == 3 else "cnn3")

    def config(images: int) -> RunConfig:
        batch = max(1, min(BATCH, images // 4))
        epochs = training.epochs or epochs_for(network, images, images // batch)
        preset = "mnist" if network == "cnn3" else "cifar10"
        values = settings(preset, training.method, "none", 0.0, epochs, images, batch)
        values |= {"model": network, "batch_size": batch}
        values |= {"lr": LR[KNOWN[training.method].variational]} if network == "cnn3" else {}
        values |= {} if training.lr is None else {"lr": training.lr}
        fixed = {"dataset": str(base.resolve()), "method": training.method, "image_size": size}
        measured = {"eval_every": epochs, "thorough_every": epochs, "eval_samples": 0}
        return RunConfig.of({**values, **fixed, **measured, "augment": training.augment, "seed": training.seed})

    return Source(data, Images(pixels, data.labels, None), read, judged, base, config)


def epochs_for(network: str, images: int, steps: int) -> int:
    """Return the number of epochs for this many images, and this many steps in an epoch.

    Example:
        >>> [epochs_for("cnn3", n, n // 50) for n in (200, 2_000, 6_000, 50_000)]
        [50, 12, 10, 5]
    """
    if network != "cnn3":
        return RESNET_EPOCHS
    return max(min(EPOCHS, max(LEAST_EPOCHS, PASSES // images)), -(-STEPS // steps))


def read_labels(base: Path, images: Path | None, classes: Sequence[str] | None) -> LabelledImages:
    """Return the labels of a folder of images by class, or of a CSV file."""
    if not base.exists():
        raise ValueError(
            f"{base} does not exist; pass a folder of images by class, a CSV file of paths and labels, or a run"
        )
    if base.is_file():
        return read_list(base, None if images is None else expanded(images), classes)
    if images is not None or classes:
        name = "--images" if images is not None else "--classes"
        raise ValueError(f"{name} is for a list of labels; {base} is a folder, leave it out")
    return labelled_folder(base)


def of_run(loaded: LoadedRun, part: str) -> Source:
    """Return the source for the labels that a run was given."""
    loaded.images(part)  # raises an error if there is no such part
    held: Images = getattr(loaded.data, part)
    files, keys = None, [str(i) for i in range(len(held))]
    if isinstance(held.images, ImageFiles):
        files = tuple(map(held.images.path, range(len(held))))
        keys = [printable(os.fsdecode(path)) for path in held.images.paths.tolist()]
    parts = np.full(len(held), part)
    data = LabelledImages(loaded.folder.name, tuple(keys), held.given, loaded.data.classes, parts, files)
    every = np.arange(len(data))
    return Source(data, held, np.ones(len(data), bool), every, loaded.folder, lambda _: loaded.config, loaded)


# ---------------------------------------------------------------------- networks
@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities of the judged images, and the networks that gave them.

    Attributes:
        probabilities: for each of S draws of the weights, (S, M, K); NaN for images that could not be read.
        runs: the networks.
        chance: number of networks that learned nothing.
    """

    probabilities: npt.NDArray[Any]
    runs: list[LoadedRun]
    chance: int

    @property
    def accuracy(self) -> float | None:
        """Accuracy on the test part; None if there is no such part, or if there are several networks."""
        return None if len(self.runs) > 1 else self.runs[0].epochs[-1].get("test_accuracy")


class _Networks:
    """Trains networks for a source, or loads those trained before."""

    def __init__(self, source: Source, kept: Path, notes: Console, **options: Any) -> None:
        self.source, self.notes, self.options = source, notes, options
        self.folder = kept / "runs" / _digest(source)

    def network(self, rows: npt.NDArray[np.int64], test: npt.NDArray[np.int64], name: str) -> LoadedRun:
        """Return a network that is trained on the images ``rows`` and measured on the images ``test``."""
        source = self.source
        data = RunData(source.images.subset(rows), None, source.images.subset(test), source.data.classes)
        reporter = _Told(self.notes, measured=test is not rows)
        where, options = self.folder / name, self.options
        result = run(source.config(len(rows)), where, resume=True, data=data, reporters=[reporter], **options)
        if result.status != "finished":
            raise Diverged(f"training failed: {result.reason}")
        assert result.folder is not None
        if result.model is None:
            note(self.notes, f"{result.folder} was trained before and is kept (--overwrite trains it again)")
        return load_run(result.folder, device=options["device"], data=data)


class Diverged(Exception):
    """A network whose loss became NaN or infinite."""


class _Told(Progress):
    """Progress of training; test metrics are left out if there are no separate test images (not ``measured``)."""

    def __init__(self, console: Console, measured: bool) -> None:
        super().__init__(console)
        self._measured = measured

    def epoch(self, metrics: dict[str, float]) -> None:
        kept = {name: value for name, value in metrics.items() if self._measured or not name.startswith("test")}
        super().epoch(kept)


def predictions(
    source: Source, kept: Path, folds: int | None, samples: int, notes: Console, told: Told, **options: Any
) -> Predictions:
    """Return the probabilities of the judged images.

    Args:
        source: of labels and images.
        kept: folder for the networks, so that the next call need not train them again.
        folds: number of networks; each predicts the images that it was not trained on. None for one network, which
            predicts all.
        samples: draws of the weights of each network.
        notes: where progress goes.
        told: called with the numbers of images done and in all.
        **options: of :func:`.run`.
    """
    networks = _Networks(source, kept, notes, **options)
    train, judged = source.to_train_on, source.judged
    if folds is None:
        test = source.to_test
        loaded = source.run or networks.network(train, test if len(test) else train, "whole")
        found = _asked(loaded, source.images.subset(judged), samples, told)
        found[:, ~source.read[judged]] = np.nan
        return Predictions(found, [loaded], _at_chance([loaded]))
    fold = stratified(source.data.labels[train], folds)
    runs, draws = [], samples
    total = None
    counts = np.zeros(len(source.data))
    for number in range(folds):
        held = train[fold == number]
        loaded = networks.network(train[fold != number], held, f"fold-{number + 1}-of-{folds}")
        others = np.setdiff1d(judged, train)  # without a label, or of another part: predicted by every network
        rows = np.concatenate([np.intersect1d(held, judged), others])
        runs.append(loaded)
        if not len(rows):
            continue
        asked = _asked(loaded, source.images.subset(rows), draws, told)
        if total is None:
            total = np.zeros((len(asked), len(source.data), asked.shape[2]))
        total[:, rows] += asked
        counts[rows] += 1
    assert total is not None
    with np.errstate(invalid="ignore"):
        found = total[:, judged] / counts[judged][:, None]
    found[:, ~source.read[judged]] = np.nan
    return Predictions(found, runs, _at_chance(runs))


def _asked(loaded: LoadedRun, images: Images, samples: int, told: Told) -> npt.NDArray[Any]:
    """Return the probabilities (S, N, K) that a network gives to images; NaN for those that cannot be read."""
    from vlls.label_errors import sampled_probabilities

    device = next(loaded.model.parameters()).device
    size = seen_size(loaded.config, loaded.data)
    seen = RunImages(images, size, *pixel_moments(loaded.data.train, device), loaded.data.classes)
    batch = max(8, min(256, PIXELS // size**2))
    options: Any = {"num_samples": samples, "batch_size": batch, "progress": told}
    found = sampled_probabilities(loaded.model, loaded.posterior, seen, **options)
    found[:, sorted(seen.unreadable)] = np.nan
    return found


def _at_chance(runs: Sequence[LoadedRun]) -> int:
    return sum(at_chance(label_counts(loaded.data), loaded.epochs) for loaded in runs)


def stratified(labels: npt.NDArray[np.int64], folds: int) -> npt.NDArray[np.int64]:
    """Return the fold (N,) of each example, drawn so that every class is spread evenly over the folds.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 1, 1])
        >>> [np.bincount(labels[stratified(labels, 2) == fold]).tolist() for fold in range(2)]
        [[2, 1], [2, 1]]
    """
    generator, fold, start = np.random.default_rng(0), np.empty(len(labels), dtype=np.int64), 0
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        fold[members] = (start + np.arange(len(members))) % folds
        start += len(members)
    return fold


def _digest(source: Source) -> str:
    """Return a hash of the labels and the images, so that networks for other data are not reused."""
    digest = hashlib.sha256(source.data.fingerprint.encode())
    if isinstance(source.images.images, np.ndarray):
        digest.update(source.images.images.tobytes())
    return digest.hexdigest()[:12]
