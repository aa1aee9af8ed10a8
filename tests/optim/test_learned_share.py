"""How much of IVON's Hessian was learned."""

import copy

import numpy as np
import pytest
import torch

import vlls
from vlls import IVON, learned_share

SETTINGS = {"lr": 0.05, "ess": 200.0, "hess_init": 0.3, "beta2": 0.98, "weight_decay": 1e-3}


def trained(steps=40, **settings):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    x, y = torch.randn(64, 4), torch.randint(3, (64,))
    optimizer = IVON(model.parameters(), **{**SETTINGS, **settings})
    for _ in range(steps):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


def test_it_is_the_share_of_the_hessian_beyond_what_is_left_of_its_start():
    model, optimizer = trained()
    hess = np.concatenate([optimizer.state[p]["hess"].numpy().ravel() for p in model.parameters()]).astype(float)
    share = (hess - 0.98**40 * 0.3) / hess
    found = learned_share(optimizer, model)
    assert float(found) == found.median
    assert np.isclose(found.median, np.sort(share)[(len(share) - 1) // 2], atol=1e-5)
    assert np.isclose(found.low, np.quantile(share, 0.05, method="lower"), atol=1e-5)
    assert np.isclose(found.high, np.quantile(share, 0.95, method="lower"), atol=1e-5)
    assert np.isclose(found.total, 1 - 0.98**40 * 0.3 * len(hess) / hess.sum(), atol=1e-5)
    std = torch.cat([s.flatten() for s in optimizer.posterior(model).std.values()]).numpy()
    assert np.isclose(found.std_median, np.quantile(std, 0.5, method="lower"), rtol=1e-5)
    assert np.isclose(found.std_start, (200 * (0.3 + 1e-3)) ** -0.5, rtol=1e-5)
    assert found.std_low < found.std_median < found.std_high
    assert list(found.by_parameter) == [name for name, _ in model.named_parameters()]
    alone = learned_share(IVON([{"params": [model[0].bias]}], **SETTINGS))
    assert alone.by_parameter == {} and alone.total == 0.0  # before the first step


def test_a_hessian_that_stays_has_learned_nothing_and_one_that_begins_near_nothing_nearly_everything():
    assert learned_share(trained(beta2=1.0)[1]).high == 0.0
    assert learned_share(trained(150, hess_init=1e-3)[1]).median > 0.95


def test_the_paper_s_start_hides_the_data_and_a_small_one_does_not():
    """As on real images: at h0 = 0.9 hardly anything is learned, at a small h0 and a large ess most is."""
    paper = learned_share(trained(hess_init=30.0, beta2=1 - 2 / 40)[1])
    learned = learned_share(trained(hess_init=1e-3, ess=2e4, beta2=1 - 2 / 40)[1])
    assert paper.median < 0.1 < 0.7 < learned.median
    assert learned.std_high / learned.std_low > 2 * paper.std_high / paper.std_low


def test_groups_with_settings_of_their_own_and_weights_that_are_frozen():
    model, _ = trained(0)
    model[2].weight.requires_grad_(False)
    groups = [{"params": model[0].parameters(), "hess_init": 1.0}, {"params": model[2].parameters()}]
    found = learned_share(IVON(groups, **SETTINGS), model)
    assert list(found.by_parameter) == ["0.weight", "0.bias", "2.bias"]
    assert found.by_parameter["2.bias"].std_start > found.by_parameter["0.bias"].std_start
    assert found.std_start == found.by_parameter["0.weight"].std_start


def test_it_changes_nothing_and_a_loaded_optimizer_says_the_same():
    model, optimizer = trained()
    state = copy.deepcopy(optimizer.state_dict())
    before = learned_share(optimizer)
    other = IVON(model.parameters(), **SETTINGS)
    other.load_state_dict(state)
    assert learned_share(other) == before
    with optimizer.sampled_params():
        assert learned_share(optimizer) == before


@pytest.mark.parametrize("given", [None, torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)])
def test_what_keeps_no_hessian_is_one_line(given):
    with pytest.raises(ValueError, match="which learns no Hessian; pass an IVON optimizer"):
        vlls.learned_share(given)
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    with pytest.raises(ValueError, match="no weights to train"):
        learned_share(IVON([frozen], **SETTINGS))
