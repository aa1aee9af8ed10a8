"""The start of the command line and of the package: without torch, and with a package missing."""

import json
import subprocess
import sys

import pytest

import vlls
from vlls import _errors
from vlls._errors import DataError

COMMANDS = ("train", "noise", "sweep", "results", "figure")


def run_python(code, cwd, *, bare=()):
    """Run code in a new process; return its output."""
    done = subprocess.run([sys.executable, "-c", code, *bare], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_does_not_wait_for_torch(tmp_path):
    code = f"""
import contextlib, io, sys
from vlls.cli import main
for arguments in ([], ["--help"], ["--version"], *([name, "--help"] for name in {COMMANDS}), ["train", "--nonsense"]):
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as left:
            assert left.code == 2 * ("--nonsense" in arguments), arguments
    assert shown.getvalue() or "--nonsense" in arguments
slow = ("torch", "pandas", "matplotlib", "PIL", "sklearn", "torchvision", "torchmetrics", "ray", "scipy")
print([name for name in slow if name in sys.modules])
"""
    assert run_python(code, tmp_path) == "[]\n"


@pytest.mark.parametrize("module", ["vlls", "vlls.cli"])
def test_the_package_is_a_command(module, tmp_path):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"vlls {vlls.__version__}\n")


# ------------------------------------------------------------------ names that are imported late
def test_late_names_are_those_of_the_modules():
    for package in (vlls, vlls.data, vlls.models, vlls.train, vlls.experiments):
        assert set(package.__all__) <= set(dir(package))
        for name in package.__all__:
            assert getattr(package, name) is getattr(package, name)
        with pytest.raises(AttributeError, match=rf"module '{package.__name__}' has no attribute 'no_such_name'"):
            package.no_such_name  # noqa: B018
    assert {"families", "glm", "noise", "optim", "posterior", "smoothing"} <= set(dir(vlls))
    assert vlls.predict is vlls.optim.predict and vlls.experiments.sweep.__name__ == "sweep"


@pytest.mark.slow
def test_the_package_explains_itself_where_no_extra_is_installed(run_bare):
    done = run_bare("import inspect, pydoc, vlls; inspect.getmembers(vlls); print('IVON' in pydoc.render_doc(vlls))")
    assert done.stdout == "True\n", done.stderr


# ------------------------------------------------------------------ packages that are not installed
@pytest.mark.slow
def test_what_is_not_installed_is_one_line_with_the_command_that_brings_it(tmp_path):
    code = """
import contextlib, importlib, io, json, sys

@contextlib.contextmanager
def without(name):
    before = {other: sys.modules.pop(other) for other in list(sys.modules) if other.partition(".")[0] == name}
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(before)

def command(name, *arguments):
    from vlls.cli import main
    with without(name), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main(arguments)
            code = None
        except SystemExit as left:
            code = left.code
    told.append([name, code, said.getvalue()])

def call(name, function):
    with without(name):
        try:
            function()
            told.append([name, None, ""])
        except (ImportError, ValueError) as error:
            told.append([name, 2, f"error: {error}\\n"])

told = []
for name in ("typer", "rich", "torchmetrics"):
    command(name, "train")
call("rich", lambda: importlib.import_module("vlls.train._reporters"))
for name in ("matplotlib", "seaborn"):
    command(name, "figure", "fig7")
    call(name, lambda: importlib.import_module("vlls.plots"))
command("PIL", "noise", "run")
command("ray", "sweep", "fig7", "--protocol", "smoke", "--executor", "ray")
command("sklearn", "sweep", "fig7", "--protocol", "smoke")
import os; os.mkdir("results")
command("pandas", "results")
quick = ("--epochs", "1", "--train-size", "50", "--quiet")
command("sklearn", "train", "--dataset", "digits", *quick)
command("torchvision", "train", "--dataset", "digits", "--model", "resnet18", *quick)
command("tensorboard", "train", "--dataset", "digits", "--tensorboard", "board", *quick)
import pandas, vlls, vlls.experiments._results
call("torchvision", vlls.models.resnet18)
call("pyarrow", lambda: vlls.experiments._results.save_table(pandas.DataFrame(), "x.parquet"))
open("there.parquet", "w").close()
call("pyarrow", lambda: vlls.experiments.load_table("there.parquet"))
print(json.dumps(told))
"""
    told = json.loads(run_python(code, tmp_path))
    plots = {"matplotlib", "seaborn"}
    libraries = {"PIL": "Pillow", "sklearn": "scikit-learn", "tensorboard": "TensorBoard"}
    assert len(told) == 18
    for name, code, said in told:
        assert code == 2, (name, said)
        (line,) = said.splitlines()
        assert line.startswith("error: ") and libraries.get(name, name) in line
        extra = "plots" if name in plots else "ray" if name == "ray" else None
        assert f"pip install 'vlls[{extra}]'" in line if extra else "pip install " in line


def test_a_library_that_does_not_match_torch_is_one_line(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(_errors, "import_module", broken)
    with pytest.raises(DataError, match=r"needs torchvision, which .* cannot be imported \(operator .* torch$"):
        vlls.models.resnet18()
