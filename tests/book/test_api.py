"""The API reference is complete, docstrings name places that are in the book, and chapters name tests that exist."""

import ast
import importlib
import inspect
import io
import pkgutil
import re

import nbformat
import pytest
from _ext.code_links import PACKAGES, Link, Reader, Reference, linked
from _ext.paper_links import Mention, Target, mentions, target, targets
from chapters import BOOK, ROOT, chapters, claims, guards, markdown, pages
from myst_parser.mdit_to_docutils.base import default_slugify
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import docutils_namespace

import vlls

API = [BOOK / "api.md", *sorted((BOOK / "api").glob("*.md"))]
DIRECTIVE = re.compile(r"^\.\. (auto|py:)(\w+):: (\S+)((?:\n   :.*)*)", re.MULTILINE)
MODULES = ["vlls"] + [
    module.name for module in pkgutil.walk_packages(vlls.__path__, "vlls.") if not re.search(r"\._", module.name)
]


# ------------------------------------------------------------------ every public name has an entry
def entries(text: str) -> set[str]:
    """Return the names that the directives of a page document; constants only if they have a docstring."""
    found = set()
    for written, kind, name, options in DIRECTIVE.findall(text):
        if written == "py:":  # a bare name would be taken for one of the module above it
            name = f"{re.search(':module: (.*)', options)[1]}.{name}"
        if kind != "module":
            pkgutil.resolve_name(name)
            found.add(name)
            continue
        found.add(name)
        if ":no-members:" not in options:
            module = importlib.import_module(name)
            documented = {member for _, member in ModuleAnalyzer.for_module(name).find_attr_docs()}
            for member in module.__all__:
                value = getattr(module, member)
                if inspect.ismodule(value):
                    continue
                if member in documented or ((inspect.isclass(value) or inspect.isroutine(value)) and value.__doc__):
                    found.add(f"{name}.{member}")
    return found


ENTRIES = set().union(*(entries(page.read_text(encoding="utf-8")) for page in API))
REFERENCE = Reference(frozenset(ENTRIES))


def missing(module: str) -> list[str]:
    """Return the public names of a module that no page documents, under this or another of their names."""
    known = {(name.rpartition(".")[2], id(pkgutil.resolve_name(name))) for name in ENTRIES}
    public = importlib.import_module(module)
    found = [name for name in public.__all__ if (name, id(getattr(public, name))) not in known]
    return [name for name in found if not inspect.ismodule(getattr(public, name))]


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_documented(module):
    assert missing(module) == []


def test_no_name_is_documented_twice():
    directives = [name for page in API for _, _, name, _ in DIRECTIVE.findall(page.read_text(encoding="utf-8"))]
    assert len(directives) == len(set(directives))


def test_pages_of_the_reference_are_in_the_table_of_contents_and_the_overview():
    toc, overview = (ROOT / "_toc.yml").read_text(), API[0].read_text(encoding="utf-8")
    for page in API[1:]:
        assert f"file: book/api/{page.stem}\n" in toc
        assert f"(api/{page.stem}.md)" in overview


def test_constants_need_a_docstring_to_be_documented():
    assert "vlls.train.methods.METHODS" in entries(".. automodule:: vlls.train.methods")
    assert entries(".. automodule:: vlls.glm\n   :no-members:") == {"vlls.glm"}
    with pytest.raises(AttributeError):
        entries(".. autofunction:: vlls.glm.no_such_step")


# ------------------------------------------------------------------ the paper's numbers
LABELS = {label for page in pages() for label in re.findall(r"^:label:[ \t]*(\S+)", markdown(page), re.MULTILINE)}
EQUATIONS = {label for page in pages() for label in re.findall(r"\$\$[ \t]*\((eq-[\w-]+)\)", markdown(page))}


def exists(place: Target) -> bool:
    """Say whether the book has the target of a row of paper.csv."""
    if place.role != "page":
        return place.name in (LABELS if place.role == "prf:ref" else EQUATIONS)
    file, _, slug = place.name.partition("#")
    if BOOK / file not in pages():
        return False
    headings = re.findall(r"^#{1,3} (.*)", markdown(BOOK / file), re.MULTILINE)
    return not slug or slug in {default_slugify(heading) for heading in headings}


def docstrings():
    """Return (place, docstring) of everything in the package that has one, private things included."""
    for path in sorted((ROOT / "vlls").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'name', 'module')}", text


@pytest.mark.parametrize("name", targets())
def test_numbers_of_the_paper_lead_somewhere(name):
    assert exists(targets()[name])


