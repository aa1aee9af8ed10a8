"""Name the extra that installs a missing package."""

from __future__ import annotations

_LIBRARIES = {"sklearn": "scikit-learn", "PIL": "Pillow"}
# all others are of "train"
_EXTRAS = {"matplotlib": "plots", "seaborn": "plots", "pyarrow": "parquet", "ray": "ray", "tensorboard": "tensorboard"}


def library_of(module: str) -> str:
    """Return the name under which a module's library is known, as Pillow for ``PIL.Image``."""
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
