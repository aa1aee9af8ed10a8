"""Scores, flags and the confident joint: by hand, by a plain loop, and as the package computes them."""

import numpy as np
import pytest
import sympy
from label_error_cases import CASES, random_case
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import roc_auc_score

from vlls.data.corruption import corrupt, transition_matrix
from vlls.label_errors import (
    LabelCorrection,
    confident_joint,
    estimate_transition,
    fit_correction,
    label_errors_from_probabilities,
)
from vlls.label_errors._clean import tempered

BY_HAND = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9], [0.75, 0.25]])
LABELS = [0, 0, 0, 1, 1, 1]
# thresholds: (0.9 + 0.7 + 0.2)/3 = 0.6 of class 0 and (0.6 + 0.9 + 0.25)/3 = 0.583 of class 1


def in_order(table):
    """Return the columns of a table in the order of the data set."""
    order = np.argsort(np.asarray(table["index"]))
    return {name: np.asarray(table[name])[order] for name in table.columns}


# ------------------------------------------------------------------ by hand
def test_the_confident_joint_by_hand():
    assert_array_equal(confident_joint(BY_HAND, LABELS), [[2, 1], [1, 2]])
    calibrated = confident_joint(BY_HAND, LABELS, calibrated=True)
    assert_allclose(calibrated, [[1 / 3, 1 / 6], [1 / 6, 1 / 3]])


def test_flags_and_scores_by_hand():
    table = label_errors_from_probabilities(BY_HAND, LABELS)
    assert_array_equal(table["index"], [2, 5, 3, 1, 0, 4])
    assert_array_equal(table["flag"], [True, True, False, False, False, False])
    assert_allclose(table["score"], [0.8, 0.75, 0.4, 0.3, 0.1, 0.1])
    assert_array_equal(table["suggested"], [1, 0, 1, 0, 0, 1])
    assert_allclose(table["p_suggested"], [0.8, 0.75, 0.6, 0.7, 0.9, 0.9])
    assert np.isnan(table["spread"]).all()


def test_error_times_variance_of_two_classes_is_what_it_says():
    """Two draws, two classes: v is the variance of the logits' difference, four times the variance of each logit."""
    a, b = sympy.symbols("a b", positive=True)  # p(1) of the two draws
    difference = [sympy.log(p) - sympy.log(1 - p) for p in (a, b)]
    variance = (difference[0] - difference[1]) ** 2 / 2  # unbiased, of two numbers
    error = 1 - (a + b) / 2  # the label is 1
    expected = (2 * error * variance / 4).subs({a: 0.2, b: 0.6})
    samples = np.array([[[0.8, 0.2], [0.5, 0.5]], [[0.4, 0.6], [0.5, 0.5]]])
    table = label_errors_from_probabilities(samples, [1, 0], score="error_times_variance")
    assert_allclose(table["score"], [float(expected), 0], atol=1e-12)


# ------------------------------------------------------------------ a plain loop
def loop(samples, labels, score, adjust):
    """Return scores, flags and the joint of probabilities (S, N, K), one example at a time."""
    p = np.mean(samples, axis=0)
    num, k = p.shape
    own = [[p[i, c] for i in range(num) if labels[i] == c] for c in range(k)]
    mean = [sum(column) / len(column) if column else None for column in own]
    flags, scores, joint = [], [], np.zeros((k, k), int)
    for i in range(num):
        confident = [c for c in range(k) if mean[c] is not None and p[i, c] >= max(mean[c], 2e-6) - 1e-6]
        guess = int(np.argmax(p[i])) if len(confident) > 1 else confident[0] if confident else None
        if guess is not None:
            joint[labels[i], guess] += 1
        flags.append(guess not in (None, labels[i]) and p[i].max() > p[i, labels[i]] + 1e-6)
        q = p[i]
        if adjust:
            largest = max(m for m in mean if m is not None)
            q = np.array([q[c] - (largest if mean[c] is None else mean[c]) + largest for c in range(k)])
            q = q / q.sum()
        if score == "self_confidence":
            scores.append(1 - q[labels[i]])
        elif score == "margin":
            scores.append((1 - q[labels[i]] + max(q[c] for c in range(k) if c != labels[i])) / 2)
        else:
            logits = np.log(samples[:, i]) - np.log(samples[:, i]).mean(axis=1, keepdims=True)
            error = [p[i, c] - (c == labels[i]) for c in range(k)]
            scores.append(sum(abs(error[c]) * np.var(logits[:, c], ddof=1) for c in range(k)))
    return np.array(scores), np.array(flags), joint


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "score, adjust", [("self_confidence", False), ("self_confidence", True), ("margin", True), ("margin", False)]
)
def test_a_plain_loop_agrees(seed, score, adjust):
    p, labels = random_case(seed)
    scores, flags, joint = loop(p[None], labels, score, adjust)
    found = in_order(label_errors_from_probabilities(p, labels, score=score, adjust=adjust))
    assert_allclose(found["score"], scores, rtol=0, atol=1e-12)
    assert_array_equal(found["flag"], flags)
    assert_array_equal(confident_joint(p, labels), joint)


@pytest.mark.parametrize("seed", range(5))
def test_a_plain_loop_agrees_on_draws(seed):
    samples = np.stack([random_case(10 * seed + i, num=30, k=4)[0] for i in range(3)])
    labels = random_case(seed, num=30, k=4)[1]
    scores, flags, _ = loop(samples, labels, "error_times_variance", False)
    found = in_order(label_errors_from_probabilities(samples, labels, score="error_times_variance"))
    assert_allclose(found["score"], scores, rtol=1e-9)
    assert_array_equal(found["flag"], flags)
    given = samples[:, np.arange(30), labels]
    assert_allclose(found["spread"], given.std(axis=0, ddof=1))
    assert_allclose(found["p_given"], given.mean(axis=0))


