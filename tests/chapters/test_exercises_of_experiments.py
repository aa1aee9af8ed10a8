"""The exercises "change and predict" of Chapters 9 to 14 that train no network, run as those of Chapters 1 to 7."""

import re

import numpy as np
import pytest
from test_exercises_of_theory import Run, as_it_was  # noqa: F401 -- a fixture

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def in_the_book(monkeypatch):
    monkeypatch.syspath_prepend("book")


# ------------------------------------------------------------------ Chapter 9
ERRORS = "8f271925 2423d250 847578b7 e4f2332f"


def test_with_all_labels_uniform_nine_tenths_of_the_predictions_move():
    run = Run("09", ERRORS, {"e4f2332f": ("0.5, 0.9)", "0.5, 0.9, 1.0)")}, fails="e4f2332f")
    assert f"{run['moved']:,}" in run.solution(5) and 0.85 < run["moved"] / 10_000 < 0.95


def test_no_prediction_moves_up_to_nine_tenths_of_wrong_labels():
    run = Run("09", ERRORS, {"2423d250": ("rate = 0.4", "rate = 0.89")})
    assert run["moved"] == 0 and f"= {run['smoothing']:.3f}$" in run.solution(6)
    with pytest.raises(ValueError, match=r"1\.05"):
        Run("09", ERRORS, {"2423d250": ("rate = 0.4", "rate = 0.95")})
    assert f"{0.95 * 10 / 9:.3f}" in run.solution(6)


# ------------------------------------------------------------------ Chapter 10
FLIPS = "de42dc81 94c31375 feba37b6 cc9fdfb2 561e4e71 0719f8b7"
TWINS = "de42dc81 94c31375 2f425077 b1b9953d 161a75f5"


def test_at_forty_per_cent_pair_flips_outvote_the_right_label_more_often():
    run = Run("10", FLIPS, {"94c31375": ("rate = 0.2", "rate = 0.4")}, fails="0719f8b7")
    said = run.solution(6)
    assert run["threshold"] == pytest.approx(0.75) and "= 0.75$" in said
    assert f"{100 * run['pair']:.1f} % and {100 * run['spread']:.1f} %" in said
    assert f"{0.6 / 0.4:.1f} times" in said and f"{0.6 / (0.4 / 99):.1f} times" in said


def test_a_larger_start_of_the_hessian_changes_sigma_alone():
    run = Run("10", TWINS, {"2f425077": ("0.9, 0.01, 0.5", "0.9, 0.01, 5")})
    assert f"from 0.175 to {run['sigma']:.3f}" in run.solution(7)
    Run("10", TWINS, {"2f425077": ("beta2=1.0", "beta2=0.999")}, fails="161a75f5")


def test_the_price_of_one_variance_falls_with_the_spread_of_curvature():
    cells = f"{TWINS} 0c8d625b bcce30a9 aa107d92"
    run = Run("10", cells, {"aa107d92": ("mul(1.5)", "mul(0.5)")})
    assert f"to {run['gap']:.3f}" in run.solution(8)
    Run("10", cells, {"aa107d92": ("mul(1.5)", "mul(0.0)")}, fails="aa107d92")


# ------------------------------------------------------------------ Chapter 11
CLASSES = "a1a3e2d0 c11import 8441c46a 7b7f3697"


def test_with_a_smaller_step_between_classes_none_is_lost():
    run = Run("11", f"{CLASSES} c11info1", {"7b7f3697": ("Fraction(5, 100)", "Fraction(2, 100)")}, fails="c11info1")
    assert set(run["optimum"].values()) == {100.0}
    last, said = run.printed.strip().splitlines()[-1], run.solution(5)
    assert f"{run['drawn']:.1f} %" in said and f"{run['left'][0.5]:.3f} nats" in said
    assert f"errors of {last.rpartition('of ')[2]}" in said


def test_at_a_noise_level_of_0_4_only_class_10_is_in_doubt():
    run = Run("11", f"{CLASSES} f382c4a1 74035060", {"8441c46a": ("0.2, 0.5", "0.2, 0.4")})
    assert run["most"][:9] == ["own"] * 9 and "For classes 1 to 9" in run.solution(6)


# ------------------------------------------------------------------ Chapter 12
FRACTIONS = "6954ab2e 2705374b 6837d4a4 a81eabec"


def test_a_larger_lead_orders_two_classifiers_right():
    run = Run("12", FRACTIONS, {"a81eabec": ("shifted(7 * tenth", "shifted(8 * tenth")})
    assert "A = 12/25 and 13/25" in run.printed and r"$\frac{12}{25}$" in run.solution(5)
    run = Run("12", FRACTIONS, {"a81eabec": ("shifted(7 * tenth", "shifted(9 * tenth")}, fails="a81eabec")
    assert "A = 27/50" in run.printed and r"$\frac{27}{50}$" in run.solution(5)


def test_few_wrong_labels_order_two_classifiers_right():
    run = Run("12", FRACTIONS, {"a81eabec": ("one / 2", "19 * tenth / 2")}, fails="a81eabec")
    assert "A = 43/60 and 841/1200" in run.printed and r"\frac{43}{60}" in run.solution(6)


def test_with_fewer_draws_the_check_holds_within_larger_standard_errors():
    few = {"2705374b": ("draws = 200_000", "draws = 2_000")}
    run = Run("12", f"{FRACTIONS} 020d41a6 cf9161cd", few)
    found = re.findall(r"on (\d+\.\d+) %, error (\d\.\d) standard", run.printed)
    said = re.findall(r"\d+\.\d", run.solution(7))
    assert [float(x) for pair in zip(*found, strict=True) for x in pair] == pytest.approx(
        [*map(float, said)], abs=0.051
    )


# ------------------------------------------------------------------ Chapter 14
GAUSSIANS = "lad00002 lad0002a lad00003 lad00010"


def test_copies_in_equal_number_have_equal_variances():
    run = Run("14", GAUSSIANS, {"lad00010": ("torch.arange(1, 41)", "torch.full((40,), 5)")}, fails="lad00010")
    assert np.abs(run["found"]["copies"]).max() < 1e-6 and "both coefficients are 0.00" in run.solution(4)
    usual = Run("14", GAUSSIANS, {})
    assert f"Before the change it was {usual['found']['copies'][1]:.2f}" in run.solution(4)


def test_lengths_that_differ_less_leave_little_to_the_learned_covariance():
    run, usual = Run("14", GAUSSIANS, {"lad00010": ("linspace(0.2, 3", "linspace(2.0, 3")}), Run("14", GAUSSIANS, {})
    for before, after in zip(usual["found"]["lengths"], run["found"]["lengths"], strict=True):
        assert f"from {before:.2f} to {after:.2f}" in run.solution(5)


def test_a_larger_ess_learns_more_of_a_hessian_that_is_zero():
    cells = "lad00002 regimes03"
    shares = []
    for ess in ("1e4", "1e6", "1e5"):
        run = Run("14", cells, {"regimes03": ("200, 1e5,", f"200, {ess},")})
        shares.append(f"{100 * (1 - run['kept'] / float(run['hess'].mean())):.0f} %")
    assert "We saw {} and {}, where it was {} at".format(*shares) in run.solution(6)
