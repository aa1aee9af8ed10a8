"""Losses with a memory keep it accurate when their module is cast."""

import pytest
import torch
from torch import nn

from vlls import MeanPredictionSmoothing, OnlineLabelSmoothing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [OnlineLabelSmoothing, MeanPredictionSmoothing])
def test_a_cast_leaves_the_statistics_accurate(kind, dtype):
    torch.manual_seed(0)
    loss, model = kind(0.5, 4), nn.Linear(2, 4)
    nn.ModuleDict({"model": model, "loss": loss}).to(dtype)
    assert model.weight.dtype == dtype
    buffers = [b for b in loss.buffers() if b.is_floating_point()]
    assert buffers and all(b.dtype == torch.float64 for b in buffers)
    for _ in range(60):
        logits = torch.randn(200, 4)
        loss(logits, logits.argmax(1))
    loss.next_epoch()
    kept = loss.soft_labels if kind is OnlineLabelSmoothing else loss.mean_prediction[None]
    assert torch.allclose(kept.sum(1), torch.ones(len(kept), dtype=kept.dtype), atol=1e-4)


def test_a_cast_to_float32_is_followed():
    assert OnlineLabelSmoothing(0.5, 4).float().soft_labels.dtype == torch.float32
