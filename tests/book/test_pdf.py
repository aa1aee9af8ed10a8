"""book/pdf.py and book/_ext/pdf_numbers.py: their changes, their errors, and the message without LaTeX."""

from pathlib import Path
from types import SimpleNamespace

import pdf
import pytest
from _ext import pdf_numbers
from docutils import nodes, utils
from sphinx import addnodes

SOURCE = r"""\begin{document}
\part{Before you start}
\chapter{Notation}
\part{Part I. Theory}
\chapter{One}
\part{The verdict}
\chapter{The ledger}
\sphinxincludegraphics{{../abc}.png}
\end{document}"""


# ------------------------------------------------------------------ book/pdf.py
def test_chapters_have_numbers_in_the_parts_in_which_the_site_numbers_them():
    tex = pdf.complete(SOURCE, ["Part I. Theory"])
    depth = {}
    for line in tex.splitlines():
        if "secnumdepth" in line:
            now = line
        elif line.startswith((r"\chapter", r"\part")):
            depth[line] = now
    numbered = [line for line, now in depth.items() if "{2}" in now]
    assert numbered == [r"\chapter{One}"] and len(depth) == 6
    assert r"{{abc}.png}" in tex


def test_the_list_of_works_stands_where_the_page_of_references_does_and_nowhere_else():
    works = "\\begin{sphinxthebibliography}{1}\n\\bibitem[1]{khan}\n\\end{sphinxthebibliography}\n"
    page = "\\chapter{References}\n\\label{references}\\label{doc}\n"
    tex = pdf.complete(f"{page}\\part{{Appendix}}\n{works}\\end{{document}}", [])
    assert tex.count(works) == 1 and tex.index("khan") < tex.index(r"\part{Appendix}")
    assert r"\chapter{References}" not in tex and tex.index(r"\label{references}\label{doc}") < tex.index("khan")


def test_the_numbered_parts_are_those_of_the_table_of_contents():
    assert pdf.numbered_parts() == ["Part I. Theory", "Part II. Experiments"]
    with pytest.raises(RuntimeError, match=r"no part 'Part II'"):
        pdf.complete(SOURCE, ["Part II"])


LOG = r"""
LaTeX Warning: Reference `thm-von' on page 3 undefined on input line 2.
LaTeX Warning: Citation `khan' on page 1 undefined
Overfull \hbox (2.5pt too wide) in paragraph at lines 1--2
Overfull \hbox (40.0pt too wide) in paragraph at lines 3--4
Overfull \hbox (40.0pt too wide) in paragraph at lines 3--4
Missing character: There is no ⚠ (U+26A0) in font [FreeMono.otf]/OT:script=latn!
! LaTeX Error: Not in outer par mode.
LaTeX Warning: Float too large for page by 6.5pt on input line 7.
Blank: 80.5pt on page 3
Blank: 300.25pt on page 161
"""


def test_a_reader_s_problems_are_found_in_the_log_and_each_is_told_once():
    assert pdf.problems(LOG) == [
        "thm-von leads nowhere",
        "khan leads nowhere",
        "LaTeX Error: Not in outer par mode.",
        "no ⚠ in [FreeMono.otf]",
        "a line too long by 40.0 points, in paragraph at lines 3--4",
        "a picture too high by 6.5 points, on input line 7",
        "page 161 is blank below, 300.25 points high",
    ]
    assert pdf.problems("Output written on book.pdf (395 pages)") == []


def test_without_latex_it_says_what_to_install_and_builds_nothing(monkeypatch, capsys):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    monkeypatch.setattr(pdf.build, "execute_what_is_new", lambda: pytest.fail("it has begun to build"))
    assert pdf.main() == 2
    error = capsys.readouterr().err
    assert "needs xelatex, makeindex, kpsewhich" in error and "apt-get install" in error
    assert error.count("\n") == 1


def run_that_writes(monkeypatch, source: Path, log: str, *, makes_pdf: bool) -> list[str]:
    """Stand in for the programs: return their names as they are called."""
    called = []

    def run(command, **_):
        called.append(command[0])
        source.with_suffix(".log").write_text(log)
        if makes_pdf:
            source.with_suffix(".pdf").touch()

    monkeypatch.setattr(pdf.subprocess, "run", run)
    return called


def test_a_failed_run_leaves_no_pdf_and_shows_the_log(monkeypatch, tmp_path):
    source = tmp_path / "book.tex"
    source.with_suffix(".pdf").touch()
    run_that_writes(monkeypatch, source, "! Emergency stop", makes_pdf=False)
    with pytest.raises(RuntimeError, match="Emergency stop"):
        pdf.typeset(source)
    assert not source.with_suffix(".pdf").exists()


