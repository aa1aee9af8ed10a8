"""Predictions averaged over the posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vlls._compiled import uncompiled
from vlls._locks import holding, holding_model
from vlls._names import kind_of
from vlls._validation import check_generator, check_whole_number, is_number
from vlls.optim._protocol import VariationalOptimizer
from vlls.optim._wrapped import itself
from vlls.posterior import Posterior, _LearnsPosterior


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    posterior: VariationalOptimizer | Posterior | _LearnsPosterior,
    x: Any,
    num_samples: int = 32,
    *,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Class probabilities averaged over weights, :math:`\mathbb E_{q(\theta)}[p(y \mid x, \theta)]`.

    The model is in evaluation mode meanwhile and afterwards as it was; nothing of it changes, buffers included. Other
    threads that want the optimizer's samples wait.

    Args:
        model: returns logits, (B, K) or (B, K, ...) for K >= 2 classes, (B,) or (B, 1) for two.
        posterior: the optimizer that trains the model, such as :class:`.IVON`, or any :class:`.Posterior` over its
            parameters.
        x: the model's input, a batch.
        num_samples: number S of draws of the weights, >= 1; the error falls as 1 / sqrt(S).
        scale: multiplies the standard deviations, >= 0: below 1 the draws are closer to the mean, and at 0 the
            probabilities are the mean's, from one pass. If it is not 1, an optimizer's posterior is copied.
        generator: for the draws. An optimizer otherwise draws from its own, so that training goes on as if nothing had
            been drawn only if one is given here.

    Returns:
        Probabilities of the logits' shape, in float32 or better; softmax over the second axis, or the probability of
        class 1 where there is one logit an example.

    Raises:
        ValueError: if ``num_samples`` is below 1 or ``scale`` below 0, the posterior is none or does not fit the model,
            the optimizer trains no parameter of the model, or the model returns anything but a tensor of logits.
        RuntimeError: inside a sample of the optimizer.

    Example:
        >>> from vlls import IVON
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(5, 3)
        >>> optimizer = IVON(model.parameters(), lr=0.1, ess=64)
        >>> predict(model, optimizer, torch.randn(8, 5), num_samples=4).sum(1).allclose(torch.ones(8))
        True
        >>> predict(model, optimizer.posterior(model), torch.randn(8, 5), num_samples=4).shape
        torch.Size([8, 3])
        >>> x = torch.randn(8, 5)
        >>> predict(model, optimizer, x, scale=0.0).allclose(model(x).softmax(1))
        True
    """
    check_whole_number(num_samples, "num_samples", 1)
    if not is_number(scale) or not 0 <= scale < math.inf:
        raise ValueError(f"scale={scale!r} is not allowed; choose a finite number >= 0, 1 for the posterior as it is")
    num_samples = num_samples if scale else 1
    check_generator(generator)
    # compiled, it would be compiled again at each sample: torch compiles the hook that keeps its running state too
    model = uncompiled(model)
    with ExitStack() as blocks:
        if isinstance(posterior, VariationalOptimizer):
            optimizer = itself(posterior)
            trained = [p for group in optimizer.param_groups for p in group["params"]]  # type: ignore[attr-defined]
            blocks.enter_context(holding(trained))
            if not {id(p) for p in trained} & {id(p) for p in model.parameters()}:
                raise ValueError(
                    "the optimizer trains no parameter of this model, so there is nothing to average; pass the model "
                    "that it was made with, not a copy or an average of it"
                )
            if scale == 1:
                blocks.enter_context(_drawing_from(optimizer, generator))
                draw: Callable[[], AbstractContextManager[None]] = partial(optimizer.sampled_params, train=False)
            else:
                draw = _draws_of(model, optimizer, scale, generator or optimizer.generator)
        else:
            draw = _draws_of(model, posterior, scale, generator)
        blocks.enter_context(holding_model(model))
        blocks.enter_context(_evaluating(model))
        total: Any = 0
        for _ in range(num_samples):
            with draw():
                total += _probabilities(model(x))
        return total / num_samples


def _draws_of(
    model: torch.nn.Module, posterior: Any, scale: float, generator: torch.Generator | None
) -> Callable[[], AbstractContextManager[None]]:
    """Return a function that makes a context in which the model has a draw of a scaled posterior."""
    from vlls.noise._call import Call
    from vlls.noise._posterior import posterior_of

    checked = posterior_of(model, posterior)
    call = Call(model, checked.mean)

    def draw() -> AbstractContextManager[None]:
        step = checked.step(generator)
        return call.carrying({name: mean + scale * step[name] for name, mean in checked.mean.items()})

    return draw


def _probabilities(logits: Any) -> Tensor:
    """Return class probabilities of a model's output, in float32 at least, if it is a tensor of logits."""
    if isinstance(logits, Tensor) and logits.is_floating_point() and logits.layout == torch.strided and logits.ndim:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.sigmoid() if logits.ndim == 1 or logits.shape[1] == 1 else logits.softmax(1)
    if isinstance(logits, Tensor):
        given = f"a tensor of shape {tuple(logits.shape)} and {logits.dtype}, {logits.layout}"
        advice = "dense real logits, a row an example"
    else:
        heads = [*logits] if isinstance(logits, Mapping) else len(logits) if isinstance(logits, tuple | list) else None
        given = kind_of(logits) + (f" of {heads}" if heads is not None else "")
        advice = "one tensor of logits"
        if hasattr(logits, "logits"):
            advice += ", here its .logits"
    raise ValueError(f"the model returns {given}; wrap it in a module whose forward returns {advice}")


@contextmanager
def _drawing_from(optimizer: VariationalOptimizer, generator: torch.Generator | None) -> Iterator[None]:
    """Let the optimizer draw from a generator, if one is given."""
    before = optimizer.generator
    optimizer.generator = before if generator is None else generator
    try:
        yield
    finally:
        optimizer.generator = before


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode within the block, and restore its mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
