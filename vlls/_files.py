"""Atomic writes of files and folders."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file in an existing folder atomically: at any moment it is the whole old file or the whole new one.

    If it cannot be written, the OSError names it, the old file is unchanged, and no temporary file is left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            kept = "; the one before it is kept" if path.exists() else ""
            raise OSError(
                error.errno,
                f"{path} could not be written ({reason_of(error)}){kept}; make room or choose another folder",
            ) from error
        raise
    with suppress(OSError):  # the folder's entry too, where the system can
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with the home folder in place of its ~; a ValueError tells where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{os.fspath(path)} names a home folder that is not known; write the path out") from None


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, or raise an OSError that names the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {folder} could not be made ({reason_of(error)}); choose another one"
        raise OSError(error.errno, message) from error


def reason_of(error: OSError) -> str:
    """Return the system's words for an error, without the name of the file."""
    return error.strerror or type(error).__name__


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Make a folder atomically: fill the yielded path, which is renamed to the folder at the end.

    If the folder exists by then, because it was incomplete or another process was quicker, it gets the missing files.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        made = Path(temporary) / folder.name
        yield made
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():
                raise
            for file in made.rglob("*"):
                destination = folder / file.relative_to(made)
                if file.is_file() and not destination.exists():
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(file, destination)
