"""The form of the committed chapters: clean, with short cells and the structure that CONTRIBUTING.md describes."""

import ast
import re

import nbformat
import pytest
from chapters import BOOK, GUARDS_HEADING, ROOT, chapters, claims, items, markdown, pages, section
from clean_notebooks import MARK, METADATA, clean
from markdown_it import MarkdownIt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

LONGEST = 25  # lines of a code cell
PAPER_NUMBER = re.compile(
    r"(Theorem|Eqs?\.|Equations?|App\.|Appendix|Sec\.|Section|Fig\.|Figure)\s+\(?[A-C]?\.?\d|not in the paper"
)
LAST_SECTIONS = ["## Exercises", "## Summary", GUARDS_HEADING]


def problems(notebook) -> list[str]:
    """Return the faults in the form of a chapter."""
    code = [
        cell for cell in notebook.cells if cell.cell_type == "code" and "colab" not in cell.metadata.get("tags", [])
    ]
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    of_text = [*opening(notebook, text), *lists(text), *claims_(code, text), *ending(text)]
    return [*hygiene(notebook, code), *parameters(code), *of_text]


def hygiene(notebook, code):
    """Yield contents that must not be committed."""
    if clean(notebook) != notebook:
        yield "holds outputs, execution counts or metadata that are not committed: make clean-notebooks"
    for cell in code:
        first = cell.source.partition("\n")[0]
        if (lines := len(cell.source.splitlines())) > LONGEST:
            yield f"a code cell has {lines} lines, more than {LONGEST}: {first}"
        if cell.source.startswith(MARK) and not cell.outputs:
            yield f"a cell is marked {MARK} and holds no output to compare: {cell.source}"


def opening(notebook, text):
    """Yield the faults of the title and the preview."""
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not re.match(r"(\([\w-]+\)=\n)?# \S", first.source):
        yield "does not open with a title"
    if len(re.findall(r"^# ", text, re.MULTILINE)) != 1:
        yield "has not exactly one title"
    preview = re.search(r"\{admonition\} [^\n]*\n:class: tip\n", first.source)
    if not preview or not ("CPU" in first.source and "GPU" in first.source):
        yield "has no preview in its first cell: an admonition, a tip, with the running time on CPU and GPU"


def lists(text):
    """Yield items of numbered lists that are shown as part of the paragraph before them."""
    for token in MarkdownIt("commonmark").parse(text):
        for line in token.content.splitlines()[1:] if token.type == "inline" else ():
            if re.match(r"\d+\. \S", line):
                yield f"a list is interrupted before this item; indent what stands between by three spaces: {line}"


