"""``vlls results``, ``vlls figure`` and ``vlls migrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vlls._files import expanded
from vlls._names import check_known
from vlls.cli._options import option
from vlls.cli._terminal import console_of_tables, note, say, warnings_noted
from vlls.experiments import EXPERIMENTS, choose, collate, experiment, load_table, protocol
from vlls.experiments._migration import migrate as migrate_path
from vlls.experiments._results import collate_curves, collate_labels, save_table

RESULTS_HELP = """Make one table of all finished runs, or show the best of each method.

[bold]Examples[/bold]

The accuracies of every sweep, with the hyperparameters that were chosen:
  [cyan]vlls results[/cyan]
One row a run, with its config and provenance:
  [cyan]vlls results --output runs.csv[/cyan]
The book's runs of Figure 5, beside those at other protocols in its table:
  [cyan]vlls results --experiment fig5 --protocol short --output book/results/fig5.csv --add[/cyan]
The loss and accuracy of each epoch:
  [cyan]vlls results --experiment take_off --curves curves.csv[/cyan]
"""
FIGURE_HELP = """Draw a figure of the paper from the finished runs.

[bold]Examples[/bold]

  [cyan]vlls figure fig7[/cyan]
  [cyan]vlls figure fig5 --protocol reduced --output fig5.pdf[/cyan]
From a table that vlls results wrote:
  [cyan]vlls figure fig5 --table book/results/fig5.csv[/cyan]
"""
RENAME_HELP = """Rename the runs of an older version of vlls, so that this version finds them and trains none again.

Only names and keys change. A migration that was stopped goes on with the same command; one that is done does nothing.

[bold]Examples[/bold]

The results of vlls sweep, and the runs of vlls train:
  [cyan]vlls migrate results runs[/cyan]
A table that vlls results wrote:
  [cyan]vlls migrate fig5.csv[/cyan]

[bold]Exit codes[/bold]: 0 done; 1 some runs were left as they were; 2 wrong use.
"""
ENDINGS = (".png", ".svg", ".pdf")

Results = Annotated[Path, option(None, "folder that vlls sweep was given", "DIR", "--results")]
OneProtocol = Annotated[str | None, option(None, "only this one", "NAME", "--protocol")]


def results(
    folder: Results = Path("results"),
    output: Annotated[
        Path | None, option(None, "write the table: a name that ends in .csv or .parquet", "FILE")
    ] = None,
    name: Annotated[str | None, option(None, "only this one", "NAME", "--experiment")] = None,
    size: OneProtocol = None,
    add: Annotated[
        bool, option(None, "keep the rows of the table that are of other experiments or protocols", None, "--add")
    ] = False,
    curves: Annotated[Path | None, option(None, "write loss and accuracy of each epoch, as --output", "FILE")] = None,
) -> None:
    """Collate and print or write."""
    if add and output is None:
        raise ValueError("--add goes with --output, the table that is added to")
    _check(name, size)
    notes = Console(stderr=True)
    with warnings_noted(notes):
        table = collate(folder, experiment=name, protocol=size)
    if table.empty:
        raise ValueError(f"{folder} holds no finished run{' of ' + name if name else ''}; vlls sweep makes them")
    if curves is not None:
        with warnings_noted(notes):
            save_table(collate_curves(folder, experiment=name, protocol=size), curves)
        note(notes, f"epochs: {curves}")
    if output is None and curves is not None:
        return
    if output is None:
        console = console_of_tables()
        for (experiment_name, protocol_name), rows in table.groupby(["experiment", "protocol"], sort=False):
            console.print(_best(rows, f"{experiment_name}, {protocol_name} protocol, {len(rows)} runs"))
        return
    save_table(table, output, add=add)
    note(notes, f"{len(table)} runs: {output}")
    with warnings_noted(notes):
        labels = collate_labels(folder, experiment=name, protocol=size)
    if not labels.empty:
        beside = output.with_name(f"{output.stem}_labels{output.suffix}")
        save_table(labels, beside)
        note(notes, f"smoothed labels: {beside}")


results.__doc__ = RESULTS_HELP


def figure(
    name: Annotated[str, typer.Argument(metavar="NAME", help="one of " + ", ".join(EXPERIMENTS))],
    folder: Results = Path("results"),
    table: Annotated[Path | None, option(None, "draw this table, not the folder's runs", "FILE")] = None,
    size: OneProtocol = None,
    output: Annotated[
        Path | None, option(None, "a name that ends in .png, .svg or .pdf \\[default: NAME.png]", "FILE")
    ] = None,
) -> None:
    """Draw and write."""
    _check(name, size)
    path = expanded(output or f"{name}.png")
    check_known(path.suffix, ENDINGS, "the figure's ending")
    from vlls.plots import plot_experiment  # needs the extra plots

    if table is not None:
        table = expanded(table)
        if not table.exists():
            raise ValueError(f"there is no table {table}; vlls results --output writes one")
        runs = load_table(table)
        labels = load_table(table.with_name(f"{table.stem}_labels{table.suffix}"))
    else:
        with warnings_noted(Console(stderr=True)):
            runs, labels = collate(folder, experiment=name), collate_labels(folder, experiment=name)
    if size is not None:
        runs, labels = (rows[rows["protocol"] == size] if len(rows) else rows for rows in (runs, labels))
    if runs.empty:
        where = "" if size is None else f" at the {size} protocol"
        raise ValueError(f"there is no finished run of {name}{where}; vlls sweep {name} makes them")
    drawn = plot_experiment(name, runs, labels)
    try:
        drawn.savefig(path)
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written ({error.strerror}); choose another name") from error
    print(path)


figure.__doc__ = FIGURE_HELP


def migrate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="results folders, folders of runs, or CSV tables")
    ],
) -> None:
    """Migrate each, and report the outcome."""
    console, whole = Console(), True
    for path in paths:
        with warnings_noted(Console(stderr=True)):
            done = migrate_path(path)
        what = "row" if path.suffix == ".csv" else "run"
        note(console, f"{path}: {done.runs} {what}{'s' * (done.runs != 1)} renamed")
        for folder in done.aside:
            note(console, f"two folders are of the same run; the one that is older or not finished is {folder}")
        for reason in done.left.values():
            say(f"left as it was: {reason}")
        whole &= not done.left
    raise typer.Exit(0 if whole else 1)


migrate.__doc__ = RENAME_HELP


def _check(name: str | None, size: str | None) -> None:
    if name is not None:
        experiment(name)
    if size is not None:
        protocol(size)


def _best(rows, title: str) -> Table:  # type: ignore[no-untyped-def]  # pandas is not imported here
    table = Table("panel", "method", title=title)
    for column in ("chosen", "test accuracy, %", "seeds", "chosen without the test images", "its test accuracy, %"):
        table.add_column(column, justify="right")
    methods = list(dict.fromkeys(rows["method"]))
    fair = choose(rows, how="validation", methods=methods).set_index(["panel", "method"])
    for row in choose(rows, methods=methods).itertuples():
        at, texts = (row.panel, row.method), ["", ""]
        if at in fair.index:
            texts = [_value(fair.loc[at, "value"]), _percent(fair.loc[at, "accuracy"], fair.loc[at, "std"])]
        table.add_row(*at, _value(row.value), _percent(row.accuracy, row.std), str(row.seeds), *texts)
    return table


def _value(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:g}"


def _percent(mean: float, std: float) -> str:
    return f"{mean:.2f}" if std != std else f"{mean:.2f} ± {std:.2f}"
