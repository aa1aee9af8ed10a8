"""Probabilities of clean labels: exact in sympy, by a plain loop, and as the package computes them."""

import numpy as np
import pytest
import sympy
import torch
from label_error_cases import random_case
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import gammaln

from vlls.data.corruption import corrupt, transition_matrix
from vlls.label_errors import LabelCorrection, confident_joint, estimate_transition, fit_correction
from vlls.label_errors._clean import nearest_distribution, tempered

KINDS = {"symmetric": 0.4, "pair_flip": 0.2, "class_dependent": 0.3}


def distributions(seed, num=50, k=4, sharp=0.5):
    return np.random.default_rng(seed).dirichlet(np.full(k, sharp), num)


# ------------------------------------------------------------------ exact
def test_clean_probabilities_are_a_fixed_point_of_bayes_rule():
    a, b, q = sympy.symbols("a b q", positive=True)
    clean, matrix = sympy.Matrix([[q, 1 - q]]), sympy.Matrix([[1 - a, a], [b, 1 - b]])
    given = clean * matrix
    for i in range(2):
        posterior = [clean[i] * matrix[i, j] / given[j] for j in range(2)]  # of clean i once the label is j
        assert sympy.simplify(sum(given[j] * posterior[j] for j in range(2)) - clean[i]) == 0
    assert sympy.simplify(given * matrix.inv() - clean) == sympy.zeros(1, 2)


def test_the_inverse_undoes_the_errors():
    for corruption, rate in KINDS.items():
        matrix, q = transition_matrix(corruption, 4, rate), distributions(0)
        assert_allclose(LabelCorrection(matrix, method="inverse")(q @ matrix), q, atol=1e-12)


def test_a_given_label_is_used_by_bayes_rule():
    matrix = transition_matrix("symmetric", 3, 0.4)
    correct = LabelCorrection(matrix)
    q = correct([[0.5, 0.3, 0.2]] * 2)
    expected = q[0] * matrix[:, 1] / (q[0] @ matrix[:, 1])
    assert_allclose(correct([[0.5, 0.3, 0.2]] * 2, [1, -1]), [expected, q[1]])


def test_a_label_that_no_class_has_says_nothing():
    correct = LabelCorrection([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    assert_allclose(correct([[0.5, 0.3, 0.2]], [2]), correct([[0.5, 0.3, 0.2]]))


# ------------------------------------------------------------------ a plain loop
def loop(p, matrix, temperature):
    """Apply Bayes' rule ten times, then the temperature, one example and one pair of classes at a time."""
    k, rows = len(matrix), []
    for row in p:
        q = list(row)
        for _ in range(10):
            of_label = [sum(q[i] * matrix[i, j] for i in range(k)) for j in range(k)]
            q = [sum(row[j] * q[i] * matrix[i, j] / of_label[j] for j in range(k)) for i in range(k)]
        powers = [x ** (1 / temperature) for x in q]
        rows.append([x / sum(powers) for x in powers])
    return np.array(rows)


@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.5])
@pytest.mark.parametrize("corruption", KINDS)
def test_a_plain_loop_agrees(corruption, temperature):
    matrix, p = transition_matrix(corruption, 4, KINDS[corruption]), distributions(1, sharp=2.0)
    assert_allclose(LabelCorrection(matrix, temperature)(p), loop(p, matrix, temperature), rtol=1e-9)


def test_draws_are_averaged_first():
    samples = np.stack([distributions(i) for i in range(3)])
    correct = LabelCorrection(transition_matrix("pair_flip", 4, 0.2), 0.7)
    assert_allclose(correct(samples), correct(samples.mean(axis=0)))
    assert_allclose(correct(torch.from_numpy(samples)), correct(samples))


@pytest.mark.parametrize("method", ["bayes", "inverse"])
def test_results_are_distributions_and_gaps_stay(method):
    p = distributions(2)
    p[3] = np.nan
    q = LabelCorrection(transition_matrix("pair_flip", 4, 0.4), 0.5, method)(p)
    assert np.isnan(q[3]).all() and not np.isnan(np.delete(q, 3, axis=0)).any()
    assert_allclose(np.delete(q, 3, axis=0).sum(axis=1), 1)
    assert (np.delete(q, 3, axis=0) >= 0).all()


