"""Kernels that can be differentiated in every way."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["differentiable"]

_lock = threading.Lock()
_inside = 0  # blocks of all threads, for the switches are the process's
_switches = ExitStack()
_loaded = False


@contextmanager
def differentiable() -> Iterator[None]:
    """Attention by kernels that can be differentiated in every way.

    The switches are those of the process: the first block of all threads turns them and the last one turns them back.
    """
    global _inside
    with _lock:
        _load()
        if _inside == 0:
            _turn()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _switches.close()


def _turn() -> None:
    fused = torch.backends.mha.get_fastpath_enabled()  # a whole Transformer layer in one operation, not differentiable
    torch.backends.mha.set_fastpath_enabled(False)
    _switches.callback(torch.backends.mha.set_fastpath_enabled, fused)
    _switches.enter_context(sdpa_kernel(SDPBackend.MATH))


def _load() -> None:
    """Have torch load its forward derivatives, without its notice about its own internals."""
    global _loaded
    if not _loaded:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))
        _loaded = True
