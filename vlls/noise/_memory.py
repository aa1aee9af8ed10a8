"""How much memory an estimate may take, and how much there is."""

from __future__ import annotations

import os

import torch

__all__ = ["MEBIBYTE", "available_memory", "memory_aim"]

MEBIBYTE = 1 << 20


def memory_aim(memory_limit: float | None, device: torch.device) -> float:
    """Bytes that temporaries may take, of a limit in MiB: 64 on a CPU and 2048 on a GPU if it is None."""
    return (memory_limit or (2048 if device.type == "cuda" else 64)) * MEBIBYTE


def available_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 << 30  # of a system that does not tell
