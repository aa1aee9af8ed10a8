"""Predictions averaged over the posterior."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vlls._locks import holding, holding_model
from vlls._names import kind_of
from vlls._validation import check_whole_number
from vlls.optim._wrapped import itself
from vlls.optim.ivon import IVON

__all__ = ["predict"]


@torch.no_grad()
def predict(
    model: torch.nn.Module, optimizer: IVON, x: Any, num_samples: int = 32, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Class probabilities averaged over weights, :math:`\mathbb E_{q(\theta)}[p(y \mid x, \theta)]`.

    The model is in evaluation mode meanwhile and afterwards as it was; nothing of it changes. Other threads that want
    the optimizer's samples wait.

    Args:
        model: returns logits, (B, K) or (B, K, ...) for K >= 2 classes, (B,) or (B, 1) for two.
        optimizer: the IVON optimizer that trains the model.
        x: what the model takes: a batch of inputs.
        num_samples: number S of draws of the weights, >= 1; the error falls as 1 / sqrt(S).
        generator: for the draws, in the place of the optimizer's own, so that training goes on as if nothing had been
            drawn.

    Returns:
        Probabilities of the logits' shape, in float32 or better; softmax over the second axis, or the probability of
        class 1 where there is one logit an example.

    Raises:
        ValueError: if ``num_samples`` is below 1, the optimizer is no IVON or trains no parameter of the model, or the
            model returns anything but a tensor of logits.
        RuntimeError: inside a sample.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(5, 3)
        >>> optimizer = IVON(model.parameters(), lr=0.1, ess=64)
        >>> predict(model, optimizer, torch.randn(8, 5), num_samples=4).sum(1).allclose(torch.ones(8))
        True
    """
    check_whole_number(num_samples, "num_samples", 1)
    if not isinstance(optimizer, IVON):
        inside = ", here its .optimizer" if isinstance(getattr(optimizer, "optimizer", None), IVON) else ""
        kind = type(optimizer).__name__
        raise ValueError(f"optimizer is of type {kind}; pass the IVON that trains the model{inside}")
    optimizer = itself(optimizer)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    total: Tensor | None = None
    with holding(trained), holding_model(model), _evaluating(model), _drawing_from(optimizer, generator):
        if not {id(p) for p in trained} & {id(p) for p in model.parameters()}:
            raise ValueError(
                "the optimizer trains no parameter of this model, so there is nothing to average; pass the model that "
                "it was made with, not a copy or an average of it"
            )
        for _ in range(num_samples):
            with optimizer.sampled_params(train=False):
                logits = _checked(model(x))
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            binary = logits.ndim == 1 or logits.shape[1] == 1
            probabilities = logits.sigmoid() if binary else logits.softmax(1)
            total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total.div_(num_samples)


def _checked(logits: Any) -> Tensor:
    """Return a model's output, or raise a ValueError that says how to make logits of it."""
    if isinstance(logits, Tensor) and logits.is_floating_point() and logits.ndim:
        return logits
    if isinstance(logits, Tensor):
        given = f"a tensor of shape {tuple(logits.shape)} and {logits.dtype}"
        advice = "real logits, a row an example"
    else:
        heads = [*logits] if isinstance(logits, Mapping) else len(logits) if isinstance(logits, tuple | list) else None
        given = kind_of(logits) + (f" of {heads}" if heads is not None else "")
        advice = "one tensor of logits"
        if hasattr(logits, "logits"):
            advice += ", here its .logits"
    raise ValueError(f"the model returns {given}; wrap it in a module whose forward returns {advice}")


@contextmanager
def _drawing_from(optimizer: IVON, generator: torch.Generator | None) -> Iterator[None]:
    """Let the optimizer draw from a generator, if one is given."""
    own = optimizer.generator
    optimizer.generator = own if generator is None else generator
    try:
        yield
    finally:
        optimizer.generator = own


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for every module, then each as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