def test_a_pdf_with_problems_is_refused_and_one_without_is_run_until_it_stands_still(monkeypatch, tmp_path):
    source = tmp_path / "book.tex"
    run_that_writes(monkeypatch, source, LOG, makes_pdf=True)
    with pytest.raises(RuntimeError, match=r"7 problems(.|\n)*too long by 40.0 points"):
        pdf.typeset(source)
    called = run_that_writes(monkeypatch, source, "Rerun to get cross-references right.", makes_pdf=True)
    pdf.typeset(source)
    assert called == ["xelatex", "makeindex"] * pdf.RUNS
    called = run_that_writes(monkeypatch, source, "Package: rerunfilecheck, Rerun checks", makes_pdf=True)
    pdf.typeset(source)
    assert called == ["xelatex", "makeindex"]


# ------------------------------------------------------------------ book/_ext/pdf_numbers.py
def book(*children: nodes.Node, page: str = "book/05_x") -> nodes.document:
    """Return the whole book with one page."""
    doctree = utils.new_document("")
    doctree += nodes.section("", *children, docname=page)
    return doctree


def test_figures_and_equations_get_the_site_s_numbers():
    figure = nodes.figure("", nodes.caption("", "Peak."), ids=["fig-peak"])
    equation = nodes.math_block("", "x", ids=["equation-eq-a"], label="eq-a")
    doctree = book(figure, equation, nodes.math_block("", "y", ids=[]))
    numbers = {"figure": {"fig-peak": (5, 3)}, "displaymath": {"equation-eq-a": (5, 12)}}
    pdf_numbers.set_numbers(doctree, SimpleNamespace(toc_fignumbers={"book/05_x": numbers}))
    raw = [node.astext() for node in doctree.findall(nodes.raw)]
    assert raw == [r"\renewcommand{\thefigure}{5.3}", r"\renewcommand{\theequation}{5.12}"]
    assert isinstance(figure.parent[figure.parent.index(figure) - 1], nodes.raw)


@pytest.mark.parametrize("numbered", [True, False])
def test_a_caption_takes_the_picture_above_it_along(numbered):
    picture = nodes.image(uri="a.png")
    cell = nodes.container("", nodes.paragraph("", "printed"), picture)
    if numbered:
        caption = nodes.figure("", nodes.caption("", "Peak."), ids=["fig-peak"])
    else:
        caption = nodes.paragraph("", "", nodes.emphasis("", "Peak."))
    label = nodes.target(refid="fig-peak")
    doctree = book(cell, label, caption, nodes.paragraph("", "text"))
    pdf_numbers.join_captions(doctree)
    assert cell.astext() == "printed" and not list(cell.findall(nodes.image))
    if numbered:
        assert caption[0] is picture
    else:
        place = caption.parent.index(caption)
        around = caption.parent[place - 2 : place + 2]
        assert around[1] is picture and around[2] is caption
        assert [around[0].astext(), around[3].astext()] == list(pdf_numbers.FLOAT)


def test_of_several_pictures_each_floats_with_the_text_above_it():
    first, last = nodes.image(uri="a.png"), nodes.image(uri="b.png")
    texts = [nodes.paragraph("", text) for text in ("first", "second")]
    cell = nodes.container("", texts[0], first, texts[1], last)
    caption = nodes.figure("", nodes.caption("", "Two."), ids=["fig-two"])
    pdf_numbers.join_captions(book(cell, caption))
    begin, *inside, end = cell
    assert inside == [texts[0], first] and [begin.astext(), end.astext()] == list(pdf_numbers.FLOAT)
    assert caption[:2] == [texts[1], last]


def entries(doctree: nodes.document) -> list[tuple[str, str]]:
    return [(node["entries"][0][1], node.parent.astext()[:9]) for node in doctree.findall(addnodes.index)]


TERMS = ["label smoothing (LS)", "online label smoothing (OLS)", "push", "SAM"]


def test_the_index_has_a_term_where_a_page_first_names_it():
    doctree = book(
        nodes.paragraph("", "1st: push and the same"),
        nodes.paragraph("", "2nd: Online label smoothing"),
        nodes.paragraph("", "3rd: label smoothing, SAM"),
        nodes.paragraph("", "4th: LS and OLS"),
        nodes.paragraph("", "5th: ", nodes.strong("", "push")),
    )
    pdf_numbers.add_index(doctree, TERMS)
    assert entries(doctree) == [
        ("online label smoothing (OLS)", "2nd: Onli"),
        ("SAM", "3rd: labe"),
        ("label smoothing (LS)", "3rd: labe"),
        ("push", "5th: push"),
    ]


