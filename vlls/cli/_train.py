"""``vlls train``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from vlls.cli._options import COMPILE_HELP, DATA_HELP, DEVICE_HELP, option, with_run_options
from vlls.cli._report import comparison, describe, plan, results_table
from vlls.cli._terminal import (
    Failed,
    console_of_tables,
    note,
    one_line,
    rank,
    say,
    tell_stopped,
    terminable,
    threads_of,
    warnings_noted,
)
from vlls.data._known import check_dataset, in_memory
from vlls.train._chance import tell_chance
from vlls.train._config import RunConfig
from vlls.train._files import CHECKPOINT, RECORD, load_record
from vlls.train._keys import run_folder
from vlls.train.methods import PROPOSED, SGD

if TYPE_CHECKING:
    from vlls.train import Reporter, RunResult

EXAMPLES = """[bold]Examples[/bold]

IVON beside SGD on digits with wrong labels, in under a minute:
  [cyan]vlls train[/cyan]
The paper's CIFAR-10 run:
  [cyan]vlls train --dataset cifar10 --method ivon[/cyan]
Label errors on MNIST:
  [cyan]vlls train --dataset mnist --corruption symmetric --rate 0.4[/cyan]
A posterior that is learned: the same with other defaults of --ess, --hess-init and --hess-clip
  [cyan]vlls train --dataset mnist --corruption symmetric --rate 0.4 --posterior learned[/cyan]
Human labels:
  [cyan]vlls train --dataset cifar10 --labels cifar10n:worse_label[/cyan]
Go on after an interruption: the same command and --resume
  [cyan]vlls train --dataset cifar10 --method ivon --resume[/cyan]
A method of your own, which the module my_methods registers (vlls.train.register):
  [cyan]vlls --import my_methods train --method focal --option gamma=2[/cyan]
Two GPUs, or processes, that share each batch:
  [cyan]torchrun --nproc-per-node=2 -m vlls.cli train --dataset cifar10[/cyan]
"""
_PARAGRAPH = (  # on one line, which the help wraps
    "An option that is left out takes the paper's value for the data set, the method and the label errors; --dry-run "
    "shows them. Without an option on data or method, IVON and plain SGD are trained on digits with 40 % of the labels "
    "wrong, also with --seed, --epochs, --eval-every and --batch-size. A run that is finished is not trained again."
)
HELP = f"""Train a network as the paper does, measure it and keep a record.

{_PARAGRAPH}

