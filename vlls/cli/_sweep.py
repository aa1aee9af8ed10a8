"""``vlls sweep``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vlls.cli._options import COMPILE_HELP, DATA_HELP, DEVICE_HELP, option
from vlls.cli._terminal import console_of_tables, note, say, tell_stopped, terminable, warnings_noted
from vlls.experiments import (
    EXPERIMENTS,
    PROTOCOLS,
    Cell,
    Executor,
    Outcome,
    SweepReporter,
    SweepResult,
    cells,
)
from vlls.experiments import sweep as run_sweep
from vlls.experiments._cells import panels_at
from vlls.experiments._folder import ResultsFolder
from vlls.train._chance import at_chance
from vlls.train.methods import METHODS

HELP = """Do all the runs that a figure of the paper needs.

Finished runs are not trained again, and a run that was cut goes on: the same command, as often as you like. Seed 0
of every method comes first, so that a sweep that was stopped is a figure already (vlls figure NAME).

[bold]Examples[/bold]

Which sweeps there are, and how many runs each has:
  [cyan]vlls sweep --list[/cyan]
Data-dependent errors in minutes on a CPU:
  [cyan]vlls sweep fig7 --protocol smoke[/cyan]
Figure 5 on a GPU, three runs side by side, for nine minutes:
  [cyan]vlls sweep fig5 --protocol reduced --workers-per-device 3 --time-budget 9m[/cyan]
The paper's own settings on a Ray cluster:
  [cyan]vlls sweep fig5 --protocol paper --executor ray --address auto[/cyan]

[bold]Exit codes[/bold]: 0 done, or the time budget is spent; 1 some runs failed; 2 wrong use; 128 + signal stopped.
"""


class ExecutorName(str, Enum):
    """The executors of sweeps on the command line."""

    local = "local"
    ray = "ray"


WHAT, WHERE, OUTPUT = "What", "Where", "Output"
_COMPILED = " and ".join(entry.name for entry in PROTOCOLS.values() if entry.compiled)
_TUNE_HELP = "with runs at seed 0 that hold images out, to choose hyperparameters without the test images"


def sweep(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="one of " + ", ".join(EXPERIMENTS))] = None,
    protocol: Annotated[
        str, option(WHAT, "; ".join(f"{entry.name}: {entry.text}" for entry in PROTOCOLS.values()), "NAME")
    ] = "reduced",
    seeds: Annotated[
        int | None,
        option(WHAT, f"number of seeds ({', '.join(f'{p.name}: {p.seeds}' for p in PROTOCOLS.values())})", "N"),
    ] = None,
    tune: Annotated[
        bool,
        option(WHAT, _TUNE_HELP, None, "--tune/--no-tune"),
    ] = True,
    data: Annotated[Path | None, option(WHAT, DATA_HELP, "DIR", envvar="VLLS_DATA")] = None,
    executor: Annotated[
        ExecutorName, option(WHERE, "processes of this machine, or a Ray cluster")
    ] = ExecutorName.local,
    device: Annotated[str, option(WHERE, DEVICE_HELP, "NAME")] = "auto",
    workers_per_device: Annotated[
        int | None,
        option(WHERE, "runs side by side on a device (1 on a GPU, as many as there are cores on a CPU)", "K"),
    ] = None,
    isolate: Annotated[
        bool | None,
        option(
            WHERE,
            "a process for each run, or threads of one, which a GPU does in less time",
            None,
            "--isolate/--no-isolate",
        ),
    ] = None,
    threads: Annotated[int, option(WHERE, "of torch in a run, on a CPU", "N", min=1)] = 1,
    compile: Annotated[
        bool | None,
        option(WHERE, f"{COMPILE_HELP} (on a GPU at {_COMPILED}, unless told)", None, "--compile/--no-compile"),
    ] = None,
    address: Annotated[
        str | None, option(WHERE, "of the Ray cluster: auto, HOST:PORT, or ray://HOST:PORT", "ADDRESS")
    ] = None,
    results: Annotated[Path, option(OUTPUT, "folder of runs and tables", "DIR")] = Path("results"),
    time_budget: Annotated[
        str | None, option(OUTPUT, "begin no run after it, and save those under way: 90s, 9m, 1h30m", "TIME")
    ] = None,
    checkpoint_seconds: Annotated[float, option(OUTPUT, "time between checkpoints of a run", "X", min=0)] = 30.0,
    keep_weights: Annotated[
        bool, option(OUTPUT, "keep the checkpoints of finished runs", None, "--keep-weights")
    ] = False,
    quiet: Annotated[bool, option(OUTPUT, "print errors only", None, "--quiet")] = False,
    list_all: Annotated[bool, option(OUTPUT, "print the sweeps and their numbers of runs", None, "--list")] = False,
    dry_run: Annotated[bool, option(OUTPUT, "print the runs, and which of them are done", None, "--dry-run")] = False,
) -> None:
    """Sweep, report, and leave with the exit code."""
    tables = console_of_tables()
    if list_all:
        tables.print(_all_sweeps())
        return
    if name is None:
        raise ValueError(f"no sweep was named; choose one of {', '.join(EXPERIMENTS)} (vlls sweep --list)")
    if dry_run:
        with warnings_noted(Console(stderr=True, quiet=quiet)):
            tables.print(_plan(cells(name, protocol, seeds=seeds, tune=tune), ResultsFolder(results)))
        return
    budget = None if time_budget is None else seconds_of(time_budget)
    notes = Console(stderr=True, quiet=quiet)
    cells(name, protocol, seeds=seeds, tune=tune)  # report errors in them before a process or cluster starts
    where = _executor(executor, device, workers_per_device, isolate, threads, address)
    try:
        with terminable(), _Watch(notes) as watch:
            result = run_sweep(
                name,
                protocol=protocol,
                seeds=seeds,
                tune=tune,
                results=results,
                executor=where,
                root=data,
                time_budget=budget,
                checkpoint_seconds=checkpoint_seconds,
                compile=compile,
                keep_weights=keep_weights,
                reporters=[watch],
            )
    except KeyboardInterrupt as stopped:
        then = f"; runs under way were saved to {results}: go on with the same command"
        raise tell_stopped(stopped, then) from None
    raise typer.Exit(_tell(result, name, results, notes))


sweep.__doc__ = HELP


def seconds_of(text: str) -> float:
    """Return a duration such as ``90s``, ``9m`` or ``1h30m`` in seconds; a number alone is seconds."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    parts = [float(part or 0) for part in match.groups()] if match else []
    total = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not total > 0:
        raise ValueError(f"time_budget={text!r} is no duration; pass one such as 90s, 9m or 1h30m")
    return total


