"""EVON over two processes: each with its own sample, all with the same weights, bases and Hessian."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from ivon_problems import FUSED, backward, needs_compiler, seed, train_step
from processes import in_two_processes, needs_gloo
from torch.distributed.algorithms.join import Join

from vlls import EVON

STEPS, INTERVAL = 10, 4


def problem(dtype=torch.float64, **executor):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).to(dtype)
    x, y = torch.randn(40, 6).to(dtype), torch.randint(3, (40,))
    options = {"lr": 0.1, "ess": 40.0, "beta2": 0.9, "hess_init": 0.3, "interval": INTERVAL, "basis_decay": 0.9}
    return model, x, y, EVON(model.parameters(), **options, **executor, sync=True, generator=torch.Generator())


def results(model, optimizer):
    named = {f"{name}.mean": p.detach().clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        named |= {f"{name}.{key}": value.clone() for key, value in optimizer.state[p].items() if key != "generator"}
    return named


def covariances(found):
    """Yield covariances of the weights, which do not depend on the signs of a basis's vectors."""
    for name in ("0.weight", "2.weight"):
        w = torch.kron(found[f"{name}.basis_0"], found[f"{name}.basis_1"])
        yield w @ torch.diag(1 / (found[f"{name}.hess"].flatten() + 1e-4)) @ w.T


def work(rank, **how):
    model, x, y, optimizer = problem(**how)
    forward = torch.nn.parallel.DistributedDataParallel(model)
    for step in range(STEPS):
        optimizer.generator.manual_seed(seed(step, rank))
        train_step(forward, optimizer, (x[rank::2], y[rank::2]))
    return results(model, optimizer)


@needs_gloo
@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, pytest.param({"dtype": torch.float32, **FUSED}, marks=needs_compiler)], ids=str)
def test_two_processes_are_one_with_two_samples(tmp_path, how):
    first, second = in_two_processes(tmp_path, partial(work, **how))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    model, x, y, optimizer = problem(**how)
    for step in range(STEPS):
        for rank in range(2):
            optimizer.generator.manual_seed(seed(step, rank))
            with optimizer.sampled_params(train=True):
                backward(model, optimizer, (x[rank::2], y[rank::2]))
        optimizer.step()
    alone = results(model, optimizer)
    near = {"rtol": 1e-4, "atol": 1e-5}  # in float32
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        assert torch.allclose(
            first[f"{name}.mean"], alone[f"{name}.mean"], **(near if how else {"rtol": 1e-8, "atol": 1e-10})
        )
    for ours, theirs in zip(covariances(first), covariances(alone), strict=True):
        assert torch.allclose(ours, theirs, **(near if how else {"rtol": 1e-6, "atol": 1e-9}))


def unequal(rank, batches, more):
    model, x, y, optimizer = problem()
    forward = torch.nn.parallel.DistributedDataParallel(model)

    def step_all(steps):
        for step in range(steps):
            optimizer.generator.manual_seed(seed(step, rank))
            train_step(forward, optimizer, (x[rank::2], y[rank::2]))

    with Join([forward, optimizer]):
        step_all(batches[rank])
    joined = results(model, optimizer)
    step_all(more)
    assert dist.get_world_size() == 2
    return joined, results(model, optimizer)


@needs_gloo
@pytest.mark.slow
def test_a_process_that_runs_out_of_batches_takes_the_bases_over(tmp_path):
    # one process has too few steps to make a basis; and its steps are counted from the other's on
    found = in_two_processes(tmp_path, partial(unequal, batches=(STEPS, 3), more=INTERVAL + 1))
    for first, second in zip(*found, strict=True):
        assert first.keys() == second.keys() and first["2.weight.basis_0"].any()
        assert all(torch.equal(first[name], second[name]) for name in first)


@needs_gloo
@pytest.mark.slow
def test_bases_that_no_process_has_are_not_made_when_one_runs_out_of_batches(tmp_path):
    found = in_two_processes(tmp_path, partial(unequal, batches=(INTERVAL - 1, 1), more=1))
    for joined, later in found:
        assert joined["2.weight.factor_0"].any() and not joined["2.weight.basis_0"].any()
        assert later["2.weight.basis_0"].any()
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])
