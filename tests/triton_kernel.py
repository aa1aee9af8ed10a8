"""The Triton kernel on a GPU, or in Triton's interpreter on a CPU; test_ivon_triton.py starts a process for each."""

import math
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from evon_reference import OneParameter, follow, numbers
from ivon_problems import assert_lockstep, batch, take_steps, weights
from ivon_reference import ReferenceIVON
from philox import box_muller, philox, uniform

from vlls import EVON, IVON
from vlls.optim._evon import _optimizer
from vlls.optim._evon._fused import EigenbasisCUDA
from vlls.optim.ivon._cuda import INTERPRETED, FusedCUDA, _runs_on, _Table
from vlls.optim.ivon._tensors import Foreach, SingleTensor

torch.set_num_threads(1)
DEVICE = "cpu" if INTERPRETED else "cuda"
SIZES = 1, 3, 1023, 1024, 4097  # within a tile, a tile, and several with a ragged end


@pytest.fixture(autouse=True)
def _triton_takes_all(monkeypatch):
    monkeypatch.setattr("vlls.optim.ivon._registry.EXECUTORS", [FusedCUDA])


def vector(params):
    return torch.cat([p.detach().flatten().double() for p in params]).cpu().numpy()


def generator(seed):
    return torch.Generator(DEVICE).manual_seed(seed)