{EXAMPLES}
[bold]Exit codes[/bold]: 0 finished, 1 diverged, 2 wrong use, 128 + signal stopped (130 by Ctrl-C, 143 by SIGTERM).
"""

# ---------------------------------------------------------------------- the command
MACHINE, OUTPUT = "Machine", "Output"
COURSE = ("seed", "epochs", "eval_every", "batch_size")  # fields of neither the data nor the method


@with_run_options
def train(
    *,
    data: Annotated[Path | None, option("Data", DATA_HELP, "DIR", envvar="VLLS_DATA")] = None,
    device: Annotated[str, option(MACHINE, DEVICE_HELP, "NAME")] = "auto",
    workers: Annotated[int, option(MACHINE, "processes that decode images from files", "N", min=0)] = 2,
    threads: Annotated[int | None, option(MACHINE, "of the CPU, for torch; small networks want 1", "N", min=1)] = None,
    compile: Annotated[bool, option(MACHINE, COMPILE_HELP, None, "--compile/--no-compile")] = False,
    checkpoint_seconds: Annotated[float, option(MACHINE, "time between checkpoints", "X", min=0)] = 60.0,
    output: Annotated[Path, option(OUTPUT, "folder of runs, each in its own", "DIR")] = Path("runs"),
    resume: Annotated[bool, option(OUTPUT, "go on from the last checkpoint", None, "--resume")] = False,
    overwrite: Annotated[bool, option(OUTPUT, "train a finished run again", None, "--overwrite")] = False,
    tensorboard: Annotated[Path | None, option(OUTPUT, "write the metrics for TensorBoard", "DIR")] = None,
    as_json: Annotated[
        bool, option(OUTPUT, "print the record as JSON on stdout, nothing else", None, "--json")
    ] = False,
    quiet: Annotated[bool, option(OUTPUT, "print errors only", None, "--quiet")] = False,
    dry_run: Annotated[bool, option(OUTPUT, "print the plan, train nothing", None, "--dry-run")] = False,
    **fields: Any,
) -> None:
    """Train, report, and leave with the exit code."""
    given = {name: value for name, value in fields.items() if value not in (None, [])}
    if "milestones" in given:
        given["milestones"] = _numbers("milestones", given["milestones"])
    if "options" in given:
        given["options"] = dict(_pair(text) for text in given["options"])
    if resume and overwrite:
        raise ValueError("--resume goes on and --overwrite starts again; choose one of them")
    speaks = rank() == 0
    notes = Console(stderr=True, quiet=quiet or not speaks)
    with warnings_noted(notes):
        asked, named = RunConfig(**given), set(given) - set(COURSE)
        configs = [_checked(asked, dry_run)] if named else demonstration(**given)
        if named:
            for line in _namesakes(asked, output):
                note(notes, f"note: {line}")
    tables = console_of_tables(quiet=(quiet and not dry_run) or as_json or not speaks)
    if dry_run:
        _tell_plans(configs, set(given), output, tables, as_json and speaks)
        return
    if not named:
        line = "Nothing was named to train: IVON beside plain SGD on digits with 40 % of the labels wrong"
        note(notes, f"{line} (vlls train --help lists all options)")
        threads = threads or 1  # images of 8x8 pixels: a second thread costs more than it brings
    from vlls.train._reporters import Progress, TensorBoard  # late: it needs torch

    options: dict[str, Any] = {"root": data, "device": device, "workers": workers, "compile": compile}
    options["checkpoint_seconds"] = checkpoint_seconds
    with threads_of(threads), ExitStack() as stack, warnings_noted(notes):
        reporters: list[Reporter] = [stack.enter_context(Progress(notes))]
        if tensorboard is not None and speaks:
            reporters.append(stack.enter_context(TensorBoard(tensorboard)))
        if as_json:
            stack.enter_context(redirect_stdout(sys.stderr))
        results = [
            _train(config, output, notes, resume=resume, overwrite=overwrite, reporters=reporters, **options)
            for config in configs
        ]
    raise typer.Exit(_tell_results(results, notes, tables, as_json and speaks))


train.__doc__ = HELP


def demonstration(**course: Any) -> list[RunConfig]:
    """Return the runs of ``vlls train`` without options on data or method; ``course`` has values of COURSE."""
    errors: dict[str, Any] = {"dataset": "digits", "corruption": "symmetric", "rate": 0.4}
    return [RunConfig(method=method, **errors, **course).resolved() for method in (PROPOSED, SGD)]


def _checked(config: RunConfig, dry_run: bool) -> RunConfig:
    """Return the resolved config after checking its data set; for a dry run a folder of images is loaded too."""
    folder = check_dataset(config.dataset, config.labels, "dataset")
    if dry_run and folder is not None:
        from vlls.data import load  # late: it needs torch

        load(folder)
    if folder is None and config.image_size is not None and in_memory(config.dataset):
        raise ValueError(
            f"image_size={config.image_size} is for images in files; {config.dataset}'s have their own, leave it out"
        )
    return config.located().resolved()


def _namesakes(asked: RunConfig, output: Path) -> Iterator[str]:
    """Yield notes on names that mean two things: of a data set and a folder, of a run and one of an older version."""
    name, config = asked.dataset, asked.located().resolved()
    if in_memory(name) and Path(name).is_dir():
        yield f"{name} is the data set of that name; for the folder that lies here pass ./{name}"
    older = run_folder(output, config)
    if older.name != config.name:
        yield f"{older} holds this run as an older version named it, and keeps it; vlls migrate {output} renames it"
    relative = run_folder(output, asked.resolved())
    if config.dataset != name and relative.exists():
        yield f"{relative} holds this run as an older version named it, by a relative path; it is not gone on with"


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{name}={text!r} is no list of numbers; pass fractions of the run, such as 0.5,0.75"
        ) from None


def _pair(text: str) -> tuple[str, Any]:
    """Return the name and the value of ``NAME=VALUE``: a value as JSON writes it, or else a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--option {text} is no name with a value; pass NAME=VALUE, such as --option gamma=2")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def run(config: RunConfig, output: Path, **options: Any) -> RunResult:
    """Import torch, and train."""
    import vlls.train

    return vlls.train.run(config, output, **options)


