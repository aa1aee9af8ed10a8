"""Set the public address of the repository, everywhere that one is needed: ``make address URL=https://github.com/ORG/REPO``.

``repository.url`` in ``_config.yml`` is the setting. While it is empty, the site has no links to a repository. With it come
the buttons of Binder and Colab on every chapter, the links of the package, its README and its citation, and in every chapter a
cell that installs the requirements when it is opened on Colab. ``make address URL=`` removes all of it again.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

from clean_notebooks import METADATA

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
LINK = re.compile(
    r"\]\((?:https://[^)\s]+?/(?:blob|raw)/main/)?(?!https?:|#)([\w./#-]+)\)"
)  # of the README, to a file
TAG = "colab"
BUTTONS = (
    '{ binderhub_url: "https://mybinder.org", colab_url: "https://colab.research.google.com", '
    "notebook_interface: jupyterlab }"
)
CELL = """# Only on Colab: fetch the book, and install what its chapters import.
import sys

if "google.colab" in sys.modules:
    !git clone --quiet --depth 1 {url} /content/book-repository
    %pip install --quiet "/content/book-repository[chapters]"
    %cd -q /content/book-repository/book
    sys.path.insert(0, "/content/book-repository/book")
"""


def set_chapter(path: Path, url: str) -> None:
    """Add the cell for Colab to a chapter, or remove it if the address is empty."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if TAG not in cell.metadata.get("tags", [])]
    if url:
        source = CELL.format(url=url).rstrip("\n")
        cells.insert(1, new_code_cell(source, id=TAG, metadata={"tags": [TAG, "remove-cell"]}))
    notebook.cells, notebook.metadata = cells, nbformat.from_dict(METADATA)
    nbformat.write(notebook, path)


def set_line(path: Path, pattern: str, line: str) -> None:
    """Replace the one line of a file that a pattern matches.

    Raises:
        ValueError: if it matches none or several.
    """
    text, found = re.subn(
        pattern, lambda _: line, path.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    if found != 1:
        raise ValueError(f"{path.name} has {found} lines like {pattern!r} and needs one")
    path.write_text(text, encoding="utf-8")


def set_readme(path: Path, url: str) -> None:
    """Make the README's links start at the address, as a package index needs; without one they are relative."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found[1].endswith(".png") else "blob"
        return f"]({url}/{kind}/main/{found[1]})" if url else f"]({found[1]})"

    path.write_text(LINK.sub(link, path.read_text(encoding="utf-8")), encoding="utf-8")


def set_address(url: str, root: Path = ROOT) -> None:
    """Set the address in the book, its chapters, the package and the citation.

    Args:
        url: such as ``https://github.com/ORG/REPO``, or nothing for none.
        root: the project's folder.

    Raises:
        ValueError: if Colab and Binder could not open the address.
    """
    url = url.strip().rstrip("/").removesuffix(".git")
    if url and not ADDRESS.fullmatch(url):
        raise ValueError(
            f"'{url}' is no address of a repository on GitHub, which is where Colab opens notebooks from; "
            "pass one such as https://github.com/ORG/REPO, or nothing to have none"
        )
    set_line(root / "_config.yml", r'^  url: ".*"$', f'  url: "{url}"')
    set_line(
        root / "_config.yml", r"^launch_buttons: .*$", f"launch_buttons: {BUTTONS if url else '{}'}"
    )
    set_line(
        root / "pyproject.toml",
        r"^(# )?urls = .*$",
        f'urls = {{ Repository = "{url}" }}' if url else "# urls = {}",
    )
    set_line(
        root / "CITATION.cff",
        r"^(# )?repository-code:.*$",
        f"repository-code: {url}" if url else "# repository-code:",
    )
    set_readme(root / "README.md", url)
    for chapter in sorted((root / "book").glob("*.ipynb")):
        set_chapter(chapter, url)


def main() -> int:
    """Read the address from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0] + ".")
    parser.add_argument(
        "url", nargs="?", default="", help="https://github.com/ORG/REPO; nothing takes it away"
    )
    try:
        set_address(url := parser.parse_args().url)
    except ValueError as error:
        print(f"address: {error}", file=sys.stderr)
        return 2
    print(f"The repository is at {url}." if url else "The repository has no public address.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
