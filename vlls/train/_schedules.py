"""The paper's learning-rate schedules (App. C.2), as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["SCHEDULES", "learning_rate"]

SCHEDULES = ("step", "cosine", "constant")
"""The schedules by name (App. C.2)."""


def learning_rate(
    step: int,
    *,
    lr: float,
    total_steps: int,
    schedule: str,
    warmup_steps: int = 0,
    milestones: Sequence[float] = (0.5, 0.75),
) -> float:
    r"""Return the learning rate of a step, counted from 0.

    ``"step"`` multiplies by 0.1 after each milestone: with 200 epochs and (0.5, 0.75), at epochs 100 and 150, as the
    paper does for SGD, LS and SAM. ``"cosine"`` falls from ``lr`` to zero on half a cosine, as it does for IVON. Both
    rise linearly over the first ``warmup_steps`` (the paper's five epochs, IVON only).

    Args:
        step: number of steps taken before this one.
        lr: the peak.
        total_steps: number of steps of the whole run.
        schedule: ``"step"``, ``"cosine"`` or ``"constant"``.
        warmup_steps: length of the linear rise; step s has (s + 1) / (``warmup_steps`` + 1) of the peak.
        milestones: fractions of ``total_steps``.

    Example:
        >>> [round(learning_rate(s, lr=1.0, total_steps=4, schedule="step"), 3) for s in range(4)]
        [1.0, 1.0, 0.1, 0.01]
        >>> [round(learning_rate(s, lr=1.0, total_steps=4, schedule="cosine"), 3) for s in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    if schedule == "step":
        return float(lr * 0.1 ** sum(step >= round(fraction * total_steps) for fraction in milestones))
    if schedule == "cosine":
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return lr * 0.5 * (1 + math.cos(math.pi * done))
    return lr
