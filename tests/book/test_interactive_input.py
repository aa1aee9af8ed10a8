"""The interactive figures raise errors for arguments that they cannot show."""

import pytest
import torch
from figures.interactive import explore_examples, explore_label_noise, explore_von_steps
from moving_figures import GLM_, IMAGES, LABELS, POINTS, X, Y, features, network_noise

from vlls import GLM, Categorical, GaussianPosterior


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": 9.0}, r"mean=9.0 is not allowed; choose a number from -8 to 8"),
        ({"mean": float("nan")}, "mean=nan"),
        ({"mean": "1"}, "mean='1'"),
        ({"variance": 0.0}, r"variance=0.0 is not allowed; choose a number from 0.05 to 16"),
        ({"limit": float("inf")}, "limit=inf"),
    ],
)
def test_label_noise_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        explore_label_noise(**arguments)


Q = GaussianPosterior(torch.zeros(5), 1.0)
NAN = torch.full((40, 2), float("nan"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"glm": GLM(Categorical(3), features(POINTS), torch.zeros(40))}, "Categorical; pass one of Bernoulli labels"),
        ({"posteriors": {}}, "posteriors is empty"),
        ({"posteriors": {2: Q, 1: Q}}, r"iterations \[2, 1\]; pass integers >= 0 in ascending order"),
        ({"posteriors": {0.5: Q}}, r"iterations \[0.5\]"),
        ({"posteriors": {0: GaussianPosterior(torch.zeros(3), 1.0)}}, r"needs \(N, 3\)"),
        ({"points": POINTS[:3]}, r"points have shape \(3, 2\); the model's examples need \(40, 2\)"),
        ({"points": POINTS.flip(0)}, "not the model's features"),
        ({"points": NAN}, "points holds 80 value"),
        ({"x": X[:1]}, "two or more coordinates"),
        ({"x": X.flip(0)}, "x does not ascend in equal steps"),
        ({"y": Y.square()}, "y does not ascend"),
        ({"y": NAN[0]}, "y holds 2 value"),
    ],
)
def test_von_steps_refuses(changed, message):
    arguments = {"glm": GLM_, "posteriors": {0: Q}, "feature_map": features, "points": POINTS, "x": X, "y": Y}
    with pytest.raises(ValueError, match=message):
        explore_von_steps(**(arguments | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": IMAGES[:4]}, r"images have shape \(4, 7, 5\); the noise of 10 examples needs \(10, H, W\)"),
        ({"images": IMAGES[:, :0]}, "images have shape"),
        ({"images": IMAGES * float("nan")}, "images holds 350 value"),
        ({"images": IMAGES - 0.5}, "pass grey values >= 0"),
        ({"labels": LABELS[:4]}, r"labels have shape \(4,\)"),
        ({"labels": LABELS + 1}, "labels hold 4; pass integers from 0 to 3"),
        ({"noise": network_noise(10, 1)}, "single logit"),
        ({"shown": 6}, "shown=6 of 10 examples at each end; choose an integer from 1 to 5"),
        ({"shown": 0}, "shown=0"),
        ({"classes": ["a", "b"]}, "classes has 2 names; the noise has 4 classes"),
    ],
)
def test_examples_refuses(changed, message):
    arguments = {"images": IMAGES, "labels": LABELS, "noise": network_noise(), "shown": 3}
    with pytest.raises(ValueError, match=message):
        explore_examples(**(arguments | changed))
