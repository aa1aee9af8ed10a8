"""Label noise and predictions under any Gaussian posterior: every model of `cases.py` under every posterior."""

import math

import numpy as np
import pytest
import torch
from cases import (
    CASES,
    POSTERIORS,
    D,
    PerLayer,
    case_of,
    jacobian,
    mlp,
    posterior_of,
    seeded,
    vector,
    weights_of,
)
from torch.func import functional_call

import vlls
from vlls import GLM, Bernoulli, GaussianPosterior
from vlls.glm import variational_gd_step
from vlls.noise import (
    label_noise,
    label_noise_moments,
    logit_covariance,
    rank_examples,
)
from vlls.noise._linearization import Linearization
from vlls.noise._options import METHODS, NoiseOptions
from vlls.noise._push import curvature
from vlls.posterior import Posterior

pytestmark = pytest.mark.filterwarnings("ignore:.*per-example gradients:UserWarning")
LABELS = torch.tensor([0, 1, 2, 0])


def by_name(posterior, model):
    """Return the posterior with the parameters' names, as the protocol asks."""
    return posterior.posterior(model) if isinstance(posterior, GaussianPosterior) else posterior


def relative_error(found, exact):
    return float((found - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("model, posterior", CASES)
def test_the_covariance_of_the_logits(model, posterior):
    case = case_of(model, posterior)
    exact = case.logit_covariance()
    found = logit_covariance(case.model, case.posterior, case.x)
    assert torch.equal(found, found.mT) and relative_error(found, exact) < 1e-10
    small = logit_covariance(case.model, case.posterior, case.x, memory_limit=0.12)
    assert relative_error(small, found) < 1e-12
    single = case_of(model, posterior, dtype=torch.float32)
    assert relative_error(logit_covariance(single.model, single.posterior, single.x).double(), exact) < 1e-4


@pytest.mark.parametrize("model, posterior", CASES)
def test_few_directions_are_a_projection(model, posterior):
    case = case_of(model, posterior)
    logits = case.model(case.x).detach()
    bend = curvature(vlls.Categorical(3), logits)
    leading = torch.linalg.eigh(bend)[1][..., -1:]
    onto = leading @ leading.mT
    found = label_noise_moments(case.model, case.posterior, case.x, method="rank", rank=1, linear=True)
    exact = onto @ bend @ case.logit_covariance() @ bend @ onto
    assert relative_error(found.covariance, exact) < 1e-9


@pytest.mark.parametrize("model, posterior", CASES)
def test_a_direction_is_equation_20_for_a_draw(model, posterior):
    case = case_of(model, posterior)
    q = by_name(case.posterior, case.model)
    found = label_noise(case.model, case.posterior, case.x, method="direction", generator=seeded(5))
    draw = q.sample(seeded(5))
    step = vector({name: draw[name] - case.mean[name] for name in case.mean})
    slope = jacobian(case.model, case.mean, case.x) @ step
    bend = curvature(vlls.Categorical(3), case.model(case.x).detach())
    assert relative_error(found, -(bend @ slope[..., None])[..., 0]) < 1e-9


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("antithetic", [False, True])
def test_draws_of_the_weights_are_those_of_the_dense_covariance(posterior, antithetic):
    """Both sides are Monte Carlo: the bound is the root of their summed squared standard errors."""
    case = case_of("mlp", posterior, scale=0.3)
    found = label_noise_moments(
        case.model, case.posterior, case.x, method="monte_carlo", num_samples=800, antithetic=antithetic,
        generator=seeded(6),
    )  # fmt: skip
    noise = case.model(case.x).softmax(1).detach() - case.draws(800).softmax(2)
    error = (noise.var(0) / len(noise) + found.standard_error.square()).sqrt()
    assert float(((noise.mean(0) - found.mean_shift) / error).abs().max()) < 4.5
    square = noise.square().sum(2)
    size = square.mean(0).sqrt()
    error = (square.std(0) / math.sqrt(len(noise)) / (2 * size)).square() + found.magnitude_error.square()
    assert float(((size - found.magnitude) / error.sqrt()).abs().max()) < 4.5


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_the_exact_noise_agrees_with_draws(posterior):
    case = case_of("cnn", posterior, scale=0.005)
    drawn = label_noise_moments(
        case.model, case.posterior, case.x, method="monte_carlo", num_samples=400, generator=seeded(6)
    )
    exact = label_noise_moments(case.model, case.posterior, case.x)
    assert float(((exact.magnitude - drawn.magnitude) / drawn.magnitude_error).abs().max()) < 4.5
    pairs = {"curvature_pairs": 60, "generator": seeded(8)}
    steady = label_noise_moments(case.model, case.posterior, case.x, **pairs)
    drawn = label_noise_moments(
        case.model, case.posterior, case.x, method="monte_carlo", num_samples=400, antithetic=True, generator=seeded(6)
    )
    error = (steady.standard_error.square() + drawn.standard_error.square()).sqrt()
    assert float(((steady.mean_shift - drawn.mean_shift) / error).abs().max()) < 4.5


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_ranking_and_predictions(posterior):
    case = case_of("cnn", posterior, scale=0.1)
    table = rank_examples(case.model, case.posterior, case.x, LABELS, method="exact", batch_size=3)
    noise = label_noise_moments(case.model, case.posterior, case.x).magnitude
    assert np.allclose(table.noise, noise[table.index], rtol=1e-10)
    before = {name: t.clone() for name, t in case.model.state_dict().items()}
    case.model.train()
    found = vlls.predict(case.model, case.posterior, case.x, 5, generator=seeded(9))
    assert all(m.training for m in case.model.modules())
    assert all(torch.equal(t, before[name]) for name, t in case.model.state_dict().items())
    q = by_name(case.posterior, case.model)
    case.model.eval()
    generator = seeded(9)
    draws = [functional_call(case.model, q.sample(generator), (case.x,)).softmax(1).detach() for _ in range(5)]
    assert torch.allclose(found, torch.stack(draws).mean(0), rtol=1e-12)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_draws_of_predictions_are_those_of_the_dense_covariance(posterior):
    case = case_of("mlp", posterior, scale=0.3)
    chances = case.draws(800).softmax(2)
    found = vlls.predict(case.model, case.posterior, case.x, 800, generator=seeded(9))
    error = (2 * chances.var(0) / 800).sqrt()
    assert float(((found - chances.mean(0)) / error).abs().max()) < 4.5


def test_rows_of_one_basis_are_added_only_if_they_must_wait(monkeypatch):
    """Rows of independent parameters are kept only if several parts of a layer share them, as attention's weight."""
    kept = {}
    ordinary = Linearization._held
    monkeypatch.setattr(Linearization, "_held", lambda line: kept.setdefault(len(kept), ordinary(line)))
    for posterior in ("diagonal", "per layer", "joint"):
        case = case_of("transformer", posterior)
        logit_covariance(case.model, case.posterior, case.x)
    shapes = {name: p.numel() for name, p in case.mean.items()}
    packed = sum(number for name, number in shapes.items() if "in_proj" in name)
    assert list(kept.values()) == [0, packed, sum(shapes.values())]


def test_half_precision_and_a_compiled_model():
    model = mlp()
    q = GaussianPosterior(vector(weights_of(model)), 0.01)
    x = torch.randn(4, 4)
    usual = logit_covariance(model, q, x)
    assert torch.equal(logit_covariance(torch.compile(model, backend="eager"), q, x), usual)
    assert torch.equal(vlls.predict(model, q, x, 2, generator=seeded()),
                       vlls.predict(torch.compile(model, backend="eager"), q, x, 2, generator=seeded()))  # fmt: skip
    half = logit_covariance(model.bfloat16(), q, x.bfloat16())
    assert relative_error(half, usual) < 0.05
    with pytest.warns(UserWarning, match="std of '0.weight' is .* and its torch.bfloat16 weights are"):
        label_noise(model, GaussianPosterior(q.mean, 1e-10), x.bfloat16())


def test_the_two_of_the_package_implement_the_protocol():
    model = mlp()
    flat = GaussianPosterior(vector(weights_of(model)), 0.01)
    g = torch.randn(2, 5, 6, 4)
    named = GaussianPosterior(weights_of(model), 0.01)
    for q in (named, flat.posterior(model), posterior_of(model, 0.1)):
        assert isinstance(q, Posterior) and q.mean["0.weight"].shape == model[0].weight.shape
        rows = q.scale("0.weight", g.to(q.mean["0.weight"]))
        product = 0.01 * g.flatten(2).transpose(0, 1) @ g.flatten(2).transpose(0, 1).mT
        assert torch.allclose((rows.transpose(0, 1) @ rows.transpose(0, 1).mT).float(), product, rtol=1e-4, atol=1e-6)
        assert q.sample(seeded())["2.bias"].shape == (3,)
        assert torch.equal(q.sample(seeded())["2.bias"], q.sample(generator=seeded())["2.bias"])
    assert named.posterior(model) is named and "6 names" not in repr(flat) and "4 names" in repr(named)
    assert torch.equal(vector(named.sample(seeded())), flat.sample(1, generator=seeded())[0])
    with pytest.raises(ValueError, match="num_samples is 5; a posterior with names draws one set of weights a call"):
        named.sample(5)
    with pytest.raises(ValueError, match="this posterior has no names, so no '0.weight'; pass posterior"):
        flat.scale("0.weight", g)
    with pytest.raises(ValueError, match="mean is a dict, of a network; pass a tensor"):
        variational_gd_step(
            GLM(Bernoulli(), torch.randn(3, 2), torch.ones(3)), GaussianPosterior({"w": torch.zeros(2)}, 1.0), 0.1
        )
    assert not isinstance(torch.optim.SGD(model.parameters(), lr=0.1), Posterior)


# ---------------------------------------------------------------------- bad input
class Changed(PerLayer):
    """A valid posterior with one attribute changed."""

    def __init__(self, model, **changes):
        mean = weights_of(model)
        super().__init__(mean, {name: 0.1 * torch.eye(m.numel()).to(m) for name, m in mean.items()})
        for name, change in changes.items():
            setattr(self, name, change(self, getattr(self, name, None)))


def without(name):
    return lambda q, whole: {n: t for n, t in whole.items() if n != name}


def after(change):
    return lambda q, method: lambda *args: change(method(*args))


WRONG = {
    "a foreign name": ({"mean": lambda q, m: {**m, "3.weight": m["2.weight"]}}, r"1 name\(s\) that the model has not"),
    "no names": ({"mean": lambda q, m: {}}, "has no names left"),
    "a mean that is no dict": ({"mean": lambda q, m: vector(m)}, "mean is a Tensor; it has to be a dict"),
    "a mean of another shape": ({"mean": lambda q, m: {**m, "0.bias": torch.ones(2)}}, r"and the model's \(6,\)"),
    "a mean of integers": ({"mean": lambda q, m: {**m, "0.bias": m["0.bias"].long()}}, "of type torch.int64"),
    "a NaN in the mean": ({"mean": lambda q, m: {**m, "0.bias": m["0.bias"] / 0}}, "mean of '0.bias' holds 6 value"),
    "no scale of a name": ({"root": without("2.bias")}, "does not know '2.bias'"),
    "a scale that lacks a name": (
        {"scale": lambda q, scale: lambda n, g: {}[n] if n == "2.bias" else scale(n, g)},
        "mean of '2.bias' and its scale does not know it; give it a scale for each name",
    ),
    "a scale that sums over functions": (
        {"scale": after(lambda rows: rows.sum(0, keepdim=True))},
        r"scale of '0.weight' returned \(1, 3, 24\) of torch.float64 for gradients \(2, 3, 6, 4\)",
    ),
    "a scale that sums over examples": ({"scale": after(lambda rows: rows.sum(1))}, r"returned \(2, 24\)"),
    "a scale that swaps": ({"scale": after(lambda rows: rows.transpose(0, 1))}, r"\(3, 2, 24\).*rows \(2, 3, Q\)"),
    "a scale in another dtype": ({"scale": after(lambda rows: rows.float())}, "of torch.float32 for gradients"),
    "a scale that is no tensor": ({"scale": after(lambda rows: rows.tolist())}, "returned a list for gradients"),
    "a scale with NaN": ({"scale": after(lambda rows: rows / 0)}, "NaN or infinite numbers for gradients of ones"),
    "rows of two lengths in one basis": ({"joint": lambda q, _: True}, "joint=True .* rows of 24 numbers"),
    "a sample that lacks a name": ({"sample": after(lambda draw: without("0.bias")(None, draw))}, "nothing for"),
    "a sample of another shape": (
        {"sample": after(lambda draw: {n: t[None] for n, t in draw.items()})},
        r"shape \(1, 6, 4\) on cpu for '0.weight'; it needs a tensor like its mean, of shape \(6, 4\)",
    ),
    "a sample with NaN": (
        {"sample": after(lambda draw: {n: t / 0 for n, t in draw.items()})},
        r"sample\(\) has NaN or infinite numbers for '0.weight'",
    ),
    "a sample that is no dict": ({"sample": after(vector)}, r"sample\(\) is a Tensor; it has to be a dict"),
    "an independent std of another shape": (
        {"independent_std": lambda q, _: lambda name: torch.ones(1, dtype=D)},
        r"'0.weight' has a mean of shape \(6, 4\) and a std of shape \(1,\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_posterior_that_breaks_the_protocol_is_one_line(name):
    """The check comes first: the model is never called."""
    changes, message = WRONG[name]
    model = mlp(dtype=D)
    model.register_forward_hook(lambda *_: pytest.fail("the model was called"))
    q, x = Changed(model, **changes), torch.randn(4, 4, dtype=D)
    calls = [lambda m=m: label_noise(model, q, x, method=m) for m in METHODS]
    calls += [lambda: logit_covariance(model, q, x), lambda: rank_examples(model, q, x, LABELS)]
    for call in (*calls, lambda: vlls.predict(model, q, x)):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_posterior_without_a_member_is_named():
    model, x = mlp(), torch.randn(4, 4)
    for call in (label_noise, vlls.predict):
        with pytest.raises(ValueError, match="posterior is a Tensor without sample and scale; pass a Diag"):
            call(model, torch.zeros(3), x)


def test_a_gaussian_of_another_length_says_both():
    model, x = mlp(), torch.randn(4, 4)
    for call in (label_noise, logit_covariance, vlls.predict):
        with pytest.raises(ValueError, match="the posterior has 50 parameters and the model 51; pass the vector"):
            call(model, GaussianPosterior(torch.zeros(50), 1.0), x)
        with pytest.raises(ValueError, match=r"mean has shape \(17, 3\), of a GLM; a network needs one vector"):
            call(model, GaussianPosterior(torch.zeros(17, 3), 1.0), x)
        with pytest.raises(ValueError, match=r"1 name\(s\) that the model has not \('weight'\)"):
            call(model, GaussianPosterior({"weight": torch.zeros(3)}, 1.0), x)


# ---------------------------------------------------------------------- options
def test_help_shows_the_keywords_and_they_stand_once():
    import inspect

    shown = inspect.signature(NoiseOptions).parameters
    for function in (label_noise, label_noise_moments):
        parameters = inspect.signature(function).parameters
        assert list(parameters) == ["model", "posterior", "x", *shown]
        assert all(parameters[name].default == shown[name].default for name in shown)
    model, x = mlp(), torch.randn(4, 4)
    q = PerLayer(weights_of(model), {n: torch.eye(p.numel()) for n, p in weights_of(model).items()})
    with pytest.raises(TypeError, match="unexpected keyword argument 'ranks'"):
        label_noise(model, q, x, ranks=2)
