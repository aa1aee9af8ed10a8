"""Checks of user input, shared by the package."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlls._names import check_known as check_known
from vlls._names import check_whole_number as check_whole_number
from vlls._names import kind_of


def quote(values: Tensor, limit: int = 5) -> str:
    """Name the first few distinct entries of ``values`` for an error message."""
    distinct = values.flatten().unique()
    shown = ", ".join(f"{v:g}" for v in distinct[:limit].tolist())
    return shown + (", ..." if distinct.numel() > limit else "")


def as_float64(value: Any, name: str) -> Tensor:
    """Return ``value`` as a float64 tensor on its device."""
    if not isinstance(value, Tensor):
        array = np.array(value)  # a copy: the caller's array stays unchanged
        if array.dtype.kind not in "biufc":
            raise ValueError(f"{name} has entries of type {array.dtype}; pass numbers")
        value = torch.from_numpy(array)
    if value.is_complex():
        raise ValueError(f"{name} is complex ({value.dtype}); pass real numbers")
    return value.to(torch.float64)


def check_finite(tensor: Tensor, name: str, advice: str = "remove or impute those rows before fitting") -> None:
    """Raise a ValueError if ``tensor`` holds a NaN or an infinity."""
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        index = tuple((~finite).nonzero()[0].tolist())
        where = ", ".join(str(i) for i in index)
        bad = int((~finite).sum())
        raise ValueError(f"{name} holds {bad} value(s) that are NaN or infinite, the first at [{where}]; {advice}")


def check_generator(generator: Any) -> None:
    """Raise a ValueError unless ``generator`` is torch's, or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"generator={generator!r} is no torch.Generator; pass torch.Generator().manual_seed(...)")


def is_number(value: Any) -> bool:
    """Tell whether ``value`` is one real number, of Python, NumPy or a tensor of one entry, but not a bool."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def plain(options: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's options with Python's numbers for NumPy's, which torch.load refuses in a saved state."""
    return {name: _plain(value) for name, value in options.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):  # such as Adam's betas
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def check_rate(value: float, name: str, *, include_zero: bool) -> None:
    """Raise a ValueError unless ``value`` lies in [0, 1], or in (0, 1] without zero."""
    allowed = "[0, 1]" if include_zero else "(0, 1]"
    if not is_number(value) or not 0.0 <= value <= 1.0 or (value == 0.0 and not include_zero):
        raise ValueError(f"{name}={value!r} is outside {allowed}; choose a number in {allowed}")


def check_symmetric(matrix: Tensor, name: str, size: int) -> None:
    """Raise a ValueError unless ``matrix`` is a finite symmetric (size, size) matrix."""
    if tuple(matrix.shape) != (size, size):
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}; the mean's {size} entries need ({size}, {size})")
    check_finite(matrix, name, "look at how it was made")
    scale = matrix.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)
    asymmetry = float((matrix - matrix.T).abs().max() / scale)
    if asymmetry > 1e-8:
        raise ValueError(
            f"{name} is not symmetric (relative asymmetry {asymmetry:.1e}); pass (M + M.T) / 2 if it is rounding"
        )


def whole_labels(labels: Any, name: str = "labels", num_classes: int | None = None) -> Tensor:
    """Return classes as an int64 tensor, from a tensor or array of any integer dtype, a list, a pandas Series, ...

    A tensor stays on its device, an int64 tensor is returned unchanged. Floats, bools, strings, categories and missing
    values raise a ValueError. It names ``num_classes``; whether the labels are below it is not checked.
    """
    allowed = "whole numbers" + (f" from 0 to {num_classes - 1}" if num_classes is not None else ", the classes")
    if isinstance(labels, Tensor):
        if labels.dtype == torch.int64:
            return labels
        if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"{name} are {labels.dtype}{_missing(labels)}; pass {allowed}")
        whole = labels.to(torch.int64)
        if labels.dtype == torch.uint64 and bool((whole < 0).any()):
            raise ValueError(f"{name} hold {int(whole[whole < 0][0]) + 2**64}, which int64 does not; pass {allowed}")
        return whole
    if str(getattr(labels, "dtype", "")) == "category":
        raise ValueError(f"{name} are categories; pass {allowed}, such as pandas' {name}.cat.codes")
    array = _array(labels, name, allowed)
    kind = array.dtype.kind
    if kind in "bfc":
        raise ValueError(f"{name} are torch.{array.dtype}{_missing(array)}; pass {allowed}")
    if kind not in "iuO":
        hint = f", such as pandas.factorize({name})[0]" if kind in "US" else ""
        raise ValueError(f"{name} are {'strings' if hint else array.dtype}; pass {allowed}{hint}")
    if kind != "i":
        _check_entries(array, name, allowed)
    return torch.from_numpy(array.astype(np.int64))


def _array(labels: Any, name: str, allowed: str) -> npt.NDArray[Any]:
    """Convert labels that are not a tensor to an array, after checking that they are a sequence."""
    if not hasattr(labels, "__len__") or isinstance(labels, str | bytes | dict | set):
        given = "None" if labels is None else kind_of(labels)
        raise ValueError(f"{name} are {given}; pass {allowed}, in a tensor, an array or a list")
    listed = isinstance(labels, list | tuple)
    try:
        array = np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} are {kind_of(labels)} that makes no array; pass {allowed}") from error
    if listed and array.size == 0:
        return array.astype(np.int64)
    return array.astype(bool) if listed and any(isinstance(label, bool) for label in labels) else array


def _check_entries(array: npt.NDArray[Any], name: str, allowed: str) -> None:
    """Raise a ValueError at the first entry, of Python objects or unsigned numbers, that int64 does not hold."""
    for at, entry in enumerate(array.flat) if array.dtype.kind == "O" else ():
        if entry is None or type(entry).__name__ in ("NAType", "NaTType") or entry != entry:
            raise ValueError(f"{name}[{at}] is missing ({entry}); drop its example, or pass {allowed} for all of them")
        if isinstance(entry, str):
            raise ValueError(f"{name} are strings; pass {allowed}, such as pandas.factorize({name})[0]")
        if isinstance(entry, bool | np.bool_) or not isinstance(entry, Integral):
            raise ValueError(f"{name}[{at}] is {entry!r}, {kind_of(entry)}; pass {allowed}")
    limits = torch.iinfo(torch.int64)
    outside = (array > limits.max) | (array < limits.min)
    if bool(np.any(outside)):
        raise ValueError(f"{name} hold {array[outside][0]}, which int64 does not; pass {allowed}")


def _missing(values: Any) -> str:
    """Say for an error how many floating-point labels are NaN, as missing values in a pandas Series are."""
    number = int((values.isnan() if isinstance(values, Tensor) else np.isnan(values)).sum())
    return f" with {number} missing (NaN)" if number else ""
