"""A made-up miniature of Clothing1M: drawn garments and made-up label errors, in the layout of the real data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlls._errors import DataError, MissingDataError, needs, one_line
from vlls._files import whole_folder
from vlls.data._clothing1m import read_layout
from vlls.data._garments import draw_garment
from vlls.data._known import CLOTHES, Dataset
from vlls.data._streams import ImageStream

__all__ = ["plan_miniature"]

NAME = "clothing1m_miniature"
SEED = 2015
# number of images of each list; the same number of every class
SIZES = {"noisy_train": 1400, "clean_train": 140, "clean_val": 140, "clean_test": 420}
WRONG_SHARE = 0.38  # probability that a noisy label is wrong, about as Xiao et al. (2015) report for Clothing1M
SYMMETRIC_SHARE = 0.15  # of the wrong labels: drawn uniformly from the other classes; the rest name a look-alike
# the classes that a class is confused with; the pairs are ours, of the same kind as those of the real data set
LOOK_ALIKES = {
    "T-Shirt": ("Vest", "Shirt"),
    "Shirt": ("Chiffon", "T-Shirt"),
    "Knitwear": ("Sweater", "Shawl"),
    "Chiffon": ("Shirt", "Dress"),
    "Sweater": ("Knitwear", "Hoodie"),
    "Hoodie": ("Sweater", "Windbreaker"),
    "Windbreaker": ("Jacket", "Downcoat"),
    "Jacket": ("Windbreaker", "Downcoat", "Suit"),
    "Downcoat": ("Windbreaker", "Jacket"),
    "Suit": ("Jacket", "Shirt"),
    "Shawl": ("Knitwear", "Vest"),
    "Dress": ("Chiffon", "Vest"),
    "Vest": ("T-Shirt", "Shawl", "Underwear"),
    "Underwear": ("Vest",),
}

README = f"""\
This is NOT Clothing1M.

It is a made-up miniature of it, drawn by vlls (vlls.data.load("{NAME}")) so that what is written for
Clothing1M can be tried without the licensed data set. No image is a photograph or comes from Clothing1M; the labels
are made up too, wrong for about {WRONG_SHARE:.0%} of the noisy list, mostly by naming a class that looks alike. Only
the layout of the folder and the names of the 14 classes are those of Clothing1M (Xiao et al., 2015). Results on
these images say nothing about the real ones.

Remove the folder, and it is made again, the same, when it is next asked for.
"""


def plan_miniature(seed: int = SEED) -> tuple[dict[str, range], np.ndarray, np.ndarray]:
    """Return the labels of the made-up miniature of Clothing1M (Chapter 12), the same on every machine.

    Args:
        seed: of the labels.

    Returns:
        The images of each list, the correct classes, and the labels with errors, both int64 of shape (N,). The label
        file with errors lists the images of ``noisy_train`` and every second one of ``clean_train`` and ``clean_val``;
        the latter have both labels, as in Clothing1M.

    Example:
        >>> lists, true, noisy = plan_miniature()
        >>> train = lists["noisy_train"]
        >>> len(train), round(float((noisy != true)[train].mean()), 2)
        (1400, 0.37)
    """
    random = np.random.RandomState(seed)  # the same in every version of numpy
    classes = len(CLOTHES)
    ends = np.cumsum(list(SIZES.values())).tolist()
    lists = {name: range(end - size, end) for (name, size), end in zip(SIZES.items(), ends, strict=True)}
    true = np.concatenate([random.permutation(size) % classes for size in SIZES.values()]).astype(np.int64)
    wrong, symmetric, which = random.random_sample((3, len(true)))
    look_alikes = [[CLOTHES.index(other) for other in LOOK_ALIKES[name]] for name in CLOTHES]
    alike = np.array([look_alikes[k][int(u * len(look_alikes[k]))] for k, u in zip(true, which, strict=True)])
    other = (true + 1 + (which * (classes - 1)).astype(np.int64)) % classes
    return lists, true, np.where(wrong >= WRONG_SHARE, true, np.where(symmetric < SYMMETRIC_SHARE, other, alike))


def read_miniature(dataset: Dataset, root: Path, download: bool) -> ImageStream:
    """Return the miniature under ``root``; draw it first if it is missing, all of it or nothing.

    An existing folder is left unchanged. Several processes may draw it at the same time.
    """
    folder = root / NAME
    if not folder.exists():
        needs("PIL.Image", f"drawing {NAME}")
        try:
            with whole_folder(folder) as made:
                _write(made)
        except OSError as error:
            raise MissingDataError(
                f"{NAME} could not be made in {root} ({one_line(error)}); make room, or choose a folder that you may "
                "write to as root or VLLS_DATA"
            ) from error
    elif not (folder / "noisy_train_key_list.txt").is_file():
        raise DataError(
            f"{folder} is there but has no noisy_train_key_list.txt, so it is not whole; remove it to make it again"
        )
    return read_layout(folder, NAME)


def _write(folder: Path) -> None:
    """Write the images and then the text files."""
    lists, true, noisy = plan_miniature()
    keys = [f"images/{i % 10}/{i % 100:02d}/{i:06d},{i + 7:06d}.jpg" for i in range(len(true))]
    for i, key in enumerate(keys):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_garment(CLOTHES[true[i]], np.random.RandomState([SEED, i])).save(path, quality=90)
    both = [i for name in ("clean_train", "clean_val") for i in lists[name][::2]]
    clean = [i for name, members in lists.items() if name != "noisy_train" for i in members]
    texts = {f"{name}_key_list.txt": [keys[i] for i in members] for name, members in lists.items()}
    texts["noisy_label_kv.txt"] = [f"{keys[i]} {noisy[i]}" for i in (*lists["noisy_train"], *both)]
    texts["clean_label_kv.txt"] = [f"{keys[i]} {true[i]}" for i in clean]
    texts["category_names_eng.txt"] = list(CLOTHES)
    texts["README.txt"] = README.splitlines()
    for file, lines in texts.items():
        (folder / file).write_bytes("".join(f"{line}\n" for line in lines).encode())
