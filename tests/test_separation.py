"""``fit`` warns exactly of the GLMs whose loss has no minimum; linear programming decides which these are."""

import functools
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from vlls import (
    GLM,
    Bernoulli,
    Binomial,
    Categorical,
    Family,
    Gaussian,
    Poisson,
    Ridge,
    fit,
    gd_step,
    newton_step,
    variational_gd_step,
    von_step,
)

ONES = torch.ones(10, 1, dtype=torch.float64)
FAR = torch.tensor([[0.1], [-0.1], [0.2], [-0.2], [40.0]], dtype=torch.float64)
LINE = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
WITH_INTERCEPT = torch.stack([torch.ones(4, dtype=torch.float64), LINE], dim=1)


class Logistic(Family):
    """A user's family, which defines only A."""

    def log_partition(self, f):
        return torch.nn.functional.softplus(f, threshold=40)


def fitted(glm, step=newton_step, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fit(glm, step, **options)
    return result, [str(warning.message) for warning in caught if warning.category is UserWarning]


def quasi(x):
    """Return data that a plane separates, except for two examples on the plane, one of each label."""
    on_it = torch.zeros(2, x.shape[1], dtype=torch.float64)
    on_it[:, 0] = 1.0
    return torch.cat([x, on_it]), torch.tensor([0, 0, 1, 1, 0, 1])


SEPARATED = {
    "all labels 1": (Bernoulli(), ONES, torch.ones(10), 0.0),
    "all labels 0": (Bernoulli(), ONES, torch.zeros(10), 0.0),
    "all successes": (Binomial(5), ONES, torch.full((10,), 5), 0.0),
    "no success": (Binomial(5), ONES, torch.zeros(10), 0.0),
    "counts of zero": (Poisson(), ONES, torch.zeros(10), 0.0),
    "a column whose counts are zero": (Poisson(), torch.eye(2).repeat(5, 1), torch.tensor([3, 0] * 5), 0.0),
    "complete": (Bernoulli(), LINE[:, None], torch.tensor([0, 0, 1, 1]), 0.0),
    "complete, with an intercept": (Bernoulli(), WITH_INTERCEPT, torch.tensor([0, 0, 1, 1]), 0.0),
    "quasi-complete": (Bernoulli(), *quasi(WITH_INTERCEPT), 0.0),
    "a ridge on the intercept alone": (Bernoulli(), WITH_INTERCEPT, torch.tensor([0, 0, 1, 1]), [1.0, 0.0]),
    "a penalty that does not grow": (Bernoulli(), ONES, torch.ones(10), lambda theta: 0.0 * theta.sum()),
}


@pytest.mark.parametrize("case", SEPARATED)
def test_a_loss_without_a_minimum_is_told(case):
    family, x, y, penalty = SEPARATED[case]
    glm = GLM(family, x, y, penalty if callable(penalty) else Ridge(penalty))
    for step, options in (
        (newton_step, {"max_iter": 60}),
        (functools.partial(newton_step, lr=0.9), {"max_iter": 60}),
        (gd_step, {"lr": 0.1, "tol": 1e-2, "max_iter": 200}),  # steps become short before rounding matters
        (variational_gd_step, {"lr": 0.1, "tol": 1e-2, "max_iter": 20}),
    ):
        result, said = fitted(glm, step, **options)
        assert not result.converged and len(said) == 1
        assert "no minimum" in said[0] and "Ridge(1e-3)" in said[0] and "\n" not in said[0]


def test_the_number_of_the_report():
    result, said = fitted(GLM(Bernoulli(), ONES, torch.ones(10), Ridge(0)))
    assert float(result.final) == pytest.approx(37.55, abs=0.01)  # where 1 - sigmoid is lost in rounding
    assert not result.converged and "no minimum" in said[0]


def test_a_family_of_one_s_own():
    glm = GLM(Logistic(), ONES, torch.ones(10), Ridge(0))
    result, said = fitted(glm, gd_step, lr=0.1, tol=1e-2)
    assert not result.converged and "no minimum" in said[0]
    result, said = fitted(glm, newton_step)  # its Hessian reaches 0
    assert not result.converged and "no minimum" in said[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_hessian_that_becomes_singular_on_the_way(seed):
    """A plane separates the classes: all earlier states are returned. Collinear features are still refused."""
    x = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    result, said = fitted(GLM(Bernoulli(), x, x[:, 0] > 0, Ridge(0)), newton_step)
    assert not result.converged and "no minimum" in said[0] and len(result.states) > 5
    y = torch.rand(60, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with pytest.raises(ValueError, match="the Hessian is singular"):
        fit(GLM(Bernoulli(), torch.cat([x, x[:, :1]], 1), y > 0.5, Ridge(0)), newton_step)


def test_von_without_a_minimum_is_told():
    result, said = fitted(GLM(Bernoulli(), ONES, torch.ones(10), Ridge(0)), von_step, max_iter=5)
    assert not result.converged and "no minimum" in said[0]


FINITE = {
    "nearly all successes": (Binomial(10**6), ONES, torch.full((10,), 10**6 - 1), 0.0),
    "labels a millionth off": (Bernoulli(), ONES, torch.full((10,), 1 - 1e-6, dtype=torch.float64), 0.0),
    "one count": (Poisson(), ONES, torch.tensor([1] + 9 * [0]), 0.0),
    "an example far out": (Bernoulli(), 50 * FAR, [1, 1, 1, 0, 1], 0.0),
    "a small ridge": (Bernoulli(), LINE[:, None], torch.tensor([0, 0, 1, 1]), 1e-6),
    "a ridge on what separates": (Bernoulli(), WITH_INTERCEPT, torch.tensor([0, 0, 1, 1]), [0.0, 1.0]),
    "smoothed": (Bernoulli(), WITH_INTERCEPT, torch.tensor([0.1, 0.1, 0.9, 0.9]), 0.0),
    "gaussian": (Gaussian(), WITH_INTERCEPT, LINE, 0.0),
    "gaussian, far below": (Gaussian(), ONES, torch.full((10,), -1e4), 0.0),
    "a family of one's own": (Logistic(), ONES, torch.tensor([1] * 9 + [0]), 0.0),
    "a penalty that grows": (Bernoulli(), ONES, torch.ones(10), lambda theta: (theta**2 + 1).sqrt().sum()),
}


@pytest.mark.parametrize("case", FINITE)
def test_a_minimum_that_is_there_is_not_denied(case):
    family, x, y, penalty = FINITE[case]
    glm = GLM(family, x, y, penalty if callable(penalty) else Ridge(penalty))
    result, said = fitted(glm, tol=1e-8)
    assert result.converged and said == []
    assert float(glm.gradient(result.final).abs().max()) < 1e-7 * float(glm.targets.abs().sum() + 1)


def exists(glm):
    """Say whether no direction is one of recession, by linear programming on each family's conditions."""
    x, y = glm.features.numpy(), glm.targets.numpy()
    free = np.broadcast_to(np.asarray(glm.regularizer.precision) == 0, glm.parameter_shape).reshape(-1)
    least, equal = [], []
    for row, label in zip(x, y, strict=True):
        if glm.family.num_outputs:
            own = int(np.argmax(label))
            for k in range(len(label)):
                if k != own:
                    unit = np.zeros(len(label))
                    unit[own], unit[k] = 1, -1
                    (equal if label[k] > 0 else least).append(np.outer(row, unit).reshape(-1))
        else:
            top = getattr(glm.family, "trials", np.inf)
            (least if label in (0, top) else equal).append(row if label == top else -row)
    if not least or not free.any():
        return True
    least, equal = np.array(least)[:, free], np.array(equal).reshape(-1, len(free))[:, free]
    options = {"A_eq": equal, "b_eq": np.zeros(len(equal))} if len(equal) else {}
    found = linprog(-least.sum(0), A_ub=-least, b_ub=np.zeros(len(least)), bounds=(-1, 1), **options)
    return -found.fun < 1e-7


@pytest.mark.parametrize("name", ["bernoulli", "smoothed bernoulli", "binomial", "poisson", "categorical"])
def test_what_linear_programming_finds(name):
    """Small models with integer features; about half are separated, completely or quasi-completely."""
    rng, answers = np.random.default_rng(0), []
    for _ in range(60):
        n, p = int(rng.integers(3, 14)), int(rng.integers(1, 5))
        x = rng.integers(-2, 3, (n, p)).astype(float)
        f = x @ rng.normal(size=p) * 2
        if name == "categorical":
            y = np.argmax(x @ rng.normal(size=(p, 3)) + rng.gumbel(size=(n, 3)) * 0.3, axis=1)
            glm = GLM(Categorical(3), x, y, Ridge(rng.integers(0, 2, (p, 1)) * rng.integers(0, 2)))
        else:
            family, y = {
                "bernoulli": (Bernoulli(), (rng.random(n) < 1 / (1 + np.exp(-f))).astype(float)),
                "smoothed bernoulli": (Bernoulli(), np.where(rng.random(n) < 0.2, 0.3, (f > 0).astype(float))),
                "binomial": (Binomial(3), rng.binomial(3, 1 / (1 + np.exp(-3 * f)))),
                "poisson": (Poisson(), rng.poisson(np.exp(f - 4))),
            }[name]
            glm = GLM(family, x * 10.0 ** rng.integers(-3, 4, p), y, Ridge(rng.integers(0, 2, p) * rng.integers(0, 2)))
        for theta in (torch.zeros(glm.parameter_shape), torch.randn(glm.parameter_shape)):
            assert glm._falls_forever(theta.double()) == (not exists(glm))
        answers.append(exists(glm))
    assert 5 < sum(answers) < 55


def test_classes_are_separated_as_labels_are():
    """A common shift of all softmax logits changes no loss, and is no reason to warn."""
    x = torch.cat([WITH_INTERCEPT, WITH_INTERCEPT])
    overlap, apart = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]), torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    options = {"lr": 0.2, "tol": 1e-6, "max_iter": 3000}
    result, said = fitted(GLM(Categorical(3), x, overlap, Ridge(0)), gd_step, **options)
    assert result.converged and said == []
    for penalty in (Ridge(0), Ridge([[0.0], [1.0]])):  # class 2 never occurs, and the intercept is unpenalised
        result, said = fitted(GLM(Categorical(3), x, apart, penalty), gd_step, **{**options, "max_iter": 50})
        assert not result.converged and "no minimum" in said[0]
    result, said = fitted(GLM(Categorical(3), x, apart), newton_step)
    assert result.converged and said == []


def test_many_examples_and_features_take_little(monkeypatch):
    """A fit with a minimum is recognised by its last step, without a search."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 50, dtype=torch.float64, generator=generator)
    y = torch.bernoulli(torch.sigmoid(x[:, 0]), generator=generator)
    monkeypatch.setattr("vlls.glm.falling_direction", None)
    result, said = fitted(GLM(Bernoulli(), x, y, Ridge(0)))
    assert result.converged and said == []
