"""Models and posteriors for the tests of label noise and predictions, and references by dense algebra.

`CASES` is every model under every posterior. A new posterior is a line of `POSTERIORS`, a new model one of `MODELS`.
"""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlls import DiagonalPosterior, GaussianPosterior

D = torch.float64
VECTOR, SEQUENCE, IMAGE = (4, 4), (4, 3, 4), (4, 2, 5, 5)
TOKENS = torch.tensor([[1, 2, 2, 3], [0, 3, 1, 4], [4, 4, 0, 2], [5, 1, 0, 0]])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------- models
class Net(nn.Module):
    """Modules and parameters under their names, and a function of them and the input."""

    def __init__(self, call, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.call = call

    def forward(self, x):
        return self.call(self, x)


def mlp(inputs=4, outputs=3, hidden=6, dtype=torch.float32):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).to(dtype).eval()


def cnn():
    layers = nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 3, 2), nn.GroupNorm(3, 3)
    return nn.Sequential(*layers, nn.Flatten(), nn.LayerNorm(12), nn.SiLU(), nn.Linear(12, 3))


def transformer():
    layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, activation="gelu")
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3))


def cross_attention():
    def call(m, x):
        return m.out(m.attention(x, x[..., :3].sin(), x[..., :2].cos())[0].mean(1))

    attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=2, batch_first=True)
    return Net(call, attention=attention, out=nn.Linear(4, 3))


def tokens():
    return Net(lambda m, t: m.out(m.embed(t).cumsum(1).tanh().sum(1)), embed=nn.Embedding(6, 4), out=nn.Linear(4, 3))


def linear():
    return nn.Linear(4, 4)


def chain(*layers):
    """Return layers with three logits of their output, not linear."""
    return nn.Sequential(*layers, nn.Flatten(), nn.Tanh(), nn.LazyLinear(3))


def hidden(call, **modules):
    """Return a body with four outputs, which three logits read."""
    return Net(lambda m, x: m.out(torch.tanh(call(m, x))), out=nn.Linear(4, 3), **modules)


def embedding(change=lambda module: module, **options):
    return hidden(lambda m, t: m.a(t).cumsum(1).tanh().sum(1), a=change(nn.Embedding(6, 4, **options)))


def without_rules():
    """Return a model with a weight that is used twice, a transposed convolution, and raw parameters, one a number."""

    def call(m, x):
        h = F.linear(m.twice(x).tanh(), m.twice.weight)
        return m.out(m.wide(h[:, None]).flatten(1) * m.temperature + m.shift)

    return Net(
        call,
        twice=nn.Linear(4, 4),
        wide=nn.ConvTranspose1d(1, 2, 2),
        temperature=nn.Parameter(torch.tensor(1.3)),
        shift=nn.Parameter(torch.randn(10)),
        out=nn.Linear(10, 3),
    )


def hooked():
    """Return a network with a layer whose hook changes its output."""
    model = mlp()
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


MODELS = {
    "mlp": (mlp, VECTOR),
    "cnn": (cnn, IMAGE),
    "transformer": (transformer, SEQUENCE),
    "cross attention": (cross_attention, SEQUENCE),
    "tokens": (tokens, None),
    "without rules": (without_rules, VECTOR),
    "hooked": (hooked, VECTOR),
}


def built(make, shape, dtype=D):
    """Return a model in evaluation mode, with statistics other than the initial ones, and its inputs."""
    torch.manual_seed(0)
    x = TOKENS if shape is None else torch.randn(shape)
    model = make().eval()
    with torch.no_grad():
        model(x)  # lazy layers
    for name, buffer in model.named_buffers():
        if "running_mean" in name:
            nn.init.normal_(buffer)
        elif "running_var" in name:
            nn.init.uniform_(buffer, 0.5, 2.0)
    return model.to(dtype), x.to(dtype) if x.is_floating_point() else x


# ---------------------------------------------------------------------- posteriors
def weights_of(model, names=None, dtype=None):
    """Return a copy of the model's parameters by name."""
    named = {name: p.detach().clone() for name, p in model.named_parameters() if names is None or name in names}
    return {name: p.to(dtype or p.dtype) for name, p in named.items()}


