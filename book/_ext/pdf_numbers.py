"""Give the PDF the site's numbers, captions that stay with their pictures, tables that fit, and an index.

LaTeX alone would number figures and equations differently: on the site parts and some chapters have no number.
"""

import math
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx_proof import nodes as claims

FLOAT = r"\begin{figure}[!htp]", r"\end{figure}"
SCALE = 80  # per cent of its size that a picture has on paper
LINE, PADDING = 96, 2  # letters on a line and beside a cell
TALL, TALL_IF_WIDE = 12, 3  # rows, above which a table breaks; lines of a wide one break, too
BREAKS = r"(?<=[\s/._:,-])"  # where a line of code may end
# These pages are not indexed: they list or repeat
NOT_INDEXED = re.compile(r"book/(intro|glossary|notation|paper|errata|api|references|executions)")
OWN = re.compile(r"(?:attribute|property)\)$|\bfigures\b")  # names that are not worth an entry
NO_PROSE = (nodes.literal, nodes.math, nodes.FixedTextElement, nodes.title, addnodes.desc_signature)


def count_by_chapter(app: Sphinx) -> None:
    """Number figures by chapter; in a book with parts jupyter-book would number them by section."""
    if app.builder.name == "latex":
        app.config["numfig_secnum_depth"] = 1


def page_of(node: nodes.Node) -> str:
    """Return the page that a node of the whole book comes from; its sections know it."""
    while node is not None and not (isinstance(node, nodes.section) and "docname" in node):
        node = node.parent
    return "" if node is None else str(node["docname"])


def latex(text: str) -> nodes.raw:
    """Return a node of raw LaTeX."""
    return nodes.raw("", text, format="latex")


def insert_before(node: nodes.Element, new: nodes.Node) -> None:
    """Put a node in front of another one."""
    node.parent.insert(node.parent.index(node), new)


def is_caption(node: nodes.Node) -> bool:
    """Say whether a node is the caption of a picture."""
    numbered = isinstance(node, nodes.figure) and isinstance(node[0], nodes.caption)
    return numbered or (
        isinstance(node, nodes.paragraph) and len(node) == 1 and isinstance(node[0], nodes.emphasis)
    )


def join_captions(doctree: nodes.document) -> None:
    """Move the picture at the end of a cell to its caption, and each picture before it to the text above it.

    Each pair floats as a whole: no page break divides it, and text fills the space before it.
    """
    for caption in [node for node in doctree.findall(nodes.Element) if is_caption(node)]:
        before = caption.parent[: caption.parent.index(caption)]
        while before and isinstance(before[-1], nodes.target):
            before.pop()
        pictures = list(before[-1].findall(nodes.image)) if before else []
        if not pictures:
            continue
        for picture in pictures[:-1]:
            float_together([*text_above(picture), picture][0], picture)
        moved = [*text_above(pictures[-1]), pictures[-1]] if pictures[1:] else pictures
        for node in moved:
            node.parent.remove(node)
        if isinstance(caption, nodes.figure):
            caption[:0] = moved
        else:
            for node in moved:
                insert_before(caption, node)
            float_together(moved[0], caption)


def text_above(picture: nodes.image) -> list[nodes.Node]:
    """Return the paragraph that a cell prints just above a picture, if there is one."""
    place = picture.parent.index(picture)
    above = picture.parent[max(place - 1, 0) : place]
    return [node for node in above if isinstance(node, nodes.paragraph)]


def float_together(first: nodes.Element, last: nodes.Element) -> None:
    """Make a float of everything from one node to another one."""
    insert_before(first, latex(FLOAT[0]))
    last.parent.insert(last.parent.index(last) + 1, latex(FLOAT[1]))


def set_proofs(doctree: nodes.document) -> None:
    """Set proofs as text that ends with a square, without the boxes that claims have."""
    for proof in list(doctree.findall(claims.proof_node)):
        box = proof[0]
        first, last = box[0], box[-1]
        if isinstance(first, nodes.paragraph) and first[0].astext().startswith("Proof. "):
            first.replace(first[0], nodes.Text(first[0].astext().removeprefix("Proof. ")))
            first.insert(0, nodes.emphasis("", "Proof."))
            first.insert(1, nodes.Text(" "))
        square = latex(r"\hspace*{\fill}\(\square\)")
        (last if isinstance(last, nodes.paragraph) else box).append(square)
        proof.replace_self(box.children)


def fit_tables(doctree: nodes.document) -> None:
    """Give the columns of wide tables widths by their words, and let tall tables continue on the next page."""
    for table in doctree.findall(nodes.table):
        rows = list(table.findall(nodes.row))
        columns = list(zip(*rows, strict=False))
        whole = [max(width(cell) for cell in column) for column in columns]
        if sum(whole) > LINE:
            least = [max(widest_word(cell) for cell in column) for column in columns]
            spare = max(LINE - sum(least), 0)
            wishes = [math.sqrt(most - word) for most, word in zip(whole, least, strict=True)]
            for spec, word, wish in zip(table.findall(nodes.colspec), least, wishes, strict=True):
                spec["colwidth"] = round(word + spare * wish / (sum(wishes) or 1))
            table["classes"].append("colwidths-given")
        if len(rows) > (TALL_IF_WIDE if sum(whole) > LINE else TALL):
            table["classes"].append("longtable")
            if "colwidths-given" not in table["classes"]:
                for spec, most in zip(table.findall(nodes.colspec), whole, strict=True):
                    spec["colwidth"] = most
                table["classes"].append("colwidths-given")


