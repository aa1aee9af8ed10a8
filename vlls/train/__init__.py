"""Training runs of the paper: any of its methods, on any of its data sets, with any of its label errors.

:class:`RunConfig` describes a run, :func:`run` trains it and returns a :class:`RunResult`. The command ``vlls
train`` is the same from a terminal. :func:`load_run` gives back the network, the posterior and the images of a run that
was kept.
"""

from typing import TYPE_CHECKING

from vlls._lazy import lazy

__all__ = [
    "METHODS",
    "Images",
    "Interrupted",
    "LoadedRun",
    "Method",
    "Progress",
    "Reporter",
    "ResolvedConfig",
    "RunConfig",
    "RunData",
    "RunImages",
    "RunResult",
    "TensorBoard",
    "classification_metrics",
    "hyperparameters",
    "load_run",
    "register",
    "run",
]

if TYPE_CHECKING:
    from vlls.train._config import ResolvedConfig, RunConfig
    from vlls.train._loop import Interrupted, Reporter, RunResult, run
    from vlls.train._metrics import classification_metrics
    from vlls.train._prepare import Images, RunData
    from vlls.train._presets import hyperparameters
    from vlls.train._reporters import Progress, TensorBoard
    from vlls.train._restore import LoadedRun, RunImages, load_run
    from vlls.train.methods import METHODS, Method, register
else:
    homes = ("_config", "methods", "_presets", "_metrics", "_prepare", "_loop", "_restore", "_reporters")
    __getattr__, __dir__ = lazy(__name__, homes)
