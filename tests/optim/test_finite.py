"""Gradients are checked for NaN and infinity by norms, whose squares may overflow although the numbers are finite."""

import pytest
import torch

from vlls.optim._finite import are_finite

LARGE = {torch.float16: 6e4, torch.bfloat16: 1e38, torch.float32: 1e38, torch.float64: 1e300}


@pytest.mark.parametrize("bad", [None, float("inf"), float("-inf"), float("nan")], ids=str)
@pytest.mark.parametrize("dtype", LARGE, ids=str)
def test_only_infinities_and_nan_are_no_numbers(dtype, bad):
    grads = [torch.full((40, 50), LARGE[dtype], dtype=dtype), torch.ones(3), torch.ones(2, dtype=torch.float64)]
    if bad is not None:
        grads[0][7, 7] = bad
    assert are_finite(grads) == (bad is None)


def test_no_gradient_is_infinite_where_there_is_none():
    assert are_finite([])
