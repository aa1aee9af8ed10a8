"""Records of runs that other checkouts made, brought into a results folder by their configs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlls._files import expanded
from vlls.experiments._cells import Cell, cells, panels_at
from vlls.experiments._folder import ResultsFolder, skipped
from vlls.experiments._grids import EXPERIMENTS
from vlls.experiments._protocols import PROTOCOLS
from vlls.train._config import ResolvedConfig, RunConfig
from vlls.train._files import RECORD, load_run_record
from vlls.train._keys import counted

_MEASURED = ("eval_every", "thorough_every")  # how often a run was measured, which changes nothing of its training
_STATUS = ("finished", "diverged")


@dataclass
class Imported:
    """The outcome of :func:`import_records`.

    Attributes:
        added: the records that were written into the folder, each with the cells that it is the run of.
        present: those whose run was there already.
        without_cell: those that belong to no experiment at any protocol.
        refused: those that cannot be used, each with the reason.
    """

    added: dict[Path, list[Cell]] = field(default_factory=dict)
    present: dict[Path, list[Cell]] = field(default_factory=dict)
    without_cell: list[Path] = field(default_factory=list)
    refused: dict[Path, str] = field(default_factory=dict)


def import_records(paths: Iterable[str | os.PathLike[str]], results: str | os.PathLike[str]) -> Imported:
    """Write records of runs into a results folder, as the runs of all experiments and protocols that they belong to.

    A record is known by its config, whichever version wrote it: the fields that its method reads are those of a cell,
    except for how often it was measured. It gets the cell's key, and keeps its old one in ``imported``. Runs that
    the folder holds stay as they are, so that importing again changes nothing.

    Args:
        paths: records, and folders of them: results folders, folders of runs, or folders of files that end in .json.
        results: the folder; made if it is not there.

    Raises:
        ValueError: if there is no such path, or the folder is none of results or in use.
        OSError: if the folder cannot be written; records that were imported are kept.
    """
    done, configs = Imported(), {}
    records: dict[Path, dict[str, Any]] = {}
    for path in _files(paths):
        try:
            record, config = load_run_record(path, remedy="import it with the version that wrote it")
            records[path], configs[path] = _timed(path, record), config.resolved()
        except ValueError as error:
            done.refused[path] = str(error)
    grid = _grid() if records else {}
    found = {path: _cells_of(config, grid) for path, config in configs.items()}
    done.without_cell = [path for path, there in found.items() if not there]
    folder = ResultsFolder(results)
    if len(done.without_cell) == len(found):
        return done
    sweeps: dict[tuple[str, str], list[Cell]] = {}
    with folder.locked():
        for path, there in found.items():
            if there:
                written = [_keep(folder, cell, records[path]) for cell in there.values()]
                (done.added if any(written) else done.present)[path] = list(there.values())
        listed = {(cell.config.seed, i): cell for there in found.values() for i, cell in there.items()}
        for _, cell in sorted(listed.items(), key=lambda entry: entry[0]):  # as a sweep would list them
            sweeps.setdefault((cell.experiment, cell.protocol), []).append(cell)
        for of_sweep in sweeps.values():
            folder.add_sweep(of_sweep)
    return done


def _files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files that hold records: those given, and those in folders."""
    files: list[Path] = []
    for path in map(Path, paths):
        path = expanded(path)
        if not path.exists():
            raise ValueError(f"there is no {path}; pass records or folders of them")
        if path.is_dir():
            inside = sorted(path.rglob(RECORD)) or sorted(path.glob("*.json"))
            if not inside:
                raise ValueError(f"the folder {path} holds no records; pass one with files that end in .json")
            files += inside
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def _timed(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its true duration in ``wall_seconds``; raise a ValueError if it has none or is incomplete.

    On a GPU older versions stopped their clock too early; for them ``elapsed_seconds`` is a duration measured by hand.
    """
    machine, images = record["machine"], record["counts"].get("train_images")
    seconds = machine.get("elapsed_seconds", machine.get("wall_seconds"))
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise ValueError(
            f"the record {path} tells no true time: machine has neither elapsed_seconds nor wall_seconds; add the "
            "seconds that the run took as elapsed_seconds"
        )
    epochs = all(isinstance(epoch, dict) and "epoch" in epoch for epoch in record["epochs"])
    if record["status"] not in _STATUS or not isinstance(images, int) or not epochs:
        raise ValueError(f"the record {path} is of no run that is over, or is damaged; import a whole one")
    return {**record, "machine": {**machine, "wall_seconds": seconds}}


def _grid() -> dict[str, dict[int, Cell]]:
    """Return the cells at seed 0 of all experiments and protocols, numbered in order, by their runs' training."""
    able = [(name, size) for name in EXPERIMENTS for size in PROTOCOLS if panels_at(name, size)]
    grid: dict[str, dict[int, Cell]] = {}
    for i, cell in enumerate(cell for sweep in able for cell in skipped(_seed_0, sweep) or ()):
        grid.setdefault(_trained(cell.config), {})[i] = cell
    return grid


def _seed_0(sweep: tuple[str, str]) -> list[Cell]:
    return cells(*sweep, seeds=1)


def _trained(config: RunConfig) -> str:
    """Return the fields that decide how a run trains, without its seed and how often it is measured."""
    fields = {name: value for name, value in counted(config).items() if name not in (*_MEASURED, "seed")}
    return json.dumps(fields, sort_keys=True)


def _cells_of(config: ResolvedConfig, grid: dict[str, dict[int, Cell]]) -> dict[int, Cell]:
    """Return the cells that a run belongs to; cells that hold images out to tune exist at seed 0 only."""
    return {
        i: replace(cell, config=replace(cell.config, seed=config.seed))
        for i, cell in grid.get(_trained(config), {}).items()
        if cell.role == "main" or config.seed == 0
    }


def _keep(folder: ResultsFolder, cell: Cell, record: dict[str, Any]) -> bool:
    """Write a record for a cell's run unless there is an intact one; return whether it was written."""
    try:
        if folder.record(cell.config) is not None:
            return False
    except ValueError:
        pass  # a damaged one
    measured = {name: record["config"][name] for name in _MEASURED if name in record["config"]}
    new = {"key": cell.config.key, "config": cell.config.to_dict()}
    told = {"measured": measured, "imported": {"key": record.get("key")}}
    folder.keep(cell.config, {**record, **new, **told}, None)
    folder.clear_failure(cell)
    return True
