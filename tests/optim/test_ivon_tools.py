"""IVON with torch's other tools: GradScaler, accumulation over batches, BatchNorm and others."""

import math

import pytest
import torch
from ivon_problems import EXECUTORS, batch, cnn, executors, images, loss_of, mlp, state_of, train_step, weights
from torch.nn import functional as F

import vlls
from vlls import IVON
from vlls.optim import alg1


# ---------------------------------------------------------------------------------------------- GradScaler
@executors
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
def test_grad_scaler_unscales_and_skips_without_a_trace(executor, unscale, samples, hess_approx):
    def run(scaled):
        model, data = mlp(), batch()
        generator = torch.Generator().manual_seed(1)
        optimizer = IVON(
            model.parameters(), lr=0.1, ess=30.0, beta2=0.9, hess_approx=hess_approx, generator=generator,
            **EXECUTORS[executor],
        )  # fmt: skip
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2, enabled=scaled)
        for step in range(5):
            broken = scaled and step == 2
            state = generator.get_state()
            for attempt in range(2 if broken else 1):
                generator.set_state(state)
                before = weights(model)
                for _ in range(samples):
                    with optimizer.sampled_params(train=True):
                        optimizer.zero_grad()
                        loss = loss_of(model, data)
                        scaler.scale(loss).backward()
                        if broken and attempt == 0:
                            model[0].weight.grad[1, 2] = math.inf
                if unscale:
                    scaler.unscale_(optimizer)
                    if not (broken and attempt == 0):
                        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                scaler.step(optimizer)
                scaler.update()
                if broken and attempt == 0:
                    assert torch.equal(weights(model), before)
                    assert all(optimizer.state[p]["step"] == step for p in model.parameters())
        return weights(model), state_of(model, optimizer, "hess")

    if unscale:  # the plain run clips too
        torch.testing.assert_close(run(True), run(False), rtol=2e-4, atol=2e-6)
    else:
        torch.testing.assert_close(run(True), run(False), rtol=2e-5, atol=2e-7)


@executors
@pytest.mark.parametrize("samples", [1, 2])
def test_gradient_clipping_after_the_context_reaches_the_step(executor, samples):
    model, data = mlp(), batch()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, beta1=0.0, **EXECUTORS[executor])
    for _ in range(samples):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            loss_of(model, data).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    assert abs(state_of(model, optimizer, "momentum").norm() - 1e-3) < 1e-6


@executors
def test_half_precision_gradients_are_unscaled_in_float32(executor):
    """float16 represents a gradient of 1e-7 badly; scaled by 2^16 it is exact enough."""
    p = torch.nn.Parameter(torch.ones(50, dtype=torch.float16))
    optimizer = IVON([p], lr=0.1, ess=10.0, beta1=0.0, **EXECUTORS[executor])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    with optimizer.sampled_params(train=True):
        scaler.scale((p.float() * 1e-7).sum()).backward()
    scaler.step(optimizer)
    assert torch.allclose(optimizer.state[p]["momentum"], torch.tensor(1e-7), rtol=1e-3)


# ---------------------------------------------------------------------------------------------- accumulation
@executors
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
def test_micro_batches_in_one_context_equal_the_full_batch(executor, hess_approx):
    x, y = batch(40)

    def run(parts):
        model = mlp()
        optimizer = IVON(
            model.parameters(), lr=0.1, ess=40.0, beta2=0.9, hess_approx=hess_approx,
            generator=torch.Generator().manual_seed(1), **EXECUTORS[executor],
        )  # fmt: skip
        for _ in range(4):
            with optimizer.sampled_params(train=True):
                for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                    (loss_of(model, (a, b)) / parts).backward()
            optimizer.step()
            optimizer.zero_grad()
        return weights(model), state_of(model, optimizer, "hess")

    torch.testing.assert_close(run(4), run(1), rtol=2e-5, atol=2e-7)


@executors
@pytest.mark.parametrize("zero", ["inside", "before", "never", "module"])
def test_several_contexts_average_and_equal_the_full_batch_at_equal_noise(executor, zero):
    """Gradients of contexts are averaged wherever zero_grad() stands; with the same noise in each, four micro-batches
    in four contexts are the full batch, gradient and curvature."""
    x, y = batch(40)

    def run(parts):
        model = mlp()
        generator = torch.Generator()
        optimizer = IVON(model.parameters(), lr=0.1, ess=40.0, beta2=0.9, generator=generator, **EXECUTORS[executor])
        for step in range(4):
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                generator.manual_seed(step)
                if zero == "before":
                    optimizer.zero_grad()
                if zero == "module":
                    model.zero_grad()
                with optimizer.sampled_params(train=True):
                    if zero == "inside":
                        optimizer.zero_grad(set_to_none=False)
                    loss_of(model, (a, b)).backward()
            optimizer.step()
            optimizer.zero_grad()
        return weights(model), state_of(model, optimizer, "hess")

    torch.testing.assert_close(run(4), run(1), rtol=2e-5, atol=2e-7)


