"""Images in files with labels that may be wrong or missing, of a folder or of a list of paths and labels."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlls._errors import DataError, MissingDataError, needs, one_line
from vlls._warnings import warn_caller
from vlls.data._folders import read_folder, role_of
from vlls.data._streams import decode

MISSING = -1
PARTS = ("train", "validation", "test")
_PART_OF_ROLE = {"all": "train", "train": "train", "val": "validation", "eval": "validation", "test": "test"}
_PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath")
_LABEL_COLUMNS = ("label", "class", "given", "category", "target")
_PART_COLUMNS = ("part", "split")


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Labels to check, and their images.

    Attributes:
        name: of the data, for titles and files.
        keys: of each image, unique: its path relative to the folder, or its index.
        labels: the given ones, (N,) int64, -1 for one that is missing.
        classes: names of the K classes.
        parts: of the split, (N,) of str: ``train``, ``validation`` or ``test``.
        files: paths of the images, or None if they are not in files.
    """

    name: str
    keys: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    parts: npt.NDArray[np.str_]
    files: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def kind(self) -> str:
        """The name of the keys in tables."""
        return "index" if self.files is None else "path"

    def label(self, row: int) -> str:
        """Return the name of a given label, empty if it is missing."""
        return "" if self.labels[row] == MISSING else self.classes[self.labels[row]]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all keys, labels and parts, which identifies the decisions on them."""
        digest = hashlib.sha256()
        for row, (key, part) in enumerate(zip(self.keys, self.parts.tolist(), strict=True)):
            digest.update(f"{part}\0{key}\0{self.label(row)}\0".encode())
        return f"data-{digest.hexdigest()[:12]}"

    def table(self, labels: Sequence[str], leave_out: frozenset[str] = frozenset()) -> bytes:
        """Return a list of all images with these labels as CSV, which :func:`read_list` reads."""
        split = bool((self.parts != "train").any())
        rows = zip(self.keys, labels, self.parts.tolist(), strict=True)
        kept = (row if split else row[:2] for row in rows if row[0] not in leave_out)
        return as_csv([self.kind, "label", *["part"] * split], kept)


def as_csv(columns: Sequence[str], rows: Any) -> bytes:
    """Return a table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


# ---------------------------------------------------------------------- a folder
def labelled_folder(root: Path) -> LabelledImages:
    """Return all images of a folder as :func:`.load` takes it, labelled by the folders that they lie in."""
    parts, classes, _ = read_folder(root)
    paths = [files.path(i) for files in parts.values() for i in range(len(files))]
    names = np.concatenate([[_PART_OF_ROLE[role]] * len(files) for role, files in parts.items()])
    labels = np.concatenate([files.labels for files in parts.values()])
    keys = tuple(printable(path.relative_to(root).as_posix()) for path in paths)
    return LabelledImages(root.resolve().name, keys, labels, classes, names, tuple(paths))


def printable(path: str) -> str:
    """Return a path as text; bytes that are not valid text become escapes."""
    return path.encode(errors="backslashreplace").decode()


# ---------------------------------------------------------------------- a list
def read_list(path: Path, images: Path | None = None, classes: Sequence[str] | None = None) -> LabelledImages:
    """Return the images that a CSV file lists with their labels.

    Args:
        path: of the file. Its first line names the columns: a path, a label and perhaps a part of the split.
        images: folder that the paths start from; that of the file if left out.
        classes: names that labels may have; every name that occurs, if left out.

    Raises:
        DataError: if the file is not of that form, or names fewer than two classes.

    Warns:
        UserWarning: with the numbers of labels that are missing or unknown, and of paths that are listed twice.
    """
    rows, columns = _rows(path)
    root = path.parent if images is None else images
    if not root.is_dir():
        raise MissingDataError(f"{root} is no folder; pass the one that the paths in {path} start from (--images)")
    first: dict[str, int] = {}
    again: list[str] = []
    disagree: list[str] = []
    for row, (number, key, label, _) in enumerate(rows):
        if not key:
            raise DataError(f"{path}: line {number} has no {columns[0]}; fill it in, or remove the line")
        before = first.setdefault(key, row)
        if before != row:
            (again if rows[before][2] == label else disagree).append(key)
    kept = [rows[row][1:] for row in first.values()]
    if again:
        warn_caller(f"{path}: {len(again)} path(s) are listed twice, such as {again[0]}; the first line counts")
    if disagree:
        warn_caller(
            f"{path}: {len(disagree)} path(s) are listed with different labels, such as {disagree[0]}; the first line "
            "counts"
        )
    labels, names = _labels(path, [label for _, label, _ in kept], classes)
    parts = np.array([_part(path, part) for *_, part in kept])
    files = tuple(root / key for key, *_ in kept)
    return LabelledImages(path.stem, tuple(printable(key) for key, *_ in kept), labels, names, parts, files)


