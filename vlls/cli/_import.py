"""``vlls import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlls.cli._results import Results
from vlls.cli._terminal import note, say, warnings_noted
from vlls.experiments._import import import_records

IMPORT_HELP = """Bring records of runs that another checkout made into a results folder.

A record is known by its config, whichever version wrote it, and becomes the run of every sweep that needs it. Runs that
are there stay as they are. A record without wall_seconds tells the time of its run as elapsed_seconds.

[bold]Examples[/bold]

A folder of records, or of runs:
  [cyan]vlls import records --results results[/cyan]
One record:
  [cyan]vlls import runs/cifar10-none-ivon-seed0-7841fb58e7cb/record.json[/cyan]
Then as for runs of vlls sweep:
  [cyan]vlls figure fig7 --protocol short[/cyan]

[bold]Exit codes[/bold]: 0 done; 1 some records were left out; 2 wrong use.
"""


def import_(
    records: Annotated[list[Path], typer.Argument(metavar="RECORDS...", help="records, or folders of them")],
    folder: Results = Path("results"),
) -> None:
    """Import them, and report the outcome of each."""
    console = Console()
    with warnings_noted(Console(stderr=True)):
        done = import_records(records, folder)
    for path, reason in done.refused.items():
        say(f"left out: {reason if str(path) in reason else f'{path}: {reason}'}")
    for path in done.without_cell:
        say(f"left out: the record {path} is no run of any experiment at any protocol")
    for cells in done.added.values():
        sweeps = dict.fromkeys(f"{cell.experiment} ({cell.protocol})" for cell in cells)
        note(console, f"{cells[0].config.name}: {', '.join(sweeps)}")
    there = f", {len(done.present)} were there already" if done.present else ""
    note(console, f"{len(done.added)} record{'s' * (len(done.added) != 1)} imported into {folder}{there}")
    raise typer.Exit(1 if done.refused or done.without_cell else 0)


import_.__doc__ = IMPORT_HELP
