"""Label noise of ordinary networks, with kinks, zeros and norms in float32, at every scale and in every precision."""

import pytest
import torch
from cases import IMAGE, SEQUENCE, VECTOR, D, built, embedding, posterior_of
from torch import nn

from vlls import label_noise
from vlls.noise import sam_label_noise
from vlls.noise._options import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def zero_head():
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    return model


def images():
    """Return an untrained network: black pixels are exactly at the kink of every ReLU and tie in every maximum."""
    return nn.Sequential(
        *(nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    )


class InSingle(nn.Module):
    """A norm that is computed in float32 for any input, as in language models."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x):
        h = x.float()
        return self.weight * (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


ORDINARY = {
    "relu": (
        lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)),
        VECTOR,
    ),
    "a head of zeros": (zero_head, VECTOR),
    "one logit": (lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1)), VECTOR),
    "images": (images, IMAGE),
    "transformer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 3)),
        SEQUENCE,
    ),
    "norms": (
        lambda: nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.SiLU(), nn.GroupNorm(4, 16), nn.Linear(16, 3)),
        VECTOR,
    ),
    "a norm in float32": (lambda: nn.Sequential(nn.Linear(4, 16), InSingle(), nn.SiLU(), nn.Linear(16, 3)), VECTOR),
    "tokens": (embedding, None),
    "kinks": (
        lambda: nn.Sequential(nn.Linear(4, 32), nn.Hardtanh(), nn.Linear(32, 32), nn.LeakyReLU(), nn.Linear(32, 3)),
        VECTOR,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [D, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_networks_pass(name, dtype):
    make, shape = ORDINARY[name]
    model, x = built(make, shape)
    if name == "images":
        x[:, :, :3] = 0
        x[0] = 0
    model, x = model.to(dtype), x.to(dtype) if x.is_floating_point() else x
    for scale in (1e-6, 1e-2, 1.0):
        q = posterior_of(model.float(), scale, spread=True)
        model = model.to(dtype)
        for some in (x, x[:1]):
            labels = torch.zeros(len(some), dtype=torch.uint16)
            found = [label_noise(model, q, some, method=method, num_samples=2, curvature_pairs=0) for method in METHODS]
            found.append(sam_label_noise(model, some, labels, linear=True, rho=scale))
            found.append(sam_label_noise(model, some, labels, per_example=True))
            for noise in found:
                assert len(noise) == len(some) and noise.isfinite().all() and noise.any()


@pytest.mark.parametrize("seed", [0, 4, 10])
def test_a_step_too_short_for_float32_is_no_fault(seed):
    """A step of 1e-10 does not change the logits behind a norm in float32, however often it is repeated."""
    torch.manual_seed(seed)
    x = torch.randn(4, 4)
    model = nn.Sequential(nn.Linear(4, 16), InSingle(), nn.SiLU(), nn.Linear(16, 3)).eval()
    for some in (x, x[:1]):
        labels = [0] * len(some)
        assert sam_label_noise(model, some, labels, linear=True, rho=1e-6).shape == (len(some), 3)
