"""The page on training runs: its Python runs, and its commands are ones that the command line takes."""

import re
import shlex

import pytest
from chapters import ROOT
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.train import METHODS
from vlls.train.config import CORRUPTIONS

PAGE = (ROOT / "book" / "training.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"^(?:torchrun \S+ -m vlls\.cli|vlls) (train.*)$", (PAGE + README).replace("\\\n", ""), re.MULTILINE
)


def test_the_python_of_the_page_runs(capsys):
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names = {}
    exec(block, names)
    assert capsys.readouterr().out.startswith("finished [")
    assert sorted(names["posterior"].mean) == sorted(name for name, _ in names["model"].named_parameters())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_are_understood(command, tmp_path):
    result = CliRunner().invoke(app, [*shlex.split(command, comments=True), "--dry-run", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []


def test_every_method_and_corruption_is_on_the_page():
    words = set(re.findall(r"`(\w+)`", PAGE))
    assert set(METHODS) <= words and set(CORRUPTIONS) - {"none"} <= words
