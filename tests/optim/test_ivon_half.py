"""IVON on half-precision parameters: noise below their resolution still measures the curvature."""

import pytest
import torch
from ivon_problems import executors

from vlls import IVON
from vlls.optim.ivon._tensors import round_at_random

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@HALVES
def test_rounding_at_random_has_the_value_as_its_mean(dtype):
    """Within three standard errors, from subnormal to large numbers of either sign; representable numbers stay."""
    generator = torch.Generator().manual_seed(0)
    top = 1e4 if dtype == torch.float16 else 1e30
    values = torch.tensor([1.0, 1.003, -1.003, 1.9999, 2.0, -4.0, 3.0e-6, 0.1, -0.7777, 0.0, top, 6e-8, -1.1e-5])
    draws = 20_000
    rounded = round_at_random(values.expand(draws, -1).contiguous(), dtype, generator).double()
    neighbours = [rounded[:, i].unique() for i in range(len(values))]
    assert all(len(found) <= 2 for found in neighbours)
    held = values.to(dtype).double() == values.double()
    assert all(len(found) == 1 for found, exact in zip(neighbours, held, strict=True) if exact)
    error = rounded.std(0) / draws**0.5
    assert ((rounded.mean(0) - values.double()).abs() <= 3 * error).all()


@pytest.mark.slow
@HALVES
@executors
def test_a_curvature_settles_at_its_value(dtype, executor):
    """The loss has curvature 2; the weights, from 1 to 3, have a resolution of 11 times sigma in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    centre = (1 + 2 * torch.rand(2000, generator=generator)).to(dtype)
    weight = torch.nn.Parameter(centre.clone())
    options = {"foreach": {"foreach": True}, "fused": {"fused": True}}.get(executor, {})
    optimizer = IVON(
        [weight], lr=0.05, ess=1e6, hess_init=1.0, beta2=0.998, weight_decay=1e-6, generator=generator, **options
    )
    found = []
    for step in range(2500):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            (weight - centre).square().sum().backward()
        optimizer.step()
        if step >= 2000 and step % 100 == 0:
            found.append(optimizer.state[weight]["hess"].mean())
    hess = optimizer.state[weight]["hess"]
    # single entries vary; the correction of Alg. 1 adds half (1 - beta2) times the variance of an estimate, over h
    assert abs(hess.mean() - 2.0) < 0.06
    assert abs(torch.stack(found).mean() - 2.0) < 0.06