def posterior_of(model, std=0.1, *, spread=False, names=None, dtype=None):
    """Return a diagonal posterior at the model's weights, with standard deviations equal or spread over 0.5 to 1.5."""
    mean, generator = weights_of(model, names, dtype), seeded(7)
    share = {n: torch.rand(m.shape, generator=generator) if spread else 0.5 for n, m in mean.items()}
    return DiagonalPosterior(mean, {n: (std * (0.5 + share[n]) * torch.ones(m.shape)).to(m) for n, m in mean.items()})


class LowRank:
    """Independent weights, and a few directions in which all of them move together."""

    joint = True

    def __init__(self, mean, std, factor):
        self.mean, self.std, self.factor = mean, std, factor  # factor (P, Q) over the flat parameters
        ends = torch.tensor([m.numel() for m in mean.values()]).cumsum(0).tolist()
        self.at = {name: slice(end - mean[name].numel(), end) for name, end in zip(mean, ends, strict=True)}

    def sample(self, generator=None):
        common = torch.randn(self.factor.shape[1], generator=generator, dtype=self.factor.dtype)
        noise = torch.randn(len(self.factor), generator=generator, dtype=self.factor.dtype)
        step = self.std * noise + self.factor @ common
        return {name: mean + step[self.at[name]].view_as(mean) for name, mean in self.mean.items()}

    def scale(self, name, gradients):
        flat, at = gradients.reshape(*gradients.shape[:2], -1), self.at[name]
        own = gradients.new_zeros(*gradients.shape[:2], len(self.factor))
        own[..., at] = flat * self.std[at]
        return torch.cat([own, flat @ self.factor[at]], 2)


class PerLayer:
    """A full covariance for each parameter, independent of the others."""

    def __init__(self, mean, root):
        self.mean, self.root = mean, root  # root (P, Q) of each parameter

    def sample(self, generator=None):
        noise = {n: torch.randn(root.shape[1], generator=generator, dtype=root.dtype) for n, root in self.root.items()}
        return {n: mean + (self.root[n] @ noise[n]).view_as(mean) for n, mean in self.mean.items()}

    def scale(self, name, gradients):
        return gradients.reshape(*gradients.shape[:2], -1) @ self.root[name]


class Mixed(PerLayer):
    """A full covariance for most matrices, independent entries of the other parameters."""

    def independent_std(self, name):
        root = self.root[name]
        return root.diagonal().view_as(self.mean[name]) if torch.equal(root, root.diagonal().diag()) else None


def square_root(size, scale, generator, dtype=D):
    """Return a root of a covariance with correlations, and variances around scale ** 2."""
    noise = torch.randn(size, size, generator=generator, dtype=D) / math.sqrt(size)
    return (scale * (0.7 * torch.eye(size, dtype=D) + 0.7 * noise)).to(dtype)


@dataclass
class Given:
    """A posterior, the names that it is over, and its covariance as one matrix."""

    posterior: Any
    mean: dict[str, torch.Tensor]
    covariance: torch.Tensor


def diagonal(model, scale):
    q = posterior_of(model, scale, spread=True)
    return Given(q, q.mean, vector(q.std).double().square().diag())


def joint(model, scale):
    mean = weights_of(model)
    root = square_root(vector(mean).numel(), scale, seeded(1))
    return Given(GaussianPosterior(vector(mean), root @ root.T), mean, root @ root.T)


def joint_of_some(model, scale):
    mean = weights_of(model)
    mean = {name: mean[name] for name in reversed(list(mean)[1:])}  # not all, and in another order
    root = square_root(vector(mean).numel(), scale, seeded(2))
    precision = torch.cholesky_inverse(torch.linalg.cholesky(root @ root.T))
    return Given(GaussianPosterior(mean, precision=precision), mean, root @ root.T)


def low_rank(model, scale):
    mean, generator = weights_of(model), seeded(3)
    flat = vector(mean)
    std = scale * (0.2 + torch.rand(len(flat), generator=generator)).to(flat)
    factor = scale * torch.randn(len(flat), 2, generator=generator).to(flat)
    covariance = std.double().square().diag() + factor.double() @ factor.double().T
    return Given(LowRank(mean, std, factor), mean, covariance)


