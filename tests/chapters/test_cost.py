"""Costs: bytes and passes of a step, work of the exact label noise; guards the appendix."""

import gc
import re
from pathlib import Path

import pytest
import sympy
import torch
from cases import posterior_of
from ivon_problems import needs_compiler, take_steps
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import vlls.optim.ivon as ivon_module
from vlls import IVON, SAM
from vlls.noise import logit_covariance

DOUBLE = torch.float64
KERNEL = Path(ivon_module.__file__).with_name("_ivon.c")

HOW = {"ess": 300.0, "hess_init": 0.7, "beta2": 0.999, "weight_decay": 0.01}


# ---------------------------------------------------------------------- bytes of a step
class Memory(dict):
    """Arrays that count how many of them are read and written."""

    moved = 0

    def read(self, *names):
        self.moved += len(names)
        return [self[name] for name in names]

    def write(self, **arrays):
        self.moved += len(arrays)
        self.update(arrays)


def sgd(memory, t, e):
    p, g, v = memory.read("theta", "g", "v")
    v = 0.9 * v + g
    memory.write(theta=p - 0.1 * v, v=v)


def adamw(memory, t, e):
    p, g, v, s = memory.read("theta", "g", "v", "s")
    v, s = 0.9 * v + 0.1 * g, 0.999 * s + 0.001 * g.square()
    step = (v / (1 - 0.9**t)) / ((s / (1 - 0.999**t)).sqrt() + 1e-8)
    memory.write(theta=p * (1 - 0.1 * 0.01) - 0.1 * step, v=v, s=s)


def draw(memory, t, e):
    mean, h = memory.read("theta", "h")
    memory.write(m=mean, theta=mean + e / (HOW["ess"] * (h + HOW["weight_decay"])).sqrt())


def exchange(memory):
    theta, m = memory.read("theta", "m")
    memory.write(theta=m, m=theta)


def update(memory, t, e, resample=False, at_mean=False):
    ess, delta = HOW["ess"], HOW["weight_decay"]
    theta, mean, g, v, h = memory.read(*(("m", "theta") if at_mean else ("theta", "m")), "g", "v", "h")
    h_hat = ess * (h + delta) * (theta - mean) * g
    new = 0.999 * h + 0.001 * h_hat + 0.5e-6 * (h - h_hat).square() / (h + delta)
    v = 0.9 * v + 0.1 * g
    mean = mean - 0.1 * (HOW["hess_init"] + delta) * (v / (1 - 0.9**t) + delta * mean) / (new + delta)
    if resample:
        memory.write(v=v, h=new, m=mean, theta=mean + e / (ess * (new + delta)).sqrt())
    else:
        memory.write(v=v, h=new, theta=mean)


def problem(n=200):
    generator = torch.Generator().manual_seed(3)
    centre = torch.randn(n, generator=generator, dtype=DOUBLE)
    return centre, lambda p: (centre * p + 0.1 * p**3).sin().sum()


def plain(how, steps=15):
    """Return the arrays after the steps, and how many are read and written in a step."""
    centre, loss = problem()
    generator = torch.Generator().manual_seed(5)
    memory = Memory({name: torch.zeros_like(centre) for name in "vs"})
    memory |= {"theta": centre.flip(0).clone(), "h": torch.full_like(centre, HOW["hess_init"])}

    def noise():
        return torch.randn(len(centre), generator=generator, dtype=DOUBLE)

    def gradient():
        p = memory["theta"].clone().requires_grad_()
        memory["g"] = torch.autograd.grad(loss(p), p)[0]

    if how == "keep_sampled":
        draw(memory, 0, noise())
        memory.moved = 0
    for t in range(1, steps + 1):
        if how in ("closure", "sampled_params"):
            draw(memory, t, noise())
        gradient()
        if how == "sampled_params":
            exchange(memory)
        if how in ("sgd", "adamw"):
            (sgd if how == "sgd" else adamw)(memory, t, None)
        else:
            kept = how == "keep_sampled"
            update(memory, t, noise() if kept else None, resample=kept, at_mean=how == "sampled_params")
    return memory, memory.moved / steps


def packages(how, steps=15):
    """Return the mean after the same steps by torch's optimizer or ours."""
    centre, loss = problem()
    p = nn.Parameter(centre.flip(0).clone())
    if how == "sgd":
        optimizer = torch.optim.SGD([p], 0.1, momentum=0.9)
    elif how == "adamw":
        optimizer = torch.optim.AdamW([p], 0.1, weight_decay=0.01)
    else:
        optimizer = IVON([p], 0.1, **HOW, generator=torch.Generator().manual_seed(5))

    def closure():
        optimizer.zero_grad()
        with torch.enable_grad():
            loss(p).backward()

    take_steps(optimizer, closure, {"sampled_params": "context", "keep_sampled": "kept"}.get(how, "closure"), steps)
    return p.detach()


BYTES = {"sgd": 20, "adamw": 28, "keep_sampled": 36, "closure": 48, "sampled_params": 64}