def test_a_title_is_indexed_in_place_of_the_text_and_a_list_of_terms_is_not():
    section = nodes.section("", nodes.title("", "SAM"), nodes.paragraph("", "SAM is a step."))
    doctree = book(section)
    pdf_numbers.add_index(doctree, TERMS)
    assert [node.parent for node in doctree.findall(addnodes.index)] == [section]
    assert section.index(next(section.findall(addnodes.index))) == 1
    glossary = book(nodes.paragraph("", "SAM"), page="book/glossary")
    pdf_numbers.add_index(glossary, TERMS)
    assert entries(glossary) == []


def test_fields_and_figures_are_left_out_of_the_index_and_a_module_stands_once():
    texts = ["fit() (in module vlls.glm)", "mean (vlls.GLM attribute)", "f() (in module figures.von)", r"a \sigma"]
    found = [("single", text, "", "", None) for text in texts] + [("pair", "module; vlls.glm", "", "", None)]
    node = addnodes.index(entries=found)
    pdf_numbers.shorten_index(book(node))
    assert [kept[:2] for kept in node["entries"]] == [
        ("single", "fit() (in module vlls.glm)"),
        ("single", "a σ"),
        ("single", "vlls.glm"),
    ]


# ------------------------------------------------------------------ proofs and tables
def test_a_proof_is_text_that_ends_with_a_square():
    inside = nodes.admonition("", nodes.paragraph("", "Proof. By hand."), nodes.paragraph("", "So it is."))
    doctree = book(pdf_numbers.claims.proof_node("", inside), nodes.paragraph("", "after"))
    pdf_numbers.set_proofs(doctree)
    first, last, after = doctree[0].children
    assert first[0].astext() == "Proof." and isinstance(first[0], nodes.emphasis)
    assert first.astext() == "Proof. By hand." and after.astext() == "after"
    assert r"\square" in last[-1].astext()


def table(*rows: tuple[nodes.Node, ...]) -> nodes.table:
    """Return a table with one paragraph in each cell."""
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in rows[0]))
    group += nodes.tbody(
        "", *(nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in row)) for row in rows)
    )
    return nodes.table("", group)


def widths(one: nodes.table) -> list[int]:
    return [spec["colwidth"] for spec in one.findall(nodes.colspec)]


def test_a_wide_table_gets_columns_for_its_longest_words_and_a_narrow_one_is_left_alone():
    name = "tests/book/test_pdf.py::test_a_wide_table"
    wide = table((nodes.Text("Theorem"), nodes.literal("", name), nodes.Text("long words " * 20)))
    narrow = table((nodes.Text("a"), nodes.Text("b")))
    pdf_numbers.fit_tables(book(wide, narrow))
    assert wide["classes"] == ["colwidths-given"] and narrow["classes"] == []
    theorem, code, text = widths(wide)
    assert theorem == len("Theorem") + pdf_numbers.PADDING
    assert len("test_") < code < len(name) < text + len(name) / 2 and widths(narrow) == [1, 1]
    assert sum(widths(wide)) == pytest.approx(pdf_numbers.LINE, abs=2)


def test_a_tall_table_goes_on_on_the_next_page():
    tall = table(*[(nodes.Text("a"), nodes.Text("b"))] * (pdf_numbers.TALL + 1))
    low = table(*[(nodes.Text("a"), nodes.Text("b"))] * pdf_numbers.TALL)
    wide = table(*[(nodes.Text("a"), nodes.Text("long words " * 20))] * (pdf_numbers.TALL_IF_WIDE + 1))
    pdf_numbers.fit_tables(book(tall, low, wide))
    assert "longtable" in tall["classes"] and low["classes"] == [] and "longtable" in wide["classes"]


def test_a_space_parts_the_number_of_a_claim_from_its_title():
    tex = pdf.complete(r"\begin{sphinxadmonition}{note}{Lemma 2.1– Bonnet}", [])
    assert "{Lemma 2.1 – Bonnet}" in tex


def test_a_heading_of_the_first_page_is_one_that_stays_with_its_text():
    bold = "\\begin{DUlineblock}{0em}\n\\item[] \\sphinxstylestrong{\\large The map}\n\\end{DUlineblock}"
    assert pdf.complete(f"{bold}\nText", []) == "\\section{The map}\nText"


def test_names_in_a_line_of_code_may_break_and_other_text_may_not():
    tex = pdf.complete(r"a\_b \sphinxupquote{tests/test\_a.py::test\_b: c}", [])
    assert r"a\_b " in tex
    assert r"test\_\allowbreak{}a.py:\allowbreak{}:\allowbreak{}test\_\allowbreak{}b: c}" in tex
