"""Link names in the pages' code to the API reference, and each entry of it to the pages that use it.

The cells of a page are read in order with ``ast``; nothing is executed. The meaning of a name follows from the imports;
for a variable, from the class or the annotated return value that it is assigned: in ``glm = GLM(...)`` the name ``GLM``
is a link, and ``label_noise`` in ``glm.label_noise(q)`` is one to :meth:`GLM.label_noise`.

Why not sphinx-codeautolink: it finds neither members of classes that are defined in private modules nor fields of
dataclasses, a quarter of these links, and lists headings where readers look for chapters.
"""

import ast
import inspect
import re
import typing
from functools import cached_property
from html import escape
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.writers.html5 import HTML5Translator

PACKAGES = ("vlls", "figures")
API = "book/api"
LANGUAGES = ("python", "ipython3")


class Link(NamedTuple):
    """A name in a cell: its line (from 1), its columns, and its name in the API reference."""

    line: int
    start: int
    end: int
    target: str


# ------------------------------------------------------------------ meanings of names
class Instance(NamedTuple):
    """Some object of a class."""

    type: type


def locate(name: str) -> Any:
    """Return the object of a dotted name, or None."""
    try:
        return resolve_name(name)
    except (ImportError, AttributeError):
        return None


def identity(value: Any) -> tuple[str, str] | None:
    """Return module and qualified name of a class, function or module; None for anything else."""
    if inspect.ismodule(value):
        return value.__name__, ""
    name = getattr(value, "__qualname__", None)
    return (value.__module__, name) if name else None


class Reference:
    """The names in the API reference, and the documented name of each object."""

    def __init__(self, names: frozenset[str]):
        self.names = names
        self.aliases = {identity(locate(name)): name for name in sorted(names)}

    def name(self, dotted: str, value: Any) -> str | None:
        """Return the documented name of a module's attribute."""
        if identity(value) is None:  # a constant
            return dotted if dotted in self.names else None
        return self.aliases.get(identity(value))

    def member(self, owner: type, name: str) -> str | None:
        """Return the documented name of a class's member, which may be a base's."""
        found = (f"{self.aliases.get(identity(base))}.{name}" for base in owner.__mro__)
        return next((dotted for dotted in found if dotted in self.names), None)


def instance(annotated: Any, name: str) -> Instance | None:
    """Return an instance of the class that an object is annotated with under a name, if that is the package's."""
    try:
        hint = typing.get_type_hints(annotated).get(name)
    except (NameError, TypeError, AttributeError):  # imported for the annotation only
        return None
    ours = inspect.isclass(hint) and hint.__module__.partition(".")[0] in PACKAGES
    return Instance(hint) if ours else None


