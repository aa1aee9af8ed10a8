"""How much of IVON's Hessian came from the data, and how wide its posterior was and is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vlls._names import kind_of
from vlls.optim.alg1 import posterior_noise


@dataclass(frozen=True)
class LearnedShare:
    r"""The share of IVON's Hessian that was learned, and the posterior's standard deviations.

    Attributes:
        median: of the share over all weights; ``float(...)`` of the whole object is this number.
        low: its 5 % quantile.
        high: its 95 % quantile.
        total: of the sum of the Hessian over all weights.
        std_start: :math:`\sigma_0 = 1/\sqrt{\lambda (h_0 + \delta)}`; the median over weights where groups differ.
        std_median: median of the standard deviations now.
        std_low: their 5 % quantile.
        std_high: their 95 % quantile.
        by_parameter: the same for each parameter by itself; empty for one parameter.
    """

    median: float
    low: float
    high: float
    total: float
    std_start: float
    std_median: float
    std_low: float
    std_high: float
    by_parameter: dict[str, LearnedShare] = field(default_factory=dict, repr=False)

    def __float__(self) -> float:
        return self.median


@torch.no_grad()
def learned_share(optimizer: Any, model: torch.nn.Module | None = None) -> LearnedShare:
    r"""Return how much of IVON's Hessian the data taught it: :math:`(h_T - \beta_2^T h_0) / h_T`.

    After T steps, a part :math:`\beta_2^T h_0` of the Hessian is left of its start. If the share is near 0, every
    weight has the same variance, that of ``hess_init``; a smaller ``hess_init`` with a larger ``ess`` lets the data
    teach it (Chapter 7). A share near 1 need not be curvature: where ``ess`` is above the number of images that the
    training sees, squared gradients have most of it (Chapter 14).

    Args:
        optimizer: an :class:`.IVON`, or any optimizer with its state ``hess`` and ``step`` and its hyperparameters.
        model: to name the parameters by; without it they are numbered.

    Returns:
        Quantiles over all weights, and for each parameter. Before the first step, and with ``beta2=1``, the shares are
        0.

    Raises:
        ValueError: if the optimizer keeps no Hessian, or has no weights.

    Example:
        >>> from vlls import IVON
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = IVON([weight], lr=0.1, ess=100.0, hess_init=0.01, beta2=0.9)
        >>> for _ in range(30):
        ...     with optimizer.sampled_params(train=True):
        ...         weight.square().sum().backward()
        ...     optimizer.step()
        >>> 0.9 < learned_share(optimizer).median < 1
        True
    """
    groups = getattr(optimizer, "param_groups", ())
    if not groups or not {"hess_init", "beta2", "ess"} <= groups[0].keys():
        raise ValueError(f"optimizer is {kind_of(optimizer)}, which learns no Hessian; pass an IVON optimizer")
    names = {} if model is None else {id(p): name for name, p in model.named_parameters()}
    found: dict[str, Tensor] = {}
    for group in groups:
        for param in group["params"]:
            if param.requires_grad and param.numel():
                found[names.get(id(param), str(len(found)))] = _shares(group, optimizer.state.get(param, {}), param)
    if not found:
        raise ValueError("the optimizer has no weights to train; pass one with parameters that require gradients")
    parts = {name: _summary([part], {}) for name, part in found.items()}
    return _summary(found.values(), parts if len(parts) > 1 else {})


def _shares(group: dict[str, Any], state: dict[str, Any], param: Tensor) -> Tensor:
    """Return four rows of a parameter's weights: Hessian, the part left of its start, std at the start and now."""
    start = torch.full((param.numel(),), float(group["hess_init"]))
    hess = state["hess"].detach().flatten().float().cpu() if "hess" in state else start
    updates = float(state.get("step", 0)) // group.get("hess_every", 1)
    kept = start * float(group["beta2"]) ** updates
    before, now = (posterior_noise(1.0, h, ess=group["ess"], weight_decay=group["weight_decay"]) for h in (start, hess))
    return torch.stack([hess, kept, before, now])


def _summary(parts: Iterable[Tensor], by_parameter: dict[str, LearnedShare]) -> LearnedShare:
    hess, kept, before, now = torch.cat(list(parts), 1)
    low, median, high = _quantiles(torch.where(hess > 0, 1 - kept / hess, 0.0))
    whole = float(hess.sum(dtype=torch.float64))
    total = 1 - float(kept.sum(dtype=torch.float64)) / whole if whole > 0 else 0.0
    std_low, std_median, std_high = _quantiles(now)
    start = _quantiles(before)[1]
    return LearnedShare(median, low, high, total, start, std_median, std_low, std_high, by_parameter)


def _quantiles(values: Tensor) -> tuple[float, float, float]:
    """Return the 5 %, 50 % and 95 % quantiles (lower values) of a flat tensor of any length."""
    last = values.numel() - 1
    low, median, high = (float(values.kthvalue(int(part * last) + 1).values) for part in (0.05, 0.5, 0.95))
    return low, median, high
