"""The optimizer: groups and hyperparameters, samples and steps, several processes, persistence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.join import Join, Joinable, JoinHook, _JoinConfig
from torch.optim import Optimizer

from vlls._compiled import uncompiled
from vlls._locks import holding
from vlls._names import kind_of
from vlls._validation import check_generator, check_whole_number, plain
from vlls.optim._protocol import VariationalOptimizer
from vlls.optim._running import frozen_running_state
from vlls.optim._wrapped import on_itself, only_makes_state
from vlls.optim.alg1 import HessApprox
from vlls.optim.ivon import _checks as checks
from vlls.optim.ivon import _processes as processes
from vlls.optim.ivon._executors import StepExecutor
from vlls.optim.ivon._state import ParameterState
from vlls.optim.ivon._weights import Weights, Where
from vlls.posterior import DiagonalPosterior


class IVON(Optimizer, Joinable):
    r"""Variational learning of a diagonal Gaussian :math:`q = \mathcal N(m, \mathrm{diag}(\sigma^2))` over weights.

    Each step draws :math:`\theta \sim q`, takes the gradient there, and moves the mean by a Newton-like step with a
    running estimate :math:`h` of the Hessian's diagonal. It also gives :math:`\sigma = 1/\sqrt{\lambda (h + \delta)}`
    with :math:`\lambda` = ``ess`` and :math:`\delta` = ``weight_decay`` (Alg. 1, Chapter 5). Training at samples of the
    weights smooths the labels adaptively (Eq. 20, Chapter 6).

    A step of float32 parameters is one kernel where there is one: in C on a CPU with a C compiler, which builds it at
    the first step on a machine, within seconds, and in Triton on a GPU. Elsewhere it is torch's operations. Printing
    the optimizer tells, and :attr:`executor` does.

    Keywords and, with ``fused=False``, numbers agree with the public ``ivon-opt``: the same seed gives the same
    trajectory on a CPU. Parameters are written in place: storage, address and memory format stay.

    Args:
        params: parameters of any floating dtype and device, or groups of them; a group may set its own ``lr``,
            ``ess``, ``hess_init``, ``beta1``, ``beta2``, ``weight_decay``, ``clip_radius``, ``hess_clip``,
            ``hess_every``, ``hess_approx``, ``debias`` and ``rescale_lr``.
        lr: step size, >= 0; a number, or a 0-d tensor that a scheduler writes. With ``rescale_lr`` the first steps are
            as long as those of SGD without momentum; SGD with momentum 0.9 goes as far at a tenth of the rate, so 0.1
            to 1 suits most networks (Chapter 10). Adam's 1e-3 is so small that the weights hardly move.
        ess: effective sample size :math:`\lambda` >= 1: the number of training examples if the loss is the mean over a
            batch. It divides the variance of the noise: an ``ess`` of 1 drowns the weights in noise, and one above the
            number of examples gives a posterior that is too narrow.
        hess_init: initial Hessian :math:`h_0` > 0: the larger, the smaller the first noise.
        beta1: decay of the gradient average, in [0, 1).
        beta2: decay of the Hessian average, in [0, 1]. At 1 the covariance is fixed: the ablation of Fig. 6, and with
            ``beta1=0`` variational gradient descent (Theorem 1).
        weight_decay: prior precision divided by ``ess``, >= 0.
        mc_samples: samples a step, >= 1, that :meth:`step` draws itself when given a closure.
        hess_approx: ``"price"`` (unbiased, Alg. 1) or ``"gradsq"`` (squared gradients times ``ess``, biased by the
            batch size; Chapter 5).
        clip_radius: bound on each entry of the preconditioned gradient, > 0.
        hess_clip: bound on each entry of a step's estimate of the Hessian, as a multiple of :math:`h + \delta`, > 0. In
            such multiples an estimate scatters by :math:`|\hat g| \sqrt{\lambda / (h + \delta)}`: at a small
            ``hess_init``, 100 cuts outliers off, while 1 leaves little but signs, and the Hessian stays at its start.
        hess_every: steps, >= 1, from one update of the Hessian to the next, which learns from its own step alone. It
            is learned as many times more slowly, unless :math:`1 - \beta_2` is made as many times larger.
        sync: average gradients and curvature over the processes of ``torch.distributed``, each with its own sample.
            If some may have fewer batches than others, train ``with Join([model, optimizer]):``.
        debias: divide the gradient average by :math:`1 - \beta_1^t`.
        rescale_lr: multiply ``lr`` by ``hess_init + weight_decay``, so that the first steps are as long as those
            of SGD without momentum.
        generator: where the samples come from; torch's global generators if None. Its state is in ``state_dict()``.
        foreach: without ``fused``, apply each operation to lists of tensors. None: if all parameters are on a GPU.
        fused: one kernel a step for float32 parameters: the quickest and leanest, with its own random numbers. None:
            where it works and ``foreach`` is None too. If True, a lack of compiler or Triton is an error.

    Raises:
        ValueError: if an argument is out of range or unknown, or a parameter complex, integer, sharded or not a leaf.

    Warns:
        UserWarning: once, if the noise is more than three times as large as the weights at the start, or if the first
            100 steps at a constant ``lr`` move the weights by less than 2 % of their size.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.randn(64, 5), torch.randint(3, (64,))
        >>> model = torch.nn.Linear(5, 3)
        >>> optimizer = IVON(model.parameters(), lr=0.1, ess=64)
        >>> for _ in range(20):
        ...     with optimizer.sampled_params(train=True):
        ...         loss = torch.nn.functional.cross_entropy(model(x), y)
        ...         loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> sorted(optimizer.posterior(model).std)
        ['bias', 'weight']
    """

    _own: tuple[str, ...] = ()  # hyperparameters that a subclass adds
    _join_config = _JoinConfig.construct_disabled_join_config()  # Join sets another
    _checked: list[Any]
    _by_world = True  # divide_by_initial_world_size, of Join
    _step_supports_amp_scaling = True  # GradScaler hands over its scale and found_inf; step() undoes and skips

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        ess: float,
        *,
        hess_init: float = 1.0,
        beta1: float = 0.9,
        beta2: float = 0.99999,
        weight_decay: float = 1e-4,
        mc_samples: int = 1,
        hess_approx: HessApprox = "price",
        clip_radius: float = math.inf,
        hess_clip: float = math.inf,
        hess_every: int = 1,
        sync: bool = False,
        debias: bool = True,
        rescale_lr: bool = True,
        generator: torch.Generator | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        **unknown: Any,
    ) -> None:
        own = {name: unknown.pop(name) for name in self._own}
        checks.check_keywords(unknown, type(self).__name__, self._own)
        params = list(params) if not isinstance(params, (Tensor, dict)) else params
        checks.check_options(params=params, mc_samples=mc_samples, generator=generator, foreach=foreach, fused=fused)
        self.mc_samples, self.sync, self.generator = mc_samples, bool(sync), generator
        self.foreach, self.fused = foreach, fused
        self._reset()
        defaults = {
            "lr": lr,
            "ess": ess,
            "hess_init": hess_init,
            "beta1": beta1,
            "beta2": beta2,
            "weight_decay": weight_decay,
            "clip_radius": clip_radius,
            "hess_clip": hess_clip,
            "hess_every": hess_every,
            "hess_approx": hess_approx,
            "debias": debias,
            "rescale_lr": rescale_lr,
            **own,
        }
        defaults = plain(defaults)
        self._check_group(defaults)
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise a ValueError if a hyperparameter is out of range."""
        checks.check_group(group)

    def _check_changes(self) -> None:
        """Check the hyperparameters again if one has been replaced since the last check, by a scheduler or by hand."""
        if torch.compiler.is_compiling():
            return
        values = [self.mc_samples, self.generator, *chain.from_iterable(group.values() for group in self.param_groups)]
        if len(values) != len(self._checked) or not all(map(is_, values, self._checked)):
            check_whole_number(self.mc_samples, "mc_samples", 1)
            check_generator(self.generator)
            for group in self.param_groups:
                self._check_group(plain(group))
            self._checked = values

    def _check_saved(self, state: dict[str, Any], param: Tensor, which: str) -> None:
        """Raise a ValueError if the saved state of a parameter is not one of this optimizer."""
        checks.check_state(state, param, which, type(self).__name__)
        if any(name.startswith("basis_") for name in state):
            raise ValueError(f"the saved state of {which} is EVON's, with a Hessian in an eigenbasis; load it in EVON")

    def _reset(self) -> None:
        """Forget samples and scratch memory; lasting state is in ``self.state``."""
        self._weights = Weights(self)
        self._seeds_checked = False
        self._checked = []  # the hyperparameters when they were last checked
        self._begun = False  # True from the first training sample on
        self._first_steps: checks.FirstSteps | None = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own hyperparameters if given, also after training has begun.

        Args:
            param_group: ``params`` and the values that a group may set.

        Raises:
            ValueError: if a hyperparameter is out of range, misspelt or not for a group, or a parameter cannot be
                optimized; nothing is added.
        """
        if isinstance(param_group, dict):
            params = param_group.get("params", [])
            params = [params] if isinstance(params, Tensor) else list(params)
            param_group = plain({**param_group, "params": params})
            name = type(self).__name__
            checks.check_parameters(params, name)
            checks.check_keys(param_group, self.defaults, name)
            self._check_group({**self.defaults, **param_group})
        with self._alone():
            self._refuse_inside("add_param_group()")
            super().add_param_group(param_group)

    @property
    def executor(self) -> str:
        """The name of the code that takes the steps; random numbers and last digits depend on it.

        ``"cpu ivon-HASH"`` is the compiled kernel (the hash is of its source, compiler options and processor) and
        ``"cuda triton VERSION"`` the Triton kernel; torch's operations are ``"single"`` or ``"foreach"``.

        Raises:
            RuntimeError: with ``fused=True``, if the kernel cannot be had.
        """
        return ", ".join(dict.fromkeys(kind.label() for kind in self._executors()))

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold the steps, as those of a kernel, which read no number from the device."""
        return bool(self.fused) or all(kind.option == "fused" for kind in self._executors())

    def _executors(self) -> list[type[StepExecutor]]:
        """The executor of each parameter that is trained."""
        params = [p for p in self._params() if p.requires_grad and p.numel()] or self._params()
        return self._weights.executors_of(params)

    def __repr__(self) -> str:
        try:
            executor = self.executor
        except RuntimeError as error:
            executor = str(error)
        return f"{super().__repr__()}\nexecutor: {executor}"

    @on_itself
    @contextmanager
    def sampled_params(self, train: bool = False) -> Iterator[None]:
        r"""Set the parameters to a sample :math:`\theta \sim q` within the block, and to the mean afterwards.

        The mean comes back bit for bit, even if the block raises, returns or is interrupted. Another thread that wants
        a sample or a step waits.

        Args:
            train: whether the next :meth:`step` learns from the gradients that the block leaves in ``param.grad``.
                They count as one sample: several blocks before a step are averaged, while several backward passes in
                one block add up, as everywhere in torch. Call ``backward()`` inside the block: after it, the weights
                are others, and torch refuses. If False, nothing is recorded and no running state of the model changes:
                statistics of a normalisation, vectors of a spectral norm, other buffers.

        Raises:
            RuntimeError: inside another sample of the same thread, or if a gradient is sparse.
            ValueError: if a hyperparameter has been set out of range.
        """
        with self._alone():
            self._refuse_inside("sampled_params()")
            states, local = self._begin(train)
            try:
                self._weights.draw(states)
                with nullcontext() if train else frozen_running_state(self._params()):
                    yield
            finally:
                self._weights.restore()
                if local is not None:
                    local.close()
            if train:
                self._weights.count_sample(states, local)

    @on_itself
    @contextmanager
    def keep_sampled(self) -> Iterator[None]:
        r"""Keep the parameters at a sample within the block, a new one after each step; afterwards they are the mean.

        This is the quickest way to train: the kernel that updates the mean also draws the next sample. The loop is the
        same as with any other optimizer: ``loss.backward(); optimizer.step(); optimizer.zero_grad()``. Evaluate after
        the block.

        Raises:
            RuntimeError: inside another sample, or if ``mc_samples`` is not 1.

        Example:
            >>> weight = torch.nn.Parameter(torch.ones(3))
            >>> optimizer = IVON([weight], lr=0.1, ess=100.0)
            >>> with optimizer.keep_sampled():
            ...     for _ in range(3):
            ...         optimizer.zero_grad()
            ...         weight.square().sum().backward()
            ...         optimizer.step()
        """
        with self._alone():
            self._refuse_inside("keep_sampled()")
            if self.mc_samples != 1:
                raise RuntimeError(
                    f"keep_sampled() holds one sample at a time but mc_samples={self.mc_samples}; "
                    "set mc_samples=1 or use step(closure) without it"
                )
            if self.sync and processes.several_processes():
                raise RuntimeError(
                    "keep_sampled() cannot separate this process's gradient from the average of all; "
                    "use sampled_params(train=True) or step(closure) with sync=True"
                )
            self._weights.discard()
            states, _ = self._begin(train=True)
            try:
                self._weights.draw(states, keep=True)
                yield
            finally:
                self._weights.restore()
            self._look_back()

    def _look_back(self) -> None:
        if self._first_steps is not None and not self._weights.kept and self._first_steps.ended():
            self._first_steps = None

    def _params(self) -> list[Tensor]:
        """Every parameter, trainable or not."""
        return [p for group in self.param_groups for p in group["params"]]

    def _alone(self) -> AbstractContextManager[None]:
        """Make other threads wait: only one at a time changes the parameters or reads the mean."""
        return holding(self._params())

    def _refuse_inside(self, call: str) -> None:
        if self._weights.at_sample:
            raise RuntimeError(
                f"{call} was called while the parameters hold a sample; leave the block of sampled_params() or "
                "keep_sampled() first (step(closure) samples by itself)"
            )

    @torch.inference_mode(False)  # the state outlives the block in which it is made
    @torch.no_grad()
    def _begin(self, train: bool) -> tuple[list[ParameterState], processes.LocalGradients | None]:
        """Prepare the next sample, which overwrites the last one's noise and, if it trains, ``param.grad``."""
        self._check_changes()
        states = self._weights.plan()
        if train and not self._begun and not torch.compiler.is_compiling():
            self._begun = True
            self._first_steps = checks.FirstSteps(states) if checks.can_look(states) else None
        self._weights.samples.keep_average()
        if self._weights.samples and train:
            self._weights.samples.take_from_grads()
            for state in states:
                state.param.grad = None
        together = train and self.sync and processes.several_processes()
        return states, processes.LocalGradients(states) if together else None

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Any]) -> Any: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        r"""Update mean and Hessian from the samples taken since the last step (Alg. 1, lines 3-8).

        Args:
            closure: clears the gradients, computes the loss, calls ``backward()`` and returns the loss. It is called
                ``mc_samples`` times, each time at a new sample, and must not sample itself.

        Returns:
            The mean of the closure's losses, or None without a closure.

        Raises:
            RuntimeError: without a sample to learn from, inside a sample, with a closure while a sample waits, or if a
                gradient is sparse. Nothing has changed then.
            ValueError: if a hyperparameter has been set out of range since the last step; the sample still waits.
        """
        with self._alone():
            weights, loss = self._weights, None
            self._check_changes()
            if weights.kept:
                loss = _call(closure) if closure is not None else None
                weights.count_sample(weights.planned)
            elif closure is not None:
                self._refuse_inside("step(closure)")
                if weights.where is Where.WAITING:
                    raise RuntimeError(
                        "step(closure) samples by itself, but a gradient of sampled_params(train=True) waits for its "
                        "step; call step() without a closure to learn from it"
                    )
                loss = self._sample_closure(closure)
            else:
                self._refuse_inside("step()")
                if weights.where is Where.MEAN:
                    if only_makes_state(self):
                        weights.refresh()
                        return self._store_generator()
                    raise RuntimeError(
                        "step() has no sample to learn from; compute the loss and call backward() inside "
                        "`with optimizer.sampled_params(train=True):`, or call step(closure)"
                    )
            try:
                self._update()
            finally:
                weights.discard()
                if not weights.kept:
                    weights.restore()
        return loss

    def _sample_closure(self, closure: Callable[[], Any]) -> Any:
        """Call the closure at ``mc_samples`` samples; the parameters are left at the last of them."""
        total: Any = None
        try:
            for sample in range(self.mc_samples):
                self._weights.restore()
                states, local = self._begin(train=True)
                try:
                    self._weights.draw(states)
                    loss = _call(closure)
                finally:
                    if local is not None:
                        local.close()
                self._weights.count_sample(states, local)
                loss = loss.detach() if isinstance(loss, Tensor) else loss
                total = loss if sample == 0 or loss is None else total + loss
        except BaseException:
            self._weights.restore()
            self._weights.discard()
            raise
        return total / self.mc_samples if self.mc_samples > 1 and total is not None else total

    def _update(self) -> None:
        """Lines 3 to 8 of Alg. 1 for every parameter that has a gradient."""
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        together = self.sync and processes.several_processes()
        if not together and found_inf is not None and float(found_inf) != 0.0:
            return  # GradScaler skips a step with an infinity or a NaN
        states = self._weights.samples.finish(None if scale is None else 1.0 / float(scale))
        if together and not self._average(states, found_inf):
            return
        self._weights.update(states)
        if self._first_steps is not None:
            self._first_steps.steps += 1
            self._look_back()

    def _average(self, states: list[ParameterState], found_inf: Tensor | None) -> bool:
        """Average over the processes; return False if one has found an infinity."""
        Join.notify_join_context(self)
        world = dist.get_world_size()
        stepping = processes.count_stepping(self.join_device, stepping=True)
        if stepping < world and not self._join_config.enable:
            raise RuntimeError(
                f"{world - stepping} of {world} processes ran out of batches and do not step; "
                "use `with Join([model, optimizer]):`, or give all of them as many"
            )
        if stepping == world and not self._seeds_checked:
            processes.warn_of_equal_samples(next(self._weights.noise(states[:1])))
            self._seeds_checked = True
        # DistributedDataParallel, joined before, has divided the sum of all gradients in the same way
        divisor = world if self._by_world and not self._join_config.is_first_joinable else stepping
        return processes.average_over_processes(states, found_inf, stepping=stepping, divisor=divisor)

    def join_hook(self, **options: Any) -> JoinHook:
        """Allow processes to have different numbers of batches: ``with Join([model, optimizer]):``, the model first.

        A process that has run out of batches adds nothing to the others' steps. At the end of the block all processes
        take the parameters and the state of one that had the most batches. Inside the block, call :meth:`step` once
        after each forward pass.

        Args:
            **options: ``divide_by_initial_world_size``, as for DistributedDataParallel.

        Returns:
            A hook for :class:`torch.distributed.algorithms.join.Join`.
        """
        self._by_world = bool(options.get("divide_by_initial_world_size", True))
        return _OutOfBatches(self)

    @property
    def join_device(self) -> torch.device:
        """The device of the parameters."""
        return self._params()[0].device

    @property
    def join_process_group(self) -> Any:
        """All processes."""
        return dist.group.WORLD

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, but keep the samples that wait for the next :meth:`step`.

        Args:
            set_to_none: free the gradients' memory instead of filling it with zeros.
        """
        with self._alone():
            if self._weights.where is Where.WAITING:
                with torch.no_grad():
                    self._weights.samples.take_from_grads()
            super().zero_grad(set_to_none)

    @on_itself
    @torch.inference_mode(False)
    @torch.no_grad()
    def posterior(self, model: torch.nn.Module) -> DiagonalPosterior:
        r"""Return the posterior :math:`\mathcal N(m, \mathrm{diag}(\sigma^2))` by the names of the model's parameters.

        Args:
            model: the module whose parameters this optimizer trains, compiled or not. Parameters that the optimizer
                does not train are left out.

        Returns:
            A :class:`.DiagonalPosterior` of copies, on the parameters' devices.

        Raises:
            ValueError: if the optimizer trains none of the model's parameters, or a hyperparameter is out of range.
            RuntimeError: inside a sample.
        """
        with self._alone():
            self._refuse_inside("posterior()")
            self._check_changes()
            states = {state.param: state for state in self._weights.refresh()}
            named = {name: states[p] for name, p in uncompiled(model).named_parameters() if p in states}
            if not named:
                raise ValueError(
                    f"none of the parameters of {type(model).__name__} is trained by this optimizer; "
                    "pass the model whose parameters() the optimizer was made with"
                )
            return self._posterior_of(named)

    def _posterior_of(self, named: dict[str, ParameterState]) -> DiagonalPosterior:
        means = {name: state.mean.clone() for name, state in named.items()}
        return DiagonalPosterior(means, {name: state.std() for name, state in named.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return everything that :meth:`load_state_dict` needs to go on bit for bit, also the ``generator``'s state.

        Options of the whole optimizer are not included. Make the other optimizer with the same ``fused`` and
        ``foreach``, on which the random numbers depend, and with a ``generator`` if this one has one.

        Raises:
            RuntimeError: inside a sample, because the parameters of the model are not the mean then.
        """
        with self._alone():
            self._refuse_inside("state_dict()")
            self._store_generator()
            saved = super().state_dict()
            saved["param_groups"] = [plain(group) for group in saved["param_groups"]]
            if self.generator is not None:
                saved["generator"] = self.generator.get_state()
            return saved

    @torch.inference_mode(False)
    @torch.no_grad()
    def _store_generator(self) -> None:
        """Keep the generator's state with the first parameter's: torch.distributed.checkpoint saves nothing else."""
        if self.generator is not None and (states := self._weights.refresh()):
            states[0].lasting["generator"] = self.generator.get_state().to(states[0].param.device)

    @on_itself
    @torch.inference_mode(False)
    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, with the saved hyperparameters of the groups, as everywhere in torch.

        Args:
            state_dict: what :meth:`state_dict` returned, from an optimizer of the same parameters.

        Raises:
            ValueError: naming the mismatch; nothing has changed then.
            RuntimeError: inside a sample.

        Warns:
            UserWarning: if only one of the two optimizers has a ``generator``: the samples will differ.
        """
        if not isinstance(state_dict, dict):
            own = f"{type(self).__name__}.state_dict()"
            raise ValueError(f"state_dict is {kind_of(state_dict)}; pass what {own} returned")
        loaded: dict[str, Any] = {}

        def check(_: Optimizer, given: dict[str, Any]) -> None:
            checks.check_state_dict(given, self)
            checks.check_generator_state(checks.saved_generator(given), self.generator)
            loaded.update(given)

        def take_over(_: Optimizer) -> None:
            ids = [i for group in loaded["param_groups"] for i in group["params"]]
            for param, i in zip(self._params(), ids, strict=True):  # torch has cast to the parameter's dtype
                for name, value in loaded["state"].get(i, {}).items():
                    device = value.device if name == "step" else param.device
                    self.state[param][name] = value.detach().to(device, copy=True)
                self.state.get(param, {}).pop("generator", None)
            state = checks.saved_generator(loaded)
            if self.generator is not None and state is not None:
                self.generator.set_state(state)
            self._reset()

        with self._alone():
            self._refuse_inside("load_state_dict()")
            hooks = [  # after the user's, which may change the dict, and before those that may change the state
                self.register_load_state_dict_pre_hook(check),
                self.register_load_state_dict_post_hook(take_over, prepend=True),
            ]
            try:
                super().load_state_dict(state_dict)
            finally:
                for hook in hooks:
                    hook.remove()

    def __getstate__(self) -> dict[str, Any]:
        with self._alone():
            self._refuse_inside("copying or pickling the optimizer")
            options: dict[str, Any] = {name: getattr(self, name) for name in ("mc_samples", "sync", "foreach", "fused")}
            if self.generator is not None:
                options["generator_state"] = (str(self.generator.device), self.generator.get_state())
            return {**super().__getstate__(), **options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "defaults" in state:  # a whole optimizer (pickle, deepcopy), not torch's load_state_dict
            self._reset()
            self.generator = None
            if "generator_state" in state:
                device, value = state.pop("generator_state")
                self.generator = torch.Generator(device)
                self.generator.set_state(value)
        super().__setstate__(state)
        for group in (self.defaults, *self.param_groups):
            for name, value in checks.LATER.items():
                group.setdefault(name, value)


class _OutOfBatches(JoinHook):
    """Lets a process without batches take part in the others' steps, under ``Join``."""

    def __init__(self, optimizer: IVON) -> None:
        self._optimizer = optimizer

    @torch.no_grad()
    def main_hook(self) -> None:
        """Take part in a step of the others, with no gradient."""
        optimizer, weights = self._optimizer, self._optimizer._weights
        if not optimizer.sync:
            return
        with optimizer._alone():
            optimizer._refuse_inside("Join")
            weights.discard()
            states = weights.refresh()
            count = processes.count_stepping(optimizer.join_device, stepping=False)
            processes.average_over_processes(states, stepping=count, divisor=count)
            for state in states:
                state.grad = state.statistic = None

    @torch.no_grad()
    def post_hook(self, is_last_joiner: bool) -> None:
        """Go on from the state of a process that had the most batches."""
        optimizer = self._optimizer
        optimizer._join_config = _JoinConfig.construct_disabled_join_config()
        if optimizer.sync and processes.several_processes():
            with optimizer._alone():
                processes.take_over_from_last(optimizer._weights.refresh(), is_last_joiner)


def _call(closure: Callable[[], Any]) -> Any:
    with torch.enable_grad():
        return closure()


if TYPE_CHECKING:
    _: type[VariationalOptimizer] = IVON  # checked by mypy
