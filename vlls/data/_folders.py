"""Folders of images by class."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from vlls._errors import DataError, MissingDataError
from vlls._warnings import warn_caller
from vlls.data._streams import ImageFiles, ImageStream

EXTENSIONS = tuple(
    ".jpg .jpeg .jpe .jfif .jif .png .apng .webp .bmp .dib .gif .tif .tiff .avif .avifs .jp2 .j2k .jpx .jpf .jpc .j2c "
    ".ppm .pgm .pbm .pnm .pfm .tga .pcx .sgi .rgb .rgba .bw .qoi .dds .ico .msp .xbm .xpm .im .mpo".split()
)
_SHOWN = ", ".join(EXTENSIONS[:4] + EXTENSIONS[5:8])
_ROLES = {
    "train": "train training trn",
    "test": "test testing tst",
    "val": "val valid validation dev devel development",
    "eval": "eval evaluation",
}
_ROLE = re.compile(
    "|".join(f"(?P<{role}>{'|'.join(words.split())})" for role, words in _ROLES.items()).join(("(?:", ")"))
    + r"[ _.-]*(?:set|data|dataset|images|imgs|split)?[ _.-]*\d{0,4}",
    re.IGNORECASE,
)
_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")  # written by operating systems


def load_folder(root: Path) -> ImageStream:
    """Return the images of a folder, labelled by the folders that they lie in; the classes are in alphabetical order.

    The parts of a split may be called otherwise, in capitals or not: ``Training``, ``test_set``, ``valid``, ``dev``.
    Without a split every fifth image of each class is for testing, in an order given by a hash of its path. If there
    is ``val`` and no ``test``, it serves as the test set. Links are followed; hidden files are skipped. A warning says
    how many others are left out, and why.
    """
    parts, classes, left_out = read_folder(root)
    if "all" in parts:
        parts = _fifth_for_testing(parts["all"])
    name = root.resolve().name
    return ImageStream(name, parts["train"], parts["test"], classes, val=parts.get("val"), left_out=left_out)


def read_folder(root: Path) -> tuple[dict[str, ImageFiles], tuple[str, ...], dict[str, int]]:
    """Return the images of a folder by the part of the split, its classes, and the counts of files left out.

    The parts are ``train``, ``test`` and perhaps ``val``, or ``all`` where there is no split.
    """
    if not root.is_dir():
        raise MissingDataError(
            f"{root} is no folder; pass a folder that holds train/<class>/* and test/<class>/*, or <class>/*"
        )
    walk = _Walk()
    top = walk.folders(root)
    folders = _parts(root, top, walk)
    if folders:
        parts, classes = _with_split(root, folders, walk)
    else:
        parts, classes = {"all": _without_split(root, top, walk)}, top
    if walk.left_out:
        told = ", ".join(f"{what} ({count})" for what, count in walk.left_out.items())
        known = f"; images end in {_SHOWN}, ..." if "files" in told else ""
        warn_caller(f"{root}: left out {told}{known}")
    return parts, tuple(classes), dict(walk.left_out)


# ---------------------------------------------------------------------- with a split
def role_of(name: str) -> str | None:
    """Return the part of a split that a folder's name stands for, or None."""
    found = _ROLE.fullmatch(name)
    return found and found.lastgroup


def _parts(root: Path, top: Sequence[str], walk: _Walk) -> dict[str, Path]:
    """Return the folders of ``train``, ``test`` and perhaps ``val``; an empty dict if there is no split."""
    by_role: dict[str | None, list[str]] = {}
    for name in top:
        by_role.setdefault(role_of(name), []).append(name)
    others = by_role.pop(None, [])
    if "train" not in by_role or len(by_role) == 1:
        return {}
    if "eval" in by_role:  # takes the place of the missing one
        by_role.setdefault("val" if "test" in by_role else "test", []).extend(by_role.pop("eval"))
    for role, names in by_role.items():
        if len(names) > 1:
            raise DataError(
                f"{root} holds {' and '.join(names)}, each of which could be its part {role!r}; keep one of them, or "
                "rename the others"
            )
    if others:
        walk.left_out[f"folders beside its parts: {', '.join(others)}"] += len(others)
    if "test" not in by_role:
        by_role["test"] = by_role.pop("val")
    return {role: _innermost(root / names[0]) for role, names in by_role.items() if role is not None}


