"""IVON's errors: each names the argument, its value, the allowed values and the remedy; nothing changes."""

import math
from contextlib import nullcontext

import pytest
import torch
from ivon_problems import EXECUTORS, batch, executors, loss_of, mlp, train_step, unbuilt, weights

import vlls
from vlls import IVON
from vlls.optim.ivon import _cpu, _state, _tensors


def test_step_without_a_sample_says_what_to_call():
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0)
    with pytest.raises(RuntimeError, match=r"sampled_params\(train=True\).*step\(closure\)"):
        optimizer.step()
    with optimizer.sampled_params():  # a sample for prediction, not for training
        loss_of(model, batch()).backward()
    with pytest.raises(RuntimeError, match="no sample to learn from"):
        optimizer.step()
    train_step(model, optimizer, batch())
    with pytest.raises(RuntimeError, match="no sample to learn from"):
        optimizer.step()


@executors
@pytest.mark.parametrize("backward_at", ["the mean", "the mean after a step", "another sample", "the next kept sample"])
def test_a_backward_pass_away_from_the_sample_of_its_loss_is_refused(executor, backward_at):
    """It would use the current weights instead of the forward pass's, and give wrong gradients silently."""
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    if backward_at == "the next kept sample":
        with optimizer.keep_sampled():
            loss = loss_of(model, batch())
            loss.backward(retain_graph=True)
            optimizer.step()
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
        return
    with optimizer.sampled_params(train=True):
        loss = loss_of(model, batch())
        loss.backward(retain_graph=True)
    if backward_at == "the mean after a step":
        optimizer.step()
    with optimizer.sampled_params() if backward_at == "another sample" else nullcontext():
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_closure_is_refused_while_a_sample_waits_which_is_still_there_afterwards():
    """With an empty closure, such as Lightning's, it would learn from another sample than the gradient's."""
    models = [mlp(), mlp()]
    for model, interrupted in zip(models, (True, False), strict=True):
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(3))
        with optimizer.sampled_params(train=True):
            loss_of(model, batch()).backward()
        if interrupted:
            with pytest.raises(RuntimeError, match="a gradient of sampled_params.* waits"):
                optimizer.step(lambda: None)
        optimizer.step()
    assert all(map(torch.equal, weights(models[0]), weights(models[1])))


def test_calls_inside_a_sample_are_refused_and_change_nothing():
    model, data = mlp(), batch()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0)
    saved = optimizer.state_dict()
    for outer in (lambda: optimizer.sampled_params(train=True), optimizer.sampled_params, optimizer.keep_sampled):
        before = weights(model)
        with outer():
            inside = weights(model)
            for call in (
                lambda: optimizer.sampled_params().__enter__(),
                lambda: optimizer.keep_sampled().__enter__(),
                lambda: optimizer.posterior(model),
                lambda: optimizer.state_dict(),
                lambda: optimizer.load_state_dict(saved),
                lambda: optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]}),
                lambda: vlls.predict(model, optimizer, data[0]),
            ):
                with pytest.raises(RuntimeError, match="while the parameters hold a sample"):
                    call()
            if outer != optimizer.keep_sampled:
                for arguments in ((), (lambda: loss_of(model, data),)):
                    with pytest.raises(RuntimeError, match="while the parameters hold a sample"):
                        optimizer.step(*arguments)
            assert torch.equal(weights(model), inside)
        assert torch.equal(weights(model), before)
    with pytest.raises(RuntimeError, match="samples by itself"):
        optimizer.step(lambda: train_step(model, optimizer, data))
    assert torch.equal(weights(model), before)
    assert len(optimizer.param_groups) == 1


BAD = [
    ({"lr": -0.1}, r"lr=-0.1 is outside \[0, inf\)"),
    ({"lr": math.nan}, "lr=nan"),
    ({"lr": math.inf}, "lr=inf"),
    ({"lr": "fast"}, "lr='fast'"),
    ({"ess": 0.5}, r"ess=0.5 is outside \[1, 1e\+30\]; use the number of training examples"),
    ({"ess": -3}, "ess=-3"),
    ({"ess": 1e38}, r"ess=1e\+38 is outside \[1, 1e\+30\]"),  # float32 ends there
    ({"ess": math.inf}, "ess=inf"),
    ({"hess_init": 0.0}, r"hess_init=0.0 is outside \(0, inf\)"),
    ({"hess_init": -1.0}, "hess_init=-1.0"),
    ({"beta1": 1.0}, r"beta1=1.0 is outside \[0, 1\)"),
    ({"beta1": -0.1}, "beta1=-0.1"),
    ({"beta2": 1.01}, r"beta2=1.01 is outside \[0, 1\]"),
    ({"beta2": -0.5}, "beta2=-0.5"),
    ({"weight_decay": -1e-4}, "weight_decay=-0.0001"),
    ({"clip_radius": 0.0}, r"clip_radius=0.0 is outside \(0, inf\]"),
    ({"hess_clip": 0.0}, r"hess_clip=0.0 is outside \(0, inf\]; 100 cuts outliers off, math.inf nothing"),
    ({"hess_clip": -1}, "hess_clip=-1"),
    ({"hess_clip": math.nan}, "hess_clip=nan"),
    ({"hess_every": 0}, "hess_every=0 is not allowed; choose a whole number >= 1"),
    ({"hess_every": 2.5}, "hess_every=2.5"),
    ({"hess_every": True}, "hess_every=True"),
    ({"hess_approx": "fisher"}, "hess_approx='fisher' is unknown; choose 'price' or 'gradsq'"),
    ({"mc_samples": 0}, "mc_samples=0"),
    ({"mc_samples": 1.5}, "mc_samples=1.5"),
    ({"generator": 3}, "generator=3"),
    ({"foreach": True, "fused": True}, "exclude each other"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:30])
