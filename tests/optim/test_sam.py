"""SAM against its definition; the two calls and their order; BatchNorm."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from sam_problems import ADAMW, SGD, closure_of, data, groups_of, network, quadratic, same, values
from torch import nn

from vlls.optim._sam import SAM


# ---------------------------------------------------------------------- the definition
def reference(base, adaptives, rhos, steps):
    """Return the weights after SAM in float64, entry by entry by its definition, with SGD and AdamW written out."""
    model = network()
    inputs, targets = data()
    names = [name for name, _ in model.named_parameters()]
    theta = {name: p.detach().clone() for name, p in model.named_parameters()}
    first, second = ({name: torch.zeros_like(v) for name, v in theta.items()} for _ in range(2))

    def gradient(at):
        at = {name: v.clone().requires_grad_() for name, v in at.items()}
        loss = (torch.func.functional_call(model, at, inputs) - targets).square().mean()
        return dict(zip(names, torch.autograd.grad(loss, list(at.values())), strict=True))

    for t in range(1, steps + 1):
        g = gradient(theta)
        total = 0.0
        for name, adaptive in zip(names, adaptives, strict=True):
            for value, slope in zip(theta[name].flatten().tolist(), g[name].flatten().tolist(), strict=True):
                total += (abs(value) * slope if adaptive else slope) ** 2
        moved = {}
        for name, adaptive, rho in zip(names, adaptives, rhos, strict=True):
            moved[name] = theta[name] + rho * (theta[name] ** 2 if adaptive else 1) * g[name] / math.sqrt(total)
        g = gradient(moved)
        for name in names:
            if base is SGD:
                slope = g[name] + 0.01 * theta[name]
                first[name] = 0.9 * first[name] + slope
                theta[name] = theta[name] - 0.05 * first[name]
            else:
                first[name] = 0.9 * first[name] + 0.1 * g[name]
                second[name] = 0.999 * second[name] + 0.001 * g[name] ** 2
                ratio = first[name] / (1 - 0.9**t) / ((second[name] / (1 - 0.999**t)).sqrt() + 1e-8)
                theta[name] = theta[name] * (1 - 0.02 * 0.1) - 0.02 * ratio
    return list(theta.values())


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("base", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_several_steps_are_the_definition(base, adaptive, foreach):
    model = network()
    optimizer = SAM(model.parameters(), rho=0.2, adaptive=adaptive, foreach=foreach, **base)
    losses = [float(optimizer.step(closure_of(model, optimizer)).detach()) for _ in range(5)]
    for ours, theirs in zip(model.parameters(), reference(base, [adaptive] * 4, [0.2] * 4, 5), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("base", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_each_group_has_its_rho_and_adaptive_under_one_norm(base, foreach):
    model = network()
    optimizer = SAM(groups_of(model), rho=0.05, foreach=foreach, **base)
    for _ in range(5):
        optimizer.step(closure_of(model, optimizer))
    expected = reference(base, [True, True, False, False], [0.3, 0.3, 0.05, 0.05], 5)
    for ours, theirs in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("dtypes", [["float32"], ["bfloat16"], ["float64", "bfloat16", "float32", "bfloat16"]])
def test_both_paths_agree_and_round_once(dtypes, adaptive):
    """The moved parameter is the float64 result rounded to its dtype, within a unit in the last place.

    A float64 parameter beside float32 ones shares their norm, which is summed in float32.
    """
    dtypes = [getattr(torch, name) for name in dtypes]
    start = [torch.randn(5, 3).to(dtype) for dtype in dtypes]
    grads = [torch.randn(5, 3).to(dtype) for dtype in dtypes]
    weighted = [(p.double().abs() if adaptive else 1) * g.double() for p, g in zip(start, grads, strict=True)]
    norm = torch.cat([w.flatten() for w in weighted]).square().sum().sqrt()
    moved = []
    for foreach in (False, True):
        params = [nn.Parameter(p.clone()) for p in start]
        optimizer = SAM(params, torch.optim.SGD, rho=0.7, adaptive=adaptive, foreach=foreach)
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.first_step()
        moved.append([p.detach().clone() for p in params])
        optimizer.base_optimizer.param_groups[0]["lr"] = 0.0
        optimizer.second_step()
        assert same(params, start)
    assert same(*moved)
    for p, w, after in zip(start, weighted, moved[0], strict=True):
        expected = p.double() + 0.7 * (p.double().abs() if adaptive else 1) * w / norm
        eps = (
            torch.finfo(p.dtype).eps
            if len(dtypes) == 1 or p.dtype == torch.bfloat16
            else torch.finfo(torch.float32).eps
        )
        rtol, atol = (0.51 * eps, 0.0) if p.dtype == torch.bfloat16 else (2 * eps, 2 * eps)
        assert torch.allclose(after.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gradients_whose_squares_leave_float32(scale):
    """Only the direction counts: a norm accumulated in float32 would be zero or infinite."""
    for foreach in (False, True):
        theta = nn.Parameter(torch.tensor([1.0, 1.0]))
        optimizer = SAM([theta], torch.optim.SGD, rho=0.5, foreach=foreach)
        theta.grad = torch.tensor([3.0, 4.0]) * scale
        optimizer.first_step()
        assert torch.allclose(theta, torch.tensor([1.3, 1.4]))


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
def test_zero_gradients_move_nothing(adaptive, foreach):
    theta, optimizer = quadratic(adaptive=adaptive, foreach=foreach)
    theta.grad.zero_()
    optimizer.first_step()
    assert theta.tolist() == [3.0, 4.0]
    optimizer.second_step()
    assert theta.tolist() == [3.0, 4.0]


def test_maximize_looks_for_the_worst_point_downhill():
    theta, optimizer = quadratic(maximize=True)
    optimizer.first_step()
    assert theta.tolist() == pytest.approx([2.7, 3.6])


def test_parameters_without_gradient_are_left_alone():
    theta, silent, frozen = (nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(3))
    optimizer = SAM([theta, silent, frozen], torch.optim.SGD, rho=0.5, lr=0.0)
    theta.grad, frozen.grad = torch.tensor([3.0, 4.0]), torch.tensor([30.0, 40.0])
    frozen.requires_grad_(False)
    optimizer.first_step()
    assert silent.tolist() == frozen.tolist() == [3.0, 4.0]
    assert theta.tolist() == pytest.approx([3.3, 4.4])  # the frozen gradient is not in the norm either
    optimizer.second_step()
    optimizer.zero_grad()
    optimizer.first_step()  # no gradient at all
    assert theta.tolist() == [3.0, 4.0]


# ---------------------------------------------------------------------- the two steps
def test_two_calls_are_step_with_a_closure():
    ours, theirs = network(), network()
    with_closure, by_hand = SAM(ours.parameters(), **SGD), SAM(theirs.parameters(), **SGD)
    inputs, targets = data()
    for _ in range(3):
        with_closure.step(closure_of(ours, with_closure))
        (theirs(inputs) - targets).square().mean().backward()
        by_hand.first_step(zero_grad=True)
        assert all(p.grad is None for p in theirs.parameters())
        (theirs(inputs) - targets).square().mean().backward()
        by_hand.second_step(zero_grad=True)
        assert all(p.grad is None for p in theirs.parameters())
    assert same(values(ours), values(theirs))


@pytest.mark.parametrize("foreach", [False, True])
def test_second_step_restores_the_bits_in_place(foreach):
    """A subtraction would not: 1e-8 is lost beside a perturbation of order one."""
    image = nn.Parameter((1e-8 * torch.randn(2, 3, 4, 4)).to(memory_format=torch.channels_last))
    rest = nn.Parameter(torch.randn(7).bfloat16())
    optimizer = SAM([image, rest], torch.optim.SGD, rho=3.0, lr=0.0, foreach=foreach)
    before = [p.detach().clone() for p in (image, rest)]
    addresses = [p.data_ptr() for p in (image, rest)]
    for p in (image, rest):
        p.grad = torch.randn_like(p)
    for step in (optimizer.first_step, optimizer.second_step):
        step()
        assert same((image, rest), before) == (step == optimizer.second_step)
        assert [p.data_ptr() for p in (image, rest)] == addresses
        assert image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()


def test_step_returns_the_first_loss_and_enables_gradients():
    theta, optimizer = quadratic()
    seen = []

    def closure():
        assert torch.is_grad_enabled()
        seen.append((theta.tolist(), theta.grad))
        loss = theta.square().sum() / 2
        loss.backward()
        return loss

    optimizer.zero_grad()
    with torch.no_grad():
        assert optimizer.step(closure).item() == 12.5
    assert [point for point, _ in seen] == [[3.0, 4.0], pytest.approx([3.3, 4.4])]
    assert seen[1][1] is None  # cleared between the two steps
    assert theta.tolist() == pytest.approx([3.0 - 0.33, 4.0 - 0.44])


class Failed(BaseException):
    """An error that is not an Exception, like KeyboardInterrupt."""


@pytest.mark.parametrize("failing", [1, 2])
def test_a_closure_that_fails_leaves_the_weights_and_the_statistics(failing):
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).double()
    optimizer = SAM(model.parameters(), rho=1.0, **SGD)
    run, calls = closure_of(model, optimizer), []
    before, statistics = values(model), []

    def closure():
        calls.append(1)
        loss = run()
        if len(calls) == 1:
            statistics.extend(b.clone() for b in model[1].buffers())
        if len(calls) == failing:
            raise Failed
        return loss

    with pytest.raises(Failed):
        optimizer.step(closure)
    assert len(calls) == failing and same(values(model), before) and same(model[1].buffers(), statistics)
    optimizer.step(closure)  # and it goes on
    assert not same(values(model), before)
    assert int(model[1].num_batches_tracked) == 2


def test_a_perturbation_that_fails_moves_nothing(monkeypatch):
    from vlls.optim import _sam as sam

    theta, optimizer = quadratic()

    def fail(params, *_):
        params[0].add_(1)
        raise MemoryError

    monkeypatch.setattr(sam, "perturb_", fail)
    with pytest.raises(MemoryError):
        optimizer.first_step()
    assert theta.tolist() == [3.0, 4.0]
    monkeypatch.undo()
    optimizer.first_step()


def test_batchnorm_counts_each_step_once():
    def make():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).double()

    ours, plain = make(), make()
    optimizer = SAM(ours.parameters(), rho=1.0, **SGD)
    for step in range(1, 4):
        plain.load_state_dict(ours.state_dict())
        plain(data()[0])  # one forward pass at theta
        optimizer.step(closure_of(ours, optimizer))
        assert same(ours[1].buffers(), plain[1].buffers())
        assert int(ours[1].num_batches_tracked) == step


# ---------------------------------------------------------------------- groups, schedulers, scalers
def test_the_base_optimizer_shares_groups_and_state():
    model = network()
    optimizer = SAM(groups_of(model), **SGD)
    optimizer.step(closure_of(model, optimizer))
    for other in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.load_state_dict(other.state_dict())
        assert other.base_optimizer.param_groups is other.param_groups
        assert other.base_optimizer.state is other.state and len(other.state) == 4
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.0
    before = values(model)
    optimizer.step(closure_of(model, optimizer))
    assert same(values(model), before)
    optimizer.state = type(optimizer.state)(dict)  # some code does this to reset the momentum
    optimizer.step(closure_of(model, optimizer))
    assert len(optimizer.state) == 4


def test_state_made_by_the_base_optimizers_constructor_is_kept():
    theta, optimizer = quadratic(base_optimizer=torch.optim.Adagrad)
    assert optimizer.state[theta]["sum"].tolist() == [0.0, 0.0]
    optimizer.first_step()
    optimizer.second_step()
    assert optimizer.state[theta]["sum"].tolist() == [9.0, 16.0]


@pytest.mark.parametrize("by_hand", [False, True])
def test_schedulers_attach_to_sam(by_hand):
    theta, optimizer = quadratic(rho=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for factor in (1, 0.5, 0.25):
        before = theta.tolist()
        theta.grad = torch.ones_like(theta)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of schedulers stepped before their optimizer
            if by_hand:
                optimizer.first_step()
                optimizer.second_step()
            else:
                optimizer.step(lambda: setattr(theta, "grad", torch.ones_like(theta)))
            scheduler.step()
        assert theta.tolist() == pytest.approx([b - 0.1 * factor for b in before])


def test_groups_can_be_added():
    theta, optimizer = quadratic(rho=0.5, momentum=0.9)
    more = nn.Parameter(torch.tensor([12.0], dtype=torch.float64))
    given = {"params": more, "rho": 1.3, "lr": 1.0}
    optimizer.add_param_group(given)
    assert given == {"params": more, "rho": 1.3, "lr": 1.0}
    assert optimizer.param_groups[1]["momentum"] == 0.9 and optimizer.param_groups[1]["adaptive"] is False
    more.grad = more.detach().clone()
    optimizer.first_step()
    assert theta.tolist() == pytest.approx([3 + 0.5 * 3 / 13, 4 + 0.5 * 4 / 13])
    assert more.tolist() == pytest.approx([12 + 1.3 * 12 / 13])
    optimizer.second_step()
    assert more.tolist() == [0.0]


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6), reason="torch's optimizers take names since 2.6"
)
def test_named_parameters_are_taken():
    model = network()
    optimizer = SAM(model.named_parameters(), **SGD)
    optimizer.step(closure_of(model, optimizer))
    assert optimizer.param_groups[0]["param_names"][0] == "0.weight"


def test_a_gradient_scaler_as_the_docstring_says():
    ours, plain = network(torch.float32), network(torch.float32)
    optimizer, other = SAM(ours.parameters(), **SGD), SAM(plain.parameters(), **SGD)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    inputs, targets = data(torch.float32)
    for _ in range(2):
        other.step(closure_of(plain, other))
        for step in (optimizer.first_step, optimizer.second_step):
            scaler.scale((ours(inputs) - targets).square().mean()).backward()
            scaler.unscale_(optimizer)
            step(zero_grad=True)
            scaler.update()
    assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(values(ours), values(plain), strict=True))
