"""Modules of the user, which may register methods and experiments."""

from __future__ import annotations

import os
import sys
from importlib import import_module


def import_from_here(name: str) -> None:
    """Import a module that is installed or lies in the current folder.

    Raises:
        ValueError: if there is none of this name, or it cannot be imported.
    """
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        raise ValueError(f"--import {name} is no name of a module; pass my_methods for the file my_methods.py")
    if os.getcwd() not in sys.path:  # processes of a sweep inherit it
        sys.path.insert(0, os.getcwd())
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"--import {name} needs the module {error.name}, which is not there; install it"
            ) from error
        raise ValueError(
            f"--import {name}: there is no such module, neither installed nor in {os.getcwd()}; change to its folder"
        ) from error
    except Exception as error:
        raise ValueError(f"--import {name} failed: {type(error).__name__}: {error}") from error
