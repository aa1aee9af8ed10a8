"""The exercises "predict, then run" of Chapters 1 to 7 and of the appendix.

The change is made, its cells are run, and the results must be the solution's numbers.
"""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

BOOK = Path(__file__).resolve().parents[2] / "book"
pytestmark = pytest.mark.slow


class Run:
    """Cells of a chapter, executed with changes.

    Args:
        chapter: how its file's name begins.
        cells: their ids, in order; those of imports and of parameters come first.
        changes: for the id of a cell, a text that is there once and its replacement, or several such pairs.
        fails: the cell whose assertion fails, as the exercise says.
    """

    def __init__(self, chapter, cells, changes, fails=None):
        path = next(BOOK.glob(f"{chapter}*.ipynb"))
        self.notebook = nbformat.read(path, as_version=4)
        source = {cell.id: cell.source for cell in self.notebook.cells}
        for at, change in changes.items():
            for old, new in [change] if isinstance(change[0], str) else change:
                assert source[at].count(old) == 1
                source[at] = source[at].replace(old, new)
        self.names, printed = {"__name__": "chapter"}, io.StringIO()
        with redirect_stdout(printed):
            for cell in cells.split():
                try:
                    exec(compile(source[cell], f"{path.stem}, {cell}", "exec"), self.names)
                    failed = False
                except AssertionError:
                    failed = True
                assert failed == (cell == fails)
        self.printed = printed.getvalue()

    def __getitem__(self, name):
        return self.names[name]

    def solution(self, number):
        """Return the text of a solution, on one line."""
        text = "\n\n".join(cell.source for cell in self.notebook.cells if cell.cell_type == "markdown")
        found = re.search(rf"^\*\*(?:Exercise )?{number} ∗.*?Solution(.*?)^:::", text, re.MULTILINE | re.DOTALL)
        return " ".join(found[1].split())

    def row(self, name):
        """Return the numbers of the last row that is printed under a name."""
        return re.findall(
            r"[-+]?\d+\.?\d*(?:e-\d+)?", re.findall(rf"^{re.escape(name)} *(.*)$", self.printed, re.M)[-1]
        )


@pytest.fixture(autouse=True)
def as_it_was():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------ Chapter 1
TRAINED = "ls-02 ls-01 ls-17 ls-19 ls-21 ls-29 ls-31 ls-32"


def test_beyond_the_margin_acls_is_plain_training():
    run = Run("01", TRAINED, {"ls-21": ("margin=2.0", "margin=20.0")})
    logits = run["logits"]
    assert f"is {(logits.amax(1) - logits.amin(1)).max():.1f}, below the margin" in run.solution(6)
    assert run["noise_of"]["ACLS"].abs().max() == 0
    assert run.row("ACLS")[2:4] == ["+0.0", "0.0"] and r"$+0.0 \pm 0.0$" in run.solution(6)


def test_fewer_wrong_labels_need_less_smoothing():
    run = Run("01", TRAINED, {"ls-01": ("wrong_share = 0.4", "wrong_share = 0.05")})
    (gain, half), (ahead, width) = (
        run["interval"](*names) for names in (("label smoothing", "plain"), ("label smoothing, 0.3", "label smoothing"))
    )
    assert 0 < gain - half and gain < 1 and ahead - width > 0
    told = [float(number) for number in re.findall(r"\$([\d.]+) \\pm", run.solution(7))]
    np.testing.assert_allclose([told[0], told[2]], [gain, ahead], atol=0.11)


# ------------------------------------------------------------------ Chapter 2
PATIENTS = "002 001 013 015 017"


def test_theorem_1_holds_for_a_step_size_a_hundred_times_larger():
    run = Run("02", PATIENTS, {"001": ("lr = 5e-4", "lr = 5e-2")})
    assert 1e-12 < run["largest"] < 1e-10 and r"to $2 \cdot 10^{-11}$" in run.solution(6)


