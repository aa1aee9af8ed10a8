"""Examples in the order of their label noise, to find atypical, ambiguous or wrongly labelled ones (Chapter 7)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vlls._files import expanded, write_atomically
from vlls._names import kind_of
from vlls._validation import check_known, check_whole_number
from vlls._warnings import warn_caller
from vlls.noise._call import borrowed
from vlls.noise._checks import check_labels, items_of
from vlls.noise._linearization import differentiable_input
from vlls.noise._network import Estimator, LabelNoise
from vlls.noise._options import NoiseOptions
from vlls.posterior import _AnyPosterior


@dataclass(frozen=True)
class ExampleRanking:
    """Examples ordered by their label noise, the highest first. Every column is an (N,) array.

    Attributes:
        index: place in the data set.
        label: the given label.
        predicted: the class of the largest logit at the posterior's mean.
        noise: root mean square over the posterior of the norm of the label noise over classes.
        label_noise: mean noise on the given label; below 0 the posterior smooths it, above 0 it sharpens it.
        disagreement: 1 - E_q p(given label): how little the posterior believes the label.
    """

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    noise: npt.NDArray[np.float64]
    label_noise: npt.NDArray[np.float64]
    disagreement: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.index)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns by name, as ``pandas.DataFrame`` takes them."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table; the file is the old one or the whole new one at any moment.

        Raises:
            OSError: if it cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = self.columns()
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
        write_atomically(expanded(path), text.getvalue().encode())


@torch.inference_mode(False)
def rank_examples(
    model: nn.Module,
    posterior: _AnyPosterior,
    dataset: Any,
    labels: Any,
    *,
    method: str = "rank",
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ExampleRanking:
    """Order examples by their label noise.

    Args:
        model: the network, in evaluation mode; (B, ...) inputs to (B, K) logits.
        posterior: over its parameters, as :func:`.label_noise_moments` takes it.
        dataset: (N, ...) inputs as the network takes them, or a ``torch.utils.data.Dataset`` whose items are an input
            or a tuple that starts with it.
        labels: the given labels, (N,) integers from 0 to K - 1: a tensor or array of any integer dtype, a list or a
            pandas Series with any index.
        method: how the noise is computed; see :func:`.label_noise_moments`.
        batch_size: examples at a time.
        progress: called with the numbers of examples done and in all, after each batch.
        **options: other keywords of :func:`.label_noise_moments`, such as ``rank``, ``num_samples`` and ``generator``.

    Raises:
        ValueError: if labels and examples differ in number, a label is out of range, or as
            :func:`.label_noise_moments` does.

    Warns:
        UserWarning: if ``disagreement`` is uncertain by more than 0.05 for one example in twenty, under a posterior too
            wide for the few draws with which its mean is estimated.

    Example:
        >>> from vlls import DiagonalPosterior
        >>> model = torch.nn.Linear(2, 3)
        >>> q = DiagonalPosterior(*({n: f(p.detach()) for n, p in model.named_parameters()} for f in (
        ...     torch.clone, torch.ones_like)))
        >>> table = rank_examples(model, q, torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1]))
        >>> bool((table.noise[:-1] >= table.noise[1:]).all())
        True
    """
    check_whole_number(batch_size, "batch_size", 1)
    known = sorted(field.name for field in fields(NoiseOptions) if field.name != "method")
    for name in options:
        check_known(name, known, "option")
    how = NoiseOptions(method=method, **options)
    if isinstance(dataset, torch.utils.data.DataLoader):
        raise ValueError("dataset is a DataLoader; pass its dataset, batches are made here")
    num = len(dataset)
    if num == 0:
        raise ValueError("the data set is empty; pass at least one example")
    device = next(iter(model.parameters())).device
    estimator: Estimator | None = None
    found: list[tuple[Tensor, ...]] = []
    done = 0
    for x in _batches(dataset, batch_size):
        x = differentiable_input(x.to(device))
        with borrowed(model):
            if estimator is None:
                estimator = Estimator(model, posterior, x, how)
                labels = check_labels(labels, num, max(2, estimator.num_outputs)).cpu()
            for part in estimator.parts(x):
                given = labels[done : done + len(part)].to(device)
                found.append(tuple(column.cpu() for column in _describe(estimator, part, given)))
                done += len(part)
        if progress is not None:
            progress(done, num)
    predicted, noise, on_label, disagreement, error = (torch.cat(column).numpy() for column in zip(*found, strict=True))
    if (uncertain := int((error > 0.05).sum())) > num / 20:
        more = "more num_samples" if method == "monte_carlo" else "curvature_pairs=64 or method='monte_carlo'"
        warn_caller(
            f"the disagreement of {uncertain} of {num} examples has a standard error above 0.05, "
            f"for the posterior is wide; pass {more}"
        )
    order = np.argsort(-noise, kind="stable")
    columns = (labels.numpy(), predicted, noise, on_label, disagreement)
    return ExampleRanking(order, *(column[order] for column in columns))


def _describe(estimator: Estimator, part: LabelNoise, given: Tensor) -> tuple[Tensor, ...]:
    """Return each example's prediction, magnitude, noise on the given label, disagreement with it and its error."""
    logits = part.logits.double()
    single = logits.shape[1] == 1  # logit: classes 0 and 1
    at = torch.zeros_like(given) if single else given
    columns = (part.mean_shift.double(), estimator.family.mean(logits), part.standard_error)
    on_label, p, error = (column.gather(1, at[:, None])[:, 0] for column in columns)
    if single:
        on_label = (2 * given - 1).double() * on_label
        p = torch.where(given == 1, p, 1 - p)
    predicted = (logits[:, 0] > 0).long() if single else logits.argmax(1)
    return predicted, part.magnitude.double(), on_label, 1 - (p - on_label), error


def _batches(dataset: Any, batch_size: int) -> Iterator[Tensor]:
    if isinstance(dataset, np.ndarray):
        dataset = torch.from_numpy(dataset)
    if isinstance(dataset, Tensor):
        yield from dataset.split(batch_size)
        return
    for batch in items_of(dataset, batch_size):
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not isinstance(first, Tensor):
            raise ValueError(
                f"an item of the data set has {kind_of(first)} where its input should be; wrap the data set so "
                "that an item is one tensor, or a tuple that starts with it"
            )
        yield first