def test_hyperparameters_out_of_range(arguments, message):
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=message):
        IVON([p], **{"lr": 0.1, "ess": 10.0, **arguments})
    optimizer = IVON([p], lr=0.1, ess=10.0)
    if not {"mc_samples", "generator", "foreach"} & arguments.keys():
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], **arguments})
        assert len(optimizer.param_groups) == 1


def test_parameters_that_cannot_be_optimized():
    for params in ([], iter([]), [{"params": []}]):
        with pytest.raises(ValueError, match=r"params is empty; pass model.parameters\(\)"):
            IVON(params, lr=0.1, ess=10.0)
    bad = [
        (torch.ones(3, dtype=torch.complex64, requires_grad=True), r"params\[1\].*complex64"),
        (torch.ones(3, dtype=torch.int64), r"params\[1\].*int64"),
        (torch.eye(3).to_sparse().requires_grad_(), r"params\[1\].*sparse"),
    ]
    for tensor, message in bad:
        with pytest.raises(ValueError, match=message):
            IVON([torch.ones(2, requires_grad=True), tensor], lr=0.1, ess=10.0)


@executors
def test_sparse_gradients_are_refused_and_nothing_changes(executor):
    embedding = torch.nn.Embedding(10, 4, sparse=True)
    optimizer = IVON(embedding.parameters(), lr=0.1, ess=10.0, **EXECUTORS[executor])
    before = embedding.weight.detach().clone()
    with (
        pytest.raises(RuntimeError, match=r"sparse=False in torch\.nn\.Embedding"),
        optimizer.sampled_params(train=True),
    ):
        embedding(torch.tensor([1, 2])).sum().backward()
    assert torch.equal(embedding.weight, before)
    with pytest.raises(RuntimeError, match="only dense gradients are allowed"):
        optimizer.step(lambda: embedding(torch.tensor([1, 2])).sum().backward())
    assert torch.equal(embedding.weight, before)
    with pytest.raises(RuntimeError, match="no sample"):
        optimizer.step()
    assert optimizer.state[embedding.weight]["step"] == 0


@executors
def test_a_draw_that_fails_or_is_interrupted_midway_leaves_the_mean(executor, monkeypatch):
    """After a lack of memory for the second parameter's mean, or an interrupt, weights and state are unchanged."""

    def attempt(error):
        before = weights(model)
        with pytest.raises(error), optimizer.sampled_params(train=True):
            raise AssertionError("the block must not run")
        assert torch.equal(weights(model), before)

    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    read = _state.Scratch.__get__

    def no_memory(self, state, owner=None):
        if state.param is model[2].weight:
            raise MemoryError
        return read(self, state, owner)

    with monkeypatch.context() as patch:
        patch.setattr(_state.Scratch, "__get__", no_memory)
        attempt(MemoryError)
    if executor != "fused":  # the kernel's call cannot be interrupted
        noise = _tensors.posterior_noise if executor == "single" else torch._foreach_add_
        calls = []

        def interrupted(*args, **kwargs):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return noise(*args, **kwargs)

        with monkeypatch.context() as patch:
            if executor == "single":
                patch.setattr(_tensors, "posterior_noise", interrupted)
            else:
                patch.setattr(torch, "_foreach_add_", interrupted)
            attempt(KeyboardInterrupt)
    train_step(model, optimizer, batch())


def test_fused_without_a_compiler_says_so(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(_cpu, "KERNEL", unbuilt(_cpu.KERNEL))
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(RuntimeError, match="fused=True needs a C compiler .* or leave fused out"):
        IVON([p], lr=0.1, ess=10.0, fused=True).step(lambda: p.sum().backward())
    assert torch.equal(p.detach(), torch.ones(3))
