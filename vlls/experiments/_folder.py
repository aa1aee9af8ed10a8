"""The folder of results: runs by name, the runs of each sweep, and one sweep at a time."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import vlls
from vlls._files import expanded, make_folder, write_atomically
from vlls.experiments._cells import Cell
from vlls.train._config import RunConfig
from vlls.train._files import CHECKPOINT, RECORD, FolderBusy, folder_lock, load_record, load_run_record, save_record
from vlls.train._keys import first_key

FORMAT = 2  # of the folder; 1 named runs by a hash of every field
MANIFEST, FAILURE, LABELS = "results.json", "failure.json", "smoothed_labels.json"

A = TypeVar("A")
T = TypeVar("T")


def skipped(read: Callable[[A], T], what: A) -> T | None:
    """Return ``read(what)``, or None and a warning if that raises a ValueError."""
    try:
        return read(what)
    except ValueError as error:
        warnings.warn(f"left out: {error}", UserWarning, stacklevel=3)
        return None


class ResultsFolder:
    """A folder that holds runs and the sweeps that asked for them.

    ``runs/NAME/record.json`` is a finished run, and ``checkpoint.pt`` beside it one that was cut;
    ``sweeps/EXPERIMENT-PROTOCOL.json`` tells which runs a sweep consists of. A run that several experiments need is
    trained once. A folder whose runs an older version named can be read, and written to after ``vlls migrate``.

    Args:
        path: the folder; made when something is first written.

    Attributes:
        format: the number of its layout.

    Raises:
        ValueError: if it is a file, or was written by a version that is not known.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = expanded(path)
        self.runs, self.sweeps = self.path / "runs", self.path / "sweeps"
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"the results folder {self.path} is a file; choose a folder")
        self.format = self._format()

    def _format(self) -> int:
        manifest = self.path / MANIFEST
        if not manifest.exists():
            if self.runs.is_dir() or self.sweeps.is_dir():
                raise ValueError(
                    f"{self.path} holds runs or sweeps and no {MANIFEST}: it is no results folder; choose another"
                )
            return FORMAT
        try:
            found = json.loads(manifest.read_text())
            version = found["results_format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{manifest} cannot be read ({error!r}); choose another results folder") from error
        if version not in (1, FORMAT):
            by = found.get("vlls", "?")
            raise ValueError(
                f"the results folder {self.path} is of another version (format {version!r}, written by vlls {by}; this "
                f"is format {FORMAT}, vlls {vlls.__version__}); choose another folder, or that version"
            )
        return int(version)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one sweep.

        Raises:
            ValueError: if another sweep holds it, or an older version named its runs.
            OSError: if it cannot be written.
        """
        if self.format != FORMAT:
            raise ValueError(
                f"an older version of vlls named the runs in {self.path}; rename them with vlls migrate {self.path}, "
                "which loses nothing"
            )
        with self.held():
            if not (self.path / MANIFEST).exists():
                self.sign()
            make_folder(self.runs)
            make_folder(self.sweeps)
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            ValueError: if another process holds it.
            OSError: if it cannot be written.
        """
        try:
            with folder_lock(self.path):
                yield
        except FolderBusy as error:
            if error.folder != self.path:
                raise
            raise ValueError(
                f"another sweep is at work in {self.path}; wait for it, or choose another folder with --results"
            ) from error

    def sign(self) -> None:
        """Write the format into the folder."""
        text = json.dumps({"results_format": FORMAT, "vlls": vlls.__version__})
        write_atomically(self.path / MANIFEST, (text + "\n").encode())

    # ------------------------------------------------------------------ runs
    def run(self, config: RunConfig) -> Path:
        """Return the folder of a run, also if an older version named it."""
        return self._older.get(config.name, self.runs / config.name)

    @cached_property
    def _older(self) -> dict[str, Path]:
        """The folders of runs that an older version named, by their new names."""
        if self.format == FORMAT or not self.runs.is_dir():
            return {}
        warnings.warn(
            f"an older version of vlls named the runs in {self.path}; vlls migrate {self.path} renames them, which a "
            "sweep needs and which loses nothing",
            stacklevel=3,
        )
        listed, found = self.listed(), {}
        for folder in sorted(self.runs.iterdir()):
            with suppress(ValueError):  # an unreadable file is reported when its run is read
                config = config_of(folder, listed)
                if config is not None and not (self.runs / config.name).exists():
                    found[config.name] = folder
        return found

    def record(self, config: RunConfig) -> dict[str, Any] | None:
        """Return the record of a run, or None if it is not over.

        Raises:
            ValueError: if it cannot be read, lacks a part, or is of another config.
        """
        path = self.run(config) / RECORD
        return load_run_record(path, config)[0] if path.exists() else None

    def is_done(self, cell: Cell) -> bool:
        """Return whether a cell's run is over and its labels are computed; False if its record is damaged."""
        try:
            record = self.record(cell.config)
        except ValueError:
            return False
        return record is not None and (
            not cell.also or record["status"] != "finished" or (self.run(cell.config) / LABELS).exists()
        )

    def damage(self, cell: Cell) -> str | None:
        """Return the error in the record of a cell's run, or None."""
        try:
            self.record(cell.config)
        except ValueError as error:
            return str(error)
        return None

    def is_cut(self, cell: Cell) -> bool:
        """Return whether a cell's run has a checkpoint to go on from."""
        return (self.run(cell.config) / CHECKPOINT).exists()

    def keep(self, config: RunConfig, record: dict[str, Any], labels: dict[str, Any] | None) -> None:
        """Save the record and the labels of a run that was done on a machine without access to this folder."""
        folder = self.run(config)
        make_folder(folder)
        if labels is not None:
            save_record(folder / LABELS, labels)
        save_record(folder / RECORD, record)

    def smoothed_labels(self, cell: Cell) -> dict[str, Any] | None:
        """Return the smoothed labels of a cell's run, or None if they are missing or the cell does not ask for them."""
        path = self.run(cell.config) / LABELS
        return load_record(path) if cell.also and path.exists() else None

    # ------------------------------------------------------------------ failures
    def note_failure(self, cell: Cell, reason: str) -> None:
        """Save the reason why a run failed; the next sweep tries it again."""
        folder = self.run(cell.config)
        make_folder(folder)
        about = {"reason": reason, "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        write_atomically(folder / FAILURE, (json.dumps(about, indent=1) + "\n").encode())

    def failure(self, config: RunConfig) -> str | None:
        """Return the reason why a run failed, or None."""
        try:
            return json.loads((self.run(config) / FAILURE).read_text())["reason"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def clear_failure(self, cell: Cell) -> None:
        """Forget that a run failed."""
        with suppress(OSError):
            (self.run(cell.config) / FAILURE).unlink()

    # ------------------------------------------------------------------ sweeps
    def add_sweep(self, cells: Iterable[Cell]) -> None:
        """Add cells to the list of their sweep; a cell replaces the one that stood in its position."""
        cells = list(cells)
        path = self.sweeps / f"{cells[0].experiment}-{cells[0].protocol}.json"
        noted = {cell.position: cell for cell in [*(cell for cell, _ in self._entries(path)), *cells]}
        entries = [{**cell.__dict__, "config": cell.config.to_dict()} for cell in noted.values()]
        text = json.dumps({"results_format": FORMAT, "cells": entries}, indent=1)
        write_atomically(path, (text + "\n").encode())

    def cells(self, *, skip_damaged: bool = False) -> list[Cell]:
        """Return the cells of all sweeps that were started here.

        Args:
            skip_damaged: whether the list of a sweep that cannot be read is left out, with a warning.

        Raises:
            ValueError: if the list of a sweep cannot be read.
        """
        lists = sorted(self.sweeps.glob("*.json"))
        if skip_damaged:
            return [cell for path in lists for cell, _ in skipped(self._entries, path) or ()]
        return [cell for path in lists for cell, _ in self._entries(path)]

    def listed(self) -> dict[str, RunConfig]:
        """The configs of all sweeps' runs, by their keys and by those that older versions gave them."""
        found: dict[str, RunConfig] = {}
        for path in sorted(self.sweeps.glob("*.json")):
            for cell, values in skipped(self._entries, path) or ():
                found |= {cell.config.key: cell.config, first_key(values): cell.config}
        return found

    def _entries(self, path: Path) -> list[tuple[Cell, dict[str, Any]]]:
        """The cells in the list of a sweep, and the fields of their configs as they stand there."""
        if not path.exists():
            return []
        try:
            entries = json.loads(path.read_text())["cells"]
            return [
                (Cell(**{**entry, "config": RunConfig.from_dict(entry["config"]).resolved()}), entry["config"])
                for entry in entries
            ]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); import the module that registers its methods (vlls --import), or, "
                "if it is damaged or of another version, remove it and start the sweep again (its runs are kept)"
            ) from error


def config_of(folder: Path, listed: Mapping[str, RunConfig]) -> RunConfig | None:
    """Return the config of a run, by its record, or else by the key that its folder's name ends in."""
    if (folder / RECORD).exists():
        return load_run_record(folder / RECORD)[1]
    return listed.get(folder.name.rpartition("-")[2])
