"""The panels, methods and values of each figure of Section 4 and App. B.

The values are the paper's. Those that it does not print (the variances of Fig. 6, the points of Fig. 10, the further
rates of Fig. 5, all of Fig. 9 but the network) are ours, as the comments say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vlls._names import check_known


@dataclass(frozen=True)
class Panel:
    """A data set and its label errors; a figure draws the runs on them in one panel.

    Attributes:
        title: of its panel; ``{dataset}`` is filled in, because a reduced protocol may take another one.
        fields: of :class:`.RunConfig`.
    """

    title: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Candidates:
    """A method, and the values of one of its hyperparameters that are tried.

    Attributes:
        method: a key of :data:`~vlls.train.methods.METHODS`.
        parameter: the hyperparameter; empty if none is tried.
        values: of the parameter, the one that stands for the method first: a sweep begins with it.
        tune: whether the best of the values is compared with other methods, so that sweeps add runs that hold images
            out to choose it by; if not, the values themselves are the subject.
        variant: the change to the paper's method in words, such as ``"no noise"``; tables have it behind
            the method's label, and leave it out where they compare methods.
        fields: of :class:`.RunConfig`, or options of the method, that make it so; learning rates, :math:`h_0` and
            epochs of warm-up as at the paper's size.
    """

    method: str
    parameter: str = ""
    values: tuple[float, ...] = ()
    tune: bool = True
    variant: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> list[dict[str, Any]]:
        """The fields of :class:`.RunConfig` of every candidate."""
        common = {"method": self.method, **self.fields}
        if not self.parameter:
            return [common]
        return [{**common, self.parameter: value} for value in self.values]


@dataclass(frozen=True)
class Experiment:
    """The runs of a figure, and the function that draws them.

    Attributes:
        name: of the experiment on the command line.
        title: its subject in a few words.
        panels: its data sets and label errors.
        candidates: its methods.
        also: ``"smoothed_labels"`` to compute them after each run, besides its metrics.
        figure: its figure, one of those that :func:`.plot_experiment` names, or a function of ``name`` and the table of
            runs, or of their smoothed labels if there are such.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    candidates: tuple[Candidates, ...]
    also: str = ""
    figure: str | Callable[..., Any] = "sensitivity"


# ---------------------------------------------------------------------- settings to try
IVON = Candidates("ivon")  # nothing is tuned
SGD = Candidates("sgd")  # LS with α = 0, SAM with ρ = 0
OLS = Candidates("ols")
LS = Candidates("ls", "smoothing", (0.1, 0.3, 0.5, 0.7, 0.9))
SAM = Candidates("sam", "rho", (0.05, 0.01, 0.1, 0.2, 0.5))  # App. C.2
SAM_FIG7 = Candidates("sam", "rho", (0.05, 0.1, 0.15, 0.2, 0.5))  # Section 4.3.2, with 0 as SGD
# σ² = 1/(λ(h0 + δ)); ours: from five times the σ of h0 = 0.9 to a fifth
FIXED = Candidates("ivon_fixed", "hess_init", (0.9, 0.03, 0.1, 0.3, 3.0, 10.0, 30.0), tune=False)
# ours, on both sides of the paper's 0.05
HESSIAN = Candidates("ivon", "hess_init", (0.9, 0.01, 0.05, 0.1, 0.2, 0.5), tune=False)

