"""Chapter 13: which score ranks wrong labels best, and that its words follow its records."""

import re
import sys
from fractions import Fraction
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import sympy as sp
from sklearn.metrics import roc_auc_score

BOOK = Path(__file__).parents[2] / "book"
sys.path.insert(0, str(BOOK))

from figures import one_run  # noqa: E402
from figures.differences import gap_of  # noqa: E402

from vlls.data.corruption import transition_matrix  # noqa: E402
from vlls.label_errors import LabelCorrection, label_errors_from_probabilities  # noqa: E402

ERRORS = {"symmetric": 0.4, "pair_flip": 0.4}


def right_by_loops(q, transition):
    """Return the probability that a label is right, by Bayes' rule in loops over joint events."""
    number, k = q.shape
    right = np.zeros((number, k))
    for n in range(number):
        for y in range(k):
            joint = [q[n, i] * transition[i, y] for i in range(k)]
            right[n, y] = joint[y] / sum(joint)
    return right


def expected_auroc(score, p, right):
    """Return the share of pairs of a wrong and a right label that a score orders right, by all pairs."""
    wrong_weight, right_weight = (p * (1 - right)).ravel(), (p * right).ravel()
    difference = score.ravel()[:, None] - score.ravel()[None, :]
    ordered = (difference > 0) + 0.5 * (difference == 0)
    return float(wrong_weight @ ordered @ right_weight / (wrong_weight.sum() * right_weight.sum()))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).dirichlet(np.full(4, 0.3), 60)


@pytest.mark.guards("prop-best-ranking")
@pytest.mark.parametrize("kind", ERRORS)
def test_no_score_ranks_better_than_the_probability_of_being_wrong(images, kind):
    transition = np.array(transition_matrix(kind, 4, ERRORS[kind]))
    p, right = images @ transition, right_by_loops(images, transition)
    best = expected_auroc(1 - right, p, right)
    random = np.random.default_rng(1)
    others = [1 - p, 1 - images, -np.log(p), *(1 - right + 0.05 * random.standard_normal(p.shape) for _ in range(5))]
    assert all(expected_auroc(score, p, right) <= best + 1e-12 for score in others)
    assert expected_auroc(others[-1], p, right) < best - 1e-4  # a worse score is recognised


def test_the_bayes_score_is_the_probability_of_being_wrong(images):
    transition = np.array(transition_matrix("pair_flip", 4, 0.3))
    p, right = images @ transition, right_by_loops(images, transition)
    known = LabelCorrection(transition, method="inverse")  # of p = q T itself
    for given in range(4):
        table = label_errors_from_probabilities(p, np.full(len(p), given), score="bayes", correction=known, flag=3)
        assert np.asarray(table["score"])[np.argsort(table["index"])] == pytest.approx(1 - right[:, given], abs=1e-6)


@pytest.mark.guards("prop-best-ranking")
def test_under_symmetric_errors_the_given_labels_probability_is_enough(images):
    k, r, q = sp.symbols("K r q", positive=True)
    p = r / (k - 1) + (1 - r * k / (k - 1)) * q
    by_p = (1 - r) / (1 - r * k / (k - 1)) * (1 - r / ((k - 1) * p))
    assert sp.simplify((1 - r) * q / p - by_p) == 0
    transition = np.array(transition_matrix("symmetric", 4, 0.4))
    p, right = images @ transition, right_by_loops(images, transition)
    closed = 0.6 / (1 - 0.4 * 4 / 3) * (1 - 0.4 / (3 * p))
    assert closed == pytest.approx(right, abs=1e-12)
    assert (np.diff(right.ravel()[np.argsort(p.ravel())]) > -1e-12).all()
    assert expected_auroc(1 - p, p, right) == pytest.approx(expected_auroc(1 - right, p, right), abs=1e-12)


@pytest.mark.guards("prop-best-ranking")
def test_self_confidence_can_order_two_labels_wrong():
    keep, flip = Fraction(3, 5), Fraction(2, 5)
    certain, open_ = [1, 0, 0], [Fraction(1, 3)] * 3
    p_certain, p_open = (q[1] * keep + q[0] * flip for q in (certain, open_))  # of label 2
    assert (p_certain, p_open) == (Fraction(2, 5), Fraction(1, 3)) and 1 - p_open > 1 - p_certain
    assert (certain[1] * keep / p_certain, open_[1] * keep / p_open) == (0, Fraction(3, 5))


def test_the_area_of_drawn_labels_is_the_expected_one(images):
    transition = np.array(transition_matrix("pair_flip", 4, 0.4))
    q = np.tile(images, (20, 1))
    p, right = q @ transition, np.tile(right_by_loops(images, transition), (20, 1))
    expected = expected_auroc(1 - right[:60], p[:60], right[:60])
    random, found = np.random.default_rng(2), []
    for _ in range(200):
        labels = (random.random((len(p), 1)) > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1)
        own = right[np.arange(len(p)), labels]
        found.append(roc_auc_score(random.random(len(p)) > own, 1 - own))
    assert abs(np.mean(found) - expected) < 4 * np.std(found, ddof=1) / np.sqrt(len(found))