def _train(config: RunConfig, output: Path, notes: Console, **options: Any) -> RunResult:
    """Train a run; if it fails or is stopped, leave with a line that says how to go on."""
    import torch  # late: it takes seconds

    from vlls.train import Interrupted

    try:
        with terminable():
            result = run(config, output, **options)
    except (ValueError, OSError) as error:
        process = f"process {rank()}: " if rank() else ""
        raise Failed(process + one_line(error)) from error
    except torch.cuda.OutOfMemoryError as error:
        raise Failed("the GPU has not enough memory for this run; choose a smaller --batch-size") from error
    except Interrupted as stopped:
        say(f"{stopped}; go on with the same command and --resume")
        raise typer.Exit(128 + stopped.signum) from None
    except KeyboardInterrupt as stopped:
        kept = (run_folder(output, config) / CHECKPOINT).exists()
        then = "go on from the last checkpoint with the same command and --resume" if kept else "nothing was saved"
        raise tell_stopped(stopped, f" at once; {then}") from None
    if result.model is None:
        was = "was finished" if result.status == "finished" else "had diverged"
        note(notes, f"{config.name} {was} before and is not trained again (--overwrite trains it again)")
    return result


# ---------------------------------------------------------------------- messages
def _tell_plans(configs: Sequence[RunConfig], given: set[str], output: Path, tables: Console, as_json: bool) -> None:
    plans = [{"config": config.to_dict(), "folder": str(run_folder(output, config))} for config in configs]
    if as_json:
        print(json.dumps(plans if len(plans) > 1 else plans[0], indent=1))
        return
    for config in configs:
        folder = run_folder(output, config)
        state = "finished" if (folder / RECORD).exists() else "unfinished" if (folder / CHECKPOINT).exists() else "new"
        tables.print(describe(config), style="bold", markup=False, highlight=False)
        tables.print(plan(config, given))
        tables.print(f"kept in {folder} ({state})\n", soft_wrap=True, markup=False, highlight=False)


def _tell_results(results: Sequence[RunResult], notes: Console, tables: Console, as_json: bool) -> int:
    """Print tables and records; return the exit code."""
    if as_json:
        records = [load_record(result.folder / RECORD) for result in results if result.folder is not None]
        print(json.dumps(records if len(records) > 1 else records[0], indent=1))
    finished = [result for result in results if result.status == "finished"]
    if len(finished) == 1:
        tables.print(describe(finished[0].config), style="bold", markup=False, highlight=False)
    if finished:
        tables.print(results_table(finished))
    if len(finished) > 1:
        note(tables, comparison(*finished))
    for result in finished:
        if told := tell_chance(result.config, result.labels, result.epochs):
            of = f"{describe(result.config)}: " if len(finished) > 1 else ""
            note(notes if as_json else tables, f"{of}{told}")
    for result in finished:
        if unreadable := result.counts.get("unreadable"):
            note(notes, f"note: {unreadable:,} training image{'s' * (unreadable > 1)} could not be read")
        tables.print(f"record: {result.folder}/{RECORD}", soft_wrap=True, markup=False, highlight=False)
    for result in results:
        if result.status != "finished":
            say(f"error: {describe(result.config)}: {result.status}: {result.reason}; its record is in {result.folder}")
    return 0 if len(finished) == len(results) else 1
