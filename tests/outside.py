"""A loss and an optimizer that are not in the package, registered as a user's module would do it."""

from __future__ import annotations

import torch
from torch import nn

from vlls.train import Method


class Annealed(nn.Module):
    """Cross-entropy of logits over a temperature that falls towards 1 from epoch to epoch."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits / self.temperature, labels)

    def next_epoch(self):
        self.temperature.sqrt_()


class SignMomentum(torch.optim.Optimizer):
    """Steps along the sign of an average of the gradients."""

    def __init__(self, params, lr, beta) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["beta"])
                p.sub_(average.sign(), alpha=group["lr"])
        return loss


def annealed(config, num_classes):
    return Annealed(config["temperature"])


def sign_momentum(training):
    return SignMomentum(training.params, training.lr, training.config["beta"])


ANNEALED = Method(
    name="annealed",
    label="annealed",
    reads={"temperature": 4.0},
    criterion=annealed,
    tuned="temperature",
    sgd_value=1.0,
)
SIGN = Method(name="sign", reads={"beta": 0.9, "nesterov": False}, presets={"lr": 1e-3}, optimizer=sign_momentum)
