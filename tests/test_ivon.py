"""IVON against Alg. 1, against the public package, and in the situations that real training meets."""

import copy
import gc
import math
import pickle

import numpy as np
import pytest
import sympy
import torch
from ivon_reference import ReferenceIVON
from torch.nn import functional as F

import vlls
from vlls import IVON
from vlls.optim import _alg1
from vlls.optim._cpu import compiler

EXECUTORS = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler")
executors = pytest.mark.parametrize(
    "executor", ["single", "foreach", pytest.param("fused", marks=needs_compiler)], ids=str
)


def mlp(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3)).to(dtype)


def cnn(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(216, 4)
    )


def batch(n=30, dtype=torch.float32, seed=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=g).to(dtype), torch.randint(3, (n,), generator=g)


def images(n=30, seed=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 8, 8, generator=g), torch.randint(4, (n,), generator=g)


def loss_of(model, data):
    return F.cross_entropy(model(data[0]), data[1])


def train_step(model, optimizer, data, samples=1):
    for _ in range(samples):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            loss = loss_of(model, data)
            loss.backward()
    optimizer.step()
    return loss.detach()


def weights(model):
    return torch.cat([p.detach().flatten().double() for p in model.parameters()])


def state_of(model, optimizer, name):
    return torch.cat([optimizer.state[p][name].flatten().double() for p in model.parameters()])


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

    std = _alg1.posterior_std(Symbol(h), ess=ess, weight_decay=delta).e
    assert sympy.simplify(std - 1 / sympy.sqrt(ess * (h + delta))) == 0
    seen = _alg1.sample_statistic(Symbol(ghat), Symbol(noise), hess_approx="price")
    price = _alg1.hess_estimate(seen, Symbol(h), ess=ess, weight_decay=delta, hess_approx="price").e
    assert sympy.simplify(price - ghat * noise / std**2) == 0
    seen = _alg1.sample_statistic(Symbol(ghat), Symbol(noise), hess_approx="gradsq")
    gradsq = _alg1.hess_estimate(seen, Symbol(h), ess=ess, weight_decay=delta, hess_approx="gradsq").e
    assert sympy.simplify(gradsq - ess * ghat**2) == 0
    hhat = sympy.Symbol("hhat")
    mean, momentum, hess = _alg1.ivon_update(
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
]


