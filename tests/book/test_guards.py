"""Every numbered claim of the book has a test that guards it, and names the test."""

import re
from collections import Counter

import pytest
from chapters import GUARDS_HEADING, ROOT, claims, guards, items, markdown, pages, section


def problems(book: dict[str, str], tests: dict[str, set[str]]) -> list[str]:
    """Return the disagreements between a book, {page: Markdown}, and its tests, {test id: labels it guards}."""
    found = []
    labels = Counter(claim.label for text in book.values() for claim in claims(text))
    found += [f"the label {label} is used {n} times" for label, n in labels.items() if label and n > 1]
    guarded = set().union(*tests.values())
    found += [f"a test guards {label}, which no page claims" for label in sorted(guarded - set(labels))]
    for page, text in book.items():
        listed = listed_tests(text)
        for claim in claims(text):
            name = f"{page}: {claim.kind} '{claim.title}'"
            if claim.label is None:
                found.append(f"{name} has no :label:")
            elif claim.label not in guarded:
                found.append(f"{name} has no test marked @pytest.mark.guards('{claim.label}')")
            elif not listed.get(claim.label):
                found.append(f"{name} is not in the section '{GUARDS_HEADING}'")
        for label, ids in listed.items():
            for test in sorted(ids):
                if test not in tests:
                    found.append(f"{page} names {test}, which does not exist")
                elif label and label not in tests[test]:
                    found.append(f"{page} names {test}, which is not marked @pytest.mark.guards('{label}')")
    return found


def listed_tests(text: str) -> dict[str, set[str]]:
    """Return {label: test ids} as the last section of a chapter lists them; '' holds tests that guard no claim."""
    found: dict[str, set[str]] = {}
    for item in items(section(text, GUARDS_HEADING) or ""):
        ids, file = set(), ""
        for test in re.findall(r"`((?:tests/[^`]+)?::[^`]+)`", item):
            file = test.partition("::")[0] or file  # `::test_b` is in the same file as the one before
            ids.add("::".join([file, test.partition("::")[2]]))
        for label in re.findall(r"\{prf:ref\}`([^`]+)`", item) or ["" for _ in ids]:
            found.setdefault(label, set()).update(ids)
    return found


def test_every_claim_of_the_book_is_guarded():
    book = {page.relative_to(ROOT).as_posix(): markdown(page) for page in pages() if page.exists()}
    assert problems(book, guards(ROOT / "tests", ROOT)) == []


# ------------------------------------------------------------------ the checker itself
CHAPTER = """# A chapter

:::{prf:theorem} Theorem 9 of the paper
:label: thm-nine

All is well.
:::

## The tests that guard this chapter

- {prf:ref}`thm-nine`: `tests/test_nine.py::test_nine`
"""
TEST = """import pytest

@pytest.mark.guards("thm-nine")
def test_nine():
    assert True
"""


def made_up(tmp_path, chapter, test):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_nine.py").write_text(test)
    return problems({"made_up.md": chapter}, guards(tmp_path / "tests", tmp_path))


def test_a_guarded_theorem_passes(tmp_path):
    assert made_up(tmp_path, CHAPTER, TEST) == []


def test_tests_can_be_listed_in_a_table_and_share_a_file(tmp_path):
    chapter = CHAPTER.replace("- {prf", "| claim | tests |\n|---|---|\n| {prf").replace("`:", "` |")
    chapter = chapter.replace("::test_nine`", "::test_nine`, `::test_more` |")
    test = TEST + TEST.partition("\n")[2].replace("test_nine", "test_more")
    assert listed_tests(chapter) == {"thm-nine": {"tests/test_nine.py::test_nine", "tests/test_nine.py::test_more"}}
    assert made_up(tmp_path, chapter, test) == []


def test_a_class_of_tests_can_guard(tmp_path):
    test = "import pytest\n@pytest.mark.guards('thm-nine')\nclass TestNine:\n    def test_it(self): pass\n"
    chapter = CHAPTER.replace("::test_nine", "::TestNine::test_it")
    assert made_up(tmp_path, chapter, test) == []


@pytest.mark.parametrize(
    ("chapter", "test", "message"),
    [
        (CHAPTER, TEST.replace("thm-nine", "thm-ten"), "has no test marked"),
        (CHAPTER, TEST.replace("@pytest.mark.guards", "# @"), "has no test marked"),
        (CHAPTER, TEST.replace("@pytest.mark.g", "@pytest.mark.skip\n@pytest.mark.g"), "has no test marked"),
        (CHAPTER, TEST.replace("def test_nine", "def nine"), "has no test marked"),
        (CHAPTER.replace(":label: thm-nine", ""), TEST, "has no :label:"),
        (CHAPTER.replace("prf:theorem", "prf:remark"), TEST, "which no page claims"),
        (CHAPTER.partition("##")[0], TEST, "is not in the section"),
        (CHAPTER.replace("::test_nine", "::test_ten"), TEST, "does not exist"),
        (CHAPTER, TEST + "def test_other(): pass\n", None),
        (CHAPTER.replace("::test_nine", "::test_other"), TEST + "def test_other(): pass\n", "is not marked"),
        (CHAPTER + CHAPTER, TEST, "is used 2 times"),
    ],
)
def test_the_checker_finds(tmp_path, chapter, test, message):
    found = made_up(tmp_path, chapter, test)
    assert found == [] if message is None else any(message in problem for problem in found), found
