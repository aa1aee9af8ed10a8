"""Labels that are probably wrong, of a network's training images or of any array of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlls._names import check_known
from vlls._validation import check_rate, check_whole_number
from vlls._warnings import warn_caller
from vlls.label_errors._given import MISSING, Classes, given_labels
from vlls.label_errors._sampled import AnyPosterior, Forward, Progress, as_tensors, walk
from vlls.label_errors._scores import (
    SCORES,
    Floats,
    adjusted,
    confident_class,
    confidently_wrong,
    count_pairs,
    error_times_variance,
    of_class,
    score_of,
)
from vlls.label_errors._table import make_table
from vlls.noise import rank_examples
from vlls.smoothing._base import check_probabilities, describe

Flag = str | int | float


def find_label_errors(
    model: nn.Module,
    posterior: AnyPosterior,
    dataset: Any,
    labels: Any = None,
    *,
    score: str = "self_confidence",
    flag: Flag = "confident_joint",
    adjust: bool = False,
    classes: Sequence[str] | None = None,
    noise: bool = False,
    num_samples: int = 8,
    batch_size: int = 256,
    forward: Forward | None = None,
    progress: Progress | None = None,
    generator: torch.Generator | None = None,
) -> Any:
    r"""Find labels that are probably wrong, among those that a network was trained on or any others.

    The network is asked for the probability of each given label, averaged over its posterior. A network that IVON
    trained ranks the wrong labels of its own training images about as well as networks that are trained without them,
    one for each fold; one that has learned its labels by heart does not.

    Args:
        model: the network, as :func:`sampled_probabilities` takes it.
        posterior: over its weights, or the optimizer that learned it, or None for a plain network.
        dataset: the N examples, as :func:`sampled_probabilities` takes them: tensors, arrays, tables, dicts, data sets
            and loaders.
        labels: the given labels, whole numbers from 0 to K - 1, or names with ``classes``; -1, None and NaN stand for
            a missing one. If left out, those of the data set: the second entry of its items, or their ``labels``.
        score: how suspicious a label is; see below.
        flag: which labels are flagged; see below.
        adjust: take the mean probability of each class's own label off before scoring, so that labels of rare and hard
            classes, whose probabilities are lower, are not the first for that reason alone.
        classes: the K class names, in the order of the model's outputs; the table then has names in place of numbers.
        noise: add the size of each example's label noise (:func:`.rank_examples`), which costs several times as much.
            It finds ambiguous examples, not wrong labels (Chapter 7).
        num_samples: draws of the weights; 0 for the posterior's mean alone.
        batch_size: examples at a time.
        forward: of the model and a batch to logits, for data of another form.
        progress: called with the numbers of examples done and in all, after each batch.
        generator: for the draws, on the model's device. Without one they are the same in every call.

    The scores, of which a higher one is more suspicious:

    - ``self_confidence``: 1 - p(given).
    - ``margin``: half of 1 - p(given) + the largest of the other probabilities.
    - ``error_times_variance``: how far the logits would move if the example were left out of training, by the
      memory-perturbation equation of Nickl et al. (2023): the norm of V e for the covariance V of the logits over the
      posterior and the error e = p - y. It needs two draws, and is noisy with a few.

    The flags:

    - ``"confident_joint"``: labels off the diagonal of the confident joint of Northcutt et al. (2021), as cleanlab's
      ``find_label_issues(filter_by="confident_learning")`` flags them. It needs no number.
    - a whole number, such as 500: so many labels with the highest scores.
    - a rate, such as 0.1: this share of the labels that are there.

    Returns:
        A table with a row for each example, the most suspicious first: a ``pandas.DataFrame``, or, without pandas,
        an object with the same columns (``table["score"]``, ``table.columns``, ``table[:10]``, ``table.to_csv(path)``).

        - ``index``: place in the data set;
        - ``given``: the label, -1 (or an empty name) if it is missing;
        - ``suggested``: the most probable class;
        - ``score``: as asked for, NaN for a missing label;
        - ``p_given``, ``p_suggested``: the probabilities of both, averaged over the posterior;
        - ``spread``: standard deviation of p(given) over the posterior, NaN without draws;
        - ``noise``: size of the label noise, if it was asked for;
        - ``flag``: whether the label is flagged.

    Raises:
        ValueError: if labels and examples differ in number, a label is no class, or an argument is not allowed.

    Warns:
        UserWarning: with the number of examples that have the same input as another one and a different label, of
            files that could not be read (their rows have no probabilities), or of names that are no class.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x = torch.cat([torch.randn(20, 2) - 3, torch.randn(20, 2) + 3])
        >>> y = torch.tensor([0] * 20 + [1] * 20)
        >>> y[7] = 1                                                       # a wrong label
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> for _ in range(50):
        ...     torch.nn.functional.cross_entropy(model(x), y).backward()
        ...     optimizer.step(); optimizer.zero_grad()
        >>> table = find_label_errors(model, None, x, y, flag=1)
        >>> list(table.columns)
        ['index', 'given', 'suggested', 'score', 'p_given', 'p_suggested', 'spread', 'flag']
        >>> first = table[:1]
        >>> [int(first[name][0]) for name in ("index", "given", "suggested", "flag")], int(table["flag"].sum())
        ([7, 1, 0, 1], 1)
    """
    _check_choices(score, flag)
    if noise and (posterior is None or forward is not None):
        raise ValueError("noise=True needs a posterior and a model of one tensor; leave noise or forward out")
    walked = list(walk(model, posterior, dataset, num_samples, batch_size, forward, progress, generator))
    probabilities = np.concatenate([batch.probabilities for batch in walked], axis=1)
    found = _joined([batch.labels for batch in walked]) if labels is None else labels
    given = given_labels(found, probabilities.shape, classes)
    if unread := [at for at in getattr(dataset, "unreadable", ()) if at < len(given)]:  # of RunImages
        warn_caller(f"{len(unread)} example(s) could not be read, such as {min(unread)}; their labels are not judged")
        probabilities[:, unread] = np.nan
    _tell_duplicates(np.concatenate([batch.digests for batch in walked]), given)
    sizes = _noise(model, posterior, dataset, given, batch_size, generator) if noise else None
    return _table(probabilities, given, score, flag, adjust, classes, sizes)


def label_errors_from_probabilities(
    probabilities: Any,
    labels: Any,
    *,
    score: str = "self_confidence",
    flag: Flag = "confident_joint",
    adjust: bool = False,
    classes: Sequence[str] | None = None,
) -> Any:
    """Find labels that are probably wrong by probabilities that some classifier gave them.

    Scores, flags and the table are those of :func:`find_label_errors`.

    Args:
        probabilities: (N, K), of any classifier, best of one that was not trained on these labels; or (S, N, K), for
            each of S draws of the weights (:func:`sampled_probabilities`), of a cross-validation repeated S times, or
            of S networks; or (N,), of class 1 of two. A row of NaN stands for an example without a prediction.
        labels: as there.
        score: as there; ``error_times_variance`` needs (S, N, K) with S of 2 or more.
        flag: as there.
        adjust: as there.
        classes: as there.

    Returns:
        The table of :func:`find_label_errors`, without ``noise``.

    Raises:
        ValueError: if a row is no probability distribution, labels and rows differ in number, or a label is no class.

    Example:
        >>> p = [[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.3, 0.7], [0.9, 0.1]]
        >>> table = label_errors_from_probabilities(p, ["cat", "cat", "dog", None, "dog"], classes=["cat", "dog"])
        >>> for row in zip(*(table[name] for name in ("index", "given", "suggested", "p_given", "flag"))):
        ...     print(*row)
        4 dog cat 0.1 True
        1 cat cat 0.7 False
        0 cat cat 0.8 False
        2 dog dog 0.9 False
        3  dog nan False
    """
    _check_choices(score, flag)
    checked = checked_probabilities(probabilities)
    given = given_labels(labels, checked.shape, classes)
    return _table(checked, given, score, flag, adjust, classes, None)


# ------------------------------------------------------------------ the table
def _table(
    samples: Floats,
    given: Classes,
    score: str,
    flag: Flag,
    adjust: bool,
    classes: Sequence[str] | None,
    noise: Floats | None,
) -> Any:
    """Return the table of probabilities (S, N, K) and labels (N,)."""
    if score == "error_times_variance" and len(samples) < 2:
        raise ValueError("score='error_times_variance' needs a posterior and num_samples of 2 or more")
    p = samples.mean(axis=0)
    predicted = ~np.isnan(p).any(axis=1)
    judged = predicted & (given != MISSING)
    if not judged.any():
        raise ValueError("no example has both a label and a prediction; pass at least one")
    best = np.full(len(given), MISSING)
    best[predicted] = p[predicted].argmax(axis=1)
    scores, flags = np.full(len(given), np.nan), np.zeros(len(given), bool)
    own, of = p[judged], given[judged]
    if score == "error_times_variance":
        scores[judged] = error_times_variance(samples[:, judged], of)
    else:
        scores[judged] = score_of(score, adjusted(own, of) if adjust else own, of)
    order = np.argsort(-scores, kind="stable")  # NaN last
    if flag == "confident_joint":
        _tell_one_class(of, p.shape[1])
        flags[judged] = confidently_wrong(own, of)
    else:
        flags[order[: _number(flag, int(judged.sum()))]] = True
    spread = of_class(samples.std(axis=0, ddof=1), given) if len(samples) > 1 else np.full(len(given), np.nan)
    columns = {
        "index": np.arange(len(given)),
        "given": _named(given, classes),
        "suggested": _named(best, classes),
        "score": scores,
        "p_given": of_class(p, given),
        "p_suggested": of_class(p, best),
        "spread": spread,
        **({} if noise is None else {"noise": noise}),
        "flag": flags,
    }
    return make_table({name: column[order] for name, column in columns.items()})


def _named(classes: Classes, names: Sequence[str] | None) -> npt.NDArray[Any]:
    """Return the names of classes, empty for a missing one; the classes themselves where there are no names."""
    return classes if names is None else np.array([*names, ""], dtype=object)[classes]


def _number(flag: Flag, labelled: int) -> int:
    """Return how many labels are flagged, of a number or a rate."""
    assert not isinstance(flag, str)
    number = round(flag * labelled) if isinstance(flag, float | np.floating) else int(flag)
    if number > labelled:
        raise ValueError(f"flag={flag!r} and {labelled} examples have a label; flag fewer")
    return number


def _check_choices(score: str, flag: Flag) -> None:
    check_known(score, SCORES, "score")
    if isinstance(flag, float | np.floating):
        check_rate(float(flag), "flag", include_zero=True)
    elif isinstance(flag, str):
        check_known(flag, ("confident_joint",), "flag", ", or pass a number of labels or a rate")
    else:
        check_whole_number(flag, "flag", 0)


# ------------------------------------------------------------------ warnings
def _tell_one_class(given: Classes, num_classes: int) -> None:
    if len(present := np.unique(given)) == 1 and num_classes > 1:
        warn_caller(
            f"all {len(given)} labels are of class {present[0]}, so that the confident joint flags none; flag by a "
            "number or a rate"
        )


def _tell_duplicates(digests: npt.NDArray[np.uint64], given: Classes) -> None:
    """Warn of examples that have the same input and different labels."""
    labelled = np.flatnonzero(given != MISSING)
    group = np.unique(digests[labelled], return_inverse=True)[1]
    pairs = np.unique(np.stack([group, given[labelled]]), axis=1)
    disagree = np.flatnonzero((np.bincount(pairs[0]) > 1)[group])
    if not len(disagree):
        return
    same = disagree[group[disagree] == group[disagree[0]]]
    other = same[given[labelled[same]] != given[labelled[same[0]]]][0]
    warn_caller(
        f"{len(disagree)} examples have the same input as another one and a different label, such as "
        f"{labelled[same[0]]} and {labelled[other]}; at least one label of each such group is wrong"
    )


# ------------------------------------------------------------------ input
def checked_probabilities(probabilities: Any) -> Floats:
    """Return probabilities (S, N, K) of an array (N,), (N, K) or (S, N, K), after a check that they are some."""
    p = torch.as_tensor(probabilities if isinstance(probabilities, Tensor) else np.array(probabilities)).detach().cpu()
    if not p.is_floating_point() or p.ndim not in (1, 2, 3) or p.numel() == 0:
        raise ValueError(
            f"probabilities are {describe(p)}; pass floats of shape (N, K), (S, N, K) for S draws, or (N,) for the "
            "probabilities of class 1 of two, with at least one example"
        )
    p = p if p.dtype == torch.float64 else p.float()
    if p.ndim == 1 or p.shape[-1] == 1:
        p = torch.stack([1 - (of_one := p if p.ndim == 1 else p[..., 0]), of_one], dim=-1)
    p = p if p.ndim == 3 else p[None]
    rows = p.flatten(0, 1)
    check_probabilities(rows[~rows.isnan().all(dim=1)], p.shape[2], True, "probabilities")
    return p.numpy()


def _joined(labels: Sequence[Any]) -> Any:
    """Return the labels of all batches, or raise a ValueError if the data set has none."""
    if any(part is None for part in labels):
        raise ValueError("labels are not given, and the items of the data set have none; pass labels=...")
    return np.concatenate([part.cpu().numpy() if isinstance(part, Tensor) else np.asarray(part) for part in labels])


def _noise(
    model: nn.Module,
    posterior: Any,
    dataset: Any,
    given: Classes,
    batch_size: int,
    generator: torch.Generator | None,
) -> npt.NDArray[np.float64]:
    """Return the size of each example's label noise, in the order of the data set."""
    dtype = next(iter(model.parameters())).dtype
    inputs = as_tensors(dataset.dataset if isinstance(dataset, DataLoader) else dataset, dtype)
    labels = np.maximum(given, 0)  # they do not enter the noise
    training = [module for module in model.modules() if module.training]
    try:
        table = rank_examples(model.eval(), posterior, inputs, labels, batch_size=batch_size, generator=generator)
    finally:
        for module in training:
            module.training = True
    noise = np.empty(len(given))
    noise[table.index] = table.noise
    return noise