@executors
@pytest.mark.parametrize("how", ["context", "closure", "kept"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_lockstep_with_the_float64_reference(executor, how, setting):
    """Every executor and way of sampling, at the samples that it drew itself."""
    setting = dict(setting)
    samples = setting.pop("mc_samples", 1)
    if how == "kept" and samples > 1:
        pytest.skip("one sample at a time")
    dtype = torch.float32 if executor == "fused" else torch.float64
    model, data = mlp(dtype), batch(dtype=dtype)
    given = {"lr": 0.05, "ess": 30.0, "hess_init": 0.5, "weight_decay": 1e-2, "beta2": 0.999, **setting}
    optimizer = IVON(model.parameters(), mc_samples=samples, **given, **EXECUTORS[executor])
    reference = ReferenceIVON(weights(model).numpy(), **given)
    seen = []

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, data)
        loss.backward()
        grad = torch.cat([p.grad.flatten().double() for p in model.parameters()])
        seen.append((weights(model).numpy(), grad.numpy()))
        return loss

    def follow():
        reference.step(list(seen))
        seen.clear()
        if how != "kept":
            tolerance = 1e-11 if dtype == torch.float64 else 3e-5
            for ours, theirs in [
                (weights(model), reference.m),
                (state_of(model, optimizer, "momentum"), reference.g),
                (state_of(model, optimizer, "hess"), reference.h),
            ]:
                error = np.abs(ours.numpy() - theirs) / (1 + np.abs(theirs))
                assert error.max() < tolerance

    if how == "kept":
        with optimizer.keep_sampled():
            for _ in range(15):
                closure()
                optimizer.step()
                follow()
        tolerance = 1e-11 if dtype == torch.float64 else 3e-5
        assert np.abs(weights(model).numpy() - reference.m).max() < tolerance
        return
    for _ in range(15):
        if how == "closure":
            optimizer.step(closure)
        else:
            for _ in range(samples):
                with optimizer.sampled_params(train=True):
                    closure()
            optimizer.step()
        follow()


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
    """Bit for bit on a CPU, where nothing but the order of operations could differ; lists of tensors round otherwise."""
    public = pytest.importorskip("ivon")
    setting = {"hess_approx": hess_approx, **more}
    theirs = against_ivon_opt(public.IVON, 200, **setting)
    assert (theirs - weights(cnn())).norm() / theirs.norm() > 0.05
    assert torch.equal(against_ivon_opt(IVON, 200, **setting), theirs)
    theirs = against_ivon_opt(public.IVON, 20, **setting)
    ours = against_ivon_opt(IVON, 20, foreach=True, **setting)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


# ---------------------------------------------------------------------------------------------- 1: persistence
@executors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_save_load_continue_is_bit_exact(executor, dtype, tmp_path):
    def make(model):
        return IVON(
            model.parameters(), lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(1), **EXECUTORS[executor]
        )

    data = batch(dtype=dtype)
    model = mlp(dtype)
    optimizer = make(model)
    for _ in range(3):
        train_step(model, optimizer, data)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    other = mlp(dtype, seed=9)
    resumed = make(other)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    for _ in range(4):
        assert torch.equal(train_step(model, optimizer, data), train_step(other, resumed, data))
    assert torch.equal(weights(model), weights(other))
    for name in ("momentum", "hess", "step"):
        assert torch.equal(state_of(model, optimizer, name), state_of(other, resumed, name))
    assert all(optimizer.state[p]["step"] == 7 for p in model.parameters())


def test_what_does_not_match_is_named_and_nothing_changes():
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0)
    train_step(model, optimizer, batch())
    before = copy.deepcopy(optimizer.state_dict())

    def broken(change):
        saved = copy.deepcopy(before)
        change(saved)
        return saved

    adam = torch.optim.Adam(mlp().parameters())
    cases = [
        (adam.state_dict(), "not saved by IVON"),
        ({"weights": 1}, "param_groups"),
        (broken(lambda s: s["param_groups"].append(s["param_groups"][0])), "2 parameter group"),
        (broken(lambda s: s["param_groups"][0]["params"].pop()), "3 parameters"),
        (broken(lambda s: s["state"][1].pop("hess")), r"parameter 1 of group 0 lacks \['hess'\]"),
        (broken(lambda s: s["state"][2].update(momentum=torch.zeros(5))), r"momentum of parameter 2.*\(5,\)"),
        (broken(lambda s: s["param_groups"][0].update(ess=0.5)), "ess=0.5"),
    ]
    for saved, message in cases:
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(saved)
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for i, state in before["state"].items():
            assert all(torch.equal(after["state"][i][name], value) for name, value in state.items())


@executors
def test_deepcopy_and_pickle_go_on_alike(executor):
    model, data = mlp(), batch()
    generator = torch.Generator().manual_seed(4)
    optimizer = IVON(
        model.parameters(), lr=0.1, ess=30.0, generator=generator, mc_samples=2, **EXECUTORS[executor]
    )
    train_step(model, optimizer, data)
    for copied in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        model2, optimizer2 = copied((model, optimizer))
        assert optimizer2.mc_samples == 2 and optimizer2.fused == optimizer.fused
        for _ in range(2):
            train_step(model, optimizer, data, samples=2)
            train_step(model2, optimizer2, data, samples=2)
        assert torch.equal(weights(model), weights(model2))
        assert torch.equal(state_of(model, optimizer, "hess"), state_of(model2, optimizer2, "hess"))


# ---------------------------------------------------------------------------------------------- 2, 8, 15: the mean
@executors
@pytest.mark.parametrize("leave", ["end", "raise", "return", "interrupt"])
@pytest.mark.parametrize("context", ["train", "predict", "kept", "closure"])
def test_the_mean_comes_back_bit_for_bit(executor, leave, context):
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    before = weights(model)
    addresses = [p.data_ptr() for p in model.parameters()]

    def body():
        assert not torch.equal(weights(model), before)
        if leave == "raise":
            raise ZeroDivisionError
        if leave == "interrupt":
            raise KeyboardInterrupt

    def run():
        if context == "closure":
            if leave in ("end", "return"):
                return  # then the mean moves
            optimizer.step(body)
        manager = {
            "train": lambda: optimizer.sampled_params(train=True),
            "predict": lambda: optimizer.sampled_params(train=False),
            "kept": optimizer.keep_sampled,
        }[context]
        with manager():
            body()
            if leave == "return":
                return

    if leave in ("raise", "interrupt"):
        with pytest.raises(ZeroDivisionError if leave == "raise" else KeyboardInterrupt):
            run()
    else:
        run()
    assert torch.equal(weights(model), before)
    assert addresses == [p.data_ptr() for p in model.parameters()]
    train_step(model, optimizer, batch())  # and it can go on
    assert not torch.equal(weights(model), before)