@pytest.mark.guards("prop-bytes-per-step")
@pytest.mark.parametrize("how", BYTES)
def test_plain_steps_move_so_many_arrays_and_give_the_packages_numbers(how):
    memory, moved = plain(how)
    assert 4 * moved == BYTES[how]
    result = memory["m"] if how == "keep_sampled" else memory["theta"]
    assert float((result - packages(how)).abs().max()) < 1e-10
    assert float((result - problem()[0].flip(0)).abs().max()) > 1e-2  # something happened


@pytest.mark.guards("prop-bytes-per-step")
def test_every_array_that_is_read_or_written_is_needed():
    """With fewer arrays the results could not be right: each input changes a result, and each result differs."""
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.rand(50, generator=generator, dtype=DOUBLE) + 0.5 for name in ("theta", "m", "g", "v", "h")}
    e = torch.randn(50, generator=generator, dtype=DOUBLE)
    before = Memory(values)
    update(before, 3, e, resample=True)
    assert before.moved == 9
    assert all(bool((before[name] != values[name]).all()) for name in ("theta", "m", "v", "h"))
    for name in values:
        changed = Memory({**values, name: values[name] * 1.1})
        update(changed, 3, e, resample=True)
        moved = [key for key in ("m", "v", "h", "theta") if bool((changed[key] != before[key]).all())]
        assert moved, name


def arrays_of(text):
    """Return the names that a piece of the kernel reads and writes by element."""
    writes = set(re.findall(r"(\w+)\[i\]\s*=[^=]", text))
    reads = set(re.findall(r"(\w+)\[i\](?!\s*=[^=])", text))
    return reads - {"e"}, writes  # e is a tile that stays in the cache


@pytest.mark.guards("prop-bytes-per-step")
def test_the_kernel_reads_and_writes_no_other_arrays():
    source = KERNEL.read_text()
    inner = source.split("static inline __attribute__((always_inline)) void update_run")[1].split("static void")[0]
    inner = inner.split("for (int64_t i")[1]
    inner = inner.replace("averaged ? statistic[i] : ", "")  # of several samples
    reads, writes = arrays_of(inner)
    assert reads == {"grad", "hess", "other", "param", "momentum"}
    assert writes == {"momentum", "hess", "param", "other"}
    alone = inner.replace("if (resample) other[i] = mean;", "")
    assert alone != inner and arrays_of(alone)[1] == {"momentum", "hess", "param"}
    sample = source.split("static void sample_run")[1].split("static inline")[0]
    assert "*mean = slot->other" in sample
    reads, writes = arrays_of(sample.replace("mean[i]", "other[i]"))
    assert (reads, writes) == ({"param", "hess"}, {"other", "param"})
    reads, writes = arrays_of(source.split("if (mode == 1)")[1].split("continue;")[0])
    assert (reads, writes) == ({"param", "other"}, {"param", "other"})


@pytest.mark.guards("prop-bytes-per-step")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: torch.optim.SGD([p], 0.1, momentum=0.9), 4),
        (lambda p: torch.optim.AdamW([p]), 8),
        (lambda p: IVON([p], 0.1, 100.0, fused=False), 16),
        pytest.param(lambda p: IVON([p], 0.1, 100.0), 12, marks=needs_compiler),
    ],
    ids=["SGD", "AdamW", "IVON without a kernel", "IVON"],
)
def test_state_in_bytes_a_parameter(make, expected):
    p = nn.Parameter(torch.zeros(54_321))

    def closure():
        p.grad = None
        with torch.enable_grad():
            p.square().sum().backward()

    optimizer = make(p)
    for _ in range(2):
        optimizer.step(closure)
    gc.collect()
    alive = {t.data_ptr() for t in gc.get_objects() if type(t) is torch.Tensor and t.numel() == p.numel()}
    assert 4 * len(alive - {p.data_ptr(), p.grad.data_ptr()}) == expected


# ---------------------------------------------------------------------- passes of a step
@pytest.mark.guards("prop-step-cost")
@pytest.mark.parametrize(
    ("method", "expected"),
    [("SGD", 1), ("AdamW", 1), ("closure", 1), ("context", 1), ("kept", 1), ("three samples", 3), ("SAM", 2)],
)
def test_passes_of_a_training_step(method, expected):
    model, counts = nn.Linear(4, 3), {"forward": 0, "backward": 0}
    x, y = torch.randn(6, 4), torch.randint(3, (6,))

    def note(module, inputs, output):
        counts["forward"] += 1
        output.register_hook(lambda _: counts.update(backward=counts["backward"] + 1))

    model.register_forward_hook(note)
    params = list(model.parameters())

    def closure():
        for p in params:
            p.grad = None
        with torch.enable_grad():
            loss = cross_entropy(model(x), y)
            loss.backward()
        return loss

    if method in ("SGD", "AdamW"):
        getattr(torch.optim, method)(params, lr=0.1).step(closure)
    elif method == "SAM":
        optimizer = SAM(params, torch.optim.SGD, lr=0.1)
        closure()
        optimizer.first_step()
        closure()
        optimizer.second_step()
    else:
        optimizer = IVON(params, 0.1, 50.0, mc_samples=3 if method == "three samples" else 1)
        if method == "context":
            with optimizer.sampled_params(train=True):
                closure()
            optimizer.step()
        elif method == "kept":
            with optimizer.keep_sampled():
                closure()
                optimizer.step()
        else:
            optimizer.step(closure)
    assert counts == {"forward": expected, "backward": expected}


