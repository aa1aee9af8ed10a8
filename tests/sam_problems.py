"""Small problems for SAM."""

import torch
from torch import nn

from vlls.optim._sam import SAM

SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
ADAMW = {"base_optimizer": torch.optim.AdamW, "lr": 0.02, "weight_decay": 0.1}
STATE = {"base_optimizer", "param_groups", "state"}


def network(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)


def data(dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(8, 4, generator=generator).to(dtype), torch.randn(8, 2, generator=generator).to(dtype)


def closure_of(model, optimizer, inputs=None, targets=None):
    inputs, targets = data(next(model.parameters()).dtype) if inputs is None else (inputs, targets)

    def closure():
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        return loss

    return closure


def groups_of(model):
    """Return two groups with their own rho and adaptive; the second one's are the constructor's defaults."""
    first, second = list(model[0].parameters()), list(model[2].parameters())
    return [{"params": first, "rho": 0.3, "adaptive": True}, {"params": second}]


def quadratic(values=(3.0, 4.0), **options):
    """Return a parameter whose gradient is itself, and SAM on it."""
    theta = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    optimizer = SAM([theta], **{"base_optimizer": torch.optim.SGD, "lr": 0.1, "rho": 0.5, **options})
    theta.grad = theta.detach().clone()
    return theta, optimizer


def values(model):
    return [p.detach().clone() for p in model.parameters()]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
