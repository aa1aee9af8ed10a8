"""The interface that training, label noise and predictions need of an optimizer that learns a posterior."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch

from vlls.posterior import Posterior


@runtime_checkable
class VariationalOptimizer(Protocol):
    """An optimizer that trains at samples of the weights and learns the posterior that they come from.

    :class:`.IVON` is one. Besides the members below, it has everything that a :class:`torch.optim.Optimizer` has. Two
    more attributes are optional: ``executor`` names the code that takes the steps, for records of runs, and
    ``capturable`` says whether a CUDA graph can hold them.

    Attributes:
        generator: where its samples come from; torch's global generators if None.
    """

    generator: torch.Generator | None

    def sampled_params(self, train: bool = False) -> AbstractContextManager[None]:
        """Within the block the parameters are a sample; afterwards they are the mean again.

        Args:
            train: whether the next step learns from the gradients that the block leaves.
        """

    def posterior(self, model: torch.nn.Module) -> Posterior:
        """The learned posterior under the names of a model's parameters."""

    def step(self, closure: Any = None) -> Any:
        """Update the posterior from a closure, or from the gradients of ``sampled_params(train=True)`` blocks.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward()`` and returns the loss.
        """
