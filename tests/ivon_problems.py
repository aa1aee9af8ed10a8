"""Small networks, data and steps for IVON's tests."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from vlls import IVON
from vlls._native import Kernel, compiler

EXECUTORS = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
FUSED = {"fused": True} if compiler() else {}
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler")
executors = pytest.mark.parametrize(
    "executor", ["single", "foreach", pytest.param("fused", marks=needs_compiler)], ids=str
)


def unbuilt(kernel):
    """Return the kernel as it is before its first call."""
    return Kernel(kernel.source, kernel.name, *kernel.argtypes)


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


def backward(model, optimizer, data):
    """Do the work of a closure: clear the gradients, compute new ones, return the loss."""
    optimizer.zero_grad()
    loss = loss_of(model, data)
    loss.backward()
    return loss


def train_step(model, optimizer, data, samples=1):
    for _ in range(samples):
        with optimizer.sampled_params(train=True):
            loss = backward(model, optimizer, data)
    optimizer.step()
    return loss.detach()


def take_steps(optimizer, closure, how, steps, samples=1, after=lambda: None):
    """Take steps by a closure, in a sample's context, or with kept samples; call ``after()`` after each."""
    with optimizer.keep_sampled() if how == "kept" else nullcontext():
        for _ in range(steps):
            if how == "closure":
                optimizer.step(closure)
            else:
                for _ in range(samples):
                    with optimizer.sampled_params(train=True) if how == "context" else nullcontext():
                        closure()
                optimizer.step()
            after()


def assert_lockstep(model, data, optimizer, reference, how, steps, samples=1):
    """Check that the optimizer's numbers equal the reference's, at the samples that the optimizer drew."""
    exact = next(model.parameters()).dtype == torch.float64
    seen = []

    def closure():
        loss = backward(model, optimizer, data)
        grad = torch.cat([p.grad.flatten().double() for p in model.parameters()])
        seen.append((weights(model).numpy(), grad.cpu().numpy()))
        return loss

    def check():
        found = (weights(model), state_of(model, optimizer, "momentum"), state_of(model, optimizer, "hess"))
        assert reference.error(*found) < (1e-11 if exact else 3e-5)

    def follow():
        reference.step(list(seen))
        seen.clear()
        if how != "kept":  # with kept samples the parameters are the next sample
            check()

    take_steps(optimizer, closure, how, steps, samples, follow)
    check()


def weights(model):
    return torch.cat([p.detach().flatten().double() for p in model.parameters()]).cpu()


def state_of(model, optimizer, name):
    return torch.cat([optimizer.state[p][name].flatten().double() for p in model.parameters()]).cpu()


# ---------------------------------------------------------------------- several processes
def ivon(model, **options):
    return IVON(model.parameters(), lr=0.1, ess=40.0, beta2=0.9, hess_init=0.3, **options)


def seed(step, rank):
    """Return the seed of a process's sample, so that a single process can draw the same."""
    return 100 + 10 * step + rank


def results(model, optimizer):
    """Return means and lasting state by the parameters' names."""
    named = {f"{name}.mean": p.detach().clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        named |= {f"{name}.{key}": value.clone() for key, value in optimizer.state[p].items()}
    return named


def assert_alike(both, expected):
    """Check that two processes have the same results, equal to those of a single process."""
    first, second = both
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, value in expected.items():
        assert (first[name] - value).abs().max() < 1e-6 * (1 + float(value.abs().max())), name
