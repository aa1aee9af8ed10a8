"""Figures of the chapters and the appendix: each has a caption with a number, and the text refers to it."""

import json
import re
from itertools import pairwise

import nbformat
import pandas as pd
import pytest
from chapters import ROOT, chapters, markdown
from figures import regimes
from figures.by_protocol import gaps_by_panel, runs_by_protocol
from figures.ladder import RUNGS, values
from figures.one_run import above_folds, of_one_run
from read_records import benchmark_records

from vlls.experiments import load_table

CHAPTERS = chapters()
DRAWS = re.compile(r"\b(?:plot|explore)_\w+\(")
CAPTION = re.compile(r"^\((fig-[\w-]+)\)=\n\*([^*]+)\*(?:\n\n|$)")
PLACES = re.compile(r"\b(left|middle|right):", re.IGNORECASE)  # on a phone panels stand below one another


def captions(path):
    """Return the captions of a chapter by label, and the first lines of the cells whose figure lacks one."""
    found, missing, cells = {}, [], nbformat.read(path, as_version=4).cells
    for cell, below in pairwise(cells):
        if "## Exercises" in cell.source:  # a caption would give the answer away
            break
        if cell.cell_type == "code" and DRAWS.search(cell.source):
            if caption := CAPTION.match(below.source):
                found[caption[1]] = " ".join(caption[2].split())
            else:
                missing.append(cell.source.partition("\n")[0])
    return found, missing


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_each_figure_has_a_numbered_caption(path):
    found, missing = captions(path)
    assert missing == [] and len(found) > 2


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_the_text_refers_to_each_figure(path):
    text = markdown(path)
    labels = [label for label in captions(path)[0] if not label.startswith("fig-opening-")]
    assert [label for label in labels if f"{{numref}}`{label}`" not in text] == []
    assert set(re.findall(r"\{numref\}`([\w-]+)`", text)) <= set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.name)
def test_a_caption_begins_with_what_the_figure_shows(path):
    for label, caption in captions(path)[0].items():
        first = re.split(r"(?<!Eq\.)(?<=[.!?])\s", caption, maxsplit=1)[0]
        assert 5 < len(first.split()) < 45, label
        assert not PLACES.search(first), label


def test_labels_of_figures_occur_once_in_the_book():
    labels = [label for path in chapters() for label in captions(path)[0]]
    assert len(labels) == len(set(labels))


# ------------------------------------------------------------------ numbers of the appendix
@pytest.fixture(scope="module")
def recorded():
    rows = benchmark_records(ROOT / "benchmarks" / "records")
    return {(row.what, row.name): row.value for row in rows.itertuples(index=False)}


def spread(values):
    return f"{min(values):.1f} to {max(values):.1f}"


def test_captions_of_records_say_what_the_records_say(recorded):
    """If a record changes, so must the caption of its figure."""
    said = captions(next(path for path in CHAPTERS if path.name.startswith("appendix")))[0]
    step = {name: value for (what, name), value in recorded.items() if what == "step over AdamW fused, CPU"}
    fused = [value for name, value in step.items() if name.startswith("IVON fused")]
    assert len(fused) == 3
    assert f"takes {spread(fused)} times" in said["fig-optimizer-cost"]
    assert f"`ivon-opt` {step['ivon-opt']:.0f} times" in said["fig-optimizer-cost"]

    assert (
        round(recorded["label noise, faster than BackPACK, CPU", "exact"]) == 5
        and "a fifth of" in said["fig-noise-cost"]
    )
    peak = {name: value for (what, name), value in recorded.items() if what == "label noise, peak memory, CPU"}
    assert f"{peak['laplace-torch BackPACK'] / peak['exact']:.0f} times less" in said["fig-noise-cost"]

    small, large = (recorded["training, time of IVON over SGD, CPU", f"{n}×{n} pixels"] for n in (8, 28))
    assert f"{small:.2f} times" in said["fig-training-cost"] and round(large, 1) == 1

    von = [value for (what, _), value in recorded.items() if what == "GLM, VON over Newton"]
    assert len(von) == 4
    assert f"takes {spread(von)} times" in said["fig-glm-cost"]
    gain = {way: recorded["sweep, gain of side by side, CPU", f"in {way}"] for way in ("processes", "threads")}
    assert f"two processes do {gain['processes']:.1f} times as many" in said["fig-sweep-cost"]
    assert f"two threads of one process {gain['threads']:.1f} times" in said["fig-sweep-cost"]


# ------------------------------------------------------------------ figures of finished runs
def said(label):
    return next(text for path in CHAPTERS for name, text in captions(path)[0].items() if name == label)


def runs_of(name):
    """Return the runs of an experiment by protocol, as the chapters draw them."""
    return runs_by_protocol(load_table(ROOT / "book" / "results" / f"{name}.csv"))