@executors
def test_evaluation_between_steps_sees_the_mean(executor):
    """The network after a step is the mean: two evaluations agree, with the posterior's mean too."""
    model, data = mlp(), batch()
    optimizer = IVON(model.parameters(), lr=0.1, ess=3.0, **EXECUTORS[executor])

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, data)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        once = model(data[0])
        with optimizer.sampled_params():
            assert not torch.equal(model(data[0]), once)
        assert torch.equal(model(data[0]), once)
        posterior = optimizer.posterior(model)
        assert torch.equal(torch.func.functional_call(model, posterior.mean, (data[0],)), once)


@executors
def test_in_place_channels_last_flat_views_and_tied_weights(executor):
    """Addresses, memory format and sharing survive; a flat buffer behind the parameters stays one."""
    model = cnn().to(memory_format=torch.channels_last)
    model[0].weight = torch.nn.Parameter(torch.randn(6, 1, 3, 3).to(memory_format=torch.channels_last))
    wide = torch.nn.Parameter(torch.randn(8, 6, 3, 3).to(memory_format=torch.channels_last))
    flat = torch.randn(50)
    views = [torch.nn.Parameter(flat[:20].view(4, 5)), torch.nn.Parameter(flat[21:50])]
    tied = torch.nn.Linear(5, 5, bias=False)
    again = torch.nn.Linear(5, 5, bias=False)
    again.weight = tied.weight
    column = torch.nn.Parameter(torch.randn(6, 4)[:, 1])  # not dense
    params = [*model.parameters(), wide, *views, *torch.nn.Sequential(tied, again).parameters(), column]
    addresses = [p.data_ptr() for p in params]
    strides = [p.stride() for p in params]
    optimizer = IVON(params, lr=0.1, ess=30.0, **EXECUTORS[executor])
    gap = float(flat[20])

    def loss():
        out = loss_of(model, images()) + wide.square().sum() + sum(v.square().sum() for v in views)
        return out + again(tied(torch.ones(5))).square().sum() + column.square().sum()

    for _ in range(3):
        with optimizer.sampled_params(train=True):
            loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert addresses == [p.data_ptr() for p in params] and strides == [p.stride() for p in params]
    assert wide.is_contiguous(memory_format=torch.channels_last)
    assert float(flat[20]) == gap and torch.equal(flat[:20], views[0].detach().flatten())
    assert again.weight is tied.weight
    assert all(optimizer.state[p]["hess"].stride() == p.stride() for p in params if p is not column)


@executors
def test_memory_order_does_not_change_the_update(executor):
    """The same perturbation and gradient give the same numbers in channels_last, also with a gradient in another order."""
    start, gradient = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3)
    results = []
    for p_last, g_last in [(False, False), (True, True), (True, False), (False, True)]:
        form = torch.channels_last if p_last else torch.contiguous_format
        p = torch.nn.Parameter(start.clone().contiguous(memory_format=form))
        optimizer = IVON([p], lr=0.1, ess=1e12, hess_approx="gradsq", **EXECUTORS[executor])
        for _ in range(3):
            with optimizer.sampled_params(train=True):
                p.grad = gradient.clone().contiguous(memory_format=torch.channels_last if g_last else torch.contiguous_format)
            optimizer.step()
        results.append((p.detach(), optimizer.state[p]["hess"]))
    for p, h in results[1:]:
        assert torch.allclose(p, results[0][0], rtol=1e-4, atol=1e-5) and torch.allclose(h, results[0][1], rtol=1e-5)


