"""Labels are read from any holder of whole numbers; anything else is refused in one line that says what to pass."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from vlls._validation import whole_labels

CLASSES = [3, 0, 120, 1]
WIDTHS = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
HOLDERS = {
    **{f"tensor of {name}": torch.tensor(CLASSES, dtype=getattr(torch, name)) for name in WIDTHS},
    **{f"array of {name}": np.array(CLASSES, dtype=name) for name in WIDTHS},
    **{f"series of {name}": pd.Series(CLASSES, dtype=name, index=[9, 9, 2, 5]) for name in WIDTHS},
    "array of the other byte order": np.array(CLASSES, dtype=">i4"),
    "every second of an array": np.repeat(CLASSES, 2)[::2],
    "read-only array": np.broadcast_to(np.array(CLASSES), (4,)),
    "list": CLASSES,
    "tuple": tuple(CLASSES),
    "list of NumPy's numbers": [np.uint8(n) for n in CLASSES],
    "list of tensors": [torch.tensor(n) for n in CLASSES],
    "nullable series": pd.Series(CLASSES, dtype="Int64"),
    "nullable narrow series": pd.Series(CLASSES, dtype="UInt8"),
    "series of objects": pd.Series(CLASSES, dtype=object),
    "index": pd.Index(CLASSES),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_whole_numbers_are_taken(holder):
    labels = whole_labels(HOLDERS[holder])
    assert labels.dtype == torch.int64 and labels.tolist() == CLASSES


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize(
    "make", [lambda v, d: torch.tensor(v, dtype=getattr(torch, d)), np.array, lambda v, d: pd.Series(v, dtype=d)]
)
def test_a_narrow_dtype_keeps_its_largest_label(make, dtype):
    largest = min(np.iinfo(dtype).max, 2**63 - 1)
    assert whole_labels(make([0, largest], dtype)).tolist() == [0, largest]


def test_int64_tensors_are_returned_and_shapes_kept():
    labels = torch.tensor(CLASSES)
    assert whole_labels(labels) is labels
    assert whole_labels(np.zeros((2, 3), dtype=np.uint16)).shape == (2, 3)
    assert whole_labels([]).shape == (0,) and whole_labels([]).dtype == torch.int64


REFUSED = {
    "floats": (torch.tensor([0.0, 1.0]), "^labels are torch.float32; pass whole numbers, the classes$"),
    "halves": (torch.tensor([0.0], dtype=torch.bfloat16), "^labels are torch.bfloat16; pass"),
    "complex": (torch.tensor([0j]), "^labels are torch.complex64; pass"),
    "bools": (torch.tensor([True]), "^labels are torch.bool; pass"),
    "array of floats": (np.array([0.0, 1.0]), "^labels are torch.float64; pass"),
    "list of floats": ([0, 1.5], "^labels are torch.float64; pass"),
    "list of bools": ([0, True], "^labels are torch.bool; pass"),
    "nullable bools": (pd.Series([True, None], dtype="boolean"), r"^labels\[0\] is True, a bool; pass"),
    "NaN in a list": ([0, math.nan], r"^labels are torch.float64 with 1 missing \(NaN\); pass"),
    "NaN in a tensor": (torch.tensor([math.nan] * 2), r"^labels are torch.float32 with 2 missing \(NaN\); pass"),
    "series with gaps": (pd.Series([0, None, 1]), r"^labels are torch.float64 with 1 missing \(NaN\); pass"),
    "nullable with gaps": (pd.Series([0, None], dtype="Int64"), "with 1 missing"),
    "None in a list": ([0, None], r"^labels\[1\] is missing \(None\); drop its example, or pass whole numbers"),
    "NA in a series of objects": (pd.Series([0, pd.NA], dtype=object), r"^labels\[1\] is missing \(<NA>\); drop"),
    "NaN in a list of objects": (np.array([0, math.nan], dtype=object), r"^labels\[1\] is missing \(nan\); drop"),
    "strings": (["cat", "dog"], r"^labels are strings; pass .*, such as pandas.factorize\(labels\)\[0\]$"),
    "series of strings": (pd.Series(["cat", "dog"]), r"^labels are strings; pass .*pandas.factorize\(labels\)\[0\]$"),
    "strings with gaps": (pd.Series([None, "dog"]), r"^labels\[0\] is missing"),
    "digits": (["0", "1"], "^labels are strings; pass"),
    "categories": (pd.Series(["a", "b"], dtype="category"), r"^labels are categories; pass .*labels.cat.codes$"),
    "categories of numbers": (pd.Categorical([3, 5]), "^labels are categories; pass"),
    "dates": (pd.Series(pd.to_datetime(["2020-01-01"])), r"^labels are datetime64\[.*\]; pass whole numbers"),
    "none": (None, "^labels are None; pass .*in a tensor, an array or a list$"),
    "one string": ("0123", "^labels are a str; pass"),
    "dict": ({0: 1}, "^labels are a dict; pass"),
    "number": (3, "^labels are an int; pass"),
    "iterator": (iter([0, 1]), "^labels are a list_iterator; pass"),
    "ragged": ([[0], [0, 1]], "^labels are a list that makes no array; pass"),
    "beyond int64": (
        torch.tensor([0, 2**63], dtype=torch.uint64),
        "^labels hold 9223372036854775808, which int64 does",
    ),
    "array beyond int64": (np.array([0, 2**64 - 1], dtype=np.uint64), "^labels hold 18446744073709551615, which"),
    "list beyond uint64": ([0, 2**70], f"^labels hold {2**70}, which int64"),
    "list below int64": ([0, -(2**70)], f"^labels hold -{2**70}, which int64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_one_line(name):
    labels, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        whole_labels(labels)
    assert "\n" not in str(caught.value)


def test_the_error_names_the_argument_and_the_classes():
    with pytest.raises(ValueError, match="^targets are torch.float32; pass whole numbers from 0 to 4$"):
        whole_labels(torch.zeros(2), "targets", 5)
