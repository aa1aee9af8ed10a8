"""IVON and predict refuse calls that would silently go wrong."""

import copy
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vlls import EVON, IVON, SAM, predict
from vlls._native import compiler
from vlls.optim import VariationalOptimizer


def model_and_optimizer(**options):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    return model, IVON(model.parameters(), lr=0.1, ess=100, **options)


def test_a_parameter_is_listed_once():
    shared = nn.Parameter(torch.randn(3))
    with pytest.raises(ValueError, match=r"params\[1\], of shape \(3,\), is params\[0\] again; list a parameter once"):
        IVON([shared, shared], lr=0.1, ess=100)


def test_a_lazy_parameter_is_refused_until_it_has_a_shape():
    model = nn.LazyLinear(3)
    with pytest.raises(ValueError, match=r"params\[0\] has no shape yet; run one batch through the model first"):
        IVON(model.parameters(), lr=0.1, ess=100)
    model(torch.randn(2, 4))
    IVON(model.parameters(), lr=0.1, ess=100)


@pytest.mark.parametrize("take", [copy.deepcopy, pickle.dumps])
def test_a_sample_is_not_copied_as_if_it_were_the_mean(take):
    _, optimizer = model_and_optimizer()
    with optimizer.keep_sampled(), pytest.raises(RuntimeError, match="copying or pickling the optimizer"):
        take(optimizer)
    take(optimizer)


def test_predict_needs_the_model_that_is_trained():
    model, optimizer = model_and_optimizer()
    x = torch.randn(5, 4)
    for other in (copy.deepcopy(model), torch.optim.swa_utils.AveragedModel(model)):
        with pytest.raises(ValueError, match="trains no parameter of this model"):
            predict(other, optimizer, x)
    with pytest.raises(ValueError, match="posterior is a SGD; pass .* the IVON optimizer itself"):
        predict(model, torch.optim.SGD(model.parameters(), lr=0.1), x)
    assert predict(nn.Sequential(model), optimizer, x, num_samples=2).shape == (5, 3)


# ---------------------------------------------------------------------- inference mode
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_goes_on_after_inference_mode(options, dtype):
    model, optimizer = model_and_optimizer(**options)
    model.to(dtype)
    x = torch.randn(5, 4).to(dtype)
    with torch.inference_mode():  # the first use of the optimizer: its state is made here
        predict(model, optimizer, x, num_samples=2)
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        q = optimizer.posterior(model)
    assert not any(tensor.is_inference() for tensor in (*q.mean.values(), *q.std.values()))
    before = model.weight.detach().clone()
    with optimizer.sampled_params(train=True):
        model(x).float().square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.weight, before)


# ---------------------------------------------------------------------- groups
@pytest.mark.parametrize("name, value", [("mc_samples", 2), ("sync", True), ("fused", True), ("generator", None)])
def test_what_is_for_all_parameters_is_refused_in_a_group(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} in a group: it is for all parameters; pass it to IVON"):
        IVON([{"params": nn.Linear(2, 2).parameters(), name: value}], lr=0.1, ess=100)


def test_a_misspelt_key_of_a_group_is_named_and_a_users_own_is_kept():
    _, optimizer = model_and_optimizer()
    new = [nn.Parameter(torch.zeros(2))]
    with pytest.raises(ValueError, match="unknown key 'weight_decy'; did you mean 'weight_decay'"):
        optimizer.add_param_group({"params": new, "weight_decy": 0.1})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": new, "initial_lr": 0.2, "name": "head", "lr_scale": 0.5})
    assert optimizer.param_groups[1]["name"] == "head"


