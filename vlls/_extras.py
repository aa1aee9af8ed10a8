"""Name the extra that installs a missing package."""

from __future__ import annotations

__all__ = ["library_of", "missing", "pip_command"]

_LIBRARIES = {"sklearn": "scikit-learn", "PIL": "Pillow"}
_EXTRAS = {
    "matplotlib": "plots",
    "seaborn": "plots",
    "pyarrow": "parquet",
    "ray": "ray",
    "tensorboard": "tensorboard",
}  # all others are of "train"


def library_of(module: str) -> str:
    """Return the name under which a module's library is known.

    Example:
        >>> library_of("PIL.Image")
        'Pillow'
    """
    name = module.partition(".")[0]
    return _LIBRARIES.get(name, name)


def pip_command(module: str, extra: str | None = None) -> str:
    """Return the command that installs the extra with a module.

    Example:
        >>> pip_command("seaborn")
        "pip install 'vlls[plots]'"
    """
    return f"pip install 'vlls[{extra or _EXTRAS.get(module.partition('.')[0], 'train')}]'"


def missing(error: ModuleNotFoundError, who: str, extra: str | None = None) -> ModuleNotFoundError:
    """Return the error of a failed import with the command that installs what is missing.

    Args:
        error: of the import.
        who: the part of ``vlls`` that needs the package.
        extra: the extra with the package; looked up unless given.
    """
    name = error.name or "a package"
    if name.partition(".")[0] in ("vlls", "torch", "numpy"):  # the installation itself is broken
        return error
    text = f"{who} needs {library_of(name)}, which is not installed: {pip_command(name, extra)}"
    return ModuleNotFoundError(text, name=error.name)