def test_errors_without_a_preference_keep_the_order_of_the_classes():
    """So the accuracy stays the network's, whatever the temperature."""
    p = distributions(3, num=500, k=10)
    for temperature, method in ((1.0, "bayes"), (0.3, "bayes"), (1.0, "inverse"), (0.3, "inverse")):
        q = LabelCorrection(transition_matrix("symmetric", 10, 0.4), temperature, method)(p)
        assert_array_equal(q.argmax(axis=1), p.argmax(axis=1))


def test_each_round_makes_the_prediction_more_likely():
    matrix, p = transition_matrix("pair_flip", 4, 0.4), distributions(4)
    q = p

    def likelihood(q):
        return (p * np.log(q @ matrix)).sum(axis=1)

    before = likelihood(q)
    for _ in range(10):
        q = q * ((p / (q @ matrix)) @ matrix.T)
        after = likelihood(q)
        assert (after >= before - 1e-12).all()
        before = after
    assert_allclose(LabelCorrection(matrix)(p), q, rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_distribution_is_the_nearest(seed):
    """It meets the optimality conditions: a common shift where it is positive, and at most that shift where it is 0."""
    values = np.random.default_rng(seed).normal(size=(40, 6))
    values += (1 - values.sum(axis=1, keepdims=True)) / 6
    found = nearest_distribution(values)
    assert_allclose(found.sum(axis=1), 1)
    for value, q in zip(values, found, strict=True):
        shift = (value - q)[q > 0]
        assert_allclose(shift, shift[0], atol=1e-12)
        assert (value[q == 0] <= shift[0] + 1e-12).all()


def test_a_temperature_of_1_changes_nothing():
    p = distributions(5)
    assert_allclose(tempered(p, 1.0), p)
    assert_allclose(tempered(p, 0.5), p**2 / (p**2).sum(axis=1, keepdims=True))


# ------------------------------------------------------------------ the matrix
def network(seed, num, corruption, rate, k=5, sure=0.9):
    """Return clean classes, given labels, and predictions of given labels by a network that is mostly right."""
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, k, num)
    seen = np.where(rng.random(num) < 0.97, clean, rng.integers(0, k, num))
    q = np.full((num, k), (1 - sure) / (k - 1))
    q[np.arange(num), seen] = sure
    q = tempered(q * np.exp(rng.normal(0, 0.3, q.shape)), 1.0)
    given = corrupt(clean, corruption, rate=rate, num_classes=k, seed=seed)
    return clean, given, q @ transition_matrix(corruption, k, rate)


@pytest.mark.parametrize("corruption", KINDS)
def test_the_matrix_is_found(corruption):
    rate = KINDS[corruption]
    _, given, p = network(0, 20_000, corruption, rate)
    found = estimate_transition(p, given)
    assert_allclose(found.sum(axis=1), 1)
    assert_allclose(found, transition_matrix(corruption, 5, rate), atol=0.05)


def test_few_labels_say_little_of_single_classes():
    """Counts of errors without a preferred class are shrunk towards each other; those of pair flips are not."""
    spread = {}
    for corruption in ("symmetric", "pair_flip"):
        _, given, p = network(1, 150, corruption, 0.4)
        found = estimate_transition(p, given)
        spread[corruption] = found[~np.eye(5, dtype=bool)].std()
        if corruption == "symmetric":
            raw = confident_joint(p, given).T
            raw = raw / raw.sum(axis=1, keepdims=True)
            true = transition_matrix(corruption, 5, 0.4)
            assert np.abs(found - true).max() < np.abs(raw - true).max() / 2
    assert spread["pair_flip"] > 5 * spread["symmetric"]


