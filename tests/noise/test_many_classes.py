"""Many classes: the leading directions of A'' without an eigendecomposition, and (K, K) results only if read."""

import copy
import pickle

import mpmath
import pytest
import sympy as sp
import torch
from ivon_problems import needs_compiler, unbuilt
from torch import nn

from vlls import Bernoulli, Categorical, DiagonalPosterior, Gaussian, label_noise, label_noise_moments
from vlls.noise import _directions, _network, _push, rank_examples
from vlls.noise._directions import leading_directions
from vlls.noise._push import curvature

D = torch.float64


def probabilities(k):
    """Return softmax outputs: ordinary rows, and all kinds in which eigenvalues or entries coincide or vanish."""
    generator = torch.Generator().manual_seed(k)
    equal, tied, tiny = (torch.randn(k, dtype=D, generator=generator) for _ in range(3))
    tied[: k // 2] = tied[0]
    tiny[1:] = tiny[1:] - 40
    sharp = torch.full((k,), -1e4, dtype=D)
    sharp[k // 2] = 0
    halves = sharp.clone()
    halves[0] = 0
    flat = torch.zeros(k, dtype=D)
    nearly = 1e-9 * torch.randn(k, dtype=D, generator=generator)
    return torch.stack([3 * equal, 0.1 * equal, tied, tiny, sharp, halves, flat, nearly])


@pytest.fixture(params=["kernel", "torch"])
def compiler(request, monkeypatch):
    """With a C compiler and without one, as on a GPU."""
    if request.param == "torch":
        monkeypatch.setenv("CC", "no-such-compiler")
        monkeypatch.setattr(_directions, "KERNEL", unbuilt(_directions.KERNEL))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("k", "rank"), [(2, 1), (3, 1), (3, 2), (4, 3), (10, 3), (10, 9), (300, 3)])
def test_leading_directions_against_an_eigendecomposition(k, rank):
    logits = probabilities(k)
    exact = curvature(Categorical(k), logits)
    found = leading_directions(Categorical(k), logits, rank)
    products = found.mT @ found
    assert float((products - torch.eye(rank, dtype=D)).abs().max()) < 1e-10
    values, vectors = torch.linalg.eigh(exact)
    largest = values[:, -rank:].flip(-1)
    scale = largest[:, :1].clamp_min(1e-7)  # the matrix itself is rounded at 1e-16
    reduced = torch.linalg.eigvalsh(found.mT @ exact @ found).flip(-1)
    assert float(((reduced - largest) / scale).abs().max()) < 1e-8
    # The space is the same if the next eigenvalue differs from the last one that is taken.
    apart = (values[:, -rank] - values[:, -rank - 1]) / scale[:, 0] > 1e-3
    assert bool(apart.any())
    projectors = [v @ v.mT for v in (found[apart], vectors[apart][..., -rank:])]
    assert float((projectors[0] - projectors[1]).abs().max()) < 1e-9


@pytest.mark.usefixtures("compiler")
def test_leading_directions_by_sympy_and_in_sixty_digits():
    """For probabilities that add up to 1, entries whose sum is zero form an eigenvector."""
    *p, x = sp.symbols("p1:4 x")
    p = sp.Matrix(p)
    entries = p.applyfunc(lambda q: q / (q - x))
    left = (sp.diag(*p) - p * p.T - x * sp.eye(3)) * entries
    assert (left - p * (1 - sum(p) - x * sum(entries))).applyfunc(sp.simplify) == sp.zeros(3, 1)

    with mpmath.workdps(60):
        logits = [0, -1, -25, -60, -61]
        weights = [mpmath.e**f for f in logits]
        exact = [w / sum(weights) for w in weights]
        values, vectors = mpmath.eigsy(
            mpmath.matrix([[(i == j) * a - a * b for j, b in enumerate(exact)] for i, a in enumerate(exact)])
        )
        order = sorted(range(5), key=lambda i: -values[i])[:3]
        by_digits = torch.tensor([[float(vectors[row, i]) for i in order] for row in range(5)], dtype=D)
    found = leading_directions(Categorical(5), torch.tensor([logits], dtype=D), 3)[0]
    assert torch.allclose((found * by_digits).sum(0).abs(), torch.ones(3, dtype=D), rtol=1e-12)


@needs_compiler
@pytest.mark.parametrize(("k", "rank"), [(3, 1), (10, 3), (10, 8), (300, 40)])
def test_leading_directions_by_the_kernel_are_those_by_torch(k, rank):
    logits = torch.cat([probabilities(k)[[0, 1, 3, 7]], torch.full((1, k), torch.nan, dtype=D)])
    p = logits.softmax(1)
    by_torch, by_kernel = (how(p, rank) for how in (_directions._by_torch, _directions._by_kernel))
    assert torch.equal(by_kernel[:4].mT, leading_directions(Categorical(k), logits[:4], rank))  # the kernel is taken
    assert torch.allclose(by_torch, by_kernel, rtol=0, atol=1e-12, equal_nan=True)
    assert torch.equal(by_kernel[2:4], _directions._by_kernel(p.T.contiguous().T[2:4], rank))  # alone, other strides


def test_leading_directions_of_other_families():
    logits = torch.tensor([[0.0, 3.0, -1.0], [5.0, 0.5, 4.0]], dtype=D)
    assert torch.equal(leading_directions(Bernoulli(), logits, 2).argmax(1), torch.tensor([[0, 2], [1, 2]]))
    found = leading_directions(Gaussian(), logits, 2)
    assert torch.equal(found.mT @ found, torch.eye(2, dtype=D).expand(2, 2, 2))


def network(k):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, k)).double()
    mean = {name: p.detach().clone() for name, p in model.named_parameters()}
    return model, DiagonalPosterior(mean, {name: torch.full_like(p, 0.1) for name, p in mean.items()})


