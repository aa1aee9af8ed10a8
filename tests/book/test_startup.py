"""book/startup.py: it names the cell that defines a missing name."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

BOOK = Path(__file__).resolve().parents[2] / "book"
pytestmark = pytest.mark.slow  # each test starts a kernel

CHAPTER = "07_which_examples_get_noise.ipynb"


def run(source, notebook, startup=BOOK / "startup.py"):
    """Execute one cell in a kernel that was started as ``make lab`` starts it; return the error."""
    alone = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    alone.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    env = {**os.environ, "PYTHONSTARTUP": str(startup), "JPY_SESSION_NAME": str(notebook)}
    try:
        NotebookClient(alone, timeout=120).execute(env=env)
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    return ""


@pytest.mark.parametrize(
    ("source", "name", "cell"),
    [("print(K)", "K", "num_train"), ("sp.symbols('x')", "sp", "import"), ("train(1)", "train", "def train")],
)
def test_a_missing_name_is_traced_to_the_cell_that_makes_it(source, name, cell):
    chapter = BOOK / CHAPTER
    said = run(source, chapter)
    number = int(said.partition("made in cell ")[2].partition(" ")[0])
    made = "".join(nbformat.read(chapter, as_version=4).cells[number - 1].source)
    assert said.startswith(f"NameError: name '{name}' is not defined. It is made in cell ")
    assert f"('{made.splitlines()[0]}'), which has not been run here: choose Run, Run All Above" in said
    assert f"{name}" in made


@pytest.mark.parametrize(
    ("source", "notebook", "expected"),
    [
        ("print(nowhere)", CHAPTER, "NameError: name 'nowhere' is not defined"),
        ("print(K)", "no_such_chapter.ipynb", "NameError: name 'K' is not defined"),
        ("print(K)", "build.py", "NameError: name 'K' is not defined"),  # no notebook
        ("raise NameError", CHAPTER, "NameError: "),
        ("1 / 0", CHAPTER, "ZeroDivisionError: division by zero"),
        (
            "assert not {'symtable', '_explain_missing_names'} & set(dir())",
            CHAPTER,
            "",
        ),
    ],
)
def test_all_else_is_as_always(source, notebook, expected):
    assert run(source, BOOK / notebook) == expected
