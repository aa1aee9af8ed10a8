"""Label noise of unusually written models: as exact as that of any other, or refused."""

import pytest
import torch
import torch.nn.functional as F
from cases import covariance_of, posterior_of
from torch import nn

from vlls import label_noise, label_noise_moments, rank_examples
from vlls.noise import logit_covariance, sam_label_noise
from vlls.noise._options import METHODS

pytestmark = pytest.mark.filterwarnings("ignore:.*per-example gradients:UserWarning")


class Viewed(nn.Module):
    """Flattens its images with ``view``, as torch's first tutorials do."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 3, 3), nn.Linear(3 * 4 * 4, 3)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x.view(-1, 2, 6, 6))).view(x.size(0), -1))


class Scaled(nn.Module):
    """A model with a temperature, which is a parameter without an axis."""

    def __init__(self):
        super().__init__()
        self.out, self.temperature = nn.Linear(6, 3), nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.out(x) * self.temperature


class Experts(nn.Module):
    """Sends each example to one of three layers, one by one or all of a layer at once."""

    def __init__(self, batched):
        super().__init__()
        self.batched = batched
        self.router, self.experts = nn.Linear(6, 3), nn.ModuleList(nn.Linear(6, 3) for _ in range(3))

    def forward(self, x):
        weight, chosen = self.router(x).softmax(1).max(1)
        if not self.batched:
            rows = [self.experts[int(k)](x[i : i + 1]) for i, k in enumerate(chosen)]
            return torch.cat(rows) * weight[:, None]
        found = torch.zeros(len(x), 3, dtype=x.dtype)
        for k, expert in enumerate(self.experts):
            at = (chosen == k).nonzero()[:, 0]
            if len(at):
                found = found.index_add(0, at, expert(x[at]))
        return found * weight[:, None]


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(F.dropout(x))  # also in evaluation mode


@pytest.mark.parametrize("shape", [(2, 6, 6), (72,)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_images_may_be_flattened_with_view(method, shape):
    torch.manual_seed(0)
    model, x = Viewed().double().eval(), torch.randn(4, *shape, dtype=torch.float64)
    q = posterior_of(model)
    generator = torch.Generator().manual_seed(1)
    noise = label_noise(model, q, x, method=method, num_samples=4, generator=generator)
    assert noise.shape == (4, 3) and bool(noise.isfinite().all())
    assert torch.allclose(logit_covariance(model, q, x), covariance_of(model, q, x), rtol=1e-10)
    assert len(rank_examples(model, q, x, torch.tensor([0, 1, 2, 0])).index) == 4


def test_a_parameter_may_be_a_single_number():
    torch.manual_seed(0)
    model, x = Scaled().double().eval(), torch.randn(5, 6, dtype=torch.float64)
    q = posterior_of(model)
    assert torch.allclose(logit_covariance(model, q, x), covariance_of(model, q, x), rtol=1e-10)
    assert sam_label_noise(model, x, torch.tensor([0, 1, 2, 0, 1]), rho=0.05, per_example=True).shape == (5, 3)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("method", ["exact", "rank"])
def test_a_way_that_depends_on_the_input_is_refused(method, batched):
    torch.manual_seed(0)
    model, x = Experts(batched).double().eval(), torch.randn(8, 6, dtype=torch.float64)
    q = posterior_of(model)
    with pytest.raises(ValueError, match="its way depends on its input .*; use method='monte_carlo'"):
        label_noise_moments(model, q, x, method=method)
    assert label_noise_moments(model, q, x, method="monte_carlo", num_samples=8).magnitude.shape == (8,)


@pytest.mark.parametrize("method", METHODS)
def test_chance_in_the_model_is_refused(method):
    model, x = Dropped().eval(), torch.randn(5, 6)
    with pytest.raises(ValueError, match="chance is in them"):
        label_noise(model, posterior_of(model, 1e-6), x, method=method)


def test_chance_in_the_model_is_refused_for_sam():
    model, x = Dropped().eval(), torch.randn(5, 6)
    with pytest.raises(ValueError, match="chance is in them"):
        sam_label_noise(model, x, torch.tensor([0, 1, 2, 0, 1]), rho=1e-6)
