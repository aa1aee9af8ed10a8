"""``vlls clean``."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from vlls._errors import needs
from vlls._files import expanded, make_folder, write_atomically
from vlls._names import check_known
from vlls.cli._options import DATA_HELP, DEVICE_HELP, option
from vlls.cli._terminal import Failed, note, say, tell_stopped, terminable, threads_of, warnings_noted
from vlls.train._files import CHECKPOINT, RECORD

if TYPE_CHECKING:
    from vlls.cli._clean_train import Source
    from vlls.data._labelled import LabelledImages

METHODS = ("ivon", "evon", "sam", "sgd")
PARTS = ("train", "test", "validation", "all")

_PARAGRAPH = (  # on one line, which the help wraps
    "A network is trained on the images with the labels as they are, and asked how probable each label is. Two files "
    "are written: labels.csv, all labels with the most suspicious first, and labels.html, a page that works offline, "
    "in which you look through the suspects, keep or correct each with a key, and save your decisions. --apply writes "
    "a list of all images with the corrected labels. Images are never moved or changed. The network is kept: the same "
    "command goes on where it was stopped, and does not train finished networks again."
)
HELP = f"""Find labels that are probably wrong, look through them in a page, and write a corrected list.

{_PARAGRAPH}

[bold]Examples[/bold]

A folder of images by class (photos/cat/1.jpg, or photos/train/cat/1.jpg); the files go into photos-clean:
  [cyan]vlls clean photos[/cyan]
Write photos-clean/corrected.csv from the decisions that the page saved:
  [cyan]vlls clean photos --apply ~/Downloads/photos-decisions.csv[/cyan]
Images and labels that a CSV file lists, in the columns path and label, the paths starting from photos:
  [cyan]vlls clean labels.csv --images photos[/cyan]