def test_what_docstrings_mention_is_in_the_table():
    assert [(place, m.name) for place, text in docstrings() for m in mentions(text) if m.name not in targets()] == []


def test_every_equation_and_theorem_of_the_paper_is_in_the_table():
    assert {f"Eq. {n}" for n in range(1, 27)} | {"Theorem 1", "Theorem 2", "Alg. 1", "Table 1"} <= set(targets())
    assert {f"Fig. {n}" for n in range(1, 11)} <= set(targets())


@pytest.mark.parametrize(
    "place",
    [
        Target("prf:ref", "thm-no-such"),
        Target("eq", "eq-no-such"),
        Target("page", "99_no_such.ipynb"),
        Target("page", "02_logistic_regression.ipynb#no-such-heading"),
    ],
)
def test_the_checker_finds_targets_that_are_not_there(place):
    assert not exists(place)


def test_cells_of_the_table_are_links():
    assert target("{eq}`eq-von`") == Target("eq", "eq-von")
    assert target("[Figure 4](08_smoothed_labels.ipynb#figure-4)") == Target(
        "page", "08_smoothed_labels.ipynb#figure-4"
    )
    with pytest.raises(ValueError, match="is no link"):
        target("eq-von")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("(Theorem 2 at ``lr=1``, Chapter 4)", ["Theorem 2", "Chapter 4"]),
        ("Eqs. 10, 13, 16 and 26", ["Eq. 10", "Eq. 13", "Eq. 16", "Eq. 26"]),
        ("(Eqs.\n    3-5; Chapter 1)", ["Eq. 3", "Eq. 5", "Chapter 1"]),
        ("Algorithm 1 and lines 3 to 8 of Alg. 1", ["Alg. 1", "Alg. 1"]),
        ("Section 4.3.1, App. C.2 and App. B", ["Section 4.3.1", "App. C.2", "App. B"]),
        ("Chapters 2 to 4", ["Chapter 2", "Chapter 4"]),
        ("Figures 5, 8 and 9", ["Fig. 5", "Fig. 8", "Fig. 9"]),
        ("Eq. 1's labels, Eq. 20.", ["Eq. 1", "Eq. 20"]),
        ("ResNet-18, seed 0, 40 % and chapter 4", []),
    ],
)
def test_mentions(text, names):
    assert [mention.name for mention in mentions(text)] == names


def test_a_mention_covers_its_words():
    text = "see Eqs. 21-22"
    assert mentions(text) == [Mention(4, 11, "Eq. 21"), Mention(12, 14, "Eq. 22")]
    assert [text[m.start : m.end] for m in mentions(text)] == ["Eqs. 21", "22"]


# docstrings of code that states a result of the paper name the result and the chapter that proves it
STATES = {
    "vlls.glm.GLM.label_noise": ["Eq. 10", "Eq. 16", "Eq. 26", "Theorem 1", "Chapter 2"],
    "vlls.glm.GLM.expected_gradient": ["Eq. 11", "Chapter 2"],
    "vlls.glm.GLM.expected_hessian": ["Eq. 18", "Chapter 4"],
    "vlls.glm.gd_step": ["Eq. 9", "Chapter 2"],
    "vlls.glm.variational_gd_step": ["Theorem 1", "Chapter 2"],
    "vlls.glm.newton_step": ["Eq. 17", "Theorem 2", "Chapter 4"],
    "vlls.glm.von_step": ["Eq. 18", "Theorem 2", "Chapter 4"],
    "vlls.families.Family.label_noise": ["Eq. 13", "Eq. 16", "Eq. 26", "Chapter 3"],
    "vlls.families.Bernoulli": ["Eq. 8", "Chapter 2"],
    "vlls.smoothing.smooth_labels": ["Eq. 1", "Chapter 1"],
    "vlls.smoothing.LabelSmoothingLoss": ["Eq. 1", "Chapter 1"],
    "vlls.smoothing.MeanPredictionSmoothing": ["Eq. 3", "Eq. 5", "Chapter 1"],
    "vlls.smoothing.OnlineLabelSmoothing": ["Chapter 1"],
    "vlls.smoothing.EntropySmoothing": ["Chapter 1"],
    "vlls.smoothing.ACLS": ["Chapter 1"],
    "vlls.optim.IVON": ["Alg. 1", "Chapter 5", "Chapter 6"],
    "vlls.optim.alg1.hess_estimate": ["Alg. 1", "Chapter 5"],
    "vlls.optim.alg1.ivon_update": ["Alg. 1", "Chapter 5"],
    "vlls.optim.SAM": ["Chapter 6"],
    "vlls.noise.taylor_label_noise": ["Eq. 14", "Chapter 2"],
    "vlls.noise.second_order_label_noise": ["Chapter 2"],
    "vlls.noise.label_noise_moments": ["Eq. 20", "Chapter 6"],
    "vlls.noise.LabelNoise": ["Eq. 16", "Chapter 6"],
    "vlls.noise.sam_label_noise": ["Eq. 20", "Chapter 6"],
    "vlls.data.corruption.transition_matrix": ["Eq. 21", "Eq. 22", "Chapter 11"],
    "vlls.data.corruption.corrupt": ["Eq. 21", "Eq. 22", "Chapter 9", "Chapter 11"],
}


