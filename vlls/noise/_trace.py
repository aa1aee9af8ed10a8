"""One pass forward and one backward through any network, with a hook at every layer that has a rule.

The backward pass carries R directions at once (``torch.func.vmap``); each layer's contribution is added up as soon as
its gradient is known, so that no more than the frontier of the backward pass is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from vlls._bases import Bases
from vlls.noise._attention import attend, projections
from vlls.noise._call import Call
from vlls.noise._layers import READ, Linear, Rule, rule_for
from vlls.noise._posterior import ModelPosterior


@dataclass(frozen=True)
class Site:
    """A place of the network where a rule applies."""

    module: str  # its name
    rule: Rule
    part: str  # which of an attention's projections; empty for other modules
    parameters: Mapping[str, tuple[str, slice]]  # by the rule's name: that in the model, and the rows of it
    shapes: Mapping[str, torch.Size]  # of these parameters, by the model's names
    # by the rule's names, if all weights are independent, some of them in bases; empty otherwise
    variances: Mapping[str, Tensor]
    bases: Mapping[str, Bases]
    axis: int = 0  # of the batch, in the input and the output
    size: int = 0  # of the output of one example

    @property
    def names(self) -> set[str]:
        """The parameters' names in the model."""
        return {name for name, _ in self.parameters.values()}


class Seen(NamedTuple):
    """A site in a pass forward."""

    site: Site
    input: Tensor
    output_shape: torch.Size
    edge: GradientEdge


@dataclass
class Pass:
    """A pass forward: the logits, its sites, and the size of every module's output."""

    call: Call
    parameters: Mapping[str, Tensor]
    sites: list[Site]
    logits: Tensor
    seen: list[Seen] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


def sites_of(model: nn.Module, posterior: ModelPosterior) -> list[Site]:
    """Return the sites of a model whose parameters the posterior moves."""
    sites = []
    moving = posterior.moving()

    def add(prefix: str, rule: Rule, part: str, slices: Mapping[str, tuple[str, slice]]) -> None:
        named = {local: (f"{prefix}.{name}" if prefix else name, rows) for local, (name, rows) in slices.items()}
        known = {local: (name, rows) for local, (name, rows) in named.items() if name in moving}
        if known:
            shapes = {name: posterior.mean[name].shape for name, _ in known.values()}
            bases = {
                local: posterior.rotations[name][0]
                for local, (name, rows) in known.items()
                if name in posterior.rotations and rows == slice(None) and rule.turns(local)
            }
            variances = {}
            if all(name in posterior.std or local in bases for local, (name, _) in known.items()):
                std = {local: posterior.rotations[known[local][0]][1] for local in bases}
                std |= {local: posterior.std[name][rows] for local, (name, rows) in known.items() if local not in bases}
                variances = {local: s.detach().square() for local, s in std.items()}
            sites.append(Site(prefix, rule, part, known, shapes, variances, bases))

    within = {id(child) for module in model.modules() if projections(module) for child in module.children()}
    for prefix, module in model.named_modules():
        if id(module) in within:  # an attention's output layer, a projection of the attention
            continue
        rule = rule_for(module)
        if rule is not None:
            direct = {local for local, _ in module.named_parameters(recurse=False)}
            add(prefix, rule, "", {local: (local, slice(None)) for local in READ if local in direct})
        for part, slices in projections(module).items():
            add(prefix, Linear(), part, slices)
    return sites


class _Take(torch.autograd.Function):
    """Hand a gradient to ``sink`` with the directions of a vmap as its first axis."""

    @staticmethod
    def forward(g: Tensor, sink: Callable[[Tensor], None]) -> Tensor:
        sink(g[None])
        return g.new_empty(())  # it is never read

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None], g: Tensor, sink: Callable[[Tensor], None]) -> tuple[Any, Any]:
        axis = in_dims[0]
        sink(g.expand(info.batch_size, *g.shape) if axis is None else g.movedim(axis, 0))
        return g.new_empty(()), None


def contribution(site: Site, a: Tensor, g: Tensor, block: int) -> Tensor:
    """Return the contribution of independent weights, (B, R, R), from a site's input and (R, ...) output gradients."""
    a, g = _accurate(site, a, g)
    variances = {name: variance.to(g) for name, variance in site.variances.items()}
    if not site.bases:
        return site.rule.covariance(a, g, variances, block)
    bases = {name: [None if q is None else q.detach().to(g) for q in of] for name, of in site.bases.items()}
    return site.rule.covariance(a, g, variances, block, bases)


