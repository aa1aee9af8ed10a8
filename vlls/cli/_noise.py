"""``vlls noise``."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from vlls._errors import needs
from vlls._files import expanded, make_folder, write_atomically
from vlls._names import check_known
from vlls.cli._noise_report import ALL, CSV, HTML, Asked, NoiseReport, name_options, name_parts, rank_parts
from vlls.cli._options import DATA_HELP, DEVICE_HELP, option
from vlls.cli._terminal import Failed, note, tell_stopped, terminable, threads_of, warnings_noted

if TYPE_CHECKING:
    from vlls.posterior import Posterior
    from vlls.train import LoadedRun

_PARAGRAPH = (  # on one line, which the help wraps
    "The noise of an example is how far its prediction strays over the posterior: much for ambiguous and atypical "
    "images, little for easy ones. Beside it stands how much the posterior disagrees with the given label, which "
    f"gives wrong labels away. Two files are written: {CSV}, all examples in the order of their noise, and {HTML}, "
    "a page that needs nothing else, with the most disputed labels and the most and the least noisy examples. Where "
    "the correct labels are known, both say which of the given ones are wrong."
)
HELP = f"""Rank the examples of a run by label noise, and make a gallery of them and of labels that may be wrong.

{_PARAGRAPH}

[bold]Examples[/bold]

All training images of the IVON run that plain [cyan]vlls train[/cyan] makes; the files go into the run's folder:
  [cyan]vlls noise runs/*-ivon-*[/cyan]
The test images too, to look for wrong labels everywhere:
  [cyan]vlls noise runs/*-ivon-* --part all[/cyan]
The test images, by draws of the weights:
  [cyan]vlls noise runs/*-ivon-* --part test --method monte_carlo --samples 200[/cyan]
A run whose method learns no posterior (sgd, ls, sam, ...):
  [cyan]vlls noise runs/*-sgd-* --std 0.01[/cyan]
A quick look at the first thousand:
  [cyan]vlls noise runs/*-ivon-* --limit 1000 --output look[/cyan]

[bold]Exit codes[/bold]: 0 written, 2 wrong use, 128 + signal stopped (130 by Ctrl-C): the old files are kept.
"""
COMPUTING, MACHINE, OUTPUT = "Noise", "Machine", "Output"


# ---------------------------------------------------------------------- the command
def noise(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="of a run, as vlls train names it at its end")],
    part: Annotated[str, option(COMPUTING, "which images: train, test, validation, or all", "NAME")] = "train",
    method: Annotated[
        str, option(COMPUTING, "rank (fast), exact, direction (Eq. 20), or monte_carlo (the reference)", "NAME")
    ] = "rank",
    rank: Annotated[
        int | None,
        option(COMPUTING, "directions of the logits that --method rank keeps \\[default: 3]", "N", min=1),
    ] = None,
    samples: Annotated[
        int | None, option(COMPUTING, "draws of --method monte_carlo and direction \\[default: 64]", "N")
    ] = None,
    std: Annotated[
        float | None,
        option(COMPUTING, "one standard deviation for all weights; for methods that learn no posterior", "X"),
    ] = None,
    limit: Annotated[int | None, option(COMPUTING, "the first N images of a part only", "N", min=1)] = None,
    data: Annotated[Path | None, option(MACHINE, DATA_HELP, "DIR", envvar="VLLS_DATA")] = None,
    device: Annotated[str, option(MACHINE, DEVICE_HELP, "NAME")] = "auto",
    threads: Annotated[int | None, option(MACHINE, "of the CPU, for torch; small networks want 1", "N", min=1)] = None,
    memory: Annotated[
        float | None,
        option(MACHINE, "memory for intermediate results \\[default: 64 on a CPU, 2048 on a GPU]", "MB"),
    ] = None,
    output: Annotated[
        Path | None, option(OUTPUT, f"where {CSV} and {HTML} go \\[default: the folder of the run]", "DIR")
    ] = None,
    show: Annotated[int, option(OUTPUT, "examples in each section of the gallery", "N", min=0)] = 40,
    as_json: Annotated[bool, option(OUTPUT, "print a summary as JSON on stdout, nothing else", None, "--json")] = False,
    quiet: Annotated[bool, option(OUTPUT, "print errors only", None, "--quiet")] = False,
) -> None:
    """Rank, write, report."""
    import torch  # late: it takes seconds

    from vlls.train._restore import PARTS, load_run

    asked = Asked(method, rank, samples, std, memory)
    check_known(part, (*PARTS, ALL), "part")
    notes = Console(stderr=True, quiet=quiet)
    try:
        with terminable(), threads_of(threads), redirect_stdout(sys.stderr), warnings_noted(notes):
            needs("PIL.Image", "a gallery")  # before the noise is computed, not after it
            run = load_run(folder, device=device, root=data)
            posterior = _posterior(run, std)
            there = [name for name in PARTS if getattr(run.data, name) is not None]
            parts = {name: run.images(name) for name in (there if part == ALL else [part])}
            if limit is not None:
                parts = {name: images.first(limit) for name, images in parts.items()}
            target = folder if output is None else output
            make_folder(expanded(target))
            began = time.perf_counter()
            number = sum(map(len, parts.values()))
            title = f"{run.folder.name}: label noise of {number:,} {name_parts(parts)} images"
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with _progress(notes, title) as told:
                    ranking, part_of = rank_parts(run, posterior, parts, asked, told)
            for line in dict.fromkeys(name_options(str(warning.message)) for warning in caught):
                note(notes, f"note: {line}")
            seconds = time.perf_counter() - began
            report = NoiseReport(run, part, asked, posterior, parts, ranking, part_of, seconds)
            table, page = report.table(), report.page(show)
            summary = report.summary(show, target)
            write_atomically(expanded(target) / CSV, table)
            write_atomically(expanded(target) / HTML, page)
    except torch.cuda.OutOfMemoryError as error:
        raise Failed("the GPU has not enough memory; choose a smaller --memory") from error
    except KeyboardInterrupt as stopped:
        raise tell_stopped(stopped, f"; {CSV} and {HTML} are as they were") from None
    if as_json:
        print(json.dumps(summary, indent=1))
    elif not quiet:
        for line in report.sentences(show, target):
            print(line)


noise.__doc__ = HELP


def _posterior(run: LoadedRun, std: float | None) -> Posterior:
    """Return the distribution of the weights: as learned, or with one standard deviation for all."""
    if std is None:
        if run.posterior is None:
            raise ValueError(
                f"the run's method, {run.config.method}, learns no posterior; pass --std X, one standard deviation for "
                "all weights, such as --std 0.01"
            )
        return run.posterior
    import torch

    from vlls.posterior import DiagonalPosterior

    means = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    return DiagonalPosterior(means, {name: torch.full_like(mean, std) for name, mean in means.items()})


@contextmanager
def _progress(notes: Console, title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, one line elsewhere."""
    note(notes, title)
    if not notes.file.isatty() or notes.is_dumb_terminal or notes.quiet:
        yield None
        return
    columns = (BarColumn(None), TaskProgressColumn(), TextColumn("{task.completed:,}/{task.total:,} images"))
    with Progress(*columns, TimeRemainingColumn(), console=notes, transient=True, expand=True) as bar:
        task = bar.add_task("", total=1)
        yield lambda done, total: bar.update(task, completed=done, total=total)
