"""Executors keep tables between steps, and notice changes of parameters, groups, gradients and state."""

import copy

import pytest
import torch
from ivon_problems import EXECUTORS, backward, batch, executors, mlp, state_of, train_step, weights

from vlls import IVON

LIST = ("lr", 0.03), ("ess", 77.0), ("weight_decay", 0.02), ("beta1", 0.5), ("beta2", 0.7), ("clip_radius", 1e-3)
LIST += ("hess_clip", 0.1), ("hess_every", 2), ("hess_approx", "gradsq"), ("debias", False), ("rescale_lr", False)


def pair(executor, **options):
    """Return a model and its optimizer after some steps."""
    model = mlp()
    groups = [{"params": list(part.parameters())} for part in (model[0], model[2])]
    optimizer = IVON(groups, lr=0.1, ess=30.0, hess_init=0.5, **EXECUTORS[executor], **options)
    torch.manual_seed(1)
    for _ in range(3):
        train_step(model, optimizer, batch())
    return model, optimizer


def assert_as_anew(model, optimizer, data=None, step=train_step):
    """Check that the next steps equal those of a copy, which has no tables, and change the weights."""
    other, anew = copy.deepcopy((model, optimizer))
    data = batch(dtype=model[0].weight.dtype) if data is None else data
    start = weights(model)
    for each, its in ((model, optimizer), (other, anew)):
        torch.manual_seed(2)
        for _ in range(2):
            step(each, its, data)
    assert torch.equal(weights(model), weights(other)) and not torch.equal(weights(model), start)
    for name in ("momentum", "hess", "step"):
        assert torch.equal(state_of(model, optimizer, name), state_of(other, anew, name))


@executors
@pytest.mark.parametrize("name, value", LIST, ids=str)
def test_hyperparameters_of_a_group(executor, name, value):
    model, optimizer = pair(executor)
    optimizer.param_groups[1][name] = value
    assert_as_anew(model, optimizer)
    same, unchanged = pair(executor)
    for _ in range(2):
        train_step(same, unchanged, batch())
    known = [torch.cat([weights(m), state_of(m, o, "hess")]) for m, o in ((model, optimizer), (same, unchanged))]
    assert not torch.equal(*known)


def other_memory(model, optimizer):
    kept = [p.data for p in model.parameters()]
    for p in model.parameters():
        p.data = p.data.clone()
    for old in kept:
        old.fill_(float("nan"))


def other_strides(model, optimizer):
    model[0].weight.data = model[0].weight.data.T.contiguous().T


def other_dtype(model, optimizer):
    model.double()


class Double(torch.nn.Module):
    def forward(self, x):
        return x.double()


def other_dtype_of_one(model, optimizer):
    model[2].double()
    model.insert(2, Double())


def frozen(model, optimizer):
    model[0].bias.requires_grad_(False)
    model[0].bias.grad = None


def another_group(model, optimizer):
    model.append(torch.nn.Linear(3, 3))
    optimizer.add_param_group({"params": model[3].parameters(), "lr": 0.3})


def one_less(model, optimizer):
    optimizer.param_groups[0]["params"].pop()
    model[0].bias.requires_grad_(False)


def new_hess(model, optimizer):
    for p in model.parameters():
        optimizer.state[p]["hess"] = torch.full_like(p, 3.0)


def new_memory_of_the_state(model, optimizer):
    for p in model.parameters():
        for name in ("momentum", "hess"):
            old = optimizer.state[p][name]
            new = old.clone()
            old.data = new


def written_in_place(model, optimizer):
    for p in model.parameters():
        optimizer.state[p]["hess"].fill_(2.0)
        optimizer.state[p]["step"].fill_(9.0)


def new_state_of_one(model, optimizer):
    p = model[0].weight
    optimizer.state[p] = {name: value.clone() for name, value in optimizer.state[p].items()}
    optimizer.state[p]["momentum"].zero_()


def forgotten_state_of_one(model, optimizer):
    del optimizer.state[model[0].weight]


def shared(model, optimizer):
    model.share_memory()
    for state in optimizer.state.values():
        state["hess"].share_memory_()


def no_kernel(model, optimizer):
    optimizer.fused, optimizer.foreach = False, False


CHANGES = [
    other_memory, other_strides, other_dtype, other_dtype_of_one, frozen, another_group, one_less, new_hess,
    new_memory_of_the_state, written_in_place, new_state_of_one, forgotten_state_of_one, shared, no_kernel,
]  # fmt: skip


@executors
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_between_steps(executor, change):
    model, optimizer = pair(executor)
    change(model, optimizer)
    bias = model[0].bias.detach().clone()
    assert_as_anew(model, optimizer)
    assert torch.equal(model[0].bias, bias) == (change in (frozen, one_less))


@executors
def test_gradients_that_come_and_go(executor):
    """Gradients differ from step to step, in their addresses and some in the order of elements or the dtype."""

    def step(model, optimizer, data):
        for missing in (None, model[0].bias, model[2].weight, model[2].weight, None):
            with optimizer.sampled_params(train=True):
                backward(model, optimizer, data)
                if missing is not None:
                    missing.grad = None
                model[0].weight.grad = model[0].weight.grad.T.contiguous().T
            optimizer.step()
            optimizer.zero_grad(set_to_none=missing is None)

    model, optimizer = pair(executor)
    assert_as_anew(model, optimizer, step=step)


@executors
def test_memory_that_changes_between_the_sample_and_the_step(executor):
    (model, optimizer), (other, unchanged) = pair(executor), pair(executor)
    for each, its in ((model, optimizer), (other, unchanged)):
        torch.manual_seed(2)
        with its.sampled_params(train=True):
            backward(each, its, batch())
        if each is model:
            other_memory(model, optimizer)
        its.step()
    assert torch.equal(weights(model), weights(other))


@executors
def test_memory_that_changes_while_samples_are_kept(executor):
    (model, optimizer), (other, unchanged) = pair(executor), pair(executor)
    for each, its in ((model, optimizer), (other, unchanged)):
        torch.manual_seed(2)
        with its.keep_sampled():
            for _ in range(3):
                backward(each, its, batch())
                its.step()
                its.param_groups[0]["lr"] *= 0.5
                if each is model:
                    other_memory(model, optimizer)
    assert torch.equal(weights(model), weights(other))


@executors
def test_memory_that_changes_inside_a_sample(executor):
    model, optimizer = pair(executor)
    before = weights(model)
    with optimizer.sampled_params():
        other_memory(model, optimizer)
        assert not torch.equal(weights(model), before)
    assert torch.equal(weights(model), before)