# ------------------------------------------------------------------ by the probabilities of errors
@pytest.mark.parametrize("seed", range(5))
def test_the_score_of_bayes_is_one_minus_the_clean_probability_of_the_label(seed):
    p, labels = random_case(seed, num=80, k=4)
    held_out = fit_correction(*random_case(seed + 1, num=200, k=4))
    for correction in (None, held_out):
        q = (correction or LabelCorrection(estimate_transition(p, labels)))(p, labels)
        of_label = q[np.arange(80), labels]
        table = label_errors_from_probabilities(p, labels, score="bayes", flag="bayes", correction=correction)
        found = in_order(table)
        assert_allclose(found["score"], 1 - of_label)
        assert_array_equal(found["flag"], q.argmax(axis=1) != labels)
        assert_array_equal(found["suggested"], q.argmax(axis=1))
        assert_allclose(found["p_suggested"], p[np.arange(80), q.argmax(axis=1)])


def test_pair_flips_are_found_by_their_frequency():
    """A network that is as unsure of flipped labels as of hard examples separates the two once it knows the flips."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 4, 4000)
    seen = tempered(np.eye(4)[clean] + np.exp(rng.normal(-1.5, 1.0, (4000, 4))), 0.7)
    matrix = transition_matrix("pair_flip", 4, 0.4)
    given = corrupt(clean, "pair_flip", rate=0.4, num_classes=4, seed=0)
    p = seen @ matrix
    areas = {}
    for score in ("self_confidence", "bayes"):
        found = label_errors_from_probabilities(p, given, score=score)
        areas[score] = roc_auc_score((given != clean)[found["index"]], found["score"])
    assert areas["bayes"] > areas["self_confidence"] + 0.1, areas


# ------------------------------------------------------------------ other flags
def test_a_number_and_a_rate_flag_the_highest_scores():
    p, labels = random_case(1, num=40, k=3)
    for flag, number in ((7, 7), (0.25, 10), (0, 0), (1.0, 40), (np.int64(3), 3), (np.float64(0.1), 4)):
        table = label_errors_from_probabilities(p, labels, flag=flag, score="margin")
        assert_array_equal(table["flag"], np.arange(40) < number)


def test_adjusted_scores_are_fair_to_a_hard_class():
    """All labels of a hard class have low probabilities; without the adjustment they come first."""
    rng = np.random.default_rng(0)
    sure = 0.9 + 0.05 * rng.random(50)
    unsure = 0.5 + 0.05 * rng.random(50)
    p = np.concatenate([np.stack([sure, 1 - sure], 1), np.stack([1 - unsure, unsure], 1)])
    labels = np.array([0] * 50 + [1] * 50)
    p[0] = [0.52, 0.48]  # far less than its class
    plain, fair = (label_errors_from_probabilities(p, labels, adjust=adjust)["index"] for adjust in (False, True))
    assert plain[0] != 0 and fair[0] == 0


# ------------------------------------------------------------------ missing parts
def test_nothing_is_lost():
    p, labels = random_case(3, num=30, k=3)
    whole = in_order(label_errors_from_probabilities(p, labels))
    more = np.concatenate([p, [[0.1, 0.1, 0.8], [np.nan] * 3, [np.nan] * 3]])
    table = label_errors_from_probabilities(more, [*labels, -1, 0, -1])
    found = in_order(table)
    for name in whole:
        assert_array_equal(found[name][:30], whole[name])
    assert len(table) == 33 and set(table["index"][30:]) == {30, 31, 32}
    assert_array_equal(found["suggested"][30:], [2, -1, -1])
    assert_array_equal(found["given"][30:], [-1, 0, -1])
    assert found["p_suggested"][30] == 0.8 and np.isnan(found["p_given"][30:]).all()
    assert np.isnan(found["score"][30:]).all() and not found["flag"][30:].any()


@pytest.mark.parametrize("name", CASES)
def test_unusual_labels_give_a_table(name):
    p, labels = CASES[name]
    for score in ("self_confidence", "margin", "bayes"):
        table = label_errors_from_probabilities(p, labels, score=score, flag=1)
        assert len(table) == len(p) and int(table["flag"].sum()) == 1
        assert np.isfinite(table["score"]).all() and table["score"].between(0, 1 + 1e-6).all()
    label_errors_from_probabilities(p, labels, flag="bayes")


@pytest.mark.parametrize("flag", ["confident_joint", "bayes"])
@pytest.mark.parametrize("apart, flagged", [(4e-8, False), (0.02, True)])
def test_a_class_that_rounding_makes_the_likelier_one_is_no_error(apart, flagged, flag):
    p, labels = [[0.5 - apart / 2, 0.5 + apart / 2], [0.9, 0.1], [0.6, 0.4]], [0, 0, 1]
    blind = LabelCorrection(np.full((2, 2), 0.5)) if flag == "bayes" else None  # the label says nothing of the class
    table = label_errors_from_probabilities(np.array(p), labels, flag=flag, correction=blind)
    assert bool(table.set_index("index")["flag"].loc[0]) == flagged


def test_a_probability_of_zero_reaches_no_threshold():
    p = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.9, 0.1, 0.0], [0.5, 0.5, 0.0]]  # the threshold of class 2 is 0
    assert confident_joint(p, [0, 1, 2, 0]).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_labels_of_which_none_is_confident_count_as_right():
    p = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    assert_allclose(confident_joint(p, [0, 1, 2, 2], calibrated=True), np.diag([0.25, 0.25, 0.5]))
