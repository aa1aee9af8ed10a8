"""IVON against Alg. 1 and against the public package, its noise, and its return values."""

import gc
import math

import pytest
import sympy
import torch
from ivon_problems import (
    EXECUTORS,
    assert_lockstep,
    batch,
    cnn,
    executors,
    images,
    mlp,
    needs_compiler,
    train_step,
    weights,
)
from ivon_reference import ReferenceIVON

import vlls
from vlls import IVON
from vlls.optim import alg1


# ---------------------------------------------------------------------------------------------- Alg. 1
def test_the_update_is_alg_1_symbolically():
    m, g, h, ghat, noise, ess, delta, b1, b2, lr, t = sympy.symbols("m g h ghat e ess delta b1 b2 lr t", positive=True)

    class Symbol:  # the few tensor methods that the pure functions use, on expressions
        def __init__(self, e):
            self.e = sympy.sympify(e)

        def __add__(self, o):
            return Symbol(self.e + getattr(o, "e", o))

        def __sub__(self, o):
            return Symbol(self.e - getattr(o, "e", o))

        def __mul__(self, o):
            return Symbol(self.e * getattr(o, "e", o))

        def __truediv__(self, o):
            return Symbol(self.e / getattr(o, "e", o))

        def __rtruediv__(self, o):
            return Symbol(o / self.e)

        def square(self):
            return Symbol(self.e**2)

        def sqrt(self):
            return Symbol(sympy.sqrt(self.e))

        __radd__, __rmul__ = __add__, __mul__

    std = alg1.posterior_noise(1, Symbol(h), ess=ess, weight_decay=delta).e
    assert sympy.simplify(std - 1 / sympy.sqrt(ess * (h + delta))) == 0
    seen = alg1.sample_statistic(Symbol(ghat), Symbol(noise), hess_approx="price")
    price = alg1.hess_estimate(seen, Symbol(h), ess=ess, weight_decay=delta, hess_approx="price").e
    assert sympy.simplify(price - ghat * noise / std**2) == 0
    seen = alg1.sample_statistic(Symbol(ghat), Symbol(noise), hess_approx="gradsq")
    gradsq = alg1.hess_estimate(seen, Symbol(h), ess=ess, weight_decay=delta, hess_approx="gradsq").e
    assert sympy.simplify(gradsq - ess * ghat**2) == 0
    hhat = sympy.Symbol("hhat")
    mean, momentum, hess = alg1.ivon_update(
        Symbol(m), Symbol(g), Symbol(h), Symbol(ghat), Symbol(hhat),
        lr=lr, beta1=b1, beta2=b2, weight_decay=delta, bias_correction=1 - b1**t,
    )  # fmt: skip
    new_g = b1 * g + (1 - b1) * ghat
    new_h = b2 * h + (1 - b2) * hhat + (1 - b2) ** 2 * (h - hhat) ** 2 / (h + delta) / 2
    assert sympy.simplify(momentum.e - new_g) == 0
    assert sympy.simplify(hess.e - new_h) == 0
    assert sympy.simplify(mean.e - (m - lr * (new_g / (1 - b1**t) + delta * m) / (new_h + delta))) == 0


SETTINGS = [
    {},
    {"hess_approx": "gradsq"},
    {"debias": False, "rescale_lr": False},
    {"hess_approx": "gradsq", "beta2": 0.9, "beta1": 0.0},
    {"beta2": 1.0},
    {"clip_radius": 0.05, "weight_decay": 0.0},
    {"beta2": 0.99, "mc_samples": 3},
    {"beta2": 0.9, "hess_clip": 0.1},
    {"beta2": 0.9, "hess_clip": 0.1, "hess_approx": "gradsq", "hess_every": 3},
]


