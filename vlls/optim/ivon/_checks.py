"""Checks of the input of :class:`.IVON`, whose errors name argument, value and remedy; advice after the first steps."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from vlls._compiled import capturing
from vlls._names import kind_of
from vlls._validation import check_generator, check_whole_number
from vlls._warnings import warn_caller
from vlls.optim.alg1 import posterior_noise
from vlls.optim.ivon._state import ParameterState

# hyperparameter -> (lower, lower allowed, upper, upper allowed, what to do)
RANGES: dict[str, tuple[float, bool, float, bool, str]] = {
    "lr": (0.0, True, math.inf, False, "0.1 is a usual start"),
    "ess": (1.0, True, 1e30, True, "use the number of training examples"),
    "hess_init": (0.0, False, math.inf, False, "try 0.1 to 1"),
    "beta1": (0.0, True, 1.0, False, "0.9 is usual"),
    "beta2": (0.0, True, 1.0, True, "0.99999 is usual, 1 keeps the covariance fixed"),
    "weight_decay": (0.0, True, math.inf, False, "1e-4 is usual, 0 for none"),
    "clip_radius": (0.0, False, math.inf, True, "1e-3 is strong clipping, math.inf none"),
    "hess_clip": (0.0, False, math.inf, True, "100 cuts outliers off, math.inf nothing"),
}

# IVON's counterparts of other optimizers' keywords
INSTEAD = {
    "betas": "beta1=... for the gradient and beta2=... for the Hessian",
    "eps": "hess_init=..., which with weight_decay keeps the division safe",
    "momentum": "beta1=...",
    "nesterov": "beta1=...",
    "rho": "vlls.SAM, which has a radius",
    "N": "ess=...",
    "hess_decay": "beta2=...",
}
OF_ALL = ("mc_samples", "sync", "generator", "foreach", "fused")  # options of the whole optimizer, not of a group
IN_GROUPS = (*RANGES, "hess_approx", "debias", "rescale_lr", "hess_every")
LATER: dict[str, Any] = {"hess_clip": math.inf, "hess_every": 1}  # of older states, whose groups lack them


def _number(value: Any) -> float:
    """``value`` as a float, NaN if it is no real number."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 and not value.is_complex() else math.nan
    return math.nan if isinstance(value, bool) or not hasattr(value, "__float__") else float(value)


def check_group(group: dict[str, Any]) -> None:
    """Raise a ValueError if a hyperparameter of the group is missing or out of range."""
    for name, (lower, with_lower, upper, with_upper, advice) in RANGES.items():
        allowed = f"{'[' if with_lower else '('}{lower:g}, {upper:g}{']' if with_upper else ')'}"
        value = group[name]
        if isinstance(value, Tensor) and value.is_cuda and value.numel() == 1:
            continue  # a scheduler's tensor: reading it would wait for the device
        number = _number(value)
        above = number > lower or (with_lower and number == lower)
        below = number < upper or (with_upper and number == upper)
        if not (above and below):
            raise ValueError(f"{name}={value!r} is outside {allowed}; {advice}")
    if group["hess_approx"] not in ("price", "gradsq"):
        raise ValueError(f"hess_approx={group['hess_approx']!r} is unknown; choose 'price' or 'gradsq'")
    check_whole_number(group["hess_every"], "hess_every", 1)


def check_keywords(unknown: dict[str, Any], optimizer: str, own: Sequence[str]) -> None:
    """Raise a ValueError for the first keyword that is neither one of IVON's nor of the optimizer's ``own``."""
    for name, value in unknown.items():
        known = (*IN_GROUPS, *own, *OF_ALL)
        close = difflib.get_close_matches(name, known, n=1)
        instead = INSTEAD.get(name) or (f"{close[0]}=..." if close else f"one of {', '.join(known)}")
        raise ValueError(f"{optimizer} has no {name}={value!r}; pass {instead}")


def check_keys(group: dict[str, Any], known: Iterable[str], optimizer: str) -> None:
    """Raise a ValueError for a key that a group cannot have, or that is nearly a hyperparameter's name.

    Others are left alone, as everywhere in torch: schedulers and users keep their own entries in groups.
    """
    for key in group.keys() - set(known) - {"params"}:
        if key in OF_ALL:
            told = f"{key}={group[key]!r} in a group: it is for all parameters"
            raise ValueError(f"{told}; pass it to {optimizer} itself")
        if key in INSTEAD:
            raise ValueError(f"{optimizer} has no {key}={group[key]!r} in a group; pass {INSTEAD[key]}")
        if close := difflib.get_close_matches(key, known, n=1, cutoff=0.8):
            raise ValueError(f"a group has the unknown key {key!r}; did you mean {close[0]!r}?")


