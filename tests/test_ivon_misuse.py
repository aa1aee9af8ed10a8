"""IVON and predict refuse what would go wrong in silence."""

import copy
import pickle

import pytest
import torch
from torch import nn

from vlls import IVON, predict


def model_and_optimizer(**options):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    return model, IVON(model.parameters(), lr=0.1, ess=100, **options)


def test_a_parameter_is_listed_once():
    shared = nn.Parameter(torch.randn(3))
    with pytest.raises(ValueError, match=r"params\[1\], of shape \(3,\), is params\[0\] again; list a parameter once"):
        IVON([shared, shared], lr=0.1, ess=100)


def test_a_lazy_parameter_is_refused_until_it_has_a_shape():
    model = nn.LazyLinear(3)
    with pytest.raises(ValueError, match=r"params\[0\] has no shape yet; run one batch through the model first"):
        IVON(model.parameters(), lr=0.1, ess=100)
    model(torch.randn(2, 4))
    IVON(model.parameters(), lr=0.1, ess=100)


def test_an_ess_beyond_float32_is_refused():
    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"ess=1e\+38 is outside \[1, 1e\+30\]"):
        IVON(model.parameters(), lr=0.1, ess=1e38)


@pytest.mark.parametrize("take", [copy.deepcopy, pickle.dumps])
def test_a_sample_is_not_copied_as_if_it_were_the_mean(take):
    _, optimizer = model_and_optimizer()
    with optimizer.keep_sampled(), pytest.raises(RuntimeError, match="copying or pickling the optimizer"):
        take(optimizer)
    take(optimizer)


def test_predict_needs_the_model_that_is_trained():
    model, optimizer = model_and_optimizer()
    x = torch.randn(5, 4)
    for other in (copy.deepcopy(model), torch.optim.swa_utils.AveragedModel(model)):
        with pytest.raises(ValueError, match="trains no parameter of this model"):
            predict(other, optimizer, x)
    with pytest.raises(ValueError, match="optimizer is of type SGD; pass the IVON"):
        predict(model, torch.optim.SGD(model.parameters(), lr=0.1), x)
    assert predict(nn.Sequential(model), optimizer, x, num_samples=2).shape == (5, 3)
