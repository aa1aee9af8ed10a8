"""Choosing by held-out images with wrong labels (Chapter 12), and the chapter's figures."""

from fractions import Fraction

import numpy as np
import pytest

from vlls.data.corruption import corrupt, transition_matrix


def agreement(pi, matrix, answers):
    return np.einsum("i,ij,...ij->...", pi, matrix, answers)


def classifiers(k, number, seed=0):
    random = np.random.default_rng(seed)
    answers = random.dirichlet(np.full(k, 0.5), (number, k)) + 2 * random.random((number, 1, 1)) * np.eye(k)
    answers /= answers.sum(2, keepdims=True)
    pi = random.dirichlet(np.full(k, 5.0))
    return pi, answers, np.einsum("i,nii->n", pi, answers)


@pytest.mark.guards("prop-noisy-choice")
@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 1.0, 1.08])
def test_symmetric_errors_order_classifiers_right_up_to_the_threshold(k, share):
    rate = min(share * (k - 1) / k, 0.99)
    pi, answers, a = classifiers(k, 200)
    agrees = agreement(pi, transition_matrix("symmetric", k, rate), answers)
    assert agrees == pytest.approx(a * (1 - rate) + (1 - a) * rate / (k - 1), abs=1e-13)
    order = np.argsort(a)
    if share == 1:
        assert np.ptp(agrees) < 1e-13
    else:
        assert (np.argsort(agrees) == (order if share < 1 else order[::-1])).all()


@pytest.mark.guards("prop-noisy-choice")
def test_agreement_weighs_classes_by_their_signal():
    k = 10
    pi, answers, _ = classifiers(k, 50)
    matrix = transition_matrix("class_dependent", k, 0.4, 0.05)
    w = 1 - matrix.diagonal()
    own = np.einsum("nii->ni", answers)
    weighed = (pi * ((1 - k / (k - 1) * w) * own + w / (k - 1))).sum(1)
    assert agreement(pi, matrix, answers) == pytest.approx(weighed, abs=1e-13)


def shifted(own, by):
    return [[own if j == i else (1 - own) * ((j - i) % 3 == by) for j in range(3)] for i in range(3)]


def spread_evenly(own):
    return [[c if j == i else (1 - c) / 2 for j in range(3)] for i, c in enumerate(own)]


def exact(matrix, answers):
    return sum(matrix[i][j] * answers[i][j] for i in range(3) for j in range(3)) / 3


TENTH = Fraction(1, 10)
FLIP = shifted(Fraction(3, 5), 1)
EXAMPLES = [
    (FLIP, shifted(7 * TENTH, 2), shifted(6 * TENTH, 1), Fraction(21, 50), Fraction(26, 50)),
    (
        spread_evenly([Fraction(1), Fraction(1), Fraction(1, 2)]),
        spread_evenly([6 * TENTH, 6 * TENTH, Fraction(1)]),
        spread_evenly([9 * TENTH, 9 * TENTH, 3 * TENTH]),
        Fraction(17, 30),
        Fraction(17, 24),
    ),
]


@pytest.mark.guards("prop-noisy-choice")
@pytest.mark.parametrize(("matrix", "f", "g", "of_f", "of_g"), EXAMPLES)
def test_two_classifiers_are_ordered_wrong(matrix, f, g, of_f, of_g):
    for rows in (matrix, f, g):
        assert all(sum(row) == 1 and min(row) >= 0 for row in rows)
    assert all(max(row) == row[i] for i, row in enumerate(matrix))  # the own label is the most frequent one
    assert sum(f[i][i] for i in range(3)) > sum(g[i][i] for i in range(3))
    assert (exact(matrix, f), exact(matrix, g)) == (of_f, of_g)
    assert of_f < of_g


def ordered_wrong(matrix, pi, part=1e-2, mix=1e-6):
    """Return the proof's two classifiers for this matrix, or None: accuracies and agreements, the better one first."""
    k = len(matrix)
    found = []
    for i in range(k):
        for j in range(k):
            if i != j:
                answers = np.eye(k)
                answers[i, [i, j]] += np.array([-1, 1]) * part / pi[i]
                found.append((float(agreement(pi, matrix, answers)), answers))
    least, most = min(found, key=lambda e: e[0]), max(found, key=lambda e: e[0])
    better = (1 - mix) * least[1] + mix * np.eye(k)
    a, b = (float((pi * answers.diagonal()).sum()) for answers in (better, most[1]))
    agrees = float(agreement(pi, matrix, better))
    return (a, b, agrees, most[0]) if a > b and agrees < most[0] else None


@pytest.mark.guards("prop-noisy-choice")
@pytest.mark.parametrize("k", [2, 3, 6])
def test_any_other_matrix_orders_two_classifiers_wrong(k):
    random = np.random.default_rng(k)
    pi = random.dirichlet(np.full(k, 5.0))
    for _ in range(20):
        assert ordered_wrong(random.dirichlet(np.ones(k), k), pi) is not None
    assert ordered_wrong(transition_matrix("class_dependent", k, 0.1, 0.05), pi) is not None
    assert ordered_wrong(transition_matrix("symmetric", k, 0.3), pi) is None


@pytest.mark.guards("prop-noisy-choice")
def test_a_large_lead_is_safe():
    matrix, pi = np.array(FLIP, float), np.full(3, 1 / 3)
    _, answers, _ = classifiers(3, 400, seed=1)
    a = np.einsum("i,nii->n", pi, answers)
    agrees = agreement(pi, matrix, answers)
    safe = (a[:, None] - a) * 0.6 > (1 - a) * 0.4
    assert 0.01 < safe.mean() < 0.5
    assert (agrees[:, None] > np.broadcast_to(agrees, safe.shape))[safe].all()
    bound = Fraction(13, 15)  # attained, so a smaller lead is not enough
    assert exact(FLIP, shifted(bound, 2)) == exact(FLIP, shifted(6 * TENTH, 1))


@pytest.mark.guards("prop-noisy-choice")
def test_drawn_labels_agree_within_the_standard_error():
    random, k, number, rate, a = np.random.default_rng(3), 10, 50_000, 0.4, 0.7
    labels = random.integers(k, size=number)
    answers = np.where(random.random(number) < a, labels, (labels + 1) % k)
    agrees = answers == corrupt(labels, "symmetric", rate=rate, num_classes=k, seed=5)
    expected = a * (1 - rate) + (1 - a) * rate / (k - 1)
    assert abs(agrees.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / number)