def confident_joint(probabilities: Any, labels: Any, *, calibrated: bool = False) -> npt.NDArray[Any]:
    """Return the confident joint of given and probable labels (Northcutt et al., 2021).

    Args:
        probabilities: as :func:`label_errors_from_probabilities` takes them.
        labels: the given labels, whole numbers, -1 for a missing one.
        calibrated: return an estimate of the joint distribution, which sums to 1, instead of counts: each row is
            scaled to the number of examples with that label.

    Returns:
        (K, K); row i and column j are of examples that are labelled i and seem to be of class j. Off the diagonal
        stand labels that may be wrong.

    Raises:
        ValueError: as :func:`label_errors_from_probabilities` does.

    Example:
        >>> p = [[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.3, 0.7], [0.9, 0.1]]
        >>> confident_joint(p, [0, 0, 1, 1, 1])
        array([[1, 0],
               [1, 2]])
    """
    p, given = judged(probabilities, labels)
    joint = count_pairs(given, confident_class(p, given), p.shape[1])
    if not calibrated:
        return joint
    counts = np.bincount(given, minlength=p.shape[1])
    filled = np.where(joint.sum(axis=1, keepdims=True) > 0, joint, np.eye(p.shape[1]))  # no example is confident
    return filled / filled.sum(axis=1, keepdims=True) * (counts / counts.sum())[:, None]


def judged(probabilities: Any, labels: Any) -> tuple[Floats, Classes]:
    """Return probabilities (n, K) and labels (n,) of the examples that have both."""
    samples = checked_probabilities(probabilities)
    given = given_labels(labels, samples.shape)
    p = samples.mean(axis=0)
    rows = (given != MISSING) & ~np.isnan(p).any(axis=1)
    if not rows.any():
        raise ValueError("no example has both a label and a prediction; pass at least one")
    return p[rows], given[rows]
