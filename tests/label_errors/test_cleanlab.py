"""Our probabilities serve cleanlab, and our flags and scores are cleanlab's."""

import warnings

import numpy as np
import pytest
import torch
from label_error_cases import CASES, random_case
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from vlls import DiagonalPosterior, find_label_errors
from vlls.label_errors import confident_joint, label_errors_from_probabilities, sampled_probabilities

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    count = pytest.importorskip("cleanlab.count")
    filter_ = pytest.importorskip("cleanlab.filter")
    rank = pytest.importorskip("cleanlab.rank")

RANDOM = {f"random {seed}": random_case(seed) for seed in range(30)}
ALL = {**RANDOM, **CASES}


def in_order(table, column):
    found = np.empty(len(table), np.asarray(table[column]).dtype)
    found[np.asarray(table["index"])] = table[column]
    return found


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore:all .* labels are of class")
def test_flags_are_those_of_confident_learning(name):
    p, labels = ALL[name]
    theirs = filter_.find_label_issues(labels, p, filter_by="confident_learning", n_jobs=1)
    assert_array_equal(in_order(label_errors_from_probabilities(p, labels), "flag"), theirs)


@pytest.mark.parametrize("name", ALL)
def test_the_joint_is_theirs(name):
    p, labels = ALL[name]
    ours = confident_joint(p, labels)
    np.fill_diagonal(ours, np.maximum(ours.diagonal(), 1))  # theirs does this too, against divisions by 0
    assert_array_equal(ours, count.compute_confident_joint(labels, p, calibrate=False))


@pytest.mark.parametrize("name", RANDOM)
def test_the_calibrated_joint_is_theirs(name):
    p, labels = RANDOM[name]
    if (confident_joint(p, labels).diagonal() > 0).all():
        ours, theirs = confident_joint(p, labels, calibrated=True), count.estimate_joint(labels, p)
        assert_allclose(ours.sum(axis=1), theirs.sum(axis=1))
        assert_allclose(ours, theirs, atol=1 / len(p))  # theirs is of whole counts


@pytest.mark.parametrize("adjust", [False, True])
@pytest.mark.parametrize("ours, theirs", [("self_confidence", "self_confidence"), ("margin", "normalized_margin")])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore:all .* labels are of class")
def test_scores_are_their_label_quality(name, ours, theirs, adjust):
    p, labels = ALL[name]
    if adjust and len(set(labels)) < p.shape[1]:
        pytest.skip("cleanlab counts a class without labels as one with a mean probability of 2")
    quality = rank.get_label_quality_scores(labels, p, method=theirs, adjust_pred_probs=adjust)
    found = label_errors_from_probabilities(p, labels, score=ours, adjust=adjust)
    assert_allclose(in_order(found, "score"), 1 - quality, atol=2e-6)  # the least threshold


def test_their_filter_runs_on_our_probabilities():
    x = torch.cat([torch.randn(60, 2) + 4 * torch.tensor([[k == 0, k == 1]]).float() for k in range(3)])
    labels = torch.arange(3).repeat_interleave(60)
    labels[::10] = (labels[::10] + 1) % 3
    model = nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    mean = {name: p.detach() for name, p in model.named_parameters()}
    q = DiagonalPosterior(mean, {name: torch.full_like(p, 0.05) for name, p in mean.items()})
    p = sampled_probabilities(model, q, x, num_samples=4).mean(axis=0)
    issues = filter_.find_label_issues(labels.numpy(), p, n_jobs=1, return_indices_ranked_by="self_confidence")
    assert len(issues) > 5
    theirs = filter_.find_label_issues(labels.numpy(), p, filter_by="confident_learning", n_jobs=1)
    assert_array_equal(in_order(find_label_errors(model, q, x, labels, num_samples=4), "flag"), theirs)
