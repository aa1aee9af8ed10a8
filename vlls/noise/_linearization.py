r"""The covariance of a network's logits under a linearised network, :math:`V = J \Sigma J^\top`.

Eq. 20 sees the network through its gradient at the mean: :math:`f(\theta) \approx f(m) + J (\theta - m)`, so under the
posterior the logits of an example are Gaussian with covariance :math:`V`. It is computed exactly and layer by layer,
without ever holding the (K, P) Jacobian of an example (Chapter 6).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlls._warnings import warn_caller
from vlls.noise._call import borrowed, differentiable
from vlls.noise._checks import MEBIBYTE, available_memory, check_logits, memory_aim
from vlls.noise._layers import MOVE
from vlls.noise._posterior import gram
from vlls.noise._trace import Pass, Seen, Site, backward_once, contribution, forward, gradients, sites_of
from vlls.noise._trial import Trials, prepare
from vlls.posterior import _AnyPosterior

_warned: set[str] = set()


@torch.inference_mode(False)
def logit_covariance(
    model: nn.Module, posterior: _AnyPosterior, x: Tensor, *, memory_limit: float | None = None
) -> Tensor:
    r"""Return :math:`J \Sigma J^\top`, the covariance of every example's logits under the linearised network.

    Exact for linear, convolutional, normalisation, embedding and attention layers, layer by layer; parameters of other
    modules, and of a layer that is pruned, reparametrized or changed by a hook, go through their own per-example
    gradients, which is slower and warns once. A model in half precision is computed in float32.

    Args:
        model: the network, in evaluation mode, compiled or not; (B, ...) inputs to (B, K) logits.
        posterior: over some or all of its parameters, as :func:`.label_noise_moments` takes it.
        x: a batch of inputs, (B, ...), on the model's device.
        memory_limit: MiB that temporaries may take; 64 on a CPU and 2048 on a GPU if left out.

    Returns:
        (B, K, K) symmetric positive semi-definite matrices, in the dtype of the logits.

    Raises:
        ValueError: as :func:`.label_noise_moments` does.

    Example:
        >>> from vlls import DiagonalPosterior
        >>> model = torch.nn.Linear(2, 3, bias=False)
        >>> q = DiagonalPosterior({"weight": model.weight.detach()}, {"weight": torch.full((3, 2), 0.5)})
        >>> logit_covariance(model, q, torch.tensor([[1.0, 1.0]]))[0].diagonal()
        tensor([0.5000, 0.5000, 0.5000])
    """
    x = differentiable_input(x)
    with borrowed(model):
        line = Linearization(model, posterior, x, memory_limit=memory_limit)
        line.setting.warn()
        return line.covariances(x)


class Linearization:
    """A network linearised at the posterior's mean; trial passes with the first example of x find its layers.

    ``num_directions`` functions of the logits, K if left out, are pulled back at once. ``instead`` is the advice in the
    error that is raised if a gradient is not the slope.
    """

    def __init__(
        self,
        model: nn.Module,
        posterior: _AnyPosterior,
        x: Tensor,
        *,
        memory_limit: float | None = None,
        num_directions: int | None = None,
        instead: str = "use label_noise_moments with method='monte_carlo'",
    ) -> None:
        self.setting, trials = prepare(model, posterior, x, memory_limit)
        self.posterior = self.setting.posterior
        self._grown = {name: mean.requires_grad_() for name, mean in self.posterior.mean.items()}
        self._look(x, trials, instead)
        names = [name for site in self._sites if not site.variances for name in site.names]
        names += [name for name in self._others if name not in self.posterior.std]
        # how many parts of the network (sites, other parameters) add rows to each basis of the posterior
        self._shared = Counter(self.posterior.basis(name) for name in names)
        self._room = memory_limit, x.device
        self.take(num_directions or self.setting.num_outputs)

    def take(self, num_directions: int) -> None:
        """Pull this many functions of the logits back at once, at most as many as there are logits."""
        num_directions = min(num_directions, self.setting.num_outputs)
        self._batch, self._block = self._divide(num_directions, *self._room)
        self.num_directions = num_directions

    # ------------------------------------------------------------------ places
    def _look(self, x: Tensor, trials: Trials, instead: str) -> None:
        """Run one and two examples, to find the batch axis and how often each parameter is used."""
        moving = self.posterior.moving()
        sites = sites_of(self.setting.model, self.posterior)
        with differentiable():
            one = forward(self.setting.call, self._grown, x[:1], sites)
            two = forward(self.setting.call, self._grown, x[[0, 0]], sites)
        self._itemsize = check_logits(one.logits, 1).element_size()
        self._sizes = sum(one.sizes), max(one.sizes, default=1)  # of one example, in elements
        self._uses = _uses(two, self._grown)  # how often each parameter enters the logits
        pairs = zip(one.seen, two.seen, strict=True) if len(one.seen) == len(two.seen) else ()
        axes = [(a, _batch_axis(a, b)) for a, b in pairs]
        found = [replace(a.site, axis=axis, size=a.output_shape.numel()) for a, axis in axes if axis is not None]
        needed = Counter(name for site in sites for name in site.names)  # three share an attention's weight
        seen = Counter(name for site in found for name in site.names)
        sound = {name for name, number in self._uses.items() if number == 1 and seen[name] == needed[name]}
        found = [site for site in found if site.names <= sound]
        misread = trials.gradients(found, instead) if moving else set()
        self._sites = [site for site in found if site.module not in misread]
        moving -= {name for site in self._sites for name in site.names}
        self._others = [name for name, number in self._uses.items() if name in moving and number]  # without a site
        for name in self._others:
            layer = type(self.setting.model.get_submodule(name.rpartition(".")[0])).__name__
            if layer not in _warned:
                _warned.add(layer)
                warn_caller(
                    f"{name!r} of a {layer} has no rule of its own here, is used more than once, or is changed on its "
                    "way (pruned, reparametrized, by a hook): its part of the label noise is exact but comes from "
                    "per-example gradients, which is slower"
                )

    # ------------------------------------------------------------------ how much at a time
    def _divide(self, r: int, memory_limit: float | None, device: torch.device) -> tuple[int, int]:
        """Return the number of examples in a part, and the bytes of a block of one layer's weight gradients."""
        aim = memory_aim(memory_limit, device)
        k = self.setting.num_outputs
        total, largest = self._sizes
        ungrouped = sum(self.posterior.mean[name].numel() for name in self._others)
        one = self._itemsize * (3 * total + (4 * r + 9) * largest + r * (ungrouped + self._held()) + 3 * r * k)
        block = aim / 8
        allowed = aim if memory_limit is not None or one + block <= aim else available_memory(device)
        if one + block > allowed:
            fewer = "" if r == 1 else "use method='rank' with a small rank, "
            raise ValueError(
                f"one example's {r} gradient(s) need {_mebibytes(one + block)} MiB and {_mebibytes(allowed)} are "
                f"allowed; raise memory_limit, {fewer}or use method='monte_carlo', which needs no gradients"
            )
        return max(1, int((aim - block) / one)), int(block)

    def _held(self) -> int:
        """Count the numbers in one example's rows that are kept until all parts have added theirs."""
        lengths = {self.posterior.basis(name): self.posterior.length(name) for name in self.posterior.mean}
        return sum(lengths[basis] for basis, number in self._shared.items() if number > 1)

    def operations(self, r: int) -> int | None:
        """Count an example's multiplications for r directions; None if a weight has no rule or depends on others."""
        if self._others or not all(site.variances for site in self._sites):
            return None
        weights = (site.variances.get("weight") for site in self._sites)
        return 3 * MOVE * r * self._sizes[0] + sum(
            site.rule.operations(r, site.size, None if weight is None else weight.shape)
            for site, weight in zip(self._sites, weights, strict=True)
        )

    def covariances(self, x: Tensor) -> Tensor:
        """Return V of every example, (B, K, K)."""
        return torch.cat([self.covariance(part, done) for part, done in self.parts(x)])

    def parts(self, x: Tensor) -> Iterator[tuple[Tensor, Pass]]:
        """Walk over a batch in parts that fit in memory: each part and its pass forward."""
        for part in x.split(self._batch):
            yield part, self._run(part)

    def _run(self, x: Tensor) -> Pass:
        """Run the network at the mean and keep all that :meth:`covariance` needs."""
        self._total: Tensor | None = None
        self._rows: dict[str, Tensor] = {}
        with differentiable():
            done = forward(self.setting.call, self._grown, x, self._sites, self._consume)
        check_logits(done.logits, len(x))
        uses = _uses(done, self._grown)
        if uses != self._uses:
            name = next(name for name in uses if uses[name] != self._uses[name])
            raise ValueError(
                f"the model uses {name!r} {uses[name]} times for these examples and {self._uses[name]} times for "
                "the first one, so its way depends on its input (a mixture of experts, a branch); use "
                "method='monte_carlo'"
            )
        return done

    def _consume(self, site: Site, a: Tensor, g: Tensor) -> None:
        if site.variances:
            self._add(contribution(site, a, g, self._block))
            return
        r, num = g.shape[0], a.shape[site.axis]
        size = max(site.shapes[name].numel() + self.posterior.length(name) for name in site.names)
        chunk = max(1, self._block // (2 * max(4, g.element_size()) * r * size))
        for examples, name, gradient in gradients(site, a, g, chunk):
            self._scale(name, gradient, examples, num)

    def _add(self, part: Tensor) -> None:
        self._total = part if self._total is None else self._total + part

    def _scale(self, name: str, gradient: Tensor, examples: slice, num: int) -> None:
        """Add the contribution of (R, n, ...) gradients, of some of ``num`` examples with respect to one parameter."""
        rows, basis = self.posterior.rows(name, gradient), self.posterior.basis(name)
        if self._shared[basis] > 1:  # its Gram matrix has to wait for the others
            if basis not in self._rows:
                self._rows[basis] = rows.new_zeros(len(rows), num, rows.shape[2])
            self._rows[basis][:, examples] += rows
            return
        if self._total is None:
            self._total = rows.new_zeros(num, len(rows), len(rows))
        self._total[examples] += gram(rows)

    # ------------------------------------------------------------------ covariances
    def covariance(self, x: Tensor, done: Pass, directions: Tensor | None = None) -> Tensor:
        """Return Uᵀ V U, (B, R, R), for a part and its pass forward; the (B, K, R) directions U are all if left out."""
        logits = done.logits
        num, k = logits.shape
        if directions is None:
            directions = torch.eye(k, dtype=logits.dtype, device=logits.device).expand(num, k, k)
        pulled = directions.to(logits.dtype).permute(2, 0, 1)  # (R, B, K)
        with differentiable():
            backward_once(done, pulled)
        if self._others:
            self._of_others(x, pulled.transpose(0, 1))
        for rows in self._rows.values():
            self._add(gram(rows))
        wide, total = torch.promote_types(logits.dtype, torch.float32), self._total
        if total is None:
            total = logits.new_zeros(num, len(pulled), len(pulled), dtype=wide)
        total = (total + total.mT) / 2
        if not bool(torch.isfinite(total).all()):
            raise ValueError(
                f"the covariance of the logits is NaN or infinite in {total.dtype}; look at the size of the inputs and "
                "of the standard deviations, or use a model in float64"
            )
        return total.to(wide).detach()

    def _of_others(self, x: Tensor, directions: Tensor) -> None:
        """Add the contribution of parameters without a rule: their gradients for each example, (B, R, K) directions."""
        mean = {name: m.detach() for name, m in self.posterior.mean.items()}
        chosen = {name: mean[name] for name in self._others}

        def rows(example: Tensor, of_example: Tensor) -> dict[str, Tensor]:
            pull = torch.func.vjp(lambda moving: self.setting.call({**mean, **moving}, example[None])[0], chosen)[1]
            # one direction after the other: torch's derivative of PReLU is wrong within two vmaps
            pulled = [pull(direction)[0] for direction in of_example]
            return {name: torch.stack([row[name] for row in pulled]) for name in chosen}

        with differentiable():
            try:
                found = torch.func.vmap(rows)(x, directions)
            except RuntimeError:  # an operation that vmap does not know
                one_by_one = [self._row_by_row(example, of) for example, of in zip(x, directions, strict=True)]
                found = {name: torch.stack([row[name] for row in one_by_one]) for name in chosen}
        wide = torch.promote_types(directions.dtype, torch.float32)
        total = directions.new_zeros(len(x), directions.shape[1], directions.shape[1], dtype=wide)
        for name, gradient in found.items():
            if name in self.posterior.std:
                scaled = (gradient * self.posterior.std[name]).reshape(*gradient.shape[:2], -1).to(wide)
                total += scaled @ scaled.mT
            else:
                self._scale(name, gradient.transpose(0, 1).to(wide), slice(None), len(x))
        self._add(total if self._total is None else total.to(self._total.dtype))

    def _row_by_row(self, example: Tensor, directions: Tensor) -> dict[str, Tensor]:
        call, chosen = self.setting.call, [self._grown[name] for name in self._others]
        how: Any = {"retain_graph": True, "materialize_grads": True, "allow_unused": True}
        with torch.enable_grad():
            logits = call(self._grown, example[None])[0]
        with call.carrying(self._grown):  # a checkpoint runs again
            rows = [torch.autograd.grad(logits, chosen, direction, **how) for direction in directions]
        columns = zip(self._others, zip(*rows, strict=True), strict=True)
        return {name: torch.stack([row.to_dense() for row in column]) for name, column in columns}


def _mebibytes(size: float) -> str:
    number = size / MEBIBYTE
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def differentiable_input(x: Tensor) -> Tensor:
    """Return the batch in a form that autograd takes: tensors made in inference mode are copied."""
    return x.clone() if isinstance(x, Tensor) and x.is_inference() else x


def _batch_axis(one: Seen, two: Seen) -> int | None:
    """Return the axis, of inputs and outputs alike, along which two examples are longer than one; None without one."""
    axes = set()
    for small, large in ((one.input.shape, two.input.shape), (one.output_shape, two.output_shape)):
        differ = [i for i, (a, b) in enumerate(zip(small, large, strict=False)) if a != b]
        if len(small) != len(large) or len(differ) != 1 or small[differ[0]] != 1:
            return None
        axes.add(differ[0])
    return axes.pop() if len(axes) == 1 else None


def _uses(done: Pass, parameters: dict[str, Tensor]) -> dict[str, int]:
    """Count how often each parameter enters the logits' graph."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    uses = dict.fromkeys(parameters, 0)
    waiting, known = [done.logits.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        for following, _ in node.next_functions:
            name = names.get(id(getattr(following, "variable", None)))
            if name is not None:
                uses[name] += 1
            waiting.append(following)
    return uses
