"""The classifier with scikit-learn's interface: its own checks, wrong labels of real tables, and bad input."""

import importlib
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from vlls import DiagonalPosterior, KroneckerPosterior, find_label_errors
from vlls.data.corruption import corrupt
from vlls.label_errors import NoisyLabelClassifier, label_errors_from_probabilities
from vlls.train import classification_metrics


def quick(**options):
    return NoisyLabelClassifier(**{"hidden": (32,), "epochs": 10, "random_state": 0, **options})


@pytest.fixture(scope="module")
def iris():
    """Return the iris data, and its labels with every tenth one wrong."""
    X, y = load_iris(return_X_y=True)
    given = y.copy()
    given[::10] = (given[::10] + 1) % 3
    return X, y, given


@pytest.fixture(scope="module")
def digits():
    """Return a classifier trained on digits with four labels in ten wrong, and both parts of the data."""
    X, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(X, y, stratify=y, random_state=0)
    given = np.asarray(corrupt(torch.tensor(train_y), "symmetric", rate=0.4, num_classes=10, seed=0))
    return NoisyLabelClassifier(random_state=0).fit(train_x, given), train_x, train_y, given, test_x, test_y


# ------------------------------------------------------------------ scikit-learn's own checks
@pytest.mark.slow
@parametrize_with_checks(
    [
        NoisyLabelClassifier(),
        NoisyLabelClassifier(hidden=(), method="sgd", correct=False),
        NoisyLabelClassifier(hidden=(20, 20), method="sam", samples=0),
    ]
)
def test_it_is_an_estimator(estimator, check):
    check(estimator)


# ------------------------------------------------------------------ wrong labels
@pytest.mark.slow
def test_wrong_labels_of_digits_come_first_and_the_classes_are_learned(digits):
    classifier, train_x, train_y, given, test_x, test_y = digits
    table = classifier.label_errors_
    wrong = (given != train_y)[table["index"]]
    assert roc_auc_score(wrong, table["score"]) > 0.97
    flagged = table[table["flag"]]
    assert wrong[table["flag"]].mean() > 0.9 and len(flagged) > wrong.sum() / 2
    assert (flagged["suggested"] == train_y[flagged["index"]]).mean() > 0.9
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train_x, given)
    assert classifier.score(test_x, test_y) > plain.score(test_x, test_y) + 0.05


@pytest.mark.slow
def test_corrected_probabilities_are_calibrated(digits):
    classifier, *_, test_x, test_y = digits
    after = classifier.predict_proba(test_x)
    assert_array_equal(after.argmax(axis=1), classifier.predict(test_x))  # the classes are 0 to 9
    uncorrected = clone(classifier)
    uncorrected.__dict__.update(vars(classifier), correction_=None)
    before, after = (
        classification_metrics(torch.from_numpy(p), torch.from_numpy(test_y))
        for p in (uncorrected.predict_proba(test_x), after)
    )
    assert before["ece"] > 0.3 and after["ece"] < 0.1
    assert after["nll"] < before["nll"] / 2


@pytest.mark.parametrize(
    "method, kind", [("ivon", DiagonalPosterior), ("evon", KroneckerPosterior), ("sam", None), ("sgd", None)]
)
def test_every_method_finds_wrong_labels(iris, method, kind):
    X, y, given = iris
    classifier = NoisyLabelClassifier(method=method, random_state=0).fit(X, given)
    table = classifier.label_errors_
    assert roc_auc_score((y != given)[table["index"]], table["score"]) > 0.9
    assert classifier.score(X, y) > 0.9
    assert classifier.posterior_ is None if kind is None else isinstance(classifier.posterior_, kind)


def test_label_errors_are_those_of_the_network_and_have_the_users_labels(iris):
    X, _, given = iris
    names = np.array(["setosa", "versicolor", "virginica"])[given]
    classifier = quick(samples=3).fit(X, names)
    inputs = torch.from_numpy(classifier.scaler_.transform(X)).clamp(-3, 3).float()
    names_of_classes = list(classifier.classes_)
    table = find_label_errors(
        classifier.network_, classifier.posterior_, inputs, given, num_samples=3, classes=names_of_classes
    )
    pd.testing.assert_frame_equal(classifier.label_errors_, table)
    assert_array_equal(table["given"], names[table["index"]])
    assert set(classifier.predict(X)) <= set(names_of_classes)


def test_a_module_of_ones_own_with_normalisation_and_dropout(iris):
    X, _, given = iris

    def network(num_features, num_classes):
        layers = nn.Linear(num_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, num_classes)
        return nn.Sequential(*layers)

    rows = np.random.default_rng(0).permutation(len(X))[:65]
    classifier = quick(module=network, batch_size=64, correct=False).fit(X[rows], given[rows])
    assert isinstance(classifier.network_[1], nn.BatchNorm1d)
    assert not classifier.network_.training


# ------------------------------------------------------------------ as an estimator
def test_a_seed_decides_everything_and_torchs_own_is_left_alone(iris):
    X, _, given = iris
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = quick().fit(X, given).predict_proba(X)
    assert torch.equal(torch.rand(3), expected)
    assert_array_equal(quick().fit(X, given).predict_proba(X), one)
    assert (quick(random_state=1).fit(X, given).predict_proba(X) != one).any()


