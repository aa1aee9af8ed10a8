"""The kinds of label errors and the rates that each allows, for modules that must not wait for torch."""

from __future__ import annotations

import math
from numbers import Real

from vlls._names import check_known

CORRUPTIONS = ("symmetric", "pair_flip", "class_dependent")
ROUNDING = 1e-12  # largest error by which a rounded κ + βK may exceed 1


def check_errors(
    corruption: str, rate: float, rate_step: float = 0.0, num_classes: int | None = None, argument: str = "rate"
) -> tuple[float, float]:
    """Return the rate (r, or κ of Eq. 21) and the rate step (β) of label errors as floats, after checking them.

    ``"none"`` goes with zeros only. K is None if it is not known yet; ``argument`` is the caller's name of the rate.
    """
    check_known(corruption, ("none", *CORRUPTIONS), "corruption")
    if not _is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f"{argument}={rate!r} is outside [0, 1); choose the share of wrong labels, such as 0.4")
    if not _is_number(rate_step) or not 0 <= rate_step < math.inf:
        raise ValueError(f"rate_step={rate_step!r} is not allowed; choose a finite number of 0 or more, such as 0.05")
    if corruption == "none" and (rate or rate_step):
        known = ", ".join(CORRUPTIONS)
        raise ValueError(f"rate={rate!r}, rate_step={rate_step!r} need a corruption; choose one of {known}")
    if rate_step and corruption != "class_dependent":
        raise ValueError(f"rate_step={rate_step!r} goes with corruption='class_dependent' only; leave it out")
    if num_classes is not None and rate + rate_step * num_classes > 1 + ROUNDING:
        raise ValueError(
            f"rate={rate:g} and rate_step={rate_step:g} give class {num_classes} the rate "
            f"{rate + rate_step * num_classes:g}, which is above 1; choose a rate_step of at most "
            f"{(1 - rate) / num_classes:g}"
        )
    return float(rate), float(rate_step)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
