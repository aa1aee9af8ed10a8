"""A training run before it begins: a frozen :class:`RunConfig`, its resolved form, and the key that names it."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, TypeVar

from vlls._names import check_known, check_whole_number, kind_of
from vlls.data import _known
from vlls.data._rates import check_errors
from vlls.models import __all__ as MODELS
from vlls.train._keys import run_key
from vlls.train._presets import ESS_TO_LEARN, settings
from vlls.train.methods import METHODS, OURS, Method, register, unread_by

__all__ = ["ResolvedConfig", "RunConfig"]

_NAMES = {
    "model": MODELS,
    "schedule": ("step", "cosine", "constant"),
    "posterior": ("paper", "learned"),
    "hess_approx": ("price", "gradsq"),
    "precision": ("auto", "float32", "bfloat16"),
}
_LEAST = {"image_size": 8, "train_size": 1, "validation_size": 0, "epochs": 1, "batch_size": 1, "mc_samples": 1}
_LEAST |= {"hess_every": 1, "eval_every": 1, "thorough_every": 1, "eval_samples": 0, "seed": 0}
_NOT_NEGATIVE = ("lr", "rho", "warmup_epochs", "weight_decay", "margin")
_POSITIVE = ("ess", "hess_init", "clip_radius", "hess_clip")
_FRACTIONS = ("momentum", "alpha", "beta2")

C = TypeVar("C", bound="RunConfig")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunConfig:
    r"""One training run of the paper: data, label errors, method, hyperparameters and seed.

    A field left at None takes the value that the paper gives for this data set, method and corruption
    (:func:`.hyperparameters`); :meth:`resolved` fills them in. A field that the method does not read must stay None.

    Args:
        dataset: a name of :func:`.load`, or the path of a folder of images by class.
        labels: human labels in place of the data set's, such as ``"cifar10n:worse_label"``.
        train_size: number of training images, drawn at random by ``seed``; None for all.
        validation_size: number of further training images held out, with their given labels, to choose
            hyperparameters by.
        image_size: height and width in pixels that the network sees of images in files: of the middle, a square, scaled
            to this size; the rest of images that are not square is cut off; None for 224.
        corruption: ``"none"``, ``"symmetric"``, ``"pair_flip"`` or ``"class_dependent"``; drawn by ``seed``.
        rate: share of corrupted labels, in [0, 1), above 0 with a corruption unless ``rate_step`` is;
            :math:`\kappa` of Eq. 21 for class-dependent errors.
        rate_step: :math:`\beta` of Eq. 21; for class-dependent errors only.
        method: a key of :data:`~vlls.train.methods.METHODS`.
        model: ``"cnn3"``, ``"resnet18"``, ``"resnet34"`` or ``"resnet50"`` (:mod:`vlls.models`).
        pretrained: whether ``resnet50`` starts from ImageNet's weights.
        epochs: passes over the training images.
        batch_size: images a step, of all processes together.
        lr: peak learning rate.
        schedule: ``"step"``, ``"cosine"`` or ``"constant"``.
        warmup_epochs: length of the linear rise.
        milestones: fractions of the run after which the ``"step"`` schedule multiplies by 0.1.
        momentum: of SGD and SAM; :math:`\beta_1` of IVON.
        weight_decay: of SGD and SAM; :math:`\delta` of IVON.
        smoothing: rate of Eq. 1 (``ls``, ``ivon_ls``, ``mean_prediction``), or of the first epoch (``ols``); of at most
            1. Below 0 ``ls`` and ``ivon_ls`` are negative label smoothing.
        alpha: weight of the hard label (``ols``) or of the penalty (``acls``).
        margin: of ``acls``.
        rho: radius of SAM.
        posterior: which defaults ``ess``, ``hess_init`` and ``hess_clip`` have: ``"paper"``, with which IVON's Hessian
            decays from its start and learns next to nothing, or ``"learned"``, with which the data teach most of it.
        ess: :math:`\lambda` of IVON; None for the number of training images, of which the learned posterior takes a
            multiple.
        hess_init: :math:`h_0` of IVON; None for the one with the paper's :math:`\sigma_0`, or for the small one of the
            learned posterior. With the fixed variances of ``ivon_fixed`` and ``vgd`` it sets them:
            :math:`\sigma^2 = 1/(\lambda(h_0 + \delta))`.
        beta2: decay of IVON's Hessian average; None for :math:`1 - 2/T` with T updates of it, the paper's.
        hess_approx: ``"price"`` or ``"gradsq"``.
        clip_radius: bound on IVON's preconditioned gradient.
        hess_clip: bound on IVON's estimate of the Hessian, as a multiple of :math:`h + \delta`; None for none.
        hess_every: steps from one update of IVON's Hessian to the next.
        mc_samples: weight samples a step and process, each seeing its own share of the batch; R processes with S
            samples learn the same as one process with R·S.
        ema: decay in [0, 1), such as 0.998, of an exponential average of the weights over the steps, which is measured
            beside them (``ema_accuracy``, ...) and changes nothing of the training; None for none.
        augment: random crops after padding by 4 pixels and flips; None for colour images only.
        precision: ``"auto"`` is bfloat16 autocast on a GPU and float32 on a CPU.
        eval_every: epochs between measurements of the test and held-out images at the mean of the weights.
        thorough_every: epochs between the costlier ones, which add averages over the posterior and the wrongly and
            rightly labelled training images; None for twenty a run. The last epoch has all.
        eval_samples: weight samples of the posterior-averaged metrics; 0 for none.
        seed: of the subset, the label errors, the initial weights, the order, the augmentation and the samples.
        options: further hyperparameters of the method, by name: those that its record reads and that are no fields.

    Raises:
        ValueError: naming the field, the allowed values and, for names, the closest.

    Example:
        >>> config = RunConfig(dataset="cifar10", method="ivon", corruption="symmetric", rate=0.4)
        >>> config.lr is None, config.resolved().lr, config.resolved().hess_init, config.resolved().epochs
        (True, 0.2, 0.9, 200)
    """

    dataset: str = "digits"
    labels: str | None = None
    train_size: int | None = None
    validation_size: int = 0
    image_size: int | None = None
    corruption: str = "none"
    rate: float = 0.0
    rate_step: float = 0.0
    method: str = "ivon"
    model: str | None = None
    pretrained: bool | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    schedule: str | None = None
    warmup_epochs: float | None = None
    milestones: tuple[float, ...] | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    smoothing: float | None = None
    alpha: float | None = None
    margin: float | None = None
    rho: float | None = None
    posterior: str | None = None
    ess: float | None = None
    hess_init: float | None = None
    beta2: float | None = None
    hess_approx: str | None = None
    clip_radius: float | None = None
    hess_clip: float | None = None
    hess_every: int | None = None
    mc_samples: int | None = None
    ema: float | None = None
    augment: bool | None = None
    precision: str = "auto"
    eval_every: int = 1
    thorough_every: int | None = None
    eval_samples: int = 8
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (kind, convert) in _NUMBERS.items():  # 1 and 1.0 are the same learning rate, and the same key
            value = getattr(self, name)
            if isinstance(value, kind) and not isinstance(value, bool):
                object.__setattr__(self, name, convert(value))
        if self.milestones is not None:
            object.__setattr__(self, "milestones", tuple(self.milestones))
        check_known(self.method, METHODS, "method")
        self._check_options()
        self._check_errors()
        self._check_values()

    def _check_options(self) -> None:
        """Raise a ValueError for hyperparameters that the method does not read, as fields and as options."""
        for name in sorted(unread_by(self.method).intersection(_FIELDS)):
            if (value := getattr(self, name)) is not None:
                users = ", ".join(method for method in METHODS if name in METHODS[method].reads)
                raise ValueError(
                    f"{name}={value!r} is not read by method={self.method!r}, only by {users}; "
                    f"leave it out, or change the method"
                )
        if not isinstance(self.options, Mapping):
            raise ValueError(f"options={self.options!r} is no mapping; pass names with their values")
        defaults, options = _options_of(self.method), dict(sorted(self.options.items()))
        for name, value in options.items():
            if name in _FIELDS:
                raise ValueError(f"options hold {name!r}, which is a field; pass {name}={value!r} by itself")
            if not defaults:
                raise ValueError(f"options={options!r} are not read by method={self.method!r}; leave them out")
            check_known(name, defaults, "option")
            options[name] = _checked_option(name, value, defaults[name])
        object.__setattr__(self, "options", MappingProxyType(options))

    def _check_errors(self) -> None:
        known = _known.DATASETS.get(self.dataset)
        check_errors(self.corruption, self.rate, self.rate_step, None if known is None else len(known.classes))
        if self.corruption != "none" and not (self.rate or self.rate_step):
            either = " or rate_step > 0" if self.corruption == "class_dependent" else ""
            raise ValueError(
                f"corruption={self.corruption!r} needs rate > 0{either}; pass the share of wrong labels, such as "
                "rate=0.4, or leave the corruption out"
            )
        if self.labels is not None and self.corruption != "none":
            raise ValueError(
                f"labels={self.labels!r} are wrong by themselves; corruption={self.corruption!r} on top of them has "
                "no clean reference: leave one of them out"
            )

    def _check_values(self) -> None:
        def given(*names: str) -> dict[str, Any]:
            return {name: value for name in names if (value := getattr(self, name)) is not None}

        for name, value in given(*_NAMES).items():
            check_known(value, _NAMES[name], name)
        for name, value in given(*_LEAST).items():
            check_whole_number(value, name, _LEAST[name])
        if self.seed >= 2**32:
            raise ValueError(f"seed={self.seed!r} is not allowed; choose a whole number below 2**32")
        for name, value in given(*_NOT_NEGATIVE, *_POSITIVE).items():
            sign = ">" if name in _POSITIVE else ">="
            if not isinstance(value, float) or not 0 <= value < math.inf or (sign == ">" and value == 0):
                raise ValueError(f"{name}={value!r} is not allowed; choose a finite number {sign} 0")
        for name, value in given(*_FRACTIONS).items():
            if not isinstance(value, float) or not 0 <= value <= 1:
                raise ValueError(f"{name}={value!r} is outside [0, 1]; choose a number in [0, 1]")
        if self.ema is not None and (not isinstance(self.ema, float) or not 0 <= self.ema < 1):
            raise ValueError(f"ema={self.ema!r} is outside [0, 1); choose a decay such as 0.998, or leave it out")
        smoothing = self.smoothing
        if smoothing is not None and (not isinstance(smoothing, float) or not -math.inf < smoothing <= 1):
            raise ValueError(f"smoothing={smoothing!r} is not allowed; choose a finite number of at most 1")
        if not all(isinstance(m, Real) and 0 < m < 1 for m in self.milestones or ()):
            raise ValueError(f"milestones={self.milestones!r} are fractions of the run; choose numbers in (0, 1)")
        if self.epochs is not None and self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            warmup, epochs = self.warmup_epochs, self.epochs
            raise ValueError(f"warmup_epochs={warmup!r} leaves nothing of epochs={epochs!r}; choose fewer")

    # ------------------------------------------------------------------ the run's identity
    def resolved(self) -> ResolvedConfig:
        """Return a copy with defaults filled in: the hyperparameters of the data set, method and label errors."""
        errors = self.corruption, self.rate
        of_ivon: dict[str, Any] = {"ess": self.ess, "posterior": self.posterior, "hess_every": self.hess_every or 1}
        values = settings(self.dataset, self.method, *errors, self.epochs, self.images, self.batch_size, **of_ivon)
        if self.model not in (None, "resnet50"):
            values["pretrained"] = False  # there are weights for that network alone
        given = {name: value for name, value in self._values().items() if value is not None}
        defaults = {name: value for name, value in values.items() if name in _FIELDS}
        options = {name: values.get(name, default) for name, default in _options_of(self.method).items()}
        return ResolvedConfig(**{**defaults, **given, "options": {**options, **self.options}})

    @property
    def images(self) -> int | None:
        """The number of training images; None if it is not known without loading them."""
        known = _known.DATASETS.get(self.dataset)
        available = known.train_size if known is not None else None
        return self.train_size or (available - self.validation_size if available else None)

    @property
    def std_start(self) -> float | None:
        r""":math:`\sigma_0 = 1/\sqrt{\lambda (h_0 + \delta)}`, the standard deviation that IVON begins with.

        None if the method has none, or the number of images is not known without loading them.

        Example:
            >>> [round(RunConfig(dataset=name).std_start, 5) for name in ("cifar10", "digits")]
            [0.00471, 0.00471]
        """
        config = self.resolved()
        if config.hess_init is None or (config.ess is None and config.images is None):
            return None
        return float((config.ess_for(config.images or 0) * (config.hess_init + config.weight_decay)) ** -0.5)

    def ess_for(self, images: int) -> float:
        r"""Return :math:`\lambda` of a resolved config on so many training images.

        Args:
            images: their number, for a config without ``ess``.
        """
        return self.ess or images * (ESS_TO_LEARN if self.posterior == "learned" else 1.0)

    def located(self) -> RunConfig:
        """Return a copy with the whole path of a folder of images, so that it is found from elsewhere too."""
        folder = _known.as_folder(self.dataset)
        return self if folder is None else replace(self, dataset=os.path.abspath(folder))

    def __getitem__(self, name: str) -> Any:
        """Return a hyperparameter by its name, be it a field or one of the options."""
        return self.options[name] if name in self.options else self._values()[name]

    def _values(self) -> dict[str, Any]:
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunConfig) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(tuple(value for name, value in self._values().items() if name != "options"))

    def __reduce__(self) -> tuple[Any, ...]:
        values, method = {**self._values(), "options": dict(self.options)}, METHODS[self.method]
        return _unpickled, (type(self), values, None if self.method in OURS else method)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them; ``options`` only if there are any."""
        values = {**self._values(), "milestones": None if self.milestones is None else list(self.milestones)}
        options = dict(values.pop("options"))
        return {**values, "options": options} if options else values

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunConfig:
        """Return the config with these hyperparameters: fields, and options of the method, by name.

        Args:
            values: by name.

        Raises:
            ValueError: for a name that is neither, or a value that is not allowed.

        Example:
            >>> RunConfig.of({"method": "ls", "smoothing": 0.3}).smoothing
            0.3
        """
        reads = METHODS[values["method"]].reads if values.get("method") in METHODS else {}
        for name in values:
            check_known(name, dict.fromkeys((*(entry.name for entry in fields(cls)), *reads)), "field")
        given = {name: value for name, value in values.items() if name in _FIELDS}
        options = {name: value for name, value in values.items() if name not in _FIELDS}
        return cls(**{**given, "options": {**given.get("options", {}), **options}})

    @classmethod
    def from_dict(cls, values: dict[str, Any], key: str | None = None) -> RunConfig:
        """Return the config of :meth:`to_dict`, also if another version of vlls wrote it.

        A field that is missing takes its default. A field of a newer version is left out, with a warning, where the run
        does not depend on it: it is null, or the others alone have the run's key.

        Args:
            values: fields by name.
            key: of the run, as its record holds it.

        Raises:
            ValueError: for an unknown field, or a value that is not allowed.
        """
        names = [field.name for field in fields(cls)]
        config = cls(**{name: value for name, value in values.items() if name in names})
        for name in sorted(values.keys() - set(names)):
            if values[name] is not None and config.key != key:
                check_known(name, names, "field")
            warnings.warn(
                f"field={name!r} is of a newer version of vlls, and left out: the run does not depend on it",
                stacklevel=2,
            )
        return config

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits of a hash of the fields that its method reads, resolved.

        A field at the value that older runs had without it does not count: runs keep their keys when fields are added.
        """
        return run_key(self.resolved())

    @property
    def name(self) -> str:
        """The name of the run's folder, for people to read and unique by the key."""
        folder = _known.as_folder(self.dataset)
        dataset = self.dataset if folder is None else os.path.basename(os.path.abspath(folder))
        dataset = "".join(c if c.isalnum() else "-" for c in dataset).strip("-").lower()[-32:] or "images"
        errors = self.labels.replace(":", "-") if self.labels else self.corruption.replace("_", "-")
        errors += f"-{self.rate:g}" if self.corruption != "none" else ""
        return f"{dataset}-{errors}-{self.method.replace('_', '-')}-seed{self.seed}-{self.key}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedConfig(RunConfig):
    """A :class:`RunConfig` with its defaults filled in, as :meth:`.RunConfig.resolved` returns it.

    The fields below have values. Of the others, those that the method does not read or that the data decide may be
    None.
    """

    model: str
    pretrained: bool
    epochs: int
    batch_size: int
    lr: float
    schedule: str
    warmup_epochs: float
    milestones: tuple[float, ...]
    momentum: float
    weight_decay: float
    thorough_every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ResolvedConfig.__annotations__:
            if getattr(self, name) is None:
                raise ValueError(f"{name}=None is not allowed in a resolved config; choose a value")


