"""Probabilities of a whole data set, for each of a few draws of the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from vlls._compiled import uncompiled
from vlls._errors import one_line
from vlls._locks import holding_model
from vlls._names import kind_of
from vlls._validation import check_generator, check_whole_number
from vlls.noise._checks import items_of, passes
from vlls.optim._predict import _draws_of, _evaluating, _probabilities
from vlls.optim._protocol import VariationalOptimizer
from vlls.optim._wrapped import itself
from vlls.posterior import Posterior, _LearnsPosterior

AnyPosterior = VariationalOptimizer | Posterior | _LearnsPosterior | None
Forward = Callable[[nn.Module, Any], Any]
Progress = Callable[[int, int], None]

_LABELS = ("labels", "label")  # the entries of a batch that hold the given labels, if it is a dict


class Batch(NamedTuple):
    """A batch of a data set after the passes forward."""

    probabilities: npt.NDArray[Any]  # (S, B, K)
    labels: Any  # as the data set has them, or None
    digests: npt.NDArray[np.uint64]  # (B,): equal inputs have equal ones


def sampled_probabilities(
    model: nn.Module,
    posterior: AnyPosterior,
    dataset: Any,
    *,
    num_samples: int = 8,
    batch_size: int = 256,
    forward: Forward | None = None,
    progress: Progress | None = None,
    generator: torch.Generator | None = None,
) -> npt.NDArray[Any]:
    """Return the class probabilities of every example of a data set for each of a few draws of the weights.

    Their mean over the first axis is the (N, K) array that :func:`label_errors_from_probabilities`,
    :func:`fit_correction` and cleanlab take; the first two take the (S, N, K) array too. Every example sees the same
    draws. The model is in evaluation mode meanwhile and afterwards as it was.

    Args:
        model: the network; it returns logits, (B, K) or, for two classes, (B,) or (B, 1), or an object with them as its
            ``logits``, as those of Hugging Face's transformers do.
        posterior: the optimizer that trained it, such as :class:`.IVON`, any :class:`.Posterior` over its parameters,
            or None for a plain network, which is asked once.
        dataset: a tensor or array (N, ...), a table of numbers (``pandas.DataFrame``), a dict of tensors with N rows
            each, a ``torch.utils.data.Dataset``, or a ``DataLoader``, of which the data set is read from the first
            example to the last, without shuffling. An item, or a batch of a loader, is an input, a tuple that starts
            with one, or a dict of the model's keywords; a dict's ``labels`` or ``label`` are left out.
        num_samples: number S of draws of the weights; 0 for the posterior's mean alone.
        batch_size: examples at a time, unless a loader has its own.
        forward: called with the model and a batch, as the data set has it, on the model's device; returns the logits.
            For batches of any other form.
        progress: called with the numbers of examples done and in all (0 if unknown), after each batch.
        generator: for the draws, on the model's device. Without one they are the same in every call.

    Returns:
        (S, N, K), float32 or the model's wider dtype; S is 1 for a plain network and for ``num_samples=0``.

    Raises:
        ValueError: if an argument is not allowed, the posterior does not fit the model, or the model fails on an
            example or returns NaN.

    Example:
        >>> from vlls import DiagonalPosterior
        >>> model = torch.nn.Linear(2, 3)
        >>> q = DiagonalPosterior(*({n: f(p.detach()) for n, p in model.named_parameters()} for f in (
        ...     torch.clone, torch.ones_like)))
        >>> sampled_probabilities(model, q, torch.randn(5, 2), num_samples=4).shape
        (4, 5, 3)
        >>> sampled_probabilities(model, None, torch.randn(5, 2)).shape
        (1, 5, 3)
    """
    batches = walk(model, posterior, dataset, num_samples, batch_size, forward, progress, generator)
    return np.concatenate([batch.probabilities for batch in batches], axis=1)


@torch.no_grad()
def walk(
    model: nn.Module,
    posterior: AnyPosterior,
    dataset: Any,
    num_samples: int,
    batch_size: int,
    forward: Forward | None,
    progress: Progress | None,
    generator: torch.Generator | None,
) -> Iterator[Batch]:
    """Yield the data set in batches; the arguments are those of :func:`sampled_probabilities`."""
    check_whole_number(num_samples, "num_samples", 0)
    check_whole_number(batch_size, "batch_size", 1)
    check_generator(generator)
    model = uncompiled(model)
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    if generator is None:
        generator = torch.Generator(like.device).manual_seed(0)
    draw = _draws(model, posterior, num_samples, generator)
    num_samples = num_samples if posterior is not None else 0
    start = generator.get_state()
    done, total = 0, length_of(dataset)
    for batch in _batches(dataset, batch_size, like.dtype):
        found = []
        digests, labels = _digests(batch), _labels_of(batch)
        batch = _moved(batch, like.device)
        generator.set_state(start)  # the same weights for every batch
        with ExitStack() as blocks:
            blocks.enter_context(holding_model(model))
            blocks.enter_context(_evaluating(model))
            for _ in range(max(1, num_samples)):
                with draw():
                    found.append(_rows(_called(model, batch, forward), len(digests)))
        done += len(digests)
        yield Batch(torch.stack(found).cpu().numpy(), labels, digests)
        if progress is not None:
            progress(done, max(done, total))
    if done == 0:
        raise ValueError("the data set is empty; pass at least one example")


def _draws(
    model: nn.Module, posterior: AnyPosterior, num_samples: int, generator: torch.Generator
) -> Callable[[], AbstractContextManager[None]]:
    """Return a function that makes a context in which the model has a draw of the posterior, or its mean."""
    if posterior is None:
        return nullcontext
    if isinstance(posterior, VariationalOptimizer):
        posterior = itself(posterior)
    return _draws_of(model, posterior, 1.0 if num_samples else 0.0, generator)


def _called(model: nn.Module, batch: Any, forward: Forward | None) -> Tensor:
    """Return the model's class probabilities of a batch."""
    x = _input(batch)
    if forward is not None:
        logits = forward(model, batch)
    elif isinstance(x, Mapping):
        logits = model(**{name: value for name, value in x.items() if name not in _LABELS})
    elif isinstance(x, Tensor):
        with passes(x):
            logits = model(x)
    else:
        raise ValueError(
            f"an item of the data set has {kind_of(x)} where its input should be; pass forward=..., a function of the "
            "model and a batch that returns the logits"
        )
    return _probabilities(getattr(logits, "logits", logits))


