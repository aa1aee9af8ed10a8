"""The kinds of label errors and the rates that each allows, for modules that must not wait for torch."""

from __future__ import annotations

import math
from numbers import Real

from vlls._names import check_known

__all__ = ["CORRUPTIONS", "ROUNDING", "check_errors"]

CORRUPTIONS = ("symmetric", "pair_flip", "class_dependent")
ROUNDING = 1e-12  # by so much may the sum κ + βK, rounded, miss the 1 that it is


def check_errors(
    corruption: str, rate: float, rate_step: float = 0.0, num_classes: int | None = None, argument: str = "rate"
) -> tuple[float, float]:
    r"""Return the rate and the rate step of label errors as floats, after checking them.

    Args:
        corruption: one of :data:`CORRUPTIONS`, or ``"none"``, which goes with zeros only.
        rate: r, or κ of Eq. 21, in [0, 1).
        rate_step: β of Eq. 21; must be 0 unless the errors are class-dependent.
        num_classes: K, with which :math:`\kappa + \beta K` may be at most 1; None if it is not known yet.
        argument: the rate's name in an error.

    Raises:
        ValueError: if one of them is not allowed.

    Example:
        >>> check_errors("class_dependent", 0, 0.05)
        (0.0, 0.05)
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
            f"{argument}={rate:g} and rate_step={rate_step:g} give class {num_classes} the rate "
            f"{rate + rate_step * num_classes:g}, which is above 1; choose a rate_step of at most "
            f"{(1 - rate) / num_classes:g}"
        )
    return float(rate), float(rate_step)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
