"""The sentences of Chapters 9 and 11 about finished runs, protocol by protocol, and their figures."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vlls.experiments import load_table
from vlls.plots import plot_experiment

BOOK = Path(__file__).parents[2] / "book"
sys.path.insert(0, str(BOOK))
from figures.by_protocol import (  # noqa: E402
    PAPER_STD,
    about,
    accuracies_and_adamw,
    adamw,
    beside_sgd,
    candidates_and_adamw,
    differences,
    first_stds,
    gaps_by_panel,
    own_values_over_sgd,
    runs_by_protocol,
    who_is_ahead,
    with_label_smoothing,
)
from figures.data_dependent import plot_accuracy_by_class, plot_take_off  # noqa: E402
from figures.ledger import gap, label_information, rows_of  # noqa: E402
from figures.memorised import fewest_and_best, named, plot_first_noise, plot_memorised  # noqa: E402


def runs(panel="a", protocol="mnist", images=5_000, hess_init=9.009, **accuracies):
    """Return rows of a table for ``method=(seed 0, seed 1, ...)`` in per cent."""
    common = {"experiment": "fig5", "protocol": protocol, "role": "main", "panel": panel, "status": "finished"}
    common |= {"reduced": "", "variant": "", "parameter": "", "train_images": images, "ess": np.nan}
    common |= {"weight_decay": 0.001, "rate": 0.4}
    rows = []
    for method, found in accuracies.items():
        start = {"hess_init": hess_init if method == "ivon" else np.nan}
        value = {"value": 0.5 if method in ("ls", "sam") else np.nan}
        for seed, accuracy in enumerate(np.atleast_1d(found)):
            rows.append({**common, "method": method, "seed": seed, "test_accuracy": accuracy / 100, **start, **value})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------- in words
def test_protocols_stand_apart_the_highest_first():
    table = pd.concat([runs(protocol="smoke", ivon=90), runs(protocol="short", ivon=80), runs(ivon=70)])
    found = runs_by_protocol(table)
    assert list(found) == ["short", "mnist", "smoke"]
    assert [100 * rows["test_accuracy"].item() for rows in found.values()] == [80, 70, 90]
    with pytest.raises(ValueError, match="protocol"):
        runs_by_protocol(runs(protocol="tiny", ivon=1))


def test_the_first_noise_is_compared_with_the_papers():
    matched = about(runs(ivon=(90, 91), sgd=90))
    assert matched.startswith("**mnist** (") and "seeds 0, 1)" in matched and matched.endswith("as in the paper.")
    few = runs(images=500, hess_init=0.9, ivon=90)
    assert first_stds(few) == pytest.approx([(500 * 0.901) ** -0.5], rel=1e-2)
    assert first_stds(few)[0] / PAPER_STD == pytest.approx(10, rel=1e-2)
    assert "seed 0)" in about(few) and about(few).endswith("10.0 times the paper's.")
    assert "σ₀" not in about(runs(sgd=90))
    every = pd.concat([few, runs(images=500, hess_init=90, ivon=90)])
    assert len(first_stds(every)) == 2 and "σ₀" not in about(every)


@pytest.mark.parametrize(
    "sgd, word",
    [((88, 89, 90), "ahead"), ((92, 93, 95), "behind"), ((85, 91, 95), "not settled")],
)
def test_differences_of_several_seeds_are_measured_by_their_error(sgd, word):
    rows = pd.concat([runs(ivon=(90, 91, 92), sgd=sgd), runs("b", ivon=90, sgd=90.5)])
    d = np.array([90, 91, 92]) - np.array(sgd)
    gap = gaps_by_panel(rows, "ivon", "sgd")["a"]
    assert gap.points == pytest.approx(d.mean()) and gap.seeds == 3
    assert gap.error is not None and gap.error == pytest.approx(d.std(ddof=1) / 3**0.5)
    shown = differences(rows)
    assert shown.loc["a", "IVON − SGD"].endswith(f"in 3 seeds: {word}")
    assert shown.loc["b", "IVON − SGD"] == "−0.5, one seed: not settled"
    assert (shown[["IVON − the best LS", "IVON − the best SAM", "IVON − AdamW"]] == "not run").all().all()
    text = who_is_ahead(rows)
    points = f"a ({gap.points:+.1f} ± {gap.error:.1f})".replace("-", "−")
    first = f"{word} in {points}; not settled in b (−0.5)" if word != "not settled" else f"{word} in {points}, b (−0.5)"
    assert text == f"Differences in points. IVON against SGD: {first}."


def test_the_data_set_is_named_once():
    panels = ("digits, symmetric 20 %", "digits, pair flip 20 %")
    rows = pd.concat([runs(panel, ivon=90, sgd=80, ls=95) for panel in panels])
    assert who_is_ahead(rows) == (
        "Differences on digits, in points. IVON against SGD: ahead in symmetric 20 % (+10.0), pair flip 20 % (+10.0). "
        "IVON against the best LS: behind in symmetric 20 % (−5.0), pair flip 20 % (−5.0)."
    )


def test_a_methods_own_values_are_compared_with_sgd():
    rows = pd.concat([runs(sgd=(54, 55), ls=(48, 50)), runs(ls=(40, 40)).assign(value=0.9), runs("b", ls=1)])
    assert own_values_over_sgd(rows, "ls") == "a, best of 2 α: −5.5 ± 0.5 in 2 seeds, behind"
    assert gaps_by_panel(rows, "ls", "sgd")["a"].points == 0  # SGD is LS at 0
    assert own_values_over_sgd(rows, "sam") == ""
    assert own_values_over_sgd(rows[rows["value"] != 0.9], "ls").startswith("a, α = 0.5: ")


def test_each_candidate_is_told_beside_sgd():
    rows = pd.concat(
        [runs(sgd=(54, 55), ls=(48, 50), ivon=(54.2, 55.3)), runs(sgd=(54, 55)).assign(variant="averaged")]
    )
    rows["ema_accuracy"] = np.where(rows["variant"] == "averaged", 0.9, np.nan)
    assert beside_sgd(rows) == (
        "- a. above SGD: SGD, averaged (+35.5 ± 0.5); below SGD: LS, α = 0.5 (−5.5 ± 0.5); not settled "
        "against SGD: IVON (+0.2 ± 0.0)."
    )
    assert beside_sgd(runs(ivon=90)) == ""


MNIST = "MNIST, symmetric 40 %"


def test_adamw_stands_in_tables_where_it_was_run_and_the_others_say_so():
    rows = pd.concat([runs(MNIST, ivon=(96, 97), sgd=95), runs("digits, symmetric 40 %", ivon=90)])
    rows["best_test_accuracy"] = np.nan
    script = load_table(BOOK / "results" / "adamw.csv")
    of_mnist = 100 * script[script["panel"] == MNIST]["test_accuracy"].astype(float)
    mean = f"{of_mnist.mean():.1f} ± {of_mnist.std():.1f}"
    table = accuracies_and_adamw(rows)
    assert table["AdamW"].tolist() == [mean, "not run"] and table.loc["digits, symmetric 40 %", "SGD"] == "not run"
    assert accuracies_and_adamw(rows.assign(protocol="smoke"))["AdamW"].tolist() == ["not run"] * 2
    row = candidates_and_adamw(rows).loc["AdamW"]
    assert row[MNIST].startswith(f"{of_mnist.mean():.2f} ± ") and row["digits, symmetric 40 %"] == "not run"
    gap = gaps_by_panel(rows, "ivon", "adamw")[MNIST]
    seeds = script[script["panel"] == MNIST].set_index("seed")["test_accuracy"].astype(float)
    assert gap.points == pytest.approx(96.5 - 100 * seeds[[0, 1]].mean()) and gap.seeds == 2
    assert (
        "IVON against AdamW" in who_is_ahead(rows)
        and f"{MNIST}. " in beside_sgd(rows)
        and "AdamW (" in beside_sgd(rows)
    )
    assert set(adamw(rows)["panel"]) == {MNIST} and adamw(rows[:0]).empty


def test_label_smoothing_is_put_beside_runs_of_the_same_panels():
    rows = runs_by_protocol(load_table(BOOK / "results" / "controls.csv"))["mnist"]
    added = with_label_smoothing(rows)[len(rows) :]
    assert set(added["panel"]) == set(rows["panel"]) == {MNIST, "MNIST, κ = 0.5"} and (added["value"] == 0.5).all()
    assert set(added["method"]) == {"ls"} and (added["protocol"] == "mnist").all()
    assert added.groupby("panel")["seed"].nunique().tolist() == [3, 3]


def test_what_chapter_9_says_of_rivals_and_controls():
    text = (BOOK / "09_label_errors_cifar10.ipynb").read_text()
    panels = dict(list(rows_of("rivals", "mnist").groupby("panel")))
    by = {panel.partition(", ")[2][:4]: rows for panel, rows in panels.items()}

    def ahead(panel, one, other="ivon"):
        found = gap(by[panel], one, other)
        assert found.seeds == 3
        return found

    points = {
        panel: f"{ahead(panel, 'sce').points:.1f} and {ahead(panel, 'elr').points:.1f}" for panel in ("symm", "pair")
    }
    assert f"by {points['symm']} points with symmetric errors and by {points['pair']} with pair flips" in text
    kappa = f"SCE leads by {ahead('κ = ', 'sce').points:.1f} points, and GCE by {ahead('κ = ', 'gce').points:.1f}."
    assert kappa in text and all(ahead(p, m).side == 1 for p, m in [("symm", "sce"), ("symm", "elr"), ("pair", "sce")])
    under = [ahead(panel, "ivon_elr", "elr") for panel in ("symm", "pair", "κ = ")]
    assert [found.side for found in under] == [0, 1, -1]
    assert f"level with ELR under SGD, {under[1].points:.1f} points better and {-under[2].points:.1f} worse" in text
    five = {
        size: gaps
        for size in ("short", "mnist")
        if (
            gaps := [
                {panel: gap(rows, "ivon", other) for panel, rows in rows_of("fig5", size).groupby("panel")}
                for other in ("ls", "sam")
            ]
        )
    }
    over_ls, over_sam = (gaps["CIFAR-10, symmetric 40 %"] for gaps in five["short"])
    assert f"IVON is {over_ls.points:.1f} points above the best LS and {over_sam.points:.1f} above the best SAM" in text
    assert over_ls.side == over_sam.side == 1 and over_ls.seeds == over_sam.seeds == 3
    assert [g.side for gaps in five["mnist"] for g in gaps.values()] == [-1] * 6
    for panel in by:
        negative = gap(by[panel], "ls", "sgd", variants=("negative", ""))
        assert negative.side == -1
    controls = rows_of("controls", "mnist").query("panel == 'MNIST, symmetric 40 %'")
    controls["test_accuracy"] = controls["ema_accuracy"].fillna(controls["test_accuracy"])
    for variant in ("averaged weights", "smaller step and decay"):
        assert gap(controls, "sgd", "ivon", variants=(variant, "")).side == 0
        assert gap(controls, "sgd", "sgd", variants=(variant, "")).side == 1
    assert gap(controls, "sgd", "sgd", variants=("cosine and warm-up", "")).side == -1


def test_runs_that_did_not_finish_or_hold_images_out_say_nothing():
    rows = runs(ivon=(90, 91), sgd=(80, 81), ls=(99, 99))
    rows.loc[rows["method"] == "ls", "status"] = "diverged"
    rows.loc[(rows["method"] == "sgd") & (rows["seed"] == 1), "role"] = "tune"
    assert "LS" not in who_is_ahead(rows) and gaps_by_panel(rows, "ivon", "sgd")["a"].seeds == 1


def test_fewest_and_best_are_told_apart():
    rows = named(runs(ivon=(90, 92), sgd=80, ls=85).assign(memorised=0.0))
    assert len(named(runs(ivon=90).assign(memorised=np.nan))) == 0
    shares = {"IVON": 0.3, "SGD": 0.1, "LS, α = 0.5": 0.2}
    rows = rows.assign(memorised=rows["name"].map(shares))
    assert fewest_and_best(rows) == (
        "a: SGD learns the fewest wrong labels by heart (10.0 %), with a test accuracy of 80.0 %; IVON is the most "
        "accurate (91.0 %), with 30.0 % learned by heart."
    )


# ---------------------------------------------------------------------- figures
def test_every_run_is_a_point_of_its_name():
    rows = named(runs(ivon=(90, 92), sgd=80).assign(memorised=0.25))
    figure = plot_memorised(rows)
    drawn = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert drawn["SGD"] == [[25, 80]] and drawn["IVON"] == [[25, 90], [25, 92]]
    with pytest.raises(ValueError, match="there are no runs"):
        plot_memorised(rows[:0])


def test_names_that_differ_in_a_value_alone_share_an_entry_of_the_legend():
    names = ["LS, α = 0.1", "LS, α = 0.5", "LS, α = 0.9", "LS, α = 0.5, smaller step", "SAM, ρ = 0.05"]
    shares = {"panel": "a", "memorised": 0.25, "test_accuracy": 0.8}
    rows = pd.DataFrame([{**shares, "method": name.split(",")[0].lower(), "name": name} for name in names])
    figure = plot_memorised(rows)
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(told) == ["LS, α = 0.1 to 0.9", "LS, α = 0.5, smaller step", "SAM, ρ = 0.05"]
    sizes = [line.get_markersize() for line in figure.axes[0].lines if line.get_label() == "LS, α = 0.1 to 0.9"]
    assert sizes == sorted(set(sizes)) and len(sizes) == 3


def test_figure_10_is_drawn_over_the_first_noise():
    rows = pd.concat([runs(hess_init=h0, ivon=accuracy).assign(value=h0) for h0, accuracy in ((9.009, 90), (0.5, 60))])
    rows = pd.concat([rows, runs(sgd=10)]).assign(experiment="fig10")
    ax = plot_experiment("fig10", rows, figure=plot_first_noise).axes[0]
    ticks = [text.get_text() for text in ax.get_xticklabels()]
    assert ticks == ["0.0047\n0.9", "0.02\n0.049"]
    curve = ax.containers[0].lines[0].get_xydata()
    assert curve[:, 0] == pytest.approx([PAPER_STD, (5_000 * 0.501) ** -0.5]) and curve[:, 1] == pytest.approx([90, 60])


def test_a_method_may_stand_there_twice():
    figure = plot_accuracy_by_class({"a": [0.2, 0.4]}, {"a": {"sgd": [0.9, 0.8], "sgd, smaller step": [0.95, 0.9]}})
    solid, dashed = figure.axes[0].lines[-2:]
    assert (solid.get_label(), dashed.get_label()) == ("SGD", "SGD, smaller step")
    assert solid.get_color() == dashed.get_color() and dashed.get_linestyle() == "--"


def test_the_probes_loss_lies_between_knowing_nothing_and_the_class():
    probe, curves = (load_table(BOOK / "results" / f"{name}.csv") for name in ("take_off", "short_curves"))
    rows = probe.drop(columns="test_accuracy").merge(curves, on="key")
    assert rows["key"].nunique() == len(probe)
    for ax, (_, of_panel) in zip(plot_take_off(rows).axes, rows.groupby("panel", sort=False), strict=False):
        same, known = (line.get_ydata()[0] for line in ax.lines[-2:])
        rate = float(of_panel["rate"].iloc[0])
        assert same - known == pytest.approx(label_information(rate)) and same == pytest.approx(2.29, abs=0.001)
        last = of_panel.sort_values("epoch").groupby("key")["train_loss"].last()
        assert ((last > known) & (last < same)).all()
    with pytest.raises(ValueError, match="no rows"):
        plot_take_off(rows[:0])
