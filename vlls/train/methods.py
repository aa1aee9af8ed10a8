"""The methods that the paper compares: what loss each takes, and what optimizer."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vlls.optim import IVON, SAM
from vlls.optim._cpu import _library, available
from vlls.smoothing import (
    ACLS,
    EntropySmoothing,
    LabelSmoothingLoss,
    MeanPredictionSmoothing,
    OnlineLabelSmoothing,
)
from vlls.train.config import RunConfig
from vlls.train.presets import VARIATIONAL

__all__ = ["executor", "make_criterion", "make_optimizer"]


def make_criterion(config: RunConfig, num_classes: int) -> nn.Module:
    """The loss of a method, cross-entropy for those that smooth no labels; called with logits and classes.

    Args:
        config: resolved.
        num_classes: K.
    """
    smoothing, alpha, margin = config.smoothing, config.alpha, config.margin
    if config.method == "ls":
        assert smoothing is not None
        return LabelSmoothingLoss(smoothing, validate=False)
    if config.method == "ols":
        assert smoothing is not None and alpha is not None
        return OnlineLabelSmoothing(alpha, num_classes, smoothing, validate=False)
    if config.method == "mean_prediction":
        assert smoothing is not None
        return MeanPredictionSmoothing(smoothing, num_classes, validate=False)
    if config.method == "entropy":
        return EntropySmoothing(validate=False)
    if config.method == "acls":
        assert alpha is not None and margin is not None
        return ACLS(alpha, margin, validate=False)
    return nn.CrossEntropyLoss()


def make_optimizer(
    config: RunConfig, model: nn.Module, num_train: int, *, together: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of a method; its ``step`` takes a closure.

    Learning rates are 0-d tensors on a GPU, where a CUDA graph reads them at every replay.

    Args:
        config: resolved.
        model: on the device that it is trained on.
        num_train: number of training images, IVON's effective sample size unless the config has another.
        together: whether other processes train the same model on other images.
    """
    params = list(model.parameters())
    cuda = params[0].is_cuda
    # the loop sets it before each step; a GPU's must be a tensor from the start
    lr: Any = torch.zeros((), device=params[0].device) if cuda else 0.0
    if config.method not in VARIATIONAL:
        options = {"lr": lr, "momentum": config.momentum, "weight_decay": config.weight_decay, "fused": True}
        if config.method == "sam":
            assert config.rho is not None
            return SAM(params, torch.optim.SGD, config.rho, **options)
        return torch.optim.SGD(params, **options)
    values: dict[str, Any] = {
        "beta1": config.momentum,
        "hess_init": config.hess_init,
        "weight_decay": config.weight_decay,
        "beta2": 1.0 if config.beta2 is None else config.beta2,  # a Hessian that stays: ivon_fixed and vgd
    }
    if config.hess_approx is not None:
        values["hess_approx"] = config.hess_approx
    if config.clip_radius is not None:
        values["clip_radius"] = config.clip_radius
    fused = importlib.util.find_spec("triton") is not None if cuda else available()
    return IVON(params, lr, config.ess or num_train, **values, sync=together, fused=fused)


def executor(optimizer: torch.optim.Optimizer) -> str:
    """The code that takes an optimizer's steps; IVON's random numbers and everybody's last digits depend on it.

    Returns:
        ``"torch fused"``, or of IVON ``"cpu ivon-HASH"`` (the compiled kernel: its source, compiler options and
        processor), ``"cuda triton VERSION"``, and without them ``"single"`` or ``"foreach"``.
    """
    if not isinstance(optimizer, IVON):
        return "torch fused"
    cuda = optimizer.param_groups[0]["params"][0].is_cuda
    if not optimizer.fused:
        return "foreach" if cuda else "single"
    return f"cuda triton {importlib.metadata.version('triton')}" if cuda else f"cpu {Path(_library()._name).stem}"
