"""IVON if one process has fewer batches: under Join the result is that of one process with all the batches."""

import pytest
import torch
import torch.distributed as dist
from ivon_problems import FUSED, assert_alike, backward, ivon, loss_of, results, seed, train_step
from processes import in_two_processes, needs_gloo
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

BATCHES = 5, 2  # of each process
CASES = {  # options of Join, of IVON, and how the loop differs
    "DDP": {},
    "DDP, divided by who is left": {"join": {"divide_by_initial_world_size": False}},
    "gradsq": {"hess_approx": "gradsq", "foreach": True},
    "closure": {"closure": True, **FUSED},
    "without DDP": {"ddp": False},
    "a schedule": {"schedule": True},
    "GradScaler": {"scaler": True},
    "as many batches": {"batches": (3, 3)},
    "none at all": {"batches": (2, 0)},
}

pytestmark = [needs_gloo, pytest.mark.slow]


def problem():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.BatchNorm1d(10).eval(), torch.nn.Linear(10, 3))
    return model, torch.randn(2, 5, 8, 6), torch.randint(3, (2, 5, 8))


def rate(optimizer, step, schedule):
    if schedule:
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)


def joined(batches=BATCHES, *, ddp=True, join=None, closure=False, schedule=False, scaler=False, **options):
    rank = dist.get_rank()
    model, x, y = problem()
    optimizer = ivon(model, sync=True, generator=torch.Generator(), **options)
    forward = DistributedDataParallel(model) if ddp else model
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0) if scaler else None
    with Join([forward, optimizer] if ddp else [optimizer], **(join or {})):
        for step in range(batches[rank]):
            optimizer.generator.manual_seed(seed(step, rank))
            rate(optimizer, step, schedule)

            data = x[rank, step], y[rank, step]
            if closure:
                optimizer.step(lambda data=data: backward(forward, optimizer, data))
            elif scaler is None:
                train_step(forward, optimizer, data)
            else:
                with optimizer.sampled_params(train=True):
                    optimizer.zero_grad()
                    scaler.scale(loss_of(forward, data)).backward()
                if step == 3:
                    model[0].weight.grad[0, 0] = float("inf")  # when the other process has no batches left
                scaler.step(optimizer)
                scaler.update()
    found = results(model, optimizer)
    train_step(model, optimizer, (x[rank, 0], y[rank, 0]))  # and training goes on, without Join
    return found


def alone(batches=BATCHES, *, ddp=True, join=None, closure=False, schedule=False, scaler=False, **options):
    """Train in one process with a sample for each batch; for a missing batch DDP counts a zero gradient by default."""
    by_world = ddp and (join or {}).get("divide_by_initial_world_size", True)
    model, x, y = problem()
    optimizer = ivon(model, generator=torch.Generator(), **options)
    for step in range(max(batches)):
        if scaler and step == 3:
            continue
        rate(optimizer, step, schedule)
        ranks = [rank for rank in range(2) if step < batches[rank]]
        for rank in ranks:
            optimizer.generator.manual_seed(seed(step, rank))
            with optimizer.sampled_params(train=True):
                backward(model, optimizer, (x[rank, step], y[rank, step]))
        if len(ranks) == 1 and by_world:  # a zero gradient for the missing batch
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
        optimizer.step()
    return results(model, optimizer)


def told(call):
    """Return the type's name and the message of the error that a call raises, or two empty strings."""
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def model_alone_is_joined():
    model, x, y = problem()
    optimizer = ivon(model, sync=True)
    forward = DistributedDataParallel(model)
    torch.manual_seed(dist.get_rank())
    with Join([forward]):
        for step in range(BATCHES[dist.get_rank()]):
            train_step(forward, optimizer, (x[0, step], y[0, step]))


def found(rank):
    return {name: joined(**options) for name, options in CASES.items()} | {"model alone": told(model_alone_is_joined)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return the results of both processes, started once."""
    first, second = in_two_processes(tmp_path_factory.mktemp("ranks"), found)
    return {name: (first[name], second[name]) for name in first}


@pytest.mark.parametrize("case", CASES)
def test_uneven_processes_end_alike_and_as_one_process_would(ran, case):
    assert_alike(ran[case], alone(**CASES[case]))


def test_an_optimizer_that_is_not_joined_says_so_instead_of_waiting(ran):
    (kind, message), _ = ran["model alone"]
    assert kind == "RuntimeError" and "\n" not in message
    assert "1 of 2 processes ran out of batches" in message and "with Join([model, optimizer])" in message


def test_a_step_is_due_after_each_forward_pass(monkeypatch):
    from vlls.optim.ivon import _processes

    monkeypatch.setattr(dist, "all_reduce", lambda count: count.fill_(1.0))  # the other process is in its forward pass
    with pytest.raises(RuntimeError, match=r"call step\(\) once after each forward pass"):
        _processes.count_stepping(torch.device("cpu"), stepping=False)