@executors
def test_a_prediction_between_sample_and_step_changes_nothing(executor):
    def run(predict):
        model, data = mlp(), batch()
        generator = torch.Generator()
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, beta2=0.9, generator=generator, **EXECUTORS[executor])
        for step in range(3):
            generator.manual_seed(step)
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss_of(model, data).backward()
            if predict:
                vlls.predict(model, optimizer, data[0], num_samples=2)
            optimizer.step()
        return weights(model), state_of(model, optimizer, "hess")

    torch.testing.assert_close(run(True), run(False), rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("set_to_none", [True, False])
@executors
def test_zero_grad_before_the_step_keeps_the_sample(executor, set_to_none):
    def run(zero):
        model = mlp()
        generator = torch.Generator().manual_seed(1)
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, generator=generator, **EXECUTORS[executor])
        for _ in range(2):
            with optimizer.sampled_params(train=True):
                loss_of(model, batch()).backward()
            if zero:
                optimizer.zero_grad(set_to_none)
            optimizer.step()
            optimizer.zero_grad(set_to_none)
        return weights(model)

    torch.testing.assert_close(run(True), run(False), rtol=2e-5, atol=2e-7)


# ---------------------------------------------------------------------------------------------- BatchNorm
@executors
def test_batch_norm_statistics_untouched_by_predictive_sampling(executor):
    model, data = cnn().train(), images()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    train_step(model, optimizer, data)
    before = {name: b.clone() for name, b in model.named_buffers()}
    with optimizer.sampled_params(train=False):
        model(data[0])
    assert vlls.predict(model, optimizer, data[0], num_samples=3).shape == (30, 4)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert model.training and all(module.training for module in model.modules())
    train_step(model, optimizer, data)
    assert int(model[1].num_batches_tracked) == 2


# ---------------------------------------------------------------------------------------------- other tools
@executors
def test_schedulers_and_tensor_learning_rates(executor):
    """A scheduler changes the step; a learning rate held in a tensor is read at each step."""

    def run(lr, schedule):
        model = mlp()
        optimizer = IVON(
            model.parameters(), lr=lr, ess=30.0, generator=torch.Generator().manual_seed(1), **EXECUTORS[executor]
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        for _ in range(4):
            train_step(model, optimizer, batch())
            if schedule:
                scheduler.step()
        return weights(model)

    torch.testing.assert_close(run(torch.tensor(0.1), True), run(0.1, True), rtol=1e-5, atol=1e-7)
    assert not torch.equal(run(0.1, True), run(0.1, False))
    start = weights(mlp())
    assert torch.equal(run(0.0, True), start)


def test_one_cycle_scheduler_writes_beta1():
    """OneCycleLR looks for 'momentum' or 'betas'; with cycle_momentum=False it works."""
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=5, cycle_momentum=False)
    for _ in range(4):
        train_step(model, optimizer, batch())
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] != 0.1


def test_a_lightning_style_closure():
    """The trainer's closure: forward, zero_grad, backward, run inside optimizer.step, loss returned through it."""
    model, data = mlp(), batch()
    optimizer = IVON(model.parameters(), lr=0.2, ess=30.0, mc_samples=2)
    calls = []

    class Closure:
        def __call__(self):
            loss = loss_of(model, data)
            optimizer.zero_grad()
            loss.backward()
            calls.append(float(loss.detach()))
            return loss.detach()

    losses = [float(optimizer.step(closure=Closure())) for _ in range(30)]
    assert len(calls) == 60 and losses[0] == pytest.approx(sum(calls[:2]) / 2)
    assert losses[-1] < losses[0]


def test_a_closure_that_returns_nothing_takes_the_same_steps():
    def run(told):
        model, data = mlp(), batch()
        generator = torch.Generator().manual_seed(1)
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, mc_samples=3, generator=generator)

        def closure():
            optimizer.zero_grad()
            loss = loss_of(model, data)
            loss.backward()
            return loss if told else None

        returned = optimizer.step(closure)
        assert (returned is None) != told
        return weights(model)

    assert torch.equal(run(True), run(False))


@pytest.mark.slow
def test_torch_compile_of_model_and_of_the_whole_step():
    def run(compiled):
        torch._dynamo.reset()
        model, data = mlp(), batch()
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(1))
        forward = torch.compile(model, backend="aot_eager") if compiled else model

        def step():
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                F.cross_entropy(forward(data[0]), data[1]).backward()
            optimizer.step()

        run_step = torch.compile(step, backend="eager") if compiled == "whole" else step
        for _ in range(4):
            run_step()
        return weights(model)

    torch.testing.assert_close(run("model"), run(False), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(run("whole"), run(False), rtol=1e-5, atol=1e-7)


def test_the_pure_update_compiles_into_one_graph():
    torch._dynamo.reset()
    args = [torch.rand(100) + 0.5 for _ in range(5)]
    given = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01, "bias_correction": 0.3, "clip_radius": 2.0}
    compiled = torch.compile(alg1.ivon_update, backend="aot_eager", fullgraph=True)
    for fast, plain in zip(compiled(*args, **given), alg1.ivon_update(*args, **given), strict=True):
        torch.testing.assert_close(fast, plain)
