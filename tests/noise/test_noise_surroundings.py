"""Label noise in half precision, under autocast, beside other threads, with optimizers, and labels of any dtype."""

import functools
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from cases import D, posterior_of, seeded
from cases import mlp as network
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlls import IVON, DiagonalPosterior, label_noise, label_noise_moments, rank_examples
from vlls.noise import logit_covariance, sam_label_noise
from vlls.noise._call import differentiable
from vlls.noise._options import METHODS

HALVES = (torch.float16, torch.bfloat16)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def mlp(outputs=3):
    torch.manual_seed(0)
    return network(5, outputs, 8)


# ---------------------------------------------------------------------- half precision
class Partly(nn.Module):
    """A body in half precision and a head in float32, with casts between them."""

    def __init__(self, dtype):
        super().__init__()
        self.body, self.head = nn.Linear(5, 8).to(dtype), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x.to(self.body.weight.dtype))).float())


class Insisting(nn.Module):
    """Casts its inputs to half precision, so that float32 weights raise an error."""

    def __init__(self, dtype):
        super().__init__()
        self.layers, self.dtype = mlp().to(dtype), dtype

    def forward(self, x):
        return self.layers(x.to(self.dtype))


KINDS = {
    "half": lambda dtype: mlp().to(dtype),
    "partly half": Partly,
    "normalised": lambda dtype: normalised().to(dtype),
}


def normalised():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.normal_(model[1].running_mean)
    return model.eval()


def fine(model, x):
    """Return the same network and inputs in float64."""
    twin = mlp() if isinstance(model, nn.Sequential) and len(model) == 3 else None
    if isinstance(model, Partly):
        twin = Partly(D)
        twin.forward = lambda x: twin.head(torch.tanh(twin.body(x)))
    elif twin is None:
        twin = normalised()
    twin = twin.to(D)
    twin.load_state_dict(model.state_dict())
    return twin.eval(), x.to(D)


