"""Images read from files one by one, for data sets too large to hold in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlls._errors import DataError, MissingDataError, needs, one_line

__all__ = ["ImageFiles", "ImageStream"]

_TRIES = 100  # unreadable images in a row that raise an error


class ImageFiles(Dataset[tuple[Tensor, int, int, bool]]):
    """Images in files with their labels, decoded when asked for; a million of them take 50 bytes each.

    ``files[i]`` is ``(image, label, index, failed)``. The image is uint8 of shape (size, size, 3), RGB: the
    largest centred square, scaled to ``size`` bilinearly and turned as its EXIF orientation says. Grey values of
    16 bits are divided by 257, and floating-point ones, which must be in [0, 1], multiplied by 255.

    A file that is missing, truncated or no image cannot be read, nor one with grey values of an unknown range or with
    more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``. Then the next readable file is returned with its own label and
    index, and ``failed`` is True. So training goes on, and the caller can count the failures.

    Args:
        root: folder that the paths start from.
        paths: paths of the images relative to ``root``, str or bytes.
        labels: their classes, integers of shape (N,).
        size: height and width of the images returned, in pixels.

    Raises:
        ValueError: if there are no paths, the number of labels differs, or ``size`` is not a positive integer.

    Example:
        >>> files = ImageFiles("photos", ["cat/1.jpg", "dog/7.jpg", "dog/8.jpg"], [0, 1, 1], size=224)
        >>> len(files), files.subset([1, 2]).labels, files.path(1).as_posix()
        (3, array([1, 1]), 'photos/dog/7.jpg')
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        paths: Sequence[str | bytes] | np.ndarray,
        labels: Sequence[int] | np.ndarray,
        size: int = 256,
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"size={size!r} is not allowed; choose a number of pixels, such as 256")
        self.root, self.size = Path(root), int(size)
        # One array of bytes: a list of str takes twice the memory, and every worker process would copy all of it,
        # because reading a Python object writes to its reference count.
        if not isinstance(paths, np.ndarray) or paths.dtype.kind != "S":
            paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self._paths: np.ndarray = paths
        given = np.asarray(labels)
        if len(self._paths) == 0:
            raise DataError(f"there are no images for {self.root}; pass at least one path")
        if given.shape != self._paths.shape or given.dtype.kind not in "iu":
            raise DataError(
                f"labels are {given.dtype} of shape {given.shape} beside {len(self._paths)} paths; "
                "pass one integer for each"
            )
        self.labels = given.astype(np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def __repr__(self) -> str:
        return f"ImageFiles({str(self.root)!r}, {len(self)} images, size={self.size})"

    @property
    def paths(self) -> np.ndarray:
        """Paths of the images relative to ``root``, bytes of shape (N,)."""
        return self._paths

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.root / os.fsdecode(bytes(self._paths[index]))

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageFiles:
        """Return the images with these indices, integers of shape (M,), in this order."""
        chosen = np.asarray(indices)
        outside = chosen.dtype.kind not in "iu" or chosen.ndim != 1 or len(chosen) == 0
        if outside or chosen.min() < 0 or chosen.max() >= len(self):
            raise ValueError(
                f"indices are {chosen.dtype} of shape {chosen.shape}; pass at least one integer of 0 to {len(self) - 1}"
            )
        return ImageFiles(self.root, self._paths[chosen], self.labels[chosen], self.size)

    def resized(self, size: int) -> ImageFiles:
        """Return the same images at another size in pixels."""
        return ImageFiles(self.root, self._paths, self.labels, size)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, bool]:
        number = len(self)
        if not -number <= index < number:
            raise IndexError(f"index {index} is outside 0 to {number - 1}")
        first, reason = int(index) % number, ""
        tries = min(_TRIES, number)
        for step in range(tries):
            i = (first + step) % number
            try:
                image = decode(self.path(i), self.size)
            except (MemoryError, MissingDataError):  # not the file's fault
                raise
            except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, ZeroDivisionError, ...
                reason = reason or one_line(error)
                continue
            return image, int(self.labels[i]), i, step > 0
        raise DataError(
            f"{self.path(first)} and the {tries - 1} images after it cannot be read ({reason}); check that the images "
            f"are under {self.root}"
        )