def _rows(p: Tensor, num: int) -> Tensor:
    """Return probabilities (B, K), of two classes if the model has one logit."""
    if p.ndim == 1 or p.shape[1:] == (1,):
        p = torch.stack([1 - p.flatten(), p.flatten()], dim=1)
    if p.ndim != 2 or len(p) != num or p.shape[1] == 0:
        raise ValueError(f"the model returned shape {tuple(p.shape)} for {num} examples; it needs ({num}, K)")
    if bool(p.isnan().any()):
        raise ValueError("the model returned logits that are NaN or infinite; look at its weights and its inputs")
    return p


# ------------------------------------------------------------------ data sets
def _batches(dataset: Any, batch_size: int, dtype: torch.dtype) -> Iterator[Any]:
    """Yield batches in the order of the data set, in the form of its items."""
    dataset = as_tensors(dataset, dtype)
    if isinstance(dataset, Tensor | Mapping) and length_of(dataset) == 0:
        return
    if isinstance(dataset, Tensor):
        yield from dataset.split(batch_size)
    elif isinstance(dataset, Mapping):
        for at in range(0, length_of(dataset), batch_size):
            yield {name: value[at : at + batch_size] for name, value in dataset.items()}
    elif isinstance(dataset, DataLoader) and not isinstance(dataset.dataset, IterableDataset):
        yield from items_of(
            dataset.dataset,
            dataset.batch_size or batch_size,
            collate_fn=dataset.collate_fn,
            num_workers=dataset.num_workers,
            multiprocessing_context=dataset.multiprocessing_context,
            worker_init_fn=dataset.worker_init_fn,
        )
    elif isinstance(dataset, DataLoader):
        yield from dataset
    else:
        yield from items_of(dataset, batch_size)


def as_tensors(dataset: Any, dtype: torch.dtype) -> Any:
    """Return arrays, tables and dicts of either as tensors, other data sets as they are."""
    if isinstance(dataset, Mapping):
        found = {name: as_tensors(value, dtype) for name, value in dataset.items()}
        found = {n: v if isinstance(v, Tensor) else torch.as_tensor(v) for n, v in found.items() if n not in _LABELS}
        if len({len(value) for value in found.values()}) != 1:
            shown = ", ".join(f"{name!r} {len(value)}" for name, value in found.items())
            raise ValueError(f"the dict's entries have different numbers of rows ({shown}); pass one row an example")
        return {**found, **{name: dataset[name] for name in _LABELS if name in dataset}}
    if hasattr(dataset, "to_numpy"):  # of pandas, polars, ...
        try:
            dataset = np.asarray(dataset, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the table holds more than numbers ({one_line(error)}); encode those columns first"
            ) from error
    if isinstance(dataset, np.ndarray):
        dataset = torch.from_numpy(dataset if dataset.flags.writeable else dataset.copy())
        return dataset.to(dtype) if dataset.is_floating_point() else dataset
    return dataset


def length_of(dataset: Any) -> int:
    """Return the number of examples, 0 if it is unknown."""
    if isinstance(dataset, Mapping):
        return len(next((value for name, value in dataset.items() if name not in _LABELS), ()))
    source: Any = dataset.dataset if isinstance(dataset, DataLoader) else dataset
    try:
        return len(source)
    except TypeError:
        return 0


def _labels_of(batch: Any) -> Any:
    """Return the given labels in a batch, or None if it has none."""
    if isinstance(batch, tuple | list) and len(batch) > 1 and not _are_texts(batch):
        return batch[1]
    x = _input(batch)
    return next((x[name] for name in _LABELS if name in x), None) if isinstance(x, Mapping) else None


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _moved(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return [_moved(value, device) for value in batch]
    return batch


def _input(batch: Any) -> Any:
    """Return the input of a batch, which may be texts."""
    return batch[0] if isinstance(batch, tuple | list) and not _are_texts(batch) else batch


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(entry, str) for entry in value)


def _contents(x: Any) -> Iterator[list[bytes]]:
    """Yield the rows of each part of a batch's input, which may have any form."""
    if isinstance(x, Tensor) and x.ndim:
        yield [row.tobytes() for row in x.detach().cpu().contiguous().view(len(x), -1).view(torch.uint8).numpy()]
    elif _are_texts(x):
        yield [text.encode() for text in x]
    elif isinstance(x, Mapping | tuple | list):
        parts = [x[name] for name in x if name not in _LABELS] if isinstance(x, Mapping) else x
        yield from chain.from_iterable(map(_contents, parts))


def _digests(batch: Any) -> npt.NDArray[np.uint64]:
    """Return a hash (B,) of each input of a batch."""
    x = _input(batch)
    contents = list(_contents(x))
    if not contents:
        raise ValueError(
            f"an item of the data set has {kind_of(x)} where its input should be; wrap the data set so that an item "
            "holds a tensor, numbers or a text"
        )
    digests = [hashlib.blake2b(b"".join(row), digest_size=8).digest() for row in zip(*contents, strict=True)]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