@pytest.mark.filterwarnings("ignore:std of:UserWarning")
@pytest.mark.parametrize("std", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_noise_in_half_precision_is_that_in_double_precision(kind, dtype, std):
    torch.manual_seed(1)
    model = KINDS[kind](dtype)
    x = torch.randn(6, 5).to(dtype)
    for given in (torch.float32, dtype):  # the posterior's dtype
        q = posterior_of(model, std, dtype=given)
        twin, wide = fine(model, x)
        right = DiagonalPosterior(
            {n: m.to(D) for n, m in q.mean.items()},
            {n: s.to(D) for n, s in q.std.items()},
        )
        exact = logit_covariance(twin, right, wide)
        assert float((logit_covariance(model, q, x) - exact).abs().max() / exact.abs().max()) < 1e-3
        for method in METHODS:
            options = {"method": method, "num_samples": 6, "curvature_pairs": 3, "rank": 2}
            found = label_noise_moments(model, q, x, generator=seeded(5), **options)
            same = label_noise_moments(twin.float(), right, wide.float(), generator=seeded(5), **options)
            twin.to(D)
            assert float((found.magnitude - same.magnitude).abs().max() / same.magnitude.max()) < 1e-3, method
            gap = (found.mean_shift - same.mean_shift).abs().max() / same.magnitude.max()
            assert float(gap) < 1e-3, method
            assert found.logits.dtype == (torch.float32 if kind == "partly half" else dtype)
        noise, other = (sam_label_noise(m, i, LABELS) for m, i in ((model, x), (twin, wide)))
        assert noise.dtype == torch.float32
        assert float((noise - other).abs().max() / other.abs().max()) < 1e-3


def test_a_std_of_1e_4_in_float16_has_its_variance():
    layer = nn.Linear(5, 1, bias=False).half()
    x = torch.ones(1, 5).half()
    with pytest.warns(UserWarning, match="std of 'weight'"):
        variance = logit_covariance(layer, posterior_of(layer, 1e-4, dtype=torch.float16), x)
    assert float(variance) == pytest.approx(5e-8, rel=1e-3)  # 1e-4 is 1.0001e-4 in float16


@pytest.mark.filterwarnings("ignore:std of:UserWarning")
@pytest.mark.parametrize("dtype", HALVES)
def test_draws_in_half_precision_agree_with_the_covariance(dtype):
    model, x = mlp().to(dtype), torch.randn(1, 5).to(dtype)
    for std in (1e-4, 1e-3, 1e-2):
        q = posterior_of(model, std, dtype=torch.float32)
        drawn = label_noise_moments(model, q, x, method="monte_carlo", num_samples=1000, generator=seeded(4))
        exact = label_noise_moments(model, q, x)
        assert float((exact.magnitude - drawn.magnitude).abs() / drawn.magnitude_error) < 3


@pytest.mark.parametrize("dtype", HALVES)
def test_a_std_that_the_weights_do_not_resolve_is_named_once(dtype):
    model, x = mlp().to(dtype), torch.randn(6, 5).to(dtype)
    for method in METHODS:
        with pytest.warns(
            UserWarning, match=rf"std of '0.weight' is 1.0e-05 and its {dtype} weights are .* apart"
        ) as w:
            rank_examples(model, posterior_of(model, 1e-5, dtype=torch.float32), x, LABELS, method=method, batch_size=2)
        assert sum("std of" in str(one.message) for one in w) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label_noise(model, posterior_of(model, 3e-2, dtype=torch.float32), x)
        label_noise(mlp(), posterior_of(mlp(), 1e-5), x.float())


@pytest.mark.parametrize("dtype", HALVES)
def test_a_model_that_insists_on_its_dtype_is_computed_in_it(dtype):
    torch.manual_seed(2)
    model, x = Insisting(dtype), torch.randn(6, 5)
    q = posterior_of(model, 0.03, dtype=torch.float32)
    twin, wide = fine(model.layers, x.to(dtype))
    right = DiagonalPosterior(*({n.removeprefix("layers."): t.to(D) for n, t in of.items()} for of in (q.mean, q.std)))
    exact = logit_covariance(twin, right, wide)
    found = logit_covariance(model, q, x)
    assert found.dtype == torch.float32
    assert float((found - exact).abs().max() / exact.abs().max()) < 0.03
    for method in METHODS:
        assert bool(label_noise(model, q, x, method=method, num_samples=4).isfinite().all())
    with pytest.warns(UserWarning, match="draws of the weights lose most of it here"):
        label_noise(model, posterior_of(model, 1e-5, dtype=torch.float32), x, method="monte_carlo")


def test_a_posterior_in_half_precision_is_drawn_from_in_float32():
    q = DiagonalPosterior({"w": torch.ones(20_000).half()}, {"w": torch.full((20_000,), 1e-3).half()})
    draw = q.sample(generator=seeded())["w"]
    noise = torch.randn(20_000, generator=seeded())
    assert draw.dtype == torch.float16
    assert torch.equal(draw, (1 + q.std["w"].float() * noise).half())
    single = DiagonalPosterior({"w": torch.ones(3)}, {"w": torch.full((3,), 0.1)})
    assert torch.equal(single.sample(generator=seeded())["w"], 1 + 0.1 * torch.randn(3, generator=seeded()))


# ---------------------------------------------------------------------- autocast around it
CALLS = {
    **{m: functools.partial(label_noise, method=m, num_samples=4) for m in METHODS},
    "covariance": lambda model, q, x, generator=None: logit_covariance(model, q, x),
    "ranking": lambda model, q, x, generator=None: torch.from_numpy(rank_examples(model, q, x, LABELS).noise.copy()),
    "sam": lambda model, q, x, generator=None: sam_label_noise(model, x, LABELS),
    "linear sam": lambda model, q, x, generator=None: sam_label_noise(model, x, LABELS, linear=True),
}


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_autocast_around_it_uses_no_stale_weights(name, part):
    model, x = mlp(), torch.randn(6, 5)
    q = posterior_of(model, 0.1)
    if part:  # the model's own weights beside the posterior's
        q = DiagonalPosterior(*({n: t for n, t in of.items() if n.startswith("2")} for of in (q.mean, q.std)))
    call = functools.partial(CALLS[name], model, q, x)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        right, logits = call(generator=seeded()), model(x)
        gradient = torch.autograd.grad(logits.float().square().sum(), list(model.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            model(x)  # fills the cache with weights that are detached from their gradients
        assert torch.equal(call(generator=seeded()), right)
        again = model(x)
        assert torch.equal(again, logits)
        found = torch.autograd.grad(again.float().square().sum(), list(model.parameters()))
    assert all(map(torch.equal, found, gradient))


# ---------------------------------------------------------------------- threads
def attention():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    return nn.Sequential(
        nn.Linear(4, 4), nn.utils.weight_norm(nn.Linear(4, 4)), layer, nn.Flatten(), nn.Linear(12, 3)
    ).eval()


def together(jobs, rounds):
    """Run each job in its own thread, all at once for some rounds, and return the answers of each."""
    answers, start = {name: [] for name in jobs}, threading.Barrier(len(jobs))

    def work(name):
        start.wait(60)
        for _ in range(rounds):
            answers[name].append(jobs[name]())

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return answers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_threads_on_one_model_do_not_see_each_other():
    model, x = attention(), torch.randn(3, 3, 4)
    q, other = posterior_of(model, 0.1), posterior_of(model, 0.3)
    jobs = {
        "covariance": lambda: logit_covariance(model, q, x),
        "other posterior": lambda: logit_covariance(model, other, x),
        "ranking": lambda: rank_examples(model, other, x, LABELS[:3], curvature_pairs=1).noise.copy(),
        "draws": lambda: label_noise(model, q, x, method="monte_carlo", num_samples=2, generator=seeded()),
        "sam": lambda: sam_label_noise(model, x, LABELS[:3]),
    }
    alone = {name: job() for name, job in jobs.items()}
    weights = [p for p in model.parameters()]
    before = [p.detach().clone() for p in weights]
    fused, flags = torch.backends.mha.get_fastpath_enabled(), torch._C._get_flash_sdp_enabled()
    filters = list(warnings.filters)
    answers = together(jobs, 8)
    for name, found in answers.items():
        assert len(found) == 8, name
        assert all(np.array_equal(np.asarray(one), np.asarray(alone[name])) for one in found), name
    assert all(a is b for a, b in zip(weights, model.parameters(), strict=True))
    assert all(map(torch.equal, before, model.parameters()))
    assert not any(m._forward_hooks or "forward" in vars(m) for m in model.modules())
    assert (fused, flags) == (torch.backends.mha.get_fastpath_enabled(), torch._C._get_flash_sdp_enabled())
    assert filters == warnings.filters


def test_two_models_run_side_by_side_and_switches_are_turned_back_by_the_last():
    """While one thread is inside, the other begins and ends: the first thread's kernels stay switched."""
    inside, go, seen = threading.Event(), threading.Event(), []

    def first():
        with differentiable():
            inside.set()
            assert go.wait(60)
            seen.append(torch.backends.mha.get_fastpath_enabled())

    thread = threading.Thread(target=first, daemon=True)
    thread.start()
    assert inside.wait(60)
    model, x = mlp(), torch.randn(6, 5)
    logit_covariance(model, posterior_of(model, 0.1), x)  # another model: this does not wait
    go.set()
    thread.join(60)
    assert seen == [False] and torch.backends.mha.get_fastpath_enabled()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), differentiable():
        pass


def test_a_sample_that_the_thread_is_in_stays_as_it_is():
    model, x = mlp(), torch.randn(6, 5)
    optimizer = IVON(model.parameters(), lr=0.1, ess=100)
    q = optimizer.posterior(model)
    right = rank_examples(model, q, x, LABELS).noise
    with optimizer.sampled_params(train=False):
        weights = [p.detach().clone() for p in model.parameters()]
        assert np.array_equal(rank_examples(model, q, x, LABELS).noise, right)
        assert all(map(torch.equal, weights, model.parameters()))


# ---------------------------------------------------------------------- optimizers and labels
@pytest.mark.parametrize("name", [n for n in CALLS if "sam" not in n])
def test_the_optimizer_serves_as_its_posterior(name):
    model, x = mlp(), torch.randn(6, 5)
    optimizer = IVON(model.parameters(), lr=0.1, ess=100)
    right = CALLS[name](model, optimizer.posterior(model), x, generator=seeded())
    assert torch.equal(CALLS[name](model, optimizer, x, generator=seeded()), right)
    assert torch.equal(CALLS[name](torch.compile(model, backend="eager"), optimizer, x, generator=seeded()), right)
    with pytest.raises(
        ValueError, match="posterior is a SGD; pass a DiagonalPosterior, .*, or the IVON optimizer itself"
    ):
        CALLS[name](model, torch.optim.SGD(model.parameters(), lr=0.1), x, generator=seeded())


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "uint32", "uint64", "int32"])
def test_labels_of_a_narrow_dtype_with_many_classes(dtype):
    classes = 128 if dtype == "int8" else 256
    model, x = mlp(classes), torch.randn(4, 5)
    q, whole = posterior_of(model, 0.1), [0, 127, classes - 1, 5]
    options = {"method": "monte_carlo", "num_samples": 2}
    right = rank_examples(model, q, x, whole, generator=seeded(), **options)
    noise = sam_label_noise(model, x, torch.tensor(whole))
    for labels in (
        torch.tensor(whole, dtype=getattr(torch, dtype)),
        np.array(whole, dtype=dtype),
        pd.Series(whole, dtype=dtype, index=[7, 3, 3, 0]),
    ):
        table = rank_examples(model, q, x, labels, generator=seeded(), **options)
        assert table.columns().keys() == right.columns().keys()
        assert all(
            np.array_equal(a, b) for a, b in zip(table.columns().values(), right.columns().values(), strict=True)
        )
        assert torch.equal(sam_label_noise(model, x, labels), noise)


