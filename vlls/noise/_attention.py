"""Multi-head attention written out, so that each of its projections can be looked at by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Slices = dict[str, tuple[str, slice]]


def projections(module: nn.Module) -> dict[str, Slices]:
    """Return for each projection of an attention the parameters, and their rows, that are its ``weight`` and ``bias``.

    The result is empty for other modules, and for an attention with learned or zero keys beside the projected ones.
    """
    if not isinstance(module, nn.MultiheadAttention) or type(module).forward is not nn.MultiheadAttention.forward:
        return {}
    if "forward" in vars(module) or module.bias_k is not None or module.add_zero_attn:
        return {}
    width, everything, packed = module.embed_dim, slice(None), module.in_proj_weight is not None
    found: dict[str, Slices] = {}
    for i, part in enumerate(("q", "k", "v")):
        rows = slice(i * width, (i + 1) * width)
        found[part] = {"weight": ("in_proj_weight", rows) if packed else (f"{part}_proj_weight", everything)}
        if module.in_proj_bias is not None:
            found[part]["bias"] = ("in_proj_bias", rows)
    found["out"] = {"weight": ("out_proj.weight", everything)}
    if module.out_proj.bias is not None:
        found["out"]["bias"] = ("out_proj.bias", everything)
    return found


def attend(
    module: nn.MultiheadAttention,
    tap: Callable[[str, Tensor, Tensor], None],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Replace ``nn.MultiheadAttention.forward``; ``tap(part, input, output)`` sees each projection, in its layout."""

    def project(part: str, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        z = F.linear(a, weight, bias)
        tap(part, a, z)
        return z

    weights = (
        module.in_proj_weight.chunk(3)
        if module.in_proj_weight is not None
        else (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    )
    biases = module.in_proj_bias.chunk(3) if module.in_proj_bias is not None else (None, None, None)
    heads = []
    for part, a, weight, bias in zip(("q", "k", "v"), (query, key, value), weights, biases, strict=True):
        z = project(part, a, weight, bias)
        z = z if module.batch_first else z.transpose(0, 1)
        heads.append(z.unflatten(-1, (module.num_heads, module.head_dim)).transpose(1, 2))  # (B, H, T, D)
    q, k, v = heads
    scores = q @ k.mT / math.sqrt(module.head_dim)
    if attn_mask is not None and attn_mask.ndim == 3:  # (B * H, T, S)
        attn_mask = attn_mask.unflatten(0, (-1, module.num_heads))
    for mask in (attn_mask, None if key_padding_mask is None else key_padding_mask[:, None, None]):
        if mask is not None:
            scores = scores.masked_fill(mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    shares = torch.softmax(scores, -1)
    mixed = (shares @ v).transpose(1, 2).flatten(2)
    mixed = mixed if module.batch_first else mixed.transpose(0, 1)
    out = project("out", mixed, module.out_proj.weight, module.out_proj.bias)
    if not need_weights:
        return out, None
    return out, shares.mean(1) if average_attn_weights else shares
