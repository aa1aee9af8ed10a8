"""The Triton kernel, run by Triton's interpreter on a CPU: started by test_ivon_triton.py in a process of its own."""

import math

import numpy as np
import pytest
import torch
from ivon_problems import assert_lockstep, batch, weights
from ivon_reference import ReferenceIVON

from vlls import IVON
from vlls.optim.ivon._cuda import INTERPRETED, FusedCUDA, _runs_on, _Table
from vlls.optim.ivon._tensors import SingleTensor

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _triton_takes_all(monkeypatch):
    assert INTERPRETED
    monkeypatch.setattr("vlls.optim.ivon._registry.EXECUTORS", [FusedCUDA])


def vector(params):
    return torch.cat([p.detach().flatten().double() for p in params]).numpy()


@pytest.mark.parametrize("how", ["context", "closure", "kept"])
@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"hess_approx": "gradsq"},
        {"debias": False, "clip_radius": 0.02},
        {"mc_samples": 2},
        {"beta1": 0.0, "beta2": 1.0},
        {"hess_clip": 0.05, "hess_every": 2},
        {"hess_clip": 0.05, "hess_approx": "gradsq"},
    ],
    ids=str,
)
def test_lockstep_with_the_float64_reference(how, setting):
    setting = dict(setting)
    samples = setting.pop("mc_samples", 1)
    if how == "kept" and samples > 1:
        pytest.skip("one sample at a time")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 900), torch.nn.Tanh(), torch.nn.Linear(900, 3))
    given = {"lr": 0.05, "ess": 30.0, "hess_init": 0.5, "weight_decay": 1e-2, "beta2": 0.99, **setting}
    lr = torch.tensor(given["lr"]) if how == "closure" else given["lr"]  # also a learning rate held on the device
    optimizer = IVON(model.parameters(), mc_samples=samples, fused=True, **{**given, "lr": lr})
    reference = ReferenceIVON(weights(model).numpy(), **given)
    assert_lockstep(model, batch(), optimizer, reference, how, 4, samples)
    assert all(float(optimizer.state[p]["step"]) == 4 for p in model.parameters())


def test_samples_have_the_posterior_s_moments_and_streams_differ():
    n = 60_001
    params = [torch.nn.Parameter(torch.ones(n)) for _ in range(2)]
    generator = torch.Generator().manual_seed(3)
    optimizer = IVON(params, lr=0.1, ess=10.0, hess_init=0.3, weight_decay=0.2, fused=True, generator=generator)
    draws = []
    for _ in range(2):
        with optimizer.sampled_params():
            draws += [(p.detach().double() - 1) * math.sqrt(10.0 * 0.5) for p in params]
        assert all(torch.equal(p.detach(), torch.ones(n)) for p in params)
    for e in draws:
        assert abs(e.mean()) < 4.5 / math.sqrt(n)
        assert abs(e.square().mean() - 1) < 4.5 * math.sqrt(2 / n)
        assert abs((e**4).mean() - 3) < 4.5 * math.sqrt(96 / n)
    for i in range(4):
        for j in range(i):
            assert abs(torch.corrcoef(torch.stack([draws[i], draws[j]]))[0, 1]) < 4.5 / math.sqrt(n)
    generator.manual_seed(3)
    with optimizer.sampled_params():
        assert torch.equal((params[1].detach().double() - 1) * math.sqrt(5.0), draws[1])


def test_channels_last_and_a_parameter_without_gradient():
    p = torch.nn.Parameter(torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last))
    unused = torch.nn.Parameter(torch.ones(7))
    reference = ReferenceIVON(vector([p]), lr=0.1, ess=20.0)
    optimizer = IVON([p, unused], lr=0.1, ess=20.0, fused=True)
    for _ in range(3):
        with optimizer.sampled_params(train=True):
            p.grad = (p.detach() ** 3).contiguous()
            theta = vector([p])
        optimizer.step()
        reference.step([(theta, theta**3)])
    assert np.abs(vector([p]) - reference.m).max() < 1e-5
    assert p.is_contiguous(memory_format=torch.channels_last) and torch.equal(unused.detach(), torch.ones(7))


def test_it_is_the_default_where_it_works_and_one_that_fails_leaves_torch_s_operations(monkeypatch):
    monkeypatch.setattr("vlls.optim.ivon._registry.EXECUTORS", [FusedCUDA, SingleTensor])
    before = torch.get_rng_state()
    optimizer = IVON([torch.nn.Parameter(torch.ones(9))], lr=0.1, ess=10.0)
    assert optimizer.executor.startswith("cuda triton") and optimizer.capturable
    assert torch.equal(torch.get_rng_state(), before)  # it was tried with numbers of its own

    def missing():
        raise RuntimeError("no Triton")

    monkeypatch.setattr("vlls.optim.ivon._cuda._kernel", missing)
    _runs_on.cache_clear()
    assert optimizer.executor == "single" and not optimizer.capturable
    optimizer.step(lambda: optimizer.param_groups[0]["params"][0].sum().backward())
    with pytest.raises(RuntimeError, match="no Triton"):
        IVON([torch.nn.Parameter(torch.ones(9))], lr=0.1, ess=10.0, fused=True).step(lambda: None)
    _runs_on.cache_clear()


def test_tables_are_sent_again_only_if_something_has_changed(monkeypatch):
    params = [torch.nn.Parameter(torch.ones(5)) for _ in range(3)]
    groups = [{"params": params[:2]}, {"params": params[2:], "hess_approx": "gradsq"}]
    optimizer = IVON(groups, lr=0.1, ess=10.0, beta1=0.0, fused=True)
    sent = []
    monkeypatch.setattr(_Table, "send", lambda *given, send=_Table.send: (sent.append(send(*given)), sent[-1])[1])

    def step():
        with optimizer.sampled_params(train=True):
            for p in params:
                p.grad = gradient
        optimizer.step()
        copied, tables = [table._version for table in sent], list(sent)
        sent.clear()
        return copied, tables

    gradient = torch.ones(5)
    step()
    (first, tables), (second, again) = step(), step()
    assert first == second and all(a is b for a, b in zip(tables, again, strict=True))
    gradient = torch.ones(5)
    assert step()[0] != second
    third = step()[0]
    optimizer.param_groups[1]["ess"] = 5.0
    assert step()[0] != third