def decode(path: Path, size: int) -> Tensor:
    """Decode the centred square of an image file, uint8 of shape (size, size, 3); raise if it is damaged."""
    image_module, rgb = _open(path, size)
    width, height = rgb.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # Crop and resize in one step: a strip of 1 x 60,000 pixels never grows to its full length.
    square = rgb.resize((size, size), image_module.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return torch.from_numpy(np.array(_turned(square)))


def decode_whole(path: Path, longest: int) -> np.ndarray:
    """Decode a whole image file, uint8 of shape (H, W, 3), its longer side at most ``longest``."""
    _, rgb = _open(path, longest)
    rgb.thumbnail((longest, longest))
    return np.array(_turned(rgb))


def _turned(image: Any) -> Any:
    """Return an image turned as its EXIF orientation says; done last, when few pixels are left."""
    with suppress(Exception):  # damaged EXIF data are ignored: the pixels are good
        needs("PIL.ImageOps", "reading images").exif_transpose(image, in_place=True)
    return image


def _open(path: Path, size: int) -> tuple[Any, Any]:
    """Return Pillow's module, and an image in RGB, its shorter side no smaller than ``size`` unless the file's is."""
    image_module, file_module = (needs(f"PIL.{name}", "reading images") for name in ("Image", "ImageFile"))
    # Other code may allow truncated images; here they would be partly grey, and nobody would notice.
    lenient, file_module.LOAD_TRUNCATED_IMAGES = file_module.LOAD_TRUNCATED_IMAGES, False
    try:
        with image_module.open(path) as image:
            width, height = image.size
            limit = image_module.MAX_IMAGE_PIXELS
            if limit is not None and width * height > limit:
                raise ValueError(f"{width} x {height} pixels are more than PIL.Image.MAX_IMAGE_PIXELS")
            image.draft("RGB", (size, size))  # a JPEG is decoded at 1/2, 1/4 or 1/8, never below the size asked for
            return image_module, _eight_bits(image, image_module).convert("RGB")
    finally:
        file_module.LOAD_TRUNCATED_IMAGES = lenient


def _eight_bits(image: Any, image_module: Any) -> Any:
    """Return the image with grey values of 0 to 255: Pillow would clip wider ones to white, or round them to black."""
    if not image.mode.startswith(("I", "F")):  # I;16, I;16B, I, F
        return image
    values = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = values / 65535
    elif image.mode == "I":
        raise ValueError("grey values of 32 bits have no known range; save the image with 8 or 16 bits")
    if not 0 <= values.min() <= values.max() <= 1:
        raise ValueError(
            f"grey values go from {values.min():g} to {values.max():g}; scale them to [0, 1], or save 8 bits"
        )
    scaled = image_module.fromarray(np.rint(255 * values).astype(np.uint8))
    scaled.info = image.info  # with the EXIF data
    return scaled


@dataclass(frozen=True, eq=False)
class ImageStream:
    """A data set of images in files, Clothing1M or a folder of images by class.

    Args:
        name: of the data set.
        train: training images with the labels to train on.
        test: test images.
        classes: the K class names, in the order of the labels.
        val: validation images, if the data set has any besides the test images.
        clean_train: further training images with checked labels, if there are any (Clothing1M).
        missing_labels: number of images left out because they have no label, by the list that names them.
        left_out: number of files and links of a folder that were left out, by the reason.

    Raises:
        ValueError: if a label is outside 0 to K - 1.

    Example:
        >>> train = ImageFiles("photos", ["cat/1.jpg", "dog/7.jpg"], [0, 1])
        >>> test = ImageFiles("photos", ["dog/8.jpg"], [1])
        >>> ImageStream("photos", train, test, ("cat", "dog")).num_classes
        2
    """

    name: str
    train: ImageFiles
    test: ImageFiles
    classes: tuple[str, ...]
    val: ImageFiles | None = None
    clean_train: ImageFiles | None = None
    missing_labels: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split in ("train", "test", "val", "clean_train"):
            files: Any = getattr(self, split)
            if files is not None and not 0 <= files.labels.min() <= files.labels.max() < self.num_classes:
                raise DataError(
                    f"{self.name}: {split} has labels from {files.labels.min()} to {files.labels.max()}, but there are "
                    f"{self.num_classes} classes; correct the labels or the class names"
                )

    @property
    def num_classes(self) -> int:
        """The number K of classes."""
        return len(self.classes)