WRONG = {
    "strings": (
        pd.Series(["a", "b", "c"] * 2),
        "^labels are strings; pass whole numbers from 0 to 2, such as pandas.fact",
    ),
    "categories": (pd.Series(["a", "b", "c"] * 2, dtype="category"), r"^labels are categories; .*labels.cat.codes$"),
    "missing": (pd.Series([0, 1, None] * 2), r"^labels are torch.float64 with 2 missing \(NaN\); pass whole numbers"),
    "missing integers": (pd.Series([0, 1, None] * 2, dtype="Int64"), "with 2 missing"),
    "missing objects": ([0, 1, None] * 2, r"^labels\[2\] is missing \(None\); drop its example"),
    "bools": ([True, False] * 3, "^labels are torch.bool; pass whole numbers from 0 to 2$"),
    "a large one": (torch.tensor([0, 1, 2, 0, 1, 255], dtype=torch.uint8), r"^labels\[5\] is 255 and the model has 3"),
    "none": (None, "^labels are None; pass whole numbers from 0 to 2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_are_none_are_one_line(name):
    labels, message = WRONG[name]
    model, x = mlp(), torch.randn(6, 5)
    for call in (
        lambda: rank_examples(model, posterior_of(model, 0.1), x, labels),
        lambda: sam_label_noise(model, x, labels),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
