"""Figures of Chapters 1 to 7 and of the appendix: each has a caption with a number, and the text refers to it."""

import re
from itertools import pairwise

import nbformat
import pytest
from chapters import ROOT, chapters, markdown
from read_records import benchmark_records

CHAPTERS = [path for path in chapters() if path.name < "08" or path.name.startswith("appendix")]
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
    assert missing == [] and len(found) > 4


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

    assert round(recorded["label noise, faster than BackPACK, CPU", "exact"]) == 6  # "a sixth"
    peak = {name: value for (what, name), value in recorded.items() if what == "label noise, peak memory, CPU"}
    assert f"{peak['laplace-torch BackPACK'] / peak['exact']:.0f} times less" in said["fig-noise-cost"]

    small, large = (recorded["training, time of IVON over SGD, CPU", f"{n}×{n} pixels"] for n in (8, 28))
    assert f"{small:.2f} times" in said["fig-training-cost"] and round(large, 1) == 1

    von = [value for (what, _), value in recorded.items() if what == "GLM, VON over Newton"]
    assert len(von) == 4
    assert f"takes {spread(von)} times" in said["fig-glm-cost"]
    assert f"do {recorded['sweep, gain of side by side, CPU', 'runs an hour']:.1f} times" in said["fig-sweep-cost"]
