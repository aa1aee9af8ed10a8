"""Sharpness-aware minimization: the mathematics as functions of lists of tensors, and the optimizer."""

from __future__ import annotations

import copy
import inspect
import math
import numbers
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from vlls._compiled import capturing, drop_cached_casts
from vlls._locks import holding
from vlls._names import kind_of
from vlls._validation import plain
from vlls._warnings import warn_caller
from vlls.optim._finite import are_finite, mesh_of
from vlls.optim._running import FrozenRunningState
from vlls.optim._wrapped import on_itself, only_makes_state

SKIPS = 25  # skipped steps in a row after which SAM warns; a GradScaler needs fewer to find its scale


# ---------------------------------------------------------------------- the mathematics
def _wide(tensors: list[Tensor]) -> list[Tensor]:
    """Return half-precision tensors in float32 and the others as they are."""
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def weighted_norms(params: list[Tensor], grads: list[Tensor], adaptive: bool, foreach: bool) -> list[Tensor]:
    r"""Return :math:`\lVert \mathbf T_\theta \mathbf g \rVert` of each tensor, scalars on its device."""
    grads, params = _wide(grads), _wide(params) if adaptive else params
    # A GPU sums in float64 at no cost, so that squares of large or tiny gradients neither overflow nor vanish; on a CPU
    # that takes 15 times as long and is done for those tensors alone.
    device = grads[0].device.type
    dtype = None if device in ("cpu", "mps") else torch.float64
    if foreach:
        weighted = list(torch._foreach_mul(torch._foreach_abs(params), grads)) if adaptive else grads
        norms = list(torch._foreach_norm(weighted, 2, dtype=dtype))
    else:
        weighted = [p.abs() * g for p, g in zip(params, grads, strict=True)] if adaptive else grads
        norms = [torch.linalg.vector_norm(w, dtype=dtype) for w in weighted]
    if device == "cpu":
        for i, (w, norm) in enumerate(zip(weighted, norms, strict=True)):
            if w.dtype == torch.float32 and not 1e-15 < float(norm) < 1e15:
                norms[i] = torch.linalg.vector_norm(w, dtype=torch.float64)
    return norms


def perturb_(
    params: list[Tensor], grads: list[Tensor], norm: Tensor, rho: float, adaptive: bool, foreach: bool
) -> None:
    r"""Add :math:`\mathbf e` in place to parameters of one dtype and device; nothing where ``norm`` is 0."""
    # Divided first: rho / norm overflows for tiny gradients. It stays a tensor: reading it would wait for the GPU.
    norm = norm.masked_fill(norm == 0, 1.0).to(params[0].device, torch.promote_types(params[0].dtype, torch.float32))
    if foreach:
        steps = list(torch._foreach_div(_wide(grads), norm))
        torch._foreach_mul_(steps, rho)
        for _ in range(2 * adaptive):
            torch._foreach_mul_(steps, _wide(params))
        torch._foreach_add_(params, steps)
        return
    for p, g in zip(params, _wide(grads), strict=True):
        step = g.div(norm).mul_(rho)
        p.add_(step.mul_(p).mul_(p) if adaptive else step)


# ---------------------------------------------------------------------- checks of the arguments
def _checked_options(group: dict[str, Any]) -> tuple[float, bool]:
    """Return a group's ``rho`` and ``adaptive``, if they are valid."""
    rho, adaptive = group["rho"], group["adaptive"]
    radius = float(rho) if isinstance(rho, numbers.Real) and not isinstance(rho, bool) else math.nan
    if not 0 <= radius < math.inf:
        raise ValueError(f"rho={rho!r} is not a radius; choose a finite number >= 0, such as 0.05")
    if not isinstance(adaptive, bool):
        raise ValueError(f"adaptive={adaptive!r}; choose True or False")
    return radius, adaptive


