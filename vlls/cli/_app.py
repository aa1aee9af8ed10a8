"""The group of commands, which reports an error in one line."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import vlls
from vlls._errors import missing
from vlls.cli._clean import clean
from vlls.cli._import import import_
from vlls.cli._noise import noise
from vlls.cli._results import figure, migrate, results
from vlls.cli._sweep import sweep
from vlls.cli._terminal import Failed, one_line, rank
from vlls.cli._train import EXAMPLES, train


class Commands(TyperGroup):
    """The group of commands; wrong use is reported in one line, with exit code 2."""

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


def import_from_here(name: str) -> None:
    """Import a user's module that is installed or lies in the current folder."""
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        raise ValueError(f"--import {name} is no name of a module; pass my_methods for the file my_methods.py")
    if os.getcwd() not in sys.path:  # processes of a sweep inherit it
        sys.path.insert(0, os.getcwd())
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"--import {name} needs the module {error.name}, which is not there; install it"
            ) from error
        raise ValueError(
            f"--import {name}: there is no such module, neither installed nor in {os.getcwd()}; change to its folder"
        ) from error
    except Exception as error:
        raise ValueError(f"--import {name} failed: {type(error).__name__}: {error}") from error


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


for command in (train, noise, clean, sweep, results, figure, import_, migrate):
    app.command(name=command.__name__.rstrip("_"), rich_help_panel="Commands")(command)