def gradients(site: Site, a: Tensor, g: Tensor, num: int) -> Iterator[tuple[slice, str, Tensor]]:
    """Yield the gradients of ``num`` examples at a time with respect to each of a site's parameters, by model name.

    They are (R, num, ...), and zero in rows that belong to another site.
    """
    a, g = _accurate(site, a, g)
    for start in range(0, len(a), num):
        examples = slice(start, start + num)
        for local, (name, rows) in site.parameters.items():
            found = site.rule.gradients(local, a[examples], g[:, examples])
            if rows != slice(None):
                whole = found.new_zeros(*found.shape[:2], *site.shapes[name])
                whole[:, :, rows] = found
                found = whole
            yield examples, name, found


def _accurate(site: Site, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return input and gradients in float32 at least, with the batch in front."""
    accurate = torch.promote_types(g.dtype, torch.float32)
    a, g = a.movedim(site.axis, 0), g.movedim(site.axis + 1, 1).to(accurate)
    return (a.to(accurate) if a.is_floating_point() else a), g


def forward(
    call: Call,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    sites: list[Site],
    sink: Callable[[Site, Tensor, Tensor], None] | None = None,
) -> Pass:
    """Run the model with parameters that require gradients and note the inputs and outputs of its sites.

    A later backward pass calls ``sink`` with each site, its input and the (R, ...) gradient of its output.
    """
    result = Pass(call, parameters, sites, x)

    def note(site: Site, a: Any, z: Any) -> None:
        if not isinstance(a, Tensor) or not isinstance(z, Tensor) or not z.requires_grad:
            return
        held = a.detach()
        result.seen.append(Seen(site, held, z.shape, get_gradient_edge(z)))
        if sink is not None:

            def consume(g: Tensor) -> None:
                _Take.apply(g, lambda whole: sink(site, held, whole))

            z.register_hook(consume)  # of the value before any in-place operation

    with _watching(call.model, sites, note, result.sizes), torch.enable_grad():
        result.logits = call(parameters, x)
    return result


@contextmanager
def _watching(
    model: nn.Module, sites: list[Site], note: Callable[[Site, Any, Any], None], sizes: list[int]
) -> Iterator[None]:
    by_module: dict[str, list[Site]] = {}
    for site in sites:
        by_module.setdefault(site.module, []).append(site)
    handles = []
    replaced: list[nn.Module] = []

    def layer(site: Site) -> Callable[..., None]:
        return lambda module, inputs, z: note(site, inputs[0] if inputs else None, z)

    def tap(parts: dict[str, Site]) -> Callable[[str, Tensor, Tensor], None]:
        return lambda part, a, z: note(parts[part], a, z) if part in parts else None

    def measure(module: nn.Module, inputs: Any, z: Any) -> None:
        if isinstance(z, Tensor):
            sizes.append(z.numel())

    try:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                continue
            if next(module.children(), None) is None:
                handles.append(module.register_forward_hook(measure))
            here = by_module.get(name, [])
            parts = {site.part: site for site in here if site.part}
            # before the user's own hooks, which may change what the layer returned
            handles += [module.register_forward_hook(layer(site), prepend=True) for site in here if not site.part]
            if parts:
                module.forward = partial(attend, module, tap(parts))
                replaced.append(module)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in replaced:
            del module.forward


def backward_once(done: Pass, directions: Tensor) -> None:
    """Send (R, B, K) gradients of R functions with respect to the logits back through a pass, to its sink."""
    ends = _ends([seen.edge for seen in done.seen], done.logits) if done.logits.grad_fn is not None else []
    if not ends:
        return

    def pull(direction: Tensor) -> Tensor:
        torch.autograd.grad(done.logits, ends, direction, allow_unused=True, retain_graph=True)
        return direction

    with replayed(done):
        torch.func.vmap(pull)(directions)


@contextmanager
def replayed(done: Pass) -> Iterator[None]:
    """Put the model in the state of a forward pass: in the backward pass a checkpoint runs part of it again."""
    with done.call.carrying(done.parameters), _watching(done.call.model, done.sites, lambda *_: None, []):
        yield


def _ends(edges: list[GradientEdge], logits: Tensor) -> list[GradientEdge]:
    """Return the edges from which no other is reached: a pass to them runs through all the others."""
    at = {edge.node for edge in edges}
    reached: dict[Any, bool] = {}  # whether a site lies beyond the node
    stack: list[tuple[Any, bool]] = [(logits.grad_fn, False)]
    while stack:
        node, ready = stack.pop()
        following = [n for n, _ in node.next_functions if n is not None]
        if ready:
            reached[node] = any(n in at or reached.get(n, False) for n in following)
        elif node not in reached:
            reached[node] = False
            stack.append((node, True))
            stack += [(n, False) for n in following if n not in reached]
    return [edge for edge in edges if edge.node in reached and not reached[edge.node]]
