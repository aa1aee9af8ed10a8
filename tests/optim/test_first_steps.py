"""IVON warns once of a learning rate fit for Adam or of ess=1, and does not warn if training goes well."""

import warnings
from contextlib import ExitStack

import pytest
import torch
from ivon_problems import batch, cnn, images, loss_of, mlp, train_step

from vlls import IVON


def said(model, data, steps=120, kept=False, each=lambda step, optimizer: None, **options):
    optimizer = IVON(model.parameters(), generator=torch.Generator().manual_seed(1), **options)
    with warnings.catch_warnings(record=True) as caught, ExitStack() as block:
        warnings.simplefilter("always")
        if kept:
            block.enter_context(optimizer.keep_sampled())
        for step in range(steps):
            each(step, optimizer)
            if kept:
                optimizer.zero_grad()
                loss_of(model, data).backward()
                optimizer.step()
            else:
                train_step(model, optimizer, data)
        block.close()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("kept", [False, True])
def test_adams_learning_rate(kept):
    (message,) = said(mlp(), batch(), lr=1e-3, ess=1000.0, kept=kept)
    assert "not Adam's: try lr=0.1 (it is 0.001)" in message


@pytest.mark.parametrize("network, data", [(mlp, batch), (cnn, images)])
def test_an_ess_of_one(network, data):
    (message,) = said(network(), data(), lr=0.1, ess=1.0)
    assert "times as large as the weights" in message
    assert "let ess be the number of training examples (it is 1), and if it is, raise hess_init above 1" in message


@pytest.mark.parametrize("network, data", [(mlp, batch), (cnn, images)])
@pytest.mark.parametrize("kept", [False, True])
def test_silent_where_all_is_well(network, data, kept):
    assert said(network(), data(), lr=0.1, ess=1000.0, kept=kept) == []


def test_silent_while_the_learning_rate_is_warmed_up():
    def warm_up(step, optimizer):
        optimizer.param_groups[0]["lr"] = 1e-5 * (step + 1)

    assert said(mlp(), batch(), each=warm_up, lr=1e-5, ess=1000.0) == []


def test_silent_on_a_linear_model_that_starts_at_zero():
    model = torch.nn.Linear(6, 3)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    assert said(model, batch(), lr=0.1, ess=30.0) == []


def test_silent_on_a_large_head_that_starts_at_zero():
    """Its weights say nothing of their scale: over all of them, the noise would be five times as large."""
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 1000)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    assert said(torch.nn.Sequential(torch.nn.Linear(6, 8), head), batch(), lr=0.1, ess=100.0) == []


def test_silent_when_training_goes_on_from_a_checkpoint():
    model = mlp()
    optimizer = IVON(model.parameters(), lr=1e-3, ess=1000.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            train_step(model, optimizer, batch())
    resumed = IVON(model.parameters(), lr=1e-3, ess=1000.0)
    resumed.load_state_dict(optimizer.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(120):
            train_step(model, resumed, batch())


@pytest.mark.parametrize(
    "given, hint",
    [
        ({"betas": (0.9, 0.999)}, r"IVON has no betas=\(0.9, 0.999\); pass beta1=... for the gradient and beta2=..."),
        ({"eps": 1e-8}, "IVON has no eps=1e-08; pass hess_init="),
        ({"momentum": 0.9}, "pass beta1="),
        ({"weight_deacy": 0.1}, "pass weight_decay="),
        ({"zzz": 1}, "pass one of lr, ess, hess_init"),
    ],
)
def test_keywords_of_other_optimizers(given, hint):
    with pytest.raises(ValueError, match=hint):
        IVON(mlp().parameters(), lr=0.1, ess=10.0, **given)


def test_keywords_of_other_optimizers_in_a_group():
    with pytest.raises(ValueError, match="IVON has no betas=.* in a group; pass beta1="):
        IVON([{"params": mlp().parameters(), "betas": (0.9, 0.99)}], lr=0.1, ess=10.0)
