"""EVON: with the identity it is IVON, otherwise it follows a plain float64 twin; its bases, and bad input."""

import copy
import math
import warnings
from functools import partial

import numpy as np
import pytest
import sympy as sp
import torch
from evon_reference import OneParameter, follow
from ivon_problems import FUSED, backward, batch, cnn, images, mlp, needs_compiler, take_steps, train_step

from vlls import EVON, IVON, KroneckerPosterior, learned_share, predict
from vlls.optim import VariationalOptimizer
from vlls.optim._evon import _fused, _optimizer, _steps

OPTIONS = {"lr": 0.1, "ess": 50.0, "hess_init": 0.3, "beta2": 0.9, "weight_decay": 0.01}


def evon(model, **more):
    return EVON(model.parameters(), **{**OPTIONS, "interval": 3, "basis_decay": 0.8, **more})


def weights_of(model):
    return [p.detach().clone() for p in model.parameters()]


def give_bases(optimizer, basis_of=torch.eye):
    """Give every parameter bases, by default the identity."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            sizes = [*p.shape[:2], math.prod(p.shape[2:])] if p.ndim > 2 else [*p.shape]
            if p.ndim > 1:
                longest = group["max_axis"]
                found = {
                    f"basis_{k}": basis_of(n).to(torch.promote_types(p.dtype, torch.float32))
                    for k, n in enumerate(sizes)
                    if 1 < n <= longest
                }
                optimizer.state[p].update(found)


# ---------------------------------------------------------------------- with the identity it is IVON
@pytest.mark.parametrize("how", ["max_axis", "interval", "identity"])
@pytest.mark.parametrize("more", [{}, {"hess_approx": "gradsq"}, {"hess_clip": 0.5, "clip_radius": 0.1}], ids=str)
@pytest.mark.parametrize("make, data", [(mlp, batch()), (cnn, images())], ids=["mlp", "cnn"])
def test_it_is_ivon_bit_for_bit(make, data, more, how):
    ours, theirs = make(), make()
    given = {"max_axis": {"max_axis": 0, "interval": 1}, "interval": {"interval": 100}, "identity": {"interval": 100}}
    more = {**more, "fused": False}
    one = evon(ours, generator=torch.Generator().manual_seed(1), **more, **given[how])
    two = IVON(theirs.parameters(), **OPTIONS, generator=torch.Generator().manual_seed(1), **more)
    for step in range(6):
        if step == 1 and how == "identity":
            give_bases(one)
        train_step(ours, one, data, samples=1 + step % 2)
        train_step(theirs, two, data, samples=1 + step % 2)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(one.state[p][name], two.state[q][name]) for name in ("momentum", "hess", "step"))


@needs_compiler
@pytest.mark.parametrize("how", ["max_axis", "interval", "identity"])
@pytest.mark.parametrize("more", [{}, {"hess_approx": "gradsq"}, {"weight_decay": 0.0}], ids=str)
@pytest.mark.parametrize("make, data", [(mlp, batch()), (cnn, images())], ids=["mlp", "cnn"])
def test_the_kernel_is_ivon_s_on_the_same_noise(make, data, more, how):
    ours, theirs = make(), make()
    given = {"max_axis": {"max_axis": 0, "interval": 1}, "interval": {"interval": 100}, "identity": {"interval": 100}}
    one = evon(ours, generator=torch.Generator().manual_seed(1), fused=True, **{**more, **given[how]})
    two = IVON(theirs.parameters(), **{**OPTIONS, **more}, generator=torch.Generator().manual_seed(1), fused=True)
    for step in range(6):
        if step == 1 and how == "identity":
            give_bases(one)
        train_step(ours, one, data, samples=1 + step % 2)
        train_step(theirs, two, data, samples=1 + step % 2)
    # the mean is moved by the difference of its coordinates, which is rounded
    same = partial(torch.allclose, rtol=1e-5, atol=1e-6) if how == "identity" else torch.equal
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert same(p, q)
        assert all(same(one.state[p][name], two.state[q][name]) for name in ("momentum", "hess"))


# ---------------------------------------------------------------------- the plain twin
@pytest.mark.parametrize("how, samples", [("context", 1), ("context", 3), ("kept", 1)])
@pytest.mark.parametrize(
    "more",
    [{}, {"interval": 1}, {"interval": 20}, {"hess_approx": "gradsq"}, {"hess_clip": 0.4}, {"max_axis": 10},
     {"weight_decay": 0.0, "debias": False, "rescale_lr": False}, {"beta1": 0.0, "hess_every": 2}],
    ids=str,
)  # fmt: skip
def test_lockstep_with_the_float64_twin(how, samples, more):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.Tanh(), torch.nn.Linear(12, 3)).double()
    options = {**OPTIONS, "interval": 3, "basis_decay": 0.8, **more}
    optimizer = EVON(model.parameters(), **options)
    twins = [OneParameter(p.detach().numpy(), **options) for p in model.parameters()]
    errors = list(follow(model, batch(dtype=torch.float64), optimizer, twins, how, 25, samples))
    assert max(errors) < 1e-7
    if "max_axis" not in more:
        assert any(abs(twin.turn - np.eye(len(twin.m))).max() > 0.1 for twin in twins)


def test_convolutions_have_bases_of_outputs_inputs_and_positions():
    model, data = cnn(), images()
    optimizer = evon(model.double())
    twins = [OneParameter(p.detach().numpy(), 3, 0.8, **OPTIONS) for p in model.parameters()]
    data = data[0].double(), data[1]
    assert max(follow(model, data, optimizer, twins, "context", 10)) < 1e-7
    state = optimizer.state[model[0].weight]
    assert [tuple(state[f"basis_{k}"].shape) for k in (0, 2)] == [(6, 6), (9, 9)]
    assert "basis_1" not in state  # one input channel


@needs_compiler
@pytest.mark.parametrize("how, samples", [("context", 1), ("context", 3), ("kept", 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "more", [{}, {"hess_approx": "gradsq"}, {"hess_clip": 0.4}, {"max_axis": 9}, {"weight_decay": 0.0}], ids=str
)
def test_the_kernel_follows_the_twin(layout, how, samples, more):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 12, 3),
        torch.nn.Tanh(),
        torch.nn.Conv2d(12, 5, 1),
        torch.nn.Flatten(),
        torch.nn.Linear(20, 4),
    ).to(memory_format=layout)
    data = torch.randn(30, 2, 4, 4), torch.randint(4, (30,))
    options = {**OPTIONS, "interval": 3, "basis_decay": 0.8, **more}
    optimizer = EVON(model.parameters(), **options, fused=True)
    assert optimizer.executor.startswith("eigenbasis, cpu ivon-") and not optimizer.capturable
    twins = [OneParameter(p.detach().numpy(), **options) for p in model.parameters()]
    assert max(follow(model, data, optimizer, twins, how, 10, samples)) < 1e-4
    assert model[0].weight.is_contiguous(memory_format=layout)


@needs_compiler
def test_the_kernel_keeps_three_numbers_a_weight_and_three_buffers():
    model = mlp()
    optimizer = evon(model, fused=True)
    for _ in range(7):
        train_step(model, optimizer, batch(), samples=1)
    ((executor, states),) = optimizer._weights._plan(optimizer._weights.planned)
    state = next(state for state in states if state.param is model[0].weight)
    assert state.turned
    kept = {name for name, value in vars(state).items() if isinstance(value, torch.Tensor) and value.ndim == 2}
    assert kept == {"param", "momentum", "hess", "other"}
    assert executor._memory[torch.device("cpu")].shape == (3, model[0].weight.numel())


def convolutions(layout, dtype):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 6, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.Conv2d(6, 6, 3, padding=1),
        torch.nn.Conv2d(6, 6, 3, padding=1),
        torch.nn.Conv2d(6, 5, 1),
        torch.nn.Flatten(),
        torch.nn.Linear(80, 4),
    ).to(dtype=dtype, memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype, steps, close", [(torch.float64, 8, 1e-9), (torch.bfloat16, 3, 0.05)], ids=str)
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize(
    "more", [{}, {"hess_approx": "gradsq"}, {"hess_clip": 0.4}, {"max_axis": 8}, {"weight_decay": 0.0}], ids=str
)
def test_lists_take_the_steps_of_one_after_the_other(monkeypatch, layout, dtype, steps, close, samples, more):
    """The executor for a GPU, on a CPU."""
    data = torch.randn(30, 2, 4, 4, dtype=dtype), torch.randint(4, (30,))
    found = []
    for executor in (_steps.Eigenbasis, _steps.EigenbasisForeach):
        monkeypatch.setattr(_steps, "PART", 700)  # entries: several parts, some of several parameters
        monkeypatch.setattr(_optimizer, "_executors_of", lambda params, _, executor=executor: [executor] * len(params))
        model = convolutions(layout, dtype)
        optimizer = evon(model, interval=100, generator=torch.Generator().manual_seed(3), **more)
        for step in range(steps):
            if step == 1:
                give_bases(optimizer, lambda n: torch.linalg.qr(torch.randn(n, n)).Q)
            train_step(model, optimizer, data, samples=samples)
        found.append([*model.parameters(), *(optimizer.state[p]["hess"] for p in model.parameters())])
    for one, two in zip(*found, strict=True):
        assert (one - two).abs().max() <= close * one.abs().max()
        assert one.stride() == two.stride()


@needs_compiler
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("how", ["context", "closure", "kept"])
@pytest.mark.parametrize(
    "more", [{}, {"hess_approx": "gradsq"}, {"hess_clip": 0.4}, {"max_axis": 8}, {"weight_decay": 0.0}], ids=str
)
def test_a_kernel_on_several_parameters_at_once_takes_the_steps_of_one_after_the_other(
    monkeypatch, layout, samples, how, more
):
    """The code around the GPU's kernel, with the CPU's kernel; one parameter has no gradient in one step."""
    if how == "kept" and samples > 1:
        pytest.skip("one sample at a time")
    data = torch.randn(30, 2, 4, 4), torch.randint(4, (30,))
    found = []
    for entries in (1, 700):
        monkeypatch.setattr(_fused.EigenbasisCPU, "at_once", entries)
        model = convolutions(layout, torch.float32)
        optimizer = evon(model, interval=100, generator=torch.Generator().manual_seed(3), fused=True, **more)

        def closure(model=model, optimizer=optimizer):
            loss = backward(model, optimizer, data)
            if optimizer.state[model[0].weight]["step"] == 4:
                model[2].weight.grad = None
            return loss

        for steps in (1, 7):
            take_steps(optimizer, closure, how, steps, samples)
            if steps == 1:
                torch.manual_seed(4)
                give_bases(optimizer, lambda n: torch.linalg.qr(torch.randn(n, n)).Q)
        assert optimizer.state[model[2].weight]["step"] == 7
        found.append([*model.parameters(), *(optimizer.state[p]["hess"] for p in model.parameters())])
    for one, two in zip(*found, strict=True):
        assert (one - two).abs().max() <= 1e-4 * one.abs().max()
        assert one.stride() == two.stride()


@pytest.mark.parametrize("options", [{}, FUSED], ids=str)
def test_bases_that_change_act_at_once_while_samples_are_kept(options):
    """With the same random numbers, kept samples equal those of a closure."""
    found = []
    for how in ("kept", "closure"):
        model = mlp()
        optimizer = evon(model, generator=torch.Generator().manual_seed(3), **options)
        take_steps(optimizer, partial(backward, model, optimizer, batch()), how, 8)
        found.append(model)
    for p, q in zip(*(model.parameters() for model in found), strict=True):
        assert torch.equal(p, q)


def test_a_basis_that_changes_keeps_the_diagonal_of_the_hessian_symbolically():
    angle, a, b, c, d = sp.symbols("t a b c d", positive=True)
    turn = sp.Matrix([[sp.cos(angle), -sp.sin(angle)], [sp.sin(angle), sp.cos(angle)]])
    old = sp.diag(a, b)
    new = sp.diag(*(turn * old * turn.T).diagonal())
    assert sp.simplify(new - sp.diag(*(turn.applyfunc(lambda x: x**2) * sp.Matrix([a, b])))) == sp.zeros(2)
    # and of all diagonal precisions it has the smallest KL(q || q_old)
    trial = sp.diag(c, d)
    kl = (sp.trace(turn * old * turn.T * trial.inv()) + sp.log(c * d)) / 2
    best = sp.solve([sp.diff(kl, c), sp.diff(kl, d)], [c, d], dict=True)
    assert [sp.simplify(best[0][s] - new[k, k]) for k, s in enumerate((c, d))] == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bases_become_the_eigenvectors_of_the_factors(dtype):
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 8, bias=False).to(dtype)
    optimizer = evon(model, interval=2, basis_decay=0.999)
    scale = torch.logspace(0, -2, 20).to(dtype)
    for _ in range(300):
        x = torch.randn(50, 20).to(dtype) * scale
        train_step(model, optimizer, (x, torch.randint(8, (50,))))
    state = optimizer.state[model.weight]
    for k in (0, 1):
        basis, factor = state[f"basis_{k}"].double(), state[f"factor_{k}"].double()
        assert (basis.T @ basis - torch.eye(len(basis))).abs().max() < 1e-5
        seen = basis.T @ factor @ basis
        off = (seen - torch.diag(seen.diagonal())).norm() / seen.norm()
        assert off < 0.05
        assert torch.allclose(seen.diagonal(), seen.diagonal().sort(descending=True).values, rtol=0.2)


def test_samples_have_the_covariance_of_the_posterior():
    model = mlp()
    optimizer = evon(model)
    for _ in range(9):
        train_step(model, optimizer, batch())
    q = optimizer.posterior(model)
    assert isinstance(q, KroneckerPosterior) and set(q.bases) == {"0.weight", "2.weight"}
    draws = []
    for _ in range(4000):
        with optimizer.sampled_params():
            draws.append(model[2].weight.detach().flatten() - q.mean["2.weight"].flatten())
    sample = torch.stack(draws).double()
    turn = torch.kron(*q.bases["2.weight"]).double()
    expected = turn @ torch.diag(q.std["2.weight"].flatten().double() ** 2) @ turn.T
    variance = expected.diagonal()
    error = ((variance[:, None] * variance + expected.square()) / len(sample)).sqrt()
    assert ((sample.T @ sample / len(sample) - expected).abs() < 5.5 * error).all()  # of 14,400 entries


# ---------------------------------------------------------------------- as a member of the family
def test_it_is_a_variational_optimizer_and_predicts():
    model = mlp()
    optimizer = evon(model)
    for _ in range(4):
        train_step(model, optimizer, batch())
    assert isinstance(optimizer, VariationalOptimizer) and not optimizer.capturable
    assert optimizer.executor.startswith("eigenbasis")
    x = batch()[0]
    assert predict(model, optimizer, x, 8).sum(1).allclose(torch.ones(len(x)))
    assert predict(model, optimizer.posterior(model), x, 8).sum(1).allclose(torch.ones(len(x)))
    assert 0 < learned_share(optimizer, model).median < 1


@pytest.mark.slow
def test_it_fits_correlated_weights_better_than_ivon():
    """Least squares with rotated inputs: EVON's KL to the exact posterior is smaller."""
    torch.manual_seed(0)
    dim, ess = 6, 200.0
    turn = torch.linalg.qr(torch.randn(dim, dim)).Q
    x = torch.randn(2000, dim) @ torch.diag(torch.logspace(0.5, -0.5, dim)) @ turn.T
    y = x @ torch.randn(dim, 3) + 0.5 * torch.randn(2000, 3)
    exact = ess * (x.T @ x / len(x) + 0.01 * torch.eye(dim)).double()

    def kl(kind):
        torch.manual_seed(1)
        model = torch.nn.Linear(dim, 3, bias=False)
        options = {"interval": 20, "basis_decay": 0.99} if kind is EVON else {}
        optimizer = kind(
            model.parameters(), 0.05, ess, hess_init=1.0, beta2=0.995, weight_decay=0.01, rescale_lr=False, **options
        )
        for _ in range(3000):
            with optimizer.sampled_params(train=True):
                rows = torch.randint(len(x), (100,))
                (0.5 * (model(x[rows]) - y[rows]).square().sum(1).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
        q = optimizer.posterior(model)
        std = q.std["weight"].double()
        bases = q.bases["weight"] if kind is EVON else [torch.eye(3), torch.eye(dim)]
        w = torch.kron(*bases).double()
        covariance = w @ torch.diag(std.flatten() ** 2) @ w.T
        precision = torch.kron(torch.eye(3).double(), exact)
        return float(0.5 * (torch.trace(precision @ covariance) - 18 - torch.logdet(precision @ covariance)))

    assert kl(EVON) < kl(IVON) / 3


# ---------------------------------------------------------------------- situations
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_save_load_continue_is_bit_exact(dtype, tmp_path):
    def fresh():
        model = mlp(dtype)
        return model, evon(model, generator=torch.Generator().manual_seed(7))

    data = batch(dtype=dtype)
    model, optimizer = fresh()
    for _ in range(5):
        train_step(model, optimizer, data)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x.pt")
    other, second = fresh()
    saved = torch.load(tmp_path / "x.pt")
    other.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    twin, third = copy.deepcopy((model, optimizer))
    for net, opt in ((model, optimizer), (other, second), (twin, third)):
        for _ in range(5):
            train_step(net, opt, data)
    for net, opt in ((other, second), (twin, third)):
        for p, q in zip(model.parameters(), net.parameters(), strict=True):
            assert torch.equal(p, q)
            ours, theirs = ({**state[w], "generator": 0} for state, w in ((optimizer.state, p), (opt.state, q)))
            assert ours.keys() == theirs.keys() and all(
                torch.equal(ours[k], theirs[k]) for k in ours if k != "generator"
            )


def test_checkpoints_of_the_other_optimizer_are_refused():
    model = mlp()
    ours, theirs = evon(model), IVON(model.parameters(), **OPTIONS)
    for optimizer in (ours, theirs):
        for _ in range(4):
            train_step(model, optimizer, batch())
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"lacks \['basis_decay', 'interval', 'max_axis'\]; it was not saved by EVON"):
        ours.load_state_dict(theirs.state_dict())
    with pytest.raises(ValueError, match="is EVON's, with a Hessian in an eigenbasis; load it in EVON"):
        theirs.load_state_dict(ours.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(before, weights_of(model), strict=True))
    train_step(model, ours, batch())
    train_step(model, theirs, batch())


