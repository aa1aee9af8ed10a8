"""IVON's controls: the Gaussian that they sample from, the Hessian that they learn, and the methods of these names."""

import copy
import math
import pickle

import numpy as np
import pytest
import sympy as sp
import torch
from ivon_problems import assert_lockstep, backward, batch, mlp, state_of, take_steps, train_step, weights
from ivon_reference import ReferenceIVON
from torch.nn import functional as F
from training import tiny

from vlls import IVON
from vlls.optim.ivon._controls import IsotropicIVON, PermutedIVON
from vlls.train import load_run, run
from vlls.train._prepare import prepare
from vlls.train._trainer import Trainer

OPTIONS = {"lr": 0.1, "ess": 50.0, "hess_init": 0.3, "beta2": 0.9}
SEED = 3


def permuted(model, seed=SEED, **more):
    return PermutedIVON(model.parameters(), **{**OPTIONS, **more}, seed=seed)


def isotropic(model, **more):
    return IsotropicIVON(model.parameters(), **{**OPTIONS, **more})


CONTROLS = {"permuted": permuted, "isotropic": isotropic}
controls = pytest.mark.parametrize("name", CONTROLS)


class PlainPermuted(ReferenceIVON):
    """The Hessian of each sample is permuted within the tensors, by the permutations that the optimizer keeps."""

    orders: np.ndarray

    def sampled(self):
        return self.h[self.orders]


