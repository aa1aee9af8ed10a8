"""Label noise of examples that see each other in a batch: it is refused."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import IMAGE, SEQUENCE, VECTOR, D, Net, built, chain, hidden, linear, posterior_of
from torch import nn

from vlls import label_noise, label_noise_moments, rank_examples
from vlls.noise import logit_covariance, sam_label_noise
from vlls.noise._options import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def together(call):
    return lambda: hidden(call, a=linear(), b=nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0))


MIXED = {
    "centred": (together(lambda m, x: (h := m.a(x)) - h.mean(0)), VECTOR),
    "batch norm by hand": (together(lambda m, x: F.batch_norm(m.a(x), None, None, training=True)), VECTOR),
    "batch norm of images": (
        lambda: chain(Net(lambda m, x: F.batch_norm(m.c(x), None, None, training=True), c=nn.Conv2d(2, 2, 3))),
        IMAGE,
    ),
    "attention over the batch": (together(lambda m, x: m.b(x)[:, 0]), SEQUENCE),
    "sums over the batch": (together(lambda m, x: m.a(x).cumsum(0)), VECTOR),
    "sums from the end": (together(lambda m, x: m.a(x).flip(0).cumsum(0).flip(0)), VECTOR),
    "shares of the batch": (together(lambda m, x: m.a(x).softmax(0)), VECTOR),
    "divided by the largest": (together(lambda m, x: m.a(x) / m.a(x).abs().max()), VECTOR),
    "divided by the number": (together(lambda m, x: m.a(x) / len(x)), VECTOR),
    "compared with the first": (together(lambda m, x: m.a(x) - m.a(x[:1])), VECTOR),
    "neighbours": (together(lambda m, x: m.a(x) + x.roll(1, 0)), VECTOR),
    "distances": (together(lambda m, x: (m.a(x)[:, None] - m.a(x)).abs().sum(1)), VECTOR),
    "tokens of the batch": (
        lambda: hidden(lambda m, t: m.a(t).mean(1) - m.a(t).mean((0, 1)), a=nn.Embedding(6, 4)),
        None,
    ),
}


@pytest.mark.parametrize("dtype", [D, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MIXED)
def test_examples_that_see_each_other_are_refused(name, dtype):
    model, x = built(*MIXED[name], D)
    model, x = model.to(dtype), x.to(dtype) if x.is_floating_point() else x
    q = posterior_of(model, 0.01, spread=True)
    calls = [functools.partial(label_noise, method=m) for m in METHODS]
    for some in (x, x[:1], x[[0, 0]]):  # one example, alone or twice, cannot be compared with another
        for call in (*calls, label_noise_moments, logit_covariance):
            with pytest.raises(ValueError, match="the logits of an example change with the others of its batch"):
                call(model, q, some)
        labels = np.zeros(len(some), dtype=np.uint8)
        with pytest.raises(ValueError, match="change with the others of its batch"):
            rank_examples(model, q, some, labels, method="monte_carlo")
        with pytest.raises(ValueError, match="change with the others of its batch"):
            sam_label_noise(model, some, labels)
