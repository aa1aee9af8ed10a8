"""Label noise of weights that are independent in a basis of each axis: exact, by rules, and by draws."""

import math

import pytest
import torch
from torch import nn

from vlls import DiagonalPosterior, GaussianPosterior, KroneckerPosterior, label_noise_moments, predict
from vlls.noise import logit_covariance


def orthonormal(size, generator):
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def posterior_of(model, seed=0, turned=lambda name, p: p.ndim > 1, merged=True, width=0.05):
    """Return a posterior with random bases for the axes of every parameter that ``turned`` names."""
    g = torch.Generator().manual_seed(seed)
    mean = {name: p.detach() for name, p in model.named_parameters()}
    std = {name: (width * torch.rand(p.shape, generator=g)).to(p.dtype) for name, p in mean.items()}
    bases = {}
    for name, p in mean.items():
        sizes = [*p.shape[:2], math.prod(p.shape[2:])] if p.ndim > 2 and merged else [*p.shape]
        if turned(name, p):
            bases[name] = [orthonormal(size, g).to(p.dtype) for size in sizes]
    return KroneckerPosterior(mean, std, bases)


def dense(q):
    """Return the covariance of all weights, by Kronecker products of the bases."""
    blocks = []
    for name, mean in q.mean.items():
        turn = torch.eye(1, dtype=torch.float64)
        for basis in q.bases.get(name, [torch.eye(mean.numel())]):
            turn = torch.kron(turn, basis.double())
        blocks.append(turn @ torch.diag(q.std[name].double().flatten() ** 2) @ turn.T)
    return torch.block_diag(*blocks)


def jacobian(model, x):
    weights = {name: p.detach() for name, p in model.named_parameters()}
    found = torch.func.vmap(
        torch.func.jacrev(lambda w, one: torch.func.functional_call(model, w, (one[None],))[0]), (None, 0)
    )(weights, x)
    return torch.cat([found[name].flatten(2) for name in weights], 2).double()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(11, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.words(x).tanh().mean(1))


def images(n=5, channels=3):
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(1))


def networks():
    head = lambda size: [nn.Flatten(), nn.Linear(size, 4)]  # noqa: E731
    norm = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), *head(20))
    yield "mlp", nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)), torch.randn(5, 6)
    yield "convolutions", norm.eval(), images()
    yield "groups", nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.GELU(), *head(216)), images(channels=4)
    yield "padded", nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular"), *head(128)), images()
    yield "1-d", nn.Sequential(nn.Conv1d(3, 5, 3, dilation=2), nn.Tanh(), *head(20)), torch.randn(5, 3, 8)
    yield "3-d", nn.Sequential(nn.Conv3d(1, 4, 2), nn.Tanh(), *head(108)), torch.randn(4, 1, 4, 4, 4)
    yield "norms", nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4)), torch.randn(5, 6)
    yield "sequence", nn.Sequential(nn.Linear(6, 5), nn.Tanh(), *head(15)), torch.randn(4, 3, 6)
    yield "attention", Attention().eval(), torch.randn(4, 5, 8)
    yield "embedding", Words(), torch.randint(11, (4, 7))


NETWORKS = {name: (model, x) for name, model, x in networks()}


@pytest.mark.filterwarnings("ignore:.*per-example gradients")
@pytest.mark.parametrize("merged", [True, False], ids=["merged", "each axis"])
@pytest.mark.parametrize("name", NETWORKS)
def test_covariance_is_that_of_the_jacobian(name, merged):
    torch.manual_seed(0)
    model, x = NETWORKS[name]
    q = posterior_of(model, merged=merged)
    j = jacobian(model, x)
    expected = j @ dense(q) @ j.mT
    found = logit_covariance(model, q, x).double()
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_rules_take_turned_weights_and_are_not_asked_for_each_gradient(monkeypatch):
    model, x = NETWORKS["convolutions"]
    q = posterior_of(model)
    monkeypatch.setattr(KroneckerPosterior, "scale", lambda *_: pytest.fail("scale was called for an estimate"))
    whole = logit_covariance  # the trials before an estimate call scale too: they are switched off
    monkeypatch.setattr("vlls.noise._trial.Trials.gradients", lambda *_: set())
    monkeypatch.setattr("vlls.noise._posterior._length", lambda posterior, name: posterior.mean[name].numel())
    assert whole(model, q, x).shape == (5, 4, 4)