def above(name, size, other):
    """Return how far IVON is above another method in each panel of an experiment at one protocol."""
    return gaps_by_panel(runs_of(name)[size], "ivon", other)


def test_captions_of_chapter_8_say_what_the_tables_say():
    rows = runs_of("calibration")["smoke"]
    means = rows[rows["role"] == "main"].groupby(["panel", "method"])["test_ece"].mean().unstack()
    right, wrong = means.loc["digits"], means.loc["digits, symmetric 40 %"]
    assert (right.idxmax(), wrong.idxmax(), wrong.idxmin()) == ("ls", "ols", "sgd")
    averaged = rows.groupby("panel")["posterior_ece"].mean()
    assert averaged["digits"] < right["ls"] and wrong["sgd"] < averaged["digits, symmetric 40 %"] < wrong["ols"]
    assert list(runs_of("calibration")) == list(runs_of("fig4")) == ["smoke"]


def test_captions_of_figures_5_to_10_say_what_the_tables_say():
    """If a table changes, so must the caption of its figure."""
    real = {other: above("fig5", "short", other)["CIFAR-10, symmetric 40 %"].points for other in ("ls", "sam")}
    assert f"{real['ls']:.1f} points above the best LS and {real['sam']:.1f} above the best SAM" in said("fig-figure-5")
    assert all(gap.points < 0 for size in ("mnist", "smoke") for gap in above("fig5", size, "ls").values())

    assert all(gap.side == -1 for gap in above("fig8", "smoke", "ls").values()) and len(runs_of("fig8")) == 1
    assert len(above("fig8", "smoke", "ls")) == 3
    fixed = runs_of("fig6")["smoke"].astype({"test_accuracy": float})
    for _, rows in fixed.groupby("panel"):
        means = rows.groupby(["method", "posterior_std"], dropna=False)["test_accuracy"].mean()
        assert (means["ivon_fixed"] > means["ivon"].item()).all()
    assert fixed["panel"].nunique() == 3 and len(runs_of("fig6")) == 1

    sides = [
        gap.side for size in runs_of("fig7") for other in ("ls", "sam") for gap in above("fig7", size, other).values()
    ]
    assert len(sides) == 18 and max(sides) == 0
    assert all(above("fig9", "smoke", other).popitem()[1].points > 0 for other in ("ls", "sam"))

    rows = runs_of("fig10")["smoke"].astype({"test_accuracy": float})
    means = 100 * rows.groupby(["panel", "value"])["test_accuracy"].mean().unstack()
    inside = means.iloc[:, 1:]  # all but the smallest start
    assert (inside.max(axis=1) - inside.min(axis=1) < 5).all()
    assert ((inside.max(axis=1) - means.iloc[:, 0]) > 30).sum() == 1


def test_captions_of_chapter_12_say_what_the_tables_say():
    gaps = {other: above("cifar_n", "short", other)["CIFAR-10N, worst"] for other in ("ls", "sam")}
    told = f"{gaps['ls'].points:.1f} points above the best LS and {gaps['sam'].points:.1f} above the best SAM"
    assert told in said("fig-human-labels") and all(gap.side == 1 for gap in gaps.values())


def test_the_fewest_wrong_labels_are_not_the_highest_accuracy():
    """The caption of ``fig-memorised-images``: on CIFAR-10 and on MNIST."""
    from figures.memorised import fewest_and_best, named

    for size in ("short", "mnist"):
        rows = pd.concat(load_table(ROOT / "book" / "results" / f"{name}.csv") for name in ("fig5", "controls"))
        rows = rows[(rows["protocol"] == size) & rows["panel"].str.endswith("symmetric 40 %")].drop_duplicates("key")
        assert "and is the most accurate" not in fewest_and_best(named(rows))


def test_captions_of_chapters_13_and_14_say_what_the_records_say():
    gaps = above_folds(of_one_run(), "IVON, at the mean")
    sides = [gap.side for gap in gaps.values()]
    assert (len(sides), sides.count(1), sides.count(-1)) == (14, 10, 0)
    assert "in ten of fourteen settings, and in none clearly worse" in said("fig-one-run")

    record = json.loads((ROOT / "book" / "results" / "ladder.json").read_text())
    far, near = (values(record, 0.4, name, "kl").mean() for name in ("diagonal", "eigenspace"))
    assert far > 20 * near
    drawn = {name: values(record, 0.4, name, "variation").mean() for name in (*RUNGS, "identity", "h0", "matched")}
    accuracy = {name: values(record, 0.4, name, "accuracy").mean() for name in drawn}
    assert min(drawn, key=drawn.get) == max(accuracy, key=accuracy.get) == "identity"

    runs = regimes._trained(pd.read_csv(ROOT / "book" / "results" / "regimes.csv"))
    assert (runs["drift"] > runs["curvature"])[runs["ess"] > runs["seen"]].all()
