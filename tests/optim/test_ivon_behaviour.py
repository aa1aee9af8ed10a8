"""IVON in situations of real training, with every executor."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from ivon_problems import (
    EXECUTORS,
    backward,
    batch,
    cnn,
    executors,
    images,
    loss_of,
    mlp,
    state_of,
    train_step,
    weights,
)
from ivon_reference import ReferenceIVON

from vlls import IVON
from vlls.optim.ivon import _registry
from vlls.optim.ivon._tensors import SingleTensor


# ---------------------------------------------------------------------------------------------- persistence
@executors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_save_load_continue_is_bit_exact(executor, dtype, tmp_path):
    def make(model):
        return IVON(
            model.parameters(), lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(1), **EXECUTORS[executor]
        )

    data = batch(dtype=dtype)
    model = mlp(dtype)
    optimizer = make(model)
    for _ in range(3):
        train_step(model, optimizer, data)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    other = mlp(dtype, seed=9)
    resumed = make(other)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    for _ in range(4):
        assert torch.equal(train_step(model, optimizer, data), train_step(other, resumed, data))
    assert torch.equal(weights(model), weights(other))
    for name in ("momentum", "hess", "step"):
        assert torch.equal(state_of(model, optimizer, name), state_of(other, resumed, name))
    assert all(optimizer.state[p]["step"] == 7 for p in model.parameters())


def test_what_does_not_match_is_named_and_nothing_changes():
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0)
    train_step(model, optimizer, batch())
    before = copy.deepcopy(optimizer.state_dict())

    def broken(change):
        saved = copy.deepcopy(before)
        change(saved)
        return saved

    adam = torch.optim.Adam(mlp().parameters())
    cases = [
        (adam.state_dict(), "not saved by IVON"),
        ({"weights": 1}, "param_groups"),
        (broken(lambda s: s["param_groups"].append(s["param_groups"][0])), "2 parameter group"),
        (broken(lambda s: s["param_groups"][0]["params"].pop()), "3 parameters"),
        (broken(lambda s: s["state"][1].pop("hess")), r"parameter 1 of group 0 lacks \['hess'\]"),
        (broken(lambda s: s["state"][2].update(momentum=torch.zeros(5))), r"momentum of parameter 2.*\(5,\)"),
        (broken(lambda s: s["param_groups"][0].update(ess=0.5)), "ess=0.5"),
    ]
    for saved, message in cases:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(saved)
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for i, state in before["state"].items():
            assert all(torch.equal(after["state"][i][name], value) for name, value in state.items())


@executors
def test_deepcopy_and_pickle_go_on_alike(executor):
    model, data = mlp(), batch()
    generator = torch.Generator().manual_seed(4)
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, generator=generator, mc_samples=2, **EXECUTORS[executor])
    train_step(model, optimizer, data)
    for copied in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        model2, optimizer2 = copied((model, optimizer))
        assert optimizer2.mc_samples == 2 and optimizer2.fused == optimizer.fused
        for _ in range(2):
            train_step(model, optimizer, data, samples=2)
            train_step(model2, optimizer2, data, samples=2)
        assert torch.equal(weights(model), weights(model2))
        assert torch.equal(state_of(model, optimizer, "hess"), state_of(model2, optimizer2, "hess"))


# ---------------------------------------------------------------------------------------------- the mean
@executors
@pytest.mark.parametrize("leave", ["end", "raise", "return", "interrupt"])
@pytest.mark.parametrize("context", ["train", "predict", "kept", "closure"])
def test_the_mean_comes_back_bit_for_bit(executor, leave, context):
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    before = weights(model)
    addresses = [p.data_ptr() for p in model.parameters()]

    def body():
        assert not torch.equal(weights(model), before)
        if leave == "raise":
            raise ZeroDivisionError
        if leave == "interrupt":
            raise KeyboardInterrupt

    def run():
        if context == "closure":
            if leave in ("end", "return"):
                return  # a closure that returns lets the step move the mean
            optimizer.step(body)
        manager = {
            "train": lambda: optimizer.sampled_params(train=True),
            "predict": lambda: optimizer.sampled_params(train=False),
            "kept": optimizer.keep_sampled,
        }[context]
        with manager():
            body()
            if leave == "return":
                return

    if leave in ("raise", "interrupt"):
        with pytest.raises(ZeroDivisionError if leave == "raise" else KeyboardInterrupt):
            run()
    else:
        run()
    assert torch.equal(weights(model), before)
    assert addresses == [p.data_ptr() for p in model.parameters()]
    train_step(model, optimizer, batch())  # training can go on
    assert not torch.equal(weights(model), before)


@executors
def test_evaluation_between_steps_sees_the_mean(executor):
    """The network after a step has the mean's weights: two evaluations agree, also with the posterior's mean."""
    model, data = mlp(), batch()
    optimizer = IVON(model.parameters(), lr=0.1, ess=3.0, **EXECUTORS[executor])

    for _ in range(3):
        optimizer.step(lambda: backward(model, optimizer, data))
        once = model(data[0])
        with optimizer.sampled_params():
            assert not torch.equal(model(data[0]), once)
        assert torch.equal(model(data[0]), once)
        posterior = optimizer.posterior(model)
        assert torch.equal(torch.func.functional_call(model, posterior.mean, (data[0],)), once)


@executors
def test_in_place_channels_last_flat_views_and_tied_weights(executor):
    """Addresses, memory format and sharing survive; a flat buffer behind the parameters stays one buffer."""
    model = cnn().to(memory_format=torch.channels_last)
    model[0].weight = torch.nn.Parameter(torch.randn(6, 1, 3, 3).to(memory_format=torch.channels_last))
    wide = torch.nn.Parameter(torch.randn(8, 6, 3, 3).to(memory_format=torch.channels_last))
    flat = torch.randn(50)
    views = [torch.nn.Parameter(flat[:20].view(4, 5)), torch.nn.Parameter(flat[21:50])]
    tied = torch.nn.Linear(5, 5, bias=False)
    again = torch.nn.Linear(5, 5, bias=False)
    again.weight = tied.weight
    column = torch.nn.Parameter(torch.randn(6, 4)[:, 1])  # not dense
    params = [*model.parameters(), wide, *views, *torch.nn.Sequential(tied, again).parameters(), column]
    addresses = [p.data_ptr() for p in params]
    strides = [p.stride() for p in params]
    optimizer = IVON(params, lr=0.1, ess=30.0, **EXECUTORS[executor])
    gap = float(flat[20])

    def loss():
        out = loss_of(model, images()) + wide.square().sum() + sum(v.square().sum() for v in views)
        return out + again(tied(torch.ones(5))).square().sum() + column.square().sum()

    for _ in range(3):
        with optimizer.sampled_params(train=True):
            loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert addresses == [p.data_ptr() for p in params] and strides == [p.stride() for p in params]
    assert wide.is_contiguous(memory_format=torch.channels_last)
    assert float(flat[20]) == gap and torch.equal(flat[:20], views[0].detach().flatten())
    assert again.weight is tied.weight
    assert all(optimizer.state[p]["hess"].stride() == p.stride() for p in params if p is not column)


@executors
@pytest.mark.parametrize("channels", [4, 1])  # one channel: contiguous in both formats, with different strides
def test_memory_order_does_not_change_the_update(executor, channels):
    """The same perturbation and gradient give the same numbers in channels_last, whatever the gradient's order."""
    start, gradient = torch.randn(5, channels, 3, 3), torch.randn(5, channels, 3, 3)
    results = []
    for p_last, g_last in [(False, False), (True, True), (True, False), (False, True)]:
        form = torch.channels_last if p_last else torch.contiguous_format
        p = torch.nn.Parameter(start.clone().contiguous(memory_format=form))
        # the fused kernel makes noise in the order of memory, the others in that of the indices
        setting = {"ess": 1e12, "hess_approx": "gradsq"} if executor == "fused" else {"ess": 30.0}
        generator = torch.Generator().manual_seed(1)
        optimizer = IVON([p], lr=0.1, beta2=0.99, generator=generator, **setting, **EXECUTORS[executor])
        for _ in range(3):
            with optimizer.sampled_params(train=True):
                p.grad = gradient.clone().contiguous(
                    memory_format=torch.channels_last if g_last else torch.contiguous_format
                )
            optimizer.step()
        results.append((p.detach(), optimizer.state[p]["hess"]))
    for p, h in results[1:]:
        assert torch.allclose(p, results[0][0], rtol=1e-4, atol=1e-5) and torch.allclose(h, results[0][1], rtol=1e-5)


