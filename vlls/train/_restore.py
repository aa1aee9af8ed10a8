"""A run loaded from its folder: its network, its posterior, and its images as the network sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from vlls._errors import one_line
from vlls._files import expanded
from vlls._validation import check_known
from vlls.data import DATASETS, ImageFiles
from vlls.data._streams import decode_whole
from vlls.optim import LearnedShare, VariationalOptimizer, learned_share
from vlls.posterior import Posterior
from vlls.train._batches import center, normalize
from vlls.train._config import ResolvedConfig, RunConfig
from vlls.train._files import CHECKPOINT, RECORD, load_checkpoint, load_record
from vlls.train._keys import first_key
from vlls.train._machine import pick_device
from vlls.train._prepare import Images, RunData, prepare
from vlls.train._trainer import make_model, pixel_moments, seen_size
from vlls.train.methods import METHODS, make_optimizer

__all__ = ["LoadedRun", "RunImages", "load_run"]

PARTS = ("train", "test", "validation")  # of a run's data


class RunImages(Dataset[Tensor]):
    """Images of a run as its network sees them, without augmentation: item i is a (C, H, W) float32 tensor.

    Images that lie in files are read when they are asked for. One that cannot be read is replaced by the next one, as
    in training, and its index is added to ``unreadable``.

    Args:
        images: with their labels.
        size: height and width in pixels that the network sees.
        mean: (C,) of the training images, in 0..255, on the device where the items go.
        std: (C,) in 0..255, there too.
        classes: the K class names.

    Attributes:
        given: labels that the run was given, (N,) int64 on the CPU; some may be wrong.
        clean: the correct labels, (N,), or None if they are unknown.
        classes: the K class names.
        unreadable: indices of images that were asked for and could not be read.

    Example:
        >>> images = Images(np.zeros((2, 8, 8, 1), np.uint8), np.array([3, 4]), None)
        >>> seen = RunImages(images, 8, torch.tensor([10.0]), torch.tensor([5.0]), tuple("0123456789"))
        >>> len(seen), seen[0].shape, float(seen[0].mean()), seen.given
        (2, torch.Size([1, 8, 8]), -2.0, tensor([3, 4]))
    """

    def __init__(self, images: Images, size: int, mean: Tensor, std: Tensor, classes: tuple[str, ...]) -> None:
        self._images, self._size, self._mean, self._std, self.classes = images, size, mean, std, classes
        self.given = torch.from_numpy(images.given)
        self.clean = None if images.clean is None else torch.from_numpy(images.clean)
        self.unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self.batch([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:  # a DataLoader asks for a batch at once
        return list(self.batch(indices))

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Return the images with these indices as one tensor (B, C, H, W), channels last in memory."""
        return normalize(self._pixels(indices).to(self._mean.device), self._mean, self._std)

    def pixels(self, index: int) -> np.ndarray:
        """Return an image for people to look at, uint8 of shape (H, W, C), cut out as the network sees it."""
        return self._pixels([index])[0].numpy()

    def whole(self, index: int, longest: int) -> np.ndarray:
        """Return an image for people to look at, uint8 (H, W, C), with the parts that the network does not see.

        Args:
            index: of the image.
            longest: pixels of its longer side; larger images in files are made smaller.
        """
        path = self.path(index)
        return self.pixels(index) if path is None else decode_whole(path, longest)

    def path(self, index: int) -> Path | None:
        """Return the file of an image, or None where the images do not lie in files."""
        files = self._images.images
        return files.path(index) if isinstance(files, ImageFiles) else None

    def first(self, count: int) -> RunImages:
        """Return the first ``count`` images, or all where there are fewer."""
        images = self._images.subset(np.arange(min(count, len(self))))
        return RunImages(images, self._size, self._mean, self._std, self.classes)

    def _pixels(self, indices: Sequence[int]) -> Tensor:
        files: Any = self._images.images
        if isinstance(files, np.ndarray):
            return torch.from_numpy(files[np.asarray(indices)])
        read = [files[int(index)] for index in indices]
        self.unreadable.update(int(i) for i, (*_, failed) in zip(indices, read, strict=True) if failed)
        return center(torch.stack([image for image, *_ in read]), self._size)


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run that was kept in a folder.

    Attributes:
        folder: where it is.
        config: resolved.
        status: ``"finished"``, ``"diverged"``, or ``"unfinished"`` where there is a checkpoint and no record.
        step: steps taken when the weights were saved.
        epochs: metrics of the epochs that were over by then, as in :class:`.RunResult`.
        model: the network, in evaluation mode, at its weights or their mean; float32, whatever it was trained in.
        posterior: the learned one; None for methods that learn none (``sgd``, ``ls``, ``sam``, ...).
        learned_share: how much of its Hessian the data taught (:func:`.learned_share`); None if it keeps none.
        data: the images that it was trained and measured on.
    """

    folder: Path
    config: ResolvedConfig
    status: str
    step: int
    epochs: list[dict[str, float]] = field(repr=False)
    model: nn.Module = field(repr=False)
    posterior: Posterior | None
    learned_share: LearnedShare | None = field(repr=False)
    data: RunData = field(repr=False)

    def images(self, part: str = "train") -> RunImages:
        """Return a part of the data as the network sees it, on the network's device.

        Args:
            part: ``"train"``, in the data set's order and without augmentation, ``"test"`` or ``"validation"``.

        Raises:
            ValueError: for another name, or a run without images held out.
        """
        check_known(part, PARTS, "part")
        images: Images | None = getattr(self.data, part)
        if images is None:
            raise ValueError(
                f"part='validation' was asked for and {self.folder} held no images out (validation_size=0); choose "
                "train or test"
            )
        mean, std = pixel_moments(self.data.train, next(self.model.parameters()).device)
        return RunImages(images, seen_size(self.config, self.data), mean, std, self.data.classes)


def load_run(
    folder: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    root: str | os.PathLike[str] | None = None,
    data: RunData | None = None,
) -> LoadedRun:
    """Load a run from its folder: finished, or cut at its last checkpoint.

    The weights and the posterior equal those of the run bit for bit, and no pickled code is executed. Labels and
    file names are compared with those of the run; pixels that changed under the same name go unnoticed.

    Args:
        folder: of the run, that holds its ``checkpoint.pt``, as :func:`.run` or ``vlls train`` left it.
        device: where the network goes, as :func:`.run` takes it.
        root: where data are, as :func:`.load` takes it. If a folder of images has moved, it is searched for beside the
            run, and in here.
        data: those that were passed to :func:`.run`, if any were; without them the config's are loaded.

    Raises:
        ValueError: if there is no such folder or no checkpoint in it, the checkpoint is truncated, the config is of
            another version, or the data cannot be had or have changed; each with what to do.

    Example:
        >>> import tempfile
        >>> from vlls.train import RunConfig, run
        >>> config = RunConfig(dataset="digits", method="ivon", epochs=1, train_size=200, eval_samples=0)
        >>> with tempfile.TemporaryDirectory() as runs:
        ...     loaded = load_run(run(config, runs).folder)
        >>> loaded.status, loaded.posterior
        ('finished', DiagonalPosterior(8 names, 75178 weights))
        >>> test = loaded.images("test")
        >>> loaded.model(test.batch(range(4))).shape, test.given[:4]
        (torch.Size([4, 10]), tensor([7, 9, 4, 7]))
    """
    device, folder = pick_device(device), expanded(folder)
    _check_folder(folder)
    record = load_record(folder / RECORD) if (folder / RECORD).exists() else {}
    keys = [record["key"], first_key(record.get("config", {}))] if "key" in record else []
    remedy = "train the run again (vlls train --overwrite)"
    state = load_checkpoint(folder / CHECKPOINT, *keys, device=device, remedy=remedy)
    config = _config(folder, record, state)
    if data is None:
        data = _data(folder, config, record, state, root)
    elif changed := _changed(state, data):
        raise ValueError(
            f"the run {folder} was trained on other data than those given: files or labels of its part(s) "
            f"{', '.join(changed)} differ; pass those that it was trained on"
        )
    model = make_model(config, data, device, pretrained=False)
    posterior = share = None
    try:
        model.load_state_dict(state["model"])
        if METHODS[config.method].variational:
            optimizer = make_optimizer(config, model, len(data.train))
            assert isinstance(optimizer, VariationalOptimizer)
            saved = state["optimizer"]
            kept = {i: {k: v for k, v in slot.items() if k != "generator"} for i, slot in saved["state"].items()}
            optimizer.load_state_dict({"state": kept, "param_groups": saved["param_groups"]})  # nothing is drawn here
            posterior = optimizer.posterior(model)
            with suppress(ValueError):  # a registered optimizer may keep no Hessian
                share = learned_share(optimizer)
        step, epochs = state["step"], state["epochs"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"the weights in {folder / CHECKPOINT} do not fit the run's network and data ({one_line(error):.200}); "
            "have the data changed? Choose the folder with those it was trained on"
        ) from error
    status = record.get("status", "unfinished")
    return LoadedRun(folder, config, status, step, epochs, model.eval(), posterior, share, data)


def _check_folder(folder: Path) -> None:
    """Raise a ValueError unless the folder is that of a run whose weights were kept."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{folder} {what}; pass the folder of a run, which vlls train names at its end")
    if (folder / CHECKPOINT).exists():
        return
    if (folder / RECORD).exists():
        status = load_record(folder / RECORD).get("status", "recorded")
        raise ValueError(
            f"{folder} holds no {CHECKPOINT}, only the record of a run that is {status}; train it again with "
            "vlls train --overwrite"
        )
    runs = sorted(path.parent.name for path in folder.glob(f"*/{CHECKPOINT}"))
    if runs:
        more = f", ... ({len(runs)} in all)" if len(runs) > 3 else ""
        raise ValueError(f"{folder} is a folder of runs, not of one; pass one of {', '.join(runs[:3])}{more} in it")
    raise ValueError(f"{folder} holds no {CHECKPOINT}; pass the folder of a run, which vlls train names at its end")


