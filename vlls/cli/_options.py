"""Options of the commands: one for every field of :class:`.RunConfig`, and short ways to write the others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

from vlls.data import DATASETS
from vlls.train._config import RunConfig
from vlls.train.methods import METHODS

PANELS = {
    "Data": "dataset labels train_size validation_size image_size augment",
    "Label errors": "corruption rate rate_step",
    "Method": "method model pretrained momentum weight_decay smoothing alpha margin rho "
    "posterior ess hess_init beta2 hess_approx clip_radius hess_clip hess_every mc_samples ema options seed",
    "Schedule": "epochs batch_size lr schedule warmup_epochs milestones",
    "Measuring": "eval_every thorough_every eval_samples",
    "Machine": "precision",
}
_listed = " ".join(PANELS.values()).split()
if _others := [field.name for field in fields(RunConfig) if field.name not in _listed]:
    PANELS["Further"] = " ".join(_others)  # a new field has its option at once, and its place later
_METAVAR = {int: "N", float: "X", str: "NAME", tuple: "X,...", Mapping: "NAME=VALUE"}
_LISTS = {"load": DATASETS, "METHODS": METHODS}  # named in the docstring
_SYMBOLS = {"kappa": "κ", "beta": "β", "delta": "δ", "lambda": "λ", "sigma": "σ"}
_SMALL = str.maketrans("012", "₀₁₂")

DATA_HELP, DEVICE_HELP = "folder with the data sets", "auto, cpu, cuda, cuda:1, ..."
COMPILE_HELP = "compile the network: a minute at first, and quicker steps of a large network on a GPU"

F = TypeVar("F", bound=Callable[..., None])


def option(panel: str | None, text: str, metavar: str | None = None, *flags: str, **more: Any) -> Any:
    """Return an option for an annotation, in a panel of the help; ``flags`` are its names, if not the parameter's."""
    return typer.Option(*flags, help=text, metavar=metavar, rich_help_panel=panel, **more)


def with_run_options(command: F) -> F:
    """Give a command, which takes ``**fields``, an option for every field of :class:`.RunConfig`; None if not given."""
    hints, helps = get_type_hints(RunConfig), run_config_help()
    defaults = {field.name: None if field.default is MISSING else field.default for field in fields(RunConfig)}
    parameters = []
    for panel, names in PANELS.items():
        for name in names.split():
            type_ = _type(hints[name])
            flag = "--option" if type_ is Mapping else "--" + name.replace("_", "-")
            text = escape(helps[name] + ("" if defaults[name] is None else f" [default: {defaults[name]}]"))
            text += "; once for each" * (type_ is Mapping)
            flags = f"{flag}/--no-{flag[2:]}" if type_ is bool else flag
            taken: Any = str if type_ is tuple else list[str] if type_ is Mapping else type_
            annotation = Annotated[taken | None, option(panel, text, _METAVAR.get(type_), flags, show_default=False)]
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(name, keyword, default=None, annotation=annotation))
    of_command = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is p.KEYWORD_ONLY]
    signature = inspect.Signature([*parameters, *of_command])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return command


def _type(hint: Any) -> type:
    """The type of a field without its None; tuple for a tuple of anything."""
    types = get_args(hint) if type(None) in get_args(hint) else [hint]
    found = next(type_ for type_ in types if type_ is not type(None))
    return get_origin(found) or found


def run_config_help() -> dict[str, str]:
    """Return the text on each field in the docstring of :class:`.RunConfig`, without markup."""
    document = inspect.getdoc(RunConfig) or ""
    arguments = document.partition("\nArgs:\n")[2].partition("\nRaises:")[0]
    found = dict.fromkeys((field.name for field in fields(RunConfig)), "")  # no docstrings under python -OO
    for entry in re.split(r"\n(?=    \w)", "\n" + arguments):
        name, colon, text = entry.strip().partition(": ")
        if colon:
            found[name] = _plain(text)
    return found


def _plain(text: str) -> str:
    """Turn reStructuredText into plain text for a terminal."""
    text = " ".join(text.split())
    text = re.sub(r" \(:\w+:`[^`]*`\)", "", text)
    text = re.sub(r"a (?:name|key) of :\w+:`([^`]*)`", _one_of, text)
    text = re.sub(r":math:`([^`]*)`", _math, text)
    text = re.sub(r":\w+:`~?\.?([^`]*)`", r"\1", text)
    text = re.sub(r'``"?([^`"]*)"?``', r"\1", text)
    return text.replace("; None for ", "; without it: ").removesuffix(".")


def _one_of(match: re.Match[str]) -> str:
    return "one of " + ", ".join(_LISTS[match[1].rpartition(".")[2]])


def _math(match: re.Match[str]) -> str:
    text = re.sub(r"\\(\w+?)(?![a-z])", lambda symbol: _SYMBOLS.get(symbol[1], symbol[1]), match[1])
    return re.sub(r"_([012])", lambda index: index[1].translate(_SMALL), text).replace("^2", "²")
