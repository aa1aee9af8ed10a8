"""What ``vlls noise`` is asked, and the forms in which it tells a ranking: a table, a page, a summary, sentences."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlls._validation import check_known
from vlls.cli._report import describe
from vlls.noise import ExampleRanking
from vlls.noise.network import METHODS
from vlls.posterior import DiagonalPosterior
from vlls.train.gallery import GalleryExample, gallery
from vlls.train.prepare import derive_seed
from vlls.train.restore import LoadedRun, RunImages

__all__ = ["CSV", "HTML", "PART_NAMES", "Asked", "NoiseReport"]

CSV, HTML = "noise.csv", "noise.html"
DISPUTES = 3  # labels that are named in print
PART_NAMES = {"train": "training", "test": "test", "validation": "validation"}


@dataclass(frozen=True)
class Asked:
    """How the noise is to be computed."""

    method: str
    rank: int | None
    samples: int | None
    std: float | None
    memory: float | None

    def __post_init__(self) -> None:
        check_known(self.method, METHODS, "method")
        readers = {"rank": ("rank",), "samples": ("direction", "monte_carlo")}
        for name, methods in readers.items():
            if getattr(self, name) is not None and self.method not in methods:
                raise ValueError(
                    f"--{name} is read by --method {' and '.join(methods)} only, not by {self.method}; leave it out, "
                    "or change the method"
                )
        for name in ("std", "memory"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{name} {value:g} is not allowed; choose a finite number > 0")
        if self.samples is not None and self.samples < 2:
            raise ValueError(f"--samples {self.samples} is not allowed; choose at least 2")

    def options(self, run: LoadedRun) -> dict[str, Any]:
        """What :func:`.rank_examples` takes."""
        options: dict[str, Any] = {"method": self.method, "memory_limit": self.memory}
        if self.method == "rank":
            options["rank"] = self.rank or 3
        if self.method in ("direction", "monte_carlo"):  # the others draw the same few pairs in every call
            options["num_samples"] = self.samples or 64
            device = next(run.model.parameters()).device
            options["generator"] = torch.Generator(device).manual_seed(derive_seed(run.config.seed, "noise"))
        return options

    def in_words(self) -> str:
        """How the noise is computed."""
        rank, samples = self.rank or 3, self.samples or 64
        ways = f"{rank} leading directions" if rank > 1 else "leading direction"
        how = {
            "rank": f"linearised network: covariance of its logits along the {ways} of the noise; their mean by a "
            "few draws of the weights",
            "exact": "linearised network: the whole covariance of its logits; their mean by a few draws of the weights",
            "direction": f"Eq. 20: {samples} Gaussian directions of the linearised network",
            "monte_carlo": f"{samples} draws of the weights from the posterior, no linearisation",
        }
        return f"--method {self.method}: {how[self.method]}"


@dataclass(frozen=True)
class NoiseReport:
    """A ranking in the three forms in which it is told."""

    run: LoadedRun
    part: str
    asked: Asked
    posterior: DiagonalPosterior
    images: RunImages
    ranking: ExampleRanking
    seconds: float

    @property
    def clean(self) -> np.ndarray | None:
        """The correct labels in the order of the ranking."""
        return None if self.images.clean is None else self.images.clean.numpy()[self.ranking.index]

    @property
    def wrong(self) -> np.ndarray | None:
        """Whether each label is wrong, in the order of the ranking."""
        return None if self.clean is None else self.clean != self.ranking.label

    def table(self) -> bytes:
        """All examples as CSV."""
        names, ranking = self.images.classes, self.ranking
        columns: dict[str, list[Any]] = {"rank": list(range(1, len(ranking) + 1))}
        columns |= {name: values.tolist() for name, values in ranking.columns().items()}
        named = {"label_name": ranking.label, "predicted_name": ranking.predicted}
        if self.clean is not None:
            columns["clean_label"] = self.clean.tolist()
            named["clean_name"] = self.clean
        columns |= {name: [names[i] for i in labels] for name, labels in named.items()}
        if self.images.path(0) is not None:
            columns["file"] = [str(self.images.path(i)) for i in ranking.index.tolist()]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return text.getvalue().encode(errors="backslashreplace")  # file names may hold bytes that are no text

    def page(self, show: int) -> bytes:
        """The gallery as HTML."""
        highest, lowest = self._ends(show)
        title = f"Label noise of the {PART_NAMES[self.part]} images: {describe(self.run.config)}"
        page = gallery(
            title,
            self._facts(),
            self.ranking.noise,
            [self._example(row) for row in highest],
            [self._example(row) for row in lowest],
            self.wrong if self.wrong is not None and self.wrong.any() else None,
            [self._example(row) for row in self._disputed(show)],
        )
        return page.encode(errors="backslashreplace")

    def _ends(self, show: int) -> tuple[range, range]:
        """Rows of the most noisy examples and, from the end, of the least noisy among the others."""
        number = len(self.ranking)
        high = min(show, number)
        return range(high), range(number - 1, max(number - 1 - show, high - 1), -1)

    def _disputed(self, number: int) -> list[int]:
        """Rows of the examples whose label the network disagrees with most, the most first."""
        return np.argsort(-self.ranking.disagreement, kind="stable")[:number].tolist()

    def _example(self, row: int) -> GalleryExample:
        ranking, names = self.ranking, self.images.classes
        index = int(ranking.index[row])
        path = self.images.path(index)
        return GalleryExample(
            pixels=self.images.pixels(index),
            index=index,
            given=names[ranking.label[row]],
            predicted=names[ranking.predicted[row]],
            noise=float(ranking.noise[row]),
            disagreement=float(ranking.disagreement[row]),
            clean=None if self.clean is None else names[self.clean[row]],
            file=None if path is None else str(path),
        )

    def _facts(self) -> list[tuple[str, str]]:
        run, number = self.run, f"{len(self.ranking):,} {PART_NAMES[self.part]} images"
        if self.images.unreadable:
            number += f"; {len(self.images.unreadable):,} more could not be read"
        if self.wrong is not None:
            number += f"; {int(self.wrong.sum()):,} labels are known to be wrong"
        std = torch.cat([values.flatten() for values in self.posterior.std.values()]).float()
        weights = f"{self.posterior.num_parameters:,} weights"
        if self.asked.std is not None:
            posterior = f"standard deviation {self.asked.std:g} for each of {weights}, chosen with --std"
        else:
            least, middle, most = float(std.min()), float(std.median()), float(std.max())
            posterior = (
                f"as learned; standard deviations of {weights} from {least:.3g} to {most:.3g}, median {middle:.3g}"
            )
        state = run.status if run.status == "finished" else f"{run.status}, weights after step {run.step:,}"
        facts = [
            ("run", f"{run.folder.name} ({state})"),
            ("method", run.config.method),
            ("posterior", posterior),
            ("examples", number),
            ("computed by", self.asked.in_words()),
            ("noise", "how far predictions stray over the posterior from that at its mean: root mean square of the "
             "distance between the two probability vectors; from 0 to √2"),
            ("disagrees", "probability that the network, averaged over the posterior, gives to other classes than the "
             "given label"),
        ]  # fmt: skip
        return facts

    def summary(self, show: int, place: Path) -> dict[str, Any]:
        """What ``--json`` prints."""
        asked, values, wrong = self.asked, self.ranking.noise, self.wrong
        highest = self._ends(show)[0]
        disputed = self._disputed(len(highest))
        return {
            "run": str(self.run.folder),
            "status": self.run.status,
            "part": self.part,
            "method": asked.method,
            "rank": (asked.rank or 3) if asked.method == "rank" else None,
            "samples": (asked.samples or 64) if asked.method in ("direction", "monte_carlo") else None,
            "std": asked.std,
            "examples": len(self.ranking),
            "unreadable": len(self.images.unreadable),
            "noise": {"max": float(values.max()), "median": float(np.median(values)), "min": float(values.min())},
            "wrong_labels": None if wrong is None else int(wrong.sum()),
            "shown": len(highest),
            "wrong_labels_in_shown": None if wrong is None else int(wrong[: len(highest)].sum()),
            "wrong_labels_in_most_disagreeing": None if wrong is None else int(wrong[disputed].sum()),
            "most_disputed": [self._dispute(row) for row in disputed],
            "seconds": round(self.seconds, 3),
            "csv": str(place / CSV),
            "html": str(place / HTML),
        }

    def _dispute(self, row: int) -> dict[str, Any]:
        """Which label the network disagrees with, and what it predicts instead."""
        ranking, names = self.ranking, self.images.classes
        path = self.images.path(index := int(ranking.index[row]))
        return {
            "index": index,
            "file": None if path is None else str(path),
            "label": names[ranking.label[row]],
            "predicted": names[ranking.predicted[row]],
            "disagreement": round(float(ranking.disagreement[row]), 6),
        }

    def sentences(self, show: int, place: Path) -> list[str]:
        """What is printed."""
        found = self.summary(show, place)
        values, number = found["noise"], found["examples"]
        first = (
            f"{number:,} {PART_NAMES[self.part]} images in {self.seconds:.1f} s: label noise from {values['max']:.3g}"
        )
        lines = [f"{first} to {values['min']:.3g}, median {values['median']:.3g}"]
        if found["unreadable"]:
            left = found["unreadable"]
            lines.append(f"{left:,} image{'s' if left > 1 else ''} could not be read: left out of the ranking")
        if found["wrong_labels"] and found["shown"]:
            lines.append(
                f"wrong labels: {100 * found['wrong_labels'] / number:.1f} % of all, {found['wrong_labels_in_shown']} "
                f"of the {found['shown']} with the most noise, {found['wrong_labels_in_most_disagreeing']} of the "
                f"{found['shown']} that the posterior disagrees with most"
            )
        for number, dispute in enumerate(found["most_disputed"][:DISPUTES]):
            name = dispute["file"] or f"example {dispute['index']}"
            doubt = f"labelled {dispute['label']}, predicted {dispute['predicted']}"
            share = f"it disagrees by {100 * dispute['disagreement']:.1f} %"
            lines.append(("most disputed labels: " if number == 0 else "  ") + f"{name}: {doubt}, {share}")
        return [*lines, f"table: {found['csv']}", f"gallery: {found['html']}"]
