"""The options of ``vlls noise`` and its reports of a ranking: a table, a page, a summary, sentences."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlls._names import check_known
from vlls.cli._gallery import LARGEST, GalleryExample, gallery
from vlls.cli._report import describe
from vlls.train._chance import label_counts, tell_chance

if TYPE_CHECKING:
    from vlls.noise import ExampleRanking
    from vlls.posterior import Posterior
    from vlls.train import LoadedRun, RunImages

CSV, HTML = "noise.csv", "noise.html"
ALL = "all"  # parts of a run's data in one table
DISPUTES = 3  # labels named in the printed summary
PART_NAMES = {"train": "training", "test": "test", "validation": "validation"}


def name_parts(parts: Iterable[str]) -> str:
    """Return parts of a run's data in words, as "training, test and validation"."""
    *names, last = (PART_NAMES[part] for part in parts)
    return f"{', '.join(names)} and {last}" if names else last


@dataclass(frozen=True)
class Asked:
    """The options that say how to compute the noise."""

    method: str
    rank: int | None
    samples: int | None
    std: float | None
    memory: float | None

    def __post_init__(self) -> None:
        from vlls.noise._options import METHODS  # late: it needs torch

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
        """Return the keywords of :func:`.rank_examples`."""
        import torch

        from vlls.train._prepare import derive_seed

        options: dict[str, Any] = {"method": self.method, "memory_limit": self.memory}
        if self.method == "rank":
            options["rank"] = self.rank or 3
        if self.method in ("direction", "monte_carlo"):  # the others draw the same few pairs in every call
            options["num_samples"] = self.samples or 64
            device = next(run.model.parameters()).device
            options["generator"] = torch.Generator(device).manual_seed(derive_seed(run.config.seed, "noise"))
        return options

    def in_words(self) -> str:
        """Say how the noise is computed."""
        rank, samples = self.rank or 3, self.samples or 64
        directions = f"{rank} leading directions" if rank > 1 else "leading direction"
        how = {
            "rank": f"linearised network: covariance of its logits along the {directions} of the noise; their mean by "
            "a few draws of the weights",
            "exact": "linearised network: the whole covariance of its logits; their mean by a few draws of the weights",
            "direction": f"Eq. 20: {samples} Gaussian directions of the linearised network",
            "monte_carlo": f"{samples} draws of the weights from the posterior, no linearisation",
        }
        return f"--method {self.method}: {how[self.method]}"


def rank_parts(
    run: LoadedRun,
    posterior: Posterior,
    parts: Mapping[str, RunImages],
    asked: Asked,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ExampleRanking, np.ndarray]:
    """Rank the images of parts of a run's data by label noise, those that can be read.

    Return the ranking of all, whose ``index`` counts within a part, and the part of each example, (N,) of str;
    ``progress`` is called with the numbers of images done and in all.
    """
    from vlls.noise import ExampleRanking, rank_examples  # late: they need torch

    total, done, found = sum(map(len, parts.values())), 0, []
    for part, images in parts.items():
        # A generator for each part: its draws, and so its noise, are the same as without the other parts.
        options, before = asked.options(run), done
        told = None if progress is None else lambda now, _, before=before: progress(before + now, total)
        try:
            ranking = rank_examples(run.model, posterior, images, images.given, progress=told, **options)
        except ValueError as error:
            raise ValueError(name_options(str(error))) from error
        kept = ~np.isin(ranking.index, sorted(images.unreadable))
        found.append({name: values[kept] for name, values in ranking.columns().items()} | {"part": [part] * kept.sum()})
        done += len(images)
    columns = {name: np.concatenate([ranking[name] for ranking in found]) for name in found[0]}
    if not len(columns["index"]):
        raise ValueError(f"none of the {total} images can be read; check that they are where they were")
    order = np.argsort(-columns["noise"], kind="stable")
    part_of = columns.pop("part")[order]
    return ExampleRanking(**{name: values[order] for name, values in columns.items()}), part_of


def name_options(message: str) -> str:
    """Replace the parameters of :func:`.rank_examples` in a message by the options of the command.

    Example:
        >>> name_options("raise memory_limit, or use method='rank'")
        'raise --memory, or use --method rank'
    """
    named = re.sub(r"\bmethod='(\w+)'", r"--method \1", message.replace("curvature_pairs=64 or ", ""))
    return named.replace("memory_limit", "--memory").replace("num_samples", "--samples")