def _data(
    folder: Path, config: RunConfig, record: dict[str, Any], state: dict[str, Any], root: str | os.PathLike[str] | None
) -> RunData:
    """Return the data of a run; a folder of images is searched for beside the run too, and under ``root``."""
    first = None
    for path in _candidates(folder, config.dataset, root):
        try:
            data = prepare(replace(config, dataset=path), root)
        except ValueError as error:
            first = first or ValueError(f"the data of the run {folder} cannot be had: {error}")
            continue
        counted = record.get("counts", {}).get("train_images", len(data.train))
        changed = _changed(state, data)
        if counted != len(data.train):
            first = first or ValueError(
                f"{path} has {len(data.train)} training images and the run {folder} was trained on {counted}: "
                "the data have changed; choose the folder with those it was trained on"
            )
        elif changed:
            first = first or ValueError(
                f"{path} has changed since the run {folder} was trained: other files, or other labels, are in its "
                f"part(s) {', '.join(changed)}; put the old ones back, or train the run again (vlls train --overwrite)"
            )
        else:
            return data
    raise first or ValueError(
        f"the data of the run {folder} cannot be had: {config.dataset} is no folder, and none of that name lies beside "
        "the run; put it back, or pass the folder that holds it as root (vlls noise --data)"
    )


def _changed(state: dict[str, Any], data: RunData) -> list[str]:
    """Return the parts of the data that are not as they were when the checkpoint was saved."""
    kept = state.get("fingerprints", {})  # older runs kept none
    return [part for part, found in data.fingerprints.items() if kept.get(part, found) != found]