class PlainIsotropic(ReferenceIVON):
    """The Hessian of each sample gives every weight the median standard deviation."""

    def sampled(self):
        std = np.sort(1 / np.sqrt(self.ess * (self.h + self.delta)))[len(self.h) // 2]
        return np.full_like(self.h, 1 / (self.ess * std**2) - self.delta)


def orders_of(model, seed=SEED):
    """Return the permutation of all weights of a network, which keeps each within its tensor."""
    parts, start = [], 0
    for position, param in enumerate(model.parameters(), start=1):
        parts.append(start + np.random.default_rng([seed, position]).permutation(param.numel()))
        start += param.numel()
    return np.concatenate(parts)


def reference(name, model, **more):
    options = {**OPTIONS, **more}
    found = (PlainPermuted if name == "permuted" else PlainIsotropic)(weights(model).numpy(), **options)
    if name == "permuted":
        found.orders = orders_of(model)
    return found


def std_of(posterior):
    return torch.cat([value.flatten().double() for value in posterior.std.values()])


# ------------------------------------------------------------------ three ways
@pytest.mark.parametrize("how, samples", [("closure", 1), ("context", 1), ("context", 3)])
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@controls
def test_steps_are_those_of_a_plain_loop(name, dtype, hess_approx, how, samples):
    model = mlp(dtype)
    optimizer = CONTROLS[name](model, hess_approx=hess_approx)
    plain = reference(name, model, hess_approx=hess_approx)
    assert_lockstep(model, batch(dtype=dtype), optimizer, plain, how, steps=25, samples=samples)
    assert np.ptp(plain.h) > 0.1  # something was learned, so that the controls differ from IVON
    ordinary = ReferenceIVON(weights(model).numpy(), **OPTIONS)
    ordinary.h = plain.h
    assert np.abs(plain.noise(1.0) / ordinary.noise(1.0) - 1).mean() > 0.1


@controls
def test_the_estimate_is_clipped_at_the_hessian_that_is_learned(name):
    """Not at the one that is sampled from, or a small entry would follow the large one in its place."""
    model = mlp(torch.float64)
    optimizer, plain = CONTROLS[name](model, hess_clip=0.3), reference(name, model, hess_clip=0.3)
    for _ in range(10):
        assert_lockstep(model, batch(dtype=torch.float64), optimizer, plain, "context", steps=1)
        assert 0 < plain.clipped.mean() < 1


@controls
def test_samples_are_drawn_from_the_posterior_that_is_returned(name):
    model = mlp(torch.float64)
    optimizer, data = CONTROLS[name](model), batch(dtype=torch.float64)
    plain = reference(name, model)
    for _ in range(10):
        train_step(model, optimizer, data)
    plain.h = state_of(model, optimizer, "hess").numpy()
    std = std_of(optimizer.posterior(model))
    np.testing.assert_allclose(std, plain.noise(1.0), rtol=1e-12)
    mean, normal = (
        weights(model),
        torch.randn(len(std), dtype=torch.float64, generator=torch.Generator().manual_seed(8)),
    )
    optimizer.generator = torch.Generator().manual_seed(8)
    with optimizer.sampled_params():
        torch.testing.assert_close(weights(model), mean + std * normal, rtol=1e-12, atol=1e-14)
    assert torch.equal(weights(model), mean)


def test_the_permuted_ones_are_the_learned_ones_of_each_tensor_in_another_order():
    model = mlp()
    optimizer, data = permuted(model), batch()
    for _ in range(10):
        train_step(model, optimizer, data)
    for name, drawn in optimizer.posterior(model).std.items():
        learned = 1 / (50.0 * (optimizer.state[model.get_parameter(name)]["hess"] + 1e-4)).sqrt()
        torch.testing.assert_close(drawn.flatten().sort().values, learned.flatten().sort().values)
        assert (drawn - learned).abs().max() > 0.01 * learned.max()
    assert not np.array_equal(orders_of(model), orders_of(model, SEED + 1))


def test_the_isotropic_one_has_half_of_the_learned_ones_below_it():
    model = mlp()
    optimizer, data = isotropic(model), batch()
    for _ in range(10):
        train_step(model, optimizer, data)
    learned = 1 / (50.0 * (state_of(model, optimizer, "hess") + 1e-4)).sqrt()
    std = std_of(optimizer.posterior(model))
    assert float(std.max() - std.min()) <= 1e-6 * float(std.max())
    assert abs(int((learned < std[0] * (1 - 1e-6)).sum()) - len(learned) // 2) <= 1


def test_with_a_covariance_that_stays_both_are_ivon():
    data, found = batch(dtype=torch.float64), []
    for make in (permuted, isotropic, lambda model, **more: IVON(model.parameters(), **{**OPTIONS, **more})):
        model = mlp(torch.float64)
        torch.manual_seed(4)
        optimizer = make(model, beta2=1.0)
        for _ in range(10):
            train_step(model, optimizer, data)
        found.append(weights(model))
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[1], found[2], rtol=1e-12, atol=1e-14)


def test_price_estimate_is_unbiased_for_the_gaussian_that_is_sampled():
    """Exactly: with any standard deviation s, E[l'(m + s e) e / s] = E[l''(m + s e)] for a polynomial loss."""
    m, e = sp.symbols("m e", real=True)
    s = sp.symbols("s", positive=True)
    loss = sum(c * (m + s * e) ** k for k, c in enumerate(sp.symbols("c0:6")))
    gradient, hessian = sp.diff(loss, m), sp.diff(loss, m, 2)

    def mean(expression):
        moments = sp.Poly(sp.expand(expression), e).terms()
        return sum(c * (sp.factorial2(k - 1) if k % 2 == 0 else 0) for (k,), c in moments)

    assert sp.expand(mean(gradient * e / s) - mean(hessian)) == 0


@controls
def test_what_is_learned_is_the_hessian_averaged_over_the_posterior(name):
    """For a quadratic loss this is the Hessian's diagonal; with the learned sigma the estimate is wrong by a factor."""
    torch.manual_seed(2)
    factor = torch.randn(6, 6, dtype=torch.float64)
    hessian = factor @ factor.T / 6
    model = torch.nn.Linear(6, 1, bias=False).double()
    parameter = model.weight
    optimizer = CONTROLS[name](model, beta2=0.5, lr=0.0)
    first = torch.tensor([0.01, 0.1, 0.5, 1.0, 4.0, 20.0], dtype=torch.float64)
    train_step(model, optimizer, (torch.zeros(1, 6).double(), torch.zeros(1).long()))  # creates the state
    optimizer.state[parameter]["hess"].copy_(first[None])
    std = std_of(optimizer.posterior(model))
    mean, estimates = parameter.detach().clone(), []
    for _ in range(4000):
        with optimizer.sampled_params(train=True):
            parameter.grad = (parameter.detach() @ hessian).clone()
            noise = (parameter.detach() - mean)[0]
            estimates.append(parameter.grad[0] * noise / std**2)
    optimizer.step()
    estimates = torch.stack(estimates)
    errors = (estimates.mean(0) - hessian.diagonal()) / (estimates.std(0) / math.sqrt(len(estimates)))
    assert errors.abs().max() < 4.5
    gap = estimates.mean(0) - first  # the optimizer's step used the mean of these estimates
    expected = first + 0.5 * gap + 0.5 * 0.25 * gap**2 / (first + 1e-4)
    torch.testing.assert_close(optimizer.state[parameter]["hess"][0], expected, rtol=1e-9, atol=1e-12)
    learned = 1 / (50.0 * (first + 1e-4)).sqrt()
    assert ((estimates * (std / learned) ** 2).mean(0) - hessian.diagonal()).abs().max() > 5


# ------------------------------------------------------------------ going on
@controls
@pytest.mark.parametrize("through", ["state_dict", "pickle", "deepcopy"])
def test_goes_on_bit_for_bit(name, through):
    data = batch()
    model = mlp()
    optimizer = CONTROLS[name](model)
    for _ in range(10):
        train_step(model, optimizer, data)
    if through == "state_dict":
        twin = mlp(seed=1)
        twin.load_state_dict(model.state_dict())
        other = CONTROLS[name](twin)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif through == "pickle":
        twin, other = pickle.loads(pickle.dumps((model, optimizer)))
    else:
        twin, other = copy.deepcopy((model, optimizer))
    assert torch.equal(std_of(other.posterior(twin)), std_of(optimizer.posterior(model)))
    for trained in ((model, optimizer), (twin, other)):
        torch.manual_seed(6)
        for _ in range(10):
            train_step(*trained, data)
    assert torch.equal(weights(twin), weights(model))
    assert torch.equal(state_of(twin, other, "hess"), state_of(model, optimizer, "hess"))


@controls
def test_samples_are_not_kept_over_steps(name):
    model = mlp()
    optimizer, data = CONTROLS[name](model), batch()
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"IVON cannot keep the parameters at samples; use sampled_params"):
        take_steps(optimizer, lambda: backward(model, optimizer, data), "kept", 1)
    assert torch.equal(weights(model), before)


