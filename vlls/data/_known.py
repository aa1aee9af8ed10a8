"""What is known beforehand of the data sets: names, classes, folders and files."""

from __future__ import annotations

import os
from pathlib import Path

from vlls._names import check_known
from vlls.data._rates import CORRUPTIONS

__all__ = [
    "ARRAYS",
    "CLASSES",
    "CORRUPTIONS",
    "HUMAN_LABELS",
    "NAMES",
    "TORCHVISION",
    "as_folder",
    "check_dataset",
    "default_root",
]

_DIGITS = tuple(str(digit) for digit in range(10))

CLASSES = {
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    # the order in which pair flip moves the labels (App. C.2)
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
        castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
        elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
        man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
        pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
        skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
        tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
        """.split()
    ),
    "clothing1m": (
        "T-Shirt",
        "Shirt",
        "Knitwear",
        "Chiffon",
        "Sweater",
        "Hoodie",
        "Windbreaker",
        "Jacket",
        "Downcoat",
        "Suit",
        "Shawl",
        "Dress",
        "Vest",
        "Underwear",
    ),
}
CLASSES["clothing1m_miniature"] = CLASSES["clothing1m"]  # made up, see vlls.data.miniature
NAMES = tuple(CLASSES)
ARRAYS = tuple(name for name in NAMES if not name.startswith("clothing1m"))  # held in memory, not read file by file

# torchvision's class for a data set, and the folder that it makes under the root
TORCHVISION = {
    "mnist": ("MNIST", "MNIST"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}

# sets of human labels: the data set that they belong to, and their keys (Wei et al., 2022)
HUMAN_LABELS = {
    "cifar10n": (
        "cifar10",
        ("clean_label", "aggre_label", "random_label1", "random_label2", "random_label3", "worse_label"),
    ),
    "cifar100n": ("cifar100", ("clean_label", "noisy_label")),
}


# ---------------------------------------------------------------------- what a name means
def default_root() -> Path:
    """Return the folder with the data sets: ``$VLLS_DATA``, or else ``vlls`` in the user's cache folder.

    Example:
        >>> default_root().is_absolute() or "VLLS_DATA" in os.environ
        True
    """
    chosen = os.environ.get("VLLS_DATA")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache") / "vlls"


def as_folder(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder that ``name`` means, or None where it is no path."""
    if isinstance(name, os.PathLike):
        return Path(name).expanduser()
    if not isinstance(name, str):
        return None
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    is_path = any(separator in name for separator in separators) or name in (".", "..", "~")
    path = Path(name).expanduser()
    return path if is_path or (name and name not in NAMES and path.is_dir()) else None


def check_dataset(name: str | os.PathLike[str], labels: str | None = None, argument: str = "name") -> Path | None:
    """Return the folder that ``name`` means, or None where it is the name of a data set; neither is looked into.

    Raises:
        ValueError: where it is neither, or the human labels are unknown or of another data set.
    """
    folder = as_folder(name)
    if folder is None:
        check_known(name, NAMES, argument, ", or the path of a folder of images by class")
    if labels is not None:
        check_known(labels, [f"{kind}:{key}" for kind, (_, keys) in HUMAN_LABELS.items() for key in keys], "labels")
        owner = HUMAN_LABELS[labels.partition(":")[0]][0]
        if owner != name:
            raise ValueError(
                f"labels={labels!r} belong to {owner!r}, not to {str(name)!r}; load {owner!r}, or leave labels out"
            )
    return folder
