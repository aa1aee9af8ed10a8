"""IVON over several processes: each draws its own sample, all take the same step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from vlls._warnings import warn_caller
from vlls.optim.ivon._state import ParameterState

STEP = 4096.0  # added by a process that makes a step: many times the 1 that it adds in a forward pass under ``Join``


def several_processes() -> bool:
    """Whether torch.distributed has been started with more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class LocalGradients:
    """This process's own gradients: DistributedDataParallel leaves only their average in ``param.grad``.

    The curvature needs each process's gradient times its own noise; the average times the noise would halve it. What
    autograd adds to ``param.grad`` is added to ``local_grad`` of the parameter as well. If ``param.grad`` is changed
    between two backward passes, or after the last, ``local_grad`` follows: a factor (clipping, unscaling) scales it, a
    cleared gradient clears it. It is made before the first backward pass of a sample; :meth:`settle` ends it.
    """

    def __init__(self, states: list[ParameterState]) -> None:
        self._states = states
        self._incoming: dict[Tensor, Tensor] = {}
        self._norms: dict[ParameterState, Tensor] = {}  # of param.grad when the last backward pass had ended
        self._waits = False  # for the end of a backward pass
        self._handles = []
        for state in states:
            state.local_grad.zero_()
            for param in (state.param, *state.aliases):
                self._handles.append(param.register_hook(partial(self._arrive, state, param)))
                self._handles.append(param.register_post_accumulate_grad_hook(partial(self._accumulated, state)))

    def _arrive(self, state: ParameterState, param: Tensor, grad: Tensor) -> None:
        self._follow(state)
        self._incoming[param] = grad.detach()  # counts if it reaches param.grad: torch.autograd.grad only looks

    def _accumulated(self, state: ParameterState, param: Tensor) -> None:
        with torch.no_grad():
            state.local_grad.add_(self._incoming.pop(param))
        self._norms.pop(state, None)
        if not self._waits:
            self._waits = True
            # DistributedDataParallel writes its average in a callback that it queues later: run after that one
            _at_the_end(lambda: _at_the_end(self._ended))

    def _ended(self) -> None:
        self._waits = False
        # of all states: a reentrant checkpoint may have ended an inner pass before, but averages are in place only now
        self._norms = {state: _norm(state) for state in self._states if state.has_gradient}

    @torch.no_grad()
    def _follow(self, state: ParameterState) -> None:
        """Repeat on the local gradient the changes made to ``param.grad`` since the last backward pass ended."""
        if not state.has_gradient:
            state.local_grad.zero_()
        elif (before := self._norms.pop(state, None)) is not None:
            now = _norm(state)
            state.local_grad.mul_(torch.where(before > 0, now / before, torch.ones_like(now)))

    def settle(self) -> None:
        """Listen no longer; each ``local_grad`` belongs to ``param.grad`` as it is now."""
        self.close()
        for state in self._states:
            self._follow(state)

    def close(self) -> None:
        """Listen no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _at_the_end(call: Callable[[], None]) -> None:
    """Let autograd call this at the end of the backward pass that runs now, after its earlier callbacks."""
    torch.autograd.Variable._execution_engine.queue_callback(call)


def _norm(state: ParameterState) -> Tensor:
    gradient = state.gradient()
    assert gradient is not None
    return gradient.norm(dtype=state.dtype)


def count_stepping(device: torch.device, *, stepping: bool) -> int:
    """Return how many processes make this step; those that ran out of batches under ``Join`` do not.

    It is the first exchange of a step. A process that waits under ``Join`` begins each round with a sum of one float
    too, in which a process that goes on adds 1. So a process that goes on without a step is found here.
    """
    count = torch.full((1,), STEP * stepping, device=device)
    dist.all_reduce(count)
    steps, forwards = divmod(float(count), STEP)
    if forwards:
        raise RuntimeError("a process goes on without a step; under Join call step() once after each forward pass")
    return int(steps)


def average_over_processes(
    states: list[ParameterState], found_inf: Tensor | None = None, *, stepping: int, divisor: int
) -> bool:
    """Average over the processes, with zeros for missing gradients; if one has an infinity, only return False.

    ``stepping`` divides the sum of the gradients, ``divisor`` the sum of the statistics. GradScaler's ``found_inf``
    becomes the largest of all.
    """
    device = states[0].param.device
    present = torch.tensor([state.grad is not None for state in states], dtype=torch.float32, device=device)
    news = torch.cat([present.new_zeros(1) if found_inf is None else found_inf.to(present).reshape(1), present])
    dist.all_reduce(news, op=dist.ReduceOp.MAX)
    if found_inf is not None:
        found_inf.copy_(news[0])
    infinite, *anywhere = news.tolist()
    if infinite:
        return False
    waits = []
    for state, has_gradient in zip(states, anywhere, strict=True):
        if has_gradient:
            grad, statistic = state.averages()
            waits.append(dist.all_reduce(grad.div_(stepping), async_op=True))
            waits.append(dist.all_reduce(statistic.div_(divisor), async_op=True))
    for wait in waits:
        wait.wait()
    return True


def take_over_from_last(states: list[ParameterState], is_last: bool) -> None:
    """Give all processes the parameters and the state of one that had the most batches."""
    device = states[0].param.device
    last = torch.tensor(dist.get_rank() if is_last else -1, device=device)
    dist.all_reduce(last, op=dist.ReduceOp.MAX)
    steps = torch.stack([state.step for state in states]).to(device)
    dist.broadcast(steps, int(last))
    for state, step in zip(states, steps.tolist(), strict=True):
        state.lasting["step"] = torch.full_like(state.step, step)  # another tensor: who counts along looks at it again
        for tensor in state.tensors():
            dist.broadcast(tensor, int(last))


def warn_of_equal_samples(noise: Tensor) -> None:
    """Warn if all processes drew the same ``noise``, which makes many of them no better than one."""
    least = noise.flatten()[:8].double().sum().reshape(1)
    most = least.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    if torch.equal(least, most):
        warn_caller(
            "all processes drew the same sample of the weights; seed each its own way after the model is built, "
            "for example torch.manual_seed(seed + torch.distributed.get_rank())",
            RuntimeWarning,
        )
