"""The installed package: its imports, its wheel, its docstrings, and the files that describe it."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import vlls

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = [vlls.__name__, *(module.name for module in pkgutil.walk_packages(vlls.__path__, "vlls."))]
if importlib.util.find_spec("triton") is None:  # the kernel needs it; torch's builds without GPU support lack it
    MODULES.remove("vlls.optim.ivon._triton")
PUBLIC = [name for name in MODULES if "._" not in name]
EXTRAS = ("vlls.plots", "vlls.models", "vlls.train", "vlls.experiments", "vlls.cli")
EXTRAS += ("vlls.label_errors._sklearn",)  # these need an extra
CORE = [name for name in MODULES if not name.startswith(EXTRAS)]
LAZY = {"vlls.optim.ivon._triton": {"triton"}}  # imported inside a function, on demand


# ------------------------------------------------------------------ imports
@pytest.mark.parametrize("module", CORE)
def test_core_modules_import_nothing_but_torch_and_numpy(module):
    source = inspect.getsource(importlib.import_module(module))
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.partition(".")[0])
    assert found <= {"torch", "numpy", "vlls"} | LAZY.get(module, set()) | set(sys.stdlib_module_names)


@pytest.mark.slow
def test_core_modules_import_without_anything_else_installed(run_bare):
    done = run_bare("".join(f"import {module}\n" for module in CORE) + "print('imported')")
    assert (done.stdout, done.returncode) == ("imported\n", 0), done.stderr


@pytest.mark.slow
def test_parts_of_the_package_are_imported_when_they_are_named(run_bare):
    code = (
        "import sys, vlls; print('vlls.data' in sys.modules, 'mnist' in vlls.data.DATASETS, hasattr(vlls, 'nonsense'))"
    )
    assert run_bare(code).stdout == "False True False\n"
    for call in ("vlls.train.run(vlls.train.RunConfig())", "vlls.models.resnet18()"):
        done = run_bare(f"import vlls; {call}")
        assert done.returncode == 1 and done.stderr.strip().endswith("pip install 'vlls[train]'"), done.stderr


def test_the_blocker_blocks(run_bare):
    done = run_bare("import matplotlib")
    assert done.returncode == 1
    assert "No module named 'matplotlib'" in done.stderr
    assert run_bare("import importlib.util as u; print(u.find_spec('matplotlib'))").stdout == "None\n"


# ------------------------------------------------------------------ sdist and wheel
@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel that is built from the source distribution, as an index would serve it."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "vlls", source / "vlls", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"from setuptools import build_meta as b; print(b.build_sdist({str(folder)!r}))"
    run_python("-c", code, cwd=source)
    (sdist,) = folder.glob("vlls-*.tar.gz")
    run_python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(sdist), cwd=folder)
    (wheel,) = folder.glob("vlls-*.whl")
    return wheel


def run_python(*arguments, cwd):
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow  # builds the wheel
def test_wheel_holds_the_package_its_types_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    expected = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("vlls/**/*.py")}
    data = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("vlls/**/*") if path.suffix in (".c", ".html")}
    assert {name for name in names if ".dist-info/" not in name} == expected | data | {"vlls/py.typed"}
    assert any(name.endswith("LICENSE") for name in names)


@pytest.mark.slow  # builds the wheel
def test_wheel_holds_nothing_that_only_the_book_uses(wheel):
    archive, private, imported = zipfile.ZipFile(wheel), set(), set()
    for path in (name for name in archive.namelist() if name.endswith(".py")):
        module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        private |= {module} if "._" in module.replace(".__main__", "") else set()
        for node in ast.walk(ast.parse(archive.read(path))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Constant) and str(node.value).startswith("vlls."):  # a table's "module:function"
                imported.add(node.value.partition(":")[0])
    assert private <= imported, "a private module that no other module of the package imports"


@pytest.mark.slow  # builds the wheel
def test_wheel_imports_where_only_torch_and_numpy_are(wheel, run_bare, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    done = run_bare(f"sys.path.insert(0, {str(tmp_path)!r})\nimport vlls; print(vlls.__file__)")
    assert done.stdout.strip() == str(tmp_path / "vlls" / "__init__.py"), done.stderr


@pytest.fixture(scope="module")
def checked_by_mypy(wheel, tmp_path_factory):
    """Return a function that checks a module beside the installed package; torch is read once for all of them."""
    folder = tmp_path_factory.mktemp("mypy")
    zipfile.ZipFile(wheel).extractall(folder / "installed")

    def check(source: str) -> str:
        (folder / "theirs.py").write_text(source)
        command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--follow-imports=silent", "theirs.py"]
        environment = {**os.environ, "MYPYPATH": str(folder / "installed")}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout

    return check


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_type_hints_reach_those_who_import_the_package(checked_by_mypy):
    told = checked_by_mypy(
        "import torch\n"
        "import vlls\n"
        "optimizer = vlls.IVON(torch.nn.Linear(2, 2).parameters(), lr=0.1, ess=10)\n"
        "reveal_type(optimizer)\n"
        "vlls.IVON(torch.nn.Linear(2, 2).parameters(), lr='fast', ess=10)\n"
        "from vlls.data.corruption import corrupt\n"
        "reveal_type(corrupt([0, 1], 'symmetric', rate=0.4, num_classes=2, seed=0))\n"
        "reveal_type(corrupt(torch.tensor([0, 1]), 'symmetric', rate=0.4, num_classes=2, seed=0))\n"
    )
    assert re.search(r'theirs.py:4: note: Revealed type is "vlls\.optim\.ivon\._optimizer\.IVON"', told), told
    assert re.search(r"theirs.py:5: error: Argument .lr. .* incompatible type .str.", told), told
    assert re.search(r'theirs.py:7: note: Revealed type is "numpy\.ndarray', told), told
    assert re.search(r'theirs.py:8: note: Revealed type is "torch\._tensor\.Tensor"', told), told
    assert "Found 1 error in 1 file" in told


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_the_protocols_are_checked_by_mypy(checked_by_mypy):
    told = checked_by_mypy(
        """\
