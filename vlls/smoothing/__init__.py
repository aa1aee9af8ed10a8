r"""Label smoothing, the adaptive strategies of Section 2 and losses for wrong labels, each stated as its label noise.

A strategy replaces the label :math:`y_i` by :math:`y_i + \epsilon_{i|t}` (Eq. 2). For the first four of Section 2 the
loss *is* the cross-entropy with that label, so a class only has to state its noise:

================================  ==================================  ==================================
loss                              noise ε                             adapts to
================================  ==================================  ==================================
:class:`LabelSmoothingLoss`       α (1/K − y)                         nothing (Eq. 1)
:class:`MeanPredictionSmoothing`  α (ū − y)                           mean prediction (Eqs. 3-5)
:class:`OnlineLabelSmoothing`     (1 − α) (s_y − y)                   mean correct prediction of class y
:class:`EntropySmoothing`         (1 − H(p)/log K) (u − y)            entropy of the prediction
:class:`ACLS`                     linear in the logits past a margin  logits
================================  ==================================  ==================================

The losses that people train with where labels are wrong have the gradient of a cross-entropy with a noisy label too:

====================================  =============================  ==================================
loss                                  noise ε                        adapts to
====================================  =============================  ==================================
:class:`LabelSmoothingLoss`, α < 0    α (1/K − y)                    nothing (negative label smoothing)
:class:`GeneralizedCrossEntropy`      (1 − p_y^q) (p − y)            probability of the label
:class:`SymmetricCrossEntropy`        (1 − α + βA p_y) (p − y)       probability of the label
:class:`EarlyLearningRegularization`  λ p (t − ⟨p,t⟩) / (1 − ⟨p,t⟩)  mean prediction t of the example
====================================  =============================  ==================================

Sign, here and everywhere in ``vlls``: the gradient of the summed loss with respect to the logits is
``softmax(logits) - (labels + noise)``. Chapter 1 of the book shows the strategies side by side.

>>> import torch
>>> logits = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
>>> LabelSmoothingLoss(0.2).label_noise(logits, torch.tensor([0]))
tensor([[-0.1500,  0.0500,  0.0500,  0.0500]])
"""

from vlls.smoothing._base import SmoothingLoss, smooth_labels
from vlls.smoothing._early import EarlyLearningRegularization
from vlls.smoothing._epoch import MeanPredictionSmoothing, OnlineLabelSmoothing
from vlls.smoothing._example import ACLS, EntropySmoothing, LabelSmoothingLoss
from vlls.smoothing._robust import GeneralizedCrossEntropy, SymmetricCrossEntropy

__all__ = [
    "ACLS",
    "EarlyLearningRegularization",
    "EntropySmoothing",
    "GeneralizedCrossEntropy",
    "LabelSmoothingLoss",
    "MeanPredictionSmoothing",
    "OnlineLabelSmoothing",
    "SmoothingLoss",
    "SymmetricCrossEntropy",
    "smooth_labels",
]