@pytest.mark.parametrize("name", STATES)
def test_what_states_a_theorem_names_it_and_its_chapter(name):
    assert set(STATES[name]) <= {mention.name for mention in mentions(inspect.getdoc(pkgutil.resolve_name(name)))}


# ------------------------------------------------------------------ names in code
MADE_UP = Reference(
    frozenset(
        {
            "vlls",
            "vlls.glm",
            "vlls.glm.GLM",
            "vlls.glm.GLM.label_noise",
            "vlls.glm.fit",
            "vlls.glm.Trajectory.final",
            "vlls.glm.Trajectory",
            "vlls.families.Bernoulli",
            "vlls.families.Family",
            "vlls.families.Family.nll",
            "vlls.posterior.GaussianPosterior",
            "vlls.posterior.GaussianPosterior.marginal",
            "vlls.train.run",
        }
    )
)


def read(*cells: str) -> list[tuple[str, str]]:
    """Return (text, target) of the links of the last of some cells."""
    reader = Reader(MADE_UP)
    for cell in cells:
        links = reader.read(cell)
    lines = cells[-1].split("\n")
    return [(lines[link.line - 1][link.start : link.end], link.target) for link in links]


IMPORT = "from vlls import GLM, Bernoulli, GaussianPosterior, fit, variational_gd_step"


@pytest.mark.parametrize(
    ("cells", "links"),
    [
        ([IMPORT], ["vlls", "GLM", "Bernoulli", "GaussianPosterior", "fit"]),
        ([IMPORT, "GLM(Bernoulli(), x, y)"], ["GLM", "Bernoulli"]),
        ([IMPORT, "glm = GLM(x)", "glm.label_noise(q) + glm.loss(t)"], ["label_noise"]),
        ([IMPORT, "glm = GLM(x)", "σ = glm.label_noise(q)"], ["label_noise"]),
        ([IMPORT, "b = Bernoulli()", "b.nll(f, y)"], ["nll"]),
        (["import vlls", "vlls.GLM(vlls.Bernoulli(), x)"], ["vlls", "GLM", "vlls", "Bernoulli"]),
        (["import vlls.glm as g", "g.fit(x)"], ["g", "fit"]),
        (["from vlls.train import run", "run(config)"], ["run"]),
        ([IMPORT, "q = variational_gd_step(g, p)", "q.marginal(x)"], ["marginal"]),
        ([IMPORT, "t = fit(g, p)\nt.final.marginal(x)"], ["fit", "final"]),
        ([IMPORT, "fit = 1", "fit + 1"], []),
        ([IMPORT, "for fit in y: pass", "fit"], []),
        ([IMPORT, "[fit for fit in y]"], []),
        ([IMPORT, "def f(fit):\n    return fit(GLM)"], ["GLM"]),
        ([IMPORT, "%matplotlib inline\nfit(x)"], ["fit"]),
        ([IMPORT, "not Python", "fit(x)"], ["fit"]),
        ([IMPORT, "import fit", "fit(x)"], []),
        (["from torch import fit", "fit(x)"], []),
        (["from vlls.no_such_module import fit", "fit(x)"], []),
        (["from vlls.glm import no_such_step", "no_such_step(x)"], []),
        (["def f():\n    from vlls.glm import fit\n    return fit"], ["vlls.glm", "fit", "fit"]),
    ],
)
def test_links_of_cells(cells, links):
    assert [text for text, _ in read(*cells)] == links


def test_links_lead_to_the_documented_name():
    assert read(IMPORT, "Bernoulli().nll(f, y)") == [
        ("Bernoulli", "vlls.families.Bernoulli"),
        ("nll", "vlls.families.Family.nll"),
    ]


def test_links_are_written_around_their_names():
    html = '<div><pre><span class="n">σ</span> <span class="o">&lt;</span> <span class="n">fit</span>\n</pre></div>'
    found = linked(html, [Link(1, 4, 7, "vlls.glm.fit")], {"vlls.glm.fit": "api.html#vlls.glm.fit"})
    start = '<a class="code-link" href="api.html#vlls.glm.fit" title="vlls.glm.fit">'
    assert found == html.replace("fit", f"{start}fit</a>")
    assert re.sub(r"</?a[^>]*>", "", found) == html