@executors
def test_two_parameters_on_the_same_memory_are_one(executor):
    """Perturbed once, gradients added: as if the Parameter itself were shared."""
    def run(shared):
        p = torch.nn.Parameter(torch.linspace(0, 1, 40))
        q = p if shared else torch.nn.Parameter(p.data)
        params = [p] if shared else [p, q]
        optimizer = IVON(params, lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(2), **EXECUTORS[executor])
        for _ in range(3):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                (p.square().sum() + (3 * q).sin().sum()).backward()
            optimizer.step()
        return p.detach()

    assert torch.allclose(run(True), run(False), rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------------------------------------- 3, 4: which parameters
@executors
def test_frozen_and_unused_parameters_stay(executor):
    model = mlp()
    unused = torch.nn.Parameter(torch.ones(7))
    frozen = model[0].weight.requires_grad_(False)
    optimizer = IVON([*model.parameters(), unused], lr=0.1, ess=3.0, weight_decay=0.5, **EXECUTORS[executor])
    before = frozen.clone()
    for how in ("context", "closure", "kept"):
        if how == "context":
            with optimizer.sampled_params(train=True):
                assert torch.equal(frozen, before)
                assert not torch.equal(unused, torch.ones(7))  # trainable, so it is sampled
                loss_of(model, batch()).backward()
            optimizer.step()
        elif how == "closure":
            optimizer.step(lambda: loss_of(model, batch()).backward())
        else:
            with optimizer.keep_sampled():
                seen = []
                for _ in range(3):
                    seen.append(unused.detach().clone())
                    loss_of(model, batch()).backward()
                    optimizer.step()
                assert not torch.equal(seen[1], seen[2])
        optimizer.zero_grad()
        assert torch.equal(frozen, before) and torch.equal(unused, torch.ones(7))
    assert frozen not in optimizer.state or not optimizer.state[frozen]
    assert optimizer.state[unused]["step"] == 0 and (optimizer.state[unused]["hess"] == 1.0).all()
    assert set(optimizer.posterior(model).mean) == {"0.bias", "2.weight", "2.bias"}


# ---------------------------------------------------------------------------------------------- 5: dtypes, devices
@executors
def test_mixed_dtypes_in_one_optimizer(executor):
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float32]
    params = [torch.nn.Parameter(torch.linspace(-1, 1, 50 + i).to(d)) for i, d in enumerate(dtypes)]
    optimizer = IVON(params, lr=0.05, ess=100.0, **EXECUTORS[executor])
    for _ in range(200):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            sum((p.double() - 0.25).square().sum() for p in params).backward()
        optimizer.step()
    for p, dtype in zip(params, dtypes, strict=True):
        assert p.dtype == dtype
        assert optimizer.state[p]["hess"].dtype == torch.promote_types(dtype, torch.float32)
        assert (p.double() - 0.25).abs().max() < 0.1


@executors
def test_bfloat16_curvature_moves_and_small_steps_add_up(executor):
    """A Hessian near 1 that changes by 1e-5 a step would never move in bfloat16; nor would the mean by 1e-4."""
    p = torch.nn.Parameter(torch.ones(4000, dtype=torch.bfloat16))
    optimizer = IVON([p], lr=1e-4, ess=1e4, hess_init=1.0, beta2=0.999, weight_decay=0.0, **EXECUTORS[executor])
    for _ in range(300):
        with optimizer.sampled_params(train=True):
            p.grad = (3.0 * (p.detach().float() - 1.0) + 0.05).bfloat16()  # a quadratic loss of curvature 3
        optimizer.step()
    expected = 3.0 - 2.0 * 0.999**300
    assert abs(optimizer.state[p]["hess"].mean() - expected) < 0.05
    mean = optimizer.state[p]["mean"].mean()
    assert 0.9985 < mean < 0.9995  # half of bfloat16's resolution below 1 is 0.998
    assert abs(p.float().mean() - 1.0) < 4e-3


def test_bfloat16_weights_loaded_from_outside_become_the_mean():
    p = torch.nn.Parameter(torch.ones(40, dtype=torch.bfloat16))
    optimizer = IVON([p], lr=0.1, ess=1e9)
    with optimizer.sampled_params():
        pass
    with torch.no_grad():
        p[:20] = 5.0
    with optimizer.sampled_params():
        assert (p[:20] > 4.5).all() and (p[20:] < 1.5).all()
    assert (p[:20] == 5.0).all() and (p[20:] == 1.0).all()


