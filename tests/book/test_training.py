"""The page on training runs: its Python runs, and the command line accepts its commands."""

import re
import shlex

import numpy as np
import pytest
from chapters import ROOT
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.data._rates import CORRUPTIONS
from vlls.train import METHODS, RunConfig, run

PAGE = (ROOT / "book" / "training.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT = (PAGE + README).replace("\\\n", "")
COMMANDS = re.findall(r"^(?:torchrun \S+ -m vlls\.cli|vlls) (train.*)$", TEXT, re.MULTILINE)
NOISE = re.findall(r"^vlls noise (\S+)(.*)$", TEXT, re.MULTILINE)


@pytest.mark.slow
def test_the_python_of_the_page_runs(capsys):
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert capsys.readouterr().out.startswith("finished [")
    assert sorted(names["posterior"].mean) == sorted(name for name, _ in names["model"].named_parameters())


def measured(text):
    """Return the percentages of some rows of a printed table, with those of the averaged network or of SGD beside."""
    rows = re.findall(r"^ ?(test accuracy|wrong labels memorised|calibration error \(ECE\)) +(.*)$", text, re.MULTILINE)
    return {name: [float(number) for number in re.findall(r"([\d.]+) %", numbers)] for name, numbers in rows}


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["paper", "learned"])
def test_the_first_command_prints_about_what_the_page_says(posterior, tmp_path):
    learned = "train --dataset digits --corruption symmetric --rate 0.4 --posterior learned"
    assert learned in {" ".join(command.split()) for command in COMMANDS}
    command = shlex.split(learned) if posterior == "learned" else ["train"]
    result = CliRunner().invoke(app, [*command, "--threads", "1", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = measured(result.stdout)
    if posterior == "learned":
        accuracy, memorised = re.findall(r"about (\d+) %", PAGE.partition("A wider posterior")[2])[:2]
        expected = {"test accuracy": [float(accuracy)], "wrong labels memorised": [float(memorised)]}
    else:
        expected = measured(PAGE)
        assert [len(row) for row in expected.values()] == [3, 3, 2]
    for name, row in expected.items():
        np.testing.assert_allclose(found[name][: len(row)], row, atol=5 if "accuracy" in name else 12, err_msg=name)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_page_are_understood(command, tmp_path):
    result = CliRunner().invoke(app, [*shlex.split(command, comments=True), "--dry-run", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return folders of small runs by method."""
    place = tmp_path_factory.mktemp("runs")
    small = {"dataset": "digits", "epochs": 1, "train_size": 100, "eval_samples": 0}
    return {method: run(RunConfig(method=method, **small), place).folder for method in ("ivon", "sgd")}


@pytest.mark.slow
@pytest.mark.parametrize("folder, options", NOISE)
def test_the_noise_commands_of_the_page_work(folder, options, runs, tmp_path):
    (method,) = {"ivon", "sgd"} & set(folder.split("-"))
    arguments = [*shlex.split(options, comments=True), "--limit", "20", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, ["noise", str(runs[method]), *arguments])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise.csv", "noise.html"]


def test_every_method_and_corruption_is_on_the_page():
    words = set(re.findall(r"`(\w+)`", PAGE))
    assert set(METHODS) <= words and set(CORRUPTIONS) <= words
