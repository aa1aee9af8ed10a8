"""Options of IVON's Hessian: a clip of its estimate, and updates only in every k-th step."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
import torch
from ivon_problems import (
    EXECUTORS,
    assert_lockstep,
    batch,
    executors,
    loss_of,
    mlp,
    state_of,
    take_steps,
    train_step,
    weights,
)
from ivon_reference import ReferenceIVON

from vlls import IVON, learned_share
from vlls.optim import alg1

OPTIONS = {"lr": 0.05, "ess": 30.0, "hess_init": 0.5, "weight_decay": 1e-2, "beta2": 0.9}


def ivon(model, executor="single", **more):
    return IVON(model.parameters(), **{**OPTIONS, **EXECUTORS[executor], **more})


def trained(executor="single", steps=6, **more):
    """Return weights and Hessian after some steps; every executor's samples are reproducible."""
    model = mlp()
    optimizer = ivon(model, executor, generator=torch.Generator().manual_seed(1), **more)
    for _ in range(steps):
        train_step(model, optimizer, batch())
    return torch.cat([weights(model), state_of(model, optimizer, "hess")])


# ------------------------------------------------------------------ the clip
@pytest.mark.slow
def test_the_clip_of_the_estimate_symbolically():
    """By definition F is clipped to +-c (h + delta); the executors clip before the factor h + delta."""
    ghat, noise = sp.symbols("ghat e", real=True)
    h, ess, delta, c = sp.symbols("h ess delta c", positive=True)

    class Symbol:  # the tensor methods that the function uses, on expressions
        def __init__(self, e):
            self.e = sp.sympify(e)

        def __add__(self, o):
            return Symbol(self.e + getattr(o, "e", o))

        def __mul__(self, o):
            return Symbol(self.e * getattr(o, "e", o))

        def __neg__(self):
            return Symbol(-self.e)

        def clamp(self, low, high):
            return Symbol(sp.Max(low.e, sp.Min(high.e, self.e)))

        __radd__, __rmul__ = __add__, __mul__

    options = {"ess": ess, "weight_decay": delta, "hess_clip": c}
    seen = {"price": ghat * noise, "gradsq": ghat**2}
    price, gradsq = (alg1.hess_estimate(Symbol(seen[a]), Symbol(h), hess_approx=a, **options).e for a in seen)
    wide = 10**6 * c
    free = alg1.hess_estimate(Symbol(seen["price"]), Symbol(h), hess_approx="price", **{**options, "hess_clip": wide}).e
    rng = np.random.default_rng(0)
    clipped = 0
    for _ in range(40):
        point = {s: sp.Rational(int(rng.integers(1, 30)), 10) for s in (h, ess, delta, c)}
        point |= {s: sp.Rational(int(rng.integers(-30, 30)), 10) for s in (ghat, noise)}
        bound = (c * (h + delta)).subs(point)
        estimate = (ess * ghat * noise * (h + delta)).subs(point)
        expected = max(-bound, min(bound, estimate))
        assert price.subs(point) == expected and free.subs(point) == estimate
        early = max(-point[c], min(point[c], (ess * ghat * noise).subs(point)))
        assert early * (point[h] + point[delta]) == expected
        assert gradsq.subs(point) == min(bound, (ess * ghat**2).subs(point))
        clipped += expected != estimate
    assert 5 < clipped < 35


def test_by_hand():
    statistic, hess = torch.tensor([1.0, -1.0, 0.01, torch.nan]), torch.tensor([0.3, 0.1, 0.3, 0.3])
    given = {"ess": 10.0, "weight_decay": 0.1, "hess_clip": 2.0}
    price = alg1.hess_estimate(statistic, hess, hess_approx="price", **given)
    torch.testing.assert_close(price, torch.tensor([0.8, -0.4, 0.04, torch.nan]), equal_nan=True)
    gradsq = alg1.hess_estimate(statistic.abs(), hess, hess_approx="gradsq", **given)
    torch.testing.assert_close(gradsq, torch.tensor([0.8, 0.4, 0.1, torch.nan]), equal_nan=True)


@executors
@pytest.mark.parametrize("setting", [{}, {"hess_approx": "gradsq"}, {"mc_samples": 3}, {"weight_decay": 0.0}], ids=str)
def test_steps_with_a_clip_are_those_of_a_plain_loop_and_some_are_clipped(executor, setting):
    samples, setting = setting.get("mc_samples", 1), {k: v for k, v in setting.items() if k != "mc_samples"}
    dtype = torch.float32 if executor == "fused" else torch.float64
    model = mlp(dtype)
    options = {**OPTIONS, "hess_clip": 0.03, **setting}
    optimizer = IVON(model.parameters(), **options, **EXECUTORS[executor])
    plain = ReferenceIVON(weights(model).numpy(), **options)
    shares = []
    for _ in range(6):
        assert_lockstep(model, batch(dtype=dtype), optimizer, plain, "context", steps=1, samples=samples)
        shares.append(plain.clipped.mean())
    assert 0.02 < np.mean(shares) < 0.98
    assert np.abs(plain.h - ReferenceIVON(plain.m, **options).h).max() > 0.01


@executors
@pytest.mark.parametrize("hess_approx", ["price", "gradsq"])
def test_a_clip_that_nothing_reaches_changes_no_bit(executor, hess_approx):
    found = trained(executor, hess_approx=hess_approx)
    assert torch.equal(trained(executor, hess_approx=hess_approx, hess_clip=1e6), found)
    assert not torch.equal(trained(executor, hess_approx=hess_approx, hess_clip=0.03), found)