_FIELDS = tuple(entry.name for entry in fields(RunConfig))
_TYPES: dict[str, tuple[type, Callable[[Any], float]]] = {"float": (Real, float), "int": (Integral, int)}
_NUMBERS = {  # of each field that holds a number: the type to accept, and the type to convert it to
    entry.name: _TYPES[kind] for entry in fields(RunConfig) if (kind := str(entry.type).partition(" ")[0]) in _TYPES
}


def _unpickled(cls: type[C], values: dict[str, Any], method: Method | None) -> C:
    """Unpickle a config of another process, and register its method if this process does not know it."""
    if method is not None and method.name not in METHODS:
        register(method)
    return cls(**values)


def _options_of(method: str) -> dict[str, Any]:
    """Return the hyperparameters that a method reads and that are no fields, with their defaults."""
    return {name: value for name, value in METHODS[method].reads.items() if name not in _FIELDS}


def _checked_option(name: str, value: Any, default: Any) -> Any:
    """Return the value of an option after checking it, as a float if its default is one."""
    if isinstance(default, float) and isinstance(value, Real) and not isinstance(value, bool):
        value = float(value)
    if value is None and default is None:
        return None
    of_json = type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))
    if not of_json or (default is not None and type(value) is not type(default)):
        wanted = (
            f"{kind_of(default)}, such as {default!r}" if default is not None else "a number, a string or a truth value"
        )
        raise ValueError(f"{name}={value!r} is not allowed; choose {wanted}")
    return value
