"""Losses with a memory inside DistributedDataParallel: two gloo processes have the labels of a single process."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from processes import in_two_processes, needs_gloo
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from vlls import MeanPredictionSmoothing, OnlineLabelSmoothing

K = 5
KINDS = {"ols": OnlineLabelSmoothing, "mean prediction": MeanPredictionSmoothing}
CASES = {  # differences from a plain run of the wrapped module
    "default": {},
    "no broadcast": {"broadcast_buffers": False},
    "accumulation": {"accumulate": 2},
    "compiled": {"compile": "before"},
    "compiled around": {"compile": "after"},
    "resumed": {"resume": True},
    "uneven": {"uneven": True},
}

pytestmark = needs_gloo


class WithLoss(nn.Module):
    """A network that returns its loss, as those of many frameworks do."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.criterion = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, K)), kind(0.5, K)
        self.net[1].eval()  # has buffers to broadcast, and the outputs of a single process

    def forward(self, x, y):
        return self.criterion(self.net(x), y)


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 40, 4, generator=generator)
    return x, torch.randint(K, (2, 40), generator=generator)


def batches(epoch, rank, uneven):
    """Return a rank's batches: rank 1 has smaller ones, and with ``uneven`` fewer."""
    x, y = data()
    sizes = [10, 10, 10, 10] if rank == 0 else [7, 3, 8, 2][: 2 if uneven else 4]
    rows = torch.arange(sum(sizes)).split(sizes)
    return [(x[epoch, rank::2][r % 20] + 0.1 * rank, y[epoch, rank::2][r % 20]) for r in rows]


def next_labels(kind, *, uneven=False, accumulate=1, compile=None, resume=False, **ddp):
    """Return the labels in use after each of two epochs, and the loss with the last ones."""
    rank = dist.get_rank()

    def made():
        module = WithLoss(KINDS[kind])
        module = torch.compile(module, backend="aot_eager") if compile == "before" else module
        wrapped = DistributedDataParallel(module, **ddp)
        return module, torch.compile(wrapped, backend="aot_eager") if compile == "after" else wrapped

    module, model = made()
    labels = []
    for epoch in range(2):
        with Join([model]) if uneven else nullcontext():
            for i, (x, y) in enumerate(batches(epoch, rank, uneven)):
                if resume and i == 2:
                    state, (module, model) = copy.deepcopy(model.state_dict()), made()
                    model.load_state_dict(state)
                with model.no_sync() if (i + 1) % accumulate else nullcontext():
                    model(x, y).backward()
        module.criterion.next_epoch()
        labels.append(current(module.criterion))
    return [*labels, module.criterion.eval()(torch.eye(K), torch.arange(K)).detach()]


def current(criterion):
    return (criterion.soft_labels if hasattr(criterion, "soft_labels") else criterion.mean_prediction).clone()


def alone(kind, uneven=False, **_):
    """Train a single process on the batches of both."""
    module = WithLoss(KINDS[kind])
    labels = []
    for epoch in range(2):
        for rank in range(2):
            for x, y in batches(epoch, rank, uneven):
                module(x, y)
        module.criterion.next_epoch()
        labels.append(current(module.criterion))
    return [*labels, module.criterion.eval()(torch.eye(K), torch.arange(K)).detach()]


def all_next_labels(rank):
    return {(kind, case): next_labels(kind, **options) for kind in KINDS for case, options in CASES.items()}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return the results of both processes, started once."""
    return in_two_processes(tmp_path_factory.mktemp("ranks"), all_next_labels)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_labels_are_those_of_one_process(ran, kind, case):
    expected = alone(kind, **CASES[case])
    for ours in ran:
        for found, wanted in zip(ours[kind, case], expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    uniform = KINDS[kind](0.5, K)
    assert (expected[0] - current(uniform)).abs().max() > 0.01  # they have moved


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_saved_and_moved_but_are_no_buffers(kind):
    module = WithLoss(KINDS[kind])
    module(torch.randn(8, 4), torch.randint(K, (8,)))
    label = "soft_labels" if kind == "ols" else "mean_prediction"
    saved = {key.removeprefix("criterion."): value for key, value in module.state_dict().items() if "crit" in key}
    assert list(saved) == [label, "_prob_sum", "_count"]  # unchanged, so that old states load
    assert [name for name, _ in module.criterion.named_buffers()] == [label]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(module))
    for other in (copy.deepcopy(module), converted, WithLoss(KINDS[kind])):
        other.load_state_dict(module.state_dict())
        assert torch.equal(other.criterion._prob_sum, module.criterion._prob_sum) and other.criterion._count.sum() > 0
        assert other.criterion._prob_sum.data_ptr() != module.criterion._prob_sum.data_ptr()
    on_meta = copy.deepcopy(module).to("meta").criterion
    assert on_meta._prob_sum.is_meta and on_meta._count.is_meta
    state = module.state_dict()
    del state["criterion._count"]
    with pytest.raises(RuntimeError, match="Missing key.*criterion._count"):
        module.load_state_dict(state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_of_data_parallel_is_refused_in_training(kind):
    replica = KINDS[kind](0.5, K)._replicate_for_data_parallel()  # the replica's statistics would be lost
    batch = torch.randn(8, K), torch.randint(K, (8,))
    with pytest.raises(RuntimeError, match="throws away the statistics.*use DistributedDataParallel"):
        replica(*batch)
    assert replica.eval()(*batch).isfinite()