@executors
def test_late_move_to_another_dtype_or_layout(executor):
    """model.to(...) after some steps: the state follows, whatever the move."""
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    train_step(model, optimizer, batch())
    before = state_of(model, optimizer, "hess")
    model.double()
    train_step(model, optimizer, batch(dtype=torch.float64))
    for p in model.parameters():
        assert optimizer.state[p]["hess"].dtype == torch.float64
    assert (state_of(model, optimizer, "hess") - before).abs().max() < 0.1
    assert all(optimizer.state[p]["step"] == 2 for p in model.parameters())
    image = cnn()
    optimizer = IVON(image.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    train_step(image, optimizer, images())
    image.to(memory_format=torch.channels_last)
    train_step(image, optimizer, images())
    assert torch.isfinite(weights(image)).all()


# ---------------------------------------------------------------------------------------------- 6: GradScaler
@executors
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
def test_grad_scaler_unscales_and_skips_without_a_trace(executor, unscale, samples, hess_approx):
    def run(scaled):
        model, data = mlp(), batch()
        generator = torch.Generator().manual_seed(1)
        optimizer = IVON(
            model.parameters(), lr=0.1, ess=30.0, beta2=0.9, hess_approx=hess_approx, generator=generator,
            **EXECUTORS[executor],
        )  # fmt: skip
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2, enabled=scaled)
        for step in range(5):
            broken = scaled and step == 2
            state = generator.get_state()
            for attempt in range(2 if broken else 1):
                generator.set_state(state)
                before = weights(model)
                for _ in range(samples):
                    with optimizer.sampled_params(train=True):
                        optimizer.zero_grad()
                        loss = loss_of(model, data)
                        scaler.scale(loss).backward()
                        if broken and attempt == 0:
                            model[0].weight.grad[1, 2] = math.inf
                if unscale:
                    scaler.unscale_(optimizer)
                    if not (broken and attempt == 0):
                        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                scaler.step(optimizer)
                scaler.update()
                if broken and attempt == 0:
                    assert torch.equal(weights(model), before)
                    assert all(optimizer.state[p]["step"] == step for p in model.parameters())
        return weights(model), state_of(model, optimizer, "hess")

    if unscale:  # the plain run clips too
        torch.testing.assert_close(run(True), run(False), rtol=2e-4, atol=2e-6)
    else:
        torch.testing.assert_close(run(True), run(False), rtol=2e-5, atol=2e-7)


@executors
@pytest.mark.parametrize("samples", [1, 2])
def test_gradient_clipping_after_the_context_reaches_the_step(executor, samples):
    model, data = mlp(), batch()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, beta1=0.0, **EXECUTORS[executor])
    for _ in range(samples):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            loss_of(model, data).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    assert abs(state_of(model, optimizer, "momentum").norm() - 1e-3) < 1e-6


# ---------------------------------------------------------------------------------------------- 9: accumulation
@executors
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
def test_micro_batches_in_one_context_equal_the_full_batch(executor, hess_approx):
    x, y = batch(40)

    def run(parts):
        model = mlp()
        optimizer = IVON(
            model.parameters(), lr=0.1, ess=40.0, beta2=0.9, hess_approx=hess_approx,
            generator=torch.Generator().manual_seed(1), **EXECUTORS[executor],
        )  # fmt: skip
        for _ in range(4):
            with optimizer.sampled_params(train=True):
                for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                    (loss_of(model, (a, b)) / parts).backward()
            optimizer.step()
            optimizer.zero_grad()
        return weights(model), state_of(model, optimizer, "hess")

    torch.testing.assert_close(run(4), run(1), rtol=2e-5, atol=2e-7)


@executors
@pytest.mark.parametrize("zero", ["inside", "before", "never", "module"])
def test_several_contexts_average_and_equal_the_full_batch_at_equal_noise(executor, zero):
    """Gradients of contexts are averaged wherever zero_grad() stands; with the same noise in each, four micro-batches
    in four contexts are the full batch, gradient and curvature."""
    x, y = batch(40)

    def run(parts):
        model = mlp()
        generator = torch.Generator()
        optimizer = IVON(
            model.parameters(), lr=0.1, ess=40.0, beta2=0.9, generator=generator, **EXECUTORS[executor]
        )
        for step in range(4):
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                generator.manual_seed(step)
                if zero == "before":
                    optimizer.zero_grad()
                if zero == "module":
                    model.zero_grad()
                with optimizer.sampled_params(train=True):
                    if zero == "inside":
                        optimizer.zero_grad(set_to_none=False)
                    loss_of(model, (a, b)).backward()
            optimizer.step()
            optimizer.zero_grad()
        return weights(model), state_of(model, optimizer, "hess")

    torch.testing.assert_close(run(4), run(1), rtol=2e-5, atol=2e-7)


