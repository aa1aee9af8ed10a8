"""IVON over two processes, gloo on the CPU: each with its own sample, all with the same weights."""

import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
from ivon_problems import FUSED, assert_alike, backward, ivon, results, seed, train_step
from processes import in_two_processes, needs_gloo
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

STEPS = 5


def problem(unused=True):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.Tanh(), torch.nn.Linear(10, 3))
    if unused:
        model.unused = torch.nn.Parameter(torch.ones(4))
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    return model, x, y


def train(model, forward, optimizer, x, y, how):
    """Train in one of the processes, with its own seed at each step."""
    rank = dist.get_rank()
    for step in range(STEPS):
        optimizer.generator.manual_seed(seed(step, rank))

        if how == "closure":
            optimizer.step(lambda: backward(forward, optimizer, (x[rank::2], y[rank::2])))
        elif how == "micro":
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                for part in (slice(0, 10), slice(10, 20)):
                    (F.cross_entropy(forward(x[rank::2][part]), y[rank::2][part]) / 2).backward()
            optimizer.step()
        else:
            train_step(forward, optimizer, (x[rank::2], y[rank::2]))


def reference(clip=None, unused=True, **options):
    """Train in a single process with two samples a step, one for each half of the batch."""
    model, x, y = problem(unused)
    optimizer = ivon(model, generator=torch.Generator(), mc_samples=2, **options)
    for step in range(STEPS):
        for rank in range(2):
            optimizer.generator.manual_seed(seed(step, rank))
            with optimizer.sampled_params(train=True):
                backward(model, optimizer, (x[rank::2], y[rank::2]))
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return results(model, optimizer)