# controls, ours, each at one value: which part of IVON has the effect, and which other changes have it
SMALLER_STEP = Candidates("sgd", variant="smaller step and decay", fields={"lr": 0.02, "weight_decay": 5e-4})
COSINE = Candidates("sgd", variant="cosine and warm-up", fields={"schedule": "cosine", "warmup_epochs": 5.0})
NO_NOISE = Candidates("ivon_fixed", variant="no noise", fields={"ess": 5e10})
AVERAGED = tuple(Candidates(name, variant="averaged weights", fields={"ema": 0.998}) for name in ("sgd", "ivon"))
SIGMAS = tuple(Candidates(name) for name in ("ivon_fixed", "ivon_permuted", "ivon_isotropic"))
# The ladder of Chapter 14: a learned posterior, and less of it at each step down. EVON's learning rate is five times
# IVON's: it predicts the given labels of held-out images best (MNIST, 40 % symmetric errors, seed 0: accuracy 0.563 at
# twice IVON's rate, 0.568 at five times; IVON itself is worse there).
LADDER = (
    Candidates("evon", variant="learned", fields={"posterior": "learned", "lr": 1.0}),
    *(
        Candidates(name, variant="learned", fields={"posterior": "learned"})
        for name in ("ivon", "ivon_permuted", "ivon_isotropic", "ivon_fixed")
    ),
)
# losses made for wrong labels at their authors' values, and two of them under IVON
LOSSES = tuple(Candidates(name) for name in ("gce", "sce", "elr", "ivon_elr"))
NEGATIVE = Candidates("ls", variant="negative", fields={"smoothing": -0.4})
IVON_LS = Candidates("ivon_ls", "smoothing", (0.1, 0.5))


# ---------------------------------------------------------------------- panels
def errors(dataset: str, corruption: str, rate: float) -> Panel:
    """A panel of symmetric or pair-flip errors."""
    title = f"{{dataset}}, {corruption.replace('_', ' ')} {100 * rate:g} %"
    return Panel(title, {"dataset": dataset, "corruption": corruption, "rate": rate})


def class_dependent(base_rate: float) -> Panel:
    """A panel of Eq. 21's errors on CIFAR-10."""
    fields = {"dataset": "cifar10", "corruption": "class_dependent", "rate": base_rate, "rate_step": 0.05}
    return Panel(f"{{dataset}}, κ = {base_rate:g}", fields)


def clean(dataset: str) -> Panel:
    """A panel without label errors of ours."""
    return Panel("{dataset}", {"dataset": dataset})


def human(labels: str, title: str) -> Panel:
    """A panel of labels that people gave."""
    dataset = "cifar100" if labels.startswith("cifar100n") else "cifar10"
    return Panel(title, {"dataset": dataset, "labels": labels})


ERRORS = (("symmetric", 0.2), ("symmetric", 0.4), ("pair_flip", 0.2))  # the columns of Table 1
CIFAR10_ERRORS = tuple(errors("cifar10", *corruption) for corruption in ERRORS)
CIFAR10_CURVE = (errors("cifar10", "symmetric", 0.6), errors("cifar10", "pair_flip", 0.4))  # ours: further rates
CIFAR100_ERRORS = tuple(errors("cifar100", *corruption) for corruption in ERRORS)

