"""Packages whose names are imported when they are first asked for, so that ``vlls --help`` need not wait for torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy(package: str, homes: Sequence[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package that imports its public names and submodules late (PEP 562).

    A name in the ``__all__`` of the package comes from the first of the submodules ``homes`` that has it in its own.
    """
    module = sys.modules[package]

    def get(name: str) -> Any:
        if name in module.__all__:
            for home in homes:
                found = import_module(f"{package}.{home}")
                if name in found.__all__:
                    setattr(module, name, value := getattr(found, name))
                    return value
        if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(module), *module.__all__, *(home for home in homes if not home.startswith("_"))})

    return get, names