@executors
def test_a_prediction_between_sample_and_step_changes_nothing(executor):
    def run(predict):
        model, data = mlp(), batch()
        generator = torch.Generator()
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, beta2=0.9, generator=generator, **EXECUTORS[executor])
        for step in range(3):
            generator.manual_seed(step)
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss_of(model, data).backward()
            if predict:
                vlls.predict(model, optimizer, data[0], num_samples=2)
            optimizer.step()
        return weights(model), state_of(model, optimizer, "hess")

    torch.testing.assert_close(run(True), run(False), rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("set_to_none", [True, False])
@executors
def test_zero_grad_before_the_step_keeps_the_sample(executor, set_to_none):
    def run(zero):
        model = mlp()
        generator = torch.Generator().manual_seed(1)
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, generator=generator, **EXECUTORS[executor])
        for _ in range(2):
            with optimizer.sampled_params(train=True):
                loss_of(model, batch()).backward()
            if zero:
                optimizer.zero_grad(set_to_none)
            optimizer.step()
            optimizer.zero_grad(set_to_none)
        return weights(model)

    torch.testing.assert_close(run(True), run(False), rtol=2e-5, atol=2e-7)


# ---------------------------------------------------------------------------------------------- 10: misuse
def test_step_without_a_sample_says_what_to_call():
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0)
    with pytest.raises(RuntimeError, match=r"sampled_params\(train=True\).*step\(closure\)"):
        optimizer.step()
    with optimizer.sampled_params():  # for prediction: not a sample to learn from
        loss_of(model, batch()).backward()
    with pytest.raises(RuntimeError, match="no sample to learn from"):
        optimizer.step()
    train_step(model, optimizer, batch())
    with pytest.raises(RuntimeError, match="no sample to learn from"):
        optimizer.step()


def test_calls_inside_a_sample_are_refused_and_change_nothing():
    model, data = mlp(), batch()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0)
    saved = optimizer.state_dict()
    for outer in (lambda: optimizer.sampled_params(train=True), optimizer.sampled_params, optimizer.keep_sampled):
        before = weights(model)
        with outer():
            inside = weights(model)
            for call in (
                lambda: optimizer.sampled_params().__enter__(),
                lambda: optimizer.keep_sampled().__enter__(),
                lambda: optimizer.posterior(model),
                lambda: optimizer.state_dict(),
                lambda: optimizer.load_state_dict(saved),
                lambda: optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]}),
                lambda: vlls.predict(model, optimizer, data[0]),
            ):
                with pytest.raises(RuntimeError, match="while the parameters hold a sample"):
                    call()
            if outer != optimizer.keep_sampled:
                for arguments in ((), (lambda: loss_of(model, data),)):
                    with pytest.raises(RuntimeError, match="while the parameters hold a sample"):
                        optimizer.step(*arguments)
            assert torch.equal(weights(model), inside)
        assert torch.equal(weights(model), before)
    with pytest.raises(RuntimeError, match="samples by itself"):
        optimizer.step(lambda: train_step(model, optimizer, data))
    assert torch.equal(weights(model), before)
    assert len(optimizer.param_groups) == 1


BAD = [
    ({"lr": -0.1}, r"lr=-0.1 is outside \[0, inf\)"),
    ({"lr": math.nan}, "lr=nan"),
    ({"lr": math.inf}, "lr=inf"),
    ({"lr": "fast"}, "lr='fast'"),
    ({"ess": 0.5}, r"ess=0.5 is outside \[1, inf\); use the number of training examples"),
    ({"ess": -3}, "ess=-3"),
    ({"ess": math.inf}, "ess=inf"),
    ({"hess_init": 0.0}, r"hess_init=0.0 is outside \(0, inf\)"),
    ({"hess_init": -1.0}, "hess_init=-1.0"),
    ({"beta1": 1.0}, r"beta1=1.0 is outside \[0, 1\)"),
    ({"beta1": -0.1}, "beta1=-0.1"),
    ({"beta2": 1.01}, r"beta2=1.01 is outside \[0, 1\]"),
    ({"beta2": -0.5}, "beta2=-0.5"),
    ({"weight_decay": -1e-4}, "weight_decay=-0.0001"),
    ({"clip_radius": 0.0}, r"clip_radius=0.0 is outside \(0, inf\]"),
    ({"hess_approx": "fisher"}, "hess_approx='fisher' is unknown; choose 'price' or 'gradsq'"),
    ({"mc_samples": 0}, "mc_samples=0"),
    ({"mc_samples": 1.5}, "mc_samples=1.5"),
    ({"generator": 3}, "generator=3"),
    ({"foreach": True, "fused": True}, "exclude each other"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:30])