@pytest.mark.parametrize("corruption", KINDS)
def test_the_strength_is_the_largest_within_a_factor_e_of_the_likeliest(corruption):
    _, given, p = network(1, 150, corruption, 0.4)
    counts = confident_joint(p, given).T.astype(float)
    right = (np.trace(counts) + 1) / (counts.sum() + 2)
    prior = np.where(np.eye(5) == 1, right, (1 - right) / 4)

    def evidence(strength):
        a = strength * prior
        rows = gammaln(a.sum(1)) - gammaln((a + counts).sum(1))
        return rows.sum() + (gammaln(a + counts) - gammaln(a)).sum()

    strengths = 2.0 ** np.arange(15)
    strength = max(s for s in strengths if evidence(s) > max(map(evidence, strengths)) - 1)
    posterior = counts + strength * prior
    assert_allclose(estimate_transition(p, given), posterior / posterior.sum(1, keepdims=True))


def test_a_class_without_labels_has_a_row():
    p, labels = random_case(0, num=60, k=4)
    found = estimate_transition(p, np.where(labels == 3, -1, labels))
    assert_allclose(found.sum(axis=1), 1)
    assert (found > 0).all()


# ------------------------------------------------------------------ the temperature, by noisy labels alone
def calibration_error(q, clean):
    """Return the expected calibration error with fifteen bins."""
    confidence, right = q.max(axis=1), q.argmax(axis=1) == clean
    place = np.minimum((confidence * 15).astype(int), 14)
    return sum(abs((confidence - right)[place == b].sum()) for b in range(15)) / len(q)


@pytest.mark.parametrize("method", ["bayes", "inverse"])
@pytest.mark.parametrize("corruption", KINDS)
def test_a_network_that_is_too_unsure_is_calibrated(corruption, method):
    clean, given, p = network(2, 12_000, corruption, KINDS[corruption])
    unsure = tempered(p, 1.6)
    correct = fit_correction(unsure[:6000], given[:6000], method=method)
    before, after = (
        calibration_error(unsure[6000:], clean[6000:]),
        calibration_error(correct(unsure[6000:]), clean[6000:]),
    )
    assert before > 0.3 and after < 0.05
    right = [(x[6000:].argmax(axis=1) == clean[6000:]).mean() for x in (unsure, correct(unsure))]
    assert right[1] >= right[0] - 0.005
    assert correct.temperature < 1


def test_the_temperature_is_the_likeliest():
    _, given, p = network(3, 2000, "symmetric", 0.4)
    matrix = transition_matrix("symmetric", 5, 0.4)
    correct = fit_correction(tempered(p, 1.5), given, transition=matrix)

    def loss(temperature):
        q = LabelCorrection(matrix, temperature)(tempered(p, 1.5))
        return -np.mean([np.log(q[i] @ matrix[:, y]) for i, y in enumerate(given)])

    found = loss(correct.temperature)
    assert all(found <= loss(correct.temperature * factor) for factor in (0.7, 0.9, 1.1, 1.4))


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: LabelCorrection(np.eye(3)[:2]), r"transition has shape \(2, 3\); pass \(K, K\)"),
        (lambda: LabelCorrection([0.9, 0.8]), r"transition has shape \(2,\); pass \(K, K\)"),
        (lambda: LabelCorrection(np.ones((2, 2))), "do not sum to 1 in 2 of 2 rows"),
        (lambda: LabelCorrection([[1.0, 0.0], [np.nan, np.nan]]), "transition holds NaN"),
        (lambda: LabelCorrection(np.full((2, 2), 0.5), method="inverse"), "no inverse.* use method='bayes'"),
        (lambda: LabelCorrection(np.eye(2), 0.0), "temperature=0.0 is not allowed; choose a finite number > 0"),
        (lambda: LabelCorrection(np.eye(2), method="bays"), r"method='bays' is unknown \(did you mean 'bayes'\?\)"),
        (lambda: LabelCorrection(np.eye(2))([[0.2, 0.3, 0.5]]), "probabilities have 3 classes and transition has 2"),
        (lambda: LabelCorrection(np.eye(2))([[0.5, 0.5]], [2]), "outside 0 to 1, the first 2 at 0"),
        (lambda: fit_correction([[0.2, 0.3, 0.5]], [0], transition=np.eye(2)), "3 classes and transition has 2"),
        (lambda: fit_correction([[0.5, 0.5]], [-1]), "all labels are missing"),
        (lambda: estimate_transition([[0.5, 0.6]], [0]), "do not sum to 1 in 1 of 1 rows"),
    ],
)
def test_bad_input_is_told_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
