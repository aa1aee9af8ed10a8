"""Sharded parameters, two gloo processes on the CPU: SAM takes the steps of one process, IVON refuses them."""

import pytest
import torch
import torch.distributed as dist
from processes import in_two_processes, needs_gloo
from torch.nn import functional as F

from vlls import IVON, SAM

CASES = {
    "plain": {},
    "foreach": {"foreach": True},
    "adaptive": {"adaptive": True},
    "large gradients": {"scale": 1e30},
    "tiny gradients": {"scale": 1e-18, "foreach": True},
    "one layer sharded": {"sharded": "first"},
    "one layer sharded, adaptive, foreach": {"sharded": "first", "adaptive": True, "foreach": True},
    "an infinity in one shard": {"infinity": True},
}

pytestmark = [needs_gloo, pytest.mark.slow]


def problem():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 3))
    return model, torch.randn(40, 6), torch.randint(3, (40,))


def trained(rows=slice(None), *, shard=None, sharded="all", scale=1.0, infinity=False, **options):
    """Return the weights after three steps, each process with its rows."""
    model, x, y = problem()
    if shard is not None:
        shard(model[0] if sharded == "first" else model)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.1 / scale, momentum=0.9, **options)
    for step in range(4):

        def closure(step=step):
            optimizer.zero_grad()
            (scale * F.cross_entropy(model(x[rows]), y[rows])).backward()
            for p in model[2].parameters():
                if shard is not None and sharded == "first":  # as DistributedDataParallel would
                    dist.all_reduce(p.grad.div_(2))
            gradient = model[0].weight.grad
            local = gradient.to_local() if hasattr(gradient, "to_local") else gradient
            if infinity and step == 2 and (shard is None or dist.get_rank() == 1):
                local[-1, -1] = float("inf")

        optimizer.step(closure)
    return [p.full_tensor() if hasattr(p, "full_tensor") else p.detach() for p in model.parameters()]


def refused(make):
    try:
        make()
    except ValueError as error:
        return str(error)
    return ""


def found(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    mesh = init_device_mesh("cpu", (2,))

    def shard(module):
        fully_shard(module, mesh=mesh)

    found = {name: trained(slice(rank, None, 2), shard=shard, **options) for name, options in CASES.items()}
    model, *_ = problem()
    shard(model)
    found["ivon"] = refused(lambda: IVON(model.parameters(), lr=0.1, ess=40))
    for original in (False, True):
        flat = FullyShardedDataParallel(problem()[0], use_orig_params=original, device_id=torch.device("cpu"))
        found["flat ivon", original] = refused(lambda flat=flat: IVON(flat.parameters(), lr=0.1, ess=40))
        found["flat sam", original] = refused(lambda flat=flat: SAM(flat.parameters(), torch.optim.SGD, lr=0.1))
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return the results of both processes, started once."""
    return in_two_processes(tmp_path_factory.mktemp("ranks"), found)


@pytest.mark.parametrize("case", CASES)
def test_sam_on_shards_takes_the_steps_of_one_process(ran, case):
    expected = trained(**{key: value for key, value in CASES[case].items() if key != "sharded"})
    for ours in ran:
        for found, wanted in zip(ours[case], expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    start = problem()[0][0].weight
    assert (expected[0] - start).abs().max() > 0.01  # and has moved


def test_ivon_refuses_shards(ran):
    for ours in ran:
        assert "params[0], of shape (9, 6), is a DTensor; IVON needs whole plain tensors" in ours["ivon"]
        assert "use DistributedDataParallel with sync=True" in ours["ivon"]


@pytest.mark.parametrize("original", [False, True])
def test_both_refuse_flattened_shards(ran, original):
    for ours in ran:
        assert "is a shard of FullyShardedDataParallel; IVON needs" in ours["flat ivon", original]
        assert "a shard of FullyShardedDataParallel at 0" in ours["flat sam", original]
