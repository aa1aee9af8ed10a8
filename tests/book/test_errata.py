"""The page of errata: each calculation that it relies on."""

import math

import numpy as np
import pytest
import sympy as sp

from vlls.data.corruption import transition_matrix


def test_the_sign_of_eqs_14_and_20():
    f, e, norm = sp.symbols("f e norm", positive=True)
    sigma = 1 / (1 + sp.exp(-f))
    draw = sigma - sigma.subs(f, f + norm * e)
    assert sp.simplify(sp.diff(draw, e).subs(e, 0) + norm * sp.diff(sigma, f)) == 0
    at = {f: 0.7, norm: 0.5, e: 0.01}
    assert draw.subs(at) < 0 < (norm * sp.diff(sigma, f) * e).subs(at)


def test_the_matrix_of_eqs_21_and_22_has_rows_that_are_distributions():
    k, kappa, beta = 10, 0.4, 0.05
    rate = [kappa + beta * i for i in range(1, k + 1)]
    p = np.array([[1 - rate[i] if i == j else rate[i] / (k - 1) for j in range(k)] for i in range(k)])
    assert p.sum(axis=1) == pytest.approx(np.ones(k)) and p[:, 0].sum() == pytest.approx(1.25)
    assert np.abs(p.sum(axis=0) - 1).max() > 0.2
    ours = transition_matrix("class_dependent", k, kappa, rate_step=beta)
    assert np.asarray(ours) == pytest.approx(p)
    last = transition_matrix("class_dependent", k, 0.5, rate_step=beta)
    assert last[-1, -1] == pytest.approx(0)


def test_half_of_the_term_is_subtracted_in_eq_24():
    theta, start, g, h = sp.symbols("theta theta_t g h")
    first = theta * (-g + h * start) - h * theta**2 / 2
    second = -theta * g - h * (theta - start) ** 2 / 2
    assert sp.expand(first - second - h * start**2 / 2) == 0


def test_eq_24_as_printed_lacks_the_precision_of_the_regularizer():
    h = sp.symbols("h_1:4", positive=True)
    theta, start, ridge = sp.symbols("theta theta_t delta")
    printed = sum(h_i * (theta - start) ** 2 / 2 for h_i in h)
    right = printed + ridge * theta**2 / 2
    assert sp.simplify(sp.diff(right - printed, theta, 2).subs(ridge, 1)) == 1


def test_the_printed_decay_forgets_the_start_at_once():
    printed, meant, steps = 1 - math.exp(-5), 1 - 1e-5, 200_000
    assert round(printed, 4) == 0.9933 and 1 / (1 - printed) == pytest.approx(148, abs=1)
    assert printed**1000 < 0.002 and meant**steps == pytest.approx(math.exp(-2), rel=1e-4)