# ------------------------------------------------------------------ reading cells
class Reader(ast.NodeVisitor):
    """Reads the cells of a page in order; ``links`` and ``uses`` are the last cell's links and used names."""

    def __init__(self, reference: Reference):
        self.reference = reference
        self.scope: dict[
            str, tuple[str, Any]
        ] = {}  # name: the dotted name it stands for and the value
        self.lines: list[str] = []
        self.links: set[Link] = set()
        self.uses: list[str] = []

    def read(self, source: str) -> list[Link]:
        """Return the links of the next cell; code that is not Python has none."""
        self.lines, self.links, self.uses = source.split("\n"), set(), []
        try:
            self.visit(ast.parse(re.sub(r"^([%!].*)$", "", source, flags=re.MULTILINE)))
        except SyntaxError:
            pass
        return sorted(self.links)

    def link(self, line: int, end: int, name: str, target: str | None, used: bool = True) -> None:
        """Note that the text before a byte offset of a line is a documented name."""
        if target:
            stop = len(self.lines[line - 1].encode()[:end].decode())
            self.links.add(Link(line, stop - len(name), stop, target))
            if used:
                self.uses.append(target)

    def name(
        self, line: int, end: int, text: str, known: tuple[str, Any], used: bool = False
    ) -> None:
        """Note that the text before a byte offset of a line is a dotted name, if that is documented."""
        self.link(line, end, text, self.reference.name(*known), used)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self.scope.pop(alias.asname or top, None)
            if top in PACKAGES and (value := locate(alias.name)):
                bound = alias.name if alias.asname else top
                self.scope[alias.asname or top] = (bound, locate(bound))
                end = alias.col_offset + len(alias.name)
                self.name(alias.lineno, end, alias.name, (alias.name, value))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.scope.pop(alias.asname or alias.name, None)
        name = node.module or ""
        module = locate(name) if name.partition(".")[0] in PACKAGES else None
        if module is None:
            return
        self.name(node.lineno, node.col_offset + len(f"from {name}"), name, (name, module))
        for alias in node.names:
            known = f"{name}.{alias.name}", getattr(module, alias.name, None)
            if known[1] is not None:
                self.scope[alias.asname or alias.name] = known
                end = alias.col_offset + len(alias.name)
                self.name(alias.lineno, end, alias.name, known)

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):  # it gets something unknown
            self.scope.pop(node.id, None)
            return
        known = self.scope.get(node.id, ("", None))
        if known[0]:
            used = not inspect.ismodule(known[1])
            self.name(node.lineno, node.end_col_offset or 0, node.id, known, used)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit(node.value)
        dotted, value = self.what(node.value)
        owner = value.type if isinstance(value, Instance) else value
        if inspect.isclass(owner):
            target = self.reference.member(owner, node.attr)
        elif inspect.ismodule(owner):
            target = self.reference.name(f"{dotted}.{node.attr}", getattr(owner, node.attr, None))
        else:
            return
        self.link(node.end_lineno or 0, node.end_col_offset or 0, node.attr, target)

    def what(self, node: ast.expr) -> tuple[str, Any]:
        """Return dotted name and value of an expression as far as they are known; ("", None) if they are not."""
        if isinstance(node, ast.Name):
            return self.scope.get(node.id, ("", None))
        if isinstance(node, ast.Call):
            _, function = self.what(node.func)
            if inspect.isclass(function):
                return "", Instance(function)
            return "", instance(function, "return")
        if isinstance(node, ast.Attribute):
            dotted, value = self.what(node.value)
            if inspect.ismodule(value):
                return f"{dotted}.{node.attr}", getattr(value, node.attr, None)
            owner = value.type if isinstance(value, Instance) else value
            if inspect.isclass(owner):
                member = getattr(owner, node.attr, None)
                if isinstance(member, property | cached_property):
                    return "", instance(
                        member.fget if isinstance(member, property) else member.func, "return"
                    )
                return "", member if identity(member) else instance(owner, node.attr)
        return "", None

    def visit_Assign(self, node: ast.Assign | ast.AnnAssign | ast.withitem) -> None:
        """Follow an assignment, its value first."""
        value = node.context_expr if isinstance(node, ast.withitem) else node.value
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [getattr(node, "target", None) or node.optional_vars]
        )
        known = self.what(value) if value is not None else ("", None)
        for child in (value, *targets):
            if child is not None:
                self.visit(child)
        for target in targets:
            if isinstance(target, ast.Name) and known[1] is not None:
                self.scope[target.id] = known

    visit_AnnAssign = visit_withitem = visit_Assign

    def visit_Lambda(self, node: ast.AST) -> None:
        """Visit a nested scope, in which arguments and loop variables hide outer names."""
        inside = list(ast.walk(node))
        hidden = {argument.arg for argument in inside if isinstance(argument, ast.arg)}
        targets = [part.target for part in inside if isinstance(part, ast.comprehension)]
        hidden |= {
            name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
        }
        outer = self.scope
        self.scope = {name: known for name, known in outer.items() if name not in hidden}
        self.generic_visit(node)
        self.scope = outer
        self.scope.pop(getattr(node, "name", ""), None)

    visit_FunctionDef = visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = (
        visit_Lambda
    )


# ------------------------------------------------------------------ in the build
class Cell(NamedTuple):
    """A code cell: its source, and identifier and title of the section that it is in."""

    source: str
    section: str
    title: str


def is_api(docname: str) -> bool:
    """Say whether a page is of the API reference."""
    return docname == API or docname.startswith(f"{API}/")


