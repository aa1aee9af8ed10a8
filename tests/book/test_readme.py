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
    """The words are those shown; per cents depend on the kernel that draws the noise, by a few points."""
    done = run_bare(code)
    assert done.returncode == 0, done.stderr
    if output is not None:
        number = re.compile(r"(\d+)%")
        assert number.sub("%", done.stdout.strip()) == number.sub("%", output.strip())
        pairs = zip(number.findall(done.stdout), number.findall(output), strict=True)
        assert all(abs(int(found) - int(shown)) <= 4 for found, shown in pairs)


@pytest.mark.slow
def test_both_sides_of_the_diff_from_adam_train(run_bare):
    (diff,) = (code for language, code in BLOCKS if language == "diff")
    code = next(code for code, _ in EXAMPLES if "find_label_errors" in code)
    setting, _, _ = code.partition("optimizer =")
    right = {}
    for sign in "-+":
        loop = "\n".join(line[1:] for line in diff.splitlines() if line[0] in (" ", sign))
        shares = "print(*((model(x).argmax(1) == labels).float().mean().item() for labels in (y, given)))"
        done = run_bare(f"{setting}{loop}\n{shares}")
        assert done.returncode == 0, done.stderr
        right[sign] = [100 * float(share) for share in done.stdout.split()]
    told = r"AdamW in its place learns all of the given labels by heart, so it agrees with only (\d+) % of the true"
    learned = re.search(told, " ".join(README.split()))
    assert right["-"][1] == 100 and abs(right["-"][0] - int(learned[1])) < 4
    assert right["+"][0] > 80


def test_the_accuracies_are_those_of_the_decision_page():
    from figures.which_method import SITUATIONS, accuracies_by_situation, ahead_of

    table = accuracies_by_situation()
    head, _, *lines = re.search(r"^\| test accuracy .*?\n\n", README, re.MULTILINE | re.DOTALL)[0].strip().splitlines()
    columns = [name.split(",")[0].strip() for name in head.strip("|").split("|")[1:]]
    assert columns == ["SGD", "AdamW", "LS", "SAM", "IVON", "ELR"] and len(lines) == 3
    for line in lines:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        short = name.partition(":")[0]
        situation = f"{short} (MNIST)" if f"{short} (MNIST)" in SITUATIONS else short
        assert cells == [table.loc[situation, column].replace("\u00a0", " ") for column in columns]
    gap = ahead_of("40 % wrong, any class (MNIST)", "IVON", "SGD")
    measured = (ROOT / "book" / "measured.md").read_text(encoding="utf-8")
    of_mnist = table.loc["40 % wrong, any class (MNIST)", ["IVON", "SGD", "LS", "AdamW"]]
    assert f"| {' | '.join(of_mnist)} |\n".replace("\u00a0", " ") in measured
    assert f"IVON is ahead by {gap.points:.1f} points" in measured


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
