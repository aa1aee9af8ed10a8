"""Every experiment of the paper: grids of runs, sweeps over them, and tables of the results.

:data:`.EXPERIMENTS` holds a grid for each figure, with the paper's values, and :func:`~vlls.experiments.register` adds
one; :func:`.sweep` does the runs that are not done yet; :func:`.collate` makes a table of them and :func:`.choose`
picks hyperparameters. The commands ``vlls sweep``, ``vlls results`` and ``vlls figure`` are the same from a terminal.
It needs the extra ``train``; a cluster needs ``ray``.
"""

from typing import TYPE_CHECKING

from vlls._lazy import lazy
from vlls.experiments._cells import Cell, cells
from vlls.experiments._comparison import compare, coverage
from vlls.experiments._grids import EXPERIMENTS, Candidates, Experiment, Panel, experiment, register
from vlls.experiments._jobs import Executor, Job, Outcome
from vlls.experiments._protocols import PROTOCOLS, Protocol, protocol
from vlls.experiments._results import accuracy_table, candidates_table, choose, collate, highest_protocol, load_table
from vlls.experiments._sweep import SweepReporter, SweepResult, sweep

__all__ = [
    "EXPERIMENTS",
    "PROTOCOLS",
    "Candidates",
    "Cell",
    "Executor",
    "Experiment",
    "Job",
    "LocalExecutor",
    "Outcome",
    "Panel",
    "Protocol",
    "RayExecutor",
    "SweepReporter",
    "SweepResult",
    "accuracy_table",
    "candidates_table",
    "cells",
    "choose",
    "collate",
    "compare",
    "coverage",
    "experiment",
    "highest_protocol",
    "load_table",
    "protocol",
    "register",
    "smoothed_labels",
    "sweep",
]

if TYPE_CHECKING:
    from vlls.experiments._executors import LocalExecutor
    from vlls.experiments._ray import RayExecutor
    from vlls.experiments._smoothed import smoothed_labels
else:  # these need torch
    __getattr__, __dir__ = lazy(__name__, ("_executors", "_smoothed", "_ray"))
