"""SAM under a GradScaler, as its docstring shows: an overflow in either half skips the step and lowers the scale."""

import warnings

import pytest
import torch
from sam_problems import closure_of, network, same, values
from sklearn.datasets import load_digits
from torch.nn import functional as F

from vlls import SAM
from vlls.optim._sam import SKIPS


def digits():
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


def mlp():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def train(scale=None, epochs=12, corrupt=None):
    """Return accuracy and scale after training; ``corrupt(step, half, model)`` may change the gradients."""
    x, y, test_x, test_y = digits()
    model = mlp()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    half = torch.autocast("cpu", torch.float16, enabled=scale is not None)
    order = torch.Generator().manual_seed(1)
    step = 0
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=order).split(100):
            for update in (optimizer.first_step, optimizer.second_step):
                with half:
                    loss = F.cross_entropy(model(x[part]), y[part])
                scaler.scale(loss).backward()
                if corrupt is not None:
                    corrupt(step, update.__name__, model)
                if scale is not None:
                    scaler.unscale_(optimizer)
                update(zero_grad=True)
                if scale is not None:
                    scaler.update()
            step += 1
    with torch.no_grad():
        return (model(test_x).argmax(1) == test_y).double().mean().item(), scaler.get_scale(), model


@pytest.mark.parametrize("scale", [2.0**16, 2.0**24])
def test_a_scale_far_too_large_ends_where_float32_does(scale):
    plain, _, _ = train()
    scaled, found, model = train(scale)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert plain > 0.93
    error = (2 * plain * (1 - plain) / 597) ** 0.5  # standard error of the difference, for 597 test images
    assert abs(scaled - plain) < 3 * error
    assert found < scale or scale == 2.0**16


@pytest.mark.parametrize("half", ["first_step", "second_step"])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_an_overflow_in_one_half_changes_nothing_but_the_scale(half, bad):
    def spoil(step, name, model):
        if step == 3 and name == half:
            model[0].weight.grad[0, 0] = bad

    x, y, *_ = digits()
    model = mlp()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step in range(5):
        before = [p.detach().clone() for p in model.parameters()]
        momenta = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
        scale = scaler.get_scale()
        for update in (optimizer.first_step, optimizer.second_step):
            scaler.scale(F.cross_entropy(model(x[:100]), y[:100])).backward()
            spoil(step, update.__name__, model)
            scaler.unscale_(optimizer)
            update(zero_grad=True)
            scaler.update()
        assert same(list(model.parameters()), before) == (step == 3)
        if step == 3:
            assert same([state["momentum_buffer"] for state in optimizer.state.values()], momenta)
        assert scaler.get_scale() == (scale / 2 if step == 3 else scale)


def test_a_skipped_step_is_as_if_it_had_not_been():
    """Also with a closure; all other steps are those of a run without the skipped one."""

    def run(bad_step):
        model = network()
        optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
        plain = closure_of(model, optimizer)
        for step in range(4 + (bad_step is not None)):
            calls = []

            def closure(step=step, calls=calls):
                loss = plain()
                calls.append(loss)
                if step == bad_step and len(calls) == 2:
                    model[0].bias.grad.fill_(float("inf"))
                return loss

            optimizer.step(closure)
        return values(model)

    assert same(run(None), run(2))


def test_finite_gradients_as_large_as_float32_holds_are_no_overflow():
    theta = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = SAM([theta], torch.optim.SGD, rho=1.0, lr=1e-38)
    theta.grad = torch.full((2,), 2e38)
    optimizer.first_step()
    assert torch.allclose(theta, torch.tensor([1.0, -2.0]) + 0.5**0.5)
    theta.grad = torch.full((2,), 2e38)
    optimizer.second_step()
    assert torch.allclose(theta, torch.tensor([-1.0, -4.0]))


def test_skipping_for_ever_is_said_once():
    theta = torch.nn.Parameter(torch.ones(2))
    optimizer = SAM([theta], torch.optim.SGD, lr=0.1)

    def closure():
        theta.grad = torch.full((2,), float("nan"))
        return 0.0

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3 * SKIPS):
            optimizer.step(closure)
    (warning,) = caught
    assert f"{SKIPS} steps in a row" in str(warning.message)
    assert torch.equal(theta, torch.ones(2))


@pytest.mark.parametrize(
    "dtype, rho, lost", [(torch.bfloat16, 0.05, True), (torch.bfloat16, 5.0, False), (torch.float32, 0.05, False)]
)
def test_a_perturbation_below_the_resolution_is_said(dtype, rho, lost):
    theta = torch.nn.Parameter((1 + torch.rand(2000, generator=torch.Generator().manual_seed(0))).to(dtype))
    optimizer = SAM([theta], torch.optim.SGD, rho=rho, lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            theta.grad = torch.ones_like(theta)
            optimizer.first_step()
            optimizer.second_step()
    assert len(caught) == lost
    assert not lost or "only 0.0% of the weights in torch.bfloat16 have changed" in str(caught[0].message)
