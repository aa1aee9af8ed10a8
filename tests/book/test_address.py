"""book/address.py: one command sets the public address everywhere, and removes it again."""

import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml
from address import TAG, set_address
from chapters import BOOK, ROOT
from test_notebooks import problems

URL = "https://github.com/some-org/some-repo"
FILES = ("_config.yml", "pyproject.toml", "CITATION.cff", "README.md")


@pytest.fixture
def project(tmp_path):
    """Return a copy of the files that hold the address, without one."""
    (tmp_path / "book").mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    for path in BOOK.glob("*.ipynb"):
        shutil.copy(path, tmp_path / "book")
    set_address("", tmp_path)
    return tmp_path


def texts(project):
    return {path: path.read_text() for path in [*map(project.joinpath, FILES), *project.glob("book/*.ipynb")]}


@pytest.mark.parametrize("url", [URL, URL + "/", URL + ".git"])
def test_the_address_is_set_everywhere(project, url):
    set_address(url, project)
    settings = yaml.safe_load((project / "_config.yml").read_text())
    assert settings["repository"]["url"] == URL
    assert {"binderhub_url", "colab_url"} < set(settings["launch_buttons"])
    assert yaml.safe_load((project / "CITATION.cff").read_text())["repository-code"] == URL
    assert f'urls = {{ Repository = "{URL}" }}' in (project / "pyproject.toml").read_text()
    readme = (project / "README.md").read_text()
    assert f"]({URL}/raw/main/book/readme.png)" in readme and f"]({URL}/blob/main/book/ledger.ipynb)" in readme
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]+)\)", readme))
    for path in project.glob("book/[0-9]*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        assert [index for index, cell in enumerate(notebook.cells) if TAG in cell.metadata.get("tags", [])] == [1]
        assert f"{URL} /content" in notebook.cells[1].source
        nbformat.validate(notebook)
        assert problems(notebook) == []


def test_an_address_is_taken_away_without_a_trace_and_set_twice_is_set_once(project):
    before = texts(project)
    set_address(URL, project)
    once = texts(project)
    set_address(URL, project)
    assert texts(project) == once != before
    set_address("", project)
    assert texts(project) == before


def test_the_cell_does_nothing_elsewhere(project):
    set_address(URL, project)
    cell = nbformat.read(project / "book" / "02_logistic_regression.ipynb", as_version=4).cells[1].source
    code = (
        f"from IPython.core.interactiveshell import InteractiveShell as S\nr = S().run_cell({cell!r})\nr.raise_error()"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "url", ["github.com/a/b", "https://gitlab.com/a/b", "https://github.com/a", "https://github.com/a/b/c"]
)
def test_other_addresses_are_refused_and_nothing_is_written(project, url):
    before = texts(project)
    with pytest.raises(ValueError, match="no address of a repository on GitHub"):
        set_address(url, project)
    assert texts(project) == before
