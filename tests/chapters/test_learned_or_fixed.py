"""The sentences of Chapter 10: how much was learned, Figures 6 and 8, and learned against fixed variances."""

import math
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

BOOK = Path(__file__).parents[2] / "book"
sys.path.insert(0, str(BOOK))
from figures.fixed_variance import gaps_to_fixed, gaps_to_fixed_in_words, learned_shares, share_left  # noqa: E402
from figures.ledger import ON_REAL_IMAGES, gap, rows_of, said, short_std  # noqa: E402

from vlls.experiments import load_table  # noqa: E402

CELLS = nbformat.read(BOOK / "10_cifar100.ipynb", as_version=4).cells
TEXT = "\n\n".join(cell.source for cell in CELLS if cell.cell_type == "markdown")
SYM = "CIFAR-10, symmetric 40 %"


def runs(panel="a", **more):
    """Return runs of IVON from σ = 0.1 and of fixed σ of 0.1 and 0.2, three seeds each; accuracies in per cent."""
    accuracies = {None: (80, 82, 84), 0.1: (81, 83, 88), 0.2: (70, 70, 70), **more}
    rows = []
    for std, of_seeds in accuracies.items():
        for seed, accuracy in enumerate(of_seeds):
            method = "ivon" if std is None else "ivon_fixed"
            rows.append(
                {
                    **{"role": "main", "status": "finished", "panel": panel, "method": method, "variant": ""},
                    **{"seed": seed, "test_accuracy": accuracy / 100},
                    **{"value": np.nan if std is None else 1 / std, "posterior_std": std, "std_start": 0.1},
                }
            )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------- the functions
def test_gaps_are_to_the_variance_with_the_same_start_and_to_the_best():
    rows = runs()
    rows.loc[rows["posterior_std"] == 0.2, "test_accuracy"] = 0.9
    (same, best), differences = gaps_to_fixed(rows)["a"], np.array([-1, -1, -4])
    assert same.points == pytest.approx(-2.0) and same.error == pytest.approx(differences.std(ddof=1) / 3**0.5)
    assert best.points == pytest.approx(82 - 90) and best.side == -1 and same.side == 0
    told = gaps_to_fixed_in_words({"a": (same, best)})
    assert re.findall(r"clearly behind in (\d)", told) == ["0", "1"] and "−2.0 ± 1.0 in 3 seeds" in told
    assert gaps_to_fixed_in_words({}) == "There are no runs of both."


def test_the_weight_that_is_left_counts_whole_batches():
    steps = 30 * (1_437 // 50)
    fields = {"epochs": 30, "train_images": 1_437, "batch_size": 50, "beta2": 1 - 2 / steps}
    assert share_left(pd.DataFrame([fields]))["left"].item() == pytest.approx((1 - 2 / steps) ** steps, rel=1e-12)


def test_shares_are_of_the_presets_and_of_runs_that_tell_them():
    told = {"std_start": 0.1, "std_5": 0.1, "std_95": 0.2, "learned_share": 0.01}
    told |= {"epochs": 2, "train_images": 100, "batch_size": 50, "beta2": 0.5, "role": "main", "protocol": "smoke"}
    rows = [{**told, "method": "ivon"}, {**told, "method": "ivon", "learned_share": 0.03}]
    rows += [{**told, "method": "ivon", "value": 0.9, "learned_share": 0.5}]
    rows += [{**told, "method": "ivon_fixed", "learned_share": 0.7}, {**told, "method": "ivon", "learned_share": None}]
    shares = learned_shares({"x": pd.DataFrame(rows), "old": pd.DataFrame(rows).drop(columns="learned_share")})
    assert shares.index.tolist() == ["x, smoke"] and shares["runs"].item() == 2
    assert shares["learned share (%)"].item() == "1 to 3" and shares["h0's weight left (%)"].item() == "6.2"


# ---------------------------------------------------------------------- the tables
def test_no_run_at_the_presets_learned_its_variance():
    for name in ("fig5", "fig7", "fig6", "cifar_n"):
        rows = load_table(BOOK / "results" / f"{name}.csv")
        rows = rows[(rows["method"] == "ivon") & rows["value"].isna() & rows["learned_share"].notna()]
        assert len(rows) and (rows["learned_share"] < 0.02).all()
    assert (rows_of("fig6", "smoke").query("method == 'ivon'")["learned_share"] < 0.005).all()


def test_the_stds_of_the_short_run_are_those_of_decay_alone():
    runs = share_left(rows_of("controls", "short").query("method == 'ivon'"))
    (left,) = set((runs["hess_init"] * runs["left"]).round(9))
    assert left == pytest.approx(0.9 * math.exp(-2), rel=1e-3)
    low, high = short_std()
    assert low < 1 / math.sqrt(50_000 * (left + 1e-3)) < high
    assert 1 - left / (1 / (50_000 * low**2) - 1e-3) < 0.006
    assert 6.5 < 0.901 / (left + 1e-3) < 7.5 and "sevenfold" in TEXT


def test_the_verdict_on_figure_6_has_the_numbers_of_the_tables():
    short = rows_of("controls", "short").query("panel == @SYM")
    first = short[short["seed"] == 0].set_index(["method", "variant"])["test_accuracy"] * 100
    assert f"score {first['ivon', '']:.2f} and {first['ivon_fixed', '']:.2f} (*short*, seed 0)" in TEXT
    noise = first["ivon_fixed", ""] - first["ivon_fixed", "no noise"]
    assert f"ends at {first['ivon_fixed', 'no noise']:.2f} (*short*, seed 0), {noise:.1f} points lower" in TEXT
    mnist = rows_of("controls", "mnist").query("panel == 'MNIST, symmetric 40 %'")
    fixed, same_course = gap(mnist, "ivon", "ivon_fixed"), gap(mnist, "ivon", "ivon_isotropic")
    assert fixed.side == 1 and fixed.seeds == 3 and f"IVON is {fixed.points:.1f} points above its own fixed" in TEXT
    ends = 100 * mnist[mnist["method"] == "ivon_fixed"].groupby("variant")["test_accuracy"].mean()
    assert f"{ends['']:.2f} with noise and {ends['no noise']:.2f} without (*mnist*, seeds 0 to 2)" in TEXT
    assert gap(mnist, "ivon_fixed", "ivon_fixed", variants=("", "no noise")).side == 0
    assert same_course.side == 0 and gap(mnist, "ivon_isotropic", "ivon_fixed").points > 0
    assert (mnist["learned_share"].dropna() < 0.005).all()
    found = gaps_to_fixed(rows_of("fig6", "smoke"))
    assert len(found) == 3 and all(same.side == -1 and best.side == -1 for same, best in found.values())
    assert all(same.seeds == 3 for same, _ in found.values())
    assert "on digits the fixed one is ahead in all three panels" in TEXT
    fixed = rows_of("fig6", "smoke").query("method == 'ivon_fixed'")
    means = 100 * fixed.groupby(["panel", "value"])["test_accuracy"].mean()
    assert (means.groupby("panel").max() - means.groupby("panel").min()).max() < 1  # within one point of each other
    assert said("fig6").findings["fig6"].verdict == "fails" and "**Figure 6: fails" in TEXT


def test_figure_8_is_untested_and_table_1_tunes():
    rows = load_table(BOOK / "results" / "fig8.csv")
    assert set(rows["protocol"]).isdisjoint(ON_REAL_IMAGES) and "**Figure 8: untested.**" in TEXT
    found = said("fig8", "no-tuning").findings
    assert found["fig8"].verdict == "untested" and found["no-tuning"].verdict == "fails"
    assert '"IVON does not need to tune": fails' in TEXT
