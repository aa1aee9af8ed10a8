"""A model's buffers stay as the passes at the mean left them: statistics, vectors, custom counters."""

import threading
import time

import pytest
import torch
from torch import nn

from vlls import IVON, SAM, predict
from vlls.optim._running import nothing_listens


class Counter(nn.Module):
    """Count passes in place; keep the last mean in a buffer that each pass replaces, and a table that grows."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("table", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.passes += 1
        self.seen = x.detach().mean()
        if len(self.table) < 2:
            self.table = torch.zeros(2)
        return x


class Standardized(nn.Module):
    """Batch normalisation by hand, with batch statistics in evaluation mode too."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def forward(self, x):
        return nn.functional.batch_norm(x, self.centre, self.spread, training=True)


def spectral(layer):
    return nn.utils.spectral_norm(layer)


PARTS = {
    "BatchNorm": lambda: nn.BatchNorm1d(6),
    "BatchNorm without parameters": lambda: nn.BatchNorm1d(6, affine=False),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(6),
    "InstanceNorm": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten()
    ),
    "spectral_norm": lambda: spectral(nn.Linear(6, 6)),
    "parametrized spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6)),
    "Counter": Counter,
    "Standardized": lambda: Standardized(6),
}
parts = pytest.mark.parametrize("part", PARTS)


def model_with(part):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), PARTS[part](), nn.Linear(6, 3))
    if part == "SyncBatchNorm":  # between processes its training mode needs a GPU
        model.eval()
    return model


def buffers(model):
    return {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers() if "table" not in name}


def assert_unchanged(model, before):
    after = dict(model.named_buffers())
    for name, (buffer, value) in before.items():
        assert after[name] is buffer and torch.equal(buffer, value), name


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


@parts
def test_a_sample_that_does_not_train(part):
    model = model_with(part)
    optimizer = IVON(model.parameters(), lr=0.1, ess=10.0)
    before = buffers(model)
    with optimizer.sampled_params(train=False):
        model(X)
    assert_unchanged(model, before)
    predict(model, optimizer, X, 2)
    assert_unchanged(model, before)


@parts
@pytest.mark.parametrize("how", ["closure", "by hand"])
def test_second_pass_of_sam(part, how):
    """Afterwards the buffers are those of the first pass, at the weights before the step."""
    model, alone = model_with(part), model_with(part)
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.0, rho=0.5)

    def closure():
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward()
        return loss

    if how == "closure":
        optimizer.step(closure)
    else:
        closure()
        optimizer.first_step(zero_grad=True)
        closure()
        optimizer.second_step()
    alone(X)
    for name, buffer in alone.named_buffers():
        assert torch.equal(dict(model.named_buffers())[name], buffer), name


def test_a_table_that_grew_stays():
    model = model_with("Counter")
    optimizer = IVON(model.parameters(), lr=0.1, ess=10.0)
    with optimizer.sampled_params(train=False):
        model(X)
    assert len(model[1].table) == 2


def test_parts_called_by_themselves():
    model = model_with("BatchNorm without parameters")
    optimizer = IVON(model.parameters(), lr=0.1, ess=10.0)
    before = buffers(model)
    with optimizer.sampled_params(train=False):
        model[2](model[1](model[0](X)))
    assert_unchanged(model, before)


def test_another_model_in_the_block_goes_on():
    model, other = model_with("BatchNorm"), model_with("BatchNorm")
    optimizer = IVON(model.parameters(), lr=0.1, ess=10.0)
    mine, theirs = buffers(model), buffers(other)
    with optimizer.sampled_params(train=False):
        other(model(X) @ torch.ones(3, 4))
    assert_unchanged(model, mine)
    assert not torch.equal(other[1].running_mean, theirs["1.running_mean"][1])


def test_another_threads_statistics_go_on():
    """Another model's statistics, with parameters or without, while this thread holds a sample."""
    model, others = model_with("BatchNorm"), [model_with("BatchNorm"), nn.BatchNorm1d(4, affine=False)]
    optimizer = IVON(model.parameters(), lr=0.1, ess=10.0)
    with optimizer.sampled_params(train=False):
        model(X)
        thread = threading.Thread(target=lambda: [other(X) for other in others for _ in range(3)])
        thread.start()
        thread.join()
    assert int(others[0][1].num_batches_tracked) == 3
    assert int(others[1].num_batches_tracked) == 3
    assert int(model[1].num_batches_tracked) == 0


def test_samples_of_other_threads_and_compilations_wait_for_each_other():
    """Otherwise torch would compile a hook that exists only while another thread samples."""
    optimizers = [IVON(nn.Linear(2, 2).parameters(), lr=0.1, ess=10) for _ in range(2)]
    sampled, compiling, go_on, done = (threading.Event() for _ in range(4))
    order = []

    def compile_network():
        with nothing_listens():
            order.append("compiled")
            compiling.set()
            done.wait(30)
            order.append("compiled to the end")

    def sample(k):
        with optimizers[k].sampled_params():
            order.append(f"sample {k}")
            sampled.set()
            go_on.wait(30)

    first = threading.Thread(target=sample, args=(0,))
    first.start()
    assert sampled.wait(30)
    compilation = threading.Thread(target=compile_network)
    compilation.start()
    assert not compiling.wait(0.2) and order == ["sample 0"]
    go_on.set()
    assert compiling.wait(30)
    second = threading.Thread(target=sample, args=(1,))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    done.set()
    for thread in (first, compilation, second):
        thread.join(30)
    assert order == ["sample 0", "compiled", "compiled to the end", "sample 1"]


def test_a_first_step_without_a_second_holds_no_compilation_up_for_good():
    layer = nn.Linear(2, 2)
    optimizer = SAM(layer.parameters(), torch.optim.SGD, lr=0.1)
    layer(torch.ones(3, 2)).sum().backward()
    optimizer.first_step()
    began = time.monotonic()
    with nothing_listens(seconds=0.01):
        pass
    optimizer.second_step()
    with nothing_listens():
        pass
    assert time.monotonic() - began < 30  # a wait that nobody ends takes 60 seconds
