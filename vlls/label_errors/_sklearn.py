"""A classifier with scikit-learn's interface that is trained on wrong labels and finds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlls._errors import pip_command
from vlls._names import check_known, check_whole_number, kind_of
from vlls._validation import is_number
from vlls.label_errors._clean import fit_correction
from vlls.label_errors._find import find_label_errors
from vlls.label_errors._sampled import sampled_probabilities
from vlls.optim import EVON, IVON, SAM, VariationalOptimizer

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    text = f"NoisyLabelClassifier needs scikit-learn, version 1.6 or newer: {pip_command('sklearn')}"
    raise ModuleNotFoundError(text, name="sklearn") from error

__all__ = ["NoisyLabelClassifier"]

Array = npt.NDArray[Any]

LR = {"ivon": 0.1, "evon": 0.1, "sam": 0.02, "sgd": 0.02}
NOISE = 0.5  # standard deviation of IVON's and EVON's weights at the start, as a share of the weights' own size
LARGEST = 3.0  # standard deviations from a column's mean, beyond which values are cut
FOLDS = 3  # of the cross-validation for the correction


class NoisyLabelClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""A small network for tables with wrong labels, with scikit-learn's interface.

    It is trained by IVON unless another method is chosen, tells which of its training labels are probably wrong, and
    predicts clean labels. Columns are standardised, and values cut at three standard deviations. It works in
    pipelines and grid searches; ``cross_val_predict(..., method="predict_proba")`` makes the probabilities for other
    scores and flags (:func:`label_errors_from_probabilities`).

    Args:
        hidden: widths of the hidden layers; () for a linear model.
        module: makes another network, from the numbers of features and classes: a ``torch.nn.Module`` that returns
            logits (B, K). ``hidden`` is then not used. To be pickled it must be a function of a module, not a lambda.
        method: ``"ivon"``, ``"evon"``, ``"sam"`` or ``"sgd"`` (:mod:`vlls.optim`); the last two have no posterior.
        epochs: passes over the examples.
        batch_size: examples in a step, at most.
        lr: learning rate at its highest; it rises over a tenth of the run and falls to 0 on half a cosine. The method's
            own if left out.
        samples: draws of the weights that a prediction is averaged over; 0 for the posterior's mean.
        correct: predict probabilities of the clean labels (:func:`fit_correction`) instead of the given ones. How often
            labels are wrong is learned by three more networks, each trained on two thirds of the examples, so that
            ``fit`` takes three times as long. ``label_errors_`` is the same with and without.
        random_state: a seed, a ``numpy.random.RandomState``, or None for another result at each call.
        device: where the network is trained, as torch names it.
        verbose: print the loss of about ten epochs of each network.

    Attributes:
        classes\_: the K labels, in order.
        label_errors\_: the table of :func:`find_label_errors` for the training examples, the most suspicious first.
        correction\_: the :class:`LabelCorrection` of the predictions, or None.
        network\_: the trained network, of standardised inputs.
        posterior\_: over its weights, or None.
        scaler\_: the ``sklearn.preprocessing.StandardScaler`` of the inputs.
        n_features_in\_: number of columns.
        feature_names_in\_: their names, if they have any.

    Raises:
        ValueError: in ``fit``, if an argument is not allowed, there is one class only, or, as in all classifiers of
            scikit-learn, if ``X`` and ``y`` differ in length or hold NaN.
        ModuleNotFoundError: at import, without scikit-learn 1.6 or newer.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> given = y.copy()
        >>> given[[7, 70, 120]] = 2, 0, 0                                  # wrong labels
        >>> classifier = NoisyLabelClassifier(random_state=0).fit(X, given)
        >>> sorted(classifier.label_errors_["index"][:3].tolist())
        [7, 70, 120]
        >>> classifier.predict_proba(X).shape, bool(classifier.score(X, y) > 0.9)
        ((150, 3), True)
    """

    def __init__(
        self,
        hidden: Sequence[int] = (256,),
        *,
        module: Callable[[int, int], nn.Module] | None = None,
        method: str = "ivon",
        epochs: int = 40,
        batch_size: int = 64,
        lr: float | None = None,
        samples: int = 8,
        correct: bool = True,
        random_state: Any = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.hidden = hidden
        self.module = module
        self.method = method
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.samples = samples
        self.correct = correct
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> NoisyLabelClassifier:
        """Train on a table and its labels, some of them wrong.

        Args:
            X: (N, D) numbers, an array or a table.
            y: (N,) labels, numbers or names.
        """
        self._check_options()
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, given = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class, {self.classes_[0]!r}, in {len(y)} example(s); pass at least two")
        seed = check_random_state(self.random_state).randint(2**31)
        self.scaler_ = StandardScaler().fit(X)
        inputs = self._standardised(X)
        self.correction_ = fit_correction(self._cross_validated(inputs, given, seed), given) if self.correct else None
        self._learn(inputs, given, seed)
        names, samples = self.classes_.tolist(), self.samples
        self.label_errors_ = find_label_errors(
            self.network_, self.posterior_, inputs, given, classes=names, num_samples=samples
        )
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the classes, (N, K) in float32, as the network computes.

        Args:
            X: (N, D), as in training.
        """
        check_is_fitted(self)
        p = self._sampled(self._standardised(validate_data(self, X, dtype=np.float64, reset=False)))
        p = p.mean(axis=0) if self.correction_ is None else self.correction_(p)
        return p.astype(np.float32)

    def predict(self, X: Any) -> Array:
        """Return the most probable label of each example, (N,).

        Args:
            X: (N, D), as in training.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    # ------------------------------------------------------------------ training
    def _check_options(self) -> None:
        check_known(self.method, LR, "method")
        for name, least in (("epochs", 1), ("batch_size", 1), ("samples", 0)):
            check_whole_number(getattr(self, name), name, least)
        if not isinstance(self.hidden, Iterable):
            text = "pass the widths of the hidden layers, such as (256,)"
            raise ValueError(f"hidden={self.hidden!r} is not allowed; {text}")
        for width in self.hidden:
            check_whole_number(width, "each entry of hidden", 1)
        if self.lr is not None and (not is_number(self.lr) or not 0 < self.lr < math.inf):
            raise ValueError(f"lr={self.lr!r} is not allowed; choose a finite number > 0, or None for the method's own")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError):
            raise ValueError(f"device={self.device!r} is not here; choose 'cpu', or a device that torch has") from None

    def _learn(self, inputs: Tensor, given: Array, seed: int) -> None:
        """Train a network from scratch, without changing the state of torch's random numbers."""
        labels = torch.from_numpy(given).to(self.device)
        with torch.random.fork_rng([self.device] if torch.device(self.device).type == "cuda" else []):
            torch.manual_seed(seed)
            self.network_ = self._network(inputs.shape[1]).to(self.device)
            optimizer = self._optimizer(len(inputs))
            self._train(optimizer, inputs, labels)
        self.posterior_ = optimizer.posterior(self.network_) if isinstance(optimizer, VariationalOptimizer) else None

    def _network(self, num_features: int) -> nn.Module:
        if self.module is not None:
            network = self.module(num_features, len(self.classes_))
            if not isinstance(network, nn.Module):
                raise ValueError(f"module returned {kind_of(network)}; it must return a torch.nn.Module")
            return network
        widths = [num_features, *self.hidden, len(self.classes_)]
        layers = [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    def _optimizer(self, num_train: int) -> torch.optim.Optimizer:
        params = [p for p in self.network_.parameters() if p.requires_grad]
        lr = LR[self.method] if self.lr is None else self.lr
        options: dict[str, Any] = {"lr": lr, "weight_decay": 1e-3}
        if self.method == "sgd":
            return torch.optim.SGD(params, momentum=0.9, **options)
        if self.method == "sam":
            return SAM(params, torch.optim.SGD, momentum=0.9, **options)
        size = torch.cat([p.detach().flatten() for p in params]).square().mean().item()
        options |= {"ess": num_train, "hess_init": 1 / (NOISE**2 * size * num_train)}
        if self.method == "evon":
            return EVON(params, **options)
        return IVON(params, **options)

    def _train(self, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor) -> None:
        per_epoch = math.ceil(len(inputs) / self.batch_size)
        steps = self.epochs * per_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / (0.1 * steps + 1), 0.5 + 0.5 * math.cos(math.pi * step / steps))
        )
        self.network_.train()
        for epoch in range(self.epochs):
            loss = 0.0
            for rows in torch.randperm(len(inputs)).tensor_split(per_epoch):  # of one size, so that none has one row

                def closure(rows: Tensor = rows) -> Tensor:
                    optimizer.zero_grad()
                    value = F.cross_entropy(self.network_(inputs[rows]), labels[rows])
                    value.backward()
                    return value.detach()

                loss += float(optimizer.step(closure)) / per_epoch  # type: ignore[arg-type]
                schedule.step()
            if self.verbose and epoch % max(1, self.epochs // 10) == 0:
                print(f"epoch {epoch + 1} of {self.epochs} on {len(inputs)} examples: loss {loss:.3f}")
        self.network_.eval()

    # ------------------------------------------------------------------ predicting
    def _standardised(self, X: Array) -> Tensor:
        return torch.from_numpy(self.scaler_.transform(X)).clamp(-LARGEST, LARGEST).float().to(self.device)

    def _sampled(self, inputs: Tensor) -> Array:
        """Return probabilities (S, N, K) of standardised inputs, for each of a few draws of the weights."""
        return sampled_probabilities(self.network_, self.posterior_, inputs, num_samples=self.samples)

    def _cross_validated(self, inputs: Tensor, given: Array, seed: int) -> Array:
        """Return the probabilities (N, K) of each example by a network that was not trained on it."""
        order = np.lexsort((np.random.RandomState(seed).permutation(len(given)), given))  # by class, then at random
        fold = np.empty(len(given), np.int64)
        fold[order] = np.arange(len(given)) % FOLDS
        p = np.empty((len(given), len(self.classes_)), np.float32)
        for held in (fold == k for k in np.unique(fold)):
            self._learn(inputs[~held], given[~held], seed)
            p[held] = self._sampled(inputs[held]).mean(axis=0)
        return p
