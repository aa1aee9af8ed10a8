"""Every Python block of the README runs with torch and numpy alone, and prints what the README says."""

import re
import sys

import pytest
from chapters import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
EXAMPLES = [
    (code, following[1] if following[0] == "text" else None)
    for (language, code), following in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True)
    if language == "python"
]


def test_the_readme_shows_an_example_with_its_output():
    assert any(output for _, output in EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "output"), EXAMPLES)
def test_example(run_bare, code, output):
    done = run_bare(code)
    assert done.returncode == 0, done.stderr
    if output is not None:
        assert done.stdout.strip() == output.strip()


def test_every_make_target_of_the_readme_exists():
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"book", "test"} <= named <= targets


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_commands_of_the_readme_have_what_they_need():
    """Every extra that is named exists, and the page of commands installs what `vlls figure` draws with."""
    before, _, _ = README.partition("vlls figure")
    named, installed = (
        {extra for names in re.findall(r"pip install '\.\[([a-z,]+)\]", text) for extra in names.split(",")}
        for text in (README, before)
    )
    assert {"train", "plots"} <= installed <= named <= set(PROJECT["optional-dependencies"])
    assert "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu" in before
