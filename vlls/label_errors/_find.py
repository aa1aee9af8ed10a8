"""Labels that are probably wrong, of a network's training images or of any array of probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlls._warnings import warn_caller
from vlls.label_errors._clean import LabelCorrection
from vlls.label_errors._given import MISSING, Classes, check_count, check_names, given_labels
from vlls.label_errors._judge import Flag, Judge
from vlls.label_errors._probabilities import checked_probabilities
from vlls.label_errors._sampled import AnyPosterior, Batch, Forward, Progress, as_tensors, length_of, walk
from vlls.noise import rank_examples


def find_label_errors(
    model: nn.Module,
    posterior: AnyPosterior,
    dataset: Any,
    labels: Any = None,
    *,
    score: str = "self_confidence",
    flag: Flag = "confident_joint",
    adjust: bool = False,
    correction: LabelCorrection | None = None,
    classes: Sequence[str] | None = None,
    noise: bool = False,
    num_samples: int = 8,
    batch_size: int = 256,
    forward: Forward | None = None,
    progress: Progress | None = None,
    generator: torch.Generator | None = None,
) -> Any:
    r"""Find labels that are probably wrong, among those that a network was trained on or any others.

    The network is asked for the probability of each given label, averaged over its posterior. A network trained by IVON
    ranks the wrong labels of its own training images about as well as networks that are trained without these images,
    one for each fold. A network that has learned its labels by heart does not.

    Args:
        model: the network, as :func:`sampled_probabilities` takes it.
        posterior: over its weights, or the optimizer that learned it, or None for a plain network.
        dataset: the N examples, as :func:`sampled_probabilities` takes them: tensors, arrays, tables, dicts, data sets
            and loaders.
        labels: the given labels, whole numbers from 0 to K - 1, or names with ``classes``; -1, None and NaN stand for
            a missing one. If left out, those of the data set: the second entry of its items, or their ``labels``.
        score: how suspicious a label is; see below.
        flag: which labels are flagged; see below.
        adjust: subtract the mean probability of each class's own label before scoring. Otherwise labels of rare and
            hard classes would come first only because their probabilities are lower.
        correction: of ``bayes``, by examples that were held out (:func:`fit_correction`); estimated from the judged
            predictions themselves if left out.
        classes: the K class names, in the order of the model's outputs; the table then has names in place of numbers.
        noise: add the size of each example's label noise (:func:`.rank_examples`), which costs several times as much.
            It finds ambiguous examples, not wrong labels (Chapter 7).
        num_samples: draws of the weights; 0 for the posterior's mean alone.
        batch_size: examples at a time.
        forward: of the model and a batch to logits, for data of another form.
        progress: called with the numbers of examples done and in all, after each batch.
        generator: for the draws, on the model's device. Without one they are the same in every call.

    The scores; a higher one is more suspicious:

    - ``self_confidence``: 1 - p(given).
    - ``margin``: half of 1 - p(given) + the largest of the other probabilities.
    - ``bayes``: 1 - p(clean label = given label | example, given label), by the probabilities of label errors that are
      estimated from the predictions (:class:`LabelCorrection`): an error that is frequent between two classes makes a
      label more suspicious. With pair flips it finds many more.
    - ``error_times_variance``: the sum over classes of :math:`|p - y|` times the variance of the logit over the
      posterior, the two factors of the memory-perturbation equation of Nickl et al. (2023), which says how far the
      logits move if the example is left out of training. It needs two draws, and is noisy with a few.

    The flags:

    - ``"confident_joint"``: labels off the diagonal of the confident joint of Northcutt et al. (2021), as cleanlab's
      ``find_label_issues(filter_by="confident_learning")`` flags them. It needs no number.
    - ``"bayes"``: labels for which another clean label is more probable, given example and label. With a correction
      by held-out examples it finds more than the confident joint; without one it is cautious.
    - a whole number, such as 500: so many labels with the highest scores.
    - a rate, such as 0.1: this share of the labels that are there.

    Returns:
        A table with a row for each example, the most suspicious first. It is a ``pandas.DataFrame``, or, without
        pandas, an object with the same columns (``table["score"]``, ``table[:10]``, ``table.to_csv(path)``).

        - ``index``: place in the data set;
        - ``given``: the label, -1 (or an empty name) if it is missing;
        - ``suggested``: the most probable class, or clean label if ``bayes`` is asked for;
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
    judge = Judge(score, flag, adjust, correction)
    if noise and (posterior is None or forward is not None or isinstance(dataset, Mapping)):
        raise ValueError("noise=True needs a posterior, and a model that takes one tensor; leave it out")
    judge.check_draws(0 if posterior is None else num_samples)
    walked: list[Batch] = []
    given: Classes | None = None
    for batch in walk(model, posterior, dataset, num_samples, batch_size, forward, progress, generator):
        if labels is None and batch.labels is None:
            raise ValueError("labels are not given, and the items of the data set have none; pass labels=...")
        if not walked:  # report an error in the arguments before the other batches run
            k = batch.probabilities.shape[2]
            check_names(classes, k)
            if correction is not None:
                correction.check_classes(k)
            if labels is not None:
                given = given_labels(labels, (length_of(dataset), k), classes)
                judge.check_number(given)
        walked.append(batch)
    probabilities = np.concatenate([batch.probabilities for batch in walked], axis=1)
    if given is None:
        found = np.concatenate([_as_array(batch.labels) for batch in walked])
        given = given_labels(found, probabilities.shape, classes)
    check_count(given, probabilities.shape[1])
    if unread := list(getattr(dataset, "unreadable", ())):  # of RunImages
        warn_caller(f"{len(unread)} example(s) could not be read, such as {min(unread)}; their labels are not judged")
        probabilities[:, unread] = np.nan
    _tell_duplicates(np.concatenate([batch.digests for batch in walked]), given)
    sizes = _noise(model, posterior, dataset, given, batch_size, generator) if noise else None
    return judge.table(probabilities, given, classes, sizes)


def label_errors_from_probabilities(
    probabilities: Any,
    labels: Any,
    *,
    score: str = "self_confidence",
    flag: Flag = "confident_joint",
    adjust: bool = False,
    correction: LabelCorrection | None = None,
    classes: Sequence[str] | None = None,
) -> Any:
    """Find labels that are probably wrong from the probabilities of any classifier.

    Scores, flags and the table are as in :func:`find_label_errors`.

    Args:
        probabilities: (N, K), of any classifier, best of one that was not trained on these labels; or (S, N, K), for
            each of S draws of the weights (:func:`sampled_probabilities`), of a cross-validation repeated S times, or
            of S networks; or (N,), of class 1 of two. A row of NaN stands for an example without a prediction.
        labels: as there.
        score: as there; ``error_times_variance`` needs (S, N, K) with S of 2 or more.
        flag: as there.
        adjust: as there.
        correction: as there.
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
    judge = Judge(score, flag, adjust, correction)
    checked = checked_probabilities(probabilities)
    return judge.table(checked, given_labels(labels, checked.shape, classes), classes)


# ------------------------------------------------------------------ warnings
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
def _as_array(labels: Any) -> npt.NDArray[Any]:
    return labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)


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
