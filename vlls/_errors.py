"""Errors of data sets and of missing packages, with the command that installs them, for modules without torch."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_LIBRARIES = {"sklearn": "scikit-learn", "PIL": "Pillow"}
# all others are of "train"
_EXTRAS = {"matplotlib": "plots", "seaborn": "plots", "pyarrow": "parquet", "ray": "ray", "tensorboard": "tensorboard"}


class DataError(ValueError):
    """A data set is missing, damaged or of the wrong form."""


class MissingDataError(DataError):
    """A data set, or the library that reads it, is not there."""


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def reading(path: Path, read: Callable[[], T], form: str) -> T:
    """Return ``read()``; if it fails, raise a DataError that says that ``path`` cannot be read as ``form``."""
    try:
        return read()
    except DataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(
            f"{path} cannot be read as {form} ({one_line(error)}); replace it by a complete file that you may read"
        ) from error


def needs(module: str, purpose: str) -> Any:
    """Import an optional module; if it is missing, raise an error with the pip command."""
    try:
        return import_module(module)
    except ImportError as error:
        reason = f"{purpose} needs {library_of(module)} ({one_line(error)})"
        raise MissingDataError(f"{reason}; {pip_command(module)}") from error
    except (RuntimeError, OSError) as error:  # torchvision's operators are compiled for one version of torch
        raise MissingDataError(
            f"{purpose} needs {library_of(module)}, which is installed and cannot be imported ({one_line(error)}); "
            "install the version of it that belongs to this version of torch"
        ) from error


def library_of(module: str) -> str:
    """Return the name of a module's library, such as Pillow for ``PIL.Image``."""
    name = module.partition(".")[0]
    return _LIBRARIES.get(name, name)


def pip_command(module: str, extra: str | None = None) -> str:
    """Return the command that installs the extra with a module."""
    return f"pip install 'vlls[{extra or _EXTRAS.get(module.partition('.')[0], 'train')}]'"


def missing(error: ModuleNotFoundError, who: str, extra: str | None = None) -> ModuleNotFoundError:
    """Return the error of a failed import with the command that installs the package that ``who`` needs."""
    name = error.name or "a package"
    if name.partition(".")[0] in ("vlls", "torch", "numpy"):  # the installation itself is broken
        return error
    text = f"{who} needs {library_of(name)}, which is not installed: {pip_command(name, extra)}"
    return ModuleNotFoundError(text, name=error.name)