def test_hyperparameters_out_of_range(arguments, message):
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=message):
        IVON([p], **{"lr": 0.1, "ess": 10.0, **arguments})
    optimizer = IVON([p], lr=0.1, ess=10.0)
    if not {"mc_samples", "generator", "foreach"} & arguments.keys():
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], **arguments})
        assert len(optimizer.param_groups) == 1


def test_parameters_that_cannot_be_optimized():
    for params in ([], iter([]), [{"params": []}]):
        with pytest.raises(ValueError, match=r"params is empty; pass model.parameters\(\)"):
            IVON(params, lr=0.1, ess=10.0)
    bad = [
        (torch.ones(3, dtype=torch.complex64, requires_grad=True), r"params\[1\].*complex64"),
        (torch.ones(3, dtype=torch.int64), r"params\[1\].*int64"),
        (torch.eye(3).to_sparse().requires_grad_(), r"params\[1\].*sparse"),
    ]
    for tensor, message in bad:
        with pytest.raises(ValueError, match=message):
            IVON([torch.ones(2, requires_grad=True), tensor], lr=0.1, ess=10.0)


@executors
def test_sparse_gradients_are_refused_and_nothing_changes(executor):
    embedding = torch.nn.Embedding(10, 4, sparse=True)
    optimizer = IVON(embedding.parameters(), lr=0.1, ess=10.0, **EXECUTORS[executor])
    before = embedding.weight.detach().clone()
    with pytest.raises(RuntimeError, match="sparse=False in torch.nn.Embedding"), optimizer.sampled_params(train=True):
        embedding(torch.tensor([1, 2])).sum().backward()
    assert torch.equal(embedding.weight, before)
    with pytest.raises(RuntimeError, match="needs dense gradients"):
        optimizer.step(lambda: embedding(torch.tensor([1, 2])).sum().backward())
    assert torch.equal(embedding.weight, before)
    with pytest.raises(RuntimeError, match="no sample"):
        optimizer.step()
    assert optimizer.state[embedding.weight]["step"] == 0


def test_fused_without_a_compiler_says_so(monkeypatch):
    from vlls.optim import _cpu

    monkeypatch.setenv("CC", "no-such-compiler")
    _cpu._library.cache_clear()
    try:
        p = torch.nn.Parameter(torch.ones(3))
        with pytest.raises(RuntimeError, match="fused=True needs a C compiler"):
            IVON([p], lr=0.1, ess=10.0, fused=True).step(lambda: p.sum().backward())
        assert torch.equal(p.detach(), torch.ones(3))
    finally:
        _cpu._library.cache_clear()


# ---------------------------------------------------------------------------------------------- 12: BatchNorm
@executors
def test_batch_norm_statistics_untouched_by_predictive_sampling(executor):
    model, data = cnn().train(), images()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, **EXECUTORS[executor])
    train_step(model, optimizer, data)
    before = {name: b.clone() for name, b in model.named_buffers()}
    with optimizer.sampled_params(train=False):
        model(data[0])
    assert vlls.predict(model, optimizer, data[0], num_samples=3).shape == (30, 4)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert model.training and all(module.training for module in model.modules())
    train_step(model, optimizer, data)
    assert int(model[1].num_batches_tracked) == 2


# ---------------------------------------------------------------------------------------------- 13: groups
@executors
def test_groups_with_their_own_hyperparameters_and_late_ones(executor):
    dtype = torch.float32 if executor == "fused" else torch.float64
    params = [torch.nn.Parameter(torch.linspace(-1, 1, 30, dtype=dtype)) for _ in range(3)]
    own = [
        {"lr": 0.1, "ess": 30.0, "hess_init": 0.5, "weight_decay": 1e-3, "beta1": 0.9},
        {"lr": 0.02, "ess": 200.0, "hess_init": 2.0, "weight_decay": 0.1, "beta1": 0.5},
        {"lr": 0.05, "ess": 60.0, "hess_init": 0.1, "weight_decay": 0.0, "beta1": 0.0},
    ]
    optimizer = IVON(
        [{"params": [params[0]], **own[0]}, {"params": [params[1]], **own[1]}], lr=1.0, ess=1.0, **EXECUTORS[executor]
    )
    references = [ReferenceIVON(p.detach().numpy(), **o) for p, o in zip(params, own, strict=True)]
    for step in range(12):
        if step == 5:
            optimizer.add_param_group({"params": [params[2]], **own[2]})
        active = params[: 2 if step < 5 else 3]
        seen = []
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            sum((p**4).sum() for p in active).backward()
            seen = [(p.detach().double().numpy().copy(), p.grad.double().numpy().copy()) for p in active]
        optimizer.step()
        for reference, sample in zip(references, seen, strict=False):
            reference.step([sample])
    tolerance = 1e-11 if dtype == torch.float64 else 3e-5
    for p, reference in zip(params, references, strict=True):
        assert np.abs(p.detach().double().numpy() - reference.m).max() < tolerance


