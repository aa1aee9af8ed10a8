r"""The contribution of a layer's parameters to the covariance of the logits, :math:`J \Sigma J^\top`, by example.

Every rule can form the per-example gradients of its parameters, which any posterior scales. If all weights are
independent, it never holds the (B, R, P) Jacobian of the layer's P parameters: of a layer that multiplies, the
contribution of one example is a sum over output channels o and positions t of

.. math:: J_{r,(o,j)} = \sum_t g_{r,o,t} \, u_{j,t},

with u the layer's input at position t. The sum of products over (o, j) is taken block by block. With few positions it
is cheaper to sum over j first: :math:`\sum_{t,s} g_{r,o,t} g_{r',o,s} M_{o,t,s}` with
:math:`M_{o,t,s} = \sum_j \sigma^2_{oj} u_{jt} u_{js}`, one matrix product for all output channels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlls._bases import Bases, project
from vlls.noise._call import Lookup

MOVE = 32  # multiplications of a product that take the time of an operation on one number in memory
READ = ("weight", "bias")  # the parameters that rules read; a module may have others
_Turned = Mapping[str, Bases] | None  # by parameter
_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


class Rule(ABC):
    """How the parameters of a kind of layer act on its output.

    Methods get the layer's input a, (B, ...), and gradients g of R functions of the logits with respect to its output,
    (R, B, ...); parameters have their names in the module.
    """

    @abstractmethod
    def gradients(self, name: str, a: Tensor, g: Tensor) -> Tensor:
        """Form the gradients of every example with respect to one parameter, (R, B, ...) with its shape behind."""

    def turns(self, name: str) -> bool:
        """Whether :meth:`covariance` takes weights of a parameter that are independent in bases of its axes."""
        return False

    def operations(self, r: int, size: int, weight: torch.Size | None) -> int:
        """Count the multiplications for one example and r directions, of :meth:`covariance` and to the layer's input.

        ``size`` numbers are in the layer's output of one example.
        """
        return 3 * MOVE * r * size

    def covariance(
        self,
        a: Tensor,
        g: Tensor,
        variances: Mapping[str, Tensor],
        block: int,
        bases: _Turned = None,
    ) -> Tensor:
        """Return the contribution of parameters with independent weights, (B, R, R), in temporaries of ``block`` bytes.

        ``variances`` of a parameter with ``bases`` are those of its weights' coordinates in them.
        """
        total = g.new_zeros(g.shape[1], g.shape[0], g.shape[0])
        for name, variance in variances.items():
            total += _gram(self.gradients(name, a, g).flatten(2), variance.flatten())
        return total


def rule_for(module: nn.Module) -> Rule | None:
    """Return the rule of a module, or None if its ``forward`` is not a known layer's."""
    if isinstance(module, torch.jit.ScriptModule) or not isinstance(vars(module).get("forward"), Lookup | None):
        return None
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return Linear()
    if forward is nn.Embedding.forward and isinstance(module, nn.Embedding):
        return None if module.max_norm is not None or module.sparse else _Embedding(module.num_embeddings)
    if isinstance(module, _Conv) and any(forward is known.forward for known in get_args(_Conv)):
        return _Convolution(module)
    normalize = _normalizer(module)
    return None if normalize is None else _Affine(normalize, getattr(module, "normalized_shape", None))


