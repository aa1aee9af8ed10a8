"""Tables of runs, and sentences that follow from their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from vlls.cli._options import PANELS
from vlls.train._config import RunConfig
from vlls.train.methods import METHODS

if TYPE_CHECKING:
    from vlls.train import RunResult

_PREDICTIONS = {  # by prefix of the metrics
    "test": "at the mean",
    "posterior": "averaged over\nthe posterior",
    "ema": "weights\naveraged",
    "validation": "held-out part",
}
_SCORES = {  # at each way to predict
    "accuracy": ("test accuracy", "percent"),
    "nll": ("negative log-likelihood", "nats"),
    "ece": ("calibration error (ECE)", "percent"),
    "brier": ("Brier score (0 to 2)", "plain"),
}
_LABELS = {  # of the training images, at the mean
    "memorised": "wrong labels memorised",
    "recovered": "wrong labels recovered",
    "clean_part_accuracy": "right labels learned",
}


def describe(config: RunConfig) -> str:
    """Describe a run in a few words, as 'IVON on digits, 20 % pair flip label errors, 1 epoch, seed 0'."""
    parts = [f"{METHODS[config.method].label} on {config.dataset}"]
    if config.labels:
        parts.append(f"labels {config.labels}")
    if config.corruption != "none":
        parts.append(f"{100 * config.rate:g} % {config.corruption.replace('_', ' ')} label errors")
    epochs = config.epochs or 0
    return ", ".join([*parts, f"{epochs} epoch{'s' if epochs != 1 else ''}", f"seed {config.seed}"])


# ---------------------------------------------------------------------- finished runs
def results_table(results: Sequence[RunResult]) -> Table:
    """Return the results of runs: a row for each measure, a column for each run and way to predict."""
    together = len(results) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column()
    columns: list[tuple[RunResult, str]] = []
    for result in results:
        prefixes = [prefix for prefix in _PREDICTIONS if f"{prefix}_accuracy" in result.final] or ["test"]
        for prefix in prefixes:
            columns.append((result, prefix))
            way = "" if prefix == "test" and "posterior" not in prefixes else _PREDICTIONS[prefix]
            name = METHODS[result.config.method].label
            heads = [name, way] if together else [way or name]
            table.add_column("\n".join(filter(None, heads)), justify="right")
    held_out = any(prefix == "validation" for _, prefix in columns)
    for score, (label, unit) in _SCORES.items():
        label = label.replace("test accuracy", "accuracy") if held_out else label
        table.add_row(label, *(_number(r.final.get(f"{prefix}_{score}"), unit) for r, prefix in columns))
    table.add_section()

    def once(label: str, cells: Sequence[str]) -> None:
        """Add a row of values that do not depend on the way to predict."""
        if any(cells):
            shown = zip(columns, cells, strict=True)
            table.add_row(label, *(cell if prefix == "test" else "" for (_, prefix), cell in shown))

    wrong = any("memorised" in result.final for result in results)
    for key, label in _LABELS.items():
        label = label if wrong else "training accuracy"
        once(label, [_number(r.final[key], "percent") if key in r.final else "" for r, _ in columns])
    once("posterior's std, start", [_range(r.final, "std_start") for r, _ in columns])
    once("posterior's std, end (5, 50, 95 %)", [_range(r.final, "std_5", "std_50", "std_95") for r, _ in columns])
    shares = ("learned_share_5", "learned_share", "learned_share_95")
    once("learned share of the Hessian", [_range(r.final, *shares, percent=True) for r, _ in columns])
    once("training speed", [f"{r.machine['images_per_second']:,.0f} images/s" for r, _ in columns])
    once("training time", [_seconds(r.machine["training_seconds"]) for r, _ in columns])
    compiling = [r.machine.get("compile_seconds", 0.0) for r, _ in columns]  # older records have none
    once("time to compile", [_seconds(seconds) if seconds else "" for seconds in compiling])
    rest = [r.machine["wall_seconds"] - r.machine["training_seconds"] for r, _ in columns]
    once("measuring time", [_seconds(all_ - own) for all_, own in zip(rest, compiling, strict=True)])
    return table


def _number(value: float | None, unit: str) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if unit == "percent":
        return f"{100 * value:.2f} %"
    return f"{value:.4f} nats" if unit == "nats" else f"{value:.4f}"


def _range(final: Mapping[str, float], *names: str, percent: bool = False) -> str:
    """Return a run's numbers in one string; empty if it has none of them."""
    values = [final[name] for name in names if name in final]
    return ", ".join(f"{100 * value:.2g} %" if percent else f"{value:.3g}" for value in values)


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def comparison(ours: RunResult, plain: RunResult) -> str:
    """Compare two runs on the same wrong labels, in words that follow from their numbers."""
    (high, first), (low, second) = sorted(
        ((r.final["test_accuracy"], METHODS[r.config.method].label) for r in (plain, ours)), reverse=True
    )
    ahead = round(100 * high, 2) - round(100 * low, 2)
    right = f"{100 * high:.2f} % of the clean test images right"
    text = f"Trained with {100 * ours.config.rate:g} % of the labels wrong, {first}"
    if ahead < 0.005:
        text += f" and {second} name {right}, both alike."
    else:
        text += f" names {right} and {second} {100 * low:.2f} %: {first} is ahead by {ahead:.2f} points."
    learned = [(r.final.get("memorised"), METHODS[r.config.method].label) for r in (plain, ours)]
    known = sorted(((share, name) for share, name in learned if share is not None), reverse=True)
    if len(known) < 2:
        return text
    (most, who), (least, other) = known
    return f"{text} {who} has learned {100 * most:.2f} % of the wrong labels by heart, {other} {100 * least:.2f} %."


# ---------------------------------------------------------------------- runs to come
def plan(config: RunConfig, given: set[str]) -> Table:
    """Return each field of a resolved config that has a value, and which of them, ``given``, the user set."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for panel, names in PANELS.items():
        table.add_row(f"[bold]{panel}[/bold]")
        for name in names.split():
            if (value := getattr(config, name)) not in (None, {}):
                table.add_row(f"  {name}", Text(_in_words(value)), "given" if name in given else "")
            if name == "hess_init" and (start := config.std_start) is not None:
                table.add_row("  σ₀", f"{start:.3g}", "of hess_init, weight_decay and ess")
    return table


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={entry}" for name, entry in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