# ---------------------------------------------------------------------- the figures
_ALL: tuple[Experiment, ...] = (
    Experiment(
        "fig4",
        "smoothed labels of IVON, label smoothing and online label smoothing",
        panels=(clean("cifar10"), clean("cifar100")),
        candidates=(IVON, Candidates("ls", "smoothing", (0.1,)), OLS),
        also="smoothed_labels",
        figure="smoothed_labels",
    ),
    Experiment(
        "fig5",
        "CIFAR-10 with label errors: IVON beside LS and SAM, each over its hyperparameter",
        panels=(*CIFAR10_ERRORS, *CIFAR10_CURVE),
        candidates=(IVON, SGD, LS, SAM),
    ),
    Experiment(
        "fig6",
        "CIFAR-100 with label errors: learned against fixed variances",
        panels=CIFAR100_ERRORS,
        candidates=(IVON, FIXED),
        figure="fixed_variance",
    ),
    Experiment(
        "fig7",
        "CIFAR-10 with errors that depend on the class (Eqs. 21-22)",
        panels=tuple(class_dependent(base_rate) for base_rate in (0.1, 0.2, 0.3, 0.4, 0.5)),
        candidates=(IVON, SGD, LS, SAM_FIG7),
        figure="noise_levels",
    ),
    Experiment(
        "fig8",
        "CIFAR-100 with label errors: IVON beside LS and SAM, each over its hyperparameter",
        panels=CIFAR100_ERRORS,
        candidates=(IVON, SGD, LS, SAM),
    ),
    Experiment(
        "fig9", "Clothing1M: label errors from the web", panels=(clean("clothing1m"),), candidates=(IVON, SGD, LS, SAM)
    ),
    Experiment(
        "fig10",
        "CIFAR-10 with label errors: the start of IVON's Hessian",
        panels=CIFAR10_ERRORS,
        candidates=(HESSIAN,),
        figure="hessian_init",
    ),
    Experiment(
        "cifar_n",
        "labels that people gave: CIFAR-10N and CIFAR-100N",
        panels=(
            human("cifar10n:aggre_label", "CIFAR-10N, aggregate"),
            human("cifar10n:random_label1", "CIFAR-10N, random 1"),
            human("cifar10n:worse_label", "CIFAR-10N, worst"),
            human("cifar100n:noisy_label", "CIFAR-100N, noisy"),
        ),
        candidates=(IVON, SGD, LS, SAM),
    ),
    Experiment(
        "calibration",
        "calibration of the predictions, without label errors and with",
        panels=(clean("cifar10"), errors("cifar10", "symmetric", 0.4), clean("cifar100")),
        candidates=(IVON, SGD, Candidates("ls", "smoothing", (0.1,)), OLS, Candidates("sam", "rho", (0.05,))),
        figure="calibration",
    ),
)
_SYMMETRIC, _WORST = errors("cifar10", "symmetric", 0.4), human("cifar10n:worse_label", "CIFAR-10N, worst")
_ALL += (
    Experiment(
        "controls",
        "which part of IVON helps: its noise, its covariance, its schedule, or an average of weights",
        panels=(_SYMMETRIC, class_dependent(0.4), class_dependent(0.5), _WORST),
        candidates=(IVON, SGD, *SIGMAS, NO_NOISE, COSINE, SMALLER_STEP, *AVERAGED),
        figure="bars",
    ),
    Experiment(
        "rivals",
        "losses made for wrong labels, alone and under IVON",
        panels=(_SYMMETRIC, errors("cifar10", "pair_flip", 0.4), class_dependent(0.3), _WORST),
        candidates=(IVON, SGD, Candidates("ls", "smoothing", (0.5,)), *LOSSES, NEGATIVE, IVON_LS),
        figure="bars",
    ),
    Experiment(
        "ladder",
        "which covariance: in an eigenbasis, diagonal, permuted, isotropic, fixed",
        panels=(_SYMMETRIC,),
        candidates=(IVON, *LADDER),
        figure="bars",
    ),
    Experiment(
        "take_off",
        "whether training begins at all on the most errors (Fig. 7)",
        panels=(class_dependent(0.4), class_dependent(0.5)),
        candidates=(
            IVON,
            SGD,
            Candidates("sgd", variant="smaller decay", fields={"weight_decay": 2e-4}),
            Candidates("sgd", variant="smaller step", fields={"lr": 0.02}),
            Candidates("sam", "rho", (0.05,)),
        ),
        figure="bars",
    ),
)
_EXPERIMENTS = {entry.name: entry for entry in _ALL}
EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(_EXPERIMENTS)
"""The experiments by name."""


def register(experiment: Experiment) -> None:
    """Add an experiment: sweeps, tables and figures know it from then on.

    Raises:
        ValueError: if there is one of that name.

    Example:
        >>> digits = Panel("digits, symmetric 40 %", {"dataset": "digits", "corruption": "symmetric", "rate": 0.4})
        >>> tried = (Candidates("ivon"), Candidates("sgd"), Candidates("sam", "rho", (0.05, 0.1)))
        >>> register(Experiment("my_digits", "SAM beside IVON on digits", (digits,), tried))  # doctest: +SKIP
    """
    if experiment.name in _EXPERIMENTS:
        raise ValueError(f"there is an experiment {experiment.name!r} already; choose another name")
    _EXPERIMENTS[experiment.name] = experiment


def experiment(name: str) -> Experiment:
    """Return an experiment by its name.

    Raises:
        ValueError: for an unknown one, naming the closest.

    Example:
        >>> [panel.title.format(dataset="CIFAR-10") for panel in experiment("fig7").panels][:2]
        ['CIFAR-10, κ = 0.1', 'CIFAR-10, κ = 0.2']
    """
    check_known(name, tuple(EXPERIMENTS), "experiment")
    return EXPERIMENTS[name]
