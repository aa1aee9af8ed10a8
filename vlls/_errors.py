"""Errors of data sets and of missing packages, and where those of other libraries become one of them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from vlls._extras import library_of, pip_command

T = TypeVar("T")


class DataError(ValueError):
    """A data set is missing, damaged or not of the form that it should be."""


class MissingDataError(DataError):
    """A data set, or the library that reads it, is not there."""


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def reading(path: Path, read: Callable[[], T], form: str) -> T:
    """Return ``read()``, with one error for whatever goes wrong when ``path`` is not of its ``form``."""
    try:
        return read()
    except DataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(
            f"{path} cannot be read as {form} ({one_line(error)}); replace it by a complete file that you may read"
        ) from error


def needs(module: str, purpose: str, extra: str | None = None) -> Any:
    """Import a module that the core of ``vlls`` does without; raise an error with the pip command if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        library, command = library_of(module), pip_command(module, extra)
        raise MissingDataError(f"{purpose} needs {library} ({one_line(error)}); {command}") from error
    except (RuntimeError, OSError) as error:  # torchvision's operators are compiled for one version of torch
        raise MissingDataError(
            f"{purpose} needs {library_of(module)}, which is installed and cannot be imported ({one_line(error)}); "
            "install the version of it that belongs to this version of torch"
        ) from error
