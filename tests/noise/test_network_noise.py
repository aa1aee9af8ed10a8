"""Label noise of a network: against GLMs, sympy, plain references, brute force and draws of the weights."""

import math

import numpy as np
import pytest
import sympy as sp
import torch
from cases import D, covariance_of, posterior_of, seeded
from cases import mlp as network
from scipy import integrate, special, stats
from torch import nn
from torch.func import functional_call, jacrev

from vlls import GLM, Bernoulli, Binomial, Categorical, DiagonalPosterior, Gaussian, GaussianPosterior, Poisson
from vlls.noise import _push, label_noise, label_noise_moments
from vlls.noise._options import METHODS
from vlls.noise._push import bend, curvature, mean_bend, push


def spread_of(model, scale):
    """Return a posterior at the model's weights, with standard deviations around ``scale``."""
    return posterior_of(model, scale, spread=True)


def mlp(outputs=3, dtype=D):
    return network(2, outputs, dtype=dtype)


@pytest.fixture(scope="module")
def trained():
    """Return a smooth network that has learned three classes, its inputs, and a sharp posterior."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(60, 2, dtype=D)
    y = (x[:, 0] > 0).long() + (x.sum(1) > 0.5).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).double().mean() > 0.9
    return model, spread_of(model, 0.02), x[:12]


def within(difference, error, bound=5.0):
    """Say whether every difference is within ``bound`` standard errors, all of which must be positive."""
    assert bool((error > 0).all())
    return float((difference / error).abs().max()) < bound


# ---------------------------------------------------------------------- a linear network is a GLM
FAMILIES = {
    "bernoulli": (Bernoulli(), 1),
    "binomial": (Binomial(7), 1),
    "poisson": (Poisson(), 1),
    "gaussian": (Gaussian(), 1),
    "categorical": (Categorical(4), 4),
}


@pytest.mark.parametrize("method", ["exact", "rank"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_noise_of_a_linear_network_is_that_of_the_glm(name, method):
    family, k = FAMILIES[name]
    x = torch.randn(9, 5, dtype=D)
    model = nn.Linear(5, k, bias=False).double()
    q = spread_of(model, 0.7)
    shape = (lambda t: t.T) if k > 1 else (lambda t: t[0])  # (P, K) or (P,) parameters of the GLM
    glm = GLM(family, x, torch.zeros(9))
    variance = shape(q.std["weight"]).square().flatten()
    exact = glm.label_noise(GaussianPosterior(shape(q.mean["weight"]), torch.diag(variance))).reshape(9, k)
    noise = label_noise(model, q, x, method=method, rank=k, family=family)
    assert noise.dtype == D
    assert float((noise - exact).abs().max()) < 1e-10
    assert (name == "gaussian") == bool((exact.abs() < 1e-12).all())


# ---------------------------------------------------------------------- three ways to Eq. 20
@pytest.mark.parametrize("outputs", [1, 2])
def test_equation_20_by_sympy_by_jacobians_and_layer_by_layer(outputs):
    x, w, b, *v = theta = sp.symbols(f"x w b v:{outputs}", real=True)
    theta = theta[1:]
    logits = sp.Matrix([v_k * sp.tanh(w * x + b) for v_k in v])
    f = sp.symbols(f"f:{outputs}", real=True)
    partition = sp.log(1 + sp.exp(f[0])) if outputs == 1 else sp.log(sum(map(sp.exp, f)))
    variances = sp.symbols(f"s:{len(theta)}", positive=True)
    jacobian = logits.jacobian(theta)
    bend = sp.hessian(partition, f).subs(dict(zip(f, logits, strict=True)))
    means = [sp.Rational(7, 5), sp.Rational(-1, 3), sp.Rational(9, 4), sp.Rational(-5, 8)][: len(theta)]
    spreads = [sp.Rational(1, 16), sp.Rational(1, 9), sp.Rational(1, 4), sp.Rational(1, 25)][: len(theta)]
    points = [sp.Rational(-2, 3), sp.Rational(1, 2), sp.Rational(3, 2)]
    known = dict(zip((*theta, *variances), (*means, *spreads), strict=True))
    by_sympy = []
    for at in points:
        a, j, v = (m.subs({**known, x: at}).evalf(30) for m in (bend, jacobian, sp.diag(*variances)))
        by_sympy.append(torch.tensor(np.array(a * j * v * j.T * a, dtype=float), dtype=D))
    by_sympy = torch.stack(by_sympy)

    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, outputs, bias=False)).double()
    names = {"0.weight": [0], "0.bias": [1], "2.weight": range(2, 2 + outputs)}
    own = dict(model.named_parameters())
    mean, std = (
        {n: torch.tensor([float(values[i]) for i in at], dtype=D).reshape(own[n].shape) for n, at in names.items()}
        for values in (means, [sp.sqrt(s) for s in spreads])
    )
    q, inputs = DiagonalPosterior(mean, std), torch.tensor([[float(at)] for at in points], dtype=D)
    found = label_noise_moments(model, q, inputs, linear=True)
    assert torch.allclose(found.covariance, by_sympy, rtol=1e-12, atol=0)

    family = Bernoulli() if outputs == 1 else Categorical(outputs)
    a = curvature(family, functional_call(model, mean, (inputs,)))
    by_jacobian = (a @ covariance_of(model, q, inputs) @ a).detach()
    assert torch.allclose(by_jacobian, by_sympy, rtol=1e-12, atol=0)
    diagonal = by_sympy.diagonal(dim1=1, dim2=2)
    assert torch.allclose(found.std, diagonal.sqrt(), rtol=1e-12, atol=0)
    assert torch.allclose(found.magnitude, diagonal.sum(1).sqrt(), rtol=1e-12, atol=0)


# ---------------------------------------------------------------------- Gaussian logits through A'
PUSHED = {
    "categorical": (Categorical(3, num_points=4096), 3),
    "three Bernoulli": (Bernoulli(), 3),
    "two Poisson": (Poisson(), 2),
    "low rank": (Categorical(3, num_points=4096), 2),
}


@pytest.mark.parametrize("name", PUSHED)
def test_the_push_against_brute_force(name, monkeypatch):
    family, r = PUSHED[name]
    # the error of so many points is far below that of draws
    monkeypatch.setattr(_push, "_POINTS", Categorical(2, num_points=4096))
    k = 3 if name != "two Poisson" else 2
    logits, root = torch.randn(2, k, dtype=D), 0.4 * torch.randn(2, k, r, dtype=D)
    moments = push(family, logits, root)
    f = logits + torch.einsum("bkr,sbr->sbk", root, torch.randn(200_000, 2, r, dtype=D))
    noise = family.mean(logits) - family.mean(f)
    error = (noise.var(0) / len(noise) + moments.error.square()).sqrt()
    assert within(noise.mean(0) - moments.shift, error)
    centred = noise - noise.mean(0)
    products = centred[..., :, None] * centred[..., None, :]
    assert within(products.mean(0) - moments.covariance, products.std(0) / math.sqrt(len(noise)))


def test_independent_logits_have_the_exact_scalar_mean():
    logits, root = torch.randn(4, 3, dtype=D), torch.randn(4, 3, 3, dtype=D)
    moments = push(Bernoulli(), logits, root)
    assert torch.equal(moments.shift, Bernoulli().label_noise(logits, root.square().sum(-1)))
    assert not moments.error.any()


@pytest.mark.parametrize("family", [Bernoulli(), Poisson(), Binomial(3)], ids=repr)
def test_the_push_of_one_logit_against_quadrature(family):
    centres, spreads = [-2.0, 0.0, 0.7, 3.0], [0.05, 0.4, 1.0, 1.5]
    moments = push(family, torch.tensor(centres, dtype=D)[:, None], torch.tensor(spreads, dtype=D)[:, None, None])
    mean = {"Poisson()": np.exp}.get(repr(family), lambda f: getattr(family, "trials", 1) * special.expit(f))
    for i, (m, s) in enumerate(zip(centres, spreads, strict=True)):

        def moment(power, m=m, s=s):
            def density(e):
                return (mean(m) - mean(m + s * e)) ** power * math.exp(-e * e / 2) / math.sqrt(2 * math.pi)

            return integrate.quad(density, -14, 14, epsabs=1e-14, epsrel=1e-13, limit=200)[0]

        first, second = moment(1), moment(2)
        assert float(moments.shift[i]) == pytest.approx(first, rel=1e-10, abs=1e-13)
        assert float(moments.covariance[i]) == pytest.approx(second - first**2, rel=1e-10)


def test_gaussian_labels_have_no_noise_in_the_mean_and_the_covariance_of_the_logits():
    model, x = mlp(), torch.randn(5, 2, dtype=D)
    q = spread_of(model, 0.3)
    noise = label_noise_moments(model, q, x, family=Gaussian(), curvature_pairs=0)
    assert not noise.mean_shift.any()
    v = covariance_of(model, q, x)
    assert torch.allclose(noise.logit_covariance, v, rtol=1e-10)
    assert torch.allclose(noise.covariance, v, rtol=1e-8, atol=1e-9)
    linear = label_noise_moments(model, q, x, family=Gaussian(), linear=True)
    assert torch.allclose(linear.covariance, v, rtol=1e-10)


# ---------------------------------------------------------------------- against draws of the weights
def test_the_mean_agrees_with_draws_of_the_weights(trained):
    model, q, x = trained
    drawn = label_noise_moments(model, q, x, method="monte_carlo", num_samples=3000, antithetic=True)
    for method in ("exact", "rank"):
        noise = label_noise_moments(model, q, x, method=method, curvature_pairs=400, generator=seeded(1))
        error = (noise.standard_error.square() + drawn.standard_error.square()).sqrt()
        assert within(noise.mean_shift - drawn.mean_shift, error)
        plain = label_noise_moments(model, q, x, method=method, curvature_pairs=0)
        assert not within(plain.mean_shift - drawn.mean_shift, error)  # the linearised network has another mean


def test_the_magnitude_agrees_with_draws_of_the_weights(trained):
    model, q, x = trained
    drawn = label_noise_moments(model, q, x, method="monte_carlo", num_samples=3000)
    assert float((drawn.magnitude_error / drawn.magnitude).max()) < 0.02
    noise = label_noise_moments(model, q, x)
    difference = (noise.magnitude - drawn.magnitude).abs()
    assert bool((difference < 4 * drawn.magnitude_error + 0.02 * drawn.magnitude).all())


def test_antithetic_pairs_are_unbiased_and_steadier(trained):
    model, q, x = trained
    plain = label_noise_moments(model, q, x, method="monte_carlo", num_samples=1500, generator=seeded(1))
    pairs = label_noise_moments(
        model, q, x, method="monte_carlo", num_samples=1500, antithetic=True, generator=seeded(2)
    )
    error = (plain.standard_error.square() + pairs.standard_error.square()).sqrt()
    assert within(plain.mean_shift - pairs.mean_shift, error)
    assert float((pairs.standard_error / plain.standard_error).max()) < 1 / 3
    error = (plain.magnitude_error.square() + pairs.magnitude_error.square()).sqrt()
    assert within(plain.magnitude - pairs.magnitude, error)


@pytest.mark.slow
@pytest.mark.parametrize("scale, more", [(0.1, {}), (1.0, {}), (3.0, {}), (1.0, {"curvature_pairs": 2})])
def test_the_error_of_the_curvature_pairs_is_the_spread_over_their_draws(scale, more):
    torch.manual_seed(0)
    model = mlp()
    q, x = spread_of(model, scale), torch.randn(4, 2, dtype=D)
    found = [label_noise_moments(model, q, x, generator=seeded(i), **more) for i in range(100)]
    spread = torch.stack([noise.mean_shift for noise in found]).std(0)
    told = torch.stack([noise.standard_error.square() for noise in found]).mean(0).sqrt()
    assert within(spread / told - 1, torch.full_like(told, 1 / math.sqrt(2 * 99))), spread / told


@pytest.mark.slow
def test_the_error_of_few_pairs_follows_student_s_distribution_and_of_many_the_normal_one():
    """Under a wide posterior: weights of size 0.5 with standard deviations around 0.3."""
    torch.manual_seed(0)
    model = mlp()
    q, x = spread_of(model, 0.3), torch.randn(4, 2, dtype=D)

    def noise(pairs, seed):
        return label_noise_moments(model, q, x, curvature_pairs=pairs, generator=seeded(seed))

    limit = noise(4000, 1000).mean_shift
    few, many = (
        torch.stack([(found.mean_shift - limit) / found.standard_error for found in (noise(n, i) for i in range(runs))])
        for n, runs in ((4, 200), (64, 20))
    )
    assert many.abs().max() < 4.5
    for share in (0.05, 0.2):
        beyond = (few.abs() > stats.t.ppf(1 - share / 2, 3)).double().flatten(1).mean(1)  # one number for each seed
        assert abs(beyond.mean() - share) < 4 * beyond.std() / 200**0.5
    assert (few.abs() > 1.96).double().mean() > 0.1  # of a normal distribution, 0.05


def test_the_push_tells_how_far_its_mean_is_from_that_of_other_points():
    logits, root = torch.randn(20, 4, dtype=D), torch.randn(20, 4, 4, dtype=D)
    found = [push(Categorical(4, num_points=16, seed=1000 * k), logits, root) for k in range(50)]
    told = torch.stack([moments.error.square() for moments in found]).mean(0).sqrt()
    ratio = told / torch.stack([moments.shift for moments in found]).std(0)
    assert 0.85 < float(ratio.mean()) < 1.15


@pytest.mark.parametrize("family", [Categorical(3), Bernoulli(), Poisson()], ids=repr)
def test_the_mean_curvature_is_the_derivative_of_the_mean(family):
    torch.manual_seed(0)
    logits, root, h = torch.randn(5, 3, dtype=D), 0.7 * torch.randn(5, 3, 3, dtype=D), 1e-4

    def mean(f):
        return family.mean(f) - push(family, f, root).shift

    unit = torch.eye(3, dtype=D)
    slope = torch.stack([(mean(logits + h * e) - mean(logits - h * e)) / (2 * h) for e in unit], -1)
    assert torch.allclose(
        mean_bend(family, logits, root, push(family, logits, root), unit), slope, atol=1e-6, rtol=1e-6
    )
    some = torch.randn(5, 3, 2, dtype=D)
    found = mean_bend(family, logits, root, push(family, logits, root, some), some)
    assert torch.allclose(found, slope @ some, atol=1e-6, rtol=1e-6)
    assert torch.allclose(bend(family, logits, some), curvature(family, logits) @ some, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("antithetic", [False, True])
def test_moments_of_draws_are_those_of_the_draws(antithetic):
    model, x = mlp(), torch.randn(4, 2, dtype=D)
    q = spread_of(model, 0.4)
    found = label_noise_moments(
        model, q, x, method="monte_carlo", num_samples=20, antithetic=antithetic, generator=seeded(1)
    )
    generator, units = seeded(1), []
    for _ in range(10 if antithetic else 20):
        step = {name: std * torch.randn(std.shape, dtype=D, generator=generator) for name, std in q.std.items()}
        ends = [
            functional_call(model, {name: q.mean[name] + sign * d for name, d in step.items()}, (x,))
            for sign in ((1, -1) if antithetic else (1,))
        ]
        units.append(torch.stack([torch.softmax(model(x), -1) - torch.softmax(end, -1) for end in ends]))
    units = torch.stack(units).detach()  # (units, signs, B, K)
    noise, of_unit = units.flatten(0, 1), units.mean(1)
    assert torch.allclose(found.mean_shift, noise.mean(0))
    assert torch.allclose(found.covariance, torch.stack([noise[:, i].T.cov() for i in range(4)]))
    assert torch.allclose(found.standard_error, of_unit.std(0) / math.sqrt(len(of_unit)))
    square = noise.square().sum(-1).mean(0)
    of_square = units.square().sum(-1).mean(1).std(0) / math.sqrt(len(units))
    assert torch.allclose(found.magnitude_error, of_square / (2 * square.sqrt()))
    assert found.logit_covariance is None


def test_the_error_of_equation_20_falls_with_the_variance():
    """One random weight: its Gauss-Hermite average is exact, without draws or a linearised network."""
    model, x = mlp(), torch.randn(6, 2, dtype=D)
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    errors = []
    for scale in (0.02, 0.01, 0.005):
        q = spread_of(model, 0.0)
        q.std["0.weight"][2, 1] = scale
        noise = []
        for e in nodes:
            moved = {**q.mean, "0.weight": q.mean["0.weight"] + e * q.std["0.weight"]}
            noise.append(torch.softmax(functional_call(model, moved, (x,)), -1))
        noise, shares_ = torch.stack(noise), torch.tensor(shares / shares.sum(), dtype=D)[:, None, None]
        mean = (shares_ * noise).sum(0)
        std = (shares_ * (noise - mean).square()).sum(0).sqrt()
        found = label_noise_moments(model, q, x, linear=True).std
        errors.append(float((found - std).norm() / std.norm()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.02)


# ---------------------------------------------------------------------- one direction
@pytest.mark.parametrize("kind", ["trained", "transformer"])
def test_a_direction_is_equation_20_for_its_draw(trained, kind):
    model, q, x = trained
    if kind == "transformer":
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu")
        model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3)).double().eval()
        q, x = spread_of(model, 0.02), torch.randn(3, 3, 4, dtype=D)
    noise = label_noise(model, q, x, method="direction", generator=seeded(1))
    generator = seeded(1)
    step = {name: std * torch.randn(std.shape, dtype=D, generator=generator) for name, std in q.std.items()}
    errors = []
    for scale in (1.0, 0.1, 0.01):
        ends = torch.softmax(functional_call(model, {n: m + scale * step[n] for n, m in q.mean.items()}, (x,)), -1)
        difference = torch.softmax(model(x), -1).detach() - ends  # A'(f(m)) - A'(f(m + scale d)), the sign included
        errors.append(float((difference / scale - noise).abs().max()))
    assert errors[2] < errors[1] / 9 < errors[0] / 70
    for i in range(len(x)):
        rows = jacrev(lambda p, i=i: functional_call(model, p, (x[i : i + 1],))[0])(q.mean)
        slope = sum((rows[name] * step[name]).flatten(1).sum(1) for name in step)
        p = torch.softmax(model(x[i : i + 1])[0], -1)
        assert torch.allclose(noise[i], -(p * slope - p * (p @ slope)), rtol=1e-9, atol=1e-14)
    moments = label_noise_moments(model, q, x, method="direction", num_samples=1, generator=seeded(1))
    assert torch.allclose(moments.covariance, noise[:, :, None] * noise[:, None, :], rtol=1e-9, atol=1e-18)


@pytest.mark.slow
def test_directions_average_to_equation_20(trained):
    model, q, x = trained
    x, generator = x[:5], seeded(1)
    draws = torch.stack([label_noise(model, q, x, method="direction", generator=generator) for _ in range(500)])
    exact = label_noise_moments(model, q, x, linear=True)
    products = draws[..., :, None] * draws[..., None, :]
    assert within(products.mean(0) - exact.covariance, products.std(0) / math.sqrt(500))
    assert within(draws.mean(0), draws.std(0) / math.sqrt(500))
    moments = label_noise_moments(model, q, x, method="direction", num_samples=500, generator=seeded(4))
    assert within(moments.covariance - exact.covariance, products.std(0) / math.sqrt(500))


# ---------------------------------------------------------------------- few directions
def test_all_directions_are_exact(trained):
    model, q, x = trained
    exact, rank = (label_noise_moments(model, q, x, method=method, rank=3) for method in ("exact", "rank"))
    for name in ("mean_shift", "covariance", "std", "magnitude", "logit_covariance"):
        assert torch.equal(getattr(exact, name), getattr(rank, name)), name


def test_few_directions_are_a_projection(trained):
    _, _, x = trained
    model = network(2, 6, hidden=10_000, dtype=D)  # a small network takes all directions at a rank of 3 or 4
    q = spread_of(model, 0.2)
    exact = label_noise_moments(model, q, x, linear=True).covariance
    last = torch.zeros(len(x), dtype=D)
    bend = curvature(Categorical(6), model(x).detach())
    for r in range(1, 7):
        found = label_noise_moments(model, q, x, method="rank", rank=r, linear=True).covariance
        ways = torch.linalg.eigh(bend)[1][..., -r:]
        onto = ways @ ways.mT  # commutes with A'', so that A'' P V P A'' = P A'' V A'' P
        assert torch.allclose(found, onto @ exact @ onto, rtol=1e-9, atol=1e-12)
        assert bool((torch.linalg.eigvalsh(found) <= torch.linalg.eigvalsh(exact) + 1e-12).all())
        assert bool((torch.linalg.matrix_rank(found, rtol=1e-9) <= r).all())
        trace = found.diagonal(dim1=1, dim2=2).sum(1)
        assert bool((trace >= last - 1e-12).all())
        last = trace


# ---------------------------------------------------------------------- shapes and dtypes
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtypes_shapes_and_batches_of_one(dtype, method, outputs):
    model, x = mlp(outputs).to(dtype), torch.randn(5, 2).to(dtype)
    q = spread_of(model, 0.2)
    fine = mlp(outputs)
    fine.load_state_dict(model.state_dict())
    options = {"method": method, "num_samples": 8, "rank": 2}
    found = label_noise_moments(model, q, x, generator=seeded(1), **options)
    wide = torch.promote_types(dtype, torch.float32)
    shapes = {"mean_shift": (5, outputs), "covariance": (5, outputs, outputs), "std": (5, outputs), "magnitude": (5,)}
    for name, shape in shapes.items():
        value = getattr(found, name)
        assert value.shape == shape and value.dtype == wide and value.device == x.device and not value.requires_grad
    assert found.logits.dtype == dtype and len(found) == 5
    noise = label_noise(model, q, x, generator=seeded(1), **options)
    assert noise.shape == (5, outputs) and noise.dtype == wide
    if method != "direction":
        assert torch.equal(noise, found.mean_shift)
    if method in ("exact", "rank"):  # draws differ between dtypes
        exact = label_noise_moments(fine, q, x.double(), curvature_pairs=0, **options)
        rough = label_noise_moments(model, q, x, curvature_pairs=0, **options)
        assert float((rough.std - exact.std).abs().max() / exact.std.max()) < TOLERANCE[dtype]
        one = label_noise_moments(model, q, x[:1], generator=seeded(1), **options)
        assert float((one.std - found.std[:1]).abs().max() / found.std.max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("method", METHODS)
def test_memory_limit_and_generator(method):
    model, x = mlp(), torch.randn(40, 2, dtype=D)
    q = spread_of(model, 0.2)

    def run(**options):
        noise = label_noise_moments(model, q, x, method=method, num_samples=6, **options)
        return torch.cat([noise.mean_shift, noise.covariance.flatten(1)], 1)

    first = run(generator=seeded(1))
    assert torch.equal(first, run(generator=seeded(1)))
    assert not torch.equal(first, run(generator=seeded(2)))
    assert torch.allclose(first, run(generator=seeded(1), memory_limit=0.02), rtol=1e-10, atol=1e-14)
    state = torch.get_rng_state()
    again = [run(), run()]
    drawn = method in ("direction", "monte_carlo")
    assert torch.equal(*again) != drawn and torch.equal(torch.get_rng_state(), state) != drawn


# ---------------------------------------------------------------------- bad input
def rename(q):
    q.mean["3.weight"], q.std["3.weight"] = q.mean.pop("2.weight"), q.std.pop("2.weight")


CHANGES = {
    "other names": (rename, r"1 name\(s\) that the model has not \('3.weight'\).*'0.weight'.*pass the model"),
    "other shape": (
        lambda q: [d.update({"2.bias": torch.ones(2)}) for d in (q.mean, q.std)],
        r"'2.bias' has shape \(2,\) and the model's \(3,\); pass",
    ),
    "negative std": (lambda q: q.std["0.bias"].fill_(-1), "std of '0.bias' has entries below 0, such as -1; look at"),
    "NaN std": (
        lambda q: q.std["0.bias"][1:2].fill_(math.nan),
        "std of '0.bias' holds 1 .* NaN.*; look at",
    ),
    "infinite std": (lambda q: q.std["0.bias"].fill_(math.inf), "std of '0.bias' holds 6 .* NaN or infinite"),
    "std missing": (lambda q: q.std.pop("0.bias"), "does not know '0.bias'.*every name in mean"),
    "std of another shape": (
        lambda q: q.std.update({"0.bias": torch.ones(1)}),
        r"'0.bias' has a mean of shape \(6,\) and a std of shape \(1,\)",
    ),
    "NaN mean": (lambda q: q.mean["0.bias"].fill_(math.nan), "mean of '0.bias' holds 6 .* NaN or infinite"),
    "empty": (lambda q: (q.mean.clear(), q.std.clear()), "no names.*pass"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_posterior_changed_for_the_worse(name):
    change, message = CHANGES[name]
    model = mlp()
    q = spread_of(model, 0.1)
    change(q)
    with pytest.raises(ValueError, match=message):
        label_noise(model, q, torch.randn(2, 2, dtype=D))


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
def test_no_posterior_no_batch_no_logits(method):
    model = mlp()
    q = spread_of(model, 0.1)
    x = torch.randn(2, 2, dtype=D)
    with pytest.raises(ValueError, match=r"posterior is a dict; pass a DiagonalPosterior, such as optimizer"):
        label_noise(model, q.mean, x, method=method)
    with pytest.raises(ValueError, match=r"x has shape \(0, 2\); pass a batch of at least one example"):
        label_noise(model, q, x[:0], method=method)
    with pytest.raises(ValueError, match=r"x is a list; pass a tensor of inputs"):
        label_noise(model, q, [[1.0, 2.0]], method=method)
    with pytest.raises(ValueError, match=r"returned shape \(1, 4, 3\) .* logits of shape \(1, K\)"):
        label_noise(model, q, torch.randn(2, 4, 2, dtype=D), method=method)
    with pytest.raises(ValueError, match="NaN or infinite; look at its weights and its inputs"):
        label_noise(model, q, x / 0, method=method)
