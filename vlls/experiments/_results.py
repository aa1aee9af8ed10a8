"""Finished runs as one tidy table, and the choice of hyperparameters from it."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlls._errors import needs, one_line, pip_command
from vlls._files import expanded, make_folder, write_atomically
from vlls._names import check_known
from vlls.experiments._cells import Cell
from vlls.experiments._choice import best_runs, by_candidate, check_method, compared, finished, sgd_last
from vlls.experiments._folder import ResultsFolder, skipped
from vlls.experiments._protocols import PROTOCOLS
from vlls.train._config import RunConfig
from vlls.train.methods import METHODS, PROPOSED, Method

if TYPE_CHECKING:
    from pandas import DataFrame

PREDICTED = ("test", "posterior", "ema", "validation")
METRICS = (
    *(f"{part}_{name}" for part in PREDICTED for name in ("accuracy", "nll", "ece", "brier")),
    *("clean_part_accuracy", "memorised", "recovered"),
    *("std_start", "std_5", "std_50", "std_95", "learned_share_5", "learned_share", "learned_share_95"),
)
EPOCHS = ("best_test_accuracy", "best_epoch", "chosen_test_accuracy", "chosen_epoch")
MACHINE = (
    *("wall_seconds", "side_by_side", "images_per_second", "peak_memory_bytes"),
    *("device", "torch", "vlls", "commit", "date"),
)
POSITION = ("experiment", "protocol", "role", "panel", "method", "parameter", "value", "variant", "seed", "status")
CONFIG = tuple(f.name for f in fields(RunConfig) if f.name not in (*POSITION, "options"))
COLUMNS = (*POSITION, *METRICS, *EPOCHS, "posterior_std", "train_images", *CONFIG, "reduced", *MACHINE, "key")
CURVE_COLUMNS = ("key", "epoch", "train_loss", "train_accuracy", "test_accuracy", "validation_accuracy")
LABEL_COLUMNS = "experiment protocol panel method value seed label other smoothed mean_noise".split()
TEXTS = ("parameter", "variant", "reduced")  # may be empty
FORMATS = (".csv", ".parquet")
"""The endings of the files that a table can be saved to."""

HOW = ("test", "validation")
"""Where hyperparameters are chosen, on the test images as the paper does or on held-out ones."""


def collate(
    results: str | os.PathLike[str], *, experiment: str | None = None, protocol: str | None = None
) -> DataFrame:
    """Return one row for every finished or diverged run of every sweep in a results folder.

    Args:
        results: the folder.
        experiment: only this one.
        protocol: only this one.

    Returns:
        A table with the position of the run in its experiment (``experiment``, ``protocol``, ``role``, ``panel``,
        ``method``, ``parameter``, ``value``, ``variant``, ``seed``, ``status``), its last metrics as fractions, the
        test accuracies of two of its measured epochs, ``best_test_accuracy`` and ``chosen_test_accuracy``, all fields
        of its config, the reductions in words (``reduced``), and its provenance: seconds, how many runs shared the
        device, images a second, device, versions, commit and date; last, a column for each option of methods that were
        registered from outside. ``best_epoch`` has the highest test accuracy; ``chosen_epoch`` has the highest
        accuracy on held-out images, with their given labels, if there are any.

    A record, or the list of a sweep's runs, that cannot be read is left out, with a warning that names its file.

    Raises:
        ValueError: if the folder is not a results folder.

    Example:
        >>> import tempfile
        >>> len(collate(tempfile.mkdtemp()))
        0
    """
    found = _read(results, lambda folder, cell: folder.record(cell.config), experiment, protocol)
    rows = [_row(cell, record) for cell, record in found]
    return _frame(rows, list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])))


def collate_labels(
    results: str | os.PathLike[str], *, experiment: str | None = None, protocol: str | None = None
) -> DataFrame:
    """Return the smoothed labels that were computed after runs, as :func:`collate` returns the runs.

    A row is a pair of classes of a run: the given one, ``label``, and each ``other``. Its ``smoothed`` is the
    entry of the mean smoothed label and, of variational methods, ``mean_noise`` (:func:`.smoothed_labels`).
    """
    rows: list[tuple[Any, ...]] = []
    for cell, labels in _read(results, ResultsFolder.smoothed_labels, experiment, protocol):
        position = (cell.experiment, cell.protocol, cell.panel, cell.config.method, cell.value, cell.config.seed)
        names, mean = labels["classes"], labels.get("mean_noise")
        for i, label in enumerate(names):
            for j, other in enumerate(names):
                rows.append((*position, label, other, labels["smoothed"][i][j], None if mean is None else mean[i][j]))
    return _frame(rows, LABEL_COLUMNS).astype({"value": float, "mean_noise": float})


def collate_curves(
    results: str | os.PathLike[str], *, experiment: str | None = None, protocol: str | None = None
) -> DataFrame:
    """Return a row for each epoch of the runs of :func:`collate`, each run once; ``key`` is that of its row there."""
    found = _read(results, lambda folder, cell: folder.record(cell.config), experiment, protocol)
    records = {cell.config.key: record for cell, record in found}
    rows = [{"key": key, **epoch} for key, record in records.items() for epoch in record["epochs"]]
    return _frame(rows, CURVE_COLUMNS).dropna(axis=1, how="all")


def _read(
    results: str | os.PathLike[str],
    read: Callable[[ResultsFolder, Cell], dict[str, Any] | None],
    experiment: str | None,
    protocol: str | None,
) -> list[tuple[Cell, dict[str, Any]]]:
    """Return the requested cells of a folder's sweeps, each with its record, without those that cannot be read."""
    folder = ResultsFolder(results)
    if not folder.path.exists():
        raise ValueError(
            f"there is no results folder {folder.path}; pass the one that a sweep was given with --results"
        )
    cells = folder.cells(skip_damaged=True)
    cells = [c for c in cells if experiment in (None, c.experiment) and protocol in (None, c.protocol)]
    return [(cell, found) for cell in cells if (found := skipped(partial(read, folder), cell)) is not None]


