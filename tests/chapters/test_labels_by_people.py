"""The sentences of Chapter 12: the labels at hand, Figure 9, human labels, calibration, and published numbers."""

import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

BOOK = Path(__file__).parents[2] / "book"
sys.path.insert(0, str(BOOK))
from figures import label_errors  # noqa: E402
from figures.by_protocol import gaps_by_panel  # noqa: E402
from figures.label_errors import PUBLISHED, beside_published, calibration, calibration_in_words  # noqa: E402
from figures.ledger import ON_REAL_IMAGES, rows_of, said  # noqa: E402

from vlls.experiments import load_table  # noqa: E402

CHAPTER = BOOK / "12_real_label_errors.ipynb"
CELLS = nbformat.read(CHAPTER, as_version=4).cells
TEXT = "\n\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
WORST = "CIFAR-10N, worst"


@pytest.fixture(scope="module")
def worst():
    """Return the runs of the protocol short on the labels "worst"."""
    rows = pd.concat([rows_of(name, "short") for name in ("cifar_n", "controls")])
    return rows[rows["panel"] == WORST].drop_duplicates("key")


# ---------------------------------------------------------------------- the labels at hand
def test_errors_of_people_and_drawn_ones_have_their_own_sentences():
    classes = ["cat", "dog", "automobile", "truck"]
    shares = np.array([[0.6, 0.3, 0.1, 0], [0.2, 0.8, 0, 0], [0, 0, 0.5, 0.5], [0.1, 0, 0.1, 0.8]])
    people = label_errors.errors_in_words(shares, classes, people=True)
    assert "from 20 to 50 %" in people and "75 % of the wrong labels of cat name dog" in people
    assert f"{100 * (0.3 + 0.2 + 0.5 + 0.1) / (0.4 + 0.2 + 0.5 + 0.2):.0f} % of the errors name" in people
    drawn = label_errors.errors_in_words(shares, list("0123"), people=False)
    assert drawn.startswith("These errors are drawn") and "cat" not in drawn.replace("CIFAR", "")


@pytest.mark.filterwarnings("ignore:cifar10 is not under")
def test_without_the_labels_of_people_the_page_does_not_speak_of_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VLLS_DATA", str(tmp_path))
    monkeypatch.chdir(BOOK)
    told = []
    cells = [cell for cell in CELLS if cell.cell_type == "code"]
    names = {}
    for cell in cells[:4]:
        exec(cell.source, names)
    names["display"] = lambda *shown: told.extend(shown)
    for cell in cells[4:6]:
        exec(cell.source, names)
    assert "these are DIGITS with SYMMETRIC errors" in capsys.readouterr().out
    sentences = told[-1].data
    assert "These errors are drawn" in sentences and "look-alikes" not in sentences and "dog" not in sentences


# ---------------------------------------------------------------------- the verdicts
def test_figure_9_is_untested():
    assert set(load_table(BOOK / "results" / "fig9.csv")["protocol"]).isdisjoint(ON_REAL_IMAGES)
    assert said("fig9").findings["fig9"].verdict == "untested" and "**Figure 9: untested.**" in TEXT


def test_the_numbers_on_human_labels_are_those_of_the_tables(worst):
    of = worst.assign(value=worst["value"].fillna(0)).groupby(["method", "variant", "value"])
    last = 100 * of["test_accuracy"].mean()
    best = 100 * of["best_test_accuracy"].mean()
    seeds = of["seed"].unique().map(sorted)
    ivon, sam, ls, sgd = (last[at] for at in (("ivon", "", 0), ("sam", "", 0.05), ("ls", "", 0.5), ("sgd", "", 0)))
    cosine = last["sgd", "cosine and warm-up", 0]
    assert f"IVON {ivon:.2f} %, LS {ls:.2f} at $\\alpha = 0.5$, SGD {sgd:.2f} (seeds 0 to 2)" in TEXT
    assert all(seeds[at] == [0, 1, 2] for at in (("ivon", "", 0), ("ls", "", 0.5), ("sgd", "", 0)))
    assert f"SAM {sam:.2f} at its one $\\rho$ (seeds 0 and 1)" in TEXT and seeds["sam", "", 0.05] == [0, 1]
    assert f"IVON's schedule {cosine:.2f} (seed 0)" in TEXT and seeds["sgd", "cosine and warm-up", 0] == [0]
    at_best = {"ls": best["ls", "", 0.5], "sgd": best["sgd", "", 0]}
    assert f"LS has {at_best['ls']:.2f} and SGD {at_best['sgd']:.2f}" in TEXT and "nearly half" in TEXT
    for name, end in (("ls", ls), ("sgd", sgd)):
        assert 0.4 < 1 - (best["ivon", "", 0] - at_best[name]) / (ivon - end) < 0.6
    found = {other: gaps_by_panel(worst, "ivon", other)[WORST] for other in ("sgd", "ls", "sam")}
    assert all(between.side == 1 for between in found.values())
    assert f"SAM is {found['sam'].points:.1f} points behind" in TEXT


def test_with_few_images_ivon_is_ahead_on_ten_classes_and_behind_on_a_hundred():
    small = {other: gaps_by_panel(rows_of("cifar_n", "smoke"), "ivon", other) for other in ("sgd", "ls", "sam")}
    sides = {(panel.partition(",")[0], gap.side) for of_one in small.values() for panel, gap in of_one.items()}
    assert sides == {("CIFAR-10N", 1), ("CIFAR-100N", -1)}
    assert "ahead of all three on the three label sets of CIFAR-10N, and behind all three on CIFAR-100N" in TEXT


def test_calibration_in_words(worst):
    table = calibration(worst)
    assert table.index[0] == "IVON" and table["ECE (%)"].is_monotonic_increasing
    ece = table["ECE (%)"].round()
    assert f"{ece['IVON']:.0f} % against SGD's {ece['SGD']:.0f} and SAM's {ece['SAM, ρ = 0.05']:.0f}" in TEXT
    averaged = table.loc["IVON", "ECE (%), averaged"]
    assert averaged > 2 * table.loc["IVON", "ECE (%)"] and "more than doubles the error" in TEXT
    told = calibration_in_words(table)
    assert told.startswith("IVON is the best calibrated") and f"makes it worse: {averaged:.0f} %" in told
    assert "accuracy falls by 3.1 points" in told
    better = table.assign(**{"ECE (%), averaged": 1.0, "accuracy (%), averaged": 90.0})
    assert "makes it better: 1 %" in calibration_in_words(better) and "rises" in calibration_in_words(better)
    assert "Averaging" not in calibration_in_words(table.drop(index="IVON"))


def test_published_numbers_stand_in_order_beside_ours(worst):
    table = beside_published(worst)
    assert table["best epoch (%)"].is_monotonic_increasing
    by = table.set_index("method")
    assert set(PUBLISHED) < set(by.index) and (by.loc[list(PUBLISHED), "by"].str.match(r".+ \(\d{4}\)")).all()
    ivon = by.loc["IVON", "best epoch (%)"]
    ahead = {name: PUBLISHED[name][0] - ivon for name in ("SGD, averaged weights", "DivideMix", "PES (semi)")}
    low, high = map(int, re.search(r"DivideMix and PES are (\d) to (\d) points higher", TEXT).groups())
    assert (round(min(ahead.values())), round(max(ahead.values()))) == (low, high)
    assert all(PUBLISHED[name][0] < ivon for name in ("GCE", "negative LS", "ELR"))
    assert "Those of losses alone (GCE, negative smoothing, ELR) are lower" in TEXT