import torch
import vlls
from vlls.optim import VariationalOptimizer
from vlls.posterior import DiagonalPosterior, GaussianPosterior, Posterior

class Theirs:
    def __init__(self, mean: dict[str, torch.Tensor]) -> None:
        self.mean = mean
    def sample(self, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        return self.mean

class Complete(Theirs):
    def scale(self, name: str, gradients: torch.Tensor) -> torch.Tensor:
        return gradients.flatten(2)

model, x = torch.nn.Linear(2, 3), torch.randn(4, 2)
mean = dict(model.named_parameters())
optimizer = vlls.IVON(model.parameters(), 0.1, 10)
learns: VariationalOptimizer = optimizer
one: Posterior = Complete({})
two: Posterior = DiagonalPosterior({}, {})
for q in (one, two, optimizer, GaussianPosterior(torch.zeros(9), 1.0)):
    vlls.label_noise(model, q, x)
vlls.label_noise(model, one, x, method="rank", rank=2)
vlls.label_noise(model, Theirs({}), x)  # no scale
vlls.label_noise(model, one, x, rank="two")
vlls.predict(model, torch.optim.SGD(model.parameters(), 0.1), x)
wrong: VariationalOptimizer = torch.optim.SGD(model.parameters(), 0.1)
"""
    )
    assert [int(line.split(":")[1]) for line in told.splitlines() if ": error: " in line] == [25, 26, 27, 28], told


# ------------------------------------------------------------------ docstrings
@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_exist_and_are_documented(module):
    module = importlib.import_module(module)
    assert module.__doc__, "the module has no docstring"
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        assert inspect.getdoc(thing), f"{name} has no docstring"
        for member, function in vars(thing).items() if inspect.isclass(thing) else ():
            if not member.startswith("_") and isinstance(function, property) | inspect.isfunction(function):
                assert inspect.getdoc(getattr(thing, member)), f"{name}.{member} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples_run(module):
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(importlib.import_module(module), optionflags=options).failed == 0


# ------------------------------------------------------------------ the files that describe the package
def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert vlls.__version__ == PROJECT["version"] == citation["version"]
    assert vlls.__version__ in (ROOT / "CHANGELOG.md").read_text()


def requirements(lines):
    """Return {name: specifiers} of requirement lines; the package's own extras are followed."""
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            for extra in requirement.extras:
                found |= requirements(PROJECT["optional-dependencies"][extra])
        else:
            found[requirement.name.lower()] = str(requirement.specifier)
    return found


def test_conda_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    found = requirements(line for line in [*conda, *pip] if line != "-e .")
    assert "-e ." in pip
    assert found.pop("python") == PROJECT["requires-python"]
    assert found.pop("pip") == found.pop("make") == ""
    found["torch"] = found.pop("pytorch")  # conda's name for it
    assert found == requirements([*PROJECT["dependencies"], "vlls[dev,lab]"])


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_says_which_python_it_needs(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.20" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "test", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(r"needs Python 3\.10 or newer.*Python 3\.8\.20", done.stdout)
    assert not (tmp_path / ".venv").exists()
