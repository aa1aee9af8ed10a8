"""The commands, whose errors end as one line."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import vlls
from vlls._errors import missing
from vlls.cli._errors import Failed, one_line, rank
from vlls.cli._import import import_from_here
from vlls.cli._migrate import migrate
from vlls.cli._noise import noise
from vlls.cli._results import figure, results
from vlls.cli._sweep import sweep
from vlls.cli._train import EXAMPLES, train


class Commands(TyperGroup):
    """The group of commands; whatever a user did wrong ends as one line and exit code 2."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and leave with its exit code."""
        standalone_mode = options.pop("standalone_mode", True)
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and "pip install" not in str(error):
                error = missing(error, "this command")
            told = isinstance(error, (ValueError, OSError, Failed)) or hasattr(error, "format_message")
            told = told or "pip install" in str(error)
            if not told or not standalone_mode:
                raise error
            if os.environ.get("VLLS_TRACEBACK", "0") not in ("", "0"):
                traceback.print_exc()
            if rank() == 0 or isinstance(error, Failed):
                print(f"error: {one_line(error)}", file=sys.stderr)
            code = 2
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=Commands,
    help="Variational learning and adaptive label smoothing: train the paper's networks.\n\n" + EXAMPLES,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"vlls {vlls.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _vlls(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import", metavar="MODULE", help="Import a module first: one that registers methods or experiments."
        ),
    ] = None,
) -> None:
    for name in modules or ():
        import_from_here(name)
    if context.invoked_subcommand is None:
        print(context.get_help(), end="")
        raise typer.Exit


app.command(name="train", rich_help_panel="Commands")(train)
app.command(name="noise", rich_help_panel="Commands")(noise)
app.command(name="sweep", rich_help_panel="Commands")(sweep)
app.command(name="results", rich_help_panel="Commands")(results)
app.command(name="figure", rich_help_panel="Commands")(figure)
app.command(name="migrate", rich_help_panel="Commands")(migrate)
