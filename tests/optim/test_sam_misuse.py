"""SAM: resuming, and every error."""

import copy
import gc
import io
import math
import pickle

import numpy as np
import pytest
import torch
from sam_problems import ADAMW, SGD, STATE, closure_of, groups_of, network, quadratic, same, values
from torch import nn

from vlls.optim._sam import SAM


# ---------------------------------------------------------------------- saving and loading
def through_torch(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


@pytest.mark.parametrize("route", [lambda d: d, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d)), through_torch])
@pytest.mark.parametrize("base", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_resuming_is_bit_exact(base, route):
    model = network()
    optimizer = SAM(groups_of(model), rho=np.float64(0.1), **base)
    for _ in range(3):
        optimizer.step(closure_of(model, optimizer))
    saved = optimizer.state_dict()
    assert set(saved) == STATE and set(saved["state"][0]) <= {"momentum_buffer", "step", "exp_avg", "exp_avg_sq"}
    resumed = copy.deepcopy(model)
    other = SAM([{"params": p["params"]} for p in groups_of(resumed)], **base | {"lr": 9.0})
    other.load_state_dict(route(saved))
    for _ in range(3):  # side by side: the two must not share a buffer
        optimizer.step(closure_of(model, optimizer))
        other.step(closure_of(resumed, other))
    assert same(values(model), values(resumed))


@pytest.mark.parametrize("where", ["constructor", "groups", "add_param_group", "written later"])
def test_options_of_numpy_are_read_back(where):
    options = {"rho": np.float32(0.25), "lr": np.float64(0.5), "betas": (np.float64(0.5), np.float32(0.75))}
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    if where == "constructor":
        optimizer = SAM(params, torch.optim.AdamW, **options)
    else:
        groups = [{"params": [p], **options} for p in params]
        optimizer = SAM(groups[:1] if where == "add_param_group" else groups, torch.optim.AdamW)
        if where == "add_param_group":
            optimizer.add_param_group(groups[1])
    if where == "written later":
        optimizer.param_groups[0] |= options
    for group in through_torch(optimizer.state_dict())["param_groups"]:
        read = {name: group[name] for name in options}
        assert read == {"rho": 0.25, "lr": 0.5, "betas": (0.5, 0.75)}
        assert not any(isinstance(value, np.generic) for value in (read["rho"], read["lr"], *read["betas"]))


@pytest.mark.parametrize("route", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("base", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_copies_of_the_optimizer_go_on_alone(base, route):
    model = network()
    optimizer = SAM(groups_of(model), foreach=True, **base)
    optimizer.step(closure_of(model, optimizer))
    other_model, other = route((model, optimizer))
    assert other.foreach is True
    for _ in range(2):
        optimizer.step(closure_of(model, optimizer))
    after = values(model)
    for _ in range(2):
        other.step(closure_of(other_model, other))
    assert same(values(model), after) and same(values(other_model), after)


def adafactor():
    model = network(torch.float32)
    optimizer = SAM(model.parameters(), torch.optim.Adafactor)
    optimizer.step(closure_of(model, optimizer))
    return optimizer


def test_reduced_buffers_of_adafactor_load():
    optimizer = adafactor()
    state = optimizer.state_dict()
    assert state["state"][0]["row_var"].shape == (6, 1)
    optimizer.load_state_dict(state)


def test_a_dict_of_an_older_torch_loads():
    """The base optimizer adds the newer flags."""
    theta, optimizer = quadratic()
    state = optimizer.state_dict()
    for flag in ("nesterov", "maximize", "foreach", "differentiable", "fused"):
        del state["param_groups"][0][flag]
    optimizer.load_state_dict(state)
    optimizer.first_step()
    optimizer.second_step()
    assert theta.tolist() == pytest.approx([2.7, 3.6])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d.pop("state"), "no 'state'"),
        (lambda d: d.pop("base_optimizer"), "no 'base_optimizer'"),
        (lambda d: d.update(base_optimizer="AdamW"), "has base_optimizer AdamW, this optimizer has SGD"),
        (lambda d: d["param_groups"].pop(), r"by group \[2\], this optimizer has \[2, 2\]"),
        (lambda d: d["param_groups"][1]["params"].pop(), r"by group \[2, 1\], this optimizer has \[2, 2\]"),
        (lambda d: d["param_groups"][1].pop("rho"), "no 'rho'"),
        (lambda d: d["param_groups"][1].update(rho=-1.0), "rho=-1.0"),
        (lambda d: d["state"][2].update(momentum_buffer=torch.zeros(3, 6)), r"'momentum_buffer' of shape \(3, 6\)"),
        (lambda d: d["state"][3].update(momentum_buffer=torch.zeros(6, 2)), r"parameter 3 has \(2,\)"),
    ],
)
def test_a_dict_that_does_not_match_changes_nothing(spoil, message):
    model = network()
    optimizer = SAM(groups_of(model), **SGD)
    optimizer.step(closure_of(model, optimizer))
    before, spoilt = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    for group in spoilt["param_groups"]:
        group["lr"] = 7.0
    spoil(spoilt)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(spoilt)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for index, buffers in before["state"].items():
        assert torch.equal(buffers["momentum_buffer"], after["state"][index]["momentum_buffer"])


