"""A network, a posterior over its weights and a batch, checked: where every estimator of the noise begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlls._compiled import uncompiled
from vlls.noise._call import Call, call_of, is_narrow
from vlls.noise._checks import check_batch, check_memory_limit, check_mode, warn_of_resolution
from vlls.noise._posterior import ModelPosterior, posterior_of
from vlls.noise._trial import Trials


@dataclass(frozen=True)
class Setting:
    """A network that is not compiled, and a posterior over its weights."""

    model: nn.Module
    call: Call
    posterior: ModelPosterior
    dtype: torch.dtype  # of the logits that the network itself returns
    num_outputs: int  # K
    arithmetic: torch.dtype  # of a call

    def warn(self) -> None:
        """Warn if weights in half precision cannot show the noise."""
        if any(is_narrow(p) for p in self.model.parameters()):
            std = self.posterior.deviations()
            warn_of_resolution(self.model, self.posterior.mean, std, lost=self.call.dtype is None)


def prepare(model: nn.Module, posterior: Any, x: Tensor, memory_limit: float | None) -> tuple[Setting, Trials]:
    """Check an estimator's arguments, and that no example changes the logits of another; more trials may follow."""
    check_batch(x)
    check_memory_limit(memory_limit)
    model = uncompiled(model)
    check_mode(model)
    return trials_of(model, posterior_of(model, posterior), x, memory_limit)


def trials_of(
    model: nn.Module, posterior: ModelPosterior, x: Tensor, memory_limit: float | None
) -> tuple[Setting, Trials]:
    """The setting of a checked posterior, and its trials, of which the first was passed."""
    call, logits = call_of(model, posterior.mean, x)
    arithmetic = call.dtype or logits.dtype
    if call.dtype is None and any(is_narrow(p) for p in model.parameters()):
        arithmetic = torch.float16
    trials = Trials(call, posterior, x, arithmetic, memory_limit)
    trials.examples()
    return Setting(model, call, posterior, logits.dtype, logits.shape[1], arithmetic), trials
