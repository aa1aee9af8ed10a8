"""Links the names of `vlls` in the pages' code to the API reference, and each entry of it to the pages that use it.

The cells of a page are read in order with ``ast``; nothing is executed. What a name is follows from the imports, and
for a variable from the class or the annotated return value that it is assigned: in ``glm = GLM(...)`` the name ``GLM``
is a link, and ``label_noise`` in ``glm.label_noise(q)`` is one to :meth:`GLM.label_noise`.

Why not sphinx-codeautolink: it rewrites the written files after the build, which doubles its time, and it leaves pages
that are written again without links; it also links plain variables, and does not find classes of private modules.
"""

import ast
import importlib
import inspect
import re
import types
import typing
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.writers.html5 import HTML5Translator

PACKAGE = "vlls"
API = "book/api"
LANGUAGES = ("python", "ipython3")


class Link(NamedTuple):
    """A name in a cell: its line (from 1), its columns, and what the API reference calls it."""

    line: int
    start: int
    end: int
    target: str


# ------------------------------------------------------------------ what a name is
class Instance(NamedTuple):
    """Some object of a class."""

    kind: type


def locate(name: str) -> Any:
    """Return the object of a dotted name; an AttributeError if there is none."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            attribute = inspect.getattr_static if inspect.isclass(value) else getattr
            value = attribute(value, part)
        return value
    raise AttributeError(name)


def located(name: str) -> Any:
    """Return the object of a dotted name, or None."""
    try:
        return locate(name)
    except AttributeError:
        return None


@dataclass
class Reference:
    """The names that the API reference has, and by which of them it calls an object."""

    names: frozenset[str]
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self):
        for name in sorted(self.names):
            try:
                self.aliases[identity(locate(name))] = name
            except (AttributeError, TypeError):  # a field without a default, or a constant
                continue

    def name(self, dotted: str, value: Any) -> str | None:
        """Return the documented name of a module's attribute."""
        try:
            return self.aliases.get(identity(value))
        except TypeError:  # a constant
            return dotted if dotted in self.names else None

    def member(self, kind: type, name: str) -> str | None:
        """Return the documented name of a class's member, which may be a base's."""
        for base in kind.__mro__:
            owner = self.aliases.get((base.__module__, base.__qualname__))
            if owner and f"{owner}.{name}" in self.names:
                return f"{owner}.{name}"
        return None


def identity(value: Any) -> tuple[str, str]:
    """Return module and qualified name of a class, function or module; a TypeError for anything else."""
    if inspect.ismodule(value):
        return value.__name__, ""
    if inspect.isclass(value) or inspect.isroutine(value):
        return value.__module__, value.__qualname__
    raise TypeError(f"{value!r} has no name of its own")


def returned(function: Any) -> Instance | None:
    """Return an instance of what a function's annotation says it returns, if that is a class of the package."""
    try:
        kind = typing.get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):  # imported for the annotation only
        return None
    return Instance(kind) if inspect.isclass(kind) and ours(kind) else None


def ours(kind: type) -> bool:
    """Say whether a class is the package's."""
    return kind.__module__.partition(".")[0] == PACKAGE