def saved_generator(state_dict: dict[str, Any]) -> Tensor | None:
    """Return the generator's state in a saved state, also if a tool has kept the parameters' state only."""
    states = [state_dict, *state_dict["state"].values()]
    found: list[Tensor] = [state["generator"] for state in states if state and "generator" in state]
    return found[0].cpu() if found else None


def check_generator_state(state: Tensor | None, generator: torch.Generator | None) -> None:
    """Raise a ValueError if a saved state does not fit the generator; warn if only one of the two is there."""
    if state is not None and generator is not None:
        try:
            torch.Generator(generator.device).set_state(state)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the saved generator is none of device {generator.device} ({error}); make the optimizer with a "
                "generator of the device it was saved with"
            ) from None
    elif state is not None or generator is not None:
        has, lacks = ("the saved state", "this optimizer")[:: -1 if state is None else 1]
        warn_caller(
            f"{has} has a generator and {lacks} has none, so the samples will not be those that would have followed; "
            "give both a generator=torch.Generator(), or neither"
        )


def check_parameters(params: Sequence[Any], optimizer: str) -> None:
    """Raise a ValueError if one of the parameters cannot be optimized."""
    places: dict[int, int] = {}
    for position, param in enumerate(params):
        tensor = param[1] if isinstance(param, tuple) and len(param) == 2 else param  # (name, parameter)
        if not isinstance(tensor, Tensor):
            continue  # torch says what it needs
        if is_lazy(tensor):
            raise ValueError(f"params[{position}] has no shape yet; run one batch through the model first")
        where = f"params[{position}], of shape {tuple(tensor.shape)},"
        first = places.setdefault(id(tensor), position)
        if first != position:
            raise ValueError(f"{where} is params[{first}] again; list a parameter once, even if layers share it")
        if not tensor.is_floating_point():
            raise ValueError(f"{where} has dtype {tensor.dtype}; {optimizer} needs real floating-point parameters")
        if tensor.layout != torch.strided:
            raise ValueError(f"{where} has layout {tensor.layout}; {optimizer} needs dense parameters")
        if is_traceable_wrapper_subclass(tensor) or getattr(tensor, "_fsdp_flattened", False):
            kind = "shard of FullyShardedDataParallel" if hasattr(tensor, "_fsdp_flattened") else type(tensor).__name__
            raise ValueError(
                f"{where} is a {kind}; {optimizer} needs whole plain tensors: for several processes use "
                "DistributedDataParallel with sync=True, or SAM on fully_shard"
            )


def check_options(*, params: Any, mc_samples: int, generator: Any, foreach: bool | None, fused: bool | None) -> None:
    """Raise a ValueError if an option of the whole optimizer is out of range."""
    if isinstance(params, list) and all(isinstance(group, dict) and not _has_params(group) for group in params):
        raise ValueError("params is empty; pass model.parameters() of a model that has some")
    check_whole_number(mc_samples, "mc_samples", 1)
    check_generator(generator)
    if foreach and fused:
        raise ValueError("foreach=True and fused=True exclude each other; set one of them")


def _has_params(group: dict[str, Any]) -> bool:
    params = group.get("params", ())
    return isinstance(params, Tensor) or not hasattr(params, "__len__") or len(params) > 0


def check_state_dict(state_dict: dict[str, Any], optimizer: Any) -> None:
    """Raise a ValueError that names the first difference between a saved state and the optimizer."""
    name, groups = type(optimizer).__name__, optimizer.param_groups
    if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
        raise ValueError(f"state_dict has no 'state' and 'param_groups'; pass what {name}.state_dict() returned")
    saved = state_dict["param_groups"]
    if len(saved) != len(groups):
        raise ValueError(
            f"the saved state has {len(saved)} parameter group(s), this optimizer {len(groups)}; "
            "make the optimizer with the groups it was saved with"
        )
    for g, (theirs, ours) in enumerate(zip(saved, groups, strict=True)):
        missing = sorted({*IN_GROUPS, *optimizer._own, "params"} - {**LATER, **theirs}.keys())
        if missing:
            raise ValueError(f"group {g} of the saved state lacks {missing}; it was not saved by {name}")
        if len(theirs["params"]) != len(ours["params"]):
            raise ValueError(
                f"group {g} has {len(theirs['params'])} parameters in the saved state and {len(ours['params'])} here; "
                "the models differ"
            )
        try:
            optimizer._check_group({**LATER, **theirs})
        except ValueError as error:
            raise ValueError(f"group {g} of the saved state: {error}") from None
        for k, (index, param) in enumerate(zip(theirs["params"], ours["params"], strict=True)):
            if state := state_dict["state"].get(index):  # else it had no gradient and no sample yet
                optimizer._check_saved(state, param, f"parameter {k} of group {g}")


