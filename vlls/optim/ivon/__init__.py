r"""IVON, the improved variational online Newton method (Alg. 1 of the paper; Shen et al., 2024), for any network.

:class:`IVON` checks input and keeps state. The mathematics is in :mod:`vlls.optim.alg1`, and executors apply it to
lists of parameters. :func:`learned_share` says how much of its Hessian the data taught it. Chapter 5 derives the
algorithm from VON; the page on gotchas answers common questions.
"""

from vlls.optim.ivon._learned import LearnedShare, learned_share
from vlls.optim.ivon._optimizer import IVON

__all__ = ["IVON", "LearnedShare", "learned_share"]