def csv_lines(path: Path, remedy: str) -> list[tuple[int, list[str]]]:
    """Return the lines of a CSV file that are not empty, each with its number; the first names the columns.

    Raises:
        DataError: if the file cannot be read, a quotation mark is not closed, or a line has more entries than columns.
    """
    lines: list[tuple[int, list[str]]] = []
    number = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for line in reader:
                if any(entry.strip() for entry in line):
                    lines.append((number, line))
                number = reader.line_num + 1  # an entry may hold line breaks
    except csv.Error as error:
        told = f"the line {number} is broken: {one_line(error)}; look at its quotation marks"
        raise DataError(f"{path} cannot be read as a CSV file, for {told}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a CSV file ({one_line(error)}); {remedy}") from error
    for number, line in lines:
        if any(entry.strip() for entry in line[len(lines[0][1]) :]):
            raise DataError(
                f"{path}: line {number} has {len(line)} entries and the first line names {len(lines[0][1])} columns; "
                "put quotation marks around an entry with a comma in it"
            )
    return lines


def _rows(path: Path) -> tuple[list[tuple[int, str, str, str]], tuple[str, str]]:
    """Return number, path, label and part of each line, and the names of the columns of path and label."""
    lines = csv_lines(path, "save it as CSV in UTF-8")
    head = [name.strip().lower() for name in lines[0][1]] if lines else []

    def column(names: Sequence[str]) -> int | None:
        return next((head.index(name) for name in names if name in head), None)

    at, label, part = column(_PATH_COLUMNS), column(_LABEL_COLUMNS), column(_PART_COLUMNS)
    if at is None or label is None:
        raise DataError(
            f"{path} has the columns {', '.join(head) or '(none)'}; its first line must name a column path and "
            "a column label"
        )
    if len(lines) == 1:
        raise DataError(f"{path} lists no images; put a line with a path and a label for each")

    def entry(line: list[str], at: int | None) -> str:
        return line[at].strip() if at is not None and at < len(line) else ""

    rows = [(number, entry(line, at), entry(line, label), entry(line, part)) for number, line in lines[1:]]
    return rows, (head[at], head[label])


def _part(path: Path, name: str) -> str:
    role = role_of(name) if name else "all"
    if role is None:
        raise DataError(f"{path} has an image of the part {name!r}; choose train, validation or test")
    return _PART_OF_ROLE[role]


def _labels(
    path: Path, given: Sequence[str], classes: Sequence[str] | None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return class indices and the names of the classes; beside numbers, -1 and NaN are missing labels."""
    named = set(given) - {"", "-1", "nan", "NaN"}
    whole = all(label.isdecimal() for label in named)
    given = [label if label in named or not whole else "" for label in given]
    present = Counter(label for label in given if label)
    names = tuple(sorted(present, key=int) if whole else sorted(present)) if classes is None else tuple(classes)
    places = {name: at for at, name in enumerate(names)}
    if len(places) < len(names) or "" in places:
        raise DataError(f"the classes {', '.join(map(repr, names))} need names that differ and are not empty")
    unknown = [label for label in present if label not in places]
    if unknown:
        warn_caller(
            f"{path}: {sum(present[label] for label in unknown)} label(s), such as {unknown[0]!r}, are none of the "
            f"classes {', '.join(names)} and count as missing"
        )
    if missing := sum(not label for label in given):
        warn_caller(f"{path}: {missing} label(s) are missing; a label is suggested for these images")
    if len(present.keys() & places.keys()) < 2:
        told = f"all labels are {next(iter(present))!r}" if len(present) == 1 else "fewer than two classes have labels"
        raise DataError(f"{path}: {told}; wrong labels are found by the other classes, so list images of two or more")
    return np.array([places.get(label, MISSING) for label in given], dtype=np.int64), names


# ---------------------------------------------------------------------- pixels
def read_pixels(
    files: Sequence[Path], size: int, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return the middle of each image, (N, size, size, C) with one channel if all are grey, and whether it was read."""
    pixels = np.zeros((len(files), size, size, 3), np.uint8)
    read = np.ones(len(files), bool)

    def fill(row: int) -> None:
        try:
            pixels[row] = decode(files[row], size).numpy()
        except (MemoryError, MissingDataError):
            raise
        except Exception:  # as ImageFiles does: Pillow's decoders raise errors of many kinds
            read[row] = False

    threads = ThreadPoolExecutor(max(workers, 1))
    try:
        for done, _ in enumerate(threads.map(fill, range(len(files))), start=1):
            if progress is not None:
                progress(done, len(files))
    finally:
        threads.shutdown(cancel_futures=True)  # at once, if this is stopped
    if not read.any():
        raise DataError(f"none of the {len(files)} images can be read, such as {files[0]}; check the paths")
    grey = bool((pixels[..., :1] == pixels).all())
    return np.ascontiguousarray(pixels[..., :1]) if grey else pixels, read


def shorter_side(files: Sequence[Path], sample: int = 100) -> int:
    """Return the largest shorter side in pixels among some of the images; 0 if none can be opened."""
    open_image = needs("PIL.Image", "reading images").open
    sides = [0]
    for file in files[:: max(1, len(files) // sample)]:
        try:
            with open_image(file) as image:
                sides.append(min(image.size))
        except Exception:  # counted later, when it is read
            continue
    return max(sides)