# ---------------------------------------------------------------------- layers that multiply
class _Multiplier(Rule):
    """A layer that multiplies its input by a weight at every position."""

    @abstractmethod
    def split(self, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return input u (B, G, J, T) and gradients g (R, B, G, O, T) of G groups, at T positions."""

    def shape(self, u: Tensor, g: Tensor) -> tuple[int, ...]:
        """The weight's shape."""
        return g.shape[3], u.shape[2]

    def gradients(self, name: str, a: Tensor, g: Tensor) -> Tensor:
        u, g = self.split(a, g)
        if name == "bias":
            return g.sum(-1).flatten(2)
        return (g @ u.mT).reshape(*g.shape[:2], *self.shape(u, g))

    def turns(self, name: str) -> bool:
        """Whether :meth:`covariance` takes weights of a parameter that are independent in bases of its axes."""
        return name == "weight"

    def covariance(
        self,
        a: Tensor,
        g: Tensor,
        variances: Mapping[str, Tensor],
        block: int,
        bases: _Turned = None,
    ) -> Tensor:
        """Return the contribution of weight and bias; bases of the weight turn u along inputs and g along outputs."""
        u, g = self.split(a, g)
        total = g.new_zeros(g.shape[1], g.shape[0], g.shape[0])
        if "bias" in variances:
            total += _gram(g.sum(-1).flatten(2), variances["bias"])
        if "weight" in variances:
            if bases:
                u, g = _turned(u, g, self.shape(u, g), bases["weight"])
            num_groups, num_out = g.shape[2:4]
            var = variances["weight"].reshape(num_groups, num_out, -1)
            by_position, by_weight = _each_way(g.shape[0], num_out, *u.shape[2:])
            total += (_by_position if by_position < by_weight else _by_weight)(u, g, var, block)
        return total

    def operations(self, r: int, size: int, weight: torch.Size | None) -> int:
        if weight is None:
            return super().operations(r, size, weight)
        out = weight[0]
        j, t = weight.numel() // out, size // out
        return out * (r * j * t + min(_each_way(r, out, j, t)))


def _each_way(r: int, out: int, j: int, t: int) -> tuple[int, int]:
    """Count the multiplications for one of ``out`` channels, j weights and t positions: by position, and by weight."""
    pairs = t * (t + 1) // 2
    by_position = pairs * j + r * t * t + r * r * t + MOVE * (2 * t * t + 3 * pairs * j // out)
    return by_position, r * j * (t + r + MOVE)


class Linear(_Multiplier):
    """A linear layer: input (B, ..., I), gradients (R, B, ..., O)."""

    def split(self, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        u = a.reshape(a.shape[0], -1, a.shape[-1]).mT  # (B, I, T)
        g = g.reshape(*g.shape[:2], -1, g.shape[-1]).mT  # (R, B, O, T)
        return u[:, None], g[:, :, None]


def _turned(u: Tensor, g: Tensor, shape: Sequence[int], bases: Bases) -> tuple[Tensor, Tensor]:
    """Return inputs (B, 1, J, T) and gradients (R, B, 1, O, T) in the bases of a weight of this shape."""
    outputs, *inputs = bases
    if outputs is not None:
        g = outputs.T @ g
    if inputs:
        rows = u[:, 0].mT.reshape(-1, *shape[1:])  # (B * T, ...), an input of one position each
        u = project(rows, inputs, lead=1).reshape(len(u), u.shape[3], 1, -1).permute(0, 2, 3, 1)
    return u, g


class _Convolution(_Multiplier):
    """A convolution of any stride, dilation, padding and groups: input (B, C, ...), gradients (R, B, O, ...)."""

    def __init__(self, conv: _Conv) -> None:
        self.conv = conv

    def split(self, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        conv = self.conv
        u = _patches(conv, a)
        g = g.reshape(*g.shape[:2], conv.groups, conv.out_channels // conv.groups, -1)
        return u.reshape(len(a), conv.groups, -1, u.shape[-1]), g

    def turns(self, name: str) -> bool:
        """Whether :meth:`covariance` takes weights of a parameter that are independent in bases of its axes."""
        return name == "weight" and self.conv.groups == 1

    def shape(self, u: Tensor, g: Tensor) -> tuple[int, ...]:
        return self.conv.out_channels, self.conv.in_channels // self.conv.groups, *self.conv.kernel_size


def _patches(conv: _Conv, a: Tensor) -> Tensor:
    """Input patches (B, C * prod(kernel), T), in the order of the weight's columns."""
    dims = a.ndim - 2  # torch's unfold takes images only, one example at a time
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    a = F.pad(a, conv._reversed_padding_repeated_twice, mode=mode)
    for axis in range(dims):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1
        a = a.unfold(2 + axis, reach, conv.stride[axis])[..., :: conv.dilation[axis]]
    # (B, C, *positions, *kernel) -> (B, C, *kernel, *positions)
    order = [0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims)]
    return a.permute(order).reshape(a.shape[0], -1, math.prod(a.shape[2 : 2 + dims]))


def _by_weight(u: Tensor, g: Tensor, var: Tensor, block: int) -> Tensor:
    """Form the scaled gradients of as many weights at a time as ``block`` bytes hold, and sum their products.

    The products are taken one output channel at a time: a GPU is slow at a few long ones.
    """
    (r, num, groups, out, positions), j = g.shape, u.shape[2]
    total = g.new_zeros(num, r, r)
    room = max(1, block // (g.element_size() * r * groups * j))  # (example, output channel) pairs in a block
    channels = min(out, room)
    examples = max(1, room // out)
    std, u = var.sqrt()[:, :, None], u.mT
    buffer = g.new_empty(min(examples, num) * groups * channels * r * j)
    for first in range(0, num, examples):
        part = u[first : first + examples]
        n = len(part)
        part = part.reshape(n * groups, positions, j)
        for o in range(0, out, channels):
            cut = g[:, first : first + n, :, o : o + channels]
            c = cut.shape[3]
            rows = cut.permute(1, 2, 3, 0, 4).reshape(n * groups, c * r, positions)
            grads = buffer[: n * groups * c * r * j].view(n * groups, c * r, j)
            torch.bmm(rows, part, out=grads)
            grads.view(n, groups, c, r, j).mul_(std[:, o : o + c])
            grads = grads.view(n * groups * c, r, j)
            total[first : first + n] += torch.bmm(grads, grads.mT).view(n, groups * c, r, r).sum(1)
    return total


def _by_position(u: Tensor, g: Tensor, var: Tensor, block: int) -> Tensor:
    """Sum over the weights first: cheap if an example has few positions, as at the end of a network."""
    (r, num, groups, out, positions), j = g.shape, u.shape[2]
    total = g.new_zeros(num, r, r)
    first, second = torch.triu_indices(positions, positions, device=g.device)
    twice = torch.where(first == second, 1.0, 2.0).to(g)
    pairs = len(first)
    examples = max(1, block // (g.element_size() * groups * (pairs * (j + out) + out * positions * positions)))
    for start in range(0, num, examples):
        part, cut = u[start : start + examples], g[:, start : start + examples]
        n = len(part)
        for group in range(groups):
            seen = part[:, group].mT  # (n, T, J)
            if positions == 1:  # a linear layer on vectors: M is a number for each output channel
                spread = seen[:, 0].square() @ var[group].T  # (n, O)
                total[start : start + n] += _gram(cut[:, :, group, :, 0], spread)
                continue
            moments = (seen[:, first] * seen[:, second]) @ var[group].T  # (n, pairs, O)
            moments *= (twice / 2)[:, None]  # upper triangle, half of the diagonal: M = U + Uᵀ
            full = g.new_zeros(n, out, positions, positions)
            full[:, :, first, second] = moments.mT
            rows = cut[:, :, group].permute(1, 2, 0, 3)  # (n, O, R, T)
            half = torch.einsum("nork,noqk->nrq", rows @ full, rows)
            total[start : start + n] += half + half.mT
    return total


# ---------------------------------------------------------------------- layers that scale and shift
def _normalizer(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the normalisation of a module without its affine part, or None if it is not a known one."""
    forward = type(module).forward
    m: Any = module

    def tracked(a: Tensor) -> tuple[Tensor | None, Tensor | None]:  # running statistics in the dtype of the input
        mean, var = (None if s is None else s.to(a.dtype) for s in (m.running_mean, m.running_var))
        return mean, var

    if forward is nn.modules.batchnorm._BatchNorm.forward:
        return lambda a: F.batch_norm(a, *tracked(a), eps=m.eps)
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return lambda a: F.instance_norm(a, *tracked(a), use_input_stats=not m.track_running_stats, eps=m.eps)
    if forward is nn.GroupNorm.forward:
        return lambda a: F.group_norm(a, m.num_groups, eps=m.eps)
    if forward is nn.LayerNorm.forward:
        return lambda a: F.layer_norm(a, m.normalized_shape, eps=m.eps)
    if forward is nn.RMSNorm.forward:
        return lambda a: F.rms_norm(a, m.normalized_shape, eps=m.eps)
    return None


class _Affine(Rule):
    """Weight and bias of a normalisation, of shape ``(C,)`` on axis 1 or of ``normalized_shape`` on the last axes."""

    def __init__(self, normalize: Callable[[Tensor], Tensor], normalized_shape: tuple[int, ...] | None) -> None:
        self.normalize, self.normalized_shape = normalize, normalized_shape

    def gradients(self, name: str, a: Tensor, g: Tensor) -> Tensor:
        per_weight = g * self.normalize(a) if name == "weight" else g
        if self.normalized_shape is None:
            return per_weight.flatten(3).sum(-1) if per_weight.ndim > 3 else per_weight
        return per_weight.reshape(*g.shape[:2], -1, *self.normalized_shape).sum(2)


# ---------------------------------------------------------------------- look-ups
class _Embedding(Rule):
    """An embedding: tokens (B, ...), gradients (R, B, ..., D)."""

    def __init__(self, num_embeddings: int) -> None:
        self.num_embeddings = num_embeddings

    def gradients(self, name: str, a: Tensor, g: Tensor) -> Tensor:
        tokens = a.reshape(len(a), -1)  # (B, T)
        g = g.reshape(*g.shape[:2], -1, g.shape[-1])  # (R, B, T, D)
        whole = g.new_zeros(*g.shape[:2], self.num_embeddings, g.shape[-1])
        return whole.scatter_add_(2, tokens[None, :, :, None].expand_as(g), g)

    def covariance(
        self,
        a: Tensor,
        g: Tensor,
        variances: Mapping[str, Tensor],
        block: int,
        bases: _Turned = None,
    ) -> Tensor:
        """Read only the rows of an example's tokens; a token that occurs twice has one row of weights."""
        tokens = a.reshape(len(a), -1)  # (B, T)
        g = g.reshape(*g.shape[:2], -1, g.shape[-1])  # (R, B, T, D)
        first = (tokens[:, :, None] == tokens[:, None, :]).to(torch.uint8).argmax(-1)  # where each token occurs first
        summed = torch.zeros_like(g).scatter_add_(2, first[None, :, :, None].expand_as(g), g)
        return _gram(summed.flatten(2), variances["weight"][tokens].flatten(1))


def _gram(gradients: Tensor, var: Tensor) -> Tensor:
    """(R, B, P) gradients and (P,) or (B, P) variances -> (B, R, R)."""
    rows = (gradients * var.sqrt()).transpose(0, 1)
    return rows @ rows.mT
