"""The page on sweeps: its names exist, its Python runs, and `vlls` accepts its commands."""

import re
import shlex

import pytest
from chapters import ROOT
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.experiments import EXPERIMENTS, PROTOCOLS, _grids, load_table

PAGE = (ROOT / "book" / "sweeps.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for line in re.findall(r"^vlls ((?:sweep|results|figure|import|migrate).*)$", PAGE + README, re.MULTILINE)
]


def test_every_sweep_and_protocol_is_on_the_page():
    words = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert words == [*EXPERIMENTS, *PROTOCOLS]


def test_the_python_of_the_page_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(block, {})
    assert _grids._EXPERIMENTS.pop("my_digits").figure == "sensitivity"
    out = capsys.readouterr().out
    assert out.startswith("60 runs, the first: CIFAR-10, symmetric 20 %: ivon, seed 0") and "Empty DataFrame" in out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_commands_of_the_page_are_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if command[0] == "sweep":
        where = command[command.index("--results") + 1] if "--results" in command else "results"
        command = [str(tmp_path / "results") if part == where else part for part in command]
        result = CliRunner().invoke(app, [*command, "--dry-run"])
        assert result.exit_code == 0 and " runs, 0 done" in result.output, result.output
    else:  # there are no results here; the error says so and does not explain the command
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2
        assert re.match(
            r"error: (there is no (results folder|table) |there is no records|results holds no runs)", result.output
        )
    assert list(tmp_path.iterdir()) == []


def test_the_front_page_tells_how_large_the_runs_are():
    front = (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    tables = [load_table(path) for path in sorted((ROOT / "book" / "results").glob("fig*[0-9].csv"))]
    protocols = {protocol for table in tables for protocol in table["protocol"]}
    assert ("No run at the paper's full size has been made yet" in front) == ("paper" not in protocols)
