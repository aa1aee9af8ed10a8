"""Hold BatchNorm's running statistics still while the weights are not the ones that will be used.

A network at a perturbed or sampled weight vector normalises with its own batch statistics, but what it would write
into the running averages belongs to weights that nobody evaluates. The optimizers know parameters, not modules, so
this listens to every module that runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from vlls._compiled import uncompiled

__all__ = ["FrozenRunningStatistics", "frozen_running_statistics"]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class FrozenRunningStatistics:
    """Remembers the running statistics of each BatchNorm that runs, from :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self._before: dict[_BatchNorm, list[tuple[Tensor, Tensor]]] = {}
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def start(self) -> None:
        """Listen from now on; a second call without :meth:`stop` changes nothing."""
        if self._handle is None:
            this = weakref.ref(self)  # an optimizer that is dropped between two steps takes its hook along

            def hook(module: torch.nn.Module, _: object) -> None:
                if (alive := this()) is not None:
                    alive._remember(module)

            self._handle = register_module_forward_pre_hook(hook)

    def __del__(self) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _remember(self, module: torch.nn.Module) -> None:
        inner = uncompiled(module)
        for part in (module,) if inner is module else inner.modules():  # compiled parts call no hooks
            if isinstance(part, _BatchNorm) and part.training and part not in self._before:
                buffers = [b for b in (getattr(part, name, None) for name in _BUFFERS) if b is not None]
                self._before[part] = [(b, b.detach().clone()) for b in buffers]

    @torch.no_grad()
    def stop(self) -> None:
        """Put back what :meth:`start` found and listen no longer."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        for saved in self._before.values():
            for buffer, before in saved:
                buffer.copy_(before)
        self._before.clear()


@contextmanager
def frozen_running_statistics() -> Iterator[None]:
    """Within the block no BatchNorm's running mean, variance or batch count changes for good."""
    frozen = FrozenRunningStatistics()
    frozen.start()
    try:
        yield
    finally:
        frozen.stop()