A run of vlls train that is finished; the files go into its folder:
  [cyan]vlls clean runs/*-ivon-*[/cyan]
Five networks, each of which is asked about the images that it was not trained on:
  [cyan]vlls clean photos --cross-validate 5[/cyan]
Show the 500 most suspicious labels:
  [cyan]vlls clean photos --show 500[/cyan]

[bold]Exit codes[/bold]: 0 written, 1 training diverged, 2 wrong use, 128 + signal stopped (130 by Ctrl-C).
"""
TRAINING, JUDGING, MACHINE, OUTPUT = "Training", "Judging", "Machine", "Output"


# ---------------------------------------------------------------------- the command
def clean(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="folder of images by class, CSV file of paths and labels, or run")
    ],
    apply: Annotated[
        Path | None, option(None, "write the corrected list from the decisions that the page saved", "DECISIONS")
    ] = None,
    drop_unsure: Annotated[
        bool, option(None, "with --apply: leave images marked as unsure out of the list", None, "--drop-unsure")
    ] = False,
    images: Annotated[Path | None, option(None, "where the paths of a CSV file start \\[its folder]", "DIR")] = None,
    classes: Annotated[
        str | None, option(None, "classes of a CSV file; other labels count as missing \\[all]", "NAME,...")
    ] = None,
    method: Annotated[str | None, option(TRAINING, f"{', '.join(METHODS)} \\[default: ivon]", "NAME")] = None,
    cross_validate: Annotated[
        int | None, option(TRAINING, "train K networks, each on all but 1/K of the images", "K", min=2)
    ] = None,
    epochs: Annotated[
        int | None, option(TRAINING, "passes over the images \\[default: 12, fewer if they are many]", "N", min=1)
    ] = None,
    model: Annotated[
        str | None, option(TRAINING, "cnn3 or resnet18 \\[default: cnn3; resnet18 for colours on a GPU]", "NAME")
    ] = None,
    lr: Annotated[float | None, option(TRAINING, "peak learning rate \\[default: the method's]", "X")] = None,
    image_size: Annotated[
        int | None,
        option(TRAINING, "pixels that the network sees of the images' middle \\[default: 32; 64 on a GPU]", "N", min=8),
    ] = None,
    augment: Annotated[
        bool | None, option(TRAINING, "random crops and flips \\[default: for colours]", None, "--augment/--no-augment")
    ] = None,
    seed: Annotated[int | None, option(TRAINING, "of weights and order \\[default: 0]", "N", min=0)] = None,
    part: Annotated[str, option(JUDGING, "whose labels: train, test, validation, or all", "NAME")] = "train",
    score: Annotated[
        str, option(JUDGING, "self_confidence, margin, bayes, or error_times_variance", "NAME")
    ] = "self_confidence",
    flag: Annotated[
        str,
        option(JUDGING, "which are probably wrong: confident_joint, bayes, a number, or a rate such as 0.1", "RULE"),
    ] = "confident_joint",
    adjust: Annotated[bool, option(JUDGING, "score rare and hard classes by their own mean", None, "--adjust")] = False,
    samples: Annotated[int, option(JUDGING, "draws of the weights; 0 for their mean alone", "N", min=0)] = 8,
    data: Annotated[Path | None, option(MACHINE, f"{DATA_HELP}, for a run", "DIR", envvar="VLLS_DATA")] = None,
    device: Annotated[str, option(MACHINE, DEVICE_HELP, "NAME")] = "auto",
    threads: Annotated[int | None, option(MACHINE, "of the CPU, for torch", "N", min=1)] = None,
    output: Annotated[
        Path | None, option(OUTPUT, "where files and networks go \\[default: SOURCE-clean; a run's own folder]", "DIR")
    ] = None,
    show: Annotated[
        int | None,
        option(
            OUTPUT, "suspects in the page \\[default: all that the network disagrees with, at least 100]", "N", min=0
        ),
    ] = None,
    embed: Annotated[
        bool, option(OUTPUT, "put the images into the page, to send it away alone", None, "--embed")
    ] = False,
    overwrite: Annotated[bool, option(OUTPUT, "train runs again that are finished", None, "--overwrite")] = False,
    as_json: Annotated[bool, option(OUTPUT, "print a summary as JSON on stdout, nothing else", None, "--json")] = False,
    quiet: Annotated[bool, option(OUTPUT, "print errors only", None, "--quiet")] = False,
) -> None:
    """Train, judge, write, report; or apply decisions."""
    source = expanded(source)
    check_known(part, PARTS, "part")
    if method is not None:
        check_known(method, METHODS, "method")
    if drop_unsure and apply is None:
        raise ValueError("--drop-unsure goes with --apply DECISIONS; leave it out, or pass them")
    is_run = (source / CHECKPOINT).exists() or (source / RECORD).exists()
    training: dict[str, Any] = {"method": method, "epochs": epochs, "model": model, "lr": lr, "image_size": image_size}
    training |= {"augment": augment, "seed": seed}
    training = {name: value for name, value in training.items() if value is not None}
    if is_run:
        _check_run(training, part, cross_validate, images, classes)
    target = expanded(_default_output(source, is_run) if output is None else output)
    _check_output(source, target, is_run)
    listed = None if classes is None else [name.strip() for name in classes.split(",")]
    notes = Console(stderr=True, quiet=quiet)
    with terminable(), threads_of(threads), redirect_stdout(sys.stderr), warnings_noted(notes), _exits():
        from vlls.cli._clean_report import CORRECTED, CSV, HTML, Asked, CleanReport  # late: they need torch
        from vlls.cli._clean_train import Training, of_labels, of_run, predictions, read_labels
        from vlls.train import load_run
        from vlls.train._machine import pick_device

        where, began = pick_device(device), time.perf_counter()
        of_loaded = of_run(load_run(source, device=where, root=data), part) if is_run else None
        labels = read_labels(source, images, listed) if of_loaded is None else of_loaded.data
        if apply is not None:
            summary, lines = _applied(labels, apply, target / CORRECTED, drop_unsure)
        else:
            asked = Asked(score, _flag(flag), adjust, show, embed)
            for module in ("jinja2", "PIL.Image"):
                needs(module, "the page")  # before the training, not after it
            with _progress(notes, f"{labels.name}: {len(labels):,} images of {len(labels.classes)} classes") as told:
                judged = of_loaded or of_labels(labels, source, part, Training(**training), where, told)
            asked.check(labels.labels[judged.judged], samples if judged.variational else 0)
            _check_enough(judged, cross_validate)
            make_folder(target)
            with _progress(notes) as told:
                options = {"device": where, "overwrite": overwrite}
                found = predictions(judged, target, cross_validate, samples, notes, told, **options)
            command = _command(source, part, images, classes, output, is_run)
            report = CleanReport(judged, found, asked, command, time.perf_counter() - began)
            report.warn()
            table, page = report.table(), report.page(target)
            write_atomically(target / CSV, table)
            write_atomically(target / HTML, page)
            summary, lines = report.summary(target), report.sentences(target)
    if as_json:
        print(json.dumps(summary, indent=1))
    elif not quiet:
        for line in lines:
            print(line)


clean.__doc__ = HELP


@contextmanager
def _exits() -> Iterator[None]:
    """Leave with a line and an exit code where a training fails or is stopped."""
    import torch

    from vlls.cli._clean_train import Diverged
    from vlls.train import Interrupted

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise Failed("the GPU has not enough memory; choose a smaller --image-size") from error
    except Diverged as error:
        say(f"error: {error}")
        raise typer.Exit(1) from None
    except Interrupted as stopped:
        say(f"{stopped}; go on with the same command")
        raise typer.Exit(128 + stopped.signum) from None
    except KeyboardInterrupt as stopped:
        raise tell_stopped(stopped, "; go on with the same command") from None


# ---------------------------------------------------------------------- options
def _check_run(given: dict[str, Any], part: str, folds: int | None, images: Path | None, classes: str | None) -> None:
    """Raise a ValueError for options that have no meaning for a finished run."""
    if given:
        name = next(iter(given)).replace("_", "-")
        raise ValueError(f"--{name} is for a network that is trained here; the run has its own: leave it out")
    if images is not None or classes is not None:
        raise ValueError("--images and --classes are for a CSV file; leave them out")
    if part == "all":
        raise ValueError("--part all is for a folder or a CSV file; choose train, test or validation for a run")
    if folds is not None and part != "train":
        raise ValueError(f"--cross-validate goes with --part train, not {part}; the network has not seen those images")


def _default_output(source: Path, is_run: bool) -> Path:
    """Return the run's folder, or a new one for images: here, or beside their folder if this process runs in it."""
    if is_run:
        return source
    base = source.resolve()
    here = Path.cwd()
    place = base.parent if here == base or base in here.parents else Path()
    return place / f"{base.stem if base.is_file() else base.name}-clean"


def _check_output(source: Path, target: Path, is_run: bool) -> None:
    base = source.resolve()
    if not is_run and base.is_dir() and (base == target.resolve() or base in target.resolve().parents):
        raise ValueError(f"--output {target} lies in the folder of images, {source}; choose one outside of it")


def _flag(text: str) -> str | int | float:
    """Return a rule, a number of labels, or a rate."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_enough(source: Source, folds: int | None) -> None:
    """Raise a ValueError unless there are enough labels to train with."""
    import numpy as np

    if source.run is not None and folds is None:
        return
    labels = source.data.labels[source.to_train_on]
    counts = np.bincount(labels, minlength=len(source.data.classes))
    if np.count_nonzero(counts) < 2:
        raise ValueError(
            f"{source.base} has images of {np.count_nonzero(counts)} class(es) to train on; wrong labels are found "
            "by the other classes: add images of another one"
        )
    least = max(8, 2 * (folds or 0))
    if len(labels) < least:
        raise ValueError(f"{source.base} has {len(labels)} images to train on; add some, at least {least} are needed")


def _command(
    source: Path, part: str, images: Path | None, classes: str | None, output: Path | None, is_run: bool
) -> str:
    """Return the command that applies decisions, without the name of their file."""
    words = ["vlls", "clean", str(source)]
    options = {"--images": images, "--classes": classes, "--output": output, "--part": part if is_run else "train"}
    for name, value in options.items():
        if value is not None and (name, value) != ("--part", "train"):
            words += [name, str(value)]
    return f"{shlex.join(words)} --apply"


# ---------------------------------------------------------------------- decisions
def _applied(labels: LabelledImages, path: Path, target: Path, drop_unsure: bool) -> tuple[dict[str, Any], list[str]]:
    """Write the corrected list; return the summary and the lines to print."""
    from vlls.label_errors._decisions import CORRECT, UNSURE, corrected_list, count_decisions, read_decisions

    decisions = read_decisions(expanded(path), labels)
    listed = corrected_list(labels, decisions, drop_unsure)
    counts = count_decisions(decisions)
    make_folder(target.parent)
    write_atomically(target, listed)
    left_out = counts[UNSURE] if drop_unsure else 0
    summary = {"images": len(labels), **counts, "left_out": left_out, "csv": str(target)}
    lines = [
        f"{counts[CORRECT]:,} of {len(labels):,} labels corrected, {counts['keep']:,} kept and {counts[UNSURE]:,} "
        f"unsure, of {len(decisions):,} that you decided on"
    ]
    if left_out:
        lines.append(f"{left_out:,} unsure image(s) left out of the list")
    return summary, [*lines, f"corrected list: {target}"]


@contextmanager
def _progress(notes: Console, title: str = "") -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on a terminal, from the first image to the last, below a title if there is one."""
    if title:
        note(notes, title)
    if not notes.file.isatty() or notes.is_dumb_terminal or notes.quiet:
        yield None
        return
    columns = (BarColumn(None), TaskProgressColumn(), TextColumn("{task.completed:,}/{task.total:,} images"))
    bar = Progress(*columns, TimeRemainingColumn(), console=notes, transient=True, expand=True)
    task = bar.add_task("", total=1)

    def tell(done: int, total: int) -> None:
        bar.start()  # which does nothing if it runs
        bar.update(task, completed=done, total=total)
        if done == total:  # other bars may follow
            bar.stop()

    try:
        yield tell
    finally:
        bar.stop()
