"""book/_ext/mathml.py: formulas that need no script."""

from types import SimpleNamespace

import pytest
from _ext import mathml
from docutils import nodes
from docutils.utils import new_document


def page(*formulas):
    document = new_document("intro")
    document += list(formulas)
    return document


def app(format="html"):
    return SimpleNamespace(builder=SimpleNamespace(format=format), config=SimpleNamespace(mathml_pages=["intro"]))


def test_formulas_become_elements_that_browsers_know():
    assert "<msub><mi>y</mi><mi>i</mi></msub>" in mathml.mathml("y_i") and 'display="inline"' in mathml.mathml("y_i")
    assert 'display="block"' in mathml.mathml("y_i", display=True)
    assert "<mi>𝔼</mi>" in mathml.mathml(r"\mathbb E")
    assert "<mi>ℝ</mi>" in mathml.mathml(r"\mathbb R^P")
    assert "<mi>ℒ</mi>" in mathml.mathml(r"\mathcal L(q)") and "<mi>𝒩</mi>" in mathml.mathml(r"\mathcal N")
    assert "<mi>𝐦</mi>" in mathml.mathml(r"\mathbf m")


def test_no_command_is_left():
    assert ">{<" in mathml.mathml(r"\Bigl\{ x \Bigr\}") and "<mi>arg</mi>" in mathml.mathml(r"\hat y = \arg\max_k f_k")
    with pytest.raises(ValueError, match=r"the command '\\\\lfloor'"):
        mathml.mathml(r"\Bigl\lfloor x \Bigr\rfloor")


def test_other_pages_have_mathml_beside_their_formulas_for_browsers_without_scripts():
    document = page(nodes.math("x", "x"), nodes.math_block("y", "a \\\\ b", label="eq-a", number=1))
    mathml.add_mathml(app(), document, "another")
    assert [type(node) for node in document] == [
        nodes.math, mathml.FormulaWithoutScript, nodes.math_block, mathml.FormulaWithoutScript]  # fmt: skip
    assert document.astext().split() == ["x", "a", "\\\\", "b"]  # the search finds each once
    written = SimpleNamespace(body=[])
    with pytest.raises(nodes.SkipNode):
        mathml.show(written, document[3])
    assert written.body[0].startswith("<noscript><math") and written.body[0].count("<mtr>") == 2


def test_formulas_of_headings_have_mathml_beside_them_in_the_table_of_contents():
    for format, beside in (("html", 1), ("latex", 0)):
        toc = nodes.bullet_list("", nodes.list_item("", nodes.paragraph("", "fixed ", nodes.math("x", "x"))))
        mathml.add_to_contents(app(format), SimpleNamespace(tocs={"chapter": toc}))
        assert len(list(toc.findall(mathml.FormulaWithoutScript))) == beside and toc.astext() == "fixed x"


def test_only_pages_that_are_named_change_and_only_on_the_site():
    def formulas(name, format="html"):
        document = page(nodes.math("x", "x"), nodes.math_block("y", "y"))
        mathml.add_mathml(app(format), document, name)
        return [node.astext()[:5] for node in document.findall(nodes.raw)]

    assert formulas("intro") == ["<math", "<math"]
    assert formulas("another") == [] == formulas("intro", "latex")


def test_a_numbered_formula_is_refused():
    with pytest.raises(ValueError, match="intro is among mathml_pages, and the formula 'eq-a' on it is numbered"):
        mathml.add_mathml(app(), page(nodes.math_block("y", "y", label="eq-a", number=1)), "intro")
