"""Blocks that change the same weights run one after the other, others side by side, without deadlocks."""

import copy
import os
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.func import functional_call

from vlls import _locks
from vlls._locks import holding, holding_model

WAIT = 60  # seconds after which a test has hung


def in_thread(call):
    """Start a call in a thread, and keep its exception as ``thread.error``."""

    def run():
        thread.error = None
        try:
            call()
        except Exception as error:
            thread.error = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def until_waiting(number=1):
    """Return as soon as this number of threads waits."""
    while len(_locks._waiting) < number:
        threading.Event().wait(0.001)


def test_common_objects_keep_a_thread_waiting_and_others_do_not():
    a, b, c = (torch.zeros(1) for _ in range(3))
    order = []
    with holding([a, b]):
        waiting = in_thread(lambda: _note(order, [b, c]))
        until_waiting()
        free = in_thread(lambda: _note(order, [c]))  # the thread that waits for b does not hold c
        free.join(WAIT)
        assert order == [1] and waiting.is_alive()
    waiting.join(WAIT)
    assert order == [1, 2] and not _locks._holds and not _locks._waiting


def _note(order, objects):
    with holding(objects):
        order.append(len(objects))


def test_the_same_thread_goes_on_and_the_outer_block_still_holds():
    a, b = torch.zeros(1), torch.zeros(1)
    order = []
    with holding([a]):
        with holding([a, b]), holding([b]):
            pass
        with pytest.raises(ZeroDivisionError), holding([a]):
            raise ZeroDivisionError
        other = in_thread(lambda: _note(order, [a]))
        until_waiting()
        assert order == []
    other.join(WAIT)
    assert order == [1] and not _locks._holds


def test_two_threads_that_wait_for_each_other_are_told():
    a, b, inside = torch.zeros(1), torch.zeros(1), threading.Event()

    def first():
        with holding([a]):
            inside.set()
            with holding([b]):
                pass

    with holding([b]):
        thread = in_thread(first)
        assert inside.wait(WAIT)
        until_waiting()
        with pytest.raises(RuntimeError, match="wait for each other's weights.*leave one sample before"), holding([a]):
            pass
    thread.join(WAIT)
    assert thread.error is None and not _locks._holds


def test_a_model_is_held_by_its_own_parameters_while_it_shows_others():
    """A thread that enters during a functional call waits, and then holds the model's own parameters."""
    model, seen, inside, go = nn.Linear(2, 2), [], threading.Event(), threading.Event()
    weights = {name: p.detach() + 1 for name, p in model.named_parameters()}
    own = [id(p) for p in model.parameters()]

    def pause(module, inputs):
        inside.set()
        assert go.wait(WAIT)

    def functional():
        with holding_model(model):
            handle = model.register_forward_pre_hook(pause)
            functional_call(model, weights, (torch.zeros(1, 2),))
            handle.remove()

    def second():
        with holding_model(model):
            seen.extend(id(p) for p in model.parameters())
            assert all(key in _locks._holds for key in own)

    threads = [in_thread(functional)]
    assert inside.wait(WAIT)
    assert [id(p) for p in model.parameters()] != own
    threads.append(in_thread(second))
    until_waiting()
    go.set()
    for thread in threads:
        thread.join(WAIT)
        assert thread.error is None
    assert seen == own and not _locks._holds


def test_a_counter_behind_a_lock_is_not_lost():
    parameters, counter = [torch.zeros(1) for _ in range(10)], [0]

    def count(first):
        for i in range(300):
            with holding([parameters[(first + i) % 9], parameters[9]]):
                value = counter[0]
                for _ in range(20):
                    pass
                counter[0] = value + 1

    threads = [in_thread(lambda first=first: count(first)) for first in range(4)]
    for thread in threads:
        thread.join(WAIT)
    assert counter == [1200] and not _locks._holds


def test_held_models_are_copied_and_pickled_and_nothing_is_kept():
    model = nn.Linear(2, 2)
    with holding_model(model):
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            order = []
            other = in_thread(lambda twin=twin, order=order: _note(order, list(twin.parameters())))
            other.join(WAIT)
            assert order
    assert not _locks._holds


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_has_not():
    a, b, inside, go = torch.zeros(1), torch.zeros(1), threading.Event(), threading.Event()

    def hold():
        with holding([a]):
            inside.set()
            go.wait(WAIT)

    thread = in_thread(hold)
    assert inside.wait(WAIT)
    with holding([b]):
        child = os.fork()
        if child == 0:
            with holding([a, b]):
                os._exit(7 if len(_locks._holds) == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    go.set()
    thread.join(WAIT)


def test_a_thread_that_ended_inside_is_told():
    """Threads would wait for it forever, so they get an error; another thread may still close the block."""
    model = nn.Linear(2, 2)
    blocks = []

    def enter():
        blocks.append(holding(model.parameters()))
        blocks[0].__enter__()

    in_thread(enter).join(WAIT)
    with pytest.raises(RuntimeError, match="a thread has ended inside a sample"), holding(model.parameters()):
        pass
    blocks[0].__exit__(None, None, None)
    with holding(model.parameters()):
        pass