# ---------------------------------------------------------------------- bad calls and bad input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: o.first_step(), "first_step was called after first_step.* call second_step"),
        (lambda o: o.step(), r"call second_step\(\) first"),
        (lambda o: o.step(lambda: 0.0), r"step was called .* call second_step\(\) first"),
        (lambda o: o.state_dict(), "state_dict was called .* call second_step"),
        (lambda o: o.load_state_dict({}), "load_state_dict was called .* call second_step"),
        (copy.deepcopy, "copy or pickle was called .* call second_step"),
        (pickle.dumps, "copy or pickle was called .* call second_step"),
    ],
)
def test_between_the_steps_only_the_second_is_allowed(call, message):
    theta, optimizer = quadratic()
    optimizer.first_step()
    moved = theta.tolist()
    with pytest.raises(RuntimeError, match=message):
        call(optimizer)
    assert theta.tolist() == moved
    optimizer.second_step()
    assert theta.tolist() == pytest.approx([2.7, 3.6])


def test_the_steps_name_their_order():
    theta, optimizer = quadratic()
    with pytest.raises(RuntimeError, match="call first_step"):
        optimizer.second_step()
    with pytest.raises(RuntimeError, match=r"call step\(closure\), or first_step and second_step"):
        optimizer.step()
    assert theta.tolist() == [3.0, 4.0]


def test_sparse_gradients_are_refused_before_anything_moves():
    dense, embedding = nn.Linear(3, 3), nn.Embedding(5, 3, sparse=True)
    optimizer = SAM([*dense.parameters(), embedding.weight], torch.optim.SGD)
    before = values(dense) + values(embedding)
    dense(embedding(torch.tensor([1, 2]))).sum().backward()
    with pytest.raises(ValueError, match=r"params\[2\] in group 0 is sparse .* sparse=False"):
        optimizer.first_step()
    assert same(values(dense) + values(embedding), before)
    embedding.weight.grad = embedding.weight.grad.to_dense()
    optimizer.first_step()


def parameter(dtype=torch.float32):
    return torch.zeros(2, dtype=dtype, requires_grad=dtype.is_floating_point or dtype.is_complex)


