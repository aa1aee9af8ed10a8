"""``vlls migrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vlls.cli._terminal import note, say, warnings_noted
from vlls.experiments import migrate as migrate_path

HELP = """Rename the runs of an older version of vlls, so that this one finds them and trains none of them again.

Only names and keys change. A migration that was stopped goes on with the same command; one that is done does nothing.

[bold]Examples[/bold]

The results of vlls sweep, and the runs of vlls train:
  [cyan]vlls migrate results runs[/cyan]
A table that vlls results wrote:
  [cyan]vlls migrate fig5.csv[/cyan]

[bold]Exit codes[/bold]: 0 done; 1 some runs were left as they were; 2 wrong use.
"""


def migrate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="results folders, folders of runs, or CSV tables")
    ],
) -> None:
    """Migrate each, and say what came of it."""
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


migrate.__doc__ = HELP
