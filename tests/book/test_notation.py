"""The notation table agrees with the package: every name in it exists in the place that the table gives."""

import csv
import importlib
import inspect
import re

import pytest
from chapters import BOOK, pages

ROWS = list(csv.DictReader((BOOK / "notation.csv").read_text(encoding="utf-8").splitlines()))
WRITTEN = {int(page.name[:2]) for page in pages() if page.name[:2].isdigit()}  # the chapters of _toc.yml
PLACE = re.compile(r"(\{py:obj\})?`(?:[^`<]*<)?~?(vlls[\w.]*)>?`")


def codes(row) -> set[str]:
    """Return the names of a row."""
    return set(re.findall(r"`(\w+)`", row["Code"]))


def locate(target: str):
    """Return the module or object that a dotted name means."""
    parts = target.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError as error:
            if not target.startswith(str(error.name)):
                raise
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise AttributeError(target)


def names_of(thing) -> set[str]:
    """Return the parameters, attributes and methods that a module, a class or a function offers."""
    if inspect.ismodule(thing):
        public = [getattr(thing, name) for name in thing.__all__]
        return set().union(*(names_of(member) for member in public if callable(member)))
    found = set(inspect.signature(thing).parameters)
    if inspect.isclass(thing):
        found |= set(dir(thing)) | set(inspect.get_annotations(thing))
    return found


def problems(row) -> list[str]:
    """Return the errors of a row; places that do not exist yet are left out until their chapter is written."""
    found, missing, offered = [], False, set()
    for link, target in PLACE.findall(row["Where"]):
        try:
            names = names_of(locate(target))
        except AttributeError:
            missing = True
            if int(row["Chapter"]) in WRITTEN:
                found.append(f"{target} does not exist, and chapter {row['Chapter']} is written")
            continue
        offered |= names
        if not names & codes(row):
            found.append(f"{target} offers none of {sorted(codes(row))}")
        if not link and int(row["Chapter"]) in WRITTEN:
            found.append(f"{target} exists: link it, {{py:obj}}`~{target}`")
    if not missing:
        found += [f"no place offers {name}" for name in sorted(codes(row) - offered)]
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["Code"])
def test_names_are_where_the_table_says(row):
    assert codes(row)
    assert PLACE.search(row["Where"])
    assert problems(row) == []


@pytest.mark.parametrize(
    ("code", "where", "chapter", "message"),
    [
        ("`lr`", "{py:obj}`~vlls.glm.gd_step`", 2, None),
        ("`lr`", "{py:obj}`GLM.loss <vlls.glm.GLM.loss>`", 2, "offers none"),
        ("`lr`, `rate`", "{py:obj}`~vlls.glm.gd_step`", 2, "no place offers rate"),
        ("`lr`", "`vlls.glm.gd_step`", 2, "link it"),
        ("`lr`", "{py:obj}`~vlls.glm.no_such_step`", 2, "does not exist"),
        ("`lr`", "`vlls.no_such_module.Step`", 2, "does not exist"),
        ("`lr`", "`vlls.no_such_module.Step`", 99, None),
    ],
)
def test_the_checker_finds(code, where, chapter, message):
    found = problems({"Code": code, "Where": where, "Chapter": str(chapter)})
    assert found == [] if message is None else any(message in problem for problem in found), found