@dataclass(frozen=True)
class NoiseReport:
    """Reports of a ranking."""

    run: LoadedRun
    name: str  # of the requested part, or "all"
    asked: Asked
    posterior: Posterior
    images: Mapping[str, RunImages]  # by the name of their part
    ranking: ExampleRanking  # of all parts
    part: np.ndarray  # of each example of the ranking, (N,) of str
    seconds: float  # duration of the ranking

    @cached_property
    def clean(self) -> np.ndarray | None:
        """The correct labels in the order of the ranking; None if they are unknown."""
        if self.run.data.train.clean is None:  # no labels of these files were checked, not even those for testing
            return None
        clean = self.ranking.label.copy()
        for part, images in self.images.items():
            assert images.clean is not None
            rows = self.part == part
            clean[rows] = images.clean.numpy()[self.ranking.index[rows]]
        return clean

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return sum(len(images.unreadable) for images in self.images.values())

    def _file(self, row: int) -> str | None:
        """Return the path of the image of a row, or None if it has no file."""
        path = self.images[self.part[row]].path(int(self.ranking.index[row]))
        return None if path is None else str(path)

    @cached_property
    def chance(self) -> str:
        """A warning if the network ended at chance; empty if not."""
        run = self.run
        told = tell_chance(run.config, label_counts(run.data), run.epochs)
        return f"the ranking says nothing about the images or their labels: {told}" if told else ""

    @property
    def learned(self) -> float | None:
        """Share of the median weight's Hessian that comes from the data, not from its start; None if not learned."""
        if self.run.config.beta2 is None or self.asked.std is not None:  # only methods that learn it have beta2
            return None
        return None if self.run.learned_share is None else self.run.learned_share.median

    @property
    def wrong(self) -> np.ndarray | None:
        """Whether each label is wrong, in the order of the ranking."""
        return None if self.clean is None else self.clean != self.ranking.label

    def table(self) -> bytes:
        """All examples as CSV."""
        names, ranking = self.run.data.classes, self.ranking
        columns: dict[str, list[Any]] = {"rank": list(range(1, len(ranking) + 1))}
        columns |= {name: values.tolist() for name, values in ranking.columns().items()}
        named = {"label_name": ranking.label, "predicted_name": ranking.predicted}
        if self.clean is not None:
            columns["clean_label"] = self.clean.tolist()
            named["clean_name"] = self.clean
        columns |= {name: [names[i] for i in labels] for name, labels in named.items()}
        if self._file(0) is not None:
            columns["file"] = [self._file(row) for row in range(len(ranking))]
        if self.name == ALL:
            columns["part"] = self.part.tolist()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return text.getvalue().encode(errors="backslashreplace")  # file names may hold bytes that are no text

    def page(self, show: int) -> bytes:
        """The gallery as HTML."""
        title = f"Label noise of the {name_parts(self.images)} images: {describe(self.run.config)}"
        rows = (*self._ends(show), self._disputed(show))
        highest, lowest, disputed = ([self._example(row) for row in part] for part in rows)
        wrong = self.wrong if self.wrong is not None and self.wrong.any() else None
        page = gallery(title, self._facts(), self.ranking.noise, highest, lowest, disputed, wrong, self.chance)
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
        ranking, names = self.ranking, self.run.data.classes
        index, part = int(ranking.index[row]), str(self.part[row])
        return GalleryExample(
            pixels=self.images[part].whole(index, LARGEST),
            index=index,
            given=names[ranking.label[row]],
            predicted=names[ranking.predicted[row]],
            noise=float(ranking.noise[row]),
            disagreement=float(ranking.disagreement[row]),
            clean=None if self.clean is None else names[self.clean[row]],
            file=self._file(row),
            part=PART_NAMES[part] if self.name == ALL else None,
        )

    def _facts(self) -> list[tuple[str, str]]:
        run, number = self.run, f"{len(self.ranking):,} {name_parts(self.images)} images"
        if self.unreadable:
            number += f"; {self.unreadable:,} more could not be read"
        if self.wrong is not None:
            number += f"; {int(self.wrong.sum()):,} labels are known to be wrong"
        state = run.status if run.status == "finished" else f"{run.status}, weights after step {run.step:,}"
        facts = [
            ("run", f"{run.folder.name} ({state})"),
            ("method", run.config.method),
            ("posterior", self._posterior_in_words()),
            ("examples", number),
            ("computed by", self.asked.in_words()),
            ("noise", "how far predictions stray over the posterior from that at its mean: root mean square of the "
             "distance between the two probability vectors; from 0 to √2"),
            ("disagrees", "probability that the network, averaged over the posterior, gives to other classes than the "
             "given label"),
        ]  # fmt: skip
        if self._file(0) is not None:
            from vlls.train._prepare import FILE_IMAGE_SIZE  # late: it needs torch

            facts.append(
                ("images", f"shown whole; the network sees the middle of each, a square scaled to "
                 f"{run.config.image_size or FILE_IMAGE_SIZE} pixels (--image-size)")
            )  # fmt: skip
        return facts

    def _posterior_in_words(self) -> str:
        """The standard deviations of the weights, and whether they have been learned."""
        import torch

        weights = f"{sum(mean.numel() for mean in self.posterior.mean.values()):,} weights"
        if self.asked.std is not None:
            return f"standard deviation {self.asked.std:g} for each of {weights}, chosen with --std"
        stds = getattr(self.posterior, "std", None)
        if stds is None:  # they are not independent
            return f"as learned; a joint posterior of {weights}"
        std = torch.cat([values.flatten() for values in stds.values()]).float()
        least, middle, most = float(std.min()), float(std.median()), float(std.max())
        alike = most < 1.01 * least
        said = f"standard deviation {middle:.3g}, the same for all of {weights}"
        if not alike:
            said = f"standard deviations of {weights} from {least:.3g} to {most:.3g}, median {middle:.3g}"
        if self.learned is None:
            return f"{said}: set with --hess-init, not learned"
        share = f"{100 * max(0.0, self.learned):.2g} % of the Hessian is learned (median), the rest is its start's"
        if not alike:
            more = "" if self.learned > 0.5 else "; more with --posterior learned"
            return f"as learned; {said}; {share} (--hess-init){more}"
        config, start = self.run.config, 0.0
        if config.hess_init is not None and config.weight_decay is not None:
            start = (config.ess_for(len(self.run.data.train)) * (config.hess_init + config.weight_decay)) ** -0.5
        moved = ", as at the start" if abs(middle - start) < 0.01 * start else ""
        return f"{said}{moved}: not learned yet; {share} (--hess-init), and more with more steps or a smaller --beta2"

    def summary(self, show: int, folder: Path) -> dict[str, Any]:
        """Return the summary that ``--json`` prints."""
        asked, values, wrong = self.asked, self.ranking.noise, self.wrong
        highest = self._ends(show)[0]
        disputed = self._disputed(len(highest))
        return {
            "run": str(self.run.folder),
            "status": self.run.status,
            "part": self.name,
            "method": asked.method,
            "rank": (asked.rank or 3) if asked.method == "rank" else None,
            "samples": (asked.samples or 64) if asked.method in ("direction", "monte_carlo") else None,
            "std": asked.std,
            "at_chance": bool(self.chance),
            "learned_share": self.learned,
            "examples": len(self.ranking),
            "unreadable": self.unreadable,
            "noise": {"max": float(values.max()), "median": float(np.median(values)), "min": float(values.min())},
            "wrong_labels": None if wrong is None else int(wrong.sum()),
            "shown": len(highest),
            "wrong_labels_in_shown": None if wrong is None else int(wrong[: len(highest)].sum()),
            "wrong_labels_in_most_disagreeing": None if wrong is None else int(wrong[disputed].sum()),
            "most_disputed": [self._dispute(row) for row in disputed],
            "seconds": round(self.seconds, 3),
            "csv": str(folder / CSV),
            "html": str(folder / HTML),
        }

    def _dispute(self, row: int) -> dict[str, Any]:
        """Return the label that the network disagrees with, and its prediction."""
        ranking, names = self.ranking, self.run.data.classes
        return {
            "part": str(self.part[row]),
            "index": int(ranking.index[row]),
            "file": self._file(row),
            "label": names[ranking.label[row]],
            "predicted": names[ranking.predicted[row]],
            "disagreement": round(float(ranking.disagreement[row]), 6),
        }

    def sentences(self, show: int, folder: Path) -> list[str]:
        """Return the lines that are printed."""
        found = self.summary(show, folder)
        values, number = found["noise"], found["examples"]
        spread = f"from {values['max']:.3g} to {values['min']:.3g}, median {values['median']:.3g}"
        lines = [f"{number:,} {name_parts(self.images)} images in {self.seconds:.1f} s: label noise {spread}"]
        if self.chance:
            lines.append(f"note: {self.chance}")
        if left := self.unreadable:
            lines.append(f"{left:,} image{'s' if left > 1 else ''} could not be read: left out of the ranking")
        if found["wrong_labels"] and found["shown"]:
            lines.append(
                f"wrong labels: {100 * found['wrong_labels'] / number:.1f} % of all, {found['wrong_labels_in_shown']} "
                f"of the {found['shown']} with the most noise, {found['wrong_labels_in_most_disagreeing']} of the "
                f"{found['shown']} that the posterior disagrees with most"
            )
        lines.append("labels that the posterior disagrees with most:")
        for dispute in map(self._dispute, self._disputed(DISPUTES)):
            part = f"{PART_NAMES[dispute['part']]} " if self.name == ALL else ""
            name = dispute["file"] or f"{part}example {dispute['index']}"
            doubt = f"labelled {dispute['label']}, predicted {dispute['predicted']}"
            lines.append(f"  {name}: {doubt}, disagreement {100 * dispute['disagreement']:.1f} %")
        return [*lines, f"table: {found['csv']}", f"gallery: {found['html']}"]
