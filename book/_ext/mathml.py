"""Writes the formulas of some pages as MathML, which browsers show by themselves: those pages load no MathJax.

They are the pages of ``mathml_pages`` in ``_config.yml``. The PDF is not concerned.
"""

import re
import unicodedata
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

# Browsers no longer know this attribute; these letters have characters of their own (those of ℝ and its kin get them).
DOUBLE_STRUCK = re.compile(r'<mi mathvariant="double-struck">([A-Z])</mi>')


def double_struck(letter: str) -> str:
    """Return a capital letter as blackboards have it."""
    return unicodedata.lookup(f"MATHEMATICAL DOUBLE-STRUCK CAPITAL {letter}")


def mathml(latex: str, display: bool = False) -> str:
    """Return a formula as a ``<math>`` element."""
    element = convert(latex, display="block" if display else "inline")
    return DOUBLE_STRUCK.sub(lambda found: f"<mi>{double_struck(found[1])}</mi>", element)


def replace_formulas(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace the formulas of a page that is to load no MathJax."""
    if app.builder.format != "html" or docname not in app.config.mathml_pages:
        return
    for node in [*doctree.findall(nodes.math), *doctree.findall(nodes.math_block)]:
        if node.get("number"):
            raise ValueError(
                f"{docname} is among mathml_pages, and the formula {node.get('label')!r} on it is numbered, "
                "which only MathJax pages can show; take the number or the page away"
            )
        element = mathml(node.astext(), display=isinstance(node, nodes.math_block))
        node.replace_self(nodes.raw("", element, format="html"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_config_value("mathml_pages", [], "html")
    app.connect("doctree-resolved", replace_formulas, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