# ---------------------------------------------------------------------- the records
def made_up(**shift):
    """Return rows of three seeds in which a ranking has AUROC and precision of the folds plus a shift."""
    rows, random = [], np.random.default_rng(0)
    for errors in ("symmetric 40 %", "pair flip 40 %"):
        for seed in range(3):
            for ranking in one_run.RANKINGS:
                value = 0.9 + shift.get(ranking.split(",")[0].lower(), 0.0) + 1e-4 * random.standard_normal()
                row = {"data": "MNIST", "errors": errors, "seed": seed, "ranking": ranking, "cost": 0.25}
                rows.append({**row, "auroc": value, "precision": value})
    return pd.DataFrame(rows)


def test_words_follow_the_records():
    ahead = one_run.beside_folds_in_words(made_up(ivon=0.05))
    assert "the AUROC is clearly above five folds' in 2 of 2 settings and clearly below in 0; the average" in ahead
    assert ahead.endswith("It takes 25 % of the folds' CPU time.")
    behind = one_run.beside_folds_in_words(made_up(ivon=-0.05))
    assert "clearly below in 2 (MNIST, symmetric 40 % −5.0, MNIST, pair flip 40 % −5.0 points)" in behind
    assert "five folds 0.900" in one_run.bayes_in_words(made_up())
    few = made_up(ivon=0.05).replace({"errors": {"symmetric 40 %": "symmetric 5 %"}})
    told = one_run.few_in_words(few)
    assert re.search(
        r"3 seeds: on MNIST with symmetric 5 % 0\.950 ± 0\.000, by the .* five folds 0\.900 ± 0\.000\.$", told
    )
    assert "pair flip" not in told
    people = one_run.of_one_run_cifar()
    assert "level with the cross-validated ResNet-18" in one_run.cifar_in_words(people)
    worse = people.assign(auroc=people["auroc"] - 0.01)
    assert "below the cross-validated ResNet-18" in one_run.cifar_in_words(worse)


def test_the_figure_has_a_marker_for_each_ranking_and_a_bar_for_the_folds():
    (ax,) = one_run.plot_one_run(made_up(ivon=0.05)).axes
    drawn = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    assert set(one_run.RANKINGS) <= set(drawn)
    assert drawn["IVON"] == pytest.approx([0.05, 0.05], abs=2e-3) and drawn[one_run.FOLDS][0] == pytest.approx(
        0.1, abs=1e-3
    )
    assert ax.yaxis_inverted() and ax.get_yscale() == "log"


def test_few_wrong_labels_are_found_as_the_chapter_says():
    text = " ".join((BOOK / "13_one_run.ipynb").read_text().split())
    assert "If 5 % are wrong at random, one run and five folds alike put nearly all of them in front." in text
    assert "Of 5 % pair flips, one run of IVON finds more than five folds do, and more still by the Bayes score" in text
    rows = one_run.of_one_run()
    means = rows.groupby(["data", "errors", "ranking"])["precision"].mean()
    ahead = one_run.above_folds(rows, "IVON, at the mean", "precision")
    for data in ("MNIST", "digits"):
        of_random = means[data, "symmetric 5 %"]
        assert of_random["IVON, at the mean"] > 0.98 and of_random[one_run.FOLDS] > 0.98
        assert ahead[f"{data}, pair flip 5 %"].side > 0
        flips = rows[(rows["data"] == data) & (rows["errors"] == "pair flip 5 %")]
        by_seed = 100 * flips.pivot(index="seed", columns="ranking", values="precision")
        gap = gap_of(by_seed["IVON, Bayes score"], by_seed["IVON, at the mean"], least=0.0)
        assert gap is not None and gap.side > 0


def test_the_summary_says_what_the_records_say():
    cells = nbformat.read(BOOK / "13_one_run.ipynb", as_version=4).cells
    summary = next(c.source for c in cells if "## Summary" in c.source).partition("## Summary")[2]
    summary = summary.partition("## ")[0]
    rows = one_run.of_one_run()
    ahead = one_run.above_folds(rows, "IVON, at the mean")
    clear, behind = (sum(gap.side == side for gap in ahead.values()) for side in (1, -1))
    assert (
        f"clearly above five folds with cleanlab in {clear} of {len(ahead)} settings, and clearly below in {behind}"
        in summary
    )
    assert f"at {100 * one_run.cost_of(rows, 'IVON, at the mean'):.0f} % of their CPU time" in summary
    best = rows.groupby("ranking")["auroc"].mean().drop("IVON, Bayes score").sort_values(ascending=False).index
    above = {name: sum(gap.side > 0 for gap in one_run.above_folds(rows, name).values()) for name in best[:3]}
    assert list(above) == ["ELR", "LS, α = 0.5", "EVON"] and above["LS, α = 0.5"] == above["EVON"]
    assert f"ELR ranks best (above in {above['ELR']}), then label smoothing and EVON (in {above['EVON']})" in summary
    assert "level with the cross-validated" in one_run.cifar_in_words(one_run.of_one_run_cifar())
    assert re.search(r"On people's labels [^.]* as well as the published cross-validated", summary)
    corrected = one_run.calibrations()
    ivon = corrected[corrected["method"] == "IVON"]
    assert f"below {1 + int(ivon['ece after'].max())} %" in summary
    assert (ivon["accuracy after"] - ivon["accuracy before"]).min() > -0.5