def test_it_works_in_pipelines_searches_cross_validation_and_pickles(iris):
    X, y, given = iris
    pipeline = make_pipeline(MinMaxScaler(), quick())
    p = cross_val_predict(pipeline, X, given, cv=3, method="predict_proba")
    table = label_errors_from_probabilities(p, given)
    assert roc_auc_score((y != given)[table["index"]], table["score"]) > 0.9
    search = GridSearchCV(quick(epochs=3), {"hidden": [(8,), (16, 16)]}, cv=2).fit(X, given)
    (width, *_) = search.best_params_["hidden"]
    assert next(search.best_estimator_.network_.parameters()).shape == (width, 4)
    fitted = pipeline.fit(X, given)
    assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_proba(X), fitted.predict_proba(X))


def test_tables_with_names_and_columns_of_any_size(iris):
    X, _, given = iris
    plain = quick().fit(X, given)
    table = pd.DataFrame(X, columns=list("abcd"))
    moved = table * [1e9, 1e-9, 1.0, -1.0] + [0.0, 0.0, 1e9, 0.0]
    classifier = quick().fit(moved, given)
    assert list(classifier.feature_names_in_) == list("abcd")
    assert classifier.score(moved, given) > plain.score(X, given) - 0.05


def test_what_it_prints(iris, capsys):
    X, _, given = iris
    quick(epochs=20, verbose=True, correct=False).fit(X, given)
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in lines]
    assert len(lines) == 10 and lines[0].startswith("epoch 1 of 20 on 150 examples: loss ") and losses[-1] < losses[0]
    quick(epochs=1).fit(X, given)
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------ the correction
def test_the_correction_is_of_networks_that_have_not_seen_the_example(iris, monkeypatch):
    X, _, given = iris
    classifier, seen = quick(epochs=1), []
    learn, sampled = NoisyLabelClassifier._learn, NoisyLabelClassifier._sampled

    def learning(self, inputs, given, seed):
        seen.append(("trained", inputs, given))
        learn(self, inputs, given, seed)

    def asking(self, inputs):
        seen.append(("asked", inputs, None))
        return sampled(self, inputs)

    monkeypatch.setattr(NoisyLabelClassifier, "_learn", learning)
    monkeypatch.setattr(NoisyLabelClassifier, "_sampled", asking)
    classifier.fit(X, given)
    assert [what for what, *_ in seen] == ["trained", "asked"] * 3 + ["trained"]
    for (_, trained, labels), (_, asked, _) in zip(seen[0:6:2], seen[1:6:2], strict=True):
        rows = torch.cat([trained, asked])
        assert torch.equal(rows.sort(dim=0).values, seen[-1][1].sort(dim=0).values)  # all, each once
        assert len(trained) == 100 and np.ptp(np.bincount(labels)) <= 1
    assert len({tuple(asked.flatten().tolist()) for what, asked, _ in seen if what == "asked"}) == 3


def test_the_correction_changes_neither_the_network_nor_its_label_errors(iris):
    X, _, given = iris
    corrected, plain = quick().fit(X, given), quick(correct=False).fit(X, given)
    pd.testing.assert_frame_equal(corrected.label_errors_, plain.label_errors_)
    assert plain.correction_ is None and (corrected.predict_proba(X) != plain.predict_proba(X)).any()


def test_classes_of_one_example(iris):
    X, _, given = iris
    few = [0, 1, 60, 120]
    classifier = quick().fit(X[few], given[few])
    assert classifier.predict_proba(X).shape == (len(X), len(set(given[few])))


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "adam"}, "method='adam' is unknown.*; choose one of ivon, evon, sam, sgd"),
        ({"epochs": 0}, "epochs=0 is not allowed"),
        ({"batch_size": 1.5}, "batch_size=1.5 is not allowed"),
        ({"samples": -1}, "samples=-1 is not allowed"),
        ({"hidden": (10, 0)}, "each entry of hidden=0 is not allowed"),
        ({"hidden": 10}, "hidden=10 is not allowed; pass the widths of the hidden layers, such as \\(256,\\)"),
        ({"lr": 0}, "lr=0 is not allowed"),
        ({"lr": float("nan")}, "lr=nan is not allowed"),
        ({"device": "abacus"}, "device='abacus' is not here; choose 'cpu'"),
        ({"module": lambda *_: 3}, "module returned an int; it must return a torch.nn.Module"),
    ],
)
def test_options_that_are_not_allowed(iris, options, message):
    X, _, given = iris
    with pytest.raises(ValueError, match=message) as told:
        quick(**options).fit(X, given)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda X, y: (X, np.ones(len(y))), "y holds one class, .*1.0.*, in 150 example"),
        (lambda X, y: (X, np.where(y == 1, np.nan, y)), "Input y contains NaN"),
        (lambda X, y: (np.where(X > 7, np.nan, X), y), "Input X contains NaN"),
        (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples"),
        (lambda X, y: (X, X[:, 0]), "Unknown label type"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_data_that_it_cannot_learn_from(iris, change, message):
    X, _, given = iris
    with pytest.raises(ValueError, match=message):
        quick().fit(*change(X, given))


# ------------------------------------------------------------------ without scikit-learn
@pytest.mark.slow
def test_importing_the_package_does_not_import_scikit_learn():
    code = "import sys, vlls.label_errors; vlls.find_label_errors; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "vlls.label_errors._sklearn")
    with pytest.raises(ModuleNotFoundError) as told:
        importlib.import_module("vlls.label_errors._sklearn")
    expected = "NoisyLabelClassifier needs scikit-learn, version 1.6 or newer: pip install 'vlls[train]'"
    assert str(told.value) == expected