def _checked_group(group: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a parameter group whose ``params`` are a list, ``rho`` and ``adaptive`` being valid."""
    if missing := [key for key in ("params", "rho", "adaptive") if key not in group]:
        raise ValueError(f"a group of params has no {missing[0]!r}, only {sorted(group)}; add it")
    params, (radius, _) = group["params"], _checked_options(group)
    params = [params] if isinstance(params, Tensor) else list(params)
    tensors = [p[1] if isinstance(p, tuple) else p for p in params]  # torch allows pairs (name, parameter)
    for i, p in enumerate(tensors):
        if not isinstance(p, Tensor):
            raise ValueError(f"params holds {kind_of(p)} at {i}; pass tensors, as model.parameters() does")
        if not p.is_floating_point() or p.layout != torch.strided:
            raise ValueError(
                f"params holds a tensor of {p.dtype}, {p.layout} at {i}; pass dense real floating-point ones"
            )
        if getattr(p, "_fsdp_flattened", False):
            raise ValueError(
                f"params holds a shard of FullyShardedDataParallel at {i}, whose gradient's norm is not that of all; "
                "use torch.distributed.fsdp.fully_shard"
            )
    if len({id(p) for p in tensors}) < len(tensors):
        raise ValueError("params holds a parameter more than once in a group; pass each once")
    return plain({**group, "params": params, "rho": radius})


def _checked_groups(params: Any, defaults: dict[str, Any]) -> list[dict[str, Any]]:
    """Return ``params``, in any form that torch's optimizers take, as a list of valid groups."""
    if isinstance(params, (Tensor, set)) or not isinstance(params, Iterable):
        raise ValueError(f"params is {kind_of(params)}; pass a list, as list(model.parameters())")
    entries: list[Any] = list(params)
    given = entries if all(isinstance(entry, dict) for entry in entries) else [{"params": entries}]
    groups = [_checked_group({**defaults, **group}) for group in given]
    if not any(group["params"] for group in groups):
        raise ValueError("params holds no parameter; pass at least one, as list(model.parameters())")
    return groups


def _broadcasts(shape: torch.Size, target: torch.Size) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(have in (1, want) for have, want in pairs)


class SAM(Optimizer):
    r"""Sharpness-aware minimization (Foret et al., 2021) on top of any first-order optimizer of torch.

    .. math::
        \min_\theta \max_{\lVert \mathbf T_\theta^{-1} \mathbf e \rVert \le \rho} \ell(\theta + \mathbf e), \qquad
        \mathbf e = \rho \, \frac{\mathbf T_\theta^2 \mathbf g}{\lVert \mathbf T_\theta \mathbf g \rVert}, \qquad
        \mathbf g = \nabla \ell(\theta),

    with :math:`\mathbf T_\theta = \mathbf I`, or :math:`\operatorname{diag} |\theta|` for the adaptive SAM of Kwon et
    al. (2021). The norm runs over all parameters, whatever their group, dtype and device.

    Each step takes two gradients: at :math:`\theta`, and at :math:`\theta + \mathbf e`. The base optimizer updates
    :math:`\theta` with the second. If a group of the base optimizer has ``maximize=True``, the worst point lies
    downhill, and ``rho`` counts negative. Chapter 6 derives the label noise of SAM.

    The running state of the model (statistics of a normalisation, vectors of a spectral norm, other buffers) is
    updated only by the passes at :math:`\theta`. Other threads wait for the weights from the first step to the second.
    Parameters may be sharded by ``torch.distributed.fsdp.fully_shard``.

    The base optimizer shares ``param_groups`` and ``state``: schedulers attach to this one. Gradients must be
    unscaled: with a ``torch.amp.GradScaler`` call ``scaler.unscale_(optimizer)`` before, and ``scaler.update()``
    after, each of :meth:`first_step` and :meth:`second_step`. If the gradients of either hold an infinity or a NaN,
    the step is skipped, as the scaler skips those of others: weights and base optimizer stay as they are.

    Args:
        params: dense real parameters of any shapes, or groups of them; a group may set its own ``rho``, ``adaptive``
            and options of the base optimizer.
        base_optimizer: a class such as ``torch.optim.SGD``.
        rho: radius :math:`\rho \ge 0` of the neighbourhood.
        adaptive: whether the neighbourhood scales with each parameter's magnitude.
        foreach: whether the perturbation uses torch's multi-tensor kernels; None: where they are quicker, which is on
            CUDA. The base optimizer chooses for itself: pass ``fused=True`` for its quickest.
        **kwargs: options of the base optimizer, such as ``lr``.

    Raises:
        ValueError: if ``rho`` is no finite number >= 0, a parameter is complex, of integers, sparse or flattened by
            FullyShardedDataParallel, there are none, or ``base_optimizer`` is no optimizer class whose ``step`` runs
            without a closure.

    Example:
        >>> theta = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = SAM([theta], torch.optim.SGD, rho=0.5, lr=0.1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = theta.square().sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item()              # the loss at theta, before the step
        12.5
        >>> theta.data                                 # theta - 0.1 (theta + 0.5 theta / 5)
        tensor([2.6700, 3.5600])
    """

    _original: list[tuple[Tensor, Tensor]] | None = None  # parameters and their values, while they are perturbed
    _frozen: FrozenRunningState
    _hold: ExitStack  # keeps other threads out while they are
    _sound = True  # whether the gradients of the first step were finite
    _skipped = 0  # steps in a row
    _rounding_checked = False

    def __init__(
        self,
        params: Any,
        base_optimizer: type[Optimizer],
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        foreach: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(base_optimizer, type) or not issubclass(base_optimizer, Optimizer):
            kind = "the class" if isinstance(base_optimizer, type) else f"{kind_of(base_optimizer)} instance,"
            raise ValueError(
                f"base_optimizer is {kind} {base_optimizer!r}; pass an optimizer's class, as torch.optim.SGD"
            )
        name = base_optimizer.__name__
        if hasattr(base_optimizer, "sampled_params"):  # a VariationalOptimizer
            raise ValueError(f"base_optimizer={name} takes its gradients at samples of its own; pass another, as SGD")
        try:
            inspect.signature(base_optimizer.step).bind(None)  # with self alone
        except TypeError as error:
            raise ValueError(f"base_optimizer={name} needs a closure in step; pass another, as SGD") from error
        if not isinstance(foreach, bool | None):
            raise ValueError(f"foreach={foreach!r}; choose True, False or None")
        options = {"rho": rho, "adaptive": adaptive}
        base = base_optimizer(_checked_groups(params, options), **plain(kwargs))
        if clash := sorted(options.keys() & base.defaults.keys()):
            raise ValueError(f"base_optimizer={name} has an option {clash[0]!r} of its own; choose another optimizer")
        super().__init__(base.param_groups, {**base.defaults, **options})
        self.base_optimizer, self.state, self.foreach = base, base.state, foreach
        self._share()

    def _share(self) -> None:
        self.base_optimizer.param_groups, self.base_optimizer.state = self.param_groups, self.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with its own options where it holds some.

        Raises:
            ValueError: as the constructor does.
        """
        if "base_optimizer" in self.__dict__:
            defaults = {name: self.defaults[name] for name in ("rho", "adaptive")}
            self.base_optimizer.add_param_group(_checked_group({**defaults, **param_group}))
        else:  # torch's constructor hands on the groups that the base optimizer has already
            super().add_param_group(param_group)

    # ------------------------------------------------------------------ the step
    @on_itself
    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        r"""Move the parameters to :math:`\theta + \mathbf e`, in place.

        Args:
            zero_grad: whether to clear the gradients afterwards.

        Raises:
            RuntimeError: if the first step was taken already.
            ValueError: if a gradient is sparse, or ``rho`` or ``adaptive`` has been set out of range.
        """
        with ExitStack() as hold:
            hold.enter_context(self._alone())
            self._check_at_theta("first_step")
            self._perturb()
            self._hold = hold.pop_all()
        if zero_grad:
            self.zero_grad()

    def _perturb(self) -> None:
        alike: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}  # parameters and gradients which move in one way
        for i, group in enumerate(self.param_groups):
            radius, adaptive = _checked_options(group)
            rho = -radius if group.get("maximize", False) else radius
            for j, p in enumerate(group["params"]):
                if p.grad is None or not p.requires_grad:
                    continue
                if p.grad.layout != torch.strided:
                    where = f"the gradient of params[{j}] in group {i} is sparse ({p.grad.layout})"
                    raise ValueError(f"{where}; SAM needs dense ones, as sparse=False in torch.nn.Embedding gives")
                foreach = p.is_cuda if self.foreach is None else self.foreach
                key = rho, adaptive, foreach, (p.device, p.dtype, mesh_of(p))
                params, grads = alike.setdefault(key, ([], []))
                params.append(p)
                grads.append(p.grad)

        # processes that hold shards must decide alike: all see an infinity in one of them
        shards = [g for _, grads in alike.values() for g in grads if mesh_of(g) is not None]
        self._sound = not shards or are_finite(shards)
        if not self._sound:
            alike.clear()
        norms = [n for (_, *how, _), tensors in alike.items() for n in weighted_norms(*tensors, *how)]
        norms = [n if mesh_of(n) is None else n.full_tensor() for n in norms]  # type: ignore[attr-defined]
        if norms:
            wide = norms[0].float() if norms[0].device.type == "mps" else norms[0].double()
            norm = torch.linalg.vector_norm(torch.stack([n.to(wide) for n in norms]))
            self._sound = capturing([norm]) or bool(torch.isfinite(norm))
            if not self._sound:
                alike.clear()  # nothing moves
        self._original = [(p, p.clone()) for params, _ in alike.values() for p in params]
        self._frozen = FrozenRunningState(self._params())
        self._frozen.start()
        try:
            for (*how, _), tensors in alike.items():
                perturb_(*tensors, norm, *how)
        except BaseException:  # out of memory, say: put back the parameters that have moved
            self._put_back()
            raise
        drop_cached_casts()
        self._warn_of_rounding()

    def _warn_of_rounding(self) -> None:
        """Warn, once, if half-precision parameters have hardly moved: SAM is then only its base optimizer."""
        halves = [pair for pair in self._original or () if torch.finfo(pair[0].dtype).bits < 32]
        if self._rounding_checked or not halves or any(group["rho"] == 0 for group in self.param_groups):
            return
        if capturing(p for p, _ in halves):
            return
        self._rounding_checked = True
        moved = sum(int((p != original).sum()) for p, original in halves) / sum(p.numel() for p, _ in halves)
        if moved < 0.5:
            warn_caller(
                f"only {moved:.1%} of the weights in {halves[0][0].dtype} have changed: SAM's perturbation is below "
                "their resolution; keep the parameters in float32 and use torch.autocast"
            )

    @on_itself
    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        r"""Put :math:`\theta` back, bit for bit, and update it by the base optimizer with the gradients now held.

        Args:
            zero_grad: whether to clear the gradients afterwards.

        Raises:
            RuntimeError: if the first step was not taken.
        """
        if self._original is None:
            raise RuntimeError("second_step was called without a first step; call first_step, then backward, then it")
        sound = self._sound and are_finite([p.grad for p in self._params() if p.grad is not None])
        with self._alone():
            self._restore()
            self._opt_called = True  # torch's schedulers read this, to warn that they were stepped first
            self._share()  # again, in case someone has assigned either
            if sound:
                self.base_optimizer.step()
                drop_cached_casts()
        self._skipped = 0 if sound else self._skipped + 1
        if self._skipped == SKIPS:
            warn_caller(
                f"the gradients of {SKIPS} steps in a row hold NaN or infinities, and SAM has left the weights alone; "
                "look at the loss and the inputs, and with a GradScaler call update() after each half of the step"
            )
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        r"""Take both steps with the gradients that ``closure`` computes.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward`` and returns the loss; runs twice.

        Returns:
            What ``closure`` returned at :math:`\theta`.

        Raises:
            RuntimeError: without a closure, or between :meth:`first_step` and :meth:`second_step`.
        """
        with self._alone():
            self._check_at_theta("step")
            if closure is None and only_makes_state(self):
                return self.base_optimizer.step()
            if closure is None:
                raise RuntimeError(
                    "step was called without a closure; call step(closure), or first_step and second_step"
                )
            with torch.enable_grad():
                loss = closure()
            self.first_step(zero_grad=True)
            try:
                with torch.enable_grad():
                    closure()
            except BaseException:
                self._restore()
                raise
            self.second_step()
            return loss

    @torch.no_grad()
    def _put_back(self) -> None:
        for p, original in self._original or ():
            p.copy_(original)
        self._original = None
        self._frozen.stop()
        drop_cached_casts()

    def _restore(self) -> None:
        self._put_back()
        self._hold.close()

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _alone(self) -> AbstractContextManager[None]:
        """Make other threads wait: one at a time changes the parameters, or reads them when they may be perturbed."""
        return holding(self._params())

    def _check_at_theta(self, method: str) -> None:
        if self._original is not None:
            raise RuntimeError(f"{method} was called after first_step, at perturbed weights; call second_step() first")

    # ------------------------------------------------------------------ saving and loading
    def state_dict(self) -> dict[str, Any]:
        """Return what torch's optimizers return, and the name of the base optimizer as ``base_optimizer``.

        Raises:
            RuntimeError: between :meth:`first_step` and :meth:`second_step`.
        """
        with self._alone():
            self._check_at_theta("state_dict")
            saved = super().state_dict()
            groups = [plain(group) for group in saved["param_groups"]]
            return {**saved, "param_groups": groups, "base_optimizer": type(self.base_optimizer).__name__}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a :meth:`state_dict`; tensors are copied.

        Raises:
            RuntimeError: between :meth:`first_step` and :meth:`second_step`.
            ValueError: if the dict belongs to other parameters or another base optimizer; nothing has changed then.
        """
        with self._alone():
            self._check_at_theta("load_state_dict")
            check = self.register_load_state_dict_pre_hook(lambda _, given: self._check_matches(given))  # the last one
            try:
                super().load_state_dict(copy.deepcopy(state_dict))  # torch would share the tensors with the dict
            finally:
                check.remove()

    def _check_matches(self, saved: dict[str, Any]) -> None:
        base_name = type(self.base_optimizer).__name__
        if any(isinstance(name, str) for group in saved.get("param_groups", ()) for name in group["params"]):
            saved = {"base_optimizer": base_name, **saved}  # torch.distributed.checkpoint keeps no more
        if missing := [key for key in ("state", "param_groups", "base_optimizer") if key not in saved]:
            raise ValueError(f"state_dict has no {missing[0]!r}; pass what SAM's state_dict() returned")
        theirs, ours = ([group["params"] for group in groups] for groups in (saved["param_groups"], self.param_groups))
        for what, their, our in (
            ("base_optimizer", saved["base_optimizer"], base_name),
            ("numbers of parameters by group", [len(ps) for ps in theirs], [len(ps) for ps in ours]),
        ):
            if their != our:
                raise ValueError(f"state_dict has {what} {their}, this optimizer has {our}; build it as the saved one")
        for group, params in zip(saved["param_groups"], ours, strict=True):
            _checked_group({**group, "params": params})
        for index, p in zip(chain(*theirs), chain(*ours), strict=True):
            for key, value in saved["state"].get(index, {}).items():
                # A buffer has its parameter's shape, or a reduced one that broadcasts to it (Adafactor).
                if isinstance(value, Tensor) and not _broadcasts(value.shape, p.shape):
                    shapes = f"{tuple(value.shape)}, parameter {index} has {tuple(p.shape)}"
                    raise ValueError(f"state_dict has {key!r} of shape {shapes}; load it for the saved model")

    def __getstate__(self) -> dict[str, Any]:
        with self._alone():
            self._check_at_theta("copy or pickle")
        return {**super().__getstate__(), "base_optimizer": self.base_optimizer, "foreach": self.foreach}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.base_optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups})
        self._share()
