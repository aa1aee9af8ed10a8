"""The methods that the paper compares: one table of records, from which everything that depends on a method is read.

The command line, the checks of a config, the presets, grids, figures and tables iterate over :data:`METHODS`. To add a
method to it, write its loss or its optimizer in a new file, and a record here. From outside,
:func:`register` adds one for as long as the program runs; this loss subtracts a multiple of the squared confidence::

    class Confident(torch.nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def forward(self, logits, labels):
            bonus = logits.softmax(dim=1).square().sum(dim=1).mean()
            return torch.nn.functional.cross_entropy(logits, labels) - self.weight * bonus

    def confident(config, num_classes):
        return Confident(config["weight"])

    register(Method(name="confident", reads={"weight": 0.1}, criterion=confident, tuned="weight"))
    run(RunConfig(method="confident", options={"weight": 0.2}))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import vlls
from vlls._names import check_known

if TYPE_CHECKING:
    import torch

    from vlls.train._config import ResolvedConfig

__all__ = ["METHODS", "PROPOSED", "SGD", "Method", "Training", "cross_entropy", "register", "sgd"]


# ---------------------------------------------------------------------- losses
def cross_entropy(config: ResolvedConfig, num_classes: int) -> torch.nn.Module:
    """Cross-entropy with the labels as they are given."""
    from torch import nn

    return nn.CrossEntropyLoss()


def _label_smoothing(config: ResolvedConfig, num_classes: int) -> torch.nn.Module:
    return vlls.LabelSmoothingLoss(config["smoothing"], validate=False)


def _online_label_smoothing(config: ResolvedConfig, num_classes: int) -> torch.nn.Module:
    return vlls.OnlineLabelSmoothing(config["alpha"], num_classes, config["smoothing"], validate=False)


def _mean_prediction(config: ResolvedConfig, num_classes: int) -> torch.nn.Module:
    return vlls.MeanPredictionSmoothing(config["smoothing"], num_classes, validate=False)


def _entropy(config: ResolvedConfig, num_classes: int) -> torch.nn.Module:
    return vlls.EntropySmoothing(validate=False)


def _acls(config: ResolvedConfig, num_classes: int) -> torch.nn.Module:
    return vlls.ACLS(config["alpha"], config["margin"], validate=False)


def _generalized_cross_entropy(config: ResolvedConfig, num_classes: int) -> torch.nn.Module:
    return vlls.GeneralizedCrossEntropy(config["q"], validate=False)


def _symmetric_cross_entropy(config: ResolvedConfig, num_classes: int) -> torch.nn.Module:
    weights = config["ce_weight"], config["rce_weight"]
    return vlls.SymmetricCrossEntropy(*weights, config["log_zero"], validate=False)


def _early_learning(config: ResolvedConfig, num_classes: int, num_train: int) -> torch.nn.Module:
    options = config["strength"], config["decay"]
    return vlls.EarlyLearningRegularization(num_train, num_classes, *options, validate=False)


def _smoothed_uniformly(criterion: Any, num_classes: int) -> torch.Tensor:
    import torch

    return (1 - criterion.smoothing) * torch.eye(num_classes).double() + criterion.smoothing / num_classes


def _smoothed_online(criterion: Any, num_classes: int) -> torch.Tensor:
    import torch

    return criterion.alpha * torch.eye(num_classes).double() + (1 - criterion.alpha) * criterion.soft_labels.double()


# ---------------------------------------------------------------------- optimizers
@dataclass(frozen=True)
class Training:
    """The run that an optimizer is made for.

    Attributes:
        config: of the run.
        params: the network's parameters, on the device that they are trained on.
        lr: the learning rate to give to the optimizer, which the engine sets before each step. On a GPU it is a 0-d
            tensor that a CUDA graph reads at every replay.
        num_train: number of training images.
        together: whether other processes train the same network on other images.
    """

    config: ResolvedConfig
    params: Sequence[torch.Tensor]
    lr: Any
    num_train: int
    together: bool = False

    @property
    def sgd_options(self) -> dict[str, Any]:
        """The keywords of SGD, alone or inside another optimizer."""
        config = self.config
        return {"lr": self.lr, "momentum": config.momentum, "weight_decay": config.weight_decay, "fused": True}


def sgd(training: Training) -> torch.optim.Optimizer:
    """SGD with momentum."""
    import torch

    return torch.optim.SGD(training.params, **training.sgd_options)


def _sam(training: Training) -> torch.optim.Optimizer:
    import torch

    return vlls.SAM(training.params, torch.optim.SGD, training.config["rho"], **training.sgd_options)


def _ivon_options(training: Training) -> dict[str, Any]:
    config = training.config
    options: dict[str, Any] = {
        "beta1": config.momentum,
        "hess_init": config["hess_init"],
        "weight_decay": config.weight_decay,
        "beta2": 1.0 if config.beta2 is None else config.beta2,  # a Hessian that stays: ivon_fixed and vgd
        "sync": training.together,
        "fused": _has_kernel(training),
    }
    optional = ("hess_approx", "clip_radius", "hess_clip", "hess_every")
    options |= {name: value for name in optional if (value := config[name]) is not None}
    return {"params": training.params, "lr": training.lr, "ess": config.ess_for(training.num_train), **options}


def _ivon(training: Training) -> torch.optim.Optimizer:
    return vlls.IVON(**_ivon_options(training))


def _ivon_permuted(training: Training) -> torch.optim.Optimizer:
    from vlls.optim.ivon._controls import PermutedIVON
    from vlls.train._prepare import derive_seed  # late: it reads configs, which are checked by this module's table

    return PermutedIVON(**_ivon_options(training), seed=derive_seed(training.config.seed, "permutation"))


def _ivon_isotropic(training: Training) -> torch.optim.Optimizer:
    from vlls.optim.ivon._controls import IsotropicIVON

    return IsotropicIVON(**_ivon_options(training))


def _evon(training: Training) -> torch.optim.Optimizer:
    return vlls.EVON(**_ivon_options(training), **{name: training.config[name] for name in _EIGENBASIS})


def _has_kernel(training: Training) -> bool:
    """Return whether IVON can take its step in one kernel here, by Triton or a C compiler."""
    from vlls.optim.ivon._cpu import KERNEL

    return find_spec("triton") is not None if training.params[0].is_cuda else KERNEL.available()


# ---------------------------------------------------------------------- the record
@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    r"""A way to train: its loss, its optimizer, and how tables and figures show it.

    Only ``name`` is required; the other fields are SGD's by default. The two builders are functions of a module, not
    lambdas, if the method is to run in the processes of a sweep: a config takes its method's record along when it is
    pickled, and the process that reads it registers the method.

    Attributes:
        name: in configs and on the command line.
        label: in tables and figures; the name if empty.
        colour: of its points and lines, as matplotlib takes it.
        marker: of its points, as matplotlib takes it.
        reads: the hyperparameters that it reads besides those that all methods read, with the values that they take
            where a data set's presets have none; None leaves the choice to the optimizer. They are fields of
            :class:`.RunConfig`, or else names of its ``options``.
        presets: values of fields that all methods read, such as the schedule. They replace the data set's general
            values; values that the data set has for this method replace them in turn.
        shares_presets_of: the method whose values in the data sets' presets it takes; its own if empty.
        criterion: makes the loss from the resolved config and the number of classes: a module that is called with
            logits (B, K) and classes (B,). If it has a method ``next_epoch``, that is called after each epoch.
        by_example: whether the loss remembers each example: it is then made with the number of training images as third
            argument, and called with the indices (B,) of the batch among them as third argument.
        smoothed_labels: returns the labels that a loss trains towards at the end of a run, from it and the number of
            classes: (K, K) with a row for each given label (Figure 4); None if they differ between examples.
        optimizer: makes the optimizer from a :class:`.Training`. Its ``step`` takes a closure. If a CUDA graph cannot
            hold its steps, it says so by an attribute ``capturable``.
        variational: whether it trains at samples of a posterior: its optimizer is a :class:`.VariationalOptimizer`.
        tuned: the hyperparameter that experiments try values of, if any.
        symbol: the letter before its value in tables and figures, such as α; without one they leave the value out.
        axis: the title of an axis of its values; made from its name and the method's label if empty.
        sgd_value: its value at which the method is SGD, if there is one.
        passes: forward and backward passes of a step.
    """

    name: str
    label: str = ""
    colour: Any = "#555555"
    marker: str = "o"
    reads: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Any] = field(default_factory=dict)
    shares_presets_of: str = ""
    criterion: Callable[..., torch.nn.Module] = field(default_factory=lambda: cross_entropy)
    by_example: bool = False
    smoothed_labels: Callable[[Any, int], torch.Tensor] | None = None
    optimizer: Callable[[Training], torch.optim.Optimizer] = field(default_factory=lambda: sgd)
    variational: bool = False
    tuned: str = ""
    symbol: str = ""
    axis: str = ""
    sgd_value: float | None = None
    passes: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)


# Colours are seaborn's "colorblind", written out; IVON red and LS gray, as in Figures 1 and 3.
_BLUE, _ORANGE, _GREEN, _PURPLE, _BROWN, _PINK = "#0173b2", "#de8f05", "#029e73", "#cc78bc", "#ca9161", "#fbafe4"
_VARIATIONAL: dict[str, Any] = {"posterior": "paper", "ess": None, "hess_init": None, "clip_radius": None}
_VARIATIONAL |= {"mc_samples": 1}

# App. C.2 prints beta2 = 1 - e^-5; Chapter 5 says why it means 1e-5
_IVON = {**_VARIATIONAL, "beta2": 0.99999, "hess_approx": "price", "hess_clip": None, "hess_every": 1}
_LIKE_IVON: dict[str, Any] = {"presets": {"schedule": "cosine"}, "shares_presets_of": "ivon", "variational": True}
_EIGENBASIS: dict[str, Any] = {"interval": 20, "basis_decay": 0.995, "max_axis": 1024}
_ELR = {"strength": 3.0, "decay": 0.7}  # Liu et al. (2020)

_METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="ivon",
            label="IVON",
            colour="#c1272d",
            reads=_IVON,
            presets={"schedule": "cosine"},
            optimizer=_ivon,
            variational=True,
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
            optimizer=_ivon,
            **_LIKE_IVON,
            tuned="hess_init",
            symbol="$h_0$",
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
        Method(
            name="gce",
            label="GCE",
            colour="#8c564b",
            marker="P",
            reads={"q": 0.7},  # Zhang and Sabuncu (2018)
            criterion=_generalized_cross_entropy,
            tuned="q",
            symbol="q",
        ),
        Method(
            name="sce",
            label="SCE",
            colour="#17becf",
            marker="X",
            reads={"ce_weight": 0.1, "rce_weight": 1.0, "log_zero": -4.0},  # Wang et al. (2019)
            criterion=_symmetric_cross_entropy,
            tuned="ce_weight",
            symbol="α",
        ),
        Method(
            name="elr",
            label="ELR",
            colour="#bcbd22",
            marker="p",
            reads=_ELR,
            criterion=_early_learning,
            by_example=True,
            tuned="strength",
            symbol="λ",
        ),
        Method(
            name="ivon_ls",
            label="IVON with LS",
            colour="#d55e00",
            marker="h",
            reads={**_IVON, "smoothing": 0.1},
            criterion=_label_smoothing,
            smoothed_labels=_smoothed_uniformly,
            optimizer=_ivon,
            **_LIKE_IVON,
            tuned="smoothing",
            symbol="α",
        ),
        Method(
            name="ivon_elr",
            label="IVON with ELR",
            colour="#7f1d1d",
            marker="H",
            reads={**_IVON, **_ELR},
            criterion=_early_learning,
            by_example=True,
            optimizer=_ivon,
            **_LIKE_IVON,
            tuned="strength",
            symbol="λ",
        ),
        Method(
            name="ivon_permuted",
            label="IVON, permuted σ",
            colour="#e377c2",
            marker="<",
            reads=_IVON,
            optimizer=_ivon_permuted,
            **_LIKE_IVON,
        ),
        Method(
            name="ivon_isotropic",
            label="IVON, isotropic σ",
            colour="#9467bd",
            marker=">",
            reads=_IVON,
            optimizer=_ivon_isotropic,
            **_LIKE_IVON,
        ),
        Method(
            name="evon",
            label="EVON",
            colour="#0b6e4f",
            marker="*",
            reads={**_IVON, **_EIGENBASIS},
            optimizer=_evon,
            **_LIKE_IVON,
            tuned="interval",
            symbol="T",
        ),
    )
}
METHODS: Mapping[str, Method] = MappingProxyType(_METHODS)
"""The methods by name, in the order in which tables and figures have them."""

PROPOSED = "ivon"
"""The paper's method, which tables and figures compare the others with."""

