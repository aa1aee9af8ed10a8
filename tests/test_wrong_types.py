"""Arguments of a wrong type are refused in one line that says what to pass."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from vlls import (
    GLM,
    Bernoulli,
    Binomial,
    Categorical,
    DiagonalPosterior,
    GaussianPosterior,
    Ridge,
    fit,
    gd_step,
    newton_step,
    smooth_labels,
    variational_gd_step,
    von_step,
)
from vlls.smoothing import LabelSmoothingLoss

ONES = torch.ones(2)


def glm(**options):
    return GLM(Bernoulli(), torch.eye(2), torch.tensor([0, 1]), **options)


# ---------------------------------------------------------------------- posteriors
@pytest.mark.parametrize("which", ["mean", "std"])
@pytest.mark.parametrize(
    "value, name",
    [
        (1.0, "float"),
        (np.ones(2), "ndarray"),
        ([1.0, 1.0], "list"),
        (None, "NoneType"),
        (ONES.long(), "torch.int64"),
        (ONES.to(torch.complex64), "torch.complex64"),
    ],
)
def test_a_posterior_is_of_real_tensors(which, value, name):
    given = {"mean": {"w": ONES}, "std": {"w": ONES}, which: {"w": value}}
    with pytest.raises(ValueError, match=f"{which} of 'w' is of type {name}; pass tensors of real floating-point"):
        DiagonalPosterior(**given)


def test_a_posterior_is_of_dicts_on_one_device():
    with pytest.raises(ValueError, match="mean is a list; pass a dict of tensors by parameter name"):
        DiagonalPosterior([ONES], {"w": ONES})
    with pytest.raises(ValueError, match="'w' has its mean on cpu and its std on meta; move one"):
        DiagonalPosterior({"w": ONES}, {"w": ONES.to("meta")})
    with pytest.raises(ValueError, match="std of 'w' holds 1 value.* look at how the posterior was made"):
        DiagonalPosterior({"w": ONES}, {"w": torch.tensor([1.0, np.nan])})
    with pytest.raises(ValueError, match=r"mean and std need the same names.* one only: \[1, 'w'\]"):
        DiagonalPosterior({"w": ONES}, {1: ONES})


@pytest.mark.parametrize("make", [lambda x: GaussianPosterior([x], 1.0), lambda x: GaussianPosterior([0.0], x), Ridge])
def test_advice_for_data_is_not_given_for_weights(make):
    with pytest.raises(ValueError, match="NaN or infinite.*; (look at how it was made|pass finite numbers >= 0)$"):
        make(float("inf"))


def test_a_posterior_of_parameters_takes_no_gradient():
    weight = nn.Parameter(ONES.clone())
    q = DiagonalPosterior({"w": weight}, {"w": weight})
    assert not q.mean["w"].requires_grad and not q.sample()["w"].requires_grad
    assert q.mean["w"].data_ptr() == weight.data_ptr()


def test_a_posterior_is_saved_and_loaded_as_its_docstring_says(tmp_path):
    q = DiagonalPosterior({"w": torch.randn(3)}, {"w": torch.rand(3)})
    torch.save({"mean": q.mean, "std": q.std}, tmp_path / "q.pt")
    loaded = DiagonalPosterior(**torch.load(tmp_path / "q.pt", weights_only=True))
    assert torch.equal(loaded.mean["w"], q.mean["w"]) and torch.equal(loaded.std["w"], q.std["w"])


# ---------------------------------------------------------------------- numbers
@pytest.mark.parametrize("value", [2.5, "3", True, None, 0])
@pytest.mark.parametrize(
    "call",
    [
        lambda n: GaussianPosterior([0.0], 1.0).sample(n),
        lambda n: fit(glm(), newton_step, max_iter=n),
        Categorical,
        Binomial,
    ],
    ids=["sample", "fit", "categorical", "binomial"],
)
def test_a_number_of_things_is_whole(call, value):
    with pytest.raises(ValueError, match=rf"={value!r} is not allowed; choose a whole number >= [12]"):
        call(value)


@pytest.mark.parametrize("value", ["0.1", None, 1j, True, ONES, np.ones(2), -0.5, float("nan")], ids=repr)
def test_a_rate_is_a_number_between_0_and_1(value):
    with pytest.raises(ValueError, match=r"smoothing=.* is outside \[0, 1\]; choose a number in \[0, 1\]"):
        smooth_labels(torch.tensor([0]), value, 3)


@pytest.mark.parametrize("value", ["0.1", None, 1j, True, ONES, np.ones(2), 1.5, -np.inf, np.nan], ids=repr)
def test_a_loss_s_rate_is_a_finite_number_of_at_most_1(value):
    with pytest.raises(ValueError, match=r"smoothing=.* is not allowed; choose a finite number of at most 1"):
        LabelSmoothingLoss(value)


@pytest.mark.parametrize("value", ["x", None, True, ONES, torch.tensor(1j), -1, 0, np.inf, np.nan], ids=repr)
def test_a_step_size_is_a_positive_number(value):
    given = re.escape(f"lr={value!r}")
    with pytest.raises(ValueError, match=f"{given}; a step size must be a positive number"):
        gd_step(glm(), torch.zeros(2), lr=value)
    with pytest.raises(ValueError, match=rf"{given} is outside \(0, 1\]; choose a number in \(0, 1\]"):
        von_step(glm(), GaussianPosterior([0.0, 0.0], 1.0), lr=value)


@pytest.mark.parametrize("value", ["x", None, 0, float("nan")], ids=repr)
def test_a_tolerance_is_a_positive_number(value):
    with pytest.raises(ValueError, match=f"tol={value!r} is not allowed; choose a number > 0"):
        fit(glm(), newton_step, tol=value)


# ---------------------------------------------------------------------- models and losses
@pytest.mark.parametrize("value", [None, ONES, DiagonalPosterior({"w": ONES}, {"w": ONES})], ids=repr)
@pytest.mark.parametrize("step", [variational_gd_step, von_step])
def test_a_variational_step_starts_at_a_gaussian_posterior(step, value):
    with pytest.raises(ValueError, match=f"is a {type(value).__name__}; pass GaussianPosterior"):
        step(glm(), value, 0.1)


@pytest.mark.parametrize("family, made", [(nn.ReLU, "Bernoulli"), ("bernoulli", "Bernoulli"), (Binomial, "Binomial")])
def test_a_family_is_an_instance(family, made):
    with pytest.raises(ValueError, match=rf"is no family; pass an instance, such as {made}\(\)"):
        GLM(family, torch.eye(2), torch.tensor([0, 1]))


def test_a_ridge_fits_the_parameters():
    assert glm(regularizer=Ridge([1.0, 2.0])).loss(torch.ones(2)) > 0
    with pytest.raises(ValueError, match=r"precisions of shape \(3,\) and the parameters have \(2,\); pass one number"):
        glm(regularizer=Ridge([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_logits_are_finite(value):
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, value, 2.0]])
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 2 rows \(the first is row 1\); leave out classes"):
        LabelSmoothingLoss(0.1)(logits, torch.tensor([0, 0]))
