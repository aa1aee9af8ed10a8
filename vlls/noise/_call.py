"""A model that is called with weights given by name, in arithmetic in which their noise is not lost."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlls._locks import holding_model
from vlls.noise._checks import check_logits, passes

_lock = threading.Lock()
_inside = 0  # blocks of all threads, because the switches are global to the process
_switches = ExitStack()
_loaded = False


@contextmanager
def differentiable() -> Iterator[None]:
    """Use only attention kernels that torch can differentiate in every mode.

    The switches are global to the process: the first block of all threads sets them and the last one resets them.
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


class Call:
    """The logits of a model as a function of a batch and of named weights; other weights are the model's.

    Buffers are copied, so a module that changes its buffers in every pass leaves the model unchanged. All numbers,
    inputs included, have at least the precision of ``dtype``, if it is given.
    """

    def __init__(self, model: nn.Module, names: Collection[str], dtype: torch.dtype | None = None) -> None:
        self.model, self.dtype = model, dtype
        parameters = dict(model.named_parameters())
        self._kinds = {name: self._kind(p) for name, p in parameters.items()}
        bags = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        shortened = {id(m.weight) for m in bags if m.max_norm is not None}  # in place, before they are used
        self._shortened = {name for name, p in parameters.items() if id(p) in shortened}
        self._fixed = {name: b.detach().to(self._kind(b), copy=True) for name, b in model.named_buffers()}
        if dtype is not None:
            others = {name: p.detach() for name, p in parameters.items() if name not in names}
            self._fixed.update({name: p.to(self._kinds[name]) for name, p in others.items()})

    def _kind(self, tensor: Tensor) -> torch.dtype:
        if self.dtype is None or not tensor.is_floating_point():
            return tensor.dtype
        return torch.promote_types(tensor.dtype, self.dtype)

    @contextmanager
    def carrying(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Give the model these weights within the block, as ``torch.func.functional_call`` does for a forward pass.

        A backward pass needs them too: a checkpoint runs part of the model again.
        """
        given = {**self._fixed, **{name: weight.to(self._kinds[name]) for name, weight in weights.items()}}
        given.update({name: given[name].clone() for name in self._shortened & given.keys()})
        named = chain(self.model.named_parameters(), self.model.named_buffers())
        new = {id(tensor): given[name] for name, tensor in named if name in given}
        tables: list[dict[str, Any]] = [t for m in self.model.modules() for t in (m._parameters, m._buffers)]
        places = [(table, local, t) for table in tables for local, t in table.items() if id(t) in new]
        try:
            for table, local, tensor in places:
                table[local] = new[id(tensor)]
            yield
        finally:
            for table, local, tensor in places:
                table[local] = tensor

    def __call__(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        with self.carrying(weights):
            return self.model(x.to(self._kind(x)))


def call_of(model: nn.Module, mean: Mapping[str, Tensor], x: Tensor) -> tuple[Call, Tensor]:
    """Return a model's call, in float32 if the model is in half precision and can use it, and one example's logits."""
    call = Call(model, mean)
    with torch.no_grad():
        with passes(x):
            logits = check_logits(call(mean, x[:1]), 1)
        if any(is_narrow(t) for t in chain(model.parameters(), model.buffers(), (x,))):
            wide = Call(model, mean, torch.float32)
            try:
                check_logits(wide(mean, x[:1]), 1)
                return wide, logits
            except (RuntimeError, TypeError, ValueError):  # it insists on its dtype somewhere
                pass
    return call, logits


def is_narrow(tensor: Tensor) -> bool:
    """Whether a tensor is of half precision or less."""
    return tensor.is_floating_point() and tensor.element_size() < 4


class Lookup:
    """Stands in for an embedding's ``forward``: with the true derivative, also of a padding row."""

    def __init__(self, module: nn.Embedding) -> None:
        self.module = module

    def __call__(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.module.weight)


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Use a model exclusively within the block, and restore it afterwards.

    Other threads wait. Weights that were cast under ``torch.autocast`` are cast again, inside and afterwards. Gradients
    of embeddings are the true ones, without torch's exceptions for padding, sparse and frequent tokens. Tensors that
    modules set as attributes are restored, such as the ``weight`` that pruning computes.
    """
    with holding_model(model):
        torch.clear_autocast_cache()
        modules = list(model.modules())
        found = [dict(vars(module)) for module in modules]
        lookups = [module for module in modules if _is_lookup(module)]
        for module in lookups:
            module.forward = Lookup(module)  # type: ignore[arg-type]
        try:
            yield
        finally:
            for module in lookups:
                del module.forward
            for module, before in zip(modules, found, strict=True):
                attributes = vars(module)
                for name in attributes.keys() | before.keys():
                    if isinstance(attributes.get(name), Tensor) or isinstance(before.get(name), Tensor):
                        if name in before:
                            attributes[name] = before[name]
                        else:
                            del attributes[name]
            torch.clear_autocast_cache()


def _is_lookup(module: nn.Module) -> bool:
    """Whether torch's gradient of an embedding differs from its derivative."""
    if not isinstance(module, nn.Embedding) or type(module).forward is not nn.Embedding.forward:
        return False
    changed = module.padding_idx is not None or module.sparse or module.scale_grad_by_freq
    return changed and module.max_norm is None and "forward" not in vars(module)
