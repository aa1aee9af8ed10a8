"""Label corruption: equal to a plain loop label for label, its frequencies, Eqs. 21-22, and its errors."""

import math

import numpy as np
import pytest
import sympy as sp
import torch

from vlls.data._rates import CORRUPTIONS
from vlls.data.corruption import class_dependent, corrupt, pair_flip, symmetric, transition_matrix


# ------------------------------------------------------------------ reference: the definition, number by number
def plain_row(corruption, i, k, rate, step):
    """Return the label distribution of class i (from 0)."""
    if corruption == "pair_flip":
        return [1 - rate if j == i else rate if j == (i + 1) % k else 0.0 for j in range(k)]
    wrong = rate + step * (i + 1) if corruption == "class_dependent" else rate
    return [1 - wrong if j == i else wrong / (k - 1) for j in range(k)]


def plain_corruption(corruption, labels, k, rate, step, seed):
    draws = np.random.RandomState(seed)
    return [int(np.where(draws.multinomial(1, plain_row(corruption, y, k, rate, step)) == 1)[0][0]) for y in labels]


def some_labels(n, k, seed=0):
    return np.random.default_rng(seed).integers(0, k, n)


SETTINGS = [
    ("symmetric", 10, 0.2, 0.0),
    ("symmetric", 100, 0.4, 0.0),
    ("symmetric", 2, 0.0, 0.0),
    ("pair_flip", 10, 0.2, 0.0),
    ("pair_flip", 3, 0.45, 0.0),
    ("class_dependent", 10, 0.1, 0.05),
    ("class_dependent", 10, 0.5, 0.05),
    ("class_dependent", 4, 0.0, 0.25),
    ("class_dependent", 7, 0.3, 0.0),
]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize(("corruption", "k", "rate", "step"), SETTINGS)
def test_equal_to_the_plain_loop_label_for_label(corruption, k, rate, step, seed):
    labels = some_labels(3000, k)
    expected = plain_corruption(corruption, labels, k, rate, step, seed)
    found = corrupt(labels, corruption, rate=rate, rate_step=step, num_classes=k, seed=seed)
    assert found.tolist() == expected
    assert (found.tolist() != labels.tolist()) == (rate + step > 0)


def test_each_kind_has_a_function():
    labels = some_labels(300, 4)
    kinds = {
        "symmetric": symmetric(labels, 0.4, 4, 1),
        "pair_flip": pair_flip(labels, rate=0.4, num_classes=4, seed=1),
        "class_dependent": class_dependent(labels, base_rate=0.1, rate_step=0.2, num_classes=4, seed=1),
    }
    for kind, found in kinds.items():
        rate, step = (0.1, 0.2) if kind == "class_dependent" else (0.4, 0.0)
        assert found.tolist() == plain_corruption(kind, labels, 4, rate, step, 1)
    with pytest.raises(ValueError, match=r"^base_rate=1.5 is outside \[0, 1\); choose the share"):
        class_dependent(labels, 1.5, 0.1, 4, 0)


def test_chunks_do_not_show():
    labels = some_labels(20_000, 5)  # more than two chunks, the last one not full
    found = corrupt(labels, "symmetric", rate=0.3, num_classes=5, seed=4)
    assert found.tolist() == plain_corruption("symmetric", labels, 5, 0.3, 0.0, 4)


@pytest.mark.parametrize(("corruption", "k", "rate", "step"), [s for s in SETTINGS if s[1] <= 10])
def test_frequencies_are_those_of_the_matrix(corruption, k, rate, step):
    number = 8000  # of each class
    labels = np.repeat(np.arange(k), number)
    found = corrupt(labels, corruption, rate=rate, rate_step=step, num_classes=k, seed=3)
    counts = np.zeros((k, k))
    np.add.at(counts, (labels, found), 1)
    p = np.array([plain_row(corruption, i, k, rate, step) for i in range(k)])
    assert (np.abs(counts / number - p) <= 4 * np.sqrt(p * (1 - p) / number) + 1e-12).all()


