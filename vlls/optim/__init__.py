"""Optimizers that learn by sampling or perturbing the weights: IVON (Alg. 1) and SAM."""

from vlls.optim._protocol import VariationalOptimizer
from vlls.optim._sam import SAM
from vlls.optim.ivon import IVON
from vlls.optim.predict import predict

__all__ = ["IVON", "SAM", "VariationalOptimizer", "predict"]