@executors
@pytest.mark.parametrize("how", ["context", "closure", "kept"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_lockstep_with_the_float64_reference(executor, how, setting):
    """Every executor and way of sampling, at the optimizer's own samples."""
    setting = dict(setting)
    samples = setting.pop("mc_samples", 1)
    if how == "kept" and samples > 1:
        pytest.skip("one sample at a time")
    dtype = torch.float32 if executor == "fused" else torch.float64
    model, data = mlp(dtype), batch(dtype=dtype)
    given = {"lr": 0.05, "ess": 30.0, "hess_init": 0.5, "weight_decay": 1e-2, "beta2": 0.999, **setting}
    optimizer = IVON(model.parameters(), mc_samples=samples, **given, **EXECUTORS[executor])
    reference = ReferenceIVON(weights(model).numpy(), **given)
    assert_lockstep(model, data, optimizer, reference, how, 15, samples)


@executors
def test_a_kept_sample_is_of_the_step_s_posterior(executor):
    """The moments of the sample that a step leaves, in units of the new sigma."""
    n = 20_001
    p = torch.nn.Parameter(torch.ones(n))
    given = {"lr": 0.1, "ess": 4.0, "hess_init": 0.3, "weight_decay": 0.2, "beta2": 0.5, "hess_approx": "gradsq"}
    optimizer = IVON([p], **given, **EXECUTORS[executor])
    with optimizer.keep_sampled():
        p.grad = torch.linspace(0, 1, n)
        optimizer.step()
        sample = p.detach().clone()
    precision = given["ess"] * (optimizer.state[p]["hess"].double() + given["weight_decay"])
    e = (sample.double() - p.detach().double()) * precision.sqrt()
    assert abs(e.mean()) < 4.5 / math.sqrt(n)
    for part in (e, e[: n // 2], e[n // 2 :]):  # at small and at large gradients
        assert abs(part.square().mean() - 1) < 4.5 * math.sqrt(2 / len(part))


@executors
def test_samples_have_the_posterior_s_moments(executor):
    """Mean, variance and fourth moment of the noise in units of sigma, within 4.5 standard errors; both halves of a
    Box-Muller pair and neighbouring elements uncorrelated."""
    p = torch.nn.Parameter(torch.linspace(-1, 1, 400_003))
    optimizer = IVON([p], lr=0.1, ess=10.0, hess_init=0.3, weight_decay=0.2, **EXECUTORS[executor])
    with optimizer.sampled_params():
        e = (p.detach().double() - torch.linspace(-1, 1, 400_003).double()) * math.sqrt(10.0 * 0.5)
    n = e.numel()
    assert abs(e.mean()) < 4.5 / math.sqrt(n)
    assert abs(e.square().mean() - 1) < 4.5 * math.sqrt(2 / n)
    assert abs((e**4).mean() - 3) < 4.5 * math.sqrt(96 / n)
    assert abs((e**3).mean()) < 4.5 * math.sqrt(15 / n)
    assert 4.0 < e.abs().max() < 6.8
    for lag in (1, 2, 64, 128, 4096):
        assert abs((e[lag:] * e[:-lag]).mean()) < 4.5 / math.sqrt(n - lag)
        assert abs((e[lag:] ** 2 * e[:-lag] ** 2).mean() - 1) < 4.5 * math.sqrt(8 / (n - lag))
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([0.001, 0.1, 0.25, 0.5, 0.9, 0.999]).double())
    for q in quantiles:
        share = torch.special.ndtr(q)
        assert abs((e < q).double().mean() - share) < 4.5 * math.sqrt(share * (1 - share) / n)


@executors
def test_noise_differs_between_tensors_and_draws_and_not_between_threads(executor):
    def draws(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            params = [torch.nn.Parameter(torch.zeros(50_000)) for _ in range(2)]
            generator = torch.Generator().manual_seed(3)
            optimizer = IVON(params, lr=0.1, ess=1.0, generator=generator, **EXECUTORS[executor])
            out = []
            for _ in range(2):
                with optimizer.sampled_params():
                    out += [p.detach().clone() for p in params]
            return out
        finally:
            torch.set_num_threads(before)

    one, two = draws(1), draws(2)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    for i in range(4):
        for j in range(i):
            assert abs(torch.corrcoef(torch.stack([one[i], one[j]]))[0, 1]) < 4.5 / math.sqrt(50_000)


# ---------------------------------------------------------------------------------------------- the public package
def against_ivon_opt(make, steps, mc_samples=1, **setting):
    model, data = cnn(), images(128)
    first, second = list(model.parameters())[:3], list(model.parameters())[3:]
    groups = [{"params": first}, {"params": second, "lr": 0.03, "ess": 300.0, "hess_init": 0.4}]
    optimizer = make(groups, lr=0.05, ess=128.0, hess_init=0.5, weight_decay=1e-3, mc_samples=mc_samples, **setting)
    torch.manual_seed(7)
    for step in range(steps):
        part = slice(32 * (step % 4), 32 * (step % 4) + 32)
        train_step(model, optimizer, (data[0][part], data[1][part]), mc_samples)
    return weights(model)


@pytest.mark.parametrize(
    "more", [{}, {"debias": False}, {"rescale_lr": False}, {"debias": False, "rescale_lr": False},
             {"beta2": 0.9, "mc_samples": 2}, {"clip_radius": 0.01, "beta1": 0.5}], ids=str,
)  # fmt: skip
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
def test_same_trajectory_as_ivon_opt_seed_for_seed(hess_approx, more):
    """Bit for bit on a CPU; lists of tensors are rounded in another order."""
    public = pytest.importorskip("ivon")
    setting = {"hess_approx": hess_approx, **more}
    theirs = against_ivon_opt(public.IVON, 60, **setting)
    assert (theirs - weights(cnn())).norm() / theirs.norm() > 0.02
    assert torch.equal(against_ivon_opt(IVON, 60, fused=False, **setting), theirs)
    theirs = against_ivon_opt(public.IVON, 20, **setting)
    ours = against_ivon_opt(IVON, 20, foreach=True, **setting)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


# ---------------------------------------------------------------------------------------------- results
@executors
def test_posterior_has_names_means_and_standard_deviations(executor):
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, hess_init=0.7, weight_decay=0.1, **EXECUTORS[executor])
    q = optimizer.posterior(model)
    assert list(q.mean) == [name for name, _ in model.named_parameters()]
    assert all(torch.allclose(s, torch.tensor(1 / math.sqrt(30 * 0.8))) for s in q.std.values())
    train_step(model, optimizer, batch())
    assert torch.equal(q.mean["0.weight"], mlp()[0].weight.detach())  # a copy, not a view
    assert not torch.equal(optimizer.posterior(model).mean["0.weight"], q.mean["0.weight"])
    with pytest.raises(ValueError, match="none of the parameters of Linear"):
        optimizer.posterior(torch.nn.Linear(2, 2))


def test_posterior_sample_follows_mean_and_std():
    q = vlls.DiagonalPosterior({"w": torch.full((50_000,), 2.0)}, {"w": torch.full((50_000,), 0.5)})
    draw = q.sample(generator=torch.Generator().manual_seed(0))["w"].double()
    assert abs(draw.mean() - 2) < 4.5 * 0.5 / math.sqrt(50_000)
    assert abs(draw.var() - 0.25) < 4.5 * 0.25 * math.sqrt(2 / 50_000)
    assert q.to("cpu").num_parameters == 50_000
    for mean, std, message in [
        ({}, {}, "at least one"),
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}, r"\['a', 'b'\]"),
        ({"a": torch.ones(2)}, {"a": torch.ones(3)}, r"\(2,\).*\(3,\)"),
        ({"a": torch.ones(2)}, {"a": -torch.ones(2)}, "below 0"),
        ({"a": torch.ones(2)}, {"a": torch.tensor([1.0, math.nan])}, "NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            vlls.DiagonalPosterior(mean, std)


def test_predict_averages_probabilities_over_the_posterior():
    """Compared with the same draws by hand, for several classes and for one logit."""
    x = torch.randn(20, 6)
    for outputs, squash in ((3, lambda f: f.softmax(1)), (1, torch.sigmoid)):
        model = torch.nn.Linear(6, outputs)
        generator = torch.Generator().manual_seed(1)
        optimizer = IVON(model.parameters(), lr=0.1, ess=2.0, generator=generator)
        got = vlls.predict(model, optimizer, x, num_samples=5)
        generator.manual_seed(1)
        parts = []
        for _ in range(5):
            with optimizer.sampled_params():
                parts.append(squash(model(x)).detach())
        torch.testing.assert_close(got, torch.stack(parts).mean(0))
        assert not got.requires_grad
    for bad in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="num_samples="):
            vlls.predict(model, optimizer, x, num_samples=bad)


@needs_compiler
def test_memory_of_the_fused_step_is_three_numbers_a_parameter():
    """Beyond parameters and gradients: momentum, Hessian and the other of sample and mean."""
    p = torch.nn.Parameter(torch.zeros(1_000_000))
    optimizer = IVON([p], lr=0.1, ess=10.0, fused=True)
    for _ in range(2):
        with optimizer.sampled_params(train=True):
            p.grad = torch.ones_like(p)
        optimizer.step()
    gc.collect()
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in gc.get_objects()
        if type(t) in (torch.Tensor, torch.nn.Parameter) and t.numel() == 1_000_000
    }
    assert sum(storages.values()) == 4 * 1_000_000 * (2 + 3)
