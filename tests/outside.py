"""A loss and an optimizer that are not in the package, registered as a user's module would do it."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import nn

from vlls import DiagonalPosterior
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


class SameNoise(torch.optim.SGD):
    """Takes SGD's steps at weights with noise of one size, so that it learns no Hessian."""

    generator = None
    std = 0.01

    @contextmanager
    def sampled_params(self, train=False):
        weights = [p for group in self.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in weights]
        with torch.no_grad():
            for p in weights:
                p.add_(torch.randn(p.shape, generator=self.generator), alpha=self.std)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, mean in zip(weights, before, strict=True):
                    p.copy_(mean)

    def posterior(self, model):
        mean = {name: p.detach().clone() for name, p in model.named_parameters()}
        return DiagonalPosterior(mean, {name: torch.full_like(p, self.std) for name, p in mean.items()})


def annealed(config, num_classes):
    return Annealed(config["temperature"])


def sign_momentum(training):
    return SignMomentum(training.params, training.lr, training.config["beta"])


def same_noise(training):
    return SameNoise(training.params, lr=training.lr)


ANNEALED = Method(
    name="annealed",
    label="annealed",
    reads={"temperature": 4.0},
    criterion=annealed,
    tuned="temperature",
    sgd_value=1.0,
)
SIGN = Method(name="sign", reads={"beta": 0.9, "nesterov": False}, presets={"lr": 1e-3}, optimizer=sign_momentum)
NOISE = Method(name="same_noise", variational=True, presets={"lr": 0.1}, optimizer=same_noise)
