"""Chapters 6, 7 and 12 on a machine without MNIST and CIFAR-10N: they are executed, and every sentence is true there.

A sentence that names a missing data set has to name the source of its numbers, or the condition on which they are
shown; the numbers in the page's sentences have to be those that it prints.
"""

import os
import re
from pathlib import Path

import nbformat
import pytest
from figures.learned_variance import valid_up_to
from figures.network import range_in_words, share_in_words
from nbclient import NotebookClient

from vlls.optim import LearnedShare

BOOK = Path(__file__).resolve().parents[2] / "book"
CHAPTERS = {  # with parameters that make them shorter, and the data set that each of them misses
    "06_label_noise_of_a_network": ({}, "MNIST"),
    "07_which_examples_get_noise": ({}, "MNIST"),
    "12_real_label_errors": ({"epochs": 3, "draws": 50_000}, "CIFAR-10N"),
}
SOURCES = re.compile(  # a sentence with one of these may name a missing data set
    r"\b(on the machine|at hand|not here|or scikit-learn's|with the labels of|running time)\b"  # conditions
    r"|\*(short|smoke|reduced|mnist|paper)\*|\bshort protocol\b|`vlls sweep|`benchmarks/"  # protocols and records
    r"|\bseeds?\b|\bstarts\."
    r"|\bthe paper\b|\bits figure\b|\bpublished\b|Chapters? \d|CIFAR-10N has three labels",  # others' work, and facts
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """Return a cell without formulas, code blocks, quotes and the heads of directives."""
    text = re.sub(r"\$\$.*?\$\$|^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^(>|:::|:\w+:|\|).*$|^\(.*\)=$", "", text, flags=re.MULTILINE)


def sentences(text: str) -> list[str]:
    """Return the sentences of a page; a heading or an item of a list is at least one."""
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:- |\d+\. |#))", plain(text))
    joined = (" ".join(block.split()) for block in blocks)
    return [sentence for block in joined for sentence in re.split(r"(?<=[.!?])[*_]*\s+(?=[^\s\d])", block) if sentence]


def unsourced(page: list[str], missing: str) -> list[str]:
    """Return the sentences that name the missing data set and not the source of their numbers."""
    return [s for text in page for s in sentences(text) if re.search(rf"\b{missing}\b", s) and not SOURCES.search(s)]


def shown(output) -> list[str]:
    """Return the words of an output that is not printed: displayed Markdown, and the description of a figure."""
    if output.output_type not in ("display_data", "execute_result"):
        return []
    alt = output.metadata.get("image/png", {}).get("alt")
    of_figure = alt and re.sub(r"\. ", "; ", alt)  # one sentence: its axis names the protocol of all its panels
    return [text for text in (output.data.get("text/markdown"), of_figure) if text]


class Page:
    """An executed chapter: its prose with the cells' displays, and their printed output."""

    def __init__(self, name: str, folder: Path):
        values, self.missing = CHAPTERS[name]
        notebook = nbformat.read(BOOK / f"{name}.ipynb", as_version=4)
        cells = notebook.cells
        at = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
        shorter = "\n".join(f"{key} = {value}" for key, value in values.items())
        assert all(re.search(rf"^{key} = ", cells[at].source, re.MULTILINE) for key in values)
        cells.insert(at + 1, nbformat.v4.new_code_cell(shorter))
        places = {"VLLS_DATA": folder / "data", "XDG_CACHE_HOME": folder / "cache"}
        places["VLLS_DATA"].mkdir()
        env = {**os.environ, **{key: str(path) for key, path in places.items()}, "OMP_NUM_THREADS": "1"}
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(BOOK)}})
        client.execute(env=env)
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        self.displayed = [text for output in outputs for text in shown(output)]
        self.prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
        self.printed = "".join(output.text for output in outputs if output.output_type == "stream")
        self.tables = "".join(o.data.get("text/html", "") for o in outputs if "data" in o)


@pytest.fixture(scope="module")
def page(request, tmp_path_factory):
    return Page(request.param, tmp_path_factory.mktemp(request.param))


# ------------------------------------------------------------------ the rule itself
CLAIMS = [  # of Chapters 6 and 7 as they were
    "- A network on MNIST, watched while it learns: which estimate is right when, which layers carry the noise.",
    "The 3-layer network of Fig. 3 on MNIST {cite}`lecun2010mnist`, trained by IVON.",
    "`ess` is large: the posterior that a network would have which has seen all of MNIST.",
    "- Figures 1 and 3 of {cite:t}`yang2025variational` on MNIST: a network trained by IVON, the noise of every image.",
    "- Figures 1 and 3 reproduce on MNIST: IVON gives high noise to atypical images, where label smoothing gives none.",
]
TRUE = [
    "Where MNIST is not at hand the chapter goes on with the digits of scikit-learn.",
    "Its Figure 3 orders the digits of MNIST by their noise, says the paper.",
    "> MNIST's images show it.",
    "On MNIST, 1500 images, three seeds, it is 0.58.",
    "Handwritten digits.",
]


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_on_data_that_are_not_here_is_found(claim):
    assert unsourced([f"## A heading\n\n{claim} It is so.\n"], "MNIST")


