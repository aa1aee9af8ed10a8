"""Decisions on labels that may be wrong, as the page of ``vlls clean`` saves them, and the labels that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from vlls._errors import DataError
from vlls._names import check_known
from vlls.data._labelled import LabelledImages, csv_lines

KEEP, CORRECT, UNSURE = "keep", "correct", "unsure"
COLUMNS = ("given", "decision", "label", "data")  # beside the column with the image's key


@dataclass(frozen=True)
class Decision:
    """A decision on the label of an image.

    Attributes:
        kind: ``keep``, ``correct`` or ``unsure``.
        label: name of the class that is chosen; the given one unless it is corrected.
    """

    kind: str
    label: str


def read_decisions(path: Path, data: LabelledImages) -> dict[str, Decision]:
    """Return the decisions in a file by the key of their image.

    Args:
        path: of the CSV file.
        data: the labels that they must be on.

    Raises:
        DataError: if it is not such a file, or its decisions are on other data, on unknown images or for unknown
            classes, or contradict each other.
    """
    lines = _lines(path, data.kind)
    if foreign := sorted({line["data"] for _, line in lines} - {data.fingerprint}):
        raise DataError(
            f"{path} holds decisions on other data ({foreign[0] or 'without a fingerprint'}, not {data.fingerprint}): "
            f"they are of another folder, or files or labels of {data.name} have changed since its page was made; pass "
            "the folder that they are on, or make the page again"
        )
    known, found = dict(zip(data.keys, range(len(data)), strict=True)), dict[str, Decision]()
    for number, line in lines:
        key, kind = line[data.kind], line["decision"]
        if key not in known:
            raise DataError(f"{path}, line {number}: {key!r} is no image of {data.name}; remove the line")
        try:
            check_known(kind, (KEEP, CORRECT, UNSURE), "decision")
            if kind == CORRECT:
                check_known(line["label"], data.classes, "label")
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        decision = Decision(kind, line["label"] if kind == CORRECT else data.label(known[key]))
        if found.setdefault(key, decision) != decision:
            raise DataError(f"{path}, line {number}: {key} is decided twice, differently; keep one of the lines")
    return found


def _lines(path: Path, kind: str) -> list[tuple[int, dict[str, str]]]:
    """Return the lines as dicts, each with its number."""
    (_, head), *lines = csv_lines(path, "save the decisions again") or [(1, [])]
    if lacking := [name for name in (kind, *COLUMNS) if name not in head]:
        raise DataError(
            f"{path} is no file of decisions, for it lacks the column(s) {', '.join(lacking)}; pass the one that the "
            "page of vlls clean saves"
        )
    if not lines:
        raise DataError(f"{path} holds no decisions; decide on some labels in the page, and save them")
    return [(number, dict(zip_longest(head, line[: len(head)], fillvalue=""))) for number, line in lines]


def corrected_list(data: LabelledImages, decisions: Mapping[str, Decision], drop_unsure: bool = False) -> bytes:
    """Return the list of all images as CSV, with corrected labels where a decision changed them.

    Labels without a decision stay as they are; with ``drop_unsure`` unsure images are left out.
    """
    labels = [decisions[key].label if key in decisions else data.label(row) for row, key in enumerate(data.keys)]
    unsure = frozenset(key for key, decision in decisions.items() if decision.kind == UNSURE)
    return data.table(labels, unsure if drop_unsure else frozenset())


def count_decisions(decisions: Mapping[str, Decision]) -> dict[str, int]:
    """Return the number of decisions of each kind."""
    found = Counter(decision.kind for decision in decisions.values())
    return {kind: found[kind] for kind in (CORRECT, KEEP, UNSURE)}
