r"""Label noise: of a generalized linear model and of a network (Eqs. 10, 13, 14, 16, 20).

The exact noise of a GLM is :meth:`.GLM.label_noise`; :func:`.taylor_label_noise` and :func:`.second_order_label_noise`
are the approximations that Chapter 2 compares with it. For a network :func:`.label_noise` and
:func:`.label_noise_moments` give every example's noise under any Gaussian posterior (Chapter 6), :func:`.rank_examples`
orders a data set by it (Chapter 7), and :func:`.sam_label_noise` is the noise that sharpness-aware minimisation adds to
labels.
"""

from vlls.noise._glm import second_order_label_noise, taylor_label_noise
from vlls.noise._linearization import logit_covariance
from vlls.noise._network import LabelNoise, label_noise, label_noise_moments
from vlls.noise._ranking import ExampleRanking, rank_examples
from vlls.noise._sam import sam_label_noise

__all__ = [
    "ExampleRanking",
    "LabelNoise",
    "label_noise",
    "label_noise_moments",
    "logit_covariance",
    "rank_examples",
    "sam_label_noise",
    "second_order_label_noise",
    "taylor_label_noise",
]
