"""A posterior over the parameters of one model: checked, under the model's names and on its device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vlls._bases import Bases
from vlls._compiled import PREFIX
from vlls._names import kind_of
from vlls.posterior import Posterior, check_weights


@dataclass(frozen=True)
class ModelPosterior:
    """A posterior over the parameters of one model."""

    mean: dict[str, Tensor]  # by the model's names, in float32 at least
    std: dict[str, Tensor]  # likewise, of the parameters whose weights are independent
    source: Posterior | None = None  # scales the other parameters and draws them; None if there are none
    theirs: dict[str, str] = field(default_factory=dict)  # the source's names for the model's
    lengths: dict[str, int] = field(default_factory=dict)  # Q, of a row of each parameter that the source scales
    rotations: dict[str, tuple[Bases, Tensor]] = field(default_factory=dict)  # of parameters that have them
    joint: bool = False  # rows of the source have one basis, so that they are added up

    def map(self, change: Callable[[Tensor], Tensor]) -> ModelPosterior:
        """Return the posterior with every mean and standard deviation changed, for instance cast."""
        mean, std = ({name: change(t.detach()) for name, t in of.items()} for of in (self.mean, self.std))
        return replace(self, mean=mean, std=std)  # rotations follow the dtype of the gradients

    def moving(self) -> set[str]:
        """The names of the parameters that are not fixed at their mean."""
        return {name for name in self.mean if name not in self.std or bool((self.std[name] > 0).any())}

    def basis(self, name: str) -> str:
        """The basis of a parameter's rows: rows of one basis are added up, rows of two are independent."""
        return "" if self.joint and name not in self.std else name

    def step(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Draw the weights' deviation from their mean."""
        if self.source is None:
            return {
                name: std * torch.randn(std.shape, dtype=std.dtype, device=std.device, generator=generator)
                for name, std in self.std.items()
            }
        with torch.no_grad():
            draw = self.source.sample(generator)
        steps = {}
        for name, mean in self.mean.items():
            centre = self.source.mean[self.theirs[name]]
            wide = _wide(centre)
            steps[name] = (draw[self.theirs[name]].to(wide) - centre.to(wide)).detach().to(mean.dtype)
        return steps

    def length(self, name: str) -> int:
        """Return the length Q of a parameter's rows."""
        return self.lengths.get(name, self.mean[name].numel())

    def rows(self, name: str, gradients: Tensor) -> Tensor:
        """Return (R, B, Q) rows of a parameter, in the dtype of its (R, B, ...) gradients."""
        if name in self.std:
            return (gradients * self.std[name].to(gradients)).reshape(*gradients.shape[:2], -1)
        assert self.source is not None
        theirs = self.theirs[name]
        wide = _wide(self.source.mean[theirs])
        return _scaled(self.source, theirs, gradients.detach().to(wide)).to(gradients.dtype)

    def variance(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """Return the variance of one function of the parameters, a scalar, from its gradient."""
        if self.source is None:
            return sum_of((g * self.std[name]).square().sum() for name, g in gradient.items())
        rows: dict[str, Tensor] = {}
        for name, g in gradient.items():
            part, basis = self.rows(name, g[None, None].to(_wide(g))), self.basis(name)
            rows[basis] = rows[basis] + part if basis in rows else part
        return sum_of(gram(part) for part in rows.values()).sum()

    def deviations(self) -> dict[str, Tensor]:
        """Return standard deviations or, for weights that are not independent, the absolute deviations of one draw."""
        if self.source is None:
            return self.std
        device = next(iter(self.mean.values())).device
        step = self.step(torch.Generator(device).manual_seed(0))
        return {name: self.std.get(name, step[name].abs()) for name in self.mean}


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def gram(rows: Tensor) -> Tensor:
    """(R, B, Q) rows -> (B, R, R) products."""
    rows = rows.transpose(0, 1)
    return rows @ rows.mT


def sum_of(parts: Iterable[Tensor]) -> Tensor:
    """Add up tensors of one shape."""
    return torch.stack(list(parts)).sum(0)


def posterior_of(model: nn.Module, posterior: Any) -> ModelPosterior:
    """Check a posterior, or an object that returns one, and return it as one over an uncompiled model's parameters."""
    posterior = _as_posterior(model, posterior)
    parameters = dict(model.named_parameters())
    theirs = {name.removeprefix(PREFIX): name for name in posterior.mean}
    if not theirs:
        raise ValueError("the posterior has no names left; pass one with the model's parameters, at least one")
    foreign = [name for name in theirs if name not in parameters]
    if foreign:
        shown, known = (", ".join(repr(name) for name in names[:3]) for names in (foreign, list(parameters)))
        raise ValueError(
            f"the posterior has {len(foreign)} name(s) that the model has not ({shown}), and the model has "
            f"{known}, ...; pass the model whose posterior it is, as optimizer.posterior(model) names it"
        )
    mean, std = {}, {}
    independent = getattr(posterior, "independent_std", None)
    for name, alias in theirs.items():
        centre, parameter = posterior.mean[alias], parameters[name]
        if not isinstance(centre, Tensor) or not centre.is_floating_point():
            given = centre.dtype if isinstance(centre, Tensor) else type(centre).__name__
            raise ValueError(
                f"the posterior's mean of {alias!r} is of type {given}; it has to be a tensor of real floating-point "
                "numbers"
            )
        if centre.shape != parameter.shape:
            raise ValueError(
                f"the posterior's {alias!r} has shape {tuple(centre.shape)} and the model's {tuple(parameter.shape)}; "
                "pass the model whose posterior it is"
            )
        spread = independent(alias) if callable(independent) else None
        check_weights(alias, centre, spread)
        mean[name] = centre.detach().to(parameter.device, _wide(parameter), copy=True)
        if spread is not None:
            std[name] = spread.detach().to(parameter.device, _wide(parameter))
    if len(std) == len(mean):
        return ModelPosterior(mean, std)
    device = next(iter(mean.values())).device
    for name, alias in theirs.items():
        if posterior.mean[alias].device != mean[name].device:
            raise ValueError(
                f"the posterior's {alias!r} is on {posterior.mean[alias].device} and the model's on "
                f"{mean[name].device}; move one of them"
            )
    _check_sample(posterior, device)
    scaled = {name: alias for name, alias in theirs.items() if name not in std}
    joint = bool(getattr(posterior, "joint", False))
    lengths = {name: _length(posterior, alias) for name, alias in scaled.items()}
    if joint and len(set(lengths.values())) > 1:
        shown = ", ".join(f"{number} numbers for {scaled[name]!r}" for name, number in list(lengths.items())[:3])
        raise ValueError(
            f"the posterior says joint=True and its scale returns rows of {shown}; rows that are added up need one "
            "length, or let joint be False"
        )
    rotation = getattr(posterior, "rotation", None)
    turned = {name: rotation(alias) for name, alias in scaled.items()} if callable(rotation) and not joint else {}
    rotations = {name: found for name, found in turned.items() if found is not None}
    return ModelPosterior(mean, std, posterior, theirs, lengths, rotations, joint)


def _as_posterior(model: nn.Module, posterior: Any) -> Posterior:
    given = posterior
    if callable(getattr(posterior, "posterior", None)):
        posterior = posterior.posterior(model)
    missing = [name for name in ("mean", "sample", "scale") if not hasattr(posterior, name)]
    if missing:
        lacks = "" if len(missing) == 3 else f" without {' and '.join(missing)}"
        inside = ", here its .optimizer" if hasattr(getattr(given, "optimizer", None), "posterior") else ""
        raise ValueError(
            f"posterior is {kind_of(given)}{lacks}; pass a DiagonalPosterior, such as optimizer.posterior(model), any "
            f"other vlls.posterior.Posterior, or the IVON optimizer itself{inside}"
        )
    if not isinstance(posterior.mean, Mapping):
        raise ValueError(
            f"the posterior's mean is {kind_of(posterior.mean)}; it has to be a dict of tensors by parameter name"
        )
    return posterior


def _check_sample(posterior: Posterior, device: torch.device) -> None:
    """Raise a ValueError unless a draw has a finite tensor of the right shape for every mean."""
    try:
        draw = posterior.sample(torch.Generator(device).manual_seed(0))
    except KeyError as error:
        raise ValueError(
            f"the posterior's sample() does not know {error}; it has to draw every name in mean, or leave the name out "
            "of both"
        ) from error
    if not isinstance(draw, Mapping):
        raise ValueError(f"the posterior's sample() is {kind_of(draw)}; it has to be a dict of tensors by name")
    for name, mean in posterior.mean.items():
        value = draw.get(name)
        if not isinstance(value, Tensor) or value.shape != mean.shape or value.device != mean.device:
            given = f"shape {tuple(value.shape)} on {value.device}" if isinstance(value, Tensor) else kind_of(value)
            given = "nothing" if value is None else given
            raise ValueError(
                f"the posterior's sample() has {given} for {name!r}; it needs a tensor like its mean, of shape "
                f"{tuple(mean.shape)} on {mean.device}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"the posterior's sample() has NaN or infinite numbers for {name!r}; look at how it draws")


def _length(posterior: Posterior, name: str) -> int:
    """Return the length of a parameter's rows, found by a trial call."""
    mean = posterior.mean[name]
    rows = _scaled(posterior, name, torch.ones(2, 3, *mean.shape, dtype=_wide(mean), device=mean.device))
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"the posterior's scale of {name!r} returned NaN or infinite numbers for gradients of ones; look at its "
            "covariance"
        )
    return rows.shape[2]


@torch.no_grad()
def _scaled(posterior: Posterior, name: str, gradients: Tensor) -> Tensor:
    """Return the rows of a posterior; raise a ValueError if they do not fit the gradients."""
    try:
        rows = posterior.scale(name, gradients)
    except KeyError as error:
        raise ValueError(
            f"the posterior has a mean of {name!r} and its scale does not know it; give it a scale for each name in "
            "mean, or leave the name out"
        ) from error
    num = tuple(gradients.shape[:2])
    if not isinstance(rows, Tensor) or rows.ndim != 3 or tuple(rows.shape[:2]) != num or rows.dtype != gradients.dtype:
        given = f"{tuple(rows.shape)} of {rows.dtype}" if isinstance(rows, Tensor) else kind_of(rows)
        raise ValueError(
            f"the posterior's scale of {name!r} returned {given} for gradients {tuple(gradients.shape)} of "
            f"{gradients.dtype}; it has to return rows ({num[0]}, {num[1]}, Q) of that dtype"
        )
    return rows