def test_a_state_with_one_basis_is_refused_too():
    params = [torch.nn.Parameter(torch.ones(1, 1, 3, 3))]  # only the axis of positions has a basis
    ours, theirs = EVON(params, **OPTIONS, interval=1), IVON(params, **OPTIONS)
    with ours.sampled_params(train=True):
        params[0].grad = torch.ones(1, 1, 3, 3)
    ours.step()
    assert [name for name in ours.state[params[0]] if name.startswith("basis_")] == ["basis_2"]
    with pytest.raises(ValueError, match="load it in EVON"):
        theirs.load_state_dict(ours.state_dict())


def sample(optimizer):
    with optimizer.sampled_params():
        pass


USES = {
    "posterior": lambda optimizer, model: optimizer.posterior(model),
    "predict": lambda optimizer, model: predict(model, optimizer, batch()[0], 2, scale=0.5),
    "sample": lambda optimizer, _: sample(optimizer),
}


@pytest.mark.parametrize("first_use", USES.values(), ids=USES)
def test_a_bent_basis_is_told_and_repaired(first_use):
    model = mlp()
    optimizer = evon(model)
    for _ in range(4):
        train_step(model, optimizer, batch())
    saved = optimizer.state_dict()
    saved["state"][0]["basis_1"] = saved["state"][0]["basis_1"] * 1.1
    optimizer.load_state_dict(saved)
    with pytest.warns(UserWarning, match="basis_1 of a parameter of shape .40, 6. is off orthonormal by 0.21"):
        first_use(optimizer, model)
    optimizer.state[model[0].weight]["basis_1"].mul_(1.1)  # in place: it is seen when the basis changes
    train_step(model, optimizer, batch())
    with pytest.warns(UserWarning, match="basis_1 of a parameter of shape .40, 6. is off orthonormal by 0.21"):
        train_step(model, optimizer, batch())
    basis = optimizer.state[model[0].weight]["basis_1"]
    assert (basis.T @ basis - torch.eye(6)).abs().max() < 1e-5
    saved["state"][0]["basis_1"] = torch.full((6, 6), math.nan)
    with pytest.raises(ValueError, match="basis_1 of parameter 0 of group 0 has NaN"):
        optimizer.load_state_dict(saved)
    saved["state"][0]["basis_1"] = None
    with pytest.raises(ValueError, match=r"basis_1 of parameter 0 of group 0 is a NoneType in the saved state"):
        optimizer.load_state_dict(saved)
    saved["state"][0]["basis_1"] = torch.eye(5)
    with pytest.raises(ValueError, match=r"is \(5, 5\) in the saved state and needs \(6, 6\)"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("how", ["context", "kept"])
def test_a_step_with_nan_is_left_out(how):
    model = mlp()
    optimizer = evon(model, interval=1)
    for _ in range(3):
        train_step(model, optimizer, batch())
    before, state = weights_of(model), copy.deepcopy(optimizer.state_dict()["state"])
    with optimizer.keep_sampled() if how == "kept" else optimizer.sampled_params(train=True):
        backward(model, optimizer, batch())
        model[0].weight.grad[0, 0] = math.nan
        if how == "kept":
            with pytest.warns(UserWarning, match="NaN or infinite: this step is left out"):
                optimizer.step()
    if how == "context":
        with pytest.warns(UserWarning, match="NaN or infinite: this step is left out"):
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(before, weights_of(model), strict=True))
    for index, old in state.items():
        new = optimizer.state_dict()["state"][index]
        assert all(torch.equal(new[name], old[name]) for name in old)
    train_step(model, optimizer, batch())
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("first", [0, 4, 2048])
@pytest.mark.parametrize("fused", [None, False])
def test_longer_axes_get_bases_when_they_are_allowed_at_kept_samples(fused, first):
    model = mlp()
    optimizer = evon(model, fused=fused, interval=2, max_axis=first)
    with optimizer.keep_sampled():
        for step in range(8):
            if step == 3:
                assert set(optimizer._weights.planned[0].turning) == ({0, 1} if first > 4 else set())
                optimizer.param_groups[0]["max_axis"] = 2048
            optimizer.zero_grad()
            backward(model, optimizer, batch())
            optimizer.step()
    assert all(q is not None for of in optimizer.posterior(model).bases.values() for q in of)
    assert set(optimizer.posterior(model).bases) == {"0.weight", "2.weight"}


