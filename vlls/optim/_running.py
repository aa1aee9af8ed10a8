"""Keep a model's running state unchanged while its weights are not the ones that will be used.

A network at a perturbed or sampled weight vector normalises with its own batch statistics, but its updates of buffers
(running averages, the vectors of a spectral norm, other counters) would belong to weights that are never
evaluated. The optimizers know parameters, not modules. So a hook looks at the modules that run, and treats those that
have one of the optimizer's parameters as the model at hand. Others, and those of other threads, are left alone.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from vlls._compiled import uncompiled

_CHANGE = threading.Condition()  # guards the next
_LISTENING: set[int] = set()  # ids of the objects that have a hook on all modules, in any thread


@contextmanager
def nothing_listens(seconds: float = 60.0) -> Iterator[None]:
    """Keep these hooks off all modules within the block, because torch would compile them in; other threads wait.

    Args:
        seconds: to wait for hooks that are in use; the block is entered in any case.
    """
    with _CHANGE:
        _CHANGE.wait_for(lambda: not _LISTENING, seconds)
        yield


class FrozenRunningState:
    """Remembers the buffers of each model that runs and has one of ``params``, from :meth:`start` to :meth:`stop`."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        self._params = {id(p) for p in params}
        self._thread = threading.get_ident()
        self._seen: set[torch.nn.Module] = set()
        self._before: list[tuple[torch.nn.Module, str, Tensor, Tensor]] = []  # with name, tensor and value of a buffer
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def start(self) -> None:
        """Listen from now on; a second call without :meth:`stop` changes nothing."""
        if self._handle is None:
            this = weakref.ref(self)  # an optimizer that is dropped between two steps takes its hook along

            def hook(module: torch.nn.Module, _: object) -> None:
                # a module that is being compiled is a part of one that has been seen, in a call that was not compiled
                if not torch.compiler.is_compiling() and (alive := this()) is not None:
                    alive._remember(module)

            with _CHANGE:
                self._handle = register_module_forward_pre_hook(hook)
                _LISTENING.add(id(self))

    def _end(self) -> None:
        if self._handle is not None:
            with _CHANGE:
                self._handle.remove()
                self._handle = None
                _LISTENING.discard(id(self))
                _CHANGE.notify_all()

    def __del__(self) -> None:
        self._end()

    def _remember(self, module: torch.nn.Module) -> None:
        if module in self._seen:
            return
        self._seen.add(module)
        model = uncompiled(module)
        trained = [id(p) in self._params for p in model.parameters()]
        # a module without any parameter, called by itself, is taken for a part of the model of the thread that samples
        if not any(trained) and (trained or threading.get_ident() != self._thread):
            return
        for part in model.modules():  # compiled parts call no hooks
            if part is not module and part in self._seen:
                continue
            self._seen.add(part)
            for name, buffer in part._buffers.items():
                if buffer is None or is_lazy(buffer):
                    continue
                expanded = any(s == 0 and n > 1 for s, n in zip(buffer.stride(), buffer.shape, strict=True))
                if not expanded:  # no two elements share memory
                    self._before.append((part, name, buffer, buffer.detach().clone()))

    @torch.no_grad()
    def stop(self) -> None:
        """Restore the state before :meth:`start` and stop listening."""
        self._end()
        before, self._before = self._before, []
        self._seen.clear()
        for module, name, buffer, value in before:
            buffer.copy_(value)
            now = module._buffers.get(name)
            # replaced by another tensor; one of another shape is a cache that grew, and the module relies on it
            if now is not None and now is not buffer and now.shape == buffer.shape and now.dtype == buffer.dtype:
                module._buffers[name] = buffer


@contextmanager
def frozen_running_state(params: Iterable[Tensor]) -> Iterator[None]:
    """Within the block no buffer of a model with one of the parameters changes for good."""
    frozen = FrozenRunningState(params)
    frozen.start()
    try:
        yield
    finally:
        frozen.stop()
