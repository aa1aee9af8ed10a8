"""Turn numbers of the paper in the API reference into links: a docstring's "Theorem 2", "Eqs. 21-22" and "Chapter 4".

The docstrings stay plain text. ``book/paper.csv`` says where in the book each number of the paper is. A number that is
not in it, or whose link leads nowhere, is a warning of the build.
"""

import csv
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.nodes import make_refnode

BOOK = Path(__file__).resolve().parent.parent
TABLE = BOOK / "paper.csv"

KINDS = {
    r"Chapters?": "Chapter",
    r"Sections?": "Section",
    r"App\.|Appendix": "App.",
    r"Theorems?": "Theorem",
    r"Eqs?\.|Equations?": "Eq.",
    r"Alg\.|Algorithm": "Alg.",
    r"Figs?\.|Figures?": "Fig.",
    r"Tables?": "Table",
}
NUMBER = r"(?:\d+(?:\.\d+)*|[A-C](?:\.\d+)+)\b"
MENTION = re.compile(
    rf"\b(?P<kind>{'|'.join(KINDS)})\s+(?P<first>{NUMBER}|[A-C]\b)(?P<more>(?:(?:,\s+|,?\s+and\s+|\s+to\s+|[-–]){NUMBER})*)"
)
NO_PROSE = (
    nodes.literal,
    nodes.math,
    nodes.FixedTextElement,
    nodes.reference,
    nodes.title,
    addnodes.pending_xref,
    addnodes.desc_signature,
)


class Mention(NamedTuple):
    """A number of the paper in a text: where it stands, and its name in the table."""

    start: int
    end: int
    name: str


def mentions(text: str) -> list[Mention]:
    """Return the numbers that a text mentions, in order; "Eqs. 3-5 and 7" mentions Eq. 3, Eq. 5 and Eq. 7.

    >>> mentions("Theorem 2 and Eqs. 21-22")
    [Mention(start=0, end=9, name='Theorem 2'), Mention(start=14, end=21, name='Eq. 21'), \
Mention(start=22, end=24, name='Eq. 22')]
    """
    found = []
    for match in MENTION.finditer(text):
        kind = next(name for pattern, name in KINDS.items() if re.fullmatch(pattern, match["kind"]))
        found.append(Mention(match.start(), match.end("first"), f"{kind} {match['first']}"))
        for number in re.finditer(NUMBER, match["more"]):
            start = match.start("more") + number.start()
            found.append(Mention(start, start + len(number[0]), f"{kind} {number[0]}"))
    return found


class Target(NamedTuple):
    """Where something is: ``role`` is "page" (a file and perhaps a heading's slug), "prf:ref" or "eq" (a label)."""

    role: str
    name: str


def target(cell: str) -> Target:
    """Return the target of a link in the table's last column."""
    if match := re.fullmatch(r"\{(prf:ref|eq)\}`([\w-]+)`", cell):
        return Target(match[1], match[2])
    if match := re.fullmatch(r"\[[^\]]+\]\(([\w#.-]+)\)", cell):
        return Target("page", match[1])
    raise ValueError(
        f"{cell!r} is no link; write {{prf:ref}}`label`, {{eq}}`label` or [text](file.ipynb#heading)"
    )


@cache
def targets() -> dict[str, Target]:
    """Return the target of each number of the paper and of each chapter."""
    with TABLE.open(encoding="utf-8") as file:
        found = {row["Paper"]: target(row["Where"]) for row in csv.DictReader(file)}
    chapters = {
        f"Chapter {int(path.name[:2])}": Target("page", path.name)
        for path in BOOK.glob("[0-9][0-9]_*.ipynb")
    }
    return found | chapters


class PaperLinks(SphinxTransform):
    """Turns the mentions of an API page into references, which are resolved when all pages are read."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        """Replace each text that mentions something."""
        if not self.env.docname.startswith("book/api"):
            return
        self.env.note_dependency(str(TABLE))
        for text in list(self.document.findall(nodes.Text)):
            found = mentions(str(text))
            if found and not any(isinstance(parent, NO_PROSE) for parent in ancestors(text)):
                text.parent.replace(text, linked(str(text), found, self.env.docname))


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    """Return a node's parent, its parent's parent and so on."""
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def linked(text: str, found: list[Mention], docname: str) -> list[nodes.Node]:
    """Return the nodes of a text whose mentions are references."""
    pieces: list[nodes.Node] = []
    end = 0
    for mention in found:
        pieces.append(nodes.Text(text[end : mention.start]))
        words = nodes.inline("", text[mention.start : mention.end])
        name = mention.name
        pieces.append(
            addnodes.pending_xref(
                "",
                words,
                refdomain="",  # none: resolve() below knows them
                reftype="paper",
                reftarget=name,
                refdoc=docname,
                refwarn=True,
            )
        )
        end = mention.end
    return [*pieces, nodes.Text(text[end:])]


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, words: nodes.TextElement
) -> nodes.reference | None:
    """Return the link of a reference that the transform made; None, a warning, if it leads nowhere."""
    if node["reftype"] != "paper" or node["reftarget"] not in targets():
        return None
    wanted = targets()[node["reftarget"]]
    place = find(env, wanted)
    if place and wanted.role == "eq" and app.builder.name == "latex":
        place = place[0], ""  # LaTeX has its own names for equations
    return place and make_refnode(app.builder, node["refdoc"], *place, words)


def find(env: BuildEnvironment, wanted: Target) -> tuple[str, str] | None:
    """Return the page and the anchor of a target in a book that was read."""
    if wanted.role == "prf:ref":
        claim = getattr(env, "proof_list", {}).get(wanted.name)
        return claim and (claim["docname"], wanted.name)
    if wanted.role == "eq":
        equation = env.get_domain("math").equations.get(wanted.name)
        return equation and (equation[0], nodes.make_id(f"equation-{wanted.name}"))
    file, _, slug = wanted.name.partition("#")
    docname = f"book/{Path(file).stem}"
    if docname not in env.all_docs:
        return None
    if not slug:
        return docname, ""
    heading = env.metadata[docname].get("myst_slugs", {}).get(slug)
    return heading and (docname, heading[1])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("builder-inited", lambda app: targets.cache_clear())
    app.add_transform(PaperLinks)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