# ------------------------------------------------------------------ the methods
def plain_training(config, steps):
    """Return the weights after noiseless momentum SGD in float64: m -= lr (average gradient + δ m)."""
    trainer = Trainer(config, prepare(config), torch.device("cpu"))
    model, order = trainer.model.double(), trainer.batches.order(0)
    images = (
        torch.from_numpy(trainer.data.train.images).permute(0, 3, 1, 2).double() - trainer.mean.double()
    ) / trainer.std.double()
    labels = torch.from_numpy(trainer.data.train.given)
    momentum = [torch.zeros_like(p) for p in model.parameters()]
    for step in range(steps):
        gradients = torch.autograd.grad(
            F.cross_entropy(model(images[order[step]]), labels[order[step]]), list(model.parameters())
        )
        with torch.no_grad():
            for p, g, average in zip(model.parameters(), gradients, momentum, strict=True):
                average.mul_(config.momentum).add_(g, alpha=1 - config.momentum)
                direction = average / (1 - config.momentum ** (step + 1)) + config.weight_decay * p
                p.sub_(direction, alpha=trainer.learning_rate(step))
    return weights(model)


def engine_weights(config, steps):
    trainer = Trainer(config, prepare(config), torch.device("cpu"))
    trainer.batches.start(0, 0)
    for step in range(steps):
        trainer.step(step)
    return trainer


def test_fixed_variance_stays_and_without_noise_it_is_momentum():
    steps, errors = 6, {}
    for ess in (None, 5e10, 5e14):
        config = tiny(method="ivon_fixed", ess=ess).resolved()
        trainer = engine_weights(config, steps)
        std = std_of(trainer.optimizer.posterior(trainer.model))
        expected = ((ess or 300) * (config.hess_init + config.weight_decay)) ** -0.5
        assert (std / expected - 1).abs().max() < 1e-6
        plain = plain_training(config, steps)
        errors[ess] = float((weights(trainer.model) - plain).norm() / plain.norm())
    assert errors[5e14] < 1e-6  # without the noise it is that loop ...
    assert errors[5e10] < 0.1 * errors[None]  # ... and at 5e10 the noise is a thousandth of the paper's


@pytest.mark.parametrize("method", ["ivon_permuted", "ivon_isotropic"])
def test_runs_of_the_controls_are_loaded_with_the_posterior_that_they_sampled_from(tmp_path, method):
    options = {"hess_init": 0.1, "ess": 3000.0, "beta2": 0.9, "epochs": 1}
    result = run(tiny(method=method, **options), tmp_path)
    assert result.machine["executor"] == "single"
    std = std_of(result.posterior)
    assert torch.equal(std_of(load_run(result.folder).posterior), std)
    other = run(tiny(method=method, **options, seed=1))
    assert not torch.equal(std_of(other.posterior), std)
    if method == "ivon_isotropic":
        assert float(std.max() - std.min()) < 1e-5 * float(std.max())