def _innermost(folder: Path) -> Path:
    """Return ``train/train`` for a ``train`` that holds nothing else, as archives are often unpacked."""
    inner = _Walk().folders(folder)
    return _innermost(folder / inner[0]) if len(inner) == 1 and role_of(inner[0]) == role_of(folder.name) else folder


def _with_split(root: Path, parts: dict[str, Path], walk: _Walk) -> tuple[dict[str, ImageFiles], list[str]]:
    """Return the images of each part, and the classes, which are those of the training images."""
    train = parts["train"]
    classes = walk.folders(train)
    files = {"train": _files(train, classes, classes, walk)}
    for role in sorted(parts.keys() - {"train"}):
        there = walk.folders(parts[role])
        if unknown := [name for name in there if name not in classes]:
            raise DataError(
                f"{parts[role] / unknown[0]} is a class without training images; the classes are {', '.join(classes)}: "
                f"remove the folder, or put images of it into {train / unknown[0]}"
            )
        files[role] = _files(parts[role], classes, there, walk)
    if len(classes) < 2:
        raise DataError(f"{train} holds one class, {classes[0]}; it needs a folder for each of two or more")
    _check_classes(train, files["train"], classes)
    walk.check_twice(list(files.values()))
    return files, classes


# ---------------------------------------------------------------------- without
def _without_split(root: Path, classes: Sequence[str], walk: _Walk) -> ImageFiles:
    """Return the images of a folder without a split."""
    if len(classes) < 2:
        raise DataError(
            f"{root} holds {len(classes)} folder(s) of images ({', '.join(classes) or 'none'}); it needs one for each "
            "of two classes or more, or train/<class>/* beside test/<class>/*"
        )
    files = _files(root, classes, classes, walk)
    _check_classes(root, files, classes)
    walk.check_twice([files])
    return files


def _fifth_for_testing(files: ImageFiles) -> dict[str, ImageFiles]:
    """Split images into those to train on and every fifth of each class, in an order that looks random."""
    root = files.root
    testing = np.zeros(len(files), bool)
    for label in np.unique(files.labels):
        (members,) = np.nonzero(files.labels == label)
        names = [files.path(i).relative_to(root).as_posix() for i in members.tolist()]  # the same on every system
        hashes = [hashlib.sha256(os.fsencode(name)).digest() for name in names]
        order = sorted(range(len(members)), key=hashes.__getitem__)
        testing[members[order[4::5]]] = True
    if not testing.any():
        raise DataError(
            f"{root} has fewer than five images in every class, too few to keep every fifth for testing; add images, "
            "or put them into train/<class> and test/<class>"
        )
    return {"train": files.subset(np.nonzero(~testing)[0]), "test": files.subset(np.nonzero(testing)[0])}


def _check_classes(root: Path, files: ImageFiles, classes: Sequence[str]) -> None:
    """Raise a DataError if folders that would be taken for classes look like the parts of a split."""
    inside: dict[str, set[str]] = {name: set() for name in classes}  # names of the folders that hold its images
    for path in files.paths.tolist():
        name, *between = os.fsdecode(path).split(os.sep)[:-1]
        inside[name].add(between[-1].casefold() if between else "")
    nested = {name: found for name, found in inside.items() if "" not in found}
    advice = "if they are the parts of a split, call them train and test; if they are classes, put the images straight "
    advice += "into them"
    times = Counter(inner for found in nested.values() for inner in found)
    shared = [inner for inner, count in times.items() if count > 1]
    if shared and any(len(found) > 1 for found in nested.values()):
        alike = [name for name, found in nested.items() if not found.isdisjoint(shared)]
        raise DataError(f"{root}: {_few(alike)} hold folders of the same names ({_few(shared)}): {advice}")
    for name, found in nested.items():
        if role_of(name) and len(found) > 1:
            raise DataError(
                f"{root / name} looks like a part of a split, with folders in it ({_few(found)}), and no other folder "
                f"is called as the part that goes with it: {advice}"
            )