def _frame(rows: Sequence[Any], columns: Sequence[str]) -> DataFrame:
    return needs("pandas", "a table of results").DataFrame(rows, columns=columns)


def _row(cell: Cell, record: dict[str, Any]) -> dict[str, Any]:
    config, final, machine = cell.config, record["final"], record["machine"]
    images = record["counts"]["train_images"]
    row = dict(config.options) | {"status": record["status"], "train_images": images}
    row |= {name: getattr(cell, name) for name in ("experiment", "protocol", "role", "panel", "parameter")}
    row |= {"value": cell.value, "variant": cell.variant}
    row |= {name: final.get(name) for name in METRICS}
    row |= _of_epochs(record["epochs"], "test" if config.ema is None else "ema")
    row |= {name: getattr(config, name) for name in ("method", "seed", *CONFIG)}
    row |= {"reduced": cell.reduced, "key": config.key} | record.get("measured", {})
    row |= {name: machine.get(name) for name in MACHINE}
    row["milestones"] = None if config.milestones is None else " ".join(f"{m:g}" for m in config.milestones)
    fixed = METHODS[config.method].variational and config.beta2 is None  # its variance is not learned
    if fixed and config.hess_init is not None:
        row["posterior_std"] = (config.ess_for(images) * (config.hess_init + config.weight_decay)) ** -0.5
    return row


def _of_epochs(epochs: Sequence[dict[str, Any]], by: str) -> dict[str, Any]:
    """Return the epoch of highest accuracy on the test images, and on images held out, each with its test accuracy.

    Test accuracies are of the weights (``by`` is ``"test"``), or of their average (``"ema"``).
    """
    row: dict[str, Any] = {}
    for name, how in (("best", by), ("chosen", "validation")):
        needed = {f"{how}_accuracy", f"{by}_accuracy"}
        measured = [epoch for epoch in epochs if all(epoch.get(name) is not None for name in needed)]
        at = max(measured, key=lambda epoch: epoch[f"{how}_accuracy"], default={})
        row |= {f"{name}_test_accuracy": at.get(f"{by}_accuracy"), f"{name}_epoch": at.get("epoch")}
    return row


# ---------------------------------------------------------------------- files
def save_table(table: DataFrame, path: str | os.PathLike[str], *, add: bool = False) -> None:
    """Write a table as CSV or Parquet, by the file's ending.

    Args:
        table: of :func:`collate` and the like.
        path: of the file.
        add: whether rows of the file, a CSV, that are of other experiments or protocols stay, as they are.

    Raises:
        ValueError: for another ending, an older file that is no table of runs, or where Parquet's package is missing.
        OSError: if the file cannot be written; an older one is as it was.
    """
    path = expanded(path)
    if path.suffix not in FORMATS:
        raise ValueError(
            f"{path} ends in {path.suffix or 'nothing'}; choose a name that ends in {' or '.join(FORMATS)}"
        )
    make_folder(path.parent)
    if path.suffix == ".csv":
        text = table.to_csv(index=False, lineterminator="\n")
        write_atomically(path, (_added(path, text) if add and path.exists() else text).encode())
        return
    if add:
        raise ValueError(f"{path} cannot be added to; choose a name that ends in .csv")
    try:
        content = table.to_parquet(index=False)
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow, which is not installed: pip install pyarrow, or write .csv") from error
    write_atomically(path, content)


