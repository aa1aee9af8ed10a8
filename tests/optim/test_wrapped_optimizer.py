"""A wrapper that imitates an optimizer's class, as Lightning's does, changes the optimizer inside it and not itself."""

import pytest
import torch

from vlls import IVON, SAM, predict


class Wrapper:
    """Reads of attributes are passed to the optimizer; methods of its class are called with the wrapper."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.__class__ = type("Wrapped", (Wrapper, type(optimizer)), {})

    def __getattr__(self, name):
        return getattr(self.optimizer, name)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3)


@pytest.mark.parametrize("block", ["sampled_params", "keep_sampled"])
def test_a_sample_of_the_wrapper_is_one_of_the_optimizer(model, block):
    optimizer = IVON(model.parameters(), lr=0.1, ess=50)
    mean = model.weight.detach().clone()
    with getattr(Wrapper(optimizer), block)():
        with pytest.raises(RuntimeError, match="hold a sample"):
            optimizer.state_dict()
    assert torch.equal(model.weight, mean) and not any(name.startswith("_") for name in Wrapper(optimizer).__dict__)


def test_predict_draws_from_the_generator_it_is_given(model):
    optimizer = IVON(model.parameters(), lr=0.1, ess=50, generator=torch.Generator().manual_seed(1))
    x = torch.randn(5, 4)
    expected = predict(model, optimizer, x, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(predict(model, Wrapper(optimizer), x, 4, generator=torch.Generator().manual_seed(2)), expected)


def test_a_state_loaded_through_the_wrapper_is_the_optimizer_s(model):
    optimizer = IVON(model.parameters(), lr=0.1, ess=50)
    wrapper = Wrapper(optimizer)
    optimizer.step(lambda: model(torch.ones(2, 4)).sum().backward())
    wrapper.load_state_dict(optimizer.state_dict())
    assert set(wrapper.__dict__) == {"optimizer"}


def test_the_perturbation_of_sam_is_the_optimizer_s(model):
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)
    model(torch.ones(2, 4)).sum().backward()
    Wrapper(optimizer).first_step()
    with pytest.raises(RuntimeError, match="at perturbed weights"):
        optimizer.state_dict()
    optimizer.second_step()
    optimizer.state_dict()