def test_gradients_whose_squares_overflow_are_finite():
    model = mlp()
    optimizer = evon(model, clip_radius=0.01, hess_clip=1.0)
    before = weights_of(model)
    with optimizer.sampled_params(train=True):
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e25)
    optimizer.step()
    for old, new in zip(before, weights_of(model), strict=True):
        assert torch.isfinite(new).all() and not torch.equal(old, new)
    for _ in range(5):  # the next basis is due after two steps; the one after that has gradients to learn from
        train_step(model, optimizer, batch())
    assert set(optimizer.posterior(model).bases) == {"0.weight", "2.weight"}


def test_frozen_unused_and_scalar_parameters():
    model = mlp()
    model.unused = torch.nn.Parameter(torch.ones(3, 4))
    model.scalar = torch.nn.Parameter(torch.tensor(2.0))
    model[0].weight.requires_grad_(False)
    optimizer = evon(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(7):
        train_step(model, optimizer, batch())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"0.bias", "2.weight", "2.bias"}
    model[0].weight.requires_grad_(True)
    train_step(model, optimizer, batch())
    assert not torch.equal(model[0].weight, before["0.weight"])


def test_groups_have_their_own_bases():
    model = mlp()
    groups = [{"params": model[0].parameters(), "max_axis": 0}, {"params": model[2].parameters(), "interval": 2}]
    optimizer = EVON(groups, **OPTIONS, interval=50)
    for _ in range(4):
        train_step(model, optimizer, batch())
    assert set(optimizer.posterior(model).bases) == {"2.weight"}


