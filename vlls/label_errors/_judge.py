"""The table of judged labels: scores, flags and suggestions by the options that :func:`find_label_errors` explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlls._names import check_known, kind_of
from vlls._validation import check_rate, check_whole_number
from vlls._warnings import warn_caller
from vlls.label_errors._clean import LabelCorrection, estimate_transition
from vlls.label_errors._given import MISSING, Classes
from vlls.label_errors._scores import (
    ROUNDING,
    Doubles,
    Floats,
    adjusted,
    confidently_wrong,
    error_times_variance,
    margin,
    of_class,
)
from vlls.label_errors._table import make_table

Flag = str | int | float

SCORES = ("self_confidence", "margin", "bayes", "error_times_variance")
FLAGS = ("confident_joint", "bayes")
_ADJUSTED = ("self_confidence", "margin")


@dataclass(frozen=True)
class Judge:
    """Scores and flags labels; the fields are keywords of :func:`find_label_errors`."""

    score: str
    flag: Flag
    adjust: bool
    correction: LabelCorrection | None

    def __post_init__(self) -> None:
        check_known(self.score, SCORES, "score")
        if isinstance(self.flag, float):  # of NumPy too
            check_rate(self.flag, "flag", include_zero=True)
        elif isinstance(self.flag, str):
            check_known(self.flag, FLAGS, "flag", ", or pass a number of labels or a rate")
        else:
            check_whole_number(self.flag, "flag", 0)
        if self.adjust and self.score not in _ADJUSTED:
            raise ValueError(f"adjust=True does not go with score={self.score!r}; choose {' or '.join(_ADJUSTED)}")
        if self.correction is not None and not isinstance(self.correction, LabelCorrection):
            raise ValueError(f"correction is {kind_of(self.correction)}; pass what fit_correction returns, or None")
        if self.correction is not None and not self.by_bayes:
            raise ValueError(
                "correction is read by score='bayes' and flag='bayes'; choose one of them, or leave it out"
            )

    @property
    def by_bayes(self) -> bool:
        """Whether probabilities of the clean labels are needed."""
        return "bayes" in (self.score, self.flag)

    def check_draws(self, num_samples: int) -> None:
        """Raise a ValueError if the score needs more draws."""
        if self.score == "error_times_variance" and num_samples < 2:
            raise ValueError("score='error_times_variance' needs a posterior and num_samples of 2 or more")

    def check_number(self, given: Classes) -> None:
        """Raise a ValueError if more labels are to be flagged than there are."""
        labelled = int((given != MISSING).sum())
        if not isinstance(self.flag, str | float) and self.flag > labelled:
            raise ValueError(f"flag={self.flag!r} and {labelled} examples have a label; flag fewer")

    def table(
        self, samples: Floats, given: Classes, names: Sequence[str] | None = None, noise: Doubles | None = None
    ) -> Any:
        """Return the table of probabilities (S, N, K), rows of NaN included, and labels (N,), -1 included."""
        self.check_draws(len(samples))
        self.check_number(given)
        p = samples.mean(axis=0)
        predicted = ~np.isnan(p).any(axis=1)
        judged = predicted & (given != MISSING)
        if not judged.any():
            raise ValueError("no example has both a label and a prediction; pass at least one")
        suggested, scores, flags = np.full(len(p), MISSING), np.full(len(p), np.nan), np.zeros(len(p), bool)
        suggested[predicted] = p[predicted].argmax(axis=1)
        clean = self._clean(p[judged], given[judged])
        scores[judged] = self._scores(samples[:, judged], given[judged], clean)
        order = np.argsort(-scores, kind="stable")  # NaN last
        if self.flag == "confident_joint":
            flags[judged] = confidently_wrong(p[judged], given[judged])
            _tell_one_class(given[judged])
        elif self.flag == "bayes":
            flags[judged] = clean.max(axis=1) > of_class(clean, given[judged]) + ROUNDING
        else:
            number = round(self.flag * judged.sum()) if isinstance(self.flag, float) else int(self.flag)
            flags[order[: min(number, judged.sum())]] = True
        if self.by_bayes:
            suggested[judged] = clean.argmax(axis=1)
        spread = of_class(samples.std(axis=0, ddof=1), given) if len(samples) > 1 else np.full(len(p), np.nan)
        columns = {
            "index": np.arange(len(p)),
            "given": _named(given, names),
            "suggested": _named(suggested, names),
            "score": scores,
            "p_given": of_class(p, given),
            "p_suggested": of_class(p, suggested),
            "spread": spread,
            **({} if noise is None else {"noise": noise}),
            "flag": flags,
        }
        return make_table({name: column[order] for name, column in columns.items()})

    def _clean(self, p: Floats, given: Classes) -> Floats:
        """Return the probabilities (n, K) of the clean labels, or of the given ones if no option needs the clean."""
        if not self.by_bayes:
            return p
        correction = self.correction or LabelCorrection(estimate_transition(p, given))
        return correction(p, given)

    def _scores(self, samples: Floats, given: Classes, clean: Floats) -> Doubles:
        if self.score == "error_times_variance":
            return error_times_variance(samples, given)
        p = clean if self.score == "bayes" else samples.mean(axis=0)
        p = adjusted(p, given) if self.adjust else p
        return margin(p, given) if self.score == "margin" else 1 - of_class(p, given)


def _named(classes: Classes, names: Sequence[str] | None) -> npt.NDArray[Any]:
    """Return the names of classes, empty for a missing one; the classes themselves if there are no names."""
    return classes if names is None else np.array([*names, ""], dtype=object)[classes]


def _tell_one_class(given: Classes) -> None:
    if len(present := np.unique(given)) == 1:
        warn_caller(
            f"all {len(given)} labels are of class {present[0]}, so that the confident joint flags none; flag by a "
            "number or a rate"
        )