def check_state(state: dict[str, Any], param: Tensor, which: str, optimizer: str) -> None:
    """Raise a ValueError if the saved state of a parameter lacks something or has other shapes."""
    missing = sorted({"step", "momentum", "hess"} - state.keys())
    if missing:
        raise ValueError(f"the saved state of {which} lacks {missing}; it was not saved by {optimizer}")
    for name in ("momentum", "hess", *(["mean"] if "mean" in state else [])):
        if not isinstance(state[name], Tensor):
            raise ValueError(f"{name} of {which} is {kind_of(state[name])} in the saved state, not a tensor")
        if tuple(state[name].shape) != tuple(param.shape):
            raise ValueError(
                f"{name} of {which} has shape {tuple(state[name].shape)} in the saved state, "
                f"the parameter {tuple(param.shape)}; the models differ"
            )


# ---------------------------------------------------------------------- the first steps
STEPS = 100
LOUD = 3.0  # root mean square of the noise over that of the weights, beyond which a network hardly trains
STILL = 0.02  # root mean square of the first steps' sum over that of the weights, below which it has hardly moved
ENTRIES = 256  # of a parameter that are looked at


class FirstSteps:
    """Checks the noise before the first step, and the distance that the mean has gone after the first hundred.

    Parameters that start at zero (biases, a linear model's weights) say nothing about their scale and are left out.
    """

    def __init__(self, states: Sequence[ParameterState]) -> None:
        self.steps = 0
        self._states = [state for state in states if bool(_some(state.mean).any())]
        self._start = [_some(state.mean).clone() for state in self._states]
        self._size = self._rms(self._start)
        self._rates = [float(state.group["lr"]) for state in self._states]
        noise = self._rms([_some_std(state) for state in self._states])
        if noise > LOUD * self._size > 0:
            ess, first = (float(self._states[0].group[name]) for name in ("ess", "hess_init"))
            warn_caller(
                f"the noise is {noise / self._size:.1f} times as large as the weights, too much for most networks to "
                f"learn; let ess be the number of training examples (it is {ess:g}), and if it is, raise hess_init "
                f"above {first:g}"
            )

    def ended(self) -> bool:
        """Check the mean, which the parameters hold now, after enough steps; return whether the checks are over."""
        if self.steps < STEPS or capturing(state.param for state in self._states):
            return False
        moved = self._rms([_some(state.mean) - start for state, start in zip(self._states, self._start, strict=True)])
        rates = [float(state.group["lr"]) for state in self._states]
        if moved < STILL * self._size and rates == self._rates:  # a warm-up goes on to larger steps
            warn_caller(
                f"the first {self.steps} steps have moved the weights by {moved / self._size:.1%} of their size, too "
                "little to learn from scratch; its lr is ten times that of SGD with momentum 0.9, not Adam's: try "
                f"lr=0.1 (it is {rates[0]:g})"
            )
        return True

    def _rms(self, parts: Sequence[Tensor]) -> float:
        """Return the root mean square over all entries of the parameters, estimated from ``parts`` of each."""
        sizes = [state.param.numel() for state in self._states]
        squares = [n * float(part.double().square().mean()) for n, part in zip(sizes, parts, strict=True)]
        return math.sqrt(sum(squares) / max(1, sum(sizes)))


def _some(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // ENTRIES)]


def _some_std(state: ParameterState) -> Tensor:
    given = {name: state.group[name] for name in ("ess", "weight_decay")}
    return posterior_noise(1.0, _some(state.sampled_hess), **given)


def can_look(states: Sequence[ParameterState]) -> bool:
    """Whether numbers can be read from the device now, and no step has been taken yet."""
    return not capturing(state.param for state in states) and all(float(state.step) == 0 for state in states[:1])