# ---------------------------------------------------------------------- generators
def test_predict_may_draw_from_its_own_generator():
    model, optimizer = model_and_optimizer(generator=torch.Generator().manual_seed(1))
    x, before = torch.randn(5, 4), optimizer.generator.get_state()
    drawn = [predict(model, optimizer, x, 3, generator=torch.Generator().manual_seed(i)) for i in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert torch.equal(optimizer.generator.get_state(), before)
    predict(model, optimizer, x, 3)
    assert not torch.equal(optimizer.generator.get_state(), before)


def test_a_saved_generator_that_is_lost_or_missing_is_said():
    _, without = model_and_optimizer()
    _, with_one = model_and_optimizer(generator=torch.Generator().manual_seed(1))
    with pytest.warns(UserWarning, match="the saved state has a generator and this optimizer has none"):
        without.load_state_dict(with_one.state_dict())
    with pytest.warns(UserWarning, match="this optimizer has a generator and the saved state has none"):
        with_one.load_state_dict(without.state_dict())
    state = with_one.state_dict()
    state["param_groups"][0]["lr"], state["generator"] = 0.7, torch.zeros(3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="the saved generator is none of device cpu"):
        with_one.load_state_dict(state)
    assert with_one.param_groups[0]["lr"] == 0.1


# ---------------------------------------------------------------------- other optimizers, compiled models
class Theirs(torch.optim.SGD):
    """An optimizer with the protocol's methods that is not IVON."""

    generator = None
    sampled_params, posterior = IVON.sampled_params, IVON.posterior


@pytest.mark.parametrize("base, options", [(IVON, {"ess": 100}), (Theirs, {})])
def test_sam_does_not_take_an_optimizer_that_samples(base, options):
    assert isinstance(base(nn.Linear(2, 2).parameters(), lr=0.1, **options), VariationalOptimizer)
    with pytest.raises(ValueError, match=f"base_optimizer={base.__name__} takes its gradients at samples of its own;"):
        SAM(nn.Linear(2, 2).parameters(), base, lr=0.1, **options)


def statistics_of_a_compiled_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    return model, torch.compile(model, backend="eager"), torch.randn(8, 4)


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_a_compiled_model_keeps_its_running_statistics_too():
    model, compiled, x = statistics_of_a_compiled_model()
    optimizer = IVON(model.parameters(), lr=0.1, ess=100)
    compiled(x)
    before = copy.deepcopy(model[1].state_dict())
    with optimizer.sampled_params(train=False):
        compiled(x)
    assert all(torch.equal(value, before[name]) for name, value in model[1].state_dict().items())
    compiled(x)
    assert model[1].num_batches_tracked == before["num_batches_tracked"] + 1


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_a_compiled_model_is_evaluated_at_samples_of_an_optimizer():
    model, compiled, x = statistics_of_a_compiled_model()
    optimizer = IVON(model.parameters(), lr=0.1, ess=100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(3):
            with optimizer.sampled_params():
                assert torch.equal(compiled(x), model(x))


def test_predict_does_not_compile_at_each_sample():
    model, _, x = statistics_of_a_compiled_model()
    optimizer, graphs = IVON(model.parameters(), lr=0.1, ess=100), []
    compiled = torch.compile(model, backend=lambda graph, _: graphs.append(graph) or graph)
    found, expected = (
        predict(m, optimizer, x, 4, generator=torch.Generator().manual_seed(0)) for m in (compiled, model)
    )
    assert torch.equal(found, expected) and len(graphs) <= 1


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_sam_counts_each_batch_of_a_compiled_model_once():
    model, compiled, x = statistics_of_a_compiled_model()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = compiled(x).square().mean()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert model[1].num_batches_tracked == 3


# ---------------------------------------------------------------------- outputs that are no logits, the end of Python
class Returns(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = nn.Linear(4, 3), wrap

    def forward(self, x):
        return self.wrap(self.layer(x))


@pytest.mark.parametrize(
    "wrap, message",
    [
        (lambda z: SimpleNamespace(logits=z), r"a SimpleNamespace; .* forward returns one tensor of logits, here its"),
        (lambda z: (z, z), "a tuple of 2; wrap it in a module whose forward returns one tensor of logits"),
        (lambda z: {"cat": z, "dog": z}, r"a dict of \['cat', 'dog'\]; wrap it"),
        (lambda z: z.argmax(1), r"a tensor of shape \(5,\) and torch.int64, .* returns dense real logits"),
        (lambda z: z.sum(), r"a tensor of shape \(\) and torch.float32, .* a row an example"),
        (lambda z: None, "a NoneType; wrap it"),
    ],
)
def test_predict_says_what_a_model_should_return(wrap, message):
    model = Returns(wrap)
    optimizer = IVON(model.parameters(), lr=0.1, ess=10.0)
    before = model.layer.weight.detach().clone()
    with pytest.raises(ValueError, match=message):
        predict(model, optimizer, torch.randn(5, 4), 2)
    assert torch.equal(model.layer.weight, before)


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_python_may_end_inside_a_block_that_was_entered_by_hand():
    code = """
import atexit, torch, vlls
torch.set_num_threads(4)
weight = torch.nn.Parameter(torch.ones(300_000))
optimizer = vlls.IVON([weight], lr=0.1, ess=100.0, fused=True)
block = optimizer.keep_sampled()
block.__enter__()
weight.square().sum().backward()
optimizer.step()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------------- hyperparameters that change in the middle
CHANGES = [
    ("ess", 0.0, r"ess=0.0 is outside \[1, 1e\+30\]"),
    ("lr", float("nan"), r"lr=nan is outside \[0, inf\)"),
    ("lr", "0.1", r"lr='0.1' is outside \[0, inf\)"),
    ("weight_decay", -1.0, r"weight_decay=-1.0 is outside \[0, inf\)"),
    ("beta2", 2.0, r"beta2=2.0 is outside \[0, 1\]"),
    ("hess_every", 0, "hess_every=0 is not allowed"),
    ("hess_approx", "hessian", "hess_approx='hessian' is unknown"),
]
OF_EVON = [("interval", 0, "interval=0 is not allowed"), ("basis_decay", 1.5, r"basis_decay=1.5 is outside \[0, 1\)")]


def of_changes(kind):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = kind(model.parameters(), lr=0.1, ess=100)
    for _ in range(2):
        optimizer.step(lambda: backward_of(model))
    return model, optimizer, [p.detach().clone() for p in model.parameters()]


def backward_of(model):
    model.zero_grad()
    model(torch.ones(5, 4)).square().mean().backward()


@pytest.mark.parametrize("when", ["before the sample", "before the step", "at kept samples", "at the posterior"])
@pytest.mark.parametrize(
    ("kind", "name", "value", "told"), [*((IVON, *c) for c in CHANGES), *((EVON, *c) for c in [CHANGES[0], *OF_EVON])]
)
def test_a_change_out_of_range_is_refused_and_nothing_is_lost(kind, name, value, told, when):
    model, optimizer, before = of_changes(kind)
    group = optimizer.param_groups[0]
    good = group[name]
    if when == "at kept samples":
        with optimizer.keep_sampled():
            backward_of(model)
            group[name] = value
            with pytest.raises(ValueError, match=told):
                optimizer.step()
            group[name] = good
            backward_of(model)
            optimizer.step()
    elif when == "before the step":
        with optimizer.sampled_params(train=True):
            backward_of(model)
        group[name] = value
        with pytest.raises(ValueError, match=told):
            optimizer.step()
        assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        group[name] = good
        optimizer.step()  # with the sample that waited
    else:
        group[name] = value
        with pytest.raises(ValueError, match=told):
            optimizer.posterior(model) if when == "at the posterior" else optimizer.step(lambda: backward_of(model))
        assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        group[name] = good
        optimizer.step(lambda: backward_of(model))
    assert not all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(("name", "value"), [("mc_samples", 0), ("generator", 5)])
def test_options_of_the_whole_optimizer_are_checked_when_they_change(name, value):
    model, optimizer, before = of_changes(IVON)
    setattr(optimizer, name, value)
    with pytest.raises(ValueError, match=name):
        optimizer.step(lambda: backward_of(model))
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_any_number_that_is_allowed_may_be_written():
    model, optimizer, _ = of_changes(EVON)
    for lr in (0.0, np.float64(0.2), torch.tensor(0.1), 1):
        optimizer.param_groups[0] |= {"lr": lr, "basis_decay": np.float32(0.9), "interval": np.int64(3)}
        optimizer.step(lambda: backward_of(model))
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_errors_name_the_optimizer_that_was_made():
    whole = nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)
    for kind in (IVON, EVON):
        name = kind.__name__
        with pytest.raises(ValueError, match=f"{name} needs real floating-point parameters"):
            kind([whole], lr=0.1, ess=100)
        with pytest.raises(ValueError, match=f"pass it to {name} itself"):
            kind([{"params": [nn.Parameter(torch.ones(3))], "sync": True}], lr=0.1, ess=100)
        with pytest.raises(ValueError, match=f"{name} has no eps="):
            kind([{"params": [nn.Parameter(torch.ones(3))], "eps": 1e-8}], lr=0.1, ess=100)