# ------------------------------------------------------------------ reading cells
class Reader(ast.NodeVisitor):
    """Reads the cells of a page in order; ``links`` are those of the last one, ``uses`` what it uses."""

    def __init__(self, reference: Reference):
        self.reference = reference
        self.scope: dict[
            str, tuple[str, Any]
        ] = {}  # name: the dotted name it stands for and the value
        self.lines: list[str] = []
        self.links: list[Link] = []
        self.uses: list[str] = []

    def read(self, source: str) -> list[Link]:
        """Return the links of the next cell; code that is not Python has none."""
        self.lines, self.links, self.uses = source.split("\n"), [], []
        try:
            tree = ast.parse(re.sub(r"^([%!].*)$", "", source, flags=re.MULTILINE))
        except SyntaxError:
            return []
        self.visit(tree)
        return sorted(set(self.links))

    def link(self, line: int, end: int, name: str, target: str | None, used: bool = True) -> None:
        """Note that the text before a byte offset of a line is a documented name."""
        if target:
            stop = len(self.lines[line - 1].encode()[:end].decode())
            self.links.append(Link(line, stop - len(name), stop, target))
            if used:
                self.uses.append(target)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.partition(".")[0]
            self.scope.pop(alias.asname or top, None)
            if top == PACKAGE and (value := located(alias.name)):
                bound = alias.name if alias.asname else PACKAGE
                self.scope[alias.asname or PACKAGE] = (bound, locate(bound))
                end = alias.col_offset + len(alias.name)
                target = self.reference.name(alias.name, value)
                self.link(alias.lineno, end, alias.name, target, used=False)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.scope.pop(alias.asname or alias.name, None)
        if not node.module or node.module.partition(".")[0] != PACKAGE:
            return
        module = located(node.module)
        target = module and self.reference.name(node.module, module)
        end = node.col_offset + len(f"from {node.module}")
        self.link(node.lineno, end, node.module, target, used=False)
        for alias in node.names:
            dotted = f"{node.module}.{alias.name}"
            value = getattr(module, alias.name, None)  # may share its name with a module
            value = located(dotted) if value is None else value
            if value is not None:
                self.scope[alias.asname or alias.name] = (dotted, value)
                target = self.reference.name(dotted, value)
                end = alias.col_offset + len(alias.name)
                self.link(alias.lineno, end, alias.name, target, used=False)

    def visit_Name(self, node: ast.Name) -> None:
        dotted, value = self.scope.get(node.id, ("", None))
        if isinstance(node.ctx, ast.Load) and dotted and not isinstance(value, Instance):
            used = not inspect.ismodule(value)
            self.link(
                node.lineno,
                node.end_col_offset or 0,
                node.id,
                self.reference.name(dotted, value),
                used,
            )

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.visit(node.value)
        dotted, value = self.what(node.value)
        if isinstance(value, Instance):
            target = self.reference.member(value.kind, node.attr)
        elif inspect.isclass(value):
            target = self.reference.member(value, node.attr)
        elif inspect.ismodule(value):
            name = f"{dotted}.{node.attr}"
            target = self.reference.name(name, getattr(value, node.attr, None))
        else:
            return
        self.link(node.end_lineno or 0, node.end_col_offset or 0, node.attr, target)

    def what(self, node: ast.expr) -> tuple[str, Any]:
        """Return dotted name and value of an expression as far as it is known; ("", None) where it is not."""
        if isinstance(node, ast.Name):
            return self.scope.get(node.id, ("", None))
        if isinstance(node, ast.Call):
            _, function = self.what(node.func)
            if inspect.isclass(function):
                return "", Instance(function) if ours(function) else None
            return "", returned(function) if function is not None else None
        if isinstance(node, ast.Attribute):
            dotted, value = self.what(node.value)
            if inspect.ismodule(value):
                return f"{dotted}.{node.attr}", getattr(value, node.attr, None)
            kind = value.kind if isinstance(value, Instance) else value
            if inspect.isclass(kind):
                return "", member(kind, node.attr)
        return "", None

    def bind(self, target: ast.expr, value: ast.expr | None) -> None:
        """Follow an assignment; a name that gets something unknown is forgotten."""
        if isinstance(target, ast.Name):
            known = self.what(value) if value is not None else ("", None)
            self.scope.pop(target.id, None)
            if known[1] is not None:
                self.scope[target.id] = known
        else:
            for name in (node.id for node in ast.walk(target) if isinstance(node, ast.Name)):
                if not isinstance(target, ast.Attribute | ast.Subscript):
                    self.scope.pop(name, None)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self.bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        self.bind(node.target, node.value)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self.bind(node.target, None)
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, item.context_expr)
        for statement in node.body:
            self.visit(statement)

    def inside(self, node: ast.AST, hidden: list[str]) -> None:
        """Visit a scope of its own, in which some names mean something else."""
        outer = self.scope
        self.scope = {name: known for name, known in outer.items() if name not in hidden}
        self.generic_visit(node)
        self.scope = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.inside(
            node,
            [argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)],
        )
        self.scope.pop(node.name, None)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.inside(
            node,
            [argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)],
        )

    def visit_comprehension_scope(self, node: ast.AST) -> None:
        targets = [generator.target for generator in node.generators]  # type: ignore[attr-defined]
        self.inside(
            node,
            [
                name.id
                for target in targets
                for name in ast.walk(target)
                if isinstance(name, ast.Name)
            ],
        )

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_comprehension_scope


def member(kind: type, name: str) -> Any:
    """Return what an attribute of an instance is: a method, or an instance of what it is annotated to be."""
    found = inspect.getattr_static(kind, name, None)
    if isinstance(found, property):
        return returned(found.fget)
    if isinstance(found, classmethod | staticmethod):
        return found.__func__
    if isinstance(found, types.FunctionType):
        return found
    try:
        hint = typing.get_type_hints(kind).get(name)
    except (NameError, TypeError):
        return None
    return Instance(hint) if inspect.isclass(hint) and ours(hint) else None


# ------------------------------------------------------------------ in the build
class Cell(NamedTuple):
    """A code cell: its source, and identifier and title of the section that it is in."""

    source: str
    section: str
    title: str


def is_api(docname: str) -> bool:
    """Say whether a page is of the API reference."""
    return docname == API or docname.startswith(f"{API}/")


def collect(app: Sphinx, doctree: nodes.document) -> None:
    """Keep the cells of a page that was read, and number them in the page."""
    env, docname = app.env, app.env.docname
    env.code_stale = True
    if is_api(docname):
        return
    found = []
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
    kept(env, "code_cells")[docname] = found


def kept(env: BuildEnvironment, name: str) -> dict[str, Any]:
    """Return a dictionary that is kept with the environment between builds."""
    if not hasattr(env, name):
        setattr(env, name, {})
    return getattr(env, name)


def purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget a page that is read again or gone."""
    kept(env, "code_cells").pop(docname, None)
    env.code_stale = True


def merge(app: Sphinx, env: BuildEnvironment, docnames: list[str], other: BuildEnvironment) -> None:
    """Take over what another process has read."""
    kept(env, "code_cells").update(
        {name: kept(other, "code_cells").get(name, []) for name in docnames}
    )
    env.code_stale = True


def update(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Find all links once every page is read; return the pages that other pages have changed."""
    if not getattr(env, "code_stale", True):
        return []
    objects = {
        name: entry for name, entry in env.get_domain("py").objects.items() if is_api(entry.docname)
    }
    reference = Reference(frozenset(name for name, entry in objects.items() if not entry.aliased))
    links: dict[str, list[list[Link]]] = {}
    uses: dict[str, dict[str, tuple[str, str]]] = {}
    for docname, cells in sorted(kept(env, "code_cells").items()):
        reader = Reader(reference)
        links[docname] = []
        for cell in cells:
            links[docname].append(reader.read(cell.source))
            for name in reader.uses:
                uses.setdefault(name, {}).setdefault(docname, (cell.section, cell.title))
    places = {name: (entry.docname, entry.node_id) for name, entry in objects.items()}
    moved = {name for name, place in places.items() if kept(env, "code_places").get(name) != place}
    used_before, links_before = kept(env, "code_uses"), kept(env, "code_links")
    changed = {name for name in {*used_before, *uses} if used_before.get(name) != uses.get(name)}
    env.code_links, env.code_uses, env.code_places, env.code_stale = links, uses, places, False
    pages = {docname for docname in links if links[docname] != links_before.get(docname)}
    pages |= {docname for name in moved for docname in uses.get(name, {})}
    return sorted(pages | {places[name][0] for name in changed if name in places})


def add_uses(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write under each entry of an API page where the book uses it."""
    if not is_api(docname):
        return
    for entry in doctree.findall(addnodes.desc):
        signature, content = (
            entry.next_node(addnodes.desc_signature),
            entry.next_node(addnodes.desc_content),
        )
        found = [app.env.code_uses[name] for name in signature["ids"] if name in app.env.code_uses]
        if found:
            first = content.first_child_matching_class((addnodes.desc, addnodes.index))
            content.insert(
                len(content) if first is None else first, used_in(app, docname, found[0])
            )


def used_in(app: Sphinx, docname: str, pages: dict[str, tuple[str, str]]) -> nodes.paragraph:
    """Return the line that names the pages: chapters by number, then the others by title."""
    chapters = {
        page: str(int(Path(page).name[:2])) for page in pages if Path(page).name[:2].isdigit()
    }
    others = {page: app.env.titles[page].astext() for page in pages if page not in chapters}
    line = nodes.paragraph(classes=["used-in"])
    line += nodes.Text(
        "Used in " + ("Chapter " if len(chapters) == 1 else "Chapters " if chapters else "")
    )
    names = chapters | others
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
        {(link.line, link.start): link for link in links},
        {(link.line, link.end) for link in links},
    )
    pieces, line, column, is_open = [before, pre], 1, 0, False
    for token in re.findall(r"<[^>]*>|&[^;]+;|.", code, re.DOTALL):
        if is_open and (line, column) in ends:
            pieces.append("</a>")
            is_open = False
        if len(token) > 1 and token[0] == "<":
            pieces.append(token)
            continue
        if link := starts.get((line, column)):
            href, title = escape(address[link.target]), escape(link.target)
            pieces.append(f'<a class="code-link" href="{href}" title="{title}">')
            is_open = True
        pieces.append(token)
        line, column = (line + 1, 0) if token == "\n" else (line, column + 1)
    return "".join(pieces)


def visit_literal_block(self: HTML5Translator, node: nodes.literal_block) -> None:
    """Write a block of code as ever, and then its links into it."""
    try:
        type(self).visit_literal_block(self, node)
    except nodes.SkipNode:
        env, docname = self.builder.env, self.builder.current_docname
        links = getattr(env, "code_links", {}).get(docname, [])
        cell = node.get("code_cell", len(links))
        if cell < len(links) and links[cell]:
            address = {}
            for link in links[cell]:
                page, anchor = env.code_places[link.target]
                address[link.target] = f"{self.builder.get_relative_uri(docname, page)}#{anchor}"
            self.body[-1] = linked(self.body[-1], links[cell], address)
        raise


def depart_literal_block(self: HTML5Translator, node: nodes.literal_block) -> None:
    """End a block that was not highlighted."""
    type(self).depart_literal_block(self, node)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("env-updated", update)
    app.connect("doctree-resolved", add_uses)
    app.add_node(
        nodes.literal_block, override=True, html=(visit_literal_block, depart_literal_block)
    )
    app.add_css_file("api.css")
    return {
        "version": "1",
        "env_version": 1,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
