"""The step from the run names of older versions to those of this one, for folders of runs and for tables."""

from __future__ import annotations

import csv
import io
import os
import re
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vlls._files import expanded, write_atomically
from vlls.experiments._folder import FAILURE, FORMAT, LABELS, MANIFEST, ResultsFolder, config_of
from vlls.train._config import RunConfig
from vlls.train._files import (
    CHECKPOINT,
    RECORD,
    FolderBusy,
    folder_lock,
    load_checkpoint,
    load_record,
    save_checkpoint,
    save_record,
)
from vlls.train._keys import first_key

_ASIDE = re.compile(r"\.older(-\d+)?$")


@dataclass
class Migration:
    """The outcome of :func:`migrate`.

    Attributes:
        runs: number of runs, or rows of a table, that have another key now.
        aside: folders of runs that exist twice; the better one has the run's name.
        left: the runs that were left as they were, each with the reason.
    """

    runs: int = 0
    aside: list[Path] = field(default_factory=list)
    left: dict[Path, str] = field(default_factory=dict)


def migrate(path: str | os.PathLike[str]) -> Migration:
    """Give the runs of a results folder, of a folder of runs, or of a CSV table of results the keys of this version.

    Each run's folder gets its new name, and its record and checkpoint the new key; nothing else in them changes. Where
    two folders are of the same run, the finished one, or else the newer, gets the name; the other stays beside it as
    ``NAME.older``. Each step is whole or not done: a migration that was stopped goes on when it is called again, and
    one that is done changes nothing.

    Raises:
        ValueError: if there are no runs, or another process holds the folder.
        OSError: if a file cannot be written; runs that were renamed stay so.
    """
    path = expanded(path)
    if path.suffix == ".csv" and path.is_file():
        return _migrate_table(path)
    results = ResultsFolder(path) if (path / MANIFEST).exists() else None
    runs = path if results is None else results.runs
    found = sorted(folder for folder in runs.iterdir() if _is_run(folder)) if runs.is_dir() else []
    if results is None and not found:
        raise ValueError(f"{path} holds no runs; pass a results folder, a folder of runs, or a table that ends in .csv")
    done, busy = Migration(), False
    with nullcontext() if results is None else results.held():
        listed = {} if results is None else results.listed()
        for folder in found:
            try:
                _migrate_run(folder, listed, done)
            except ValueError as error:
                done.left[folder] = str(error)
                busy |= isinstance(error, FolderBusy)
        if results is not None and results.format != FORMAT and not busy:
            results.sign()
    return done


def _is_run(folder: Path) -> bool:
    files = (RECORD, CHECKPOINT, FAILURE)
    return not _ASIDE.search(folder.name) and any((folder / name).is_file() for name in files)


def _migrate_run(folder: Path, listed: dict[str, RunConfig], done: Migration) -> None:
    """Give a run its key, then its name; raise a ValueError if it cannot be read or another process holds it."""
    with folder_lock(folder):
        record = load_record(folder / RECORD) if (folder / RECORD).exists() else None
        state = None
        if (folder / CHECKPOINT).exists():
            try:
                state = load_checkpoint(folder / CHECKPOINT)
            except ValueError as error:  # a run that is over needs none
                if record is None:
                    raise
                done.left[folder / CHECKPOINT] = str(error)
        config = config_of(folder, listed)
        if config is None and state is not None and "config" in state:
            config = RunConfig.from_dict(state["config"], state["key"])
        if config is None:
            raise ValueError(f"neither a record nor the list of a sweep tells the config of {folder}")
        if record is not None and record.get("key") != config.key:
            save_record(folder / RECORD, {**record, "key": config.key})
        if state is not None and state["key"] != config.key:
            kept = {"config": config.resolved().to_dict(), **state, "key": config.key}  # the oldest kept no config
            save_checkpoint(folder / CHECKPOINT, kept)
    target = folder.with_name(config.name)
    if target == folder:
        return
    if target.exists():
        with folder_lock(target):
            pass
        if _worth(folder) <= _worth(target):
            done.aside.append(_set_aside(folder, target))
            return
        done.aside.append(_set_aside(target, target))
    folder.rename(target)
    done.runs += 1


def _worth(folder: Path) -> tuple[Any, ...]:
    """Return a key that is larger for the better of two folders of the same run, the one to keep."""
    try:
        record = load_record(folder / RECORD) if (folder / RECORD).exists() else {}
        cut = not record and (folder / CHECKPOINT).exists()
        step = load_checkpoint(folder / CHECKPOINT).get("step", 0) if cut else 0
    except ValueError:
        return (False,)
    finished, date = record.get("status") == "finished", record.get("machine", {}).get("date", "")
    return finished, bool(record), (folder / LABELS).exists(), date, step


def _set_aside(folder: Path, target: Path) -> Path:
    """Rename a folder so that it stays beside the one of its run, and return its new name."""
    number, aside = 1, target.with_name(f"{target.name}.older")
    while aside.exists():
        number += 1
        aside = target.with_name(f"{target.name}.older-{number}")
    return folder.rename(aside)


def _migrate_table(path: Path) -> Migration:
    """Give the rows of a table their keys, and leave every other byte as it is."""
    text = path.read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or list(rows[0])[-1] != "key":
        raise ValueError(f"{path} has no keys at the ends of its rows; pass a table that vlls results wrote")
    kinds = {entry.name: str(entry.type) for entry in fields(RunConfig) if entry.name in rows[0]}
    done, keys = Migration(), {}
    for number, row in enumerate(rows, 2):
        try:
            values = {name: _parsed(kind, row[name]) for name, kind in kinds.items()}
            config = RunConfig.from_dict(values)
        except ValueError as error:
            raise ValueError(f"row {number} of {path} holds no config: {error}") from error
        if row["key"] == first_key(values):  # others are of this version, or of one whose fields the table lacks
            keys[row["key"]] = config.key
            done.runs += 1
    if keys:
        ends = re.compile(rf",({'|'.join(keys)})$", re.MULTILINE)
        write_atomically(path, ends.sub(lambda found: f",{keys[found[1]]}", text).encode())
    return done


def _parsed(kind: str, text: str) -> Any:
    """Return the value of a field from a table's cell."""
    if not text:
        return None
    if kind.startswith("tuple"):
        return [float(part) for part in text.split()]
    if kind.startswith("bool"):
        return text == "True"
    if kind.startswith("int"):
        return int(float(text))
    return float(text) if kind.startswith("float") else text
