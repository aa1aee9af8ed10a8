"""A small network in float64 with a posterior of uneven width, its inputs and labels."""

import torch
from cases import D, posterior_of
from cases import mlp as network

LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])


def mlp(outputs=3):
    return network(outputs=outputs, dtype=D)


def uneven(model, scale=0.2):
    return posterior_of(model, scale, spread=True)


def inputs(num=7):
    return torch.randn(num, 4, dtype=D)
