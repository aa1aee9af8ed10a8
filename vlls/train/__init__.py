"""Training runs of the paper: any of its methods, on any of its data sets, with any of its label errors.

:class:`RunConfig` says what a run is, :func:`run` trains it and returns a :class:`RunResult`. The command ``vlls
train`` is the same from a terminal.
"""

from vlls.train.config import RunConfig
from vlls.train.loop import Interrupted, Reporter, RunResult, run
from vlls.train.presets import METHODS, hyperparameters

__all__ = ["METHODS", "Interrupted", "Reporter", "RunConfig", "RunResult", "hyperparameters", "run"]