def wrapped(how, ddp, options):
    model, x, y = problem()
    forward = model
    if ddp:
        forward = torch.nn.parallel.DistributedDataParallel(
            model, find_unused_parameters=True, gradient_as_bucket_view=ddp == "views"
        )
    optimizer = ivon(model, sync=True, generator=torch.Generator(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # no warning of equal samples
        train(model, forward, optimizer, x, y, how)
    return results(model, optimizer)


def thrown_away(model, optimizer, loss):
    (5 * loss()).backward()
    optimizer.zero_grad()
    loss().backward()


def thrown_away_by_the_model(model, optimizer, loss):
    (5 * loss()).backward()
    model.zero_grad()
    loss().backward()


def filled_with_zeros(model, optimizer, loss):
    (5 * loss()).backward()
    optimizer.zero_grad(set_to_none=False)
    loss().backward()


def only_looked_at(model, optimizer, loss):
    torch.autograd.grad(loss(), [p for p in model.parameters() if p is not model.unused])
    loss().backward()
    torch.autograd.grad(loss(), [p for p in model.parameters() if p is not model.unused])


def clipped(model, optimizer, loss):
    loss().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)


def unscaled(model, optimizer, loss):
    (1024 * loss()).backward()
    for p in model.parameters():
        if p.grad is not None:
            p.grad /= 1024


def halved_between(model, optimizer, loss):
    """Two micro-batches: the first one's gradient, of twice the loss, is quartered before the second."""
    (2 * loss()).backward()
    for p in model.parameters():
        if p.grad is not None:
            p.grad.mul_(0.25)
    (loss() / 2).backward()


def accumulated(model, optimizer, loss):
    for _ in range(4):
        (loss() / 4).backward()


CLIP = 0.05
EDITS = [  # edits in the block; each leaves the plain loss's gradient, or the clipped one
    thrown_away,
    thrown_away_by_the_model,
    filled_with_zeros,
    only_looked_at,
    clipped,
    unscaled,
    halved_between,
    accumulated,
]


def edited(edit, views):
    model, x, y = problem()
    forward = torch.nn.parallel.DistributedDataParallel(
        model, find_unused_parameters=True, gradient_as_bucket_view=views
    )
    optimizer = ivon(model, sync=True, generator=torch.Generator())
    rank = dist.get_rank()
    for step in range(STEPS):
        optimizer.generator.manual_seed(seed(step, rank))
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            edit(model, optimizer, lambda: F.cross_entropy(forward(x[rank::2]), y[rank::2]))
        optimizer.step()
    return results(model, optimizer)


class Checkpointed(torch.nn.Module):
    """A network whose layers have their own backward passes, inside the whole network's pass."""

    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList([layers[:2], layers[2:]])

    def forward(self, x):
        for layer in self.layers:
            x = checkpoint(layer, x.requires_grad_(), use_reentrant=True)
        return x


def reentrant(views):
    """Train with small buckets: some are averaged before the last inner pass begins."""
    model, x, y = problem(unused=False)
    options = {"gradient_as_bucket_view": views, "bucket_cap_mb": 1e-5}
    forward = torch.nn.parallel.DistributedDataParallel(Checkpointed(model), **options)
    optimizer = ivon(model, sync=True, generator=torch.Generator())
    for step in range(STEPS):
        optimizer.generator.manual_seed(seed(step, dist.get_rank()))
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            F.cross_entropy(forward(x[dist.get_rank() :: 2]), y[dist.get_rank() :: 2]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return results(model, optimizer)


def scaled(options):
    """Train with a GradScaler and an infinity in one process only: all processes skip that step."""
    model, x, y = problem()
    optimizer = ivon(model, sync=True, generator=torch.Generator().manual_seed(dist.get_rank()), **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step in range(3):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
        if step == 1 and dist.get_rank() == 1:
            model[0].weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update(16.0)
    return results(model, optimizer)


def same_seed():
    model, x, y = problem()
    optimizer = ivon(model, sync=True, generator=torch.Generator())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.generator.manual_seed(5)
            optimizer.step(lambda: F.cross_entropy(model(x), y).backward())
    try:
        with optimizer.keep_sampled():
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    except RuntimeError as error:
        return {"warnings": [str(w.message) for w in caught], "kept": str(error)}
    return {"warnings": [str(w.message) for w in caught], "kept": ""}


CASES = [
    ("context", "ddp", {}),
    ("context", "views", {"hess_approx": "gradsq"}),
    ("micro", "ddp", {}),
    ("closure", "ddp", FUSED),
    ("context", None, {"hess_approx": "gradsq", "foreach": True}),
    ("closure", None, {}),
]


def all_jobs(rank):
    jobs = [partial(wrapped, *case) for case in CASES] + [partial(scaled, {}), same_seed]
    jobs += [partial(edited, edit, views) for edit in EDITS for views in (False, True)]
    jobs += [partial(reentrant, views) for views in (False, True)]
    return [job() for job in jobs]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return both processes' results of every case, from one start."""
    return list(zip(*in_two_processes(tmp_path_factory.mktemp("ranks"), all_jobs), strict=True))


pytestmark = [needs_gloo, pytest.mark.slow]


@pytest.mark.parametrize("case", range(len(CASES)), ids=[str(c) for c in CASES])
def test_two_processes_stay_identical_and_equal_one_with_two_samples(ran, case):
    expected = reference(**CASES[case][2])
    assert_alike(ran[case], expected)
    assert (expected["0.weight.hess"] - 0.3).abs().max() > 0.05  # the curvature has moved, so a halved one would fail


def test_an_infinity_on_one_process_skips_the_step_on_all(ran):
    first, second = ran[len(CASES)]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["0.weight.step"] == 2


def test_equal_samples_are_warned_of_once_and_keep_sampled_is_refused(ran):
    for rank in ran[len(CASES) + 1]:
        assert len(rank["warnings"]) == 1 and "torch.manual_seed(seed +" in rank["warnings"][0]
        assert "cannot separate" in rank["kept"]


@pytest.mark.parametrize("views", [False, True], ids=["", "views"])
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_the_curvature_follows_what_is_done_to_the_gradient(ran, edit, views):
    """Edits in the block, in two processes: as in one process with two samples and the edited gradient."""
    both = ran[len(CASES) + 2 + 2 * EDITS.index(edit) + views]
    assert_alike(both, reference(clip=CLIP if edit is clipped else None))


@pytest.mark.parametrize("views", [False, True], ids=["", "views"])
def test_the_curvature_of_layers_behind_reentrant_checkpoints(ran, views):
    assert_alike(ran[len(CASES) + 2 + 2 * len(EDITS) + views], reference(clip=CLIP, unused=False))
