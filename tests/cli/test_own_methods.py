"""``vlls --import`` and ``--option``: methods of the user from a terminal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import error_line as error
from made_up import FOCAL
from typer.testing import CliRunner

from vlls.cli._app import app
from vlls.train import methods

HERE = Path(__file__).parents[1]
MODULE = f"""
import sys
sys.path.append({str(HERE)!r})
from made_up import EXPERIMENT, FOCAL, SIGN
from vlls.experiments import register as register_experiment
from vlls.train import register
register(FOCAL)
register(SIGN)
register_experiment(EXPERIMENT)
"""
SMALL = ["--method", "focal", "--epochs", "1", "--train-size", "100", "--eval-samples", "0"]


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VLLS_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def focal():
    """The focal loss, registered for a test."""
    methods.register(FOCAL)
    yield
    methods._METHODS.pop("focal")


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments), prog_name="vlls", env={"COLUMNS": "160"})


@pytest.mark.slow
def test_an_imported_method_trains_and_sweeps():
    Path("my_methods.py").write_text(MODULE)

    def vlls(*arguments):
        command = [sys.executable, "-m", "vlls.cli", "--import", "my_methods", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    record = json.loads(vlls("train", *SMALL, "--option", "gamma=3", "--json"))
    assert record["config"]["options"] == {"gamma": 3.0} and record["status"] == "finished"
    runs = ["--protocol", "smoke", "--seeds", "1", "--no-tune", "--workers-per-device", "1"]
    vlls("sweep", "focal_digits", *runs)
    assert "focal" in vlls("results")  # test_contributing.py draws an imported experiment


def test_options_of_a_method_are_its_own(focal):
    shown = invoke("train", *SMALL, "--option", "gamma=3", "--dry-run")
    assert shown.exit_code == 0 and "gamma=3.0" in shown.stdout and "given" in shown.stdout
    assert json.loads(invoke("train", *SMALL, "--dry-run", "--json").stdout)["config"]["options"] == {"gamma": 2.0}
    assert "option='gama' is unknown (did you mean 'gamma'?)" in error(invoke("train", *SMALL, "--option", "gama=3"))
    assert "--option gamma is no name with a value; pass NAME=VALUE" in error(invoke("train", "--option", "gamma"))
    assert "gamma" in error(invoke("train", *SMALL, "--option", "gamma=strong"))
    assert "are not read by method='ls'" in error(invoke("train", "--method", "ls", "--option", "gamma=3"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("no_such_methods", None, "--import no_such_methods: there is no such module, neither installed nor in "),
        ("broken.py", "", "--import broken.py is no name of a module; pass my_methods for the file my_methods.py"),
        ("needs_more", "import no_such_package", "needs the module no_such_package, which is not there"),
        ("typo", "1 +", "--import typo failed: SyntaxError: "),
        (
            "again",
            "from vlls.train import *\nregister(METHODS['ls'])",
            "failed: ValueError: a method 'ls' is registered",
        ),
    ],
)
def test_modules_that_cannot_be_imported(name, content, said):
    if content is not None:
        Path(f"{name.removesuffix('.py')}.py").write_text(content)
    assert said in error(invoke("--import", name, "train", "--dry-run"))
