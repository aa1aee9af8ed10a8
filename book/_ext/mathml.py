"""Write formulas as MathML, which browsers show by themselves.

The pages of ``mathml_pages`` in ``_config.yml`` have nothing else, and load no MathJax. Every other page has it beside
MathJax's formulas, in a ``<noscript>`` for browsers without JavaScript. The PDF is not changed.
"""

import re
import unicodedata
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

# Browsers no longer support this attribute; these letters have their own characters.
STYLED = re.compile(r'<mi mathvariant="(double-struck|script|bold)">([A-Za-z])</mi>')
# Commands that the converter leaves as they are where they follow another, such as \Bigl or \max
LEFT = re.compile(r">\\([A-Za-z]+|[^A-Za-z])<")
SIGNS = {"{": "{", "}": "}", "lceil": "⌈", "rceil": "⌉", "arg": "arg"}


class FormulaWithoutScript(nodes.General, nodes.Inline, nodes.Element):
    """A formula for browsers without JavaScript; it holds no text that the search would index."""


def styled(letter: str, style: str) -> str:
    """Return a letter as the character that is double-struck, script or bold."""
    name = f"{style} {'CAPITAL' if letter.isupper() else 'SMALL'} {letter}".upper()
    try:
        return unicodedata.lookup(f"MATHEMATICAL {name}")
    except KeyError:  # ℝ, ℒ and others are older than the rest
        return unicodedata.lookup(name)


def mathml(latex: str, display: bool = False) -> str:
    """Return a formula as a ``<math>`` element.

    Raises:
        ValueError: for a formula with a command that would stay on the page as LaTeX.
    """
    element = convert(latex, display="block" if display else "inline")
    element = LEFT.sub(lambda found: f">{SIGNS.get(found[1], found[0][1:-1])}<", element)
    if left := LEFT.search(element):
        raise ValueError(
            f"the formula {latex!r} has the command {left[0][1:-1]!r}, which MathML is not made of; write it otherwise, "
            "or add it to SIGNS of mathml.py"
        )
    return STYLED.sub(lambda found: f"<mi>{styled(found[2], found[1])}</mi>", element)


def add_mathml(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write a page's formulas as MathML: instead of MathJax's or, for browsers without JavaScript, beside them."""
    if app.builder.format != "html":
        return
    alone = docname in app.config.mathml_pages
    for node in [*doctree.findall(nodes.math), *doctree.findall(nodes.math_block)]:
        display = isinstance(node, nodes.math_block)
        if not alone:
            lines = r"\\" in node.astext() and not node.get("no-wrap", node.get("nowrap"))
            latex = rf"\begin{{split}}{node.astext()}\end{{split}}" if lines else node.astext()
            add_beside(node, mathml(latex, display))
            continue
        if node.get("number"):
            raise ValueError(
                f"{docname} is among mathml_pages, and the formula {node.get('label')!r} on it is numbered, "
                "which only MathJax pages can show; take the number or the page away"
            )
        node.replace_self(nodes.raw("", mathml(node.astext(), display), format="html"))


def add_beside(node: nodes.Element, element: str) -> None:
    """Put a formula for browsers without JavaScript after MathJax's."""
    node.parent.insert(node.parent.index(node) + 1, FormulaWithoutScript("", mathml=element))


def add_to_contents(app: Sphinx, env: BuildEnvironment) -> None:
    """Do the same for the headings in the tables of contents, which are not part of a page."""
    if app.builder.format == "html":
        for node in [node for toc in env.tocs.values() for node in toc.findall(nodes.math)]:
            add_beside(node, mathml(node.astext()))


def show(translator: Any, node: FormulaWithoutScript) -> None:
    """Write a formula that browsers show only without JavaScript."""
    translator.body.append(f"<noscript>{node['mathml']}</noscript>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_config_value("mathml_pages", [], "html")
    app.add_node(FormulaWithoutScript, html=(show, None))
    app.connect("doctree-resolved", add_mathml, priority=900)
    app.connect("env-check-consistency", add_to_contents)  # after the environment was saved
    return {"parallel_read_safe": True, "parallel_write_safe": True}