def test_a_narrow_posterior_leaves_the_order_to_the_location():
    cells = f"{PATIENTS} 019 039 041 043"
    run = Run("02", cells, {"019": ("covariance=1.0", "covariance=0.01")}, fails="043")
    said, top = run.solution(7), run["ranked"][:5]
    assert f"to {run['noise'].abs().max():.2f}." in said and 68 not in top
    at = run["location"][top].abs()
    assert f"between {at.min():.1f} and {at.max():.1f} in size" in said
    assert f"to ${run['with_f']:.2f}$" in said and f"to {np.median(run['within']):.2f}." in said


def test_with_larger_steps_the_noise_peaks_earlier():
    cells = f"{PATIENTS} 058"
    peaks = []
    for lr in ("2e-5", "1e-4"):
        run = Run("02", cells, {"001": ("2e-5", lr)})
        peaks.append(int(run["history"].abs().median(1).values.argmax()))
    assert f"At step {peaks[1]} instead of step {peaks[0]}" in run.solution(8)


# ------------------------------------------------------------------ Chapter 3
def test_beyond_one_half_the_predicted_class_is_raised():
    changes = {"013d": ("[[1.0, 0.9, 0.9]]", "[[2.0, 0.9, 0.9]]")}
    run = Run("03", "002 001 013d", changes, fails="013d")
    said = run.solution(5)
    assert f"{run['three'].mean(run['mean'])[0, 0]:.0%}".replace("%", " %") in said
    assert all(f"{value:.4f}" in said for value in run["noise_at"].values())


def test_under_a_wide_posterior_the_order_turns_around():
    cells, confidence = "002 001 015 042", []
    for variance in ("0.1", "100.0"):
        run = Run("03", cells, {"001": ("digits_variance = 0.1", f"digits_variance = {variance}")})
        sure = torch.softmax(run["glm"].features @ run["theta"], 1).amax(1)
        confidence.append(sure[run["rows"]])
    (first, _, last), (first_now, _, last_now) = confidence
    said, amount = run.solution(6), run["amount"]
    assert f"{amount.min():.2f}-{amount.max():.2f}" in said
    assert f"of {first.min():.2f} to {first.max():.2f}" in said
    assert first_now.min() > 0.99 and last.min() > 0.999 and last_now.max() < 0.45


# ------------------------------------------------------------------ Chapter 4
VON = "001 002 005 021 023 027"


def test_half_the_step_size_takes_twice_the_iterations():
    run = Run("04", VON, {"027": ("0.5, 0.2)", "0.5, 0.2, 0.1)")})
    assert abs(run["iterations"][0.1] - int(re.search(r"needs (\d+)", run.solution(5))[1])) <= 2
    assert 1.8 < run["iterations"][0.1] / run["iterations"][0.2] < 2.2


def test_the_narrower_the_posterior_the_more_concentrated_the_noise():
    changes = {"033": ("c = float(var_learned.median() / var_fixed.median())", "c = 0.01")}
    run = Run("04", f"{VON} 031 033", changes, fails="033")
    said = run.solution(6)
    for name in ("c I", "VON's Σ / c"):
        share, times = re.search(
            rf"^{name} +the largest tenth carries (\d+)%.*: ([\d.]+) times", run.printed, re.M
        ).groups()
        assert f"{share} %" in said
        assert f"{float(times):.0f} times" in said or f"{times} times" in said


# ------------------------------------------------------------------ Chapter 5
@pytest.mark.parametrize("number", [5, 6])
def test_without_the_term_runs_stay_positive_where_samples_are_harmless(number):
    old, new = {5: ("1e-3, 0.05  # rate", "1e-3, 0.005  # rate"), 6: ("= 0.15, 0.1", "= 0.0, 0.1")}[number]
    run = Run("05", "c001 c002 c020 c021", {"c020": (old, new)}, fails="c021")
    assert "without it 0% of 1000 runs" in run.printed and "No run does" in run.solution(number)
    told = f"{run['factor']:.2f}" if number == 5 else f"{run['kept'].min():.3f}"
    assert told in run.solution(number)


# ------------------------------------------------------------------ Chapter 6
def test_at_half_the_spread_sam_is_nearer_to_the_bound():
    run = Run(
        "06",
        "19b8204c dc02601c sam-bound-check sam-bound-assert",
        {
            "sam-bound-check": (
                "slope_at, spread = torch.func.grad(loss_at), 0.1",
                "slope_at, spread = torch.func.grad(loss_at), 0.05",
            )
        },
    )
    assert f"to {run['delta'].norm():.3f}," in run.solution(4) and f"off by {100 * run['off']:.0f} %" in run.solution(4)