@executors
def test_two_parameters_on_the_same_memory_are_one(executor):
    """They are perturbed once and their gradients added, as if the Parameter itself were shared."""

    def run(shared):
        p = torch.nn.Parameter(torch.linspace(0, 1, 40))
        q = p if shared else torch.nn.Parameter(p.data)
        params = [p] if shared else [p, q]
        optimizer = IVON(params, lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(2), **EXECUTORS[executor])
        for _ in range(3):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                (p.square().sum() + (3 * q).sin().sum()).backward()
            optimizer.step()
        return p.detach()

    assert torch.allclose(run(True), run(False), rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------------------------------------- which parameters
@executors
def test_frozen_and_unused_parameters_stay(executor):
    model = mlp()
    unused = torch.nn.Parameter(torch.ones(7))
    frozen = model[0].weight.requires_grad_(False)
    optimizer = IVON([*model.parameters(), unused], lr=0.1, ess=3.0, weight_decay=0.5, **EXECUTORS[executor])
    before = frozen.clone()
    for how in ("context", "closure", "kept"):
        if how == "context":
            with optimizer.sampled_params(train=True):
                assert torch.equal(frozen, before)
                assert not torch.equal(unused, torch.ones(7))  # trainable, so it is sampled
                loss_of(model, batch()).backward()
            optimizer.step()
        elif how == "closure":
            optimizer.step(lambda: loss_of(model, batch()).backward())
        else:
            with optimizer.keep_sampled():
                seen = []
                for _ in range(3):
                    seen.append(unused.detach().clone())
                    loss_of(model, batch()).backward()
                    optimizer.step()
                assert not torch.equal(seen[1], seen[2])
        optimizer.zero_grad()
        assert torch.equal(frozen, before) and torch.equal(unused, torch.ones(7))
    assert frozen not in optimizer.state or not optimizer.state[frozen]
    assert optimizer.state[unused]["step"] == 0 and (optimizer.state[unused]["hess"] == 1.0).all()
    assert set(optimizer.posterior(model).mean) == {"0.bias", "2.weight", "2.bias"}


@executors
def test_experts_of_one_size_that_take_turns_while_samples_are_kept(executor):
    """The active expert's Hessian is learned from its own noise, not from the next sample of the idle one."""
    experts = [torch.nn.Parameter(torch.linspace(-1, 1, 50) + i) for i in range(2)]
    given = {"lr": 0.05, "ess": 30.0, "hess_init": 0.5, "weight_decay": 1e-2, "beta2": 0.9}
    optimizer = IVON(experts, **given, **EXECUTORS[executor])
    twins = [ReferenceIVON(expert.detach().double().numpy(), **given) for expert in experts]
    with optimizer.keep_sampled():
        for step in range(8):
            expert, twin = experts[step // 2 % 2], twins[step // 2 % 2]
            sample = expert.detach().double().numpy()
            expert.pow(4).sum().backward()
            twin.step([(sample, expert.grad.double().numpy())])
            optimizer.step()
            optimizer.zero_grad()
    for expert, twin in zip(experts, twins, strict=True):
        state = optimizer.state[expert]
        assert twin.error(expert.detach(), state["momentum"], state["hess"]) < 1e-4


# ---------------------------------------------------------------------------------------------- dtypes, devices
@executors
def test_mixed_dtypes_in_one_optimizer(executor):
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float32]
    params = [torch.nn.Parameter(torch.linspace(-1, 1, 50 + i).to(d)) for i, d in enumerate(dtypes)]
    optimizer = IVON(params, lr=0.05, ess=100.0, **EXECUTORS[executor])
    for _ in range(200):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            sum((p.double() - 0.25).square().sum() for p in params).backward()
        optimizer.step()
    for p, dtype in zip(params, dtypes, strict=True):
        assert p.dtype == dtype
        assert optimizer.state[p]["hess"].dtype == torch.promote_types(dtype, torch.float32)
        assert (p.double() - 0.25).abs().max() < 0.1


@executors
def test_bfloat16_curvature_moves_and_small_steps_add_up(executor):
    """In bfloat16 a Hessian near 1 could not change by 1e-5 a step, nor the mean by 1e-4."""
    p = torch.nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
    optimizer = IVON([p], lr=1e-4, ess=1e4, hess_init=1.0, beta2=0.999, weight_decay=0.0, **EXECUTORS[executor])
    for _ in range(300):
        with optimizer.sampled_params(train=True):
            p.grad = (3.0 * (p.detach().float() - 1.0) + 0.05).bfloat16()  # a quadratic loss of curvature 3
        optimizer.step()
    expected = 3.0 - 2.0 * 0.999**300
    assert abs(optimizer.state[p]["hess"].mean() - expected) < 0.05
    mean = optimizer.state[p]["mean"].mean()
    assert 0.9985 < mean < 0.9995  # half of bfloat16's resolution below 1 is 0.998
    assert abs(p.float().mean() - 1.0) < 4e-3


def test_bfloat16_weights_loaded_from_outside_become_the_mean():
    p = torch.nn.Parameter(torch.ones(40, dtype=torch.bfloat16))
    optimizer = IVON([p], lr=0.1, ess=1e9)
    with optimizer.sampled_params():
        pass
    with torch.no_grad():
        p[:20] = 5.0
    with optimizer.sampled_params():
        assert (p[:20] > 4.5).all() and (p[20:] < 1.5).all()
    assert (p[:20] == 5.0).all() and (p[20:] == 1.0).all()


@executors
def test_late_move_to_another_dtype_or_layout(executor):
    """model.to(...) after some steps: the state follows, whatever the move."""
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    train_step(model, optimizer, batch())
    before = state_of(model, optimizer, "hess")
    model.double()
    train_step(model, optimizer, batch(dtype=torch.float64))
    for p in model.parameters():
        assert optimizer.state[p]["hess"].dtype == torch.float64
    assert (state_of(model, optimizer, "hess") - before).abs().max() < 0.1
    assert all(optimizer.state[p]["step"] == 2 for p in model.parameters())
    image = cnn()
    optimizer = IVON(image.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    train_step(image, optimizer, images())
    image.to(memory_format=torch.channels_last)
    train_step(image, optimizer, images())
    assert torch.isfinite(weights(image)).all()


# ---------------------------------------------------------------------------------------------- executors
def test_an_executor_is_a_class_and_an_entry_of_the_table(monkeypatch):
    """It takes the parameters that it supports before later executors; runs are recorded under its label."""

    class Mine(SingleTensor):
        drawn = 0

        @classmethod
        def supports(cls, param):
            return param.ndim == 2

        @classmethod
        def label(cls):
            return "mine 1.0"

        def draw(self, states, generator):
            Mine.drawn += len(states)
            super().draw(states, generator)

    monkeypatch.setattr(_registry, "EXECUTORS", [Mine, *_registry.EXECUTORS])
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, fused=False)
    assert optimizer.executor == "mine 1.0, single" and not optimizer.capturable
    train_step(model, optimizer, batch())
    assert Mine.drawn == 2


@executors
def test_the_executor_is_named(executor):
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, dtype=torch.float64))]
    optimizer = IVON(params[:1], lr=0.1, ess=30.0, **EXECUTORS[executor])
    assert optimizer.capturable == (executor == "fused")
    assert re.fullmatch(r"cpu ivon-[0-9a-f]{16}" if executor == "fused" else executor, optimizer.executor)
    optimizer.add_param_group({"params": params[1:]})
    assert executor != "fused" or optimizer.executor.endswith(", single")


