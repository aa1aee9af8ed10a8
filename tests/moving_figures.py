"""The book's interactive figures of small problems, and functions that read their data back from the HTML."""

import base64
import functools
import io
import json

import numpy as np
import torch
from bs4 import BeautifulSoup
from figures.interactive import (
    explore_examples,
    explore_label_noise,
    explore_theorem_1,
    explore_two_noises,
    explore_von_steps,
)
from PIL import Image

from vlls import GLM, Bernoulli, GaussianPosterior, von_step
from vlls.noise import LabelNoise


def features(inputs):
    return torch.cat([inputs, inputs.square(), inputs.prod(1, keepdim=True)], 1).double()


POINTS = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GLM_ = GLM(Bernoulli(), features(POINTS), (POINTS.prod(1) > 0).double())
X, Y = torch.linspace(-3, 3, 31, dtype=torch.float64), torch.linspace(-2, 2, 21, dtype=torch.float64)


def posteriors():
    found = [GaussianPosterior(torch.zeros(5), 1.0)]
    for _ in range(5):
        found.append(von_step(GLM_, found[-1], lr=0.3))
    return {t: found[t] for t in (0, 1, 2, 5)}


def network_noise(num=10, k=4):
    generator = torch.Generator().manual_seed(0)
    std = torch.rand(num, k, generator=generator) * torch.logspace(-8, -1, num)[:, None]
    return LabelNoise(
        logits=torch.randn(num, k, generator=generator),
        mean_shift=torch.zeros(num, k),
        std=std,
        magnitude=std.norm(dim=1),
        standard_error=torch.zeros(num, k),
        magnitude_error=None,
        _sources=(torch.diag_embed(std.square()),),
    )


IMAGES = torch.rand(10, 7, 5, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(10) % 4


@functools.cache
def figures():
    return {
        "label_noise": explore_label_noise(mean=1.0, variance=1.0),
        "von": explore_von_steps(GLM_, posteriors(), features, POINTS, X, Y),
        "examples": explore_examples(IMAGES, LABELS, network_noise(), shown=3),
        "two_noises": explore_two_noises(),
        "theorem_1": explore_theorem_1(),
    }


NAMES = tuple(figures())


def embedded(figure):
    """Return the data in a figure's HTML."""
    return json.loads(BeautifulSoup(figure._repr_html_(), "html.parser").find(type="application/json").string)


def opacities(address):
    """Return the opacities of a picture that is given as a data address."""
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGBA"))[..., 3] / 255