METHODS = {"rank": {}, "exact": {}, "direction": {"num_samples": 2}, "linear": {"method": "rank", "linear": True}}


@pytest.mark.parametrize("name", METHODS)
def test_covariances_are_those_of_the_other_columns(name):
    model, q = network(6)
    x = torch.randn(5, 4, dtype=D)
    noise = label_noise_moments(model, q, x, **{"method": name, **METHODS[name]})
    for other in (noise, copy.deepcopy(noise), pickle.loads(pickle.dumps(noise))):
        assert torch.allclose(other.covariance.diagonal(dim1=1, dim2=2).sqrt(), noise.std, rtol=1e-10, atol=1e-14)
        assert other.covariance is other.covariance  # computed once
        assert other.logit_covariance.shape == (5, 6, 6)
        assert "_sources" not in repr(other)


def test_a_thousand_classes_form_no_matrix_of_their_size(monkeypatch):
    model, q = network(1000)
    x = torch.randn(3, 4, dtype=D)
    formed = []
    for owner, name in ((torch.linalg, "eigh"), (torch, "diag_embed"), (torch, "cat"), (_push, "push")):
        real = getattr(owner, name)

        def watched(*args, real=real, **kwargs):
            found = real(*args, **kwargs)
            parts = found if isinstance(found, tuple) else (found,)
            formed.extend(t.shape for t in parts if isinstance(t, torch.Tensor) and t.shape[-2:] == (1000, 1000))
            return found

        monkeypatch.setattr(owner, name, watched)
    noise = label_noise_moments(model, q, x, method="rank")
    label_noise(model, q, x, method="rank")
    label_noise(model, q, x, method="monte_carlo", num_samples=2)
    rank_examples(model, q, x, [0, 1, 2])
    assert not formed
    assert noise.covariance.shape == (3, 1000, 1000)
    assert formed


def test_covariances_that_memory_does_not_hold_are_refused_when_read(monkeypatch):
    model, q = network(20)
    noise = label_noise_moments(model, q, torch.randn(3, 4, dtype=D), method="rank")
    monkeypatch.setattr(_network, "available_memory", lambda device: 1 << 10)
    with pytest.raises(ValueError, match="3 examples with 20 classes need .* pass fewer examples"):
        _ = noise.covariance