def begin(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Store in the environment the cells of each page, and the links that its pages were written with."""
    env.code_cells = getattr(env, "code_cells", {})
    env.code_links = getattr(env, "code_links", ({}, {}, {}))


def purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget a page that is read again or removed."""
    getattr(env, "code_cells", {}).pop(docname, None)


def collect(app: Sphinx, doctree: nodes.document) -> None:
    """Keep the cells of a page that was read, and number them in the page."""
    docname, found = app.env.docname, []
    if is_api(docname):
        return
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") in LANGUAGES:
            section = block
            while section is not None and not isinstance(section, nodes.section):
                section = section.parent
            title = section.next_node(nodes.title).astext() if section is not None else ""
            block["code_cell"] = len(found)
            found.append(
                Cell(block.astext(), section["ids"][0] if section is not None else "", title)
            )
    app.env.code_cells[docname] = found


def update(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Find all links once every page is read; if one has changed, write every page that can have links."""
    objects = {
        name: entry for name, entry in env.get_domain("py").objects.items() if is_api(entry.docname)
    }
    reference = Reference(frozenset(name for name, entry in objects.items() if not entry.aliased))
    links: dict[str, list[list[Link]]] = {}
    uses: dict[str, dict[str, tuple[str, str]]] = {}
    for docname, cells in sorted(env.code_cells.items()):
        reader = Reader(reference)
        links[docname] = []
        for cell in cells:
            links[docname].append(reader.read(cell.source))
            for name in reader.uses:
                uses.setdefault(name, {}).setdefault(docname, (cell.section, cell.title))
    places = {name: (entry.docname, entry.node_id) for name, entry in objects.items()}
    before, env.code_links = env.code_links, (links, uses, places)
    return (
        []
        if env.code_links == before
        else sorted({*links, *(docname for docname, _ in places.values())})
    )


def add_uses(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write under each entry of an API page where the book uses it."""
    _, uses, _ = app.env.code_links
    for entry in doctree.findall(addnodes.desc) if is_api(docname) else ():
        signature, content = (
            entry.next_node(addnodes.desc_signature),
            entry.next_node(addnodes.desc_content),
        )
        name = next((name for name in signature["ids"] if name in uses), None)
        if name is not None:
            first = content.first_child_matching_class((addnodes.desc, addnodes.index))
            content.insert(
                len(content) if first is None else first, used_in(app, docname, uses[name])
            )


def used_in(app: Sphinx, docname: str, pages: dict[str, tuple[str, str]]) -> nodes.paragraph:
    """Return the line that names the pages: chapters by number, then the others by title."""
    chapters = {
        page: str(int(Path(page).name[:2])) for page in pages if Path(page).name[:2].isdigit()
    }
    names = chapters | {
        page: app.env.titles[page].astext() for page in pages if page not in chapters
    }
    line = nodes.paragraph(
        "", "Used in " + ("", "Chapter ", "Chapters ")[min(len(chapters), 2)], classes=["used-in"]
    )
    for position, (page, name) in enumerate(names.items()):
        section, title = pages[page]
        address = app.builder.get_relative_uri(docname, page) + (f"#{section}" if section else "")
        line += nodes.Text("" if position == 0 else " and " if position == len(names) - 1 else ", ")
        line += nodes.reference("", name, internal=True, refuri=address, reftitle=title)
    return line


def linked(html: str, links: list[Link], address: dict[str, str]) -> str:
    """Return highlighted code with its links.

    >>> linked('<pre><span class="n">fit</span>(x)\\n</pre>', [Link(1, 0, 3, "vlls.glm.fit")], {"vlls.glm.fit": "g"})
    '<pre><span class="n"><a class="code-link" href="g" title="vlls.glm.fit">fit</a></span>(x)\\n</pre>'
    """
    before, pre, code = html.partition("<pre>")
    starts, ends = (
        {link[:2]: link.target for link in links},
        {(link.line, link.end) for link in links},
    )
    pieces, line, column, is_open = [before, pre], 1, 0, False
    for token in re.findall(r"<[^>]*>|&[^;]+;|.", code, re.DOTALL):
        if is_open and (line, column) in ends:
            pieces.append("</a>")
            is_open = False
        if token[0] == "<":
            pieces.append(token)
            continue
        if target := starts.get((line, column)):
            pieces.append(
                f'<a class="code-link" href="{escape(address[target])}" title="{escape(target)}">'
            )
            is_open = True
        pieces.append(token)
        line, column = (line + 1, 0) if token == "\n" else (line, column + 1)
    return "".join(pieces)


def visit_literal_block(self: HTML5Translator, node: nodes.literal_block) -> None:
    """Write a block of code as usual, and then insert its links."""
    try:
        type(self).visit_literal_block(self, node)
    except nodes.SkipNode:
        env, docname = self.builder.env, self.builder.current_docname
        links, _, places = env.code_links
        found = links[docname][node["code_cell"]] if "code_cell" in node else []
        address = {}
        for target in {link.target for link in found}:
            page, anchor = places[target]
            address[target] = f"{self.builder.get_relative_uri(docname, page)}#{anchor}"
        if found:
            self.body[-1] = linked(self.body[-1], found, address)
        raise


def depart_literal_block(self: HTML5Translator, node: nodes.literal_block) -> None:
    """End a block that was not highlighted."""
    type(self).depart_literal_block(self, node)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("env-before-read-docs", begin)
    app.connect("env-purge-doc", purge)
    app.connect("doctree-read", collect)
    app.connect("env-updated", update)
    app.connect("doctree-resolved", add_uses)
    app.add_node(
        nodes.literal_block, override=True, html=(visit_literal_block, depart_literal_block)
    )
    app.add_css_file("api.css")
    return {
        "version": "2",
        "env_version": 2,
        "parallel_read_safe": False,
        "parallel_write_safe": True,
    }
