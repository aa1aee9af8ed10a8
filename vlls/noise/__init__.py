r"""Label noise: of a generalized linear model and of a network (Eqs. 10, 13, 14, 16, 20).

The exact noise of a GLM is :meth:`.GLM.label_noise`; :mod:`vlls.noise.glm` holds the approximations that Chapter 2
compares with it. For a network :func:`.label_noise` and :func:`.label_noise_moments` give every example's noise under
any diagonal Gaussian posterior (Chapter 6), :func:`.rank_examples` orders a data set by it (Chapter 7), and
:func:`.sam_label_noise` is what sharpness-aware minimisation does to the labels.
"""

from vlls.noise.glm import monte_carlo_label_noise, second_order_label_noise, taylor_label_noise
from vlls.noise.linearization import logit_covariance
from vlls.noise.network import METHODS, LabelNoise, label_noise, label_noise_moments
from vlls.noise.ranking import ExampleRanking, rank_examples
from vlls.noise.sam import sam_label_noise

__all__ = [
    "METHODS",
    "ExampleRanking",
    "LabelNoise",
    "label_noise",
    "label_noise_moments",
    "logit_covariance",
    "monte_carlo_label_noise",
    "rank_examples",
    "sam_label_noise",
    "second_order_label_noise",
    "taylor_label_noise",
]
