"""Checkpoints and records of runs, and one process at a time in a folder."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlls._files import make_folder, reason_of, write_atomically
from vlls.train._config import RunConfig

FORMAT = 1  # of checkpoints and records
CHECKPOINT, RECORD = "checkpoint.pt", "record.json"  # of a run, in its folder
_HELD = dict.fromkeys(("config", "counts", "final", "machine"), dict) | {"status": str, "reason": str, "epochs": list}


# ---------------------------------------------------------------------- checkpoints
def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors, numbers, strings, lists and dictionaries of them."""
    import torch  # late: records are read without it

    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(
    path: Path, *keys: str, device: Any = "cpu", remedy: str = "remove it or pass --overwrite to start again"
) -> dict[str, Any]:
    """Read the checkpoint of the run with one of these keys; without keys, of any run."""
    import torch  # late: records are read without it

    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise ValueError(f"the checkpoint {path} cannot be read ({error.strerror}); {remedy}") from error
    except Exception as error:  # of torch's reader: RuntimeError, EOFError, UnpicklingError, ...
        raise ValueError(f"the checkpoint {path} is truncated or not one of vlls; {remedy}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or "key" not in state:
        raise ValueError(f"the checkpoint {path} is not one that this version of vlls wrote; {remedy}")
    if keys and state["key"] not in keys:
        raise ValueError(
            f"the checkpoint {path} belongs to another config (key {state['key']}, not {keys[0]}); "
            "choose another folder, pass that config, or remove the checkpoint"
        )
    return state


# ---------------------------------------------------------------------- records
def save_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON; NaN and infinities become null."""
    text = json.dumps({"format": FORMAT, **_finite(record)}, indent=1, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def load_record(path: Path, remedy: str = "remove it to train again") -> dict[str, Any]:
    """Read a record."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"the record {path} cannot be read ({error}); {remedy}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"the record {path} is not one that this version of vlls wrote; {remedy}")
    return record


def load_run_record(
    path: Path, config: RunConfig | None = None, remedy: str = "remove it to train again"
) -> tuple[dict[str, Any], RunConfig]:
    """Read the record of a run and its config, which identifies the run whichever version wrote the record.

    If a config is given, the record must be of it.
    """
    record = load_record(path, remedy)
    if lacking := [name for name in _HELD if not isinstance(record.get(name), _HELD[name])]:
        raise ValueError(f"the record {path} lacks {', '.join(lacking)}; {remedy}")
    try:
        found = RunConfig.from_dict(record["config"], record.get("key"))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the record {path} is of another version of vlls ({error}); read it with that one, or remove it"
        ) from error
    if config is not None and found.key != config.key:
        raise ValueError(f"the record {path} belongs to another config; remove it to train again")
    return record, found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


# ---------------------------------------------------------------------- one process at a time
class FolderBusy(ValueError):
    """Another process holds a folder."""

    def __init__(self, folder: Path) -> None:
        told = f"another process is at work on this very run in {folder}; wait for it, or choose another folder"
        super().__init__(told)
        self.folder = folder


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system releases it when the process ends, however it ends."""
    from filelock import FileLock, Timeout  # late: `vlls --help` need not wait for it

    make_folder(folder)
    path = folder / ".lock"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FolderBusy(folder) from error
    except OSError as error:
        told = f"{path} could not be written ({reason_of(error)}); choose another folder"
        raise OSError(error.errno, told) from error
    try:
        yield
    finally:
        lock.release()