def width(cell: nodes.Element) -> int:
    """Return the width of a cell on one line, in letters."""
    return sum(letters(text, str(text)) for text in cell.findall(nodes.Text)) + PADDING


def widest_word(cell: nodes.Element) -> int:
    """Return the smallest width of a cell in letters: lines break at spaces, and code at some signs too."""
    words = [
        letters(text, word)
        for text in cell.findall(nodes.Text)
        for word in re.split(BREAKS if is_code(text) else r"[\s-]", str(text))
    ]
    return max(words, default=0) + PADDING


def letters(text: nodes.Text, word: str) -> int:
    """Return the width of a word of a text in letters."""
    return math.ceil(len(word) * (1.25 if is_code(text) else 0.6 if is_math(text) else 1))


def is_code(text: nodes.Text) -> bool:
    """Say whether a text is code."""
    return isinstance(text.parent, nodes.literal) or isinstance(text.parent.parent, nodes.literal)


def is_math(text: nodes.Text) -> bool:
    """Say whether a text is a formula, whose source is longer than the formula."""
    return isinstance(text.parent, nodes.math)


def set_numbers(doctree: nodes.document, env: BuildEnvironment) -> None:
    """Tell LaTeX the number of each figure and equation."""
    for node in [*doctree.findall(nodes.figure), *doctree.findall(nodes.math_block)]:
        kind, name = (
            ("figure", "figure") if isinstance(node, nodes.figure) else ("displaymath", "equation")
        )
        known = env.toc_fignumbers.get(page_of(node), {}).get(kind, {})
        if number := next((known[label] for label in node["ids"] if label in known), None):
            written = ".".join(map(str, number))
            insert_before(node, latex(rf"\renewcommand{{\the{name}}}{{{written}}}"))


# ------------------------------------------------------------------ the index
def patterns(term: str) -> list[re.Pattern[str]]:
    """Return the ways in which a text may name a term of the glossary.

    >>> [p.pattern for p in patterns("online label smoothing (OLS)")]
    ['\\\\bonline\\\\ label\\\\ smoothings?\\\\b', '\\\\bOLS\\\\b']
    """
    name, _, short = term.rstrip(")").partition(" (")
    found = []
    for word in filter(None, (name, short)):
        is_short = word.isupper()
        ending, flags = ("", 0) if is_short else ("s?", re.IGNORECASE)
        found.append(re.compile(rf"\b{re.escape(word)}{ending}\b", flags))
    return found


def is_set_off(text: nodes.Text) -> bool:
    """Say whether a text is in bold type or italics, or a link to the glossary."""
    return isinstance(text.parent, nodes.strong | nodes.emphasis | nodes.inline | nodes.reference)


def entry(term: str) -> addnodes.index:
    """Return an entry of the index."""
    return addnodes.index(entries=[("single", term, "", "", None)])


def add_index(doctree: nodes.document, terms: list[str]) -> None:
    """Index each term where a chapter first names it, and where a title does.

    A term that is one common word counts only where the text sets it off.
    """
    ways = {term: patterns(term) for term in sorted(terms, key=len, reverse=True)}
    named: set[tuple[str, str]] = set()

    def terms_in(text: str) -> list[str]:
        found = []
        for term, forms in ways.items():
            for form in forms:
                if form.search(text):
                    found.append(term)
                    text = form.sub(" ", text)  # label smoothing is not in adaptive label smoothing
        return list(dict.fromkeys(found))

    for title in list(doctree.findall(nodes.title)):
        page = page_of(title)
        if page and not NOT_INDEXED.match(page) and isinstance(title.parent, nodes.section):
            for term in terms_in(title.astext()):
                title.parent.insert(1, entry(term))
                named.add((page, term))
    for paragraph in list(doctree.findall(nodes.paragraph)):
        page = page_of(paragraph)
        if NOT_INDEXED.match(page) or not page:
            continue
        set_off = " | ".join(text for text in paragraph.findall(nodes.Text) if is_set_off(text))
        plain = "".join(
            text for text in paragraph.findall(nodes.Text) if not isinstance(text.parent, NO_PROSE)
        )
        for term in terms_in(plain):
            is_common = term.isalpha() and term.islower()
            if (page, term) not in named and not (is_common and term not in terms_in(set_off)):
                paragraph.insert(0, entry(term))
                named.add((page, term))


def shorten_index(doctree: nodes.document) -> None:
    """Leave fields and the figures' module out of the index, and name each module once."""
    for node in doctree.findall(addnodes.index):
        kept = []
        for kind, text, *rest in node["entries"]:
            if not OWN.search(text):
                name = text.removeprefix("module; ").replace(r"\sigma", "σ")
                kept.append(("single" if text.startswith("module; ") else kind, name, *rest))
        node["entries"] = kept


def prepare(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Apply all of this to the whole book, after the LaTeX builder has put it together."""
    if app.builder.name != "latex":
        return
    for picture in doctree.findall(nodes.image):
        picture.setdefault("scale", SCALE)
    join_captions(doctree)
    set_proofs(doctree)
    fit_tables(doctree)
    set_numbers(doctree, app.env)
    objects = app.env.get_domain("std").objects
    shorten_index(doctree)
    add_index(doctree, [name for kind, name in objects if kind == "term" and "$" not in name])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    # in the whole book sphinx-proof finds the page of a claim by its title, which fails for some
    claims.find_parent = lambda env, node, tag: page_of(node)
    app.connect("builder-inited", count_by_chapter, priority=900)
    app.connect("doctree-resolved", prepare, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