@executors
def test_a_clip_of_one_group(executor):
    def hessians(clips):
        model = mlp()
        groups = [{"params": [p], "hess_clip": clip} for p, clip in zip(model.parameters(), clips, strict=True)]
        optimizer = IVON(groups, **OPTIONS, **EXECUTORS[executor], generator=torch.Generator().manual_seed(1))
        train_step(model, optimizer, batch())
        return [optimizer.state[p]["hess"] for p in model.parameters()]

    off, on, some = hessians([1e6] * 4), hessians([0.03] * 4), hessians([1e6, 0.03, 0.03, 1e6])
    assert all(map(torch.equal, some, [off[0], on[1], on[2], off[3]]))
    assert not any(map(torch.equal, on, off))


# ------------------------------------------------------------------ updates in every k-th step
@executors
@pytest.mark.parametrize("how", ["context", "kept"])
def test_the_hessian_stays_between_updates_and_all_else_goes_on(executor, how):
    dtype = torch.float32 if executor == "fused" else torch.float64
    model, data = mlp(dtype), batch(dtype=dtype)
    optimizer = ivon(model, executor, hess_every=3)
    plain = ReferenceIVON(weights(model).numpy(), **OPTIONS, hess_every=3)
    seen = []

    def note():
        seen.append((state_of(model, optimizer, "hess"), state_of(model, optimizer, "momentum")))

    def closure():
        loss_of(model, data).backward()

    if how == "context":
        for _ in range(7):
            assert_lockstep(model, data, optimizer, plain, how, steps=1)
            note()
    else:
        take_steps(optimizer, closure, how, 7, after=note)
    hess = [torch.full_like(seen[0][0], 0.5), *(h for h, _ in seen)]
    assert [not torch.equal(old, new) for old, new in pairwise(hess)] == [
        False, False, True, False, False, True, False,
    ]  # fmt: skip
    assert all(not torch.equal(old[1], new[1]) for old, new in pairwise(seen))


@executors
def test_every_parameter_counts_its_own_steps(executor):
    """A parameter without a gradient in the first step is one step behind, though in the same group and list."""
    both = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    optimizer = IVON(both, **{**OPTIONS, "hess_every": 2}, **EXECUTORS[executor])
    changed = []
    for step in range(5):
        before = [optimizer.state[p]["hess"].clone() if optimizer.state[p] else torch.full((4,), 0.5) for p in both]
        with optimizer.sampled_params(train=True):
            for p in both[: 1 if step == 0 else 2]:
                p.grad = 3 * p.detach() ** 2
        optimizer.step()
        optimizer.zero_grad()
        changed.append([not torch.equal(h, optimizer.state[p]["hess"]) for p, h in zip(both, before, strict=True)])
    assert [first for first, _ in changed] == [False, True, False, True, False]
    assert [second for _, second in changed] == [False, False, True, False, True]


def test_the_share_that_is_left_of_the_start_counts_updates():
    model = mlp()
    optimizer = ivon(model, hess_every=4)
    for _ in range(11):
        train_step(model, optimizer, batch())
    hess = state_of(model, optimizer, "hess").numpy()
    share = np.sort((hess - 0.9**2 * 0.5) / hess)
    found = learned_share(optimizer)
    assert np.isclose(found.median, share[(len(share) - 1) // 2], atol=1e-6)
    assert np.isclose(found.total, 1 - 0.9**2 * 0.5 * len(hess) / hess.sum(), atol=1e-6)
    waiting = ivon(model, hess_every=100)
    train_step(model, waiting, batch())
    assert learned_share(waiting).high == 0.0


# ------------------------------------------------------------------ states
OPTIONS_OFF = {"hess_clip": float("inf"), "hess_every": 1}


def without_the_options(state):
    state = copy.deepcopy(state)
    for group in state["param_groups"]:
        del group["hess_clip"], group["hess_every"]
    return state


@executors
def test_a_state_from_before_the_options_loads_with_them_off(executor):
    results = []
    for older in (False, True):
        model = mlp()
        optimizer = ivon(model, executor)
        train_step(model, optimizer, batch())
        state = optimizer.state_dict()
        other = ivon(model, executor, hess_clip=0.03, hess_every=5)
        other.load_state_dict(without_the_options(state) if older else state)
        assert {name: other.param_groups[0][name] for name in OPTIONS_OFF} == OPTIONS_OFF
        torch.manual_seed(2)
        train_step(model, other, batch())
        results.append(torch.cat([weights(model), state_of(model, other, "hess")]))
    assert torch.equal(*results)


def test_an_optimizer_pickled_before_the_options_has_them_off():
    model = mlp()
    optimizer = ivon(model)
    train_step(model, optimizer, batch())
    for group in (optimizer.defaults, *optimizer.param_groups):
        del group["hess_clip"], group["hess_every"]
    again = pickle.loads(pickle.dumps(optimizer))
    assert again.param_groups[0].items() >= OPTIONS_OFF.items() and again.defaults.items() >= OPTIONS_OFF.items()
    again.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})


def test_the_options_are_saved_and_a_bad_one_is_refused():
    model = mlp()
    optimizer = ivon(model, hess_clip=2.0, hess_every=3)
    other = ivon(model)
    other.load_state_dict(optimizer.state_dict())
    assert (other.param_groups[0]["hess_clip"], other.param_groups[0]["hess_every"]) == (2.0, 3)
    state = optimizer.state_dict()
    state["param_groups"][0]["hess_every"] = 0
    with pytest.raises(ValueError, match="group 0 of the saved state: hess_every=0 is not allowed"):
        other.load_state_dict(state)
    del state["param_groups"][0]["clip_radius"], state["param_groups"][0]["hess_every"]
    with pytest.raises(ValueError, match=r"lacks \['clip_radius'\]; it was not saved by IVON"):
        other.load_state_dict(state)