def _executor(
    name: ExecutorName, device: str, workers: int | None, isolate: bool | None, threads: int, address: str | None
) -> Executor:
    if name is ExecutorName.ray:
        if isolate is not None:
            raise ValueError("--isolate goes with --executor local: on a cluster each run has a process; leave it out")
        from vlls.experiments import RayExecutor

        return RayExecutor(address, device=device, workers_per_device=workers, threads=threads)
    if address is not None:
        raise ValueError(f"address={address!r} goes with --executor ray; leave it out, or add that")
    from vlls.experiments import LocalExecutor  # late: it needs torch

    return LocalExecutor(device, workers, threads=threads, isolate=isolate)


# ---------------------------------------------------------------------- messages
def _all_sweeps() -> Table:
    table = Table("name", "subject", title="Sweeps, and the number of their runs at each protocol")
    for protocol in PROTOCOLS.values():
        seeds = f"{protocol.seeds} seed{'s' if protocol.seeds > 1 else ''}"
        table.add_column(f"{protocol.name}\n({seeds})", justify="right")
    for entry in EXPERIMENTS.values():
        counts = [str(len(cells(entry.name, size))) if panels_at(entry.name, size) else "" for size in PROTOCOLS]
        table.add_row(entry.name, entry.title, *counts)
    return table


def _plan(grid: list[Cell], folder: ResultsFolder) -> Table:
    done = sum(folder.is_done(cell) for cell in grid)
    table = Table(title=f"{len(grid)} runs, {done} done")
    for column in ("run", "state", "folder"):
        table.add_column(column, overflow="fold")
    for cell in grid:
        state = "done" if folder.is_done(cell) else "cut" if folder.is_cut(cell) else "new"
        failure = folder.damage(cell) or folder.failure(cell.config)
        table.add_row(Text(cell.label), f"failed: {failure}" if failure else state, cell.config.name)
    return table