# ------------------------------------------------------------------ matrices
@pytest.mark.parametrize(("corruption", "k", "rate", "step"), SETTINGS)
def test_matrices(corruption, k, rate, step):
    matrix = transition_matrix(corruption, k, rate, step)
    assert matrix.dtype == np.float64
    assert np.abs(matrix.sum(axis=1) - 1).max() < 1e-14
    assert matrix.min() >= 0
    assert np.allclose(matrix, [plain_row(corruption, i, k, rate, step) for i in range(k)], rtol=0, atol=1e-15)


def test_rows_of_equations_21_and_22_sum_to_one():
    kappa, beta, i, k = sp.symbols("kappa beta i K")
    right, wrong = 1 - (kappa + beta * i), (kappa + beta * i) / (k - 1)
    assert sp.simplify(right + (k - 1) * wrong - 1) == 0
    values = {kappa: sp.Rational(3, 10), beta: sp.Rational(1, 20), k: 10}
    matrix = transition_matrix("class_dependent", 10, 0.3, 0.05)
    for row in range(10):  # class i = 1 of the paper is label 0
        assert math.isclose(matrix[row, row], right.subs(values).subs(i, row + 1), abs_tol=1e-15)
        assert math.isclose(matrix[row, row - 1], wrong.subs(values).subs(i, row + 1), abs_tol=1e-15)


def test_the_last_class_may_be_always_wrong():
    for kappa, beta, k in ((0.5, 0.05, 10), (0.7, 0.1, 3), (0.1, 0.3, 3), (0.3, 0.1, 7)):
        assert transition_matrix("class_dependent", k, kappa, beta)[k - 1, k - 1] == 0.0
        assert transition_matrix("class_dependent", k, kappa, beta)[k - 1].sum() == pytest.approx(1, abs=1e-14)
    found = corrupt(np.full(5000, 9), "class_dependent", rate=0.5, rate_step=0.05, num_classes=10, seed=0)
    assert set(found.tolist()) == set(range(9))


def test_pair_flip_moves_to_the_next_class():
    found = corrupt(some_labels(500, 4), "pair_flip", rate=0.5, num_classes=4, seed=0)
    moved = (found - some_labels(500, 4)) % 4
    assert set(moved.tolist()) == {0, 1}
    assert transition_matrix("pair_flip", 4, 0.25)[3].tolist() == [0.25, 0.0, 0.0, 0.75]


# ------------------------------------------------------------------ input and output
@pytest.mark.parametrize("corruption", [*CORRUPTIONS, "none"])
def test_types(corruption):
    labels = some_labels(50, 3)
    settings = {"rate": 0.0 if corruption == "none" else 0.4, "num_classes": 3, "seed": 0}
    expected = corrupt(labels, corruption, **settings)
    assert expected.dtype == np.int64
    for given in (labels.astype(np.uint8), labels.astype(np.int32), labels.tolist(), tuple(labels.tolist())):
        found = corrupt(given, corruption, **settings)
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.int64
        assert np.array_equal(found, expected)
    for dtype in (torch.int64, torch.uint8, torch.int32):
        found = corrupt(torch.tensor(labels, dtype=dtype), corruption, **settings)
        assert isinstance(found, torch.Tensor)
        assert found.dtype == torch.int64
        assert found.tolist() == expected.tolist()
    assert len(corrupt([], corruption, **settings)) == 0


@pytest.mark.parametrize("corruption", [*CORRUPTIONS, "none"])
@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_the_input_stays_and_the_output_is_new(make, corruption):
    labels = make([0, 1, 2] * 20)
    rate = 0.0 if corruption == "none" else 0.5
    found = corrupt(labels, corruption, rate=rate, num_classes=3, seed=0)
    found[:] = 0
    assert labels.tolist() == [0, 1, 2] * 20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_tensor_stays_on_its_device():
    labels = torch.tensor([0, 1, 2, 0], device="cuda")
    settings = {"corruption": "symmetric", "rate": 0.5, "num_classes": 3, "seed": 0}
    found = corrupt(labels, **settings)
    assert found.device == labels.device
    assert found.tolist() == corrupt([0, 1, 2, 0], **settings).tolist()