# ---------------------------------------------------------------------------------------------- 14: generators
@executors
def test_a_generator_makes_it_reproducible_and_leaves_the_global_one(executor):
    def run():
        model = mlp()
        generator = torch.Generator().manual_seed(11)
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, generator=generator, **EXECUTORS[executor])
        for _ in range(3):
            train_step(model, optimizer, batch())
        return weights(model)

    first = run()
    before = torch.get_rng_state()
    model = mlp()
    state = torch.get_rng_state()
    optimizer = IVON(
        model.parameters(), lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(11), **EXECUTORS[executor]
    )
    for _ in range(3):
        train_step(model, optimizer, batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, weights(model))
    torch.set_rng_state(before)


# ---------------------------------------------------------------------------------------------- beside other tools
@executors
def test_schedulers_and_tensor_learning_rates(executor):
    """A scheduler changes the step; a learning rate held in a tensor is read at each step."""
    def run(lr, schedule):
        model = mlp()
        optimizer = IVON(model.parameters(), lr=lr, ess=30.0, generator=torch.Generator().manual_seed(1), **EXECUTORS[executor])
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        for _ in range(4):
            train_step(model, optimizer, batch())
            if schedule:
                scheduler.step()
        return weights(model)

    torch.testing.assert_close(run(torch.tensor(0.1), True), run(0.1, True), rtol=1e-5, atol=1e-7)
    assert not torch.equal(run(0.1, True), run(0.1, False))
    start = weights(mlp())
    assert torch.equal(run(0.0, True), start)


def test_one_cycle_scheduler_writes_beta1():
    """OneCycleLR looks for 'momentum' or 'betas'; told not to cycle them it works."""
    model = mlp()
    optimizer = IVON(model.parameters(), lr=0.1, ess=30.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=5, cycle_momentum=False)
    for _ in range(4):
        train_step(model, optimizer, batch())
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] != 0.1


def test_a_lightning_style_closure():
    """The trainer's closure: forward, zero_grad, backward, run inside optimizer.step, loss returned through it."""
    model, data = mlp(), batch()
    optimizer = IVON(model.parameters(), lr=0.2, ess=30.0, mc_samples=2)
    calls = []

    class Closure:
        def __call__(self):
            loss = loss_of(model, data)
            optimizer.zero_grad()
            loss.backward()
            calls.append(float(loss))
            return loss.detach()

    losses = [float(optimizer.step(closure=Closure())) for _ in range(30)]
    assert len(calls) == 60 and losses[0] == pytest.approx(sum(calls[:2]) / 2)
    assert losses[-1] < losses[0]


def test_torch_compile_of_model_and_of_the_whole_step():
    def run(compiled):
        torch._dynamo.reset()
        model, data = mlp(), batch()
        optimizer = IVON(model.parameters(), lr=0.1, ess=30.0, generator=torch.Generator().manual_seed(1))
        forward = torch.compile(model, backend="aot_eager") if compiled else model

        def step():
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                F.cross_entropy(forward(data[0]), data[1]).backward()
            optimizer.step()

        run_step = torch.compile(step, backend="eager") if compiled == "whole" else step
        for _ in range(4):
            run_step()
        return weights(model)

    torch.testing.assert_close(run("model"), run(False), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(run("whole"), run(False), rtol=1e-5, atol=1e-7)


def test_the_pure_update_compiles_into_one_graph():
    torch._dynamo.reset()
    args = [torch.rand(100) + 0.5 for _ in range(5)]
    given = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01, "bias_correction": 0.3, "clip_radius": 2.0}
    compiled = torch.compile(_alg1.ivon_update, backend="aot_eager", fullgraph=True)
    for fast, plain in zip(compiled(*args, **given), _alg1.ivon_update(*args, **given), strict=True):
        torch.testing.assert_close(fast, plain)


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
    """Against the same draws by hand, for several classes and for one logit."""
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
