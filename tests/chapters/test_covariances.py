"""The sentences of Chapter 14 about networks whose posteriors differ in their covariance follow the record."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BOOK = Path(__file__).parents[2] / "book"
sys.path.insert(0, str(BOOK))

from figures.covariances import (  # noqa: E402
    LEARNED,
    above,
    cost_in_words,
    covariance_table,
    covariances,
    least_gain,
    network_order_in_words,
    noise_in_words,
    plot_covariances,
    price_in_words,
    trained,
)
from figures.ladder import digits_glm, ladder  # noqa: E402

from vlls import EVON, IVON  # noqa: E402

PAPER = "IVON at the paper's setting"


def made_up(**shift):
    """Return rows of three seeds; each covariance has the paper's numbers plus those in ``shift``."""
    rng, rows = np.random.default_rng(0), []
    for covariance in (PAPER, *LEARNED.values()):
        for seed in range(3):
            more = shift.get(covariance.replace(", ", "_").replace(" ", "_").replace("σ", "s"), {})
            row = {
                "covariance": covariance, "seed": seed, "posterior": "paper" if covariance == PAPER else "learned",
                "learned_share": 0.1, "test_accuracy": 0.9, "posterior_nll": 0.4, "posterior_ece": 0.1,
                "noise_variation": 0.5, "rank_correlation_with_evon": 0.9, "auroc_noise": 0.5,
                "auroc_disagreement": 0.9,
            }  # fmt: skip
            row |= {name: row[name] + value for name, value in more.items()}
            rows.append({n: v + 1e-4 * rng.standard_normal() if isinstance(v, float) else v for n, v in row.items()})
    frame = pd.DataFrame(rows)
    return frame.assign(covariance=pd.Categorical(frame["covariance"], [PAPER, *LEARNED.values()]))


def test_the_sentences_turn_with_the_numbers():
    rows = made_up(EVON={"test_accuracy": -0.03, "posterior_nll": -0.1, "noise_variation": 0.2}, IVON={})
    text = price_in_words(rows)
    assert "**EVON** learns 10% of its Hessian: accuracy −3.0 ± 0.0 points (lower)" in text
    assert "averaged NLL −0.100 ± 0.000 (lower)" in text and "over 3 seeds" in text
    assert "EVON's noise is more unequal than with IVON (" in noise_in_words(rows)
    assert least_gain(rows) == pytest.approx(3.0, abs=0.1)
    rows = made_up(EVON={"noise_variation": -0.2}, IVON={"test_accuracy": 0.05, "auroc_noise": 0.3})
    assert "less unequal than with IVON (" in noise_in_words(rows)
    assert "tells something of which labels are wrong" in noise_in_words(rows)
    assert "accuracy +5.0 ± 0.0, higher" in network_order_in_words(rows)


def test_a_difference_within_its_error_is_not_called_one():
    rows = made_up()
    rows.loc[rows["covariance"] == PAPER, "test_accuracy"] = 0.9
    rows.loc[rows["covariance"] == "IVON", "test_accuracy"] = [0.8, 0.9, 1.0]
    assert above(rows, "IVON", PAPER, "test_accuracy").side == 0
    assert "accuracy +0.0 ± 5.8 points (not clearly different)" in price_in_words(rows)


def test_the_record_has_every_covariance_and_five_seeds():
    rows = covariances()
    assert rows.groupby("covariance", observed=False)["seed"].nunique().eq(5).all()
    assert list(covariance_table(rows).index) == [PAPER, *LEARNED.values()]
    learned = rows[rows["covariance"].isin(["EVON", "IVON"])]
    assert learned.groupby("covariance", observed=True)["learned_share"].min().gt(0.5).all()
    assert rows[rows["covariance"] == PAPER]["learned_share"].max() < 0.05  # its covariance is nearly fixed


def test_a_learned_covariance_is_ahead_of_its_start_and_not_of_the_paper_s():
    rows = covariances()
    assert above(rows, "IVON", "IVON, fixed σ", "test_accuracy").side == 1
    assert above(rows, "IVON", "IVON, fixed σ", "posterior_nll").side == -1
    assert above(rows, "IVON", PAPER, "test_accuracy").side < 1
    assert above(rows, "IVON", PAPER, "posterior_nll").side > -1


def test_the_figure_has_a_dot_a_seed_and_names_the_covariances_once():
    figure = plot_covariances(made_up())
    first = figure.axes[0]
    assert [len(line.get_xdata()) for line in first.lines[::2]] == [3] * 6
    assert [label.get_text() for label in first.get_yticklabels()] == [PAPER, *LEARNED.values()]


def test_the_cost_is_that_of_the_record():
    rows = [
        {"network": "net", "method": name, "ms": 4.0 * ratio, "over_ivon_fused": ratio}
        for name, ratio in {"ivon fused": 1.0, "products": 2.0, "soap-like": 3.0, "evon, interval 100": 5.0}.items()
    ]
    text = cost_in_words({"machine": "a machine", "device": "cpu", "rows": rows})
    assert "net: 20 ms, 5.0 times IVON's kernel (2.0 for the products alone; Adam in the same basis, 3.0)" in text


def test_most_of_a_step_on_resnet34_is_products():
    rows = json.loads((BOOK.parent / "benchmarks/records/evon-cpu.json").read_text())["rows"]
    ms = {row["method"]: row["ms"] for row in rows if row["network"] == "resnet34"}
    assert ms["evon, interval 100"] / 2 < ms["products"]


@pytest.mark.slow
def test_evon_comes_near_the_full_posterior_by_training():
    glm, _, _ = digits_glm(0.4, 1)
    optima = ladder(glm, 1e-3)
    near = {name: float(q.kl(optima["full"])) for name, q in optima.items()}
    evon = float(trained(glm, EVON, interval=20, basis_decay=0.99, seed=1).kl(optima["full"]))
    ivon = float(trained(glm, IVON, seed=1).kl(optima["full"]))
    assert evon < ivon / 3 and evon < near["diagonal"] / 3
    assert near["diagonal"] < ivon < 1.2 * near["diagonal"]  # IVON's own optimum