# ---------------------------------------------------------------------------------------------- groups
@executors
def test_groups_with_their_own_hyperparameters_and_late_ones(executor):
    dtype = torch.float32 if executor == "fused" else torch.float64
    params = [torch.nn.Parameter(torch.linspace(-1, 1, 30, dtype=dtype)) for _ in range(3)]
    own = [
        {"lr": 0.1, "ess": 30.0, "hess_init": 0.5, "weight_decay": 1e-3, "beta1": 0.9},
        {"lr": 0.02, "ess": 200.0, "hess_init": 2.0, "weight_decay": 0.1, "beta1": 0.5},
        {"lr": 0.05, "ess": 60.0, "hess_init": 0.1, "weight_decay": 0.0, "beta1": 0.0},
    ]
    optimizer = IVON(
        [{"params": [params[0]], **own[0]}, {"params": [params[1]], **own[1]}], lr=1.0, ess=1.0, **EXECUTORS[executor]
    )
    references = [ReferenceIVON(p.detach().numpy(), **o) for p, o in zip(params, own, strict=True)]
    for step in range(12):
        if step == 5:
            optimizer.add_param_group({"params": [params[2]], **own[2]})
        active = params[: 2 if step < 5 else 3]
        seen = []
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            sum((p**4).sum() for p in active).backward()
            seen = [(p.detach().double().numpy().copy(), p.grad.double().numpy().copy()) for p in active]
        optimizer.step()
        for reference, sample in zip(references, seen, strict=False):
            reference.step([sample])
    tolerance = 1e-11 if dtype == torch.float64 else 3e-5
    for p, reference in zip(params, references, strict=True):
        assert np.abs(p.detach().double().numpy() - reference.m).max() < tolerance


# ---------------------------------------------------------------------------------------------- generators
@executors
def test_a_generator_makes_it_reproducible_and_leaves_the_global_one(executor):
    def run():
        model = mlp()
        generator = torch.Generator().manual_seed(11)
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, generator=generator, **EXECUTORS[executor])
        for _ in range(3):
            train_step(model, optimizer, batch())
        return weights(model)

    first = run()
    before = torch.get_rng_state()
    model = mlp()
    state = torch.get_rng_state()
    optimizer = IVON(
        model.parameters(), lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(11), **EXECUTORS[executor]
    )
    for _ in range(3):
        train_step(model, optimizer, batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, weights(model))
    torch.set_rng_state(before)