def _tell(result: SweepResult, name: str, results: Path, notes: Console) -> int:
    """Say how the sweep went; return the exit code."""
    done = len(result.before) + len(result.finished)
    text = f"{done} of {len(result.cells)} runs are done"
    if result.finished:
        text += f", {len(result.finished)} of them now, in {clock(result.seconds)} ({result.runs_per_hour:.0f} an hour)"
    if result.reason and result.left:
        text += f"; {result.reason}, {len(result.left)} are left: go on with the same command"
    note(notes, text)
    if done:
        note(notes, f"see vlls results --results {results} and vlls figure {name} --results {results}")
    for cell, reason in result.failed.items():
        say(f"error: {cell.label} failed: {reason}")
    if result.failed:
        kept = "finished runs are kept; " if done else ""
        say(f"error: {len(result.failed)} of {len(result.cells)} runs failed; {kept}the same command tries them again")
    return 1 if result.failed else 0


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds, such as 1:02:05."""
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}"


class TimeLeft:
    """Estimates the time that the remaining runs take from the times of the finished ones.

    Before its first run a process has to start and to import packages. So a run is timed from its first report of a
    step. A sweep does the methods one after the other, and they differ in speed: a remaining run takes the mean time of
    the finished runs of its method. If there are none, it takes the mean time of all others per pass through the
    network, multiplied by the number of passes in a step of its method.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[Cell, tuple[float, float | None]] = {}  # start or first report, share done at it
        self._times: dict[str, list[float]] = {}  # of those that are over, by method
        self._together = 1

    def begin(self, cell: Cell) -> None:
        self._began[cell] = (self._clock(), None)
        self._together = max(self._together, len(self._began))

    def progress(self, cell: Cell, done: float) -> None:
        if self._began[cell][1] is None:
            self._began[cell] = (self._clock(), done)

    def end(self, cell: Cell, finished: bool) -> None:
        """Note that a run is over; a failed one is not timed."""
        began, share = self._began.pop(cell)
        if finished and (share or 0.0) < 0.5:  # a run resumed near its end is no measure
            seconds = (self._clock() - began) / (1 - (share or 0.0))
            self._times.setdefault(cell.config.method, []).append(seconds)

    def seconds(self, waiting: Sequence[Cell], running: Mapping[Cell, float]) -> float | None:
        """Return the seconds left, or None before the first run is finished; ``running`` has the share that is done."""
        a_pass = [seconds / METHODS[method].passes for method, times in self._times.items() for seconds in times]
        if not a_pass:
            return None
        work = 0.0
        for cell in (*waiting, *running):
            method = cell.config.method
            times = self._times.get(method, [METHODS[method].passes * seconds for seconds in a_pass])
            work += (1 - running.get(cell, 0.0)) * sum(times) / len(times)
        return work / max(1, min(self._together, len(waiting) + len(running)))


class _Watch(SweepReporter):
    """A bar over the runs and a line for each running one; without a terminal, a line for each that is over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.running: dict[Cell, float] = {}
        self.waiting: dict[str, Cell] = {}  # by key: two panels may need the same run
        self.over = self.failed = self.total = 0
        self._time_left = TimeLeft()
        self._live: Live | None = None

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, result: SweepResult, where: str) -> None:
        self.total, self.over = len(result.cells), len(result.before)
        before = {cell.config.key for cell in result.before}
        self.waiting = {cell.config.key: cell for cell in result.cells if cell.config.key not in before}
        first = result.cells[0]
        reduced = f" ({first.reduced})" if first.reduced else ""
        note(self.console, f"{first.experiment}, {first.protocol} protocol{reduced}")
        note(self.console, f"{self.total} runs, {self.over} done before, on {where}")
        if self.console.file.isatty() and not self.console.is_dumb_terminal and not self.console.quiet:
            self._live = Live(get_renderable=self._view, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def begin(self, cell: Cell) -> None:
        self.waiting.pop(cell.config.key, None)
        self.running[cell] = 0.0
        self._time_left.begin(cell)

    def progress(self, cell: Cell, done: float) -> None:
        self.running[cell] = done
        self._time_left.progress(cell, done)

    def end(self, cell: Cell, outcome: Outcome) -> None:
        self.running.pop(cell, None)
        self._time_left.end(cell, outcome.status == "finished")
        if outcome.status == "stopped":
            return
        self.over += 1
        accuracy = ((outcome.record or {}).get("final") or {}).get("test_accuracy")
        text = outcome.status if accuracy is None else f"test {100 * accuracy:.2f} %"
        if outcome.status != "finished":
            text = f"{outcome.status}: {outcome.reason}"
        elif outcome.record and at_chance(outcome.record.get("labels", {}), outcome.record.get("epochs", [])):
            text += ", at chance"
        self.failed += outcome.status == "failed"
        note(self.console, f"{self.over}/{self.total} {cell.label}: {text}{self._left()}")

    def _left(self) -> str:
        seconds = self._time_left.seconds(list(self.waiting.values()), self.running)
        return "" if seconds is None or self.over >= self.total else f", {clock(seconds)} left"

    def _view(self) -> Group:
        width = max(40, self.console.width - 3)
        rows = Table.grid(padding=(0, 1))
        rows.width = width
        rows.add_column(no_wrap=True, ratio=2)
        rows.add_column(ratio=1)
        rows.add_column(no_wrap=True, justify="right")
        done = self.over + sum(self.running.values())
        failed = f", {self.failed} failed" if self.failed else ""
        bar = ProgressBar(total=max(self.total, 1), completed=done)
        rows.add_row(f"{self.over}/{self.total} runs{failed}", bar, self._left().lstrip(", ") or "...")
        for cell, share in self.running.items():
            rows.add_row(Text(cell.label, style="dim"), ProgressBar(total=1, completed=share), f"{100 * share:3.0f} %")
        return Group(rows)