SGD = "sgd"
"""The method that others are at their ``sgd_value``."""

OURS = frozenset(_METHODS)  # not registered from outside, so every process knows them
_READ_BY_SOME = frozenset(name for method in _METHODS.values() for name in method.reads)


def register(method: Method) -> None:
    """Add a method: configs, the command line, grids, tables and figures know it from then on.

    Raises:
        ValueError: if there is one of that name, or its record names fields that there are not.
    """
    from vlls.train._config import RunConfig  # late: configs are checked by this module's table

    if method.name in _METHODS:
        raise ValueError(f"a method {method.name!r} is registered already; choose another name")
    names = {entry.name for entry in fields(RunConfig)}
    shared = names - _READ_BY_SOME
    if taken := sorted(shared & method.reads.keys()):
        raise ValueError(
            f"reads={taken[0]!r} of the method {method.name!r} is read by all methods; give its value in presets"
        )
    for name in method.presets:
        check_known(name, sorted(shared), "presets")
    if method.tuned:
        check_known(method.tuned, sorted(names | method.reads.keys()), "tuned")
    if method.shares_presets_of:
        check_known(method.shares_presets_of, _METHODS, "shares_presets_of")
    _METHODS[method.name] = method


def unread_by(name: str) -> set[str]:
    """Return the hyperparameters that other methods read and this one does not."""
    return {read for method in _METHODS.values() for read in method.reads} - _METHODS[name].reads.keys()


def make_criterion(config: ResolvedConfig, num_classes: int, num_train: int) -> torch.nn.Module:
    """Return the loss of a run's method."""
    method = METHODS[config.method]
    return method.criterion(config, num_classes, *((num_train,) if method.by_example else ()))


def make_optimizer(
    config: ResolvedConfig, model: torch.nn.Module, num_train: int, *, together: bool = False
) -> torch.optim.Optimizer:
    """Return the optimizer of a run's method."""
    import torch

    params = list(model.parameters())
    lr: Any = torch.zeros((), device=params[0].device) if params[0].is_cuda else 0.0
    return METHODS[config.method].optimizer(Training(config, params, lr, num_train, together))
