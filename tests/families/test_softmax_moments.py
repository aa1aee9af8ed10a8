"""Moments of the softmax in thirty digits, by torch, and by the kernel, which gives way where it cannot be used."""

import os
import shutil
import subprocess
import sys

import mpmath
import pytest
import torch
from ivon_problems import needs_compiler, unbuilt
from torch.autograd import forward_ad

from vlls import Categorical
from vlls.families import _softmax
from vlls.families._softmax import softmax_moments

D = torch.float64


@pytest.fixture(params=["kernel", "torch"])
def compiler(request, monkeypatch):
    """With a C compiler and without one."""
    if request.param == "torch":
        monkeypatch.setenv("CC", "no-such-compiler")
        monkeypatch.setattr(_softmax, "KERNEL", unbuilt(_softmax.KERNEL))


def problem(batch=5, k=4, dim=3, replicates=2, size=6, columns=2, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, k), (batch, k, dim), (replicates, size, dim), (batch, k, columns)
    mean, root, points, vectors = (torch.randn(shape, dtype=D, generator=generator) for shape in shapes)
    return 3 * mean, scale * root, points, vectors


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("scale", [1.0, 1e-4, 30.0])
def test_moments_in_thirty_digits(scale):
    mean, root, points, vectors = problem(batch=2, k=3, scale=scale)
    found = softmax_moments(mean, root, points)
    along = softmax_moments(mean, root, points, vectors)
    for b in range(2):
        with mpmath.workdps(30):

            def softmax(f):
                weights = [mpmath.e ** (a - max(f)) for a in f]
                return [w / sum(weights) for w in weights]

            start = [mpmath.mpf(float(m)) for m in mean[b]]
            factors = [[mpmath.mpf(float(r)) for r in row] for row in root[b]]

            def moved(e, start=start, factors=factors):
                along = [sum(r * float(x) for r, x in zip(row, e, strict=True)) for row in factors]
                ends = softmax([m + a for m, a in zip(start, along, strict=True)])
                return [p - c for p, c in zip(ends, softmax(start), strict=True)]

            change = [[moved(e) for e in replicate] for replicate in points]
            flat = [c for replicate in change for c in replicate]
            average = [sum(c[k] for c in flat) / len(flat) for k in range(3)]
            covariance = [
                [sum(c[k] * c[j] for c in flat) / len(flat) - average[k] * average[j] for j in range(3)]
                for k in range(3)
            ]
            by_replicate = [[float(sum(c[k] for c in r) / len(r)) for k in range(3)] for r in change]
            covariance = torch.tensor([[float(value) for value in row] for row in covariance], dtype=D)
        assert torch.allclose(found.by_replicate[b], torch.tensor(by_replicate, dtype=D), rtol=1e-12, atol=1e-16)
        assert torch.allclose(found.covariance[b], covariance, rtol=1e-11, atol=1e-17)
        assert torch.allclose(found.variance[b], covariance.diagonal(), rtol=1e-11, atol=1e-17)
        assert torch.allclose(along.covariance[b], covariance @ vectors[b], rtol=1e-10, atol=1e-17)


@needs_compiler
@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "k": 2, "dim": 1},
        {"size": 130},
        {"size": 64, "k": 10, "dim": 10},
        {"k": 300, "replicates": 8, "size": 66},
        {"batch": 40, "k": 50, "replicates": 8, "size": 128},  # several threads
        {"columns": 0},
        {"batch": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_kernel_s_sums_are_torch_s(sizes, threads):
    mean, root, points, vectors = problem(**sizes)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for more in (None, vectors, vectors.mT.contiguous().mT):
            ours, theirs = (how(mean, root, points, more) for how in (_softmax._by_kernel, _softmax._by_torch))
            for a, b in zip(ours, theirs, strict=True):
                assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-11, atol=1e-15)
            half = slice(len(mean) // 2, None)  # alone, an example has the same numbers
            alone = _softmax._by_kernel(mean[half], root[half], points, None if more is None else more[half])
            assert all(torch.equal(a[half], b) for a, b in zip(ours, alone, strict=True))
    finally:
        torch.set_num_threads(before)


@needs_compiler
def test_the_kernel_s_exponential_has_all_digits():
    """Without spread the change is the difference of two softmaxes of the same logits, the kernel's and torch's."""
    gaps = torch.cat([torch.linspace(0, 700, 40_001, dtype=D), torch.logspace(-17, 0, 2_000, dtype=D)])
    mean = torch.stack([torch.zeros_like(gaps), -gaps], 1)
    points = torch.zeros(2, 2, 1, dtype=D)
    by_replicate = _softmax._by_kernel(mean, mean[:, :, None], points, None)[0]
    assert float((by_replicate[:, 0] / mean.softmax(1)).abs().max()) < 1e-15


@pytest.mark.usefixtures("compiler")
def test_logits_at_the_ends():
    """What underflows is 0, and what is not a number stays so in its own row."""
    mean = torch.tensor([[0.0, -800.0, -1e4], [1e4, -1e4, 0.0], [0.0, torch.nan, 0.0], [0.0, torch.inf, 0.0]], dtype=D)
    moments = softmax_moments(mean, 0.1 * torch.ones(4, 3, 1, dtype=D), torch.randn(2, 8, 1, dtype=D))
    assert bool((moments.by_replicate[:2].abs() < 1e-300).all()) and bool((moments.variance[:2] == 0).all())
    assert bool(moments.by_replicate[2:].isnan().all()) and bool(moments.covariance[2:].isnan().all())


def test_derivatives_are_taken_by_torch():
    family = Categorical(3, num_points=16)
    mean, var = torch.randn(4, 3, dtype=D), 0.5 * torch.eye(3, dtype=D).expand(4, 3, 3)
    plain = family.expected_mean(mean, var)
    step, h = torch.randn(4, 3, dtype=D), 1e-5
    ends = [family.expected_mean(mean + sign * h * step, var) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * h)

    def near(found):
        return torch.allclose(found, slope, rtol=1e-6, atol=1e-9)

    one = family.expected_mean(mean.requires_grad_(), var)
    weights = torch.randn_like(plain)
    (gradient,) = torch.autograd.grad((one * weights).sum(), mean)
    assert float((gradient * step).sum()) == pytest.approx(float((slope * weights).sum()), rel=1e-6)
    mean = mean.detach()
    assert near(torch.func.jvp(lambda m: family.expected_mean(m, var), (mean,), (step,))[1])
    with forward_ad.dual_level():
        assert near(forward_ad.unpack_dual(family.expected_mean(forward_ad.make_dual(mean, step), var)).tangent)
    moved = torch.stack([mean, mean + step])
    batched = torch.func.vmap(lambda m: softmax_moments(m, var, torch.ones(2, 4, 3, dtype=D)).variance)(moved)
    assert torch.allclose(batched[1], softmax_moments(moved[1], var, torch.ones(2, 4, 3, dtype=D)).variance)
    single = family.expected_mean(mean.float(), var.float())
    assert single.dtype == torch.float32 and torch.allclose(single.double(), plain, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_torch_compile_sees_torch_s_operations():
    mean, root, points, vectors = problem()
    compiled = torch.compile(lambda *given: softmax_moments(*given).covariance, fullgraph=True)
    found = compiled(mean, root, points, vectors)
    assert torch.allclose(found, softmax_moments(mean, root, points, vectors).covariance, atol=1e-15)


@needs_compiler
def test_the_kernel_is_called_without_the_seconds_that_torch_takes_to_load_its_compiler():
    code = """
import sys, torch, vlls
vlls.Categorical(3).expected_mean(torch.zeros(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64))
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