@pytest.mark.parametrize("sentence", TRUE)
def test_a_sentence_with_its_source_or_condition_passes(sentence):
    assert not unsourced([f"{sentence}\n\nIt is so."], "MNIST")


# ------------------------------------------------------------------ the chapters
@pytest.mark.slow
@pytest.mark.parametrize("page", CHAPTERS, indirect=True)
def test_no_sentence_claims_results_on_data_that_are_not_here(page):
    assert f"{page.missing} is not here" in page.printed
    for kind in (page.prose, page.displayed):
        assert (found := unsourced(kind, page.missing)) == [], "name the source or the condition of:\n" + "\n".join(
            found
        )


@pytest.mark.slow
@pytest.mark.parametrize("page", ["06_label_noise_of_a_network"], indirect=True)
def test_chapter_6_says_in_words_what_it_prints(page):
    said = " ".join(page.displayed)
    share, whole = re.search(r"learned: (\S+%) of the median weight's Hessian, (\S+%) in all", page.printed).groups()
    assert f"{share} of the median weight's Hessian and {whole} in all" in said
    rows = re.findall(r"^σ‖J‖ = (\S+): (.*)$", page.printed, re.MULTILINE)
    spreads = [float(spread) for spread, _ in rows]
    for name in ("exact", "Eq. 20, covariance"):
        errors = [float(re.search(rf"(?:^|, ){re.escape(name)} (\S+)%", row)[1]) / 100 for _, row in rows]
        limit = valid_up_to(spreads, errors)
        assert re.search(rf"{re.escape(name)} (up to σ‖J‖ =|at all spreads tried \(up to) {limit:.2g}\b", said)
    assert "scikit-learn's digits" in said  # the titles of the figures
    assert "at half resolution" not in said


@pytest.mark.slow
@pytest.mark.parametrize("page", ["07_which_examples_get_noise"], indirect=True)
def test_chapter_7_says_in_words_what_it_prints(page):
    said = next(text for text in page.displayed if text.startswith("**scikit-learn's digits"))
    table = page.printed.partition("\ndigits, ")[2]
    for setting, start in (("paper", "At the paper's σ₀"), ("learned", "With learned Σ")):
        rows = re.findall(rf"^{setting} +\d+ .*$", table, re.MULTILINE)[:3]
        areas = [float(row.split()[6]) for row in rows]
        low, high = map(
            float,
            re.search(rf"{start} the noise finds the changed labels with an area of (\S+) to (\S+) and", said).groups(),
        )
        assert abs(low - min(areas)) < 0.006 and abs(high - max(areas)) < 0.006


@pytest.mark.slow
@pytest.mark.parametrize("page", ["12_real_label_errors"], indirect=True)
def test_chapter_12_says_in_words_what_it_shows(page):
    said = next(text for text in page.displayed if text.startswith("These errors are drawn"))
    rates = [float(v) for v in re.findall(r"<th>\d</th>\s*<td>([\d.]+)</td>", page.tables)[:10]]
    low, high = map(float, re.search(r"go from (\d+) to (\d+) %", said).groups())
    assert abs(low - min(rates)) < 0.56 and abs(high - max(rates)) < 0.56


# ------------------------------------------------------------------ sentences of Chapter 6
@pytest.mark.parametrize(
    ("total", "words"), [(0.007, "hardly learned"), (0.3, "A smaller part of"), (0.9, "posterior is learned")]
)
def test_the_share_decides_on_the_sentence(total, words):
    share = LearnedShare(0.01, 0.0, 0.02, total, 0.0075, 0.0089, 0.0084, 0.0094, {})
    assert words in share_in_words(share)
    assert f"{total:.1%} in all" in share_in_words(share)
    assert "0.0084 to 0.0094" in share_in_words(share)


def test_the_range_is_where_no_error_was_above_a_tenth():
    errors = {"a": [0.2, 0.0, 0.0], "b": [0.1, 0.11, 0.0], "c": [0.0, 0.0, 0.1]}
    said = range_in_words([0.5, 1.0, 2.0], errors, 1.0)
    assert said.startswith("Within 10 %: a at none, b up to σ‖J‖ = 0.5, c at all spreads tried (up to 2).")
