"""The chapters of the book, their numbered claims, and the tests that guard them, for the tests of the book."""

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
GUARDS_HEADING = "## The tests that guard this chapter"

KINDS = "theorem|lemma|proposition|corollary|property|conjecture|observation|criterion"
CLAIM = re.compile(
    rf"^(?P<fence>:{{3,}}|`{{3,}})\{{prf:(?P<kind>{KINDS})\}}[ \t]*(?P<title>[^\n]*)\n(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
LABEL = re.compile(r"^:label:[ \t]*(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Claim:
    """A numbered claim of a page."""

    kind: str
    title: str
    body: str
    label: str | None
    end: int  # where its directive ends in the page's text


def claims(text: str) -> list[Claim]:
    """Return the numbered claims of a page's Markdown, in order."""
    found = []
    for m in CLAIM.finditer(text):
        label = LABEL.search(m["body"])
        found.append(Claim(m["kind"], m["title"].strip(), m["body"], label[1] if label else None, m.end()))
    return found


def markdown(path: Path) -> str:
    """Return the Markdown of a page: a file of it, or the Markdown cells of a notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def section(text: str, heading: str) -> str | None:
    """Return the text between a heading of the second level and the next, or None."""
    _, found, after = f"\n{text}\n".partition(f"\n{heading}\n")
    return re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)[0] if found else None


def items(text: str) -> list[str]:
    """Return the items of Markdown lists, bulleted or numbered, and the rows of tables."""
    return re.findall(r"^(?:(?:[-*]|\d+\.) +|\|(?![ \t]*:?-))(.*(?:\n[ \t]+\S.*)*)", text, re.MULTILINE)


def pages() -> list[Path]:
    """Return the pages that _toc.yml names, in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [next((p for p in (ROOT / f"{n}.ipynb", ROOT / f"{n}.md") if p.exists()), ROOT / n) for n in names]


def chapters() -> list[Path]:
    """Return the chapters of the book and its appendix, in order, whether named in _toc.yml or not."""
    return sorted([*BOOK.glob("[0-9]*.ipynb"), *BOOK.glob("appendix*.ipynb")])


def guards(folder: Path, root: Path) -> dict[str, set[str]]:
    """Return {test id: labels it guards} of every test under a folder; a skipped test guards nothing."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for names, labels in _tests(tree.body, (), frozenset()):
            found["::".join([path.relative_to(root).as_posix(), *names])] |= labels
    return dict(found)


def _tests(body: list[ast.stmt], outer: tuple[str, ...], inherited: frozenset[str]):
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _tests(node.body, (*outer, node.name), inherited | _labels(node))
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield (*outer, node.name), inherited | _labels(node)


def _labels(node: ast.ClassDef | ast.FunctionDef) -> frozenset[str]:
    marks = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any(re.search(r"mark\.(skip\b|xfail)", mark) for mark in marks):
        return frozenset()
    found = set()
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("mark.guards"):
            found |= {ast.literal_eval(argument) for argument in decorator.args}
    return frozenset(found)
