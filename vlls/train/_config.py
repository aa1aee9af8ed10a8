"""What one training run is: a frozen :class:`RunConfig`, and the key that names it."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vlls._names import check_known
from vlls.data import _known
from vlls.models import NAMES as MODELS
from vlls.train._keys import run_key
from vlls.train._presets import settings
from vlls.train._schedules import SCHEDULES
from vlls.train.methods import METHODS, hyperparameters_of

__all__ = ["CORRUPTIONS", "PRECISIONS", "RunConfig"]

CORRUPTIONS = ("none", *_known.CORRUPTIONS)
"""The kinds of label errors that a run can put in."""

PRECISIONS = ("auto", "float32", "bfloat16")
"""The number formats of a run's passes; ``auto`` is bfloat16 where the device is fast with it."""

_RESOLVED = (  # fields that None leaves to hyperparameters()
    "model pretrained epochs batch_size lr schedule warmup_epochs milestones momentum weight_decay smoothing alpha "
    "margin rho hess_init beta2 hess_approx mc_samples thorough_every"
).split()


@dataclass(frozen=True, kw_only=True)
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
            to this size; what images that are not square have beside it is cut off; None for 224.
        corruption: ``"none"``, ``"symmetric"``, ``"pair_flip"`` or ``"class_dependent"``; drawn by ``seed``.
        rate: share of corrupted labels, in [0, 1), above 0 with a corruption unless ``rate_step`` is;
            :math:`\kappa` of Eq. 21 for class-dependent errors.
        rate_step: :math:`\beta` of Eq. 21; for class-dependent errors only.
        method: a key of :data:`~vlls.train.methods.METHODS`.
        model: a name of :data:`vlls.models.NAMES`.
        pretrained: whether ``resnet50`` starts from ImageNet's weights.
        epochs: passes over the training images.
        batch_size: images a step, of all processes together.
        lr: peak learning rate.
        schedule: ``"step"``, ``"cosine"`` or ``"constant"`` (:func:`.learning_rate`).
        warmup_epochs: length of the linear rise.
        milestones: fractions of the run after which the ``"step"`` schedule multiplies by 0.1.
        momentum: of SGD and SAM; :math:`\beta_1` of IVON.
        weight_decay: of SGD and SAM; :math:`\delta` of IVON.
        smoothing: rate of Eq. 1 (``ls``, ``mean_prediction``), or of the first epoch (``ols``).
        alpha: weight of the hard label (``ols``) or of the penalty (``acls``).
        margin: of ``acls``.
        rho: radius of SAM.
        ess: :math:`\lambda` of IVON; None for the number of training images.
        hess_init: :math:`h_0` of IVON. With the fixed variances of ``ivon_fixed`` and ``vgd`` it sets them:
            :math:`\sigma^2 = 1/(\lambda(h_0 + \delta))`.
        beta2: decay of IVON's Hessian average.
        hess_approx: ``"price"`` or ``"gradsq"``.
        clip_radius: bound on IVON's preconditioned gradient.
        mc_samples: weight samples a step and process, each seeing its own share of the batch; R processes with S
            samples learn what one process with R·S does.
        augment: random crops after padding by 4 pixels and flips; None for colour images only.
        precision: ``"auto"`` is bfloat16 autocast on a GPU and float32 on a CPU.
        eval_every: epochs between measurements of the test and held-out images at the mean of the weights.
        thorough_every: epochs between the costlier ones, which add averages over the posterior and the wrongly and
            rightly labelled training images; None for twenty a run. The last epoch has all.
        eval_samples: weight samples of the posterior-averaged metrics; 0 for none.
        seed: of the subset, the label errors, the initial weights, the order, the augmentation and the samples.

    Raises:
        ValueError: naming the field, what is allowed and, for names, the closest.

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
    ess: float | None = None
    hess_init: float | None = None
    beta2: float | None = None
    hess_approx: str | None = None
    clip_radius: float | None = None
    mc_samples: int | None = None
    augment: bool | None = None
    precision: str = "auto"
    eval_every: int = 1
    thorough_every: int | None = None
    eval_samples: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):  # 1 and 1.0 are the same learning rate, and the same key
            value = getattr(self, field.name)
            if "float" in str(field.type) and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, field.name, float(value))
        if self.milestones is not None:
            object.__setattr__(self, "milestones", tuple(self.milestones))
        check_known(self.method, METHODS, "method")
        check_known(self.corruption, CORRUPTIONS, "corruption")
        check_known(self.precision, PRECISIONS, "precision")
        for name, known in (("model", MODELS), ("schedule", SCHEDULES), ("hess_approx", ("price", "gradsq"))):
            if (value := getattr(self, name)) is not None:
                check_known(value, known, name)
        for name in sorted(hyperparameters_of() - METHODS[self.method].reads.keys()):
            if getattr(self, name) is not None:
                users = ", ".join(method for method in METHODS if name in METHODS[method].reads)
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not read by method={self.method!r}, only by {users}; "
                    f"leave it out, or change the method"
                )
        self._check_errors()
        self._check_numbers()

    def _check_errors(self) -> None:
        if not _is_number(self.rate) or not 0 <= self.rate < 1:
            raise ValueError(f"rate={self.rate!r} is outside [0, 1); choose the share of wrong labels, such as 0.4")
        if self.corruption == "none" and (self.rate or self.rate_step):
            raise ValueError(
                f"rate={self.rate!r}, rate_step={self.rate_step!r} need a corruption; choose one of "
                f"{', '.join(CORRUPTIONS[1:])}"
            )
        if not _is_number(self.rate_step) or not 0 <= self.rate_step < 1:
            raise ValueError(f"rate_step={self.rate_step!r} is outside [0, 1); the paper takes 0.05")
        if self.rate_step and self.corruption != "class_dependent":
            raise ValueError(f"rate_step={self.rate_step!r} goes with corruption='class_dependent' only; leave it out")
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

    def _check_numbers(self) -> None:
        whole = {"image_size": 8, "train_size": 1, "validation_size": 0, "epochs": 1, "batch_size": 1, "mc_samples": 1}
        whole |= {"eval_every": 1, "thorough_every": 1, "eval_samples": 0, "seed": 0}
        for name, least in whole.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name}={value!r} is not allowed; choose a whole number >= {least}")
        if self.seed >= 2**32:
            raise ValueError(f"seed={self.seed!r} is not allowed; choose a whole number below 2**32")
        for name in ("lr", "rho", "warmup_epochs", "weight_decay", "margin"):
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or not 0 <= value < math.inf):
                raise ValueError(f"{name}={value!r} is not allowed; choose a finite number >= 0")
        for name in ("ess", "hess_init", "clip_radius"):
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or not 0 < value < math.inf):
                raise ValueError(f"{name}={value!r} is not allowed; choose a finite number > 0")
        for name in ("momentum", "smoothing", "alpha", "beta2"):
            if (value := getattr(self, name)) is not None:
                if not _is_number(value):
                    raise ValueError(f"{name}={value!r} is no number; choose one in [0, 1]")
                if not 0 <= value <= 1:
                    raise ValueError(f"{name}={value!r} is outside [0, 1]; choose a number in [0, 1]")
        if self.milestones is not None and not all(_is_number(m) and 0 < m < 1 for m in self.milestones):
            raise ValueError(f"milestones={self.milestones!r} are fractions of the run; choose numbers in (0, 1)")
        epochs, warmup = self.epochs, self.warmup_epochs
        if epochs is not None and warmup is not None and warmup >= epochs:
            raise ValueError(f"warmup_epochs={warmup!r} leaves nothing of epochs={epochs!r}; choose fewer")

    # ------------------------------------------------------------------ the run's identity
    def resolved(self) -> RunConfig:
        """The same run with every field that was left at None filled in, but for what the data decide."""
        values = settings(self.dataset, self.method, self.corruption, self.rate, self.epochs)
        if self.model not in (None, "resnet50"):
            values["pretrained"] = False  # there are weights for that network alone
        missing = {name: values[name] for name in _RESOLVED if getattr(self, name) is None and name in values}
        return replace(self, **missing)

    def located(self) -> RunConfig:
        """The same run with the whole path of a folder of images, so that it is found from elsewhere too."""
        folder = _known.as_folder(self.dataset)
        return self if folder is None else replace(self, dataset=os.path.abspath(folder))

    def to_dict(self) -> dict[str, Any]:
        """The fields as what JSON can hold."""
        return {**asdict(self), "milestones": None if self.milestones is None else list(self.milestones)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], key: str | None = None) -> RunConfig:
        """The config of :meth:`to_dict`, also of one that another version of vlls wrote.

        A field that is missing takes its default. A field of a newer version is left out, with a warning, where the run
        does not depend on it: it is null, or the others alone have the run's key.

        Args:
            values: fields by name.
            key: of the run, as its record holds it.

        Raises:
            ValueError: for a field that there is not, or a value that is not allowed.
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
        """What the run's folder is called, for people and unique through the key."""
        folder = _known.as_folder(self.dataset)
        dataset = self.dataset if folder is None else os.path.basename(os.path.abspath(folder))
        dataset = "".join(c if c.isalnum() else "-" for c in dataset).strip("-").lower()[-32:] or "images"
        errors = self.labels.replace(":", "-") if self.labels else self.corruption.replace("_", "-")
        errors += f"-{self.rate:g}" if self.corruption != "none" else ""
        return f"{dataset}-{errors}-{self.method.replace('_', '-')}-seed{self.seed}-{self.key}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