@pytest.mark.guards("prop-step-cost")
@pytest.mark.parametrize("arrays", [9, 12, 16])
def test_the_ratio_falls_from_that_of_the_arrays_to_that_of_the_passes(arrays):
    t, u, s = sympy.symbols("T u S", positive=True)
    ratio = (t + arrays * u) / (t + 7 * u)
    assert sympy.simplify(sympy.diff(ratio, t) - (7 - arrays) * u / (t + 7 * u) ** 2) == 0
    assert sympy.limit(ratio, t, 0) == sympy.Rational(arrays, 7)
    assert sympy.limit(ratio, t, sympy.oo) == 1
    assert sympy.limit((s * t + arrays * u) / (t + 7 * u), t, sympy.oo) == s


@pytest.mark.guards("prop-step-cost")
def test_sam_moves_at_least_ten_arrays():
    """SAM with as few arrays as it can: they give the package's numbers, so no other array is needed."""
    centre, loss = problem(30)
    p = nn.Parameter(centre.flip(0).clone())
    optimizer = SAM([p], torch.optim.SGD, lr=0.1, momentum=0.9, rho=0.05)
    memory = Memory(theta=p.detach().clone(), v=torch.zeros_like(centre))

    def gradient():
        at = memory["theta"].clone().requires_grad_()
        memory["g"] = torch.autograd.grad(loss(at), at)[0]

    def ours():
        gradient()
        norm = memory.read("g")[0].norm()
        theta, g = memory.read("theta", "g")
        memory.write(aside=theta, theta=theta + 0.05 * g / norm)
        gradient()
        aside, g, v = memory.read("aside", "g", "v")
        v = 0.9 * v + g
        memory.write(theta=aside - 0.1 * v, v=v)

    for _ in range(5):
        ours()
        for step in (optimizer.first_step, optimizer.second_step):
            optimizer.zero_grad()
            loss(p).backward()
            step()
    assert memory.moved == 5 * 10
    assert float((p.detach() - memory["theta"]).abs().max()) < 1e-12


# ---------------------------------------------------------------------- work of the exact label noise
def counted(function):
    with FlopCounterMode(display=False) as counter:
        result = function()
    return counter.get_total_flops() // 2, result


def convolutions(classes):
    """Return a network without biases and linear layers; with few weights a channel, the package sums by weight."""
    layers = [nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, classes, 3, bias=False), nn.AvgPool2d(8), nn.Flatten()).eval()


@pytest.mark.guards("prop-noise-cost")
@pytest.mark.parametrize("classes", [2, 5])
def test_multiplications_of_the_exact_covariance(classes):
    model, batch = convolutions(classes), 16
    x = torch.randn(batch, 1, 14, 14)
    shapes = [(6, 9, 144), (8, 54, 100), (classes, 72, 64)]  # O, J, T
    forward, logits = counted(lambda: model(x))
    backward, _ = counted(lambda: logits.sum().backward())
    f = sum(o * j * t for o, j, t in shapes)
    w, p = 2 * f - 6 * 9 * 144, sum(parameter.numel() for parameter in model.parameters())
    assert p == sum(o * j for o, j, _ in shapes)
    assert (forward, backward) == (batch * f, batch * w)
    work, v = counted(lambda: logit_covariance(model, posterior_of(model), x))
    twice, _ = counted(lambda: logit_covariance(model, posterior_of(model), torch.cat([x, x])))
    assert twice - work == batch * (f + classes * w + classes**2 * p)  # looks at the first few examples cancel
    rows = [torch.autograd.grad(model(x[:1])[0, k], model.parameters()) for k in range(classes)]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    torch.testing.assert_close(v[0], 0.01 * jacobian @ jacobian.T, rtol=1e-4, atol=1e-6)


@pytest.mark.guards("prop-noise-cost")
def test_the_exact_covariance_holds_no_jacobians():
    """The largest tensor that is ever made neither grows with the batch nor holds an example's Jacobian."""
    torch.manual_seed(0)
    layers = [nn.Linear(300, 400, bias=False), nn.Tanh(), nn.Linear(400, 8, bias=False)]
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.Flatten(), *layers).eval()
    q, k = posterior_of(model), 8
    total = sum(p.numel() for p in model.parameters())
    largest = []
    for batch in (16, 256):
        watch = Largest()
        with watch:
            logit_covariance(model, q, torch.randn(batch, 1, 10, 10), memory_limit=4)
        largest.append(watch.numel)
        assert watch.numel < 2**20  # of 4 bytes: the limit
    assert largest[1] < k * total < 256 * k * total / 100


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result
