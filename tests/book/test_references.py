"""The bibliography: keys are unique and well-formed, every citation has an entry, and every entry is cited."""

import re
from collections import Counter

from chapters import BOOK, ROOT, markdown

ENTRIES = re.findall(r"^@\w+\{([^,\s]+),", (BOOK / "references.bib").read_text(encoding="utf-8"), re.MULTILINE)


def cited() -> dict[str, set[str]]:
    """Return {key: pages that cite it}, over the pages and the docstrings that the book shows."""
    found: dict[str, set[str]] = {}
    for page in [*BOOK.glob("*.md"), *BOOK.glob("api/*.md"), *BOOK.glob("*.ipynb")]:
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", markdown(page)):
            for key in keys.split(","):
                found.setdefault(key.strip(), set()).add(page.relative_to(ROOT).as_posix())
    return found


def test_no_key_is_used_twice_and_each_names_author_and_year():
    assert [key for key, count in Counter(ENTRIES).items() if count > 1] == []
    assert [key for key in ENTRIES if not re.fullmatch(r"[a-z]+(19|20)\d\d[a-z]+", key)] == []


def test_what_a_page_cites_is_in_the_bibliography():
    assert {key: pages for key, pages in cited().items() if key not in ENTRIES} == {}


def test_every_entry_is_cited():
    assert sorted(set(ENTRIES) - set(cited())) == []
