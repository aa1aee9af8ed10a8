"""The cells of a sweep, one run each, in the order in which a sweep does them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vlls._names import check_whole_number
from vlls.data._known import DATASETS, check_dataset
from vlls.experiments._grids import Candidates, Experiment, Panel, experiment
from vlls.experiments._protocols import PROTOCOLS, protocol, reductions, title_of
from vlls.train._config import ResolvedConfig, RunConfig
from vlls.train._presets import hess_init_for
from vlls.train.methods import METHODS, SGD


@dataclass(frozen=True)
class Cell:
    """A run of an experiment.

    Attributes:
        experiment: name of the experiment.
        protocol: name of the protocol.
        panel: title of the panel.
        role: ``"main"``, or ``"tune"`` for a run that holds images out to choose the hyperparameter by.
        parameter: the hyperparameter that is tried; empty if none is.
        config: of the run.
        reduced: the reductions from the paper's run, in words.
        also: ``"smoothed_labels"`` to compute them after the run.
        variant: the change to the paper's method, in words.
    """

    experiment: str
    protocol: str
    panel: str
    role: str
    parameter: str
    config: ResolvedConfig
    reduced: str = ""
    also: str = ""
    variant: str = ""

    @property
    def value(self) -> float | None:
        """The value of the hyperparameter that is tried."""
        return self.config[self.parameter] if self.parameter else None

    @property
    def position(self) -> tuple[Any, ...]:
        """Panel, role, method and variant, hyperparameter, value and seed, which identify a cell in its sweep."""
        config = self.config
        return (self.panel, self.role, config.method, self.variant, self.parameter, self.value, config.seed)

    @property
    def label(self) -> str:
        """The name of the cell on the terminal."""
        tried = f" {self.parameter}={self.value:g}" if self.parameter else ""
        held_out = ", to tune" if self.role == "tune" else ""
        tried += f" ({self.variant})" if self.variant else ""
        return f"{self.panel}: {self.config.method}{tried}, seed {self.config.seed}{held_out}"


def panels_at(name: str, size: str) -> list[Panel]:
    """Return the panels of an experiment that a protocol has."""
    return [panel for panel in experiment(name).panels if protocol(size).takes(dict(panel.fields))]


def cells(name: str, size: str = "reduced", *, seeds: int | None = None, tune: bool = True) -> list[Cell]:
    """Return the cells of an experiment, in the order in which a sweep does them.

    Seed 0 comes first, and of it every method once in every panel; then the further values; then the runs that hold
    images out; then the further seeds. A sweep that is stopped is a figure already, with fewer points or seeds.

    Args:
        name: a key of :data:`.EXPERIMENTS`.
        size: a key of :data:`.PROTOCOLS`.
        seeds: number of seeds, 0, 1, ...; None for the protocol's.
        tune: whether to add, for methods with several values, runs at seed 0 that hold images out.

    Raises:
        ValueError: for an unknown experiment, protocol or data set, or no seeds.

    Example:
        >>> grid = cells("fig7", "smoke", seeds=1, tune=False)
        >>> len(grid), grid[0].label
        (60, 'digits, κ = 0.1: ivon, seed 0')
    """
    what, how = experiment(name), protocol(size)
    count = how.seeds if seeds is None else seeds
    check_whole_number(count, "seeds", 1)
    panels = panels_at(name, size)
    if not panels:
        able = [known for known in PROTOCOLS if panels_at(name, known)]
        raise ValueError(f"the protocol {size!r} has none of the panels of {name!r}; choose one of {', '.join(able)}")
    tuned_methods = {entry.method for entry in what.candidates if entry.tune and len(entry.values) > 1}
    if any(METHODS[method].sgd_value is not None for method in tuned_methods):
        tuned_methods.add(SGD)  # it is a value of one of them
    ordered: list[Cell] = []
    tried = [(entry, settings) for entry in what.candidates for settings in entry.settings()]
    tried.sort(key=lambda pair: pair[1] != pair[0].settings()[0])  # the candidate that represents a method comes first
    for seed in range(count):
        of_seed = [_cell(what, size, panel, *pair, seed) for pair in tried for panel in panels]
        ordered += of_seed
        if seed == 0 and tune and how.held_out:
            tuned = [cell for cell in of_seed if cell.config.method in tuned_methods]
            images = {name: _images(name) for name in {cell.config.dataset for cell in tuned}}
            ordered += [_holding_out(cell, how.held_out, n) for cell in tuned if (n := images[cell.config.dataset])]
    unique: dict[Any, Cell] = {}
    for cell in ordered:  # a reduced protocol may make two panels the same
        unique.setdefault((cell.panel, cell.role, cell.config.key), cell)
    return list(unique.values())


def _images(dataset: str) -> int | None:
    """Return the number of training images of a data set; None if it comes with images held out."""
    known = DATASETS.get(dataset)
    if known is not None and known.train_size is not None:
        return known.train_size or None
    from vlls.data import load  # late: it needs torch

    data: Any = load(dataset)
    return None if data.val is not None else len(data.train)


def _cell(what: Experiment, size: str, panel: Panel, entry: Candidates, settings: dict[str, Any], seed: int) -> Cell:
    fields = {**panel.fields, **settings, "seed": seed}
    config = _sized(protocol(size).apply(fields))
    return Cell(
        experiment=what.name,
        protocol=size,
        panel=panel.title.format(dataset=title_of(config.dataset)),
        role="main",
        parameter=entry.parameter,
        config=config,
        reduced=reductions(RunConfig.of(fields), config),
        also=what.also,
        variant=entry.variant,
    )


def _sized(fields: dict[str, Any]) -> ResolvedConfig:
    """Return the config of a cell; values given for the paper's size are scaled to its own."""
    asked = RunConfig.of(fields)
    check_dataset(asked.dataset, asked.labels, "dataset")
    config = asked.located().resolved()
    sized: dict[str, Any] = {}
    if asked.hess_init is not None and config.ess is None and config.images:
        sized["hess_init"] = hess_init_for(asked.hess_init, config.images, config.weight_decay)
    if asked.warmup_epochs is not None and config.schedule != "constant":  # a probe keeps its own
        sized["warmup_epochs"] = min(asked.warmup_epochs, config.epochs / 10)
    return replace(config, **sized)


def _holding_out(cell: Cell, share: float, available: int) -> Cell:
    """Return the same run with a share of its training images held out, with their given labels."""
    values = cell.config.to_dict()
    size = cell.config.train_size or available
    values["validation_size"] = round(share * size)
    if cell.config.train_size is not None:
        values["train_size"] = size - values["validation_size"]
    return replace(cell, role="tune", config=RunConfig.from_dict(values).resolved(), also="")