# ------------------------------------------------------------------------------------------------ noise
def normal(n, stream, key):
    """Return a parameter's noise: one call of Philox for four neighbours, then the Box-Muller transform."""
    words = np.stack(philox(np.arange(-(-n // 4)), 0, stream, 0, key & 0xFFFFFFFF, key >> 32), 1)
    return np.stack(box_muller(uniform(words[:, ::2]), uniform(words[:, 1::2])), 2).reshape(-1)[:n]


def test_the_noise_is_that_of_the_reference():
    params = [torch.nn.Parameter(torch.zeros(n, device=DEVICE)) for n in SIZES]
    optimizer = IVON(params, lr=0.1, ess=1.0, weight_decay=0.0, fused=True, generator=generator(3))
    key = int(FusedCUDA.new_key(generator(3)))
    with optimizer.sampled_params():
        for stream, p in enumerate(params, start=1):
            expected = normal(p.numel(), stream, key)
            assert (np.abs(vector([p]) - expected) / (1 + np.abs(expected))).max() < 4e-6


def test_samples_have_the_posterior_s_moments_and_streams_differ():
    n = 20_001
    params = [torch.nn.Parameter(torch.ones(n, device=DEVICE)) for _ in range(2)]
    its = generator(3)
    optimizer = IVON(params, lr=0.1, ess=10.0, hess_init=0.3, weight_decay=0.2, fused=True, generator=its)
    draws = []
    for _ in range(2):
        with optimizer.sampled_params():
            draws += [(p.detach().double() - 1) * math.sqrt(10.0 * 0.5) for p in params]
        assert all((p == 1).all() for p in params)
    for e in draws:
        assert abs(e.mean()) < 4.5 / math.sqrt(n)
        assert abs(e.square().mean() - 1) < 4.5 * math.sqrt(2 / n)
        assert abs((e**4).mean() - 3) < 4.5 * math.sqrt(96 / n)
        assert abs((e[:-1] * e[1:]).mean()) < 4.5 / math.sqrt(n)  # neighbours share a call of Philox
    for i in range(4):
        for j in range(i):
            assert abs(torch.corrcoef(torch.stack([draws[i], draws[j]]))[0, 1]) < 4.5 / math.sqrt(n)
    its.manual_seed(3)
    with optimizer.sampled_params():
        assert torch.equal((params[1].detach().double() - 1) * math.sqrt(5.0), draws[1])


# ------------------------------------------------------------------------------------------------ steps
@pytest.mark.parametrize("how", ["context", "closure", "kept"])
@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"hess_approx": "gradsq"},
        {"debias": False, "clip_radius": 0.02},
        {"mc_samples": 2},
        {"mc_samples": 2, "hess_approx": "gradsq"},
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
    model = torch.nn.Sequential(torch.nn.Linear(6, 400), torch.nn.Tanh(), torch.nn.Linear(400, 3)).to(DEVICE)
    given = {"lr": 0.05, "ess": 30.0, "hess_init": 0.5, "weight_decay": 1e-2, "beta2": 0.99, **setting}
    lr = torch.tensor(given["lr"], device=DEVICE) if how == "closure" else given["lr"]  # also a tensor on the device
    optimizer = IVON(model.parameters(), mc_samples=samples, fused=True, **{**given, "lr": lr})
    reference = ReferenceIVON(weights(model).numpy(), **given)
    assert_lockstep(model, [part.to(DEVICE) for part in batch()], optimizer, reference, how, 4, samples)
    assert all(float(optimizer.state[p]["step"]) == 4 for p in model.parameters())


def placed(values, offset):
    """Return the values inside a larger buffer, ``offset`` numbers behind an address that is a multiple of 16."""
    around = torch.full((len(values) + 16,), 7.0, device=DEVICE)
    around[4 + offset :][: len(values)] = values
    return around[4 + offset :][: len(values)], around


@pytest.mark.parametrize("how", ["context", "closure", "kept"])
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
def test_memory_that_begins_anywhere_and_ends_anywhere(how, hess_approx):
    """The numbers do not depend on the addresses of parameters and gradients, and nothing is written outside."""

    sizes = (1, 3, 1023, 2049)

    def train(offset, of_grads):
        torch.manual_seed(0)
        memory = [placed(torch.randn(n), offset) for n in sizes]
        params = [torch.nn.Parameter(view) for view, _ in memory]
        optimizer = IVON(
            params, lr=0.1, ess=20.0, hess_init=0.5, beta2=0.9, hess_approx=hess_approx, hess_clip=0.3, fused=True,
            generator=generator(1),
        )  # fmt: skip

        def closure():
            for p in params:
                p.grad = placed(p.detach() ** 3 - 0.2, of_grads)[0]

        take_steps(optimizer, closure, how, 2)
        for (view, around), n in zip(memory, sizes, strict=True):
            assert (around == 7).sum() == 16 and view.data_ptr() == around.data_ptr() + 4 * (4 + offset), n
        return vector([*params, *(optimizer.state[p][name] for p in params for name in ("momentum", "hess"))])

    expected = train(0, 0)
    for offsets in ((1, 3), (2, 0)):
        # the compiler may round a product and a sum at once in one body of the kernel and not in the other
        assert np.abs(train(*offsets) - expected).max() <= (0.0 if INTERPRETED else 1e-6)


def test_channels_last_and_a_parameter_without_gradient():
    p = torch.nn.Parameter(torch.randn(4, 3, 5, 5, device=DEVICE).contiguous(memory_format=torch.channels_last))
    unused = torch.nn.Parameter(torch.ones(7, device=DEVICE))
    reference = ReferenceIVON(vector([p]), lr=0.1, ess=20.0)
    optimizer = IVON([p, unused], lr=0.1, ess=20.0, fused=True)
    for _ in range(3):
        with optimizer.sampled_params(train=True):
            p.grad = (p.detach() ** 3).contiguous()
            theta = vector([p])
        optimizer.step()
        reference.step([(theta, theta**3)])
    assert np.abs(vector([p]) - reference.m).max() < 1e-5
    assert p.is_contiguous(memory_format=torch.channels_last) and (unused == 1).all()


@pytest.mark.parametrize(
    "how, samples, more",
    [
        ("context", 1, {}),
        ("context", 2, {"hess_approx": "gradsq"}),
        ("context", 2, {"max_axis": 8}),
        ("kept", 1, {}),
        ("kept", 1, {"weight_decay": 0.0}),
    ],
    ids=str,
)
def test_evon_follows_its_twin_with_layers_of_one_shape_turned_at_once(monkeypatch, how, samples, more):
    monkeypatch.setattr(_optimizer, "_executors_of", lambda params, _: [EigenbasisCUDA] * len(params))
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 9), torch.nn.Linear(9, 9), torch.nn.Linear(9, 9), torch.nn.Linear(9, 3)]
    model = torch.nn.Sequential(*layers).to(DEVICE)
    options = {"lr": 0.05, "ess": 30.0, "hess_init": 0.5, "weight_decay": 1e-2, "beta2": 0.9, "interval": 2, **more}
    optimizer = EVON(model.parameters(), basis_decay=0.8, generator=generator(2), fused=True, **options)
    assert optimizer.executor.startswith("eigenbasis, cuda triton")
    twins = [OneParameter(numbers(p), basis_decay=0.8, **options) for p in model.parameters()]
    assert max(follow(model, [part.to(DEVICE) for part in batch()], optimizer, twins, how, 5, samples)) < 1e-4
    assert any(abs(twin.turn - np.eye(len(twin.m))).max() > 0.1 for twin in twins)


def test_evon_learns_from_the_draw_of_each_layer_where_some_rest_while_samples_are_kept(monkeypatch):
    """A layer without a gradient takes another sample; the next step of all has noise of two draws."""
    monkeypatch.setattr(_optimizer, "_executors_of", lambda params, _: [EigenbasisCUDA] * len(params))
    torch.manual_seed(0)
    layers = [torch.nn.Parameter(torch.randn(5, 4, device=DEVICE)) for _ in range(2)]
    options = {"lr": 0.05, "ess": 30.0, "hess_init": 0.5, "beta2": 0.9, "interval": 2, "basis_decay": 0.8}
    optimizer = EVON(layers, generator=generator(2), fused=True, **options)
    twins = [OneParameter(numbers(p), **options) for p in layers]
    for p, twin in zip(layers, twins, strict=True):
        twin.adopt = lambda _, k, new, p=p: numbers(optimizer.state[p][f"basis_{k}"]).copy()
    with optimizer.keep_sampled():
        for stepping in ((0, 1), (0, 1), (0,), (0, 1), (1,), (0, 1)):
            seen = [numbers(p).ravel() for p in layers]
            for k in stepping:
                layers[k].grad = layers[k].detach() ** 3
            optimizer.step()
            for k in stepping:
                twins[k].step([(seen[k], seen[k] ** 3)])
                layers[k].grad = None
    for p, twin in zip(layers, twins, strict=True):
        for found, expected in ((p, twin.m), (optimizer.state[p]["hess"], twin.h)):
            assert np.abs(numbers(found).ravel() - expected).max() < 1e-4
        assert abs(twin.turn - np.eye(20)).max() > 0.1


@pytest.mark.parametrize("how", ["context", "closure", "kept"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_beside_half_precision_and_frozen_parameters(how, dtype, monkeypatch):
    """Torch's operations take the parameters that the kernel does not, and do not change the kernel's numbers."""
    monkeypatch.setattr("vlls.optim.ivon._registry.EXECUTORS", [FusedCUDA, Foreach, SingleTensor])

    def train(*others):
        params = [torch.nn.Parameter(torch.linspace(-1, 1, 1500, device=DEVICE)), *others]
        optimizer = IVON(params, lr=0.1, ess=20.0, generator=generator(1))
        optimizer.generator.manual_seed(1)
        if others:
            assert optimizer.executor.split(", ")[1] == ("single" if INTERPRETED else "foreach")

        def closure():
            for p in params:
                p.grad = p.detach() ** 3 if p.requires_grad else None

        take_steps(optimizer, closure, how, 1)
        return vector(params[:1])

    half = torch.nn.Parameter(torch.linspace(-1, 1, 70, device=DEVICE).to(dtype))
    frozen = torch.nn.Parameter(torch.ones(1030, device=DEVICE), requires_grad=False)
    before = half.detach().clone()
    assert np.array_equal(train(half, frozen), train())
    assert (frozen == 1).all() and half.isfinite().all() and not torch.equal(half, before)


def test_a_gradient_that_is_no_number_shows():
    params = [torch.nn.Parameter(torch.ones(n, device=DEVICE)) for n in (5, 1024)]
    optimizer = IVON(params, lr=0.1, ess=20.0, clip_radius=0.1, hess_clip=1.0, fused=True)
    with optimizer.sampled_params(train=True):
        for p in params:
            p.grad = torch.where(torch.arange(p.numel(), device=DEVICE) == 3, math.nan, 1.0)
    optimizer.step()
    for p in params:
        assert p.isnan().nonzero().tolist() == [[3]] == optimizer.state[p]["hess"].isnan().nonzero().tolist()


# ------------------------------------------------------------------------------------------------ the host
def test_it_is_the_default_where_it_works_and_one_that_fails_leaves_torch_s_operations(monkeypatch):
    monkeypatch.setattr("vlls.optim.ivon._registry.EXECUTORS", [FusedCUDA, Foreach, SingleTensor])
    look = torch.get_rng_state if INTERPRETED else torch.cuda.get_rng_state
    before = look()
    weight = torch.nn.Parameter(torch.ones(9, device=DEVICE))
    optimizer = IVON([weight], lr=0.1, ess=10.0)
    assert _runs_on(weight.device)
    assert optimizer.executor.startswith("cuda triton") and optimizer.capturable
    assert torch.equal(look(), before)  # the trial used its own random numbers

    def missing():
        raise RuntimeError("no Triton")

    monkeypatch.setattr("vlls.optim.ivon._cuda._kernel", missing)
    _runs_on.cache_clear()
    assert optimizer.executor == ("single" if INTERPRETED else "foreach") and not optimizer.capturable
    optimizer.step(lambda: weight.sum().backward())
    with pytest.raises(RuntimeError, match="no Triton"):
        IVON([torch.nn.Parameter(torch.ones(9, device=DEVICE))], lr=0.1, ess=10.0, fused=True).step(lambda: None)
    _runs_on.cache_clear()


def test_tables_are_sent_again_only_if_something_has_changed(monkeypatch):
    params = [torch.nn.Parameter(torch.ones(5, device=DEVICE)) for _ in range(3)]
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

    gradient = torch.ones(5, device=DEVICE)
    step()
    (first, tables), (second, again) = step(), step()
    assert first == second and all(a is b for a, b in zip(tables, again, strict=True))
    gradient = torch.ones(5, device=DEVICE)
    assert step()[0] != second
    third = step()[0]
    optimizer.param_groups[1]["ess"] = 5.0
    assert step()[0] != third


@pytest.mark.skipif(INTERPRETED, reason="no GPU")
@pytest.mark.parametrize("how", ["context", "closure", "kept"])
def test_a_step_does_not_wait_for_the_gpu(how):
    """Not even if it sends new addresses of gradients and another learning rate."""
    params = [torch.nn.Parameter(torch.ones(n, device=DEVICE)) for n in SIZES]
    optimizer = IVON(params, lr=0.1, ess=10.0)
    held = []

    def closure():
        for p in params:
            p.grad = torch.ones_like(p)
            held.append(p.grad)  # so that the next one has another address

    def look():
        optimizer.param_groups[0]["lr"] *= 0.9
        torch.cuda.set_sync_debug_mode("error")

    try:
        take_steps(optimizer, closure, how, 3, after=look)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(INTERPRETED, reason="no GPU")
@pytest.mark.parametrize("how", ["context", "closure", "kept"])
def test_a_graph_s_replays_are_the_eager_steps_bit_for_bit(how):
    def train(captured):
        params = [torch.nn.Parameter(torch.linspace(-1, 1, n, device=DEVICE)) for n in SIZES]
        optimizer = IVON(params, lr=0.1, ess=10.0, beta2=0.9)
        grads = [torch.empty_like(p) for p in params]

        def closure():
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad.copy_(p.detach()).pow_(3)

        torch.cuda.manual_seed(5)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), optimizer.keep_sampled() if how == "kept" else nullcontext():
            steps = partial(take_steps, optimizer, closure, "closure" if how == "kept" else how)
            steps(3)
            if captured:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    steps(1)
            torch.cuda.manual_seed(7)
            for _ in range(4):
                graph.replay() if captured else steps(1)
        torch.cuda.synchronize()
        return vector([*params, *(optimizer.state[p]["hess"] for p in params)])

    assert np.array_equal(train(True), train(False))
