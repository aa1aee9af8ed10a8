"""The function that loads a data set from any of its file formats."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, overload

from vlls._errors import DataError, MissingDataError, one_line
from vlls._files import expanded
from vlls._names import check_known
from vlls.data._arrays import ImageArrays, as_labels, read_npz
from vlls.data._folders import load_folder
from vlls.data._known import DATASETS, check_dataset, default_root
from vlls.data._streams import ImageStream

__all__ = ["load"]

_ArrayName = Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"]


@overload
def load(
    name: _ArrayName,
    root: str | os.PathLike[str] | None = ...,
    *,
    labels: str | None = ...,
    fallback: str | None = ...,
    download: bool = ...,
) -> ImageArrays: ...
@overload
def load(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = ...,
    *,
    labels: str | None = ...,
    fallback: str | None = ...,
    download: bool = ...,
) -> ImageArrays | ImageStream: ...


def load(
    name: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    labels: str | None = None,
    fallback: str | None = None,
    download: bool = True,
) -> ImageArrays | ImageStream:
    """Return a data set by its name, or a folder of images by class.

    ``"digits"`` comes with scikit-learn: 1797 images of 8 x 8 pixels, scaled to 0 to 255, of which a fixed
    shuffle puts 1437 into the training set and 360 into the test set. The others are looked for under
    ``root``: first an arrays file ``<name>.npz`` with ``train_x``, ``train_y``, ``test_x``, ``test_y`` and,
    if it likes, ``classes``; then torchvision's own layout (``MNIST/raw``, ``FashionMNIST/raw``,
    ``cifar-10-batches-py``, ``cifar-100-python``). Torchvision downloads missing data into ``root``.
    Clothing1M and folders are read image by image, see :class:`.ImageStream`.

    ``"clothing1m_miniature"`` is **not** Clothing1M: it is made up, 2100 drawings of garments with made-up label
    errors, so that you can try code for Clothing1M without the licensed data set. It has the layout
    and the classes of Clothing1M. About 38 % of its noisy labels are wrong, mostly by naming a class that looks
    alike. It is drawn into ``clothing1m_miniature`` under ``root`` when it is first asked for, in seconds.

    Args:
        name: ``"digits"``, ``"mnist"``, ``"fashion_mnist"``, ``"cifar10"``, ``"cifar100"``, ``"clothing1m"``,
            ``"clothing1m_miniature"`` or the path of a folder that holds ``train/<class>/*`` and ``test/<class>/*``
            (or ``val``), or ``<class>/*``, of which every fifth image is then for testing.
        root: folder with the data sets. Without it, that of the environment variable ``VLLS_DATA``, or else
            ``vlls`` in the user's cache folder. A path as ``name`` needs none.
        labels: human labels with errors in place of the training labels (Wei et al., 2022; Chapter 12), read from
            ``cifar10n.npz`` or ``cifar100n.npz`` under ``root``: ``"cifar10n:worse_label"``,
            ``"cifar10n:aggre_label"``, ``"cifar10n:random_label1"`` to 3, ``"cifar100n:noisy_label"``.
        fallback: name of the data set to return, with a warning, if this one cannot be had. A damaged data set is an
            error all the same.
        download: whether to download a data set that is not there. The miniature is drawn, not downloaded.

    Returns:
        An :class:`.ImageArrays`; for Clothing1M and folders an :class:`.ImageStream`.

    Raises:
        ValueError: if the name is unknown, or the data set is missing, damaged, not of the form above or, the
            miniature, cannot be written.

    Example:
        >>> data = load("digits")
        >>> data
        ImageArrays(name='digits', train=1437, test=360, image=8x8x1, classes=10)
        >>> data.train_x.dtype, data.train_y[:8]
        (dtype('uint8'), array([2, 8, 2, 6, 6, 7, 1, 9]))
        >>> load("cifar")
        Traceback (most recent call last):
        ValueError: name='cifar' is unknown (did you mean 'cifar10'?); choose one of digits, mnist, ...
    """
    if fallback is not None:
        check_known(fallback, [entry.name for entry in DATASETS.values() if entry.in_memory], "fallback")
    folder = check_dataset(name, labels)
    try:
        if folder is not None:
            return load_folder(folder)
        home = default_root() if root is None else expanded(root)
        dataset = DATASETS[str(name)]
        read = resolve_name(dataset.read) if isinstance(dataset.read, str) else dataset.read
        data: ImageArrays | ImageStream = read(dataset, home, download)
        return data if labels is None else _with_human_labels(data, home, labels)
    except MissingDataError as error:
        if fallback is None or fallback == name:
            raise
        lost = "" if labels is None else f" without labels={labels!r}"
        warnings.warn(f"{error}; going on with {fallback!r}{lost} instead", UserWarning, stacklevel=2)
        return load(fallback, root, download=download)
    except OSError as error:  # a folder that may not be looked into, a disk that went away
        raise DataError(f"{name} cannot be read ({one_line(error)}); check the folder and its permissions") from error


# ------------------------------------------------------------------ human labels
def _with_human_labels(data: Any, root: Path, labels: str) -> ImageArrays:
    """Return the data set with these labels, after a check that they are of the same images in the same order."""
    collection, _, key = labels.partition(":")
    path = root / f"{collection}.npz"
    if not path.exists():
        raise MissingDataError(
            f"{collection} is not under {root}; put there {path.name} with clean_label and {key}, integers in the "
            "order of the training images (they are published at github.com/UCSC-REAL/cifar-10-100n)"
        )
    arrays = {k: as_labels(v, f"{path}: {k}") for k, v in read_npz(path, tuple({"clean_label", key})).items()}
    clean = arrays["clean_label"]
    for name, values in arrays.items():
        if values.shape != data.train_y.shape:
            raise DataError(
                f"{path}: {name} has shape {values.shape} beside {len(data.train_y)} training images; use the labels "
                "of all training images"
            )
    different = int((clean != data.train_y).sum())
    if different:
        raise DataError(
            f"{path}: clean_label differs from the labels of {data.name} for {different} of {len(clean)} images, so "
            "the order differs; use the images and the labels in the original order"
        )
    try:
        return replace(data, train_y=arrays[key].copy(), clean_train_y=clean)
    except DataError as error:
        raise DataError(f"{path}, {key} as {error}") from None
