"""Optimizers that learn by sampling or perturbing the weights: IVON (Alg. 1), EVON and SAM."""

from vlls.optim._evon import EVON
from vlls.optim._predict import predict
from vlls.optim._protocol import VariationalOptimizer
from vlls.optim._sam import SAM
from vlls.optim.ivon import IVON, LearnedShare, learned_share

__all__ = ["EVON", "IVON", "SAM", "LearnedShare", "VariationalOptimizer", "learned_share", "predict"]
