"""Several threads on one model: each sees and leaves the weights as a single thread would."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from ivon_problems import EXECUTORS, batch, cnn, executors, images, loss_of, mlp, needs_compiler, weights

from vlls import IVON, SAM, predict, rank_examples

ROUNDS = {"single": 200}
LIMIT = 300  # seconds after which threads have hung


def in_threads(calls, rounds):
    """Make each call in its own thread, ``rounds`` times, and return the results in order."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait(LIMIT)
        return [call(k) for k in range(rounds)]

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(LIMIT) for future in [pool.submit(run, call) for call in calls]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the disagreement of")
@executors
def test_predict_rank_examples_and_samples_at_once(executor):
    model, (x, y) = cnn().eval(), images(8)
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    with optimizer.sampled_params(train=True):
        loss_of(model, (x, y)).backward()
    optimizer.step()
    posterior = optimizer.posterior(model)
    before = [p.detach().clone() for p in model.parameters()]

    def predicted(k):
        return predict(model, optimizer, x, 2, generator=torch.Generator().manual_seed(k % 5))

    def ranked(k):
        return torch.tensor(rank_examples(model, posterior if k % 2 else optimizer, x, y).noise)

    def sampled(k):
        with optimizer.sampled_params(train=False):
            inside = [p.detach().clone() for p in model.parameters()]
            model(x)
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), inside, strict=True))
        return torch.stack([m.sum() for m in optimizer.posterior(model).mean.values()])

    calls = (predicted, ranked, sampled, predicted)
    alone = [[call(k) for k in range(10)] for call in calls]
    for expected, found in zip(alone, in_threads(calls, ROUNDS.get(executor, 20)), strict=True):
        assert all(torch.equal(found[k], expected[k % 10]) for k in range(len(found)))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@executors
def test_one_thread_trains_while_others_look(executor):
    """Readers do not change the trained weights, and each reads a mean, not a sample."""

    def trained(looks):
        model, data = mlp(), batch()
        optimizer = IVON(
            model.parameters(), lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(1), **EXECUTORS[executor]
        )
        means = []

        def mean():
            return torch.cat([m.flatten().double() for m in optimizer.posterior(model).mean.values()])

        def step(k):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss_of(model, data).backward()
            optimizer.step()
            means.append(mean())  # weights(model) might be a sample, of a thread that looks

        def look(k):
            predict(model, optimizer, data[0], 2, generator=torch.Generator().manual_seed(k))
            return mean()

        means.append(mean())
        found = in_threads([step] + [look] * looks, 25)
        assert all(any(torch.equal(value, mean) for mean in means) for each in found[1:] for value in each)
        return weights(model)

    assert torch.equal(trained(0), trained(3))


def test_sam_keeps_others_waiting_until_its_second_step():
    model, data = mlp(), batch()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=5.0, lr=0.1)
    loss_of(model, data).backward()
    before, seen = weights(model), []
    optimizer.first_step()
    thread = threading.Thread(target=lambda: seen.append((optimizer.state_dict(), weights(model))))
    thread.start()
    thread.join(0.2)  # it cannot end, so a slow machine does no harm
    assert thread.is_alive() and not torch.equal(weights(model), before)
    loss_of(model, data).backward()
    optimizer.second_step()
    thread.join(LIMIT)
    assert torch.equal(seen[0][1], weights(model))


def test_inside_its_own_sample_a_thread_is_refused():
    model, data = mlp(), batch()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0)
    with optimizer.sampled_params(train=False), pytest.raises(RuntimeError, match="leave the block of sampled_params"):
        predict(model, optimizer, data[0], 2)


def test_two_optimizers_train_side_by_side():
    """Threads of different models do not wait for each other: each is inside its sample while the other enters."""
    both = threading.Barrier(2)
    data = batch()

    def run(model):
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(1))
        with optimizer.sampled_params(train=True):
            both.wait(LIMIT)
            loss_of(model, data).backward()
        optimizer.step()
        return weights(model)

    models = [mlp(seed=seed) for seed in (0, 1)]
    together = in_threads([lambda k, model=model: run(model) for model in models], 1)
    both = threading.Barrier(1)
    for seed in (0, 1):
        assert torch.equal(together[seed][0], run(mlp(seed=seed)))


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_samples_with_threads_of_its_own():
    """It would wait for ever for those of its parent, which are not there."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        p = torch.nn.Parameter(torch.zeros(32_768))  # two threads of the kernel, and none of torch's
        optimizer = IVON([p], lr=0.1, ess=1.0, fused=True)
        with optimizer.sampled_params():
            pass
        child = os.fork()
        if child == 0:
            with optimizer.sampled_params():
                os._exit(7 if p.detach().all() else 1)
        ended = time.monotonic() + 60
        while not (found := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > ended:
                os.kill(child, 9)
                os.waitpid(child, 0)
                pytest.fail("the forked process hangs")
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(found[1]) == 7
    finally:
        torch.set_num_threads(before)