def test_some_axes_stay_as_they_are():
    torch.manual_seed(0)
    model, x = NETWORKS["convolutions"]
    whole = posterior_of(model)
    for kept in range(3):
        bases = {name: [None if k == kept else b for k, b in enumerate(of)] for name, of in whole.bases.items()}
        filled = {
            name: [torch.eye(len(b)) if k == kept else b for k, b in enumerate(of)] for name, of in whole.bases.items()
        }
        part = KroneckerPosterior(whole.mean, whole.std, bases)
        same = KroneckerPosterior(whole.mean, whole.std, filled)
        assert torch.allclose(logit_covariance(model, part, x), logit_covariance(model, same, x), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "rank", "monte_carlo", "direction"])
def test_noise_is_that_of_the_full_gaussian(method):
    torch.manual_seed(0)
    model, x = NETWORKS["mlp"]
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    q = posterior_of(model)
    full = GaussianPosterior(q.mean, dense(q))
    how = {"method": method, "num_samples": 4000} if method in ("monte_carlo", "direction") else {"method": method}
    how |= {"curvature_pairs": 0} if method in ("exact", "rank") else {}
    one, two = (
        label_noise_moments(model, p, x.double(), generator=torch.Generator().manual_seed(seed), **how)
        for seed, p in enumerate((q, full))
    )
    if method in ("exact", "rank"):
        assert torch.allclose(one.covariance, two.covariance, rtol=1e-8, atol=1e-14)
        assert torch.allclose(one.mean_shift, two.mean_shift, rtol=1e-6, atol=1e-12)
    elif method == "monte_carlo":
        error = (one.magnitude_error.square() + two.magnitude_error.square()).sqrt()
        assert ((one.magnitude - two.magnitude).abs() < 4 * error).all()
    else:  # a variance from 4,000 directions
        assert (one.magnitude / two.magnitude - 1).abs().max() < 4 / math.sqrt(2000)


def test_draws_have_the_covariance():
    g = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 2, bias=False).double()
    q = posterior_of(model, width=2.0)
    draws = torch.stack([q.sample(g)["weight"].flatten() - q.mean["weight"].flatten() for _ in range(8000)])
    expected = dense(q)
    variance = expected.diagonal()
    error = ((variance[:, None] * variance + expected.square()) / 8000).sqrt()
    assert ((draws.T @ draws / 8000 - expected).abs() < 4.5 * error).all()


def test_without_bases_it_is_a_diagonal_one():
    torch.manual_seed(0)
    model, x = NETWORKS["convolutions"]
    q = posterior_of(model, turned=lambda *_: False)
    plain = DiagonalPosterior(q.mean, q.std)
    assert torch.equal(logit_covariance(model, q, x), logit_covariance(model, plain, x))
    one, two = (q_.sample(torch.Generator().manual_seed(3)) for q_ in (q, plain))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_predictions_average_over_the_weights():
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3).double(), torch.randn(4, 6).double()
    q = posterior_of(model, width=1.0)
    found = predict(model, q, x, num_samples=2000, generator=torch.Generator().manual_seed(0))
    draws = GaussianPosterior(q.mean, dense(q)).posterior(model)
    probabilities = []
    for _ in range(2000):
        w = draws.sample(torch.Generator().manual_seed(len(probabilities) + 10))
        probabilities.append((x @ w["weight"].T + w["bias"]).softmax(1))
    every = torch.stack(probabilities)
    error = every.std(0) * math.sqrt(2 / 2000)
    assert ((found - every.mean(0)).abs() < 4.5 * error).all()


def test_bad_bases_are_named():
    mean, std = {"w": torch.zeros(2, 3)}, {"w": torch.ones(2, 3)}
    cases = {
        "which mean has not": {"v": [torch.eye(2)]},
        "its axis needs": {"w": [torch.eye(2), torch.eye(2)]},
        "not orthonormal": {"w": [torch.ones(2, 2), None]},
        "not orthonormal: .* nan": {"w": [torch.full((2, 2), math.nan), None]},
        "3 bases": {"w": [torch.eye(2), torch.eye(3), torch.eye(1)]},
        "bases is a list; pass a dict": [torch.eye(2)],
        "bases of 'w' is a Tensor; pass a list": {"w": torch.eye(2)},
        "bases of 'w' is an int; pass a list": {"w": 2},
        "basis 1 of 'w' is of type str": {"w": [torch.eye(2), "I"]},
        "basis 0 of 'w' is of type torch.complex64; pass tensors of real": {
            "w": [torch.eye(2, dtype=torch.complex64), None]
        },
    }
    for text, bases in cases.items():
        with pytest.raises(ValueError, match=text):
            KroneckerPosterior(mean, std, bases)