GOOD = {"labels": [0, 1, 2], "corruption": "symmetric", "rate": 0.4, "num_classes": 3, "seed": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 1.0}, r"^rate=1.0 is outside \[0, 1\); choose"),
        ({"rate": -0.1}, r"^rate=-0.1 is outside"),
        ({"rate": math.nan}, "^rate=nan is outside"),
        ({"rate": True}, "^rate=True is outside"),
        ({"rate": "0.4"}, "^rate='0.4' is outside"),
        ({"rate": None}, "^corruption='symmetric' needs a rate; pass the share of wrong labels"),
        ({"corruption": "class_dependent", "rate": None}, "^corruption='class_dependent' needs a rate"),
        ({"corruption": "class_dependent", "rate": 1.0}, "^rate=1.0 is outside"),
        ({"corruption": "class_dependent", "rate_step": -0.1}, "^rate_step=-0.1 is not allowed; choose"),
        ({"corruption": "class_dependent", "rate_step": math.nan}, "^rate_step=nan is not allowed"),
        ({"corruption": "class_dependent", "rate_step": math.inf}, "^rate_step=inf is not allowed"),
        ({"corruption": "class_dependent", "rate_step": True}, "^rate_step=True is not allowed"),
        ({"corruption": "class_dependent", "rate_step": 0.21}, "rate 1.03, which is above 1; .* at most 0.2$"),
        ({"rate_step": 0.05}, "^rate_step=0.05 goes with corruption='class_dependent' only"),
        ({"corruption": "none"}, "^rate=0.4, rate_step=0.0 need a corruption; choose one of symmetric"),
        ({"corruption": "pairflip"}, r"^corruption='pairflip' is unknown \(did you mean 'pair_flip'\?\); .*symmetric"),
        ({"corruption": 3}, "^corruption=3 is unknown; choose"),
        ({"num_classes": 1}, "^num_classes=1 is not allowed; choose a whole number >= 2"),
        ({"num_classes": 3.0}, "^num_classes=3.0 is not allowed"),
        ({"num_classes": True}, "^num_classes=True is not allowed"),
        ({"seed": -1}, "^seed=-1 is not allowed; choose a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "^seed=4294967296 is not allowed"),
        ({"seed": 0.0}, "^seed=0.0 is not allowed"),
        ({"seed": None}, "^seed=None is not allowed"),
        ({"seed": False}, "^seed=False is not allowed"),
        ({"labels": [0, 1, 3]}, "hold 1 value.* outside 0 to 2, the first 3; .* larger num_classes than 3"),
        ({"labels": torch.tensor([0, -1])}, "outside 0 to 2, the first -1"),
        ({"labels": np.array([2**63], dtype=np.uint64)}, "^labels hold 9223372036854775808, which int64 does not"),
        ({"labels": [0.0, 1.0]}, "^labels are torch.float64; pass whole numbers from 0 to 2"),  # by whole_labels
        ({"labels": [[0, 1]]}, r"^labels have shape \(1, 2\); pass one class for each example"),
        ({"labels": torch.tensor(1)}, r"^labels have shape \(\)"),
    ],
)
def test_refused(change, message):
    assert len(corrupt(**GOOD)) == 3
    with pytest.raises(ValueError, match=message) as caught:
        corrupt(**(GOOD | change))
    assert "\n" not in str(caught.value)


def test_when_the_rate_may_be_left_out():
    assert corrupt([0, 1], "none", num_classes=2, seed=0).tolist() == [0, 1]
    found = corrupt(some_labels(500, 4), "class_dependent", rate_step=0.2, num_classes=4, seed=0)
    assert found.tolist() == plain_corruption("class_dependent", some_labels(500, 4), 4, 0.0, 0.2, 0)


def test_the_matrix_refuses_the_same():
    assert transition_matrix("none", 3, 0.0).tolist() == np.eye(3).tolist()
    with pytest.raises(ValueError, match=r"^rate=1 is outside"):
        transition_matrix("symmetric", 3, 1)
    with pytest.raises(ValueError, match=r"^rate_step=0.1 goes with"):
        transition_matrix("pair_flip", 3, 0.2, 0.1)
    with pytest.raises(ValueError, match=r"^num_classes=1 "):
        transition_matrix("pair_flip", 1, 0.2)
