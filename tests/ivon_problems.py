"""Small networks, data and steps that IVON's tests share."""

import pytest
import torch
from torch.nn import functional as F

from vlls.optim.ivon._cpu import compiler

EXECUTORS = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler")
executors = pytest.mark.parametrize(
    "executor", ["single", "foreach", pytest.param("fused", marks=needs_compiler)], ids=str
)


def mlp(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3)).to(dtype)


def cnn(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(216, 4)
    )


def batch(n=30, dtype=torch.float32, seed=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=g).to(dtype), torch.randint(3, (n,), generator=g)


def images(n=30, seed=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 8, 8, generator=g), torch.randint(4, (n,), generator=g)


def loss_of(model, data):
    return F.cross_entropy(model(data[0]), data[1])


def train_step(model, optimizer, data, samples=1):
    for _ in range(samples):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            loss = loss_of(model, data)
            loss.backward()
    optimizer.step()
    return loss.detach()


def weights(model):
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def state_of(model, optimizer, name):
    return torch.cat([optimizer.state[p][name].flatten().double() for p in model.parameters()])
