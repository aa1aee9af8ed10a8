"""One ``torch.autocast`` block around everything: each sample and perturbation is cast to half precision again.

The reference is the same code in a block that keeps no casts.
"""

from contextlib import ExitStack

import pytest
import torch
from ivon_problems import EXECUTORS, backward, batch, executors, mlp

from vlls import IVON, SAM, predict

BOTH = pytest.mark.parametrize("caching", [True, False])


def half(cache):
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=cache)


def equal_with_and_without_cache(run):
    cached, plain = run(True), run(False)
    for a, b in zip(cached, plain, strict=True):
        assert torch.equal(a, b)
    return cached


@executors
def test_predict_averages_different_samples(executor):
    def run(cache):
        model, (x, _) = mlp(), batch()
        optimizer = IVON(
            model.parameters(), lr=0.1, ess=3.0, generator=torch.Generator().manual_seed(1), **EXECUTORS[executor]
        )
        with half(cache):
            return predict(model, optimizer, x, 1), predict(model, optimizer, x, 16)

    first, average = equal_with_and_without_cache(run)
    assert (first - average).abs().max() > 0.05


@pytest.mark.parametrize("how", ["contexts", "closure", "kept", "mean after a sample", "mean after a step"])
@executors
def test_ivon(executor, how):
    def run(cache):
        model, data = mlp(), batch()
        options = {"mc_samples": 2 if how == "closure" else 1, **EXECUTORS[executor]}
        optimizer = IVON(model.parameters(), lr=0.5, ess=3.0, generator=torch.Generator().manual_seed(1), **options)
        seen = []
        with half(cache), ExitStack() as kept:
            if how == "kept":
                kept.enter_context(optimizer.keep_sampled())
            for _ in range(3):
                seen.append(model(data[0]).detach())
                if how == "closure":
                    seen.append(optimizer.step(lambda: backward(model, optimizer, data)))
                    continue
                for _ in range(1 if how == "kept" else 2):
                    with ExitStack() as sample:
                        if how != "kept":
                            sample.enter_context(optimizer.sampled_params(train=True))
                        seen.append(backward(model, optimizer, data).detach())
                    if how == "mean after a sample":
                        seen.append(model(data[0]).detach())
                optimizer.step()
        return [*seen, *(p.detach().clone() for p in model.parameters())]

    equal_with_and_without_cache(run)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam(adaptive):
    def run(cache, rho=0.5):
        model, data = mlp(), batch()
        optimizer = SAM(model.parameters(), torch.optim.SGD, rho=rho, adaptive=adaptive, lr=0.5, momentum=0.9)

        with half(cache):
            losses = [optimizer.step(lambda: backward(model, optimizer, data)).detach() for _ in range(3)]
            return [*losses, model(data[0]).detach(), *(p.detach().clone() for p in model.parameters())]

    sharp = equal_with_and_without_cache(run)
    assert not torch.equal(sharp[-1], run(True, rho=0.0)[-1])  # of plain SGD
