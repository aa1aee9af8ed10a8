"""Reports of ``vlls clean``: the table of all labels, the page of suspects, a summary, sentences."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from vlls._warnings import warn_caller
from vlls.cli._clean_train import Predictions, Source
from vlls.cli._pages import data_uri, render
from vlls.data._labelled import MISSING, as_csv
from vlls.data._streams import decode_whole
from vlls.label_errors import label_errors_from_probabilities
from vlls.label_errors._judge import Judge
from vlls.train.methods import METHODS

CSV, HTML, CORRECTED = "labels.csv", "labels.html", "corrected.csv"
LARGEST = 512  # pixels of the longer side of images embedded in the page
LISTED = 5  # classes of a suspect that are listed with probabilities
LEAST_SHOWN, MOST_SHOWN = 100, 10_000  # suspects on the page, if there are as many
NAMED = 3  # suspects named in the printed summary
SHOWN_BY_BROWSERS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".avif")


@dataclass(frozen=True)
class Asked:
    """The options that say how labels are judged and which are shown."""

    score: str = "self_confidence"
    flag: str | int | float = "confident_joint"
    adjust: bool = False
    show: int | None = None
    embed: bool = False

    def check(self, labels: npt.NDArray[np.int64], draws: int) -> None:
        """Raise a ValueError before training if the labels or the number of draws do not suit these options."""
        Judge(self.score, self.flag, self.adjust, None).check_number(labels)
        if self.score == "error_times_variance" and draws < 2:
            raise ValueError(
                "--score error_times_variance needs draws of the weights; pass --samples 2 or more, and a method that "
                "learns a posterior: ivon or evon"
            )


@dataclass(frozen=True, eq=False)
class CleanReport:
    """Reports of judged labels; rows are those of the source's data."""

    source: Source
    found: Predictions
    asked: Asked
    command: str  # that applies the decisions
    seconds: float

    @cached_property
    def probabilities(self) -> npt.NDArray[Any]:
        """Probabilities (M, K), averaged over the draws."""
        return np.asarray(self.found.probabilities.mean(axis=0))

    @cached_property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of the table of labels, the most suspicious first; ``row`` is the row in the source's data."""
        asked, given = self.asked, self.source.data.labels[self.source.judged]
        options: Any = {"score": asked.score, "flag": asked.flag, "adjust": asked.adjust}
        table = label_errors_from_probabilities(self.found.probabilities, given, **options)
        columns = {str(name): np.asarray(table[name]) for name in table.columns}
        columns["row"] = self.source.judged[columns["index"]]
        return columns

    @cached_property
    def twins(self) -> dict[int, int]:
        """Judged rows whose image equals the image of another row with a different label, and that row."""
        images, data = self.source.images.images, self.source.data
        if not isinstance(images, np.ndarray):
            return {}
        seen: dict[bytes, list[int]] = {}
        for row in self.source.judged.tolist():
            if self.source.read[row] and data.labels[row] != MISSING:
                seen.setdefault(images[row].tobytes(), []).append(row)
        found = {}
        for rows in seen.values():
            for row in rows:
                other = next((i for i in rows if data.labels[i] != data.labels[row]), None)
                if other is not None:
                    found[row] = other
        return found

    @cached_property
    def places(self) -> list[int]:
        """Places in the columns of the suspects that the page shows, the most suspicious first.

        They are the flagged labels and all others that the network disagrees with: on its training images it is
        cautious.
        """
        columns, asked = self.columns, self.asked.show
        scored = int(np.isfinite(columns["score"]).sum())
        if asked is not None:
            return list(range(min(asked, scored)))
        shown = self.disagrees | columns["flag"].astype(bool) | np.isin(columns["row"], list(self.twins))
        shown[: min(LEAST_SHOWN, scored)] = True
        return np.flatnonzero(shown)[:MOST_SHOWN].tolist()

    @cached_property
    def disagrees(self) -> npt.NDArray[np.bool_]:
        """Whether another class than the given one is suggested, by place in the columns."""
        return np.asarray((self.columns["suggested"] != self.columns["given"]) & (self.columns["suggested"] != MISSING))

    @property
    def flagged(self) -> int:
        """Number of labels that are probably wrong."""
        return int(self.columns["flag"].sum())

    # ------------------------------------------------------------------ files
    def table(self) -> bytes:
        """All judged labels as CSV."""
        data, columns = self.source.data, self.columns
        split = bool((data.parts != data.parts[0]).any())

        def name(label: int) -> str:
            return "" if label == MISSING else data.classes[label]

        rows = []
        for place, row in enumerate(columns["row"].tolist()):
            numbers = [columns[column][place] for column in ("score", "p_given", "p_suggested", "spread")]
            twin = self.twins.get(row)
            rows.append(
                [
                    data.keys[row],
                    *[str(data.parts[row])] * split,
                    data.label(row),
                    name(int(columns["suggested"][place])),
                    *(f"{number:.6g}" if np.isfinite(number) else "" for number in numbers),
                    int(columns["flag"][place]),
                    "" if twin is None else data.keys[twin],
                ]
            )
        head = [data.kind, *["part"] * split, "given", "suggested", "score", "p_given", "p_suggested", "spread"]
        return as_csv([*head, "flag", "same_image"], rows)

    def page(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> bytes:
        """The page of suspects as HTML, to be written into this folder."""
        data, places, suspects = self.source.data, self.places, []
        for done, place in enumerate(places, start=1):
            suspects.append(self._suspect(place, folder))
            if progress is not None:
                progress(done, len(places))
        content = {
            "name": data.name,
            "kind": data.kind,
            "fingerprint": data.fingerprint,
            "classes": list(data.classes),
            "file": f"{data.name}-decisions.csv",
            "suspects": suspects,
        }
        lines = {"judged": len(self.source.judged), "flagged": self.flagged, "how": self._how()}
        lines["more"] = int((self.disagrees & ~self.columns["flag"].astype(bool)).sum())
        page = render("clean.html", "the page", name=data.name, command=self.command, content=content, **lines)
        return page.encode(errors="backslashreplace")

    def _suspect(self, place: int, folder: Path) -> dict[str, Any]:
        """Return a suspect in the form that the page's script reads."""
        data, columns, row = self.source.data, self.columns, int(self.columns["row"][place])
        p = self.probabilities[columns["index"][place]]
        given, suggested = int(columns["given"][place]), int(columns["suggested"][place])
        likely = [int(label) for label in np.argsort(-p, kind="stable")[:LISTED]] if np.isfinite(p).all() else []
        listed = list(dict.fromkeys([label for label in (suggested, *likely, given) if label != MISSING]))
        twin = self.twins.get(row)
        score = float(columns["score"][place])
        return {
            "key": data.keys[row],
            "given": given,
            "suggested": suggested,
            "score": round(score, 4) if np.isfinite(score) else None,
            "flag": bool(columns["flag"][place]),
            "p": [[label, round(float(p[label]), 4) if likely else None] for label in listed],
            "same": None if twin is None else [data.keys[twin], int(data.labels[twin])],
            **self._image(row, folder),
        }

    def _image(self, row: int, folder: Path) -> dict[str, Any]:
        """Return the address of a row's whole image, relative to the folder, or the image itself."""
        files, images = self.source.data.files, self.source.images.images
        if files is None:
            assert isinstance(images, np.ndarray)
            return {"src": data_uri(images[row], LARGEST, "the page")}
        if files[row].suffix.lower() in SHOWN_BY_BROWSERS and not self.asked.embed:
            return {"src": _address(files[row], folder)}
        try:
            return {"src": data_uri(decode_whole(files[row], LARGEST), LARGEST, "the page")}
        except Exception:  # as when it was read: Pillow's decoders raise errors of many kinds
            return {"src": ""}

    def _how(self) -> str:
        """Name the network that judged the labels."""
        runs = self.found.runs
        network, method = runs[0].config.model, METHODS[runs[0].config.method].label
        if len(runs) > 1:
            return f"the one of {len(runs)} networks ({network}, {method}) that was not trained on the image"
        return f"a network ({network}) that {method} trained on these labels"

    # ------------------------------------------------------------------ messages
    def warn(self) -> None:
        """Warn of limits to the judgement, with counts."""
        data, source = self.source.data, self.source
        unread = source.judged[np.isnan(self.probabilities).any(axis=1)]
        if len(unread):
            warn_caller(f"{len(unread)} image(s) could not be read, such as {data.keys[unread[0]]}; not judged")
        counts = np.bincount(data.labels[source.to_train_on], minlength=len(data.classes))
        if len(few := np.flatnonzero(counts == 1)):
            names = ", ".join(data.classes[label] for label in few[:3])
            warn_caller(f"{len(few)} class(es) have one image only ({names}); their labels can hardly be judged")
        if len(self.twins):
            row, other = next(iter(self.twins.items()))
            warn_caller(
                f"{len(self.twins)} images are the same as another one with another label, such as {data.keys[row]} "
                f"and {data.keys[other]}; at least one label of each is wrong, and all are among the suspects"
            )
        if self.found.chance:
            who = "the network" if len(self.found.runs) == 1 else f"{self.found.chance} of the networks"
            warn_caller(
                f"{who} learned nothing, no better than always naming the most frequent class: the order of the labels "
                "says nothing; train with more --epochs or another --lr, or add images"
            )

    def summary(self, folder: Path) -> dict[str, Any]:
        """Return the summary that ``--json`` prints."""
        data, columns = self.source.data, self.columns
        return {
            "source": str(self.source.base),
            "fingerprint": data.fingerprint,
            "images": len(data),
            "judged": len(self.source.judged),
            "classes": list(data.classes),
            "unlabelled": int((data.labels[self.source.judged] == MISSING).sum()),
            "unreadable": int(np.isnan(self.probabilities).any(axis=1).sum()),
            "flagged": self.flagged,
            "disagreeing": int(self.disagrees.sum()),
            "suspects": len(self.places),
            "same_image_other_label": len(self.twins),
            "method": self.found.runs[0].config.method,
            "networks": [str(loaded.folder) for loaded in self.found.runs],
            "test_accuracy": self.accuracy,
            "most_suspicious": [
                {
                    data.kind: data.keys[int(columns["row"][place])],
                    "given": data.label(int(columns["row"][place])),
                    "suggested": data.classes[int(columns["suggested"][place])],
                    "score": round(float(columns["score"][place]), 6),
                }
                for place in self.places[:NAMED]
                if np.isfinite(columns["score"][place])
            ],
            "seconds": round(self.seconds, 3),
            "csv": str(folder / CSV),
            "html": str(folder / HTML),
        }

    @property
    def accuracy(self) -> float | None:
        """Accuracy on a test part that the network was not trained on, if there is one."""
        return self.found.accuracy if len(self.source.to_test) or self.source.run is not None else None

    def sentences(self, folder: Path) -> list[str]:
        """Return the lines that are printed."""
        found = self.summary(folder)
        judged, flagged = found["judged"], found["flagged"]
        lines = [
            f"{judged:,} labels of {self.source.data.name} judged in {self.seconds:.0f} s: {flagged:,} "
            f"({100 * flagged / judged:.1f} %) are probably wrong; {found['disagreeing']:,} "
            f"({100 * found['disagreeing'] / judged:.1f} %) are not what the network suggests"
        ]
        if self.accuracy is not None:
            lines.append(f"the network names {100 * self.accuracy:.2f} % of the test images as they are labelled")
        lines += [
            f"  {entry[self.source.data.kind]}: labelled {entry['given']}, suggested {entry['suggested']}"
            for entry in found["most_suspicious"]
        ]
        lines += [f"labels: {found['csv']}", f"page: {found['html']} ({found['suspects']:,} suspects, for a browser)"]
        return [*lines, f"then, with the decisions that you save there: {self.command} DECISIONS"]


def _address(file: Path, folder: Path) -> str:
    """Return the address of a file, relative to a folder if they are on one drive."""
    try:
        return quote(Path(os.path.relpath(file.absolute(), folder.absolute())).as_posix())
    except ValueError:  # another drive
        return file.absolute().as_uri()