def test_without_curvature_in_the_weights_nothing_is_approximated():
    changes = {
        "e24056fb": (
            ("torch.rand(outputs", "2 * torch.rand(outputs"),
            ("(network - glm).abs().max()", "(network - glm).abs().max() / glm.abs().max()"),
        )
    }
    errors = Run("06", "19b8204c dc02601c e24056fb", changes)["errors"]
    assert len(errors) == 3 and max(errors.values()) < 1e-14


# ------------------------------------------------------------------ Chapter 7
def test_a_choice_that_is_not_random_moves_the_mean_area():
    changes = {
        "6e4785af": (
            "choices = [(a, b) for a in range(5) for b in range(a)]",
            "choices = [(a, 0) for a in range(1, 5)]",
        )
    }
    run = Run("07", "abe8853d 6e4785af", changes, fails="6e4785af")
    wins = [run["wins"][0, i] for i in range(1, 5)]
    assert run["sp"].simplify(run["zero"] - sum(wins) / 8 + run["sp"].Rational(1, 4)) == 0
    assert r"\tfrac18(w_{01} + w_{02} + w_{03} + w_{04}) - \tfrac14" in run.solution(4)
    assert [run["zero"].subs(dict.fromkeys(wins, value)) + run["sp"].Rational(1, 2) for value in (1, 0)] == [
        run["sp"].Rational(3, 4),
        run["sp"].Rational(1, 4),
    ]


def test_ten_times_the_weight_of_an_image_makes_the_noise_smaller(monkeypatch, tmp_path):
    monkeypatch.setenv("VLLS_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cells = "abe8853d 7a10c0d8 176f73a1 2bb145a7 c8e82ffb 2d4f2cde"
    tables = []
    for times in ("200", "2000"):
        run = Run("07", cells, {"176f73a1": ("times, hess_init = 200", f"times, hess_init = {times}")})
        model, q, _ = run["networks"]["learned Σ"]
        tables.append(run["rank_examples"](model, q, run["few_x"], run["few_y"], curvature_pairs=4))
    before, now = tables
    told = [float(number) for number in re.findall(r"0\.\d+", run.solution(5))]
    places = [np.argsort(table.index) for table in tables]
    found = [before.noise.max(), now.noise.max(), spearmanr(*places)[0]]
    np.testing.assert_allclose(told, found, atol=0.03)
    constant = 0.1 * 0.9**0.5
    assert (now.noise > constant).mean() < 0.01 and 0.07 < (before.noise > constant).mean() < 0.11


# ------------------------------------------------------------------ the appendix
def test_four_samples_take_four_passes():
    run = Run(
        "appendix",
        "5fb4a3d4 082c8907 f69cc5e9 0a992eda a6dfe335",
        {"a6dfe335": ('("IVON", 2, 2)', '("IVON", 4, 2)')},
        fails="a6dfe335",
    )
    assert "IVON, 2 samples: 4 forward, 4 backward" in run.printed


def test_twice_the_images_double_the_jacobians_and_nothing_else():
    cells = "5fb4a3d4 082c8907 b6dc0688 c7e6f0c0 c483bfcf"
    peaks, work = [], []
    for images in ("32", "64"):
        run = Run("appendix", cells, {"082c8907": ("images = 32", f"images = {images}")})
        peaks.append({name: alive.peak / 2**20 for name, (*_, alive) in run["found"].items()})
        work.append(run["work"] / run["backward"])
    said = run.solution(6)
    assert f"saw {work[1]:.2f} (formula {run['formula']:.2f})" in said and abs(work[1] - work[0]) < 0.01
    assert f"from {peaks[0]['Jacobians']:.0f} to {peaks[1]['Jacobians']:.0f} MiB" in said
    layered, limited = re.search(r"about (\d+) MiB and, with the limit of 8 MiB, (\d+) MiB", said).groups()
    for peak in peaks:
        assert abs(peak["layer by layer"] - int(layered)) < 1
        assert abs(peak["layer by layer, 8 MiB"] - int(limited)) < 1
