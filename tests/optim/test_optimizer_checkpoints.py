"""IVON's saved states, and all optimizers through torch.distributed.checkpoint and hooks on load."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ivon_problems import EXECUTORS, backward, batch, mlp, train_step, weights
from ivon_reference import ReferenceIVON
from torch.distributed import checkpoint
from torch.distributed.checkpoint import state_dict as dcp

from vlls import EVON, IVON, SAM

OPTIONS = {
    "plain": dcp.StateDictOptions(),
    "full": dcp.StateDictOptions(full_state_dict=True),
    "flat": dcp.StateDictOptions(flatten_optimizer_state_dict=True),
}
options = pytest.mark.parametrize("options", OPTIONS)


def ivon(model, seed=1, **more):
    generator = torch.Generator().manual_seed(seed)
    return IVON(model.parameters(), lr=0.1, ess=30.0, beta2=0.9, generator=generator, **more)


def evon(model, seed=1, interval=2):  # the tests take three steps before they save
    generator = torch.Generator().manual_seed(seed)
    return EVON(model.parameters(), lr=0.1, ess=30.0, beta2=0.9, interval=interval, generator=generator)


def sam(model):
    return SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)


def sam_step(model, optimizer):
    optimizer.step(lambda: backward(model, optimizer, batch()))


MAKERS = {
    "ivon": (ivon, lambda model, optimizer: train_step(model, optimizer, batch())),
    "ivon in bfloat16": (ivon, lambda model, optimizer: train_step(model, optimizer, batch(dtype=torch.bfloat16))),
    "evon": (evon, lambda model, optimizer: train_step(model, optimizer, batch())),
    "evon in bfloat16": (evon, lambda model, optimizer: train_step(model, optimizer, batch(dtype=torch.bfloat16))),
    "evon before it has bases": (
        partial(evon, interval=4),
        lambda model, optimizer: train_step(model, optimizer, batch()),
    ),
    "sam": (sam, sam_step),
}


def made(name):
    model = mlp(torch.bfloat16) if "bfloat16" in name else mlp()
    return model, MAKERS[name][0](model)


@pytest.mark.parametrize("name", MAKERS)
def test_a_fresh_optimizer_gives_its_state_and_is_as_it_was(name):
    model, optimizer = made(name)
    before = weights(model)
    found = dcp.get_optimizer_state_dict(model, optimizer)
    assert set(found["state"]) == {name for name, _ in model.named_parameters()}
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(weights(model), before)
    untouched, other = made(name)
    for each, its in ((model, optimizer), (untouched, other)):
        MAKERS[name][1](each, its)
    assert torch.equal(weights(model), weights(untouched))  # it trains as if it had not been saved


@pytest.mark.parametrize("name", MAKERS)
@options
def test_going_on_is_bit_exact(name, options, tmp_path):
    step = MAKERS[name][1]
    model, optimizer = made(name)
    for _ in range(3):
        step(model, optimizer)
    saved = {
        "model": model.state_dict(),
        "optimizer": dcp.get_optimizer_state_dict(model, optimizer, options=OPTIONS[options]),
    }
    checkpoint.save(saved, checkpoint_id=tmp_path / "saved", no_dist=True)
    resumed, other = made(name)
    if name != "sam":
        other.generator.manual_seed(77)
    blank = {
        "model": resumed.state_dict(),
        "optimizer": dcp.get_optimizer_state_dict(resumed, other, options=OPTIONS[options]),
    }
    checkpoint.load(blank, checkpoint_id=tmp_path / "saved", no_dist=True)
    resumed.load_state_dict(blank["model"])
    dcp.set_optimizer_state_dict(resumed, other, blank["optimizer"], options=OPTIONS[options])
    for _ in range(3):
        step(model, optimizer)
        step(resumed, other)
    assert torch.equal(weights(model), weights(resumed))
    if name != "sam":
        for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(optimizer.state[p]["hess"], other.state[q]["hess"])
            assert other.state[q]["hess"].dtype == torch.float32


@pytest.mark.parametrize("name", MAKERS)
def test_set_alone_on_a_fresh_optimizer(name):
    step = MAKERS[name][1]
    model, optimizer = made(name)
    step(model, optimizer)
    resumed, other = made(name)
    resumed.load_state_dict(model.state_dict())
    dcp.set_optimizer_state_dict(resumed, other, dcp.get_optimizer_state_dict(model, optimizer))
    step(model, optimizer)
    step(resumed, other)
    assert torch.equal(weights(model), weights(resumed))


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_of_learning_rate_zero_is_no_way_around_the_checks(name):
    """A step with neither sample nor closure is refused as usual, without gradients and with a nonzero one."""
    model, optimizer = made(name)
    optimizer.param_groups[0]["lr"] = 0.0
    with pytest.raises(RuntimeError, match=r"no sample|without a closure"):
        optimizer.step()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    with pytest.raises(RuntimeError, match=r"no sample|without a closure"):
        optimizer.step()


@pytest.mark.parametrize("name", MAKERS)
def test_hooks_on_load_are_heard(name):
    """A pre-hook's return value is loaded, a post-hook's changes remain, and registered hooks stay registered."""
    model, optimizer = made(name)
    MAKERS[name][1](model, optimizer)
    saved = optimizer.state_dict()
    key = "momentum_buffer" if name == "sam" else "hess"
    other_model, other = made(name)
    before = copy.deepcopy(saved["state"][0][key])

    def double(_, state_dict):
        state_dict = copy.deepcopy(state_dict)
        state_dict["state"][0][key] *= 2
        state_dict["param_groups"][0]["lr"] = 0.5
        return state_dict

    def add_one(optimizer):
        optimizer.state[next(other_model.parameters())][key] += 1

    other.register_load_state_dict_pre_hook(double)
    other.register_load_state_dict_post_hook(add_one)
    for _ in range(2):
        other.load_state_dict(saved)
        assert torch.equal(other.state[next(other_model.parameters())][key], before * 2 + 1)
        assert other.param_groups[0]["lr"] == 0.5
    assert torch.equal(saved["state"][0][key], before)


def test_a_pre_hook_may_mend_what_would_be_refused():
    model, optimizer = made("ivon")
    train_step(model, optimizer, batch())
    saved = optimizer.state_dict()
    old = {**saved, "state": {k: {n: v for n, v in s.items() if n != "hess"} for k, s in saved["state"].items()}}
    _, other = made("ivon")
    with pytest.raises(ValueError, match="lacks"):
        other.load_state_dict(old)
    other.register_load_state_dict_pre_hook(lambda _, given: saved)
    other.load_state_dict(old)
    assert other.state_dict()["state"].keys() == saved["state"].keys()


@pytest.mark.parametrize("later", [False, True])
def test_hyperparameters_of_numpy_are_read_back(tmp_path, later):
    """torch.load refuses NumPy numbers, so that a state with one would be lost."""
    first, second = mlp().parameters(), mlp().parameters()
    groups = [{"params": first}, {"params": second, "weight_decay": np.float64(0.01), "debias": np.bool_(False)}]
    optimizer = IVON(groups, lr=np.logspace(-2, 0, 3)[1], ess=np.int64(30), beta2=np.float32(0.5))
    if later:  # as a schedule of one's own may
        optimizer.param_groups[0] |= {"lr": np.float64(0.1), "ess": np.int64(30), "debias": np.bool_(True)}
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)["param_groups"]
    assert [(g["lr"], g["ess"], g["beta2"], g["weight_decay"], g["debias"]) for g in loaded] == [
        (pytest.approx(0.1), 30, 0.5, 1e-4, True),
        (pytest.approx(0.1), 30, 0.5, 0.01, False),
    ]


def test_state_dict_of_another_type():
    with pytest.raises(ValueError, match=r"state_dict is a list; pass what IVON\.state_dict\(\) returned"):
        made("ivon")[1].load_state_dict([1])


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_generator_in_the_state_of_the_first_parameter_does_not_disturb(executor):
    """state_dict() puts it there, for tools that save only the state; an optimizer without a generator drops it."""
    model = mlp()
    optimizer = ivon(model, **EXECUTORS[executor])
    saved = optimizer.state_dict()
    assert torch.equal(saved["state"][0]["generator"], saved["generator"])
    train_step(model, optimizer, batch())
    without = IVON(mlp().parameters(), lr=0.1, ess=30.0)
    with pytest.warns(UserWarning, match="the saved state has a generator"):
        without.load_state_dict(saved)
    assert all("generator" not in state for state in without.state_dict()["state"].values())


# ---------------------------------------------------------------------- states that older versions saved
NAMES = ("ess", "hess_init", "beta1", "beta2", "weight_decay", "hess_approx", "clip_radius", "debias", "rescale_lr")


@pytest.mark.parametrize("kept", [False, True])
def test_a_state_of_an_older_version_goes_on_bit_for_bit(kept):
    """The last of three groups is in bfloat16; the float64 groups follow the reference at the same noise."""
    saved = torch.load(Path(__file__).parent / "data" / "ivon_state.pt", weights_only=True)
    params = [torch.nn.Parameter(p.clone()) for p in saved["params"]]
    groups = [{"params": params[:2]}, {"params": params[2:3]}, {"params": params[3:]}]
    optimizer = IVON(groups, lr=9.0, ess=9.0, generator=torch.Generator(), foreach=False)
    optimizer.load_state_dict(saved["optimizer"])
    twin = torch.Generator()
    twin.set_state(saved["optimizer"]["generator"])
    references = [(optimizer.param_groups[0], params[:2]), (optimizer.param_groups[1], params[2:3])]
    for k, (group, members) in enumerate(references):
        reference = ReferenceIVON(flat(members), group["lr"], **{name: group[name] for name in NAMES})
        state = [saved["optimizer"]["state"][i] for i in ((0, 1), (2,))[k]]
        reference.g, reference.h, reference.t = flat(s["momentum"] for s in state), flat(s["hess"] for s in state), 3
        references[k] = reference, members

    def sample():
        normals = [torch.empty(len(r.m), dtype=torch.float64).normal_(generator=twin).numpy() for r, _ in references]
        torch.empty(6).normal_(generator=twin), torch.rand(6, generator=twin)  # bfloat16: noise, and rounding
        for p in params:
            p.grad = p.detach() ** 3
        for (reference, members), normal in zip(references, normals, strict=True):
            noise = reference.noise(normal)
            assert np.array_equal(flat(members), reference.m + noise)
            reference.step([(flat(members), flat(p.grad for p in members))], [noise])

    if kept:
        with optimizer.keep_sampled():
            for _ in range(3):
                sample()
                optimizer.step()
    else:
        for _ in range(3):
            with optimizer.sampled_params(train=True):
                sample()
            optimizer.step()
    for reference, members in references:
        assert np.array_equal(flat(members), reference.m) and reference.t == 6
        assert np.array_equal(flat(optimizer.state[p]["hess"] for p in members), reference.h)
    assert not torch.equal(params[3].detach(), saved["params"][3])
    assert torch.equal(optimizer.state[params[3]]["mean"].bfloat16(), params[3])


def flat(tensors):
    return torch.cat([t.detach().flatten() for t in tensors]).numpy()
