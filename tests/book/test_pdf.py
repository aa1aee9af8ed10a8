"""book/pdf.py: what it changes in the LaTeX source, what it refuses, and what it says without LaTeX."""

import pdf
import pytest

SOURCE = r"""\begin{document}
\part{Before you start}\chapter{Notation}
\part{Part I. Theory}\chapter{One}
\sphinxincludegraphics{{../abc}.png}
\label{None:thm-x}\hyperref[\detokenize{book/04_x:thm-x}]{Theorem 4.1}
\end{document}"""


def test_chapters_are_numbered_as_on_the_site_and_every_claim_has_its_page():
    tex = pdf.complete(SOURCE)
    assert tex.index(r"\setcounter{chapter}{0}") < tex.index(r"\part{Part I. Theory}")
    assert tex.index(r"\setcounter{secnumdepth}{-2}") < tex.index(r"\chapter{Notation}")
    assert r"\label{book/04_x:thm-x}" in tex and "None:" not in tex
    assert r"{{abc}.png}" in tex


def test_unknown_references_are_found_across_lines():
    log = (
        "LaTeX Warning: Reference `thm-\nvon' on page 3 undefined on input line 2.\nCitation `khan' on page 1 undefined"
    )
    assert pdf.undefined(log) == ["thm-von", "khan"]
    assert pdf.undefined("Output written on book.pdf (395 pages)") == []


def test_without_latex_it_says_what_to_install_and_builds_nothing(monkeypatch, capsys):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    monkeypatch.setattr(pdf.build, "execute_what_is_new", lambda: pytest.fail("it has begun to build"))
    assert pdf.main() == 2
    assert "needs xelatex, kpsewhich" in (error := capsys.readouterr().err) and "apt-get install" in error


def test_a_failed_run_leaves_no_pdf_and_shows_the_log(monkeypatch, tmp_path):
    source = tmp_path / "book.tex"
    source.with_suffix(".pdf").touch()
    monkeypatch.setattr(
        pdf.subprocess, "run", lambda *_, **__: source.with_suffix(".log").write_text("! Emergency stop")
    )
    with pytest.raises(RuntimeError, match="Emergency stop"):
        pdf.typeset(source)
    assert not source.with_suffix(".pdf").exists()
