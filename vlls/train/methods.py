"""The methods that the paper compares, one record each: whatever depends on a method is read from here.

The command line, the checks of a config, the presets, grids, figures and tables iterate over :data:`METHODS`. A method
is added by a record in it, or from outside by :func:`register`. This module imports without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from vlls.train._config import RunConfig

__all__ = ["METHODS", "PROPOSED", "SGD", "Method", "register"]


# ---------------------------------------------------------------------- losses
def cross_entropy(config: RunConfig, num_classes: int) -> nn.Module:
    """Cross-entropy with the labels as they are given."""
    from torch import nn

    return nn.CrossEntropyLoss()


def _label_smoothing(config: RunConfig, num_classes: int) -> nn.Module:
    from vlls.smoothing import LabelSmoothingLoss

    return LabelSmoothingLoss(config.smoothing, validate=False)


def _online_label_smoothing(config: RunConfig, num_classes: int) -> nn.Module:
    from vlls.smoothing import OnlineLabelSmoothing

    return OnlineLabelSmoothing(config.alpha, num_classes, config.smoothing, validate=False)


def _mean_prediction(config: RunConfig, num_classes: int) -> nn.Module:
    from vlls.smoothing import MeanPredictionSmoothing

    return MeanPredictionSmoothing(config.smoothing, num_classes, validate=False)


def _entropy(config: RunConfig, num_classes: int) -> nn.Module:
    from vlls.smoothing import EntropySmoothing

    return EntropySmoothing(validate=False)


def _acls(config: RunConfig, num_classes: int) -> nn.Module:
    from vlls.smoothing import ACLS

    return ACLS(config.alpha, config.margin, validate=False)


def _smoothed_uniformly(criterion: Any, num_classes: int) -> Tensor:
    import torch

    return (1 - criterion.smoothing) * torch.eye(num_classes).double() + criterion.smoothing / num_classes


def _smoothed_online(criterion: Any, num_classes: int) -> Tensor:
    import torch

    return criterion.alpha * torch.eye(num_classes).double() + (1 - criterion.alpha) * criterion.soft_labels.double()


# ---------------------------------------------------------------------- optimizers
@dataclass(frozen=True)
class Training:
    """What an optimizer is made for.

    Attributes:
        config: resolved.
        params: the network's parameters, on the device that they are trained on.
        lr: what to give the optimizer as its learning rate; the engine writes it before each step. A 0-d tensor on a
            GPU, where a CUDA graph reads it at every replay.
        num_train: number of training images.
        together: whether other processes train the same network on other images.
    """

    config: RunConfig
    params: Sequence[Tensor]
    lr: Any
    num_train: int
    together: bool = False

    @property
    def of_sgd(self) -> dict[str, Any]:
        """The keywords of SGD, by itself or under another optimizer."""
        config = self.config
        return {"lr": self.lr, "momentum": config.momentum, "weight_decay": config.weight_decay, "fused": True}


def sgd(training: Training) -> Optimizer:
    """SGD with momentum."""
    import torch

    return torch.optim.SGD(training.params, **training.of_sgd)


def _sam(training: Training) -> Optimizer:
    import torch

    from vlls.optim import SAM

    return SAM(training.params, torch.optim.SGD, training.config.rho, **training.of_sgd)


def _ivon(training: Training) -> Optimizer:
    import importlib.util

    from vlls.optim import IVON
    from vlls.optim._cpu import available

    config = training.config
    options: dict[str, Any] = {
        "beta1": config.momentum,
        "hess_init": config.hess_init,
        "weight_decay": config.weight_decay,
        "beta2": 1.0 if config.beta2 is None else config.beta2,  # a Hessian that stays: ivon_fixed and vgd
    }
    options |= {name: value for name in ("hess_approx", "clip_radius") if (value := getattr(config, name)) is not None}
    cuda = training.params[0].is_cuda
    fused = importlib.util.find_spec("triton") is not None if cuda else available()
    ess = config.ess or training.num_train
    return IVON(training.params, training.lr, ess, **options, sync=training.together, fused=fused)


# ---------------------------------------------------------------------- the record
@dataclass(frozen=True, kw_only=True)
class Method:
    r"""A way to train: its loss, its optimizer, and all that tables and figures say of it.

    Attributes:
        name: what configs and the command line call it.
        label: what tables and figures call it.
        colour: of its points and lines, as matplotlib takes it.
        marker: of its points, as matplotlib takes it.
        reads: the hyperparameters that it reads besides those that all methods read, and their values where the data
            set's presets have none; None leaves it to the optimizer. Fields of :class:`.RunConfig`, or names of its
            ``options``.
        presets: values of fields that all methods read, before those of the data set: a schedule, say.
        shares_presets_of: the method whose values in the data sets' presets it takes; its own where empty.
        criterion: makes the loss, from the resolved config and the number of classes; called with logits and classes.
        smoothed_labels: returns, from the loss at the end of a run and the number of classes, the labels that it trains
            towards, (K, K) with a row for each given label (Figure 4); None where they differ between examples.
        optimizer: makes the optimizer from a :class:`Training`; its ``step`` takes a closure.
        variational: whether it learns or holds a posterior: its optimizer is a :class:`.VariationalOptimizer`.
        tuned: the hyperparameter that experiments try values of, if any.
        symbol: what tables and figures write before its value, such as α; without one they leave the value out.
        axis: what figures write under an axis of its values; empty for its name and the method's label.
        sgd_value: its value at which the method is SGD, if there is one.
        passes: passes through the network in a step.
    """

    name: str
    label: str
    colour: Any
    marker: str = "o"
    reads: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Any] = field(default_factory=dict)
    shares_presets_of: str = ""
    criterion: Callable[[RunConfig, int], nn.Module] = cross_entropy
    smoothed_labels: Callable[[Any, int], Tensor] | None = None
    optimizer: Callable[[Training], Optimizer] = sgd
    variational: bool = False
    tuned: str = ""
    symbol: str = ""
    axis: str = ""
    sgd_value: float | None = None
    passes: int = 1


# Colours are seaborn's "colorblind", written out; IVON red and LS gray, as in Figures 1 and 3.
_BLUE, _ORANGE, _GREEN, _PURPLE, _BROWN, _PINK = "#0173b2", "#de8f05", "#029e73", "#cc78bc", "#ca9161", "#fbafe4"
_VARIATIONAL = {"ess": None, "hess_init": None, "clip_radius": None, "mc_samples": 1}

_METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="ivon",
            label="IVON",
            colour="#c1272d",
            # App. C.2 prints beta2 = 1 - e^-5; Chapter 5 says why it means 1e-5
            reads={**_VARIATIONAL, "beta2": 0.99999, "hess_approx": "price"},
            presets={"schedule": "cosine"},
            optimizer=_ivon,
            variational=True,
            tuned="hess_init",
        ),
        Method(name="sgd", label="SGD", colour=_BLUE, marker="v"),
        Method(
            name="ls",
            label="LS",
            colour="0.55",
            marker="s",
            reads={"smoothing": 0.1},
            criterion=_label_smoothing,
            smoothed_labels=_smoothed_uniformly,
            tuned="smoothing",
            symbol="α",
            axis="smoothing rate α of LS",
            sgd_value=0.0,
        ),
        Method(
            name="sam",
            label="SAM",
            colour=_GREEN,
            marker="^",
            reads={"rho": 0.05},  # Foret et al. (2021)
            optimizer=_sam,
            tuned="rho",
            symbol="ρ",
            axis="perturbation ρ of SAM",
            sgd_value=0.0,
            passes=2,
        ),
        Method(
            name="ols",
            label="OLS",
            colour=_PURPLE,
            reads={"smoothing": 0.1, "alpha": 0.5},  # Zhang et al. (2021)
            criterion=_online_label_smoothing,
            smoothed_labels=_smoothed_online,
        ),
        Method(
            name="ivon_fixed",
            label="IVON, fixed variance",
            colour=_ORANGE,
            marker="D",
            reads=_VARIATIONAL,
            presets={"schedule": "cosine"},
            shares_presets_of="ivon",
            optimizer=_ivon,
            variational=True,
            tuned="hess_init",
        ),
        Method(
            name="mean_prediction",
            label="mean prediction",
            colour=_BROWN,
            reads={"smoothing": 0.1},
            criterion=_mean_prediction,
        ),
        Method(name="entropy", label="entropy", colour=_PINK, criterion=_entropy),
        Method(
            name="acls",
            label="ACLS",
            colour="#949494",
            reads={"alpha": 0.1, "margin": 10.0},  # Park et al. (2023)
            criterion=_acls,
        ),
        Method(
            name="vgd",
            label="VGD",
            colour="#56b4e9",
            reads=_VARIATIONAL,
            presets={"schedule": "cosine", "momentum": 0.0},
            shares_presets_of="ivon",
            optimizer=_ivon,
            variational=True,
        ),
    )
}
METHODS: Mapping[str, Method] = MappingProxyType(_METHODS)
"""The methods by name, in the order in which tables and figures have them."""

PROPOSED = "ivon"
"""The paper's method, which tables and figures compare the others with."""

SGD = "sgd"
"""The method that others are at their ``sgd_value``."""


def register(method: Method) -> None:
    """Add a method: configs, the command line, grids, tables and figures know it from then on.

    Call it in a module that every process imports which trains with the method.

    Raises:
        ValueError: if there is one of that name.
    """
    if method.name in _METHODS:
        raise ValueError(
            f"there is a method {method.name!r} already ({_METHODS[method.name].label}); choose another name"
        )
    _METHODS[method.name] = method


def hyperparameters_of() -> set[str]:
    """The hyperparameters that only some methods read."""
    return {name for method in _METHODS.values() for name in method.reads}


def make_optimizer(config: RunConfig, model: nn.Module, num_train: int, *, together: bool = False) -> Optimizer:
    """The optimizer of a run's method.

    Args:
        config: resolved.
        model: on the device that it is trained on.
        num_train: number of training images.
        together: whether other processes train the same model on other images.
    """
    import torch

    params = list(model.parameters())
    lr: Any = torch.zeros((), device=params[0].device) if params[0].is_cuda else 0.0
    return METHODS[config.method].optimizer(Training(config, params, lr, num_train, together))