BAD = {
    r"interval=0": {"interval": 0},
    r"interval=2.5": {"interval": 2.5},
    r"max_axis=-1": {"max_axis": -1},
    r"basis_decay=1.0 is outside \[0, 1\)": {"basis_decay": 1.0},
    r"basis_decay=nan is outside": {"basis_decay": math.nan},
    r"foreach=True: EVON takes one parameter after the other": {"foreach": True},
    r"EVON has no rho=1; pass vlls.SAM": {"rho": 1},
    r"EVON has no intervall=3; pass interval=...": {"intervall": 3},
    r"hess_init=0 is outside": {"hess_init": 0},
}


@pytest.mark.parametrize("text", BAD)
def test_bad_options_are_named(text):
    with pytest.raises(ValueError, match=text):
        evon(mlp(), **BAD[text])


@pytest.fixture
def short_products():
    """Allow float32 products in bfloat16; a CPU with units for them uses these."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_bases_stay_orthonormal_where_products_are_in_bfloat16(short_products):
    params = [torch.nn.Parameter(torch.zeros(96, 64))]
    optimizer = EVON(params, **OPTIONS, interval=2)
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(8):
            with optimizer.sampled_params(train=True):
                params[0].grad = torch.randn(96, 64, generator=generator)
            optimizer.step()
    for axis, size in enumerate((96, 64)):
        basis = optimizer.state[params[0]][f"basis_{axis}"].double()
        assert (basis.T @ basis - torch.eye(size, dtype=torch.float64)).abs().max() < 1e-5
