"""Locks on the weights of a model: a thread that changes them for a while keeps the others waiting.

A sample writes to the parameters of an optimizer, ``torch.func.functional_call`` to the ``_parameters`` of every
module, a hook to the module it is put on. A block names the objects that it changes, tensors or modules. Blocks of two
threads that share an object run one after the other; blocks with disjoint objects run side by side. A table lists the
objects by ``id`` while they are held; nothing is stored on them, so models can be pickled and copied as usual.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

_changed = threading.Condition()
_holds: dict[int, int] = {}  # the thread that holds an object, by the object's id
_again: dict[int, int] = {}  # how many more blocks of that thread hold it
_waiting: dict[int, list[int]] = {}  # the ids that a thread waits for


@contextmanager
def holding(objects: Iterable[object]) -> Iterator[None]:
    """Keep other threads out of blocks that hold one of the objects; wait until none of them does.

    All objects are taken at once, so that a waiting thread holds none of this block's. A thread does not wait for
    objects that it holds already. Raises a RuntimeError if threads wait for each other, or if one ended without
    releasing its objects.
    """
    if torch.compiler.is_compiling():  # dynamo knows no threads
        yield
        return
    wanted = {id(one): one for one in objects}  # with a reference, so that no other object gets its id
    me = threading.get_ident()
    with _changed:
        while _others(wanted, me):
            if _others(wanted, me) - {thread.ident for thread in threading.enumerate()}:
                raise RuntimeError(
                    "a thread has ended inside a sample, which it entered by hand, and the weights are still there; "
                    "leave the block in the thread that entered it"
                )
            if _waits_for(me, _others(wanted, me)):
                raise RuntimeError(
                    "two threads wait for each other's weights: each is inside a sample of one optimizer or model and "
                    "wants the other's; leave one sample before the next begins"
                )
            _waiting[me] = list(wanted)
            try:
                _changed.wait(1.0)  # then check that the other threads are alive
            finally:
                del _waiting[me]
        for key in wanted.keys() & _holds.keys():
            _again[key] = _again.get(key, 0) + 1
        _holds.update(dict.fromkeys(wanted, me))
    try:
        yield
    finally:
        with _changed:
            more = wanted.keys() & _again.keys()
            for key in more:
                _again[key] -= 1
                if _again[key] == 0:
                    del _again[key]
            for key in wanted.keys() - more:
                _holds.pop(key, None)  # a fork may have removed it
            if _waiting:
                _changed.notify_all()


@contextmanager
def holding_model(model: nn.Module) -> Iterator[None]:
    """Hold a model: its modules and its parameters, as :func:`holding` does.

    While another thread calls the model functionally, ``parameters()`` returns that thread's tensors. So they are read
    again once the modules are held.
    """
    while True:
        parameters = list(model.parameters())
        with holding([*model.modules(), *parameters]):
            if [id(p) for p in model.parameters()] == [id(p) for p in parameters]:
                yield
                return


def _others(wanted: Mapping[int, object], me: int) -> set[int]:
    """Return the other threads that hold one of these."""
    return {_holds[key] for key in _holds.keys() & wanted.keys()} - {me}


def _waits_for(me: int, threads: set[int]) -> bool:
    """Tell whether one of the threads waits for this one, directly or through others."""
    seen: set[int] = set()
    while threads - seen:
        seen |= threads
        threads = {_holds[key] for thread in threads for key in _waiting.get(thread, []) if key in _holds}
    return me in seen


def _after_fork() -> None:
    """Keep the locks of the forking thread; the other threads do not exist in the new process."""
    global _changed
    _changed = threading.Condition()
    _waiting.clear()
    me = threading.get_ident()
    for key in [key for key, thread in _holds.items() if thread != me]:
        del _holds[key]
        _again.pop(key, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