TWICE = parameter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -0.1}, "rho=-0.1 .*>= 0"),
        ({"rho": math.inf}, "rho=inf .*>= 0"),
        ({"rho": math.nan}, "rho=nan .*>= 0"),
        ({"rho": "0.1"}, "rho='0.1' .*>= 0"),
        ({"rho": True}, "rho=True .*>= 0"),
        ({"rho": None}, "rho=None .*>= 0"),
        ({"params": [{"params": [parameter()], "rho": -2}]}, "rho=-2 "),
        ({"adaptive": 1}, "adaptive=1; choose True or False"),
        ({"foreach": "yes"}, "foreach='yes'"),
        ({"params": []}, "params holds no parameter"),
        ({"params": iter(())}, "params holds no parameter"),
        ({"params": [{"params": []}]}, "params holds no parameter"),
        ({"params": parameter()}, "params is a Tensor; pass a list"),
        ({"params": {parameter()}}, "params is a set; pass a list"),
        ({"params": nn.Linear(2, 2)}, r"params is a Linear; pass a list, as list\(model.parameters"),
        ({"params": [1.0]}, "params holds a float at 0"),
        ({"params": [parameter(), {"params": [parameter()]}]}, "params holds a dict at 1"),
        ({"params": [{"rho": 0.1}]}, "no 'params'"),
        ({"params": [TWICE, TWICE]}, "more than once"),
        ({"params": [{"params": TWICE}, {"params": TWICE}]}, "more than one parameter group"),
        ({"params": [parameter(torch.complex64)]}, "torch.complex64, torch.strided at 0; pass dense real"),
        ({"params": [parameter(torch.int64)]}, "torch.int64"),
        ({"params": [torch.zeros(2).to_sparse()]}, "torch.sparse_coo at 0; pass dense"),
        ({"base_optimizer": torch.optim.SGD([parameter()])}, r"a SGD instance, SGD \((.|\n)*pass an optimizer's class"),
        ({"base_optimizer": nn.Linear}, "the class .*Linear.*; pass an optimizer's class"),
        ({"base_optimizer": "SGD"}, "a str instance, 'SGD'; pass an optimizer's class"),
        ({"base_optimizer": torch.optim.LBFGS}, "base_optimizer=LBFGS needs a closure"),
        ({"base_optimizer": torch.optim.Adadelta}, "Adadelta has an option 'rho'"),
        ({"lr": -1.0}, "learning rate"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SAM(**{"params": [parameter()], "base_optimizer": torch.optim.SGD, **options})


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"params": [parameter()], "rho": math.nan}, "rho=nan"),
        ({"params": [parameter(torch.int32)]}, "torch.int32"),
        ({"rho": 0.1}, "no 'params'"),
        ({"params": [TWICE]}, "more than one parameter group"),
    ],
)
def test_a_bad_group_is_not_added(group, message):
    optimizer = SAM([TWICE], torch.optim.SGD)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == len(optimizer.base_optimizer.param_groups) == 1


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize(
    "devices", [["cpu"] * 6, pytest.param(["cpu"] * 2 + ["cuda"] * 4, marks=needs_gpu)], ids=["cpu", "two devices"]
)
def test_one_norm_over_dtypes_and_devices(devices, foreach, adaptive):
    """For tensors in three dtypes, on CPU and GPU: the formula in float64, up to the rounding of each dtype."""
    start = [torch.randn(5, 3).to(dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)] * 2
    grads = [torch.randn_like(p) for p in start]
    params = [nn.Parameter(p.to(device, copy=True)) for p, device in zip(start, devices, strict=True)]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.to(p.device)
    optimizer = SAM(params, torch.optim.SGD, rho=0.7, adaptive=adaptive, foreach=foreach, lr=0.0)
    optimizer.first_step()
    moved = [p.detach().cpu().clone() for p in params]
    optimizer.second_step()
    assert same([p.cpu() for p in params], start)
    scales = [p.double().abs() if adaptive else torch.ones(5, 3, dtype=torch.float64) for p in start]
    norm = torch.cat([(scale * g.double()).flatten() for scale, g in zip(scales, grads, strict=True)]).norm()
    for a, p, g, scale in zip(moved, start, grads, scales, strict=True):
        step = 0.7 * scale**2 * g.double() / norm
        # the norm is float32's, whose sums differ from device to device, also where a parameter is float64
        allowed = 2 * torch.finfo(a.dtype).eps * (p.double().abs() + step.abs()) + 2e-6 * step.abs()
        assert bool(((a.double() - p.double() - step).abs() <= allowed).all())


def test_an_optimizer_dropped_between_its_steps_leaves_no_hook():
    from torch.nn.modules.module import _global_forward_pre_hooks

    gc.collect()
    before = len(_global_forward_pre_hooks)
    model = network()
    optimizer = SAM(model.parameters(), **SGD)
    closure_of(model, optimizer)()
    optimizer.first_step()
    assert len(_global_forward_pre_hooks) == before + 1
    del optimizer
    gc.collect()
    assert len(_global_forward_pre_hooks) == before


@pytest.mark.parametrize(
    ("name", "value"), [("rho", -0.1), ("rho", math.nan), ("rho", "0.1"), ("rho", None), ("adaptive", "no")]
)
def test_an_option_set_in_the_middle_is_checked(name, value):
    model = network()
    optimizer = SAM(model.parameters(), rho=0.1, **SGD)
    optimizer.step(closure_of(model, optimizer))
    before = values(model)
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=f"{name}={value!r}.*; choose"):
        optimizer.step(closure_of(model, optimizer))
    assert same(values(model), before)
    optimizer.param_groups[0] |= {"rho": np.float64(0.05), "adaptive": True}
    optimizer.step(closure_of(model, optimizer))
    assert not same(values(model), before)