def _few(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")


# ---------------------------------------------------------------------- contents of a folder
def _files(root: Path, classes: Sequence[str], there: Sequence[str], walk: _Walk) -> ImageFiles:
    """Return the images of those classes that are there, under ``root``."""
    paths: list[np.ndarray] = []
    for name in classes:
        found = walk.images(root, name) if name in there else []
        if not found and name in there:
            raise DataError(f"{root / name} holds no images ({_SHOWN}, ...); put some there, or remove the folder")
        paths.append(np.array(found, dtype=np.bytes_))
    labels = np.repeat(np.arange(len(classes)), [len(part) for part in paths])
    if not len(labels):
        raise DataError(f"{root} holds no folders of images by class; put {root.name}/<class>/<image> there")
    return ImageFiles(root, np.concatenate(paths), labels)


def _above(folder: Path) -> frozenset[str]:
    """Return the folder and those above it, with links resolved."""
    real = Path(os.path.realpath(folder))
    return frozenset(map(str, (real, *real.parents)))


class _Walk:
    """A walk through folders, which follows links and counts the entries that it leaves out."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()  # by the reason
        self._linked = False  # without links no image can be there twice
        self._real_folders: dict[str, str] = {}

    def folders(self, root: Path) -> list[str]:
        """Return the names of the folders in a folder, except those that ``vlls train`` made."""
        found = list(self._entries(root, _above(root)))
        folders = [name for name, is_folder in found if is_folder]
        # runs may lie inside the data set that they train on
        marks = ("*/checkpoint.pt", "*/record.json")
        runs = [name for name in folders if any(next((root / name).glob(mark), None) for mark in marks)]
        loose = sum(not is_folder and name.lower().endswith(EXTENSIONS) for name, is_folder in found)
        self.left_out += Counter({"folders of runs": len(runs), "images in no folder of a class": loose})
        return [name for name in folders if name not in runs]

    def images(self, root: Path, name: str) -> list[bytes]:
        """Return the paths of the images in a folder and those below it, relative to ``root``, each image once."""
        paths = sorted(map(os.fsencode, self._below(str(root), name, _above(root))))
        if not self._linked:
            return paths
        kept: dict[str, bytes] = {}
        for path in sorted(paths, key=lambda path: os.path.islink(root / os.fsdecode(path))):  # images before links
            kept.setdefault(self._real(str(root / os.fsdecode(path))), path)
        self.left_out += Counter({"links to images of the same class": len(paths) - len(kept)})
        return sorted(kept.values())

    def check_twice(self, parts: Sequence[ImageFiles]) -> None:
        """Raise a DataError if links give an image two labels, or put it into two parts of the split."""
        seen: dict[str, Path] = {}
        for files in parts if self._linked else ():
            for path in map(files.path, range(len(files))):
                first = seen.setdefault(self._real(str(path)), path)
                if first is not path:
                    raise DataError(f"{first} and {path} are one image, by a link; remove one of them")

    def _below(self, root: str, folder: str, above: frozenset[str]) -> Iterator[str]:
        where = os.path.join(root, folder)
        above |= {os.path.realpath(where)}
        for name, is_folder in self._entries(where, above):
            path = os.path.join(folder, name)
            if is_folder:
                yield from self._below(root, path, above)
            elif name.lower().endswith(EXTENSIONS):
                yield path
            else:
                ending = os.path.splitext(name)[1].lower()
                self.left_out[f"files that end in {ending}" if ending else "files whose names have no ending"] += 1

    def _entries(self, folder: str | Path, above: frozenset[str]) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder that are not hidden, in order, and whether each is a folder."""
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.name.startswith(".") or entry.name in _JUNK:
                continue
            try:
                is_folder = entry.is_dir()
                leads_on = is_folder or entry.is_file()
            except OSError:  # links that lead to each other
                leads_on = False
            linked = entry.is_symlink()
            if not leads_on:
                self.left_out["links that lead nowhere" if linked else "entries that are no files"] += 1
            elif linked and is_folder and os.path.realpath(entry.path) in above:
                self.left_out["links to a folder above them"] += 1
            else:
                self._linked |= linked
                yield entry.name, is_folder

    def _real(self, path: str) -> str:
        """Return the path of a file with links resolved."""
        if os.path.islink(path):
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return os.path.join(self._real_folders[folder], name)
