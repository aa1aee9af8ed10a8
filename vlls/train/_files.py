"""Files that are whole or not there: atomic writes, checkpoints, records, and one process at a time in a folder."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FolderBusy",
    "folder_lock",
    "load_checkpoint",
    "load_record",
    "make_folder",
    "save_checkpoint",
    "save_record",
    "write_atomically",
]

FORMAT = 1  # of checkpoints and records
CHECKPOINT, RECORD = "checkpoint.pt", "record.json"  # of a run, in its folder


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that at any moment, also after a crash, it is the old one or the new one, whole.

    Args:
        path: the file; its folder exists.
        data: all of its content.

    Raises:
        OSError: naming the file, where it cannot be written (a full disk, a read-only folder); the old file is as it
            was and nothing is left beside it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            kept = "; the one before it is kept" if path.exists() else ""
            reason = error.strerror or type(error).__name__
            raise OSError(
                error.errno, f"{path} could not be written ({reason}){kept}; make room or choose another folder"
            ) from error
        raise
    with suppress(OSError):  # the folder's entry too, where the system can
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        OSError: naming the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OSError(error.errno, f"the folder {folder} could not be made ({reason}); choose another one") from error


# ---------------------------------------------------------------------- checkpoints
def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors, numbers, strings, lists and dictionaries of them.

    Raises:
        OSError: as :func:`write_atomically` does.
    """
    import torch  # late: records are read without it

    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(
    path: Path,
    key: str | None,
    device: Any = "cpu",
    *,
    remedy: str = "remove it or pass --overwrite to start anew",
) -> dict[str, Any]:
    """Read a checkpoint of the run with this key; None for whichever run's it is.

    Raises:
        ValueError: if it is truncated, not ours, or another run's; with what to do, the ``remedy``.
    """
    import torch  # late: records are read without it

    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise ValueError(f"the checkpoint {path} cannot be read ({error.strerror}); {remedy}") from error
    except Exception as error:  # whatever torch's reader met: RuntimeError, EOFError, UnpicklingError
        raise ValueError(f"the checkpoint {path} is truncated or not one of vlls; {remedy}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or "key" not in state:
        raise ValueError(f"the checkpoint {path} is not one that this version of vlls wrote; {remedy}")
    if key is not None and state["key"] != key:
        raise ValueError(
            f"the checkpoint {path} belongs to another config (key {state['key']}, not {key}); "
            "choose another folder, pass that config, or remove the checkpoint"
        )
    return state


# ---------------------------------------------------------------------- records
def save_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON; NaN and infinities become null.

    Raises:
        OSError: as :func:`write_atomically` does.
    """
    text = json.dumps({"format": FORMAT, **_finite(record)}, indent=1, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def load_record(path: Path) -> dict[str, Any]:
    """Read a record.

    Raises:
        ValueError: if it is not one that this version wrote.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"the record {path} cannot be read ({error}); remove it to run anew") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"the record {path} is not one that this version of vlls wrote; remove it to run anew")
    return record


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
    """Another process holds a folder.

    Attributes:
        folder: which.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"another process is at work on this very run in {folder}; wait for it, or choose another folder"
        )
        self.folder = folder


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        FolderBusy: a ValueError, if another process holds it.
    """
    make_folder(folder)
    path = folder / ".lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OSError(error.errno, f"{path} could not be written ({reason}); choose another folder") from error
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FolderBusy(folder) from error
        yield
    finally:
        os.close(handle)
