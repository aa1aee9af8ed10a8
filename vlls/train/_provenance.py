"""Where a run was trained, for its record: device, executor, versions, commit."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import vlls
from vlls.train._trainer import Trainer

__all__ = ["circumstances", "processor", "provenance"]


def circumstances(trainer: Trainer) -> dict[str, Any]:
    """Return the things outside of the config that a run's numbers depend on."""
    device = trainer.device
    return {
        "executor": getattr(trainer.optimizer, "executor", "torch fused"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "processes": trainer.world,
        "torch": str(torch.__version__),
        "vlls": vlls.__version__,
    }


def provenance(trainer: Trainer) -> dict[str, Any]:
    """Return circumstances, peak memory, versions, commit and date."""
    device = trainer.device
    return {
        **circumstances(trainer),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_resident(),
        "cuda_graph": trainer.captured,
        "python": platform.python_version(),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _peak_resident() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """Return the commit of the checkout that this package runs from, or None outside of one."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
