"""A rank of half of the classes or more is computed along all directions if that takes fewer operations."""

from math import prod

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from vlls import Bernoulli, DiagonalPosterior, label_noise_moments
from vlls.models import cnn3
from vlls.noise import _directions, _network
from vlls.noise._layers import MOVE
from vlls.noise._linearization import Linearization
from vlls.noise._options import NoiseOptions


def small(k):
    return nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, k)), (20,)


def wide(k):
    return nn.Sequential(nn.Linear(20, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, k)), (20,)


def images(k):
    return cnn3(k), (1, 28, 28)


def problem(network, k, batch=6):
    torch.manual_seed(0)
    model, shape = network(k)
    mean = {name: p.detach().clone() for name, p in model.named_parameters()}
    q = DiagonalPosterior(mean, {name: torch.full_like(p, 0.05) for name, p in mean.items()})
    return model.eval(), q, torch.randn(batch, *shape)


class Counted(TorchDispatchMode):
    """Counts multiplications of products and eigenvectors, and MOVE for each number that other operations make."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        packet, views = func._overloadpacket, func.is_view or func is torch.ops.aten._unsafe_view.default
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=found) // 2
        elif packet is torch.ops.aten._linalg_eigh:
            self.total += 10 * prod(args[0].shape) * args[0].shape[-1]
        elif not views:
            made = found if isinstance(found, (tuple, list)) else [found]
            self.total += MOVE * sum(one.numel() for one in made if isinstance(one, torch.Tensor))
        return found


def counted(estimate, x):
    list(estimate.parts(x))  # the push's points are made in the first call only
    with Counted() as counter:
        list(estimate.parts(x))
    return counter.total


@pytest.mark.parametrize("k", [4, 10, 30])
@pytest.mark.parametrize("network", [small, wide, images])
def test_the_way_that_is_taken_is_not_the_dearer_one(network, k, monkeypatch):
    monkeypatch.setattr(_directions, "_by_kernel", _directions._by_torch)  # whose calls are counted
    model, q, x = problem(network, k)
    taken = {}
    for rank in sorted({k // 2, 3 * k // 4, k - 2, k - 1}):
        options = NoiseOptions(method="rank", rank=rank, curvature_pairs=0)
        estimate = _network.Estimator(model, q, x, options)
        taken[rank] = estimate.line.num_directions
        operations = {}
        for number in (rank, k):
            estimate.line.take(number)
            operations[number] = counted(estimate, x)
        assert operations[taken[rank]] <= 1.05 * min(operations.values()), (rank, operations)
    if network is images and k == 10:
        assert all(rank == number for rank, number in taken.items())
    if network is small and k == 30:
        assert taken[k - 2] == k and taken[k - 1] == k - 1


def test_it_is_the_exact_noise_in_every_batch():
    model, q, x = problem(small, 10)

    def noise(x, **options):
        return label_noise_moments(model, q, x, curvature_pairs=2, **options)

    exact, rank = noise(x), noise(x, method="rank", rank=7)
    for name in ("mean_shift", "std", "magnitude", "covariance"):
        assert torch.equal(getattr(exact, name), getattr(rank, name))
    alone = noise(x[2:3], method="rank", rank=7)
    assert torch.allclose(alone.std, rank.std[2:3], rtol=1e-4)
    few = noise(x, method="rank", rank=4)  # less than half: exactly this rank
    assert bool((torch.linalg.matrix_rank(few.logit_covariance.double(), rtol=1e-5) == 4).all())


@pytest.mark.parametrize("rank, taken", [(4, 4), (5, 10)])
def test_below_half_of_the_classes_the_rank_is_kept_even_if_all_were_cheaper(rank, taken, monkeypatch):
    monkeypatch.setattr(Linearization, "operations", lambda self, number: -(10**12) * number)
    model, q, x = problem(small, 10)
    assert _network.Estimator(model, q, x, NoiseOptions(method="rank", rank=rank)).line.num_directions == taken


def test_directions_that_cost_nothing_are_kept():
    """A family with a label for each logit takes the largest derivatives."""
    model, q, x = problem(small, 10)
    line = _network.Estimator(model, q, x, NoiseOptions(method="rank", rank=7, family=Bernoulli())).line
    assert line.num_directions == 7


def test_memory_that_does_not_hold_all_directions_holds_the_rank():
    model, q, x = problem(small, 30)
    options = NoiseOptions(method="rank", rank=28)
    line = _network.Estimator(model, q, x, options).line
    assert line.num_directions == 30
    low, high = 0.0, 1.0
    for _ in range(40):  # the MiB that hold 28 directions and no more
        narrow = (low + high) / 2
        try:
            line._divide(28, narrow, x.device)
            high = narrow
        except ValueError:
            low = narrow
    options = NoiseOptions(method="rank", rank=28, memory_limit=high)
    assert _network.Estimator(model, q, x, options).line.num_directions == 28
