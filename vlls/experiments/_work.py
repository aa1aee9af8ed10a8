"""Do one job of a sweep, the same for every executor: train or resume the run, then compute its labels."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from typing import Any

import torch

from vlls.experiments._folder import LABELS
from vlls.experiments._jobs import Job, Outcome
from vlls.experiments._protocols import protocol
from vlls.experiments._smoothed import smoothed_labels
from vlls.train import Interrupted, Reporter, load_run, run
from vlls.train._files import CHECKPOINT, RECORD, FolderBusy, load_record, save_record
from vlls.train._trainer import ONE_AT_A_TIME

PATIENCE = 60.0  # seconds to wait for a process that is still letting go of the run


def work(job: Job, reporters: Sequence[Reporter] = ()) -> Outcome:
    """Do a job and return its outcome, also if it fails: resume its run if it was cut, and skip a run that is over.

    A run that is over is trained again only if its labels are missing and its weights were not kept.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        return _patiently(job, reporters)
    except Interrupted as stopped:
        return Outcome("stopped", str(stopped))
    except KeyboardInterrupt:
        return Outcome("stopped", "at once; the last checkpoint is kept")
    except torch.cuda.OutOfMemoryError:
        return Outcome("failed", "the GPU has not enough memory; choose fewer --workers-per-device")
    except MemoryError:
        return Outcome("failed", "the machine has not enough memory; choose fewer --workers-per-device")
    except (ValueError, OSError) as error:
        return Outcome("failed", " ".join(str(error).split()))
    except Exception as error:  # a defect: report the place; the sweep goes on
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"
        return Outcome("failed", f"{type(error).__name__} at {where}: {' '.join(str(error).split())}")
    finally:
        if job.device.startswith("cuda"):
            with ONE_AT_A_TIME:
                torch.cuda.empty_cache()


def _train(job: Job, reporters: Sequence[Reporter]) -> Outcome:
    config = job.cell.config
    options: dict[str, Any] = {"root": job.root, "device": job.device, "reporters": reporters}
    options["checkpoint_seconds"] = job.checkpoint_seconds
    pays = job.device.startswith("cuda") and protocol(job.cell.protocol).compiled
    options["compile"] = pays if job.compile is None else job.compile
    result = run(config, job.runs, resume=True, **options)
    folder = result.folder
    assert folder is not None
    labels = None
    if job.cell.also and result.status == "finished":
        if not (folder / LABELS).exists():
            if result.model is None and not (folder / CHECKPOINT).exists():  # the weights were not kept
                result = run(config, job.runs, overwrite=True, **options)
            save_record(folder / LABELS, smoothed_labels(load_run(folder, device=job.device, root=job.root)))
        labels = load_record(folder / LABELS)
    if not job.keep_weights:
        (folder / CHECKPOINT).unlink(missing_ok=True)
    record = load_record(folder / RECORD)
    if result.model is not None:  # trained now, with so many runs side by side
        record["machine"]["side_by_side"] = job.side_by_side
        save_record(folder / RECORD, record)
    return Outcome(result.status, result.reason, record, labels)


def _patiently(job: Job, reporters: Sequence[Reporter]) -> Outcome:
    """Train as soon as the process that had this run before, and is ending, has released it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return _train(job, reporters)
        except FolderBusy:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
