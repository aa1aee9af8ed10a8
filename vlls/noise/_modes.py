"""Kernels that can be differentiated in every way."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_lock = threading.Lock()
_inside = 0  # blocks of all threads, for the switches are the process's
_switches = ExitStack()
_loaded = False


@contextmanager
def differentiable() -> Iterator[None]:
    """Attention by kernels that can be differentiated in every way.

    The switches are those of the process: the first block of all threads turns them and the last one turns them back.
    """
    global _inside, _loaded
    with _lock:
        if not _loaded:  # torch's forward derivatives, without its notice about its own internals
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.zeros(1),))
            _loaded = True
        if _inside == 0:  # a whole Transformer layer in one operation is not differentiable
            _switches.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            _switches.enter_context(sdpa_kernel(SDPBackend.MATH))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _switches.close()