def per_layer(model, scale):
    mean, generator = weights_of(model), seeded(4)
    root = {n: square_root(m.numel(), scale, generator, m.dtype) for n, m in mean.items()}
    return Given(PerLayer(mean, root), mean, torch.block_diag(*(r.double() @ r.double().T for r in root.values())))


def mixed(model, scale):
    q = per_layer(model, scale).posterior
    full = [name for name, m in q.mean.items() if m.ndim > 1 and "q_proj" not in name]
    root = {n: r if n in full else r.diagonal().abs().diag() for n, r in q.root.items()}
    covariance = torch.block_diag(*(r.double() @ r.double().T for r in root.values()))
    return Given(Mixed(q.mean, root), q.mean, covariance)


POSTERIORS = {
    "diagonal": diagonal,
    "joint": joint,
    "joint of some": joint_of_some,
    "low rank": low_rank,
    "per layer": per_layer,
    "mixed": mixed,
}


# ---------------------------------------------------------------------- dense algebra
def vector(tree):
    return torch.cat([tensor.flatten() for tensor in tree.values()])


def named(flat, like):
    """Return a flat vector as tensors by name."""
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(t.shape).to(t.dtype) for (name, t), part in zip(like.items(), parts, strict=True)}


def jacobian(model, mean, x, how=jacrev):
    """Return the Jacobian (B, K, P), of each example by itself."""
    found = []
    for i in range(len(x)):
        with sdpa_kernel(SDPBackend.MATH):
            rows = how(lambda w, i=i: functional_call(model, w, (x[i : i + 1],))[0])(dict(mean))
        found.append(torch.cat([rows[name].reshape(len(rows[name]), -1) for name in mean], 1))
    return torch.stack(found).detach()


def covariance_of(model, posterior, x, how=jacrev):
    """Return J Sigma J^T of a diagonal posterior, by Jacobians."""
    rows = jacobian(model, posterior.mean, x, how) * vector(posterior.std)
    return rows @ rows.mT


def by_differences(model, posterior, x, size=1e-5):
    """Return J Sigma J^T of a diagonal posterior, by finite differences of each example's logits in each weight."""
    rows = []
    with torch.no_grad():
        for name, std in posterior.std.items():
            for i in range(std.numel()):
                step = torch.zeros_like(std).flatten()
                step[i] = size
                ends = []
                for sign in (1, -1):
                    moved = {**posterior.mean, name: posterior.mean[name] + sign * step.reshape(std.shape)}
                    ends.append(torch.cat([functional_call(model, moved, (one[None],)) for one in x]))
                rows.append(std.flatten()[i] * (ends[0] - ends[1]) / (2 * size))
    jacobian = torch.stack(rows, -1)
    return jacobian @ jacobian.mT


@dataclass
class Case:
    """A model, a posterior, inputs, and the dense covariance of the parameters."""

    model: nn.Module
    x: torch.Tensor
    posterior: Any
    mean: dict[str, torch.Tensor]
    covariance: torch.Tensor

    def logit_covariance(self):
        rows = jacobian(self.model, self.mean, self.x)
        return rows @ self.covariance @ rows.mT

    def draws(self, num, seed=11):
        """Return logits of weights that are drawn from the dense covariance, (num, B, K)."""
        root = torch.linalg.cholesky(self.covariance)
        noise = torch.randn(num, len(root), dtype=D, generator=seeded(seed)) @ root.T + vector(self.mean)
        with torch.no_grad():
            return torch.stack([functional_call(self.model, named(w, self.mean), (self.x,)) for w in noise])


def case_of(model, posterior, scale=0.03, dtype=D):
    """Return one case, by the names of its model and its posterior."""
    network, x = built(*MODELS[model], dtype)
    given = POSTERIORS[posterior](network, scale)
    return Case(network, x, given.posterior, given.mean, given.covariance)


CASES = [pytest.param(m, p, id=f"{m}, {p}") for m in MODELS for p in POSTERIORS]