def _added(path: Path, text: str) -> str:
    """Return a CSV of runs with the rows of an older file whose experiment and protocol it lacks, highest first."""
    new = list(csv.DictReader(io.StringIO(text)))
    old = list(csv.DictReader(io.StringIO(path.read_text())))
    if old and not {"experiment", "protocol", "key"} <= old[0].keys():
        raise ValueError(f"{path} is no table of runs; choose another name")
    sweeps = {(row["experiment"], row["protocol"]) for row in new}
    rows = new + [row for row in old if (row["experiment"], row["protocol"]) not in sweeps]
    order = list(PROTOCOLS)
    rows.sort(key=lambda row: order.index(row["protocol"]) if row["protocol"] in order else len(order))
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    there = [name for name in names if any(name in row for row in rows)]
    written = io.StringIO()
    writer = csv.DictWriter(written, there, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def load_table(path: str | os.PathLike[str]) -> DataFrame:
    """Read a table that ``vlls results`` wrote; one that is not there is empty.

    Raises:
        ValueError: if it cannot be read.

    Example:
        >>> len(load_table("nothing.csv"))
        0
    """
    needs("pandas", "a table of results")
    import pandas as pd

    path = expanded(path)
    if not path.exists():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str))
    except ImportError as error:
        raise ValueError(f"the table {path} needs pyarrow, which is not installed: {pip_command('pyarrow')}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"the table {path} cannot be read ({one_line(error)})") from error
    for name in TEXTS:
        if name in table:
            table[name] = table[name].fillna("")
    if "variant" not in table and "value" in table and "role" in table:  # of an older version
        table.insert(table.columns.get_loc("value") + 1, "variant", "")
    return table


def highest_protocol(table: DataFrame) -> DataFrame:
    """Return the rows of the highest protocol among those in the table.

    Raises:
        ValueError: for an unknown protocol.
    """
    if not len(table):
        return table
    for name in table["protocol"].unique():
        check_known(name, tuple(PROTOCOLS), "protocol")
    best = next(name for name in PROTOCOLS if name in set(table["protocol"]))
    return table[table["protocol"] == best]


# ---------------------------------------------------------------------- the choice of hyperparameters
def choose(table: DataFrame, *, how: str = "test", methods: Sequence[str] | None = None) -> DataFrame:
    r"""Choose each method's hyperparameter in every panel, and return its accuracy.

    As the paper does it (``how="test"``), the value is the one with the best mean accuracy on the test images
    themselves. The fair way (``how="validation"``) takes the value with the best accuracy on images that were held out
    of the training images, with their given labels, and reads the test accuracy of the runs that were trained on all
    images with that value. SGD is among the candidates of LS, as :math:`\alpha = 0`, and of SAM, as :math:`\rho = 0`.

    Args:
        table: of :func:`collate`, with one protocol.
        how: ``"test"`` or ``"validation"``.
        methods: their names; None for IVON, SGD, and all that are SGD at one of their values, as LS and SAM are.

    Returns:
        One row a panel and method, with ``panel``, ``method``, ``value`` (0 where SGD was chosen), ``accuracy`` and
        ``std`` over seeds in per cent, ``seeds``, ``diverged`` (runs left out of the mean).

    Raises:
        ValueError: for another ``how``, an unknown method, or several protocols or experiments.

    Example:
        >>> choose(load_table("nothing.csv")).empty
        True
    """
    import pandas as pd

    check_known(how, HOW, "how")
    _check_one(table)
    methods = compared() if methods is None else methods
    for method in methods:
        check_method(method)
    rows = []
    for panel in table["panel"].unique():
        of_panel = table[table["panel"] == panel]
        for method in methods:
            if len(best := best_runs(of_panel, method, how)):
                rows.append({"panel": panel, "method": method, **_summary(best)})
    names = ["panel", "method", "value", "accuracy", "std", "seeds", "diverged"]
    return pd.DataFrame(rows, columns=names)


def _check_one(table: DataFrame) -> None:
    """Raise a ValueError for a table of several protocols or experiments."""
    for name in ("protocol", "experiment"):
        if table[name].nunique() > 1:
            found = ", ".join(map(str, table[name].unique()))
            raise ValueError(f"the table holds several values of {name} ({found}); choose one of them")


def _summary(runs: DataFrame) -> dict[str, Any]:
    """Summarise the accuracy of runs with one value."""
    value, accuracy = float(runs["value"].iloc[0]), 100 * finished(runs)["test_accuracy"]
    return {
        "value": None if math.isnan(value) else value,
        "accuracy": float(accuracy.mean()),
        "std": float(accuracy.std()),  # NaN with one seed
        "seeds": len(accuracy),
        "diverged": int((runs["status"] == "diverged").sum()),
    }


def accuracy_table(table: DataFrame, *, how: str = "test") -> DataFrame:
    """Return the accuracies that :func:`choose` finds as a table to read: a row for each panel, a column a method.

    Args:
        table: of :func:`collate`, with one protocol and experiment.
        how: as for :func:`choose`.

    Returns:
        Text such as ``"91.2 ± 0.3 (α = 0.5)"`` for ``IVON``, ``LS``, ``SAM`` and ``SGD``, in per cent with the
        standard deviation over seeds; and in points how far IVON is above LS and SAM: ``IVON − LS``, ``IVON − SAM``.
        Registered methods that are SGD at one of their values have columns as LS and SAM do.

    Raises:
        ValueError: as :func:`choose` does.

    Example:
        >>> accuracy_table(load_table("nothing.csv")).columns.tolist()
        ['IVON', 'LS', 'SAM', 'SGD', 'IVON − LS', 'IVON − SAM']
    """
    import pandas as pd

    chosen = choose(table, how=how).set_index(["panel", "method"])
    records = [METHODS[name] for name in sgd_last(compared())]
    ours, others = METHODS[PROPOSED].label, [record for record in records if record.sgd_value is not None]
    rows = {}
    for panel in chosen.index.get_level_values("panel").unique():
        of_panel = chosen.loc[panel]
        row = {record.label: _text(of_panel, record) for record in records}
        for other in others:
            both = {PROPOSED, other.name} <= set(of_panel.index)
            gain = of_panel.loc[PROPOSED, "accuracy"] - of_panel.loc[other.name, "accuracy"] if both else None
            row[f"{ours} − {other.label}"] = "" if gain is None else f"{gain:+.1f}".replace("-", "−")
        rows[panel] = row
    names = [record.label for record in records] + [f"{ours} − {other.label}" for other in others]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def candidates_table(table: DataFrame) -> DataFrame:
    """Return the accuracies of every candidate, each value and variant of a method, at several epochs side by side.

    Args:
        table: of :func:`collate`, with one protocol and experiment.

    Returns:
        A row for each candidate, such as ``"LS, α = 0.5"`` or ``"SGD, cosine and warm-up"``, a column a panel, with
        text such as ``"81.76 (82.16)"``: the test accuracy in per cent after the last epoch and, in brackets, that of
        the best measured epoch; where runs held images out, also that of the epoch which these choose, with their
        given labels. With several seeds each is a mean ± one standard deviation.

    Raises:
        ValueError: for several protocols or experiments, or an unknown method.

    Example:
        >>> candidates_table(load_table("nothing.csv")).empty
        True
    """
    import pandas as pd

    _check_one(table)
    runs = table[table["role"] == "main"]
    panels = list(runs["panel"].unique())
    rows = {
        label: [_epochs_text(of_candidate[of_candidate["panel"] == panel]) for panel in panels]
        for label, of_candidate in by_candidate(runs).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=panels)


def _epochs_text(runs: DataFrame) -> str:
    """The accuracies of a candidate in one panel: last epoch (best, chosen)."""
    done, diverged = finished(runs), int((runs["status"] == "diverged").sum())
    texts = []
    for name in ("test_accuracy", "best_test_accuracy", "chosen_test_accuracy"):
        if name not in done:
            continue
        accuracy = 100 * done[name].dropna().astype(float)
        if len(accuracy):
            texts.append(f"{accuracy.mean():.2f}" + (f" ± {accuracy.std():.2f}" if len(accuracy) > 1 else ""))
    told = [texts[0] + (f" ({', '.join(texts[1:])})" if texts[1:] else "")] if texts else []
    return ", ".join(told + ([f"{diverged} diverged"] if diverged else []))


def _text(chosen: DataFrame, method: Method) -> str:
    if method.name not in chosen.index:
        return ""
    row = chosen.loc[method.name]
    text = f"{row['accuracy']:.1f}"
    if row["seeds"] > 1:
        text += f" ± {row['std']:.1f}"
    if method.symbol and row["value"] == row["value"]:
        text += f" ({method.symbol} = {row['value']:g})"
    return text + (f", {row['diverged']:g} diverged" if row["diverged"] else "")