def _candidates(folder: Path, dataset: str, root: str | os.PathLike[str] | None) -> list[str]:
    """Return the name of a run's data set, or the folders that may hold its images."""
    if dataset in DATASETS:
        return [dataset]
    given = expanded(dataset)
    # older versions kept a path relative to the folder that a run was started in, which is often above the run's
    beside = given.name if given.is_absolute() else given
    paths = [given, *(above / beside for above in list(folder.resolve().parents)[:3])]
    if root is not None:
        paths.append(expanded(root) / given.name)
    return list(dict.fromkeys(os.path.abspath(path) for path in paths if path.is_dir()))


def _config(folder: Path, record: dict[str, Any], state: dict[str, Any]) -> ResolvedConfig:
    """Return the config of a run from its checkpoint or its record."""
    values = state.get("config", record.get("config"))
    if values is None:
        raise ValueError(
            f"{folder / CHECKPOINT} was written by a version of vlls that kept the config in {RECORD} only, and there "
            "is none; finish the run with vlls train --resume"
        )
    version = record.get("machine", {}).get("vlls")
    remedy = f"load it with the version that wrote it{f' ({version})' if version else ''}, or train the run again"
    try:
        config = RunConfig.from_dict(values, state["key"]).resolved()
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"the config of the run {folder} is of another version of vlls ({error}); {remedy}") from error
    if state["key"] not in (config.key, first_key(values)):
        raise ValueError(
            f"the config of the run {folder} (key {config.key}) is not the one that it was trained with (key "
            f"{state['key']}): it is of another version of vlls, or was changed by hand; {remedy}"
        )
    return config