@pytest.mark.parametrize("chapter", chapters(), ids=lambda path: path.stem)
def test_what_a_chapter_imports_is_documented(chapter):
    reader, imported, linked_names = Reader(REFERENCE), set(), set()
    for cell in nbformat.read(chapter, as_version=4).cells:
        if cell.cell_type == "code":
            linked_names |= {link.target.rpartition(".")[2] for link in reader.read(cell.source)}
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in PACKAGES:
                    imported |= {alias.name for alias in node.names}
    assert imported
    assert imported <= linked_names


@pytest.fixture
def site(tmp_path):
    """Return a function that builds a made-up book with both extensions and returns (pages, warnings)."""
    (tmp_path / "book").mkdir()
    (tmp_path / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(BOOK / '_ext')!r})\n"
        "extensions = ['sphinx.ext.autodoc', 'code_links', 'paper_links']\n"
        "root_doc = 'book/index'\n"
    )
    (tmp_path / "book" / "index.rst").write_text("Book\n====\n\n.. toctree::\n\n   02_logistic_regression\n   api\n")
    (tmp_path / "book" / "api.rst").write_text(
        "API\n===\n\nSee Chapter 2 and Eq. 99.\n\n.. automodule:: vlls.smoothing\n   :members: ACLS\n"
    )

    def build(code):
        page = tmp_path / "book" / "02_logistic_regression.rst"
        page.write_text(f"Logistic\n========\n\nA section\n---------\n\n.. code-block:: python\n\n   {code}\n")
        warnings = io.StringIO()
        with docutils_namespace():
            source, out = str(tmp_path), str(tmp_path / "out")
            app = Sphinx(source, source, out, f"{out}/trees", "html", status=None, warning=warnings)
            app.config.nitpicky = True
            app.build()
        pages = {path.stem: path.read_text() for path in (tmp_path / "out" / "book").glob("*.html")}
        return pages, warnings.getvalue()

    return build


def test_code_and_api_lead_to_each_other_also_after_a_change(site):
    pages, warnings = site("import vlls; vlls.ACLS()")
    assert '<a class="code-link" href="api.html#vlls.smoothing.ACLS"' in pages["02_logistic_regression"]
    assert 'Used in Chapter <a class="reference internal" href="02_logistic_regression.html#a-section"' in pages["api"]
    assert re.search(
        r'See <a class="reference internal" href="02_logistic_regression.html">\s*<span>Chapter 2', pages["api"]
    )
    assert "Eq. 99" in warnings
    pages, _ = site("import vlls; vlls.IVON(p)")
    assert "smoothing.ACLS" not in pages["02_logistic_regression"]
    assert "Used in" not in pages["api"]


# ------------------------------------------------------------------ tests that the book names
TESTS = guards(ROOT / "tests", ROOT)
NAMED = re.compile(r"`((?:tests/[\w/]+\.py)?::[\w:]+|(?:tests|benchmarks)/[\w/]+\.py)`")


def dead_names(text: str, tests: dict[str, set[str]]) -> list[str]:
    """Return the tests, and the files of tests and benchmarks, that a text names and that do not exist."""
    found, file = [], ""
    for name in NAMED.findall(text):
        path, _, test = name.partition("::")
        file = path or file  # `::test_b` is in the same file as the one before
        if f"{file}::{test}" not in tests if test else not (ROOT / file).is_file():
            found.append(name)
    return found


@pytest.mark.parametrize("page", [*pages(), ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_tests_that_a_page_names_exist(page):
    assert dead_names(markdown(page), TESTS) == []


def test_the_checker_finds_tests_that_are_not_there():
    here = "tests/book/test_api.py"
    good = f"`{here}::test_mentions`, `::test_links_of_cells` and `{here}`"
    assert dead_names(good, TESTS) == []
    for old, new in [("::test_links", "::test_no_links"), ("::test_mentions", "::test_no"), ("_api.py`", "_no.py`")]:
        assert len(dead_names(good.replace(old, new), TESTS)) == 1


def test_theorems_of_the_table_are_guarded():
    claimed = {claim.label for page in pages() for claim in claims(markdown(page))}
    wanted = {place.name for place in targets().values() if place.role == "prf:ref"} & claimed
    assert {"thm-variational-gd", "thm-von-newton", "thm-glm-label-noise"} <= wanted <= set().union(*TESTS.values())