def parameters(code):
    """Yield the faults that keep papermill from setting the parameters."""
    tagged = [index for index, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        yield f"has {len(tagged)} code cells tagged parameters; it needs one"
        return
    for node in ast.parse(code[tagged[0]].source).body:
        try:
            assert isinstance(node, ast.Assign)
            ast.literal_eval(node.value)
        except (AssertionError, ValueError):
            yield f"the parameters cell holds more than assignments of plain values: {ast.unparse(node)}"
    for cell in code[: tagged[0]]:
        picture = cell.source.startswith("from figures.openings import ")  # it depends on no parameter
        if not picture and any(
            not isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(cell.source).body
        ):
            yield f"more than imports stands before the parameters cell: {cell.source}"


def claims_(code, text):
    """Yield the faults of the claims and of their support."""
    found = claims(text)
    for claim, following in zip(found, [*found[1:], None], strict=True):
        until = text.find("{prf:" + following.kind, claim.end) if following else len(text)
        if "{prf:proof}" not in text[claim.end : until]:
            yield f"the {claim.kind} '{claim.title}' has no proof before the next claim"
        if claim.kind == "theorem" and not PAPER_NUMBER.search(claim.title + claim.body):
            yield f"the theorem '{claim.title}' does not state the paper's number, nor that it is not in the paper"
    trees = [(cell.source, ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE))) for cell in code]
    asserts = [(source, node.test) for source, tree in trees for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    source = "\n".join(source for source, _ in trees)
    if not asserts:
        yield "asserts nothing"
    if not PAPER_NUMBER.search(text):
        yield "names no equation, theorem or section of the paper"
    if not re.search(r"^(import|from) vlls\b", source, re.MULTILINE):
        yield "does not import vlls"
    if not re.search(r"^(import|from) (figures|vlls\.plots)\b", source, re.MULTILINE):
        yield "draws nothing: it imports neither figures nor vlls.plots"
    if not found:
        return
    if "sympy" not in source or not any(is_exact_zero(test) for _, test in asserts):
        yield "has no sympy cell that asserts an exact zero (assert ... == 0)"
    if not any("tolerance" in source and "print(" in source for source, _ in asserts):
        yield "has no cell that asserts and prints the largest error beside its tolerance"


def is_exact_zero(test: ast.expr) -> bool:
    """Say whether an asserted expression compares something with zero exactly."""
    return any(
        isinstance(node, ast.Compare)
        and isinstance(node.ops[-1], ast.Eq | ast.Is)
        and re.fullmatch(r"0|(\w+\.)*(Integer\(0\)|S\.Zero|S\(0\)|zeros\(.*\))", ast.unparse(node.comparators[-1]))
        for node in ast.walk(test)
    )


def ending(text):
    """Yield the faults of the last three sections."""
    headings = re.findall(r"^## .*$", text, re.MULTILINE)
    if headings[-3:] != LAST_SECTIONS:
        yield f"does not end with the sections {LAST_SECTIONS}"
        return
    exercises = section(text, "## Exercises")
    parts = re.split(r"^(?=\*\*(?:Exercise )?\d)", exercises, flags=re.MULTILINE)[1:]
    solution = r"\{dropdown\} Solution|\{admonition\} Solution[^\n]*\n:class: [^\n]*\bdropdown\b"
    for number, part in enumerate(parts, start=1):
        if not re.match(rf"\*\*(?:Exercise )?{number} ∗{{1,3}}\.", part):
            yield f"has an exercise that is not number {number} with one to three stars: {part[:40]}"
        if len(re.findall(solution, part)) != 1:
            yield f"has no folded solution of Exercise {number}: :::{{dropdown}} Solution"
    predicted = [part for part in parts if re.search("predict", re.split(solution, part)[0], re.IGNORECASE)]
    if len(predicted) < 2:
        yield f"has {len(predicted)} exercises that ask to change something and predict; it needs two"
    if (count := len(items(section(text, "## Summary")))) != 3:
        yield f"has a summary of {count} list items; it needs three"


# ------------------------------------------------------------------ the book
def test_every_chapter_is_in_the_table_of_contents_and_every_page_exists():
    assert [page for page in pages() if not page.exists()] == []
    notebooks = [page for page in pages() if page.suffix == ".ipynb"]
    assert [page for page in notebooks if page.stem not in ("ledger", "which_method")] == chapters()


def test_links_to_chapters_name_the_numbers_of_their_files():
    texts = [markdown(page) for page in [*pages(), *(BOOK / "api").glob("*.md")]]
    texts += [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    links = re.findall(r"\[(?:Chapter )?(\d+)(?:\.[^\]]*)?\]\([^)]*?(\w+)\.ipynb", "\n".join(texts))
    assert len(links) > 100
    assert [link for link in links if not link[1].startswith(f"{int(link[0]):02}_")] == []


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.name)
def test_chapter(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert problems(notebook) == []


# ------------------------------------------------------------------ the checker itself
PREVIEW = ":::{admonition} What you will see\n:class: tip\n\nIt. Running time: 1 s on two CPU cores, 1 s on a GPU.\n:::"
TITLE = f"# A chapter\n\n{PREVIEW}"
CLAIM = ":::{prf:theorem} Theorem 9 of the paper\n:label: thm-nine\n\nWell.\n:::\n\n:::{prf:proof}\nWell.\n:::"
IMPORTS = "import sympy as sp\nimport vlls\nimport figures.von"
PARAMETERS = "seed = 0  # of all draws"
ZERO = "x = sp.Symbol('x')\nassert sp.expand((x + 1) ** 2 - x**2 - 2 * x - 1) == 0"
NUMBER = "error, tolerance = 0.0, 1e-12\nassert error < tolerance\nprint(f'error {error}, tolerance {tolerance}')"
CHECKED = f"{MARK}\nprint(1)"
ENDING = (
    "## Exercises\n\n**1 ∗.** Change it and predict.\n\n:::{dropdown} Solution\nDone.\n:::\n\n"
    "**2 ∗∗∗.** Predict again.\n\n:::{dropdown} Solution\nDone.\n:::\n\n"
    f"## Summary\n\n- a\n- b\n- c\n\n{GUARDS_HEADING}\n\n- {{prf:ref}}`thm-nine`: `tests/test_nine.py::test_nine`"
)


def made_up():
    """Return a chapter without faults."""
    code = [IMPORTS, PARAMETERS, ZERO, NUMBER, CHECKED]
    cells = [new_markdown_cell(TITLE), new_markdown_cell(CLAIM), *map(new_code_cell, code), new_markdown_cell(ENDING)]
    cells[3].metadata["tags"] = ["parameters"]
    cells[6].outputs = [new_output("stream", name="stdout", text="1\n")]
    cells[6].execution_count = 1
    return new_notebook(cells=cells, metadata=METADATA)


def test_a_chapter_without_faults_passes():
    assert problems(made_up()) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# A chapter", "A chapter", "does not open with a title"),
        ("GPU", "board", "has no preview"),
        ("Theorem 9 of the paper", "A theorem", "does not state the paper's number"),
        (":::{prf:proof}", ":::{prf:remark}", "has no proof"),
        ("import figures.von", "", "draws nothing"),
        ("import vlls", "", "does not import vlls"),
        ("== 0", "is not None", "exact zero"),
        ("tolerance", "bound", "beside its tolerance"),
        ("seed = 0", "seed = hash('0')", "more than assignments"),
        ("import sympy as sp", "import sympy as sp\nx = 1", "before the parameters cell"),
        ("print(1)", "print(1)" + 25 * "\n", "lines, more than 25"),
        ("{dropdown} Solution", "{dropdown} Hint", "folded solution"),
        ("2 ∗∗∗.", "2.", "not number 2 with one to three stars"),
        ("Predict again", "Do it again", "1 exercises that ask to change"),
        ("predict.", "predict.\n\n1. Do it.\n\nWith care.\n2. Do it again.", "a list is interrupted before this item"),
        ("- c\n", "", "summary of 2"),
        ("## Summary", "## The end", "does not end with"),
    ],
)
def test_the_checker_finds_in_the_text(old, new, message):
    notebook = made_up()
    assert any(old in cell.source for cell in notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.replace(old, new)
    assert any(message in problem for problem in problems(notebook)), problems(notebook)


def image(notebook):
    notebook.cells[5].outputs = [new_output("display_data", data={"image/png": "", "text/plain": "<Figure>"})]


def count(notebook):
    notebook.cells[5].execution_count = 3


def unchecked_output(notebook):
    notebook.cells[5].outputs = [new_output("stream", name="stdout", text="1\n")]


def marked_without_output(notebook):
    notebook.cells[6].outputs, notebook.cells[6].execution_count = [], None


def untagged(notebook):
    notebook.cells[3].metadata = {}


@pytest.mark.parametrize("spoil", [image, count, unchecked_output, marked_without_output, untagged])
def test_the_checker_finds_in_the_cells(spoil):
    notebook = made_up()
    spoil(notebook)
    assert problems(notebook) != []


def test_cleaning_keeps_what_is_compared_and_nothing_else():
    notebook = made_up()
    expected = made_up()
    for cell, other in zip(notebook.cells, expected.cells, strict=True):
        cell.id = other.id
    for spoil in (image, count):
        spoil(notebook)
    notebook.cells[6].outputs.append(new_output("stream", name="stderr", text="warning"))
    notebook.metadata["widgets"] = {}
    assert clean(notebook) == expected
