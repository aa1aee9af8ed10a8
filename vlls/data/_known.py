"""The table of data sets, and the meaning of a name or a path of one; nothing is read here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlls._files import expanded
from vlls._names import check_known


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A data set as :func:`.load`, the command line and the presets know it.

    Attributes:
        name: in :func:`.load` and on the command line.
        classes: names of the classes, in the order of the labels.
        title: in figures and tables; the name if empty.
        read: function of this record, of the folder with the data sets and of whether to download, which returns an
            :class:`.ImageArrays` or an :class:`.ImageStream`; or its name as ``"module:function"``, which is imported
            when the data set is loaded. Without one the data set is the arrays file ``<name>.npz``.
        in_memory: whether it is an :class:`.ImageArrays`, not files that are decoded when asked for.
        train_size: number of training images to hold some out of for validation; 0 if it has images for that, and
            None to find out by loading it.
        presets: values of :class:`.RunConfig` fields, in place of those for small images or for photographs. Under a
            method's name they are that method's: ``{"lr": 0.05, "ivon": {"lr": 0.1}}``.
        torchvision: the class of ``torchvision.datasets`` that downloads it, and the folder that it makes.
    """

    name: str
    classes: tuple[str, ...]
    title: str = ""
    read: str | Callable[..., Any] = "vlls.data._arrays:read_arrays"
    in_memory: bool = True
    train_size: int | None = None
    presets: Mapping[str, Any] = field(default_factory=dict)
    torchvision: tuple[str, str] = ("", "")


_DIGITS = tuple("0123456789")
CLOTHES = tuple(
    "T-Shirt Shirt Knitwear Chiffon Sweater Hoodie Windbreaker Jacket Downcoat Suit Shawl Dress Vest Underwear".split()
)
_with_torchvision = partial(Dataset, read="vlls.data._torchvision:read_torchvision")
_of_clothes = partial(Dataset, classes=CLOTHES, in_memory=False, train_size=0)
_TABLE = (
    Dataset(name="digits", classes=_DIGITS, read="vlls.data._arrays:read_digits", train_size=1_437),
    _with_torchvision(name="mnist", classes=_DIGITS, title="MNIST", train_size=60_000, torchvision=("MNIST", "MNIST")),
    _with_torchvision(
        name="fashion_mnist",
        classes=(*"T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag".split(), "Ankle boot"),
        train_size=60_000,
        torchvision=("FashionMNIST", "FashionMNIST"),
    ),
    _with_torchvision(
        name="cifar10",
        # the order in which pair flip moves the labels (App. C.2)
        classes=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
        title="CIFAR-10",
        train_size=50_000,
        torchvision=("CIFAR10", "cifar-10-batches-py"),
    ),
    _with_torchvision(
        name="cifar100",
        classes=tuple(
            """
            apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
            castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
            elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
            lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
            pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal
            shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
            telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
            """.split()
        ),
        title="CIFAR-100",
        train_size=50_000,
        torchvision=("CIFAR100", "cifar-100-python"),
    ),
    _of_clothes(name="clothing1m", title="Clothing1M", read="vlls.data._clothing1m:read_clothing1m"),
    _of_clothes(
        name="clothing1m_miniature",
        title="made-up miniature of Clothing1M",
        read="vlls.data._miniature:read_miniature",
    ),
)
_DATASETS = {entry.name: entry for entry in _TABLE}
DATASETS: Mapping[str, Dataset] = MappingProxyType(_DATASETS)
"""The data sets by name, those that were registered included."""


def register(dataset: Dataset) -> None:
    """Add a data set: :func:`.load`, configs and the command line know it from then on, in this process.

    This one is read from ``stars.npz`` in the folder with the data sets::

        register(Dataset(name="stars", classes=("dwarf", "giant")))

    Raises:
        ValueError: if there is one of that name, or it has fewer than two classes.
    """
    if dataset.name in DATASETS:
        raise ValueError(f"a data set {dataset.name!r} is registered already; choose another name")
    if len(dataset.classes) < 2:
        raise ValueError(f"the data set {dataset.name!r} has classes {dataset.classes!r}; name at least two")
    _DATASETS[dataset.name] = dataset


# sets of human labels: the data set that they belong to, and their keys (Wei et al., 2022)
HUMAN_LABELS = {
    "cifar10n": ("cifar10", "clean_label aggre_label random_label1 random_label2 random_label3 worse_label".split()),
    "cifar100n": ("cifar100", ["clean_label", "noisy_label"]),
}


# ---------------------------------------------------------------------- names
def default_root() -> Path:
    """Return the folder with the data sets: ``$VLLS_DATA``, or else ``vlls`` in the user's cache folder.

    A user without a home folder has it among the temporary files.

    Example:
        >>> default_root().is_absolute() or "VLLS_DATA" in os.environ
        True
    """
    if chosen := os.environ.get("VLLS_DATA"):
        return expanded(chosen)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return expanded(cache) / "vlls"
    try:
        return Path.home() / ".cache" / "vlls"
    except RuntimeError:
        return Path(tempfile.gettempdir(), "vlls")


def in_memory(name: str) -> bool:
    """Tell whether ``name`` is a data set that is held in memory, and so neither a folder nor files."""
    return name in DATASETS and DATASETS[name].in_memory


def as_folder(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder that ``name`` means, or None if it is no path."""
    if isinstance(name, os.PathLike):
        return expanded(name)
    if not isinstance(name, str):
        return None
    is_path = any(separator in name for separator in (os.sep, os.altsep) if separator) or name in (".", "..", "~")
    path = expanded(name)
    return path if is_path or (name and name not in DATASETS and path.is_dir()) else None


def check_dataset(name: str | os.PathLike[str], labels: str | None = None, argument: str = "name") -> Path | None:
    """Return the folder that ``name`` means, or None if it names a data set; raise a ValueError if it is neither.

    The human labels must be known and belong to the data set. No file is read.
    """
    folder = as_folder(name)
    if folder is None:
        check_known(name, DATASETS, argument, ", or the path of a folder of images by class")
    if labels is not None:
        check_known(labels, [f"{name}:{key}" for name, (_, keys) in HUMAN_LABELS.items() for key in keys], "labels")
        owner = HUMAN_LABELS[labels.partition(":")[0]][0]
        if owner != name:
            raise ValueError(
                f"labels={labels!r} belong to {owner!r}, not to {str(name)!r}; load {owner!r}, or leave labels out"
            )
    return folder
