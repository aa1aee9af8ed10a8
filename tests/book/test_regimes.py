"""The map of regimes: its rule against sympy, a loop and Algorithm 1; marks, figures, sentences, record."""

from dataclasses import replace
from pathlib import Path

import bench_regimes as bench
import numpy as np
import pandas as pd
import pytest
import sympy as sp
import torch
from figures import regimes
from figures.regimes import Mark, drift_over_curvature, expected_hessian, plot_regimes, the_map, with_parts

from vlls import IVON
from vlls.optim import alg1
from vlls.train import RunConfig

TABLE = pd.read_csv(Path(__file__).parents[2] / "book" / "results" / "regimes.csv")


# ------------------------------------------------------------------ the rule, three ways
@pytest.mark.guards("prop-what-is-learned")
def test_sympy_gives_the_drift_of_a_step():
    h, delta, ess, beta2, g = sp.symbols("h delta lambda beta_2 g", positive=True)
    z, curvature = sp.symbols("z H", real=True)
    sigma = 1 / sp.sqrt(ess * (h + delta))
    # a loss with gradient g + H sigma z at the sample, and the estimate of line 3
    estimate = (g + curvature * sigma * z) * sigma * z / sigma**2
    step = beta2 * h + (1 - beta2) * estimate + (1 - beta2) ** 2 / 2 * (h - estimate) ** 2 / (h + delta)
    moments = {1: 0, 2: 1, 3: 0, 4: 3}  # of a standard normal
    poly = sp.Poly(sp.expand(step), z)
    mean = sum(c * moments.get(n, 1) for (n,), c in poly.terms())
    drift = (1 - beta2) ** 2 / 2 * ess * g**2
    rest = (1 - beta2) ** 2 / 2 * (h**2 - 2 * h * curvature + 3 * curvature**2) / (h + delta)
    assert sp.simplify(mean - (beta2 * h + (1 - beta2) * curvature + drift + rest)) == 0
    # the learned part of a constant drift is expected_hessian's term, up to a rest that does not depend on ess
    t = sp.symbols("t", integer=True, positive=True)
    added = sp.summation(drift * beta2**t, (t, 0, 9))
    assert sp.simplify(added - (1 - beta2**10) * (1 - beta2) / 2 * ess * g**2) == 0


@pytest.mark.guards("prop-what-is-learned")
@pytest.mark.parametrize("curvature", [0.0, 0.02])
def test_the_rule_is_what_algorithm_1_does(curvature):
    count, steps, ess, g, delta, start = 20_000, 200, 1e5, 3e-3, 1e-3, 0.05
    beta2 = 1 - 2 / steps
    generator = torch.Generator().manual_seed(0)
    hess = torch.full((count,), start, dtype=torch.float64)
    for _ in range(steps):
        z = torch.randn(count, generator=generator, dtype=torch.float64)
        noise = alg1.posterior_noise(z, hess, ess=ess, weight_decay=delta)
        grad = g * torch.randn(count, generator=generator, dtype=torch.float64) + curvature * noise
        statistic = alg1.sample_statistic(grad, noise, hess_approx="price")
        estimate = alg1.hess_estimate(statistic, hess, ess=ess, weight_decay=delta, hess_approx="price")
        zero = torch.zeros(count, dtype=torch.float64)
        _, _, hess = alg1.ivon_update(
            zero, zero, hess, grad, estimate, lr=0.0, beta1=0.9, beta2=beta2, weight_decay=delta
        )
    mean, error = float(hess.mean()), float(hess.std()) / count**0.5
    expected = expected_hessian(start, curvature, g**2, ess=ess, beta2=beta2, steps=steps)
    rest = 3 / steps * expected  # the part of a step that does not depend on ess
    assert abs(mean - expected) < 4 * error + rest
    without = expected_hessian(start, curvature, 0.0, ess=ess, beta2=beta2, steps=steps)
    assert mean - without > 20 * error  # the drift is there, also where there is no curvature


@pytest.mark.guards("prop-what-is-learned")
def test_a_loop_agrees_with_the_closed_form():
    ess, beta2, steps, g2, curvature = 3e5, 0.99, 137, 2e-5, 0.03
    hess = 0.4
    for _ in range(steps):
        hess = beta2 * hess + (1 - beta2) * curvature + 0.5 * (1 - beta2) ** 2 * ess * g2
    assert expected_hessian(0.4, curvature, g2, ess=ess, beta2=beta2, steps=steps) == pytest.approx(hess, rel=1e-12)
    taught = curvature + 0.5 * (1 - beta2) * ess * g2
    half = regimes.half_learned_below(taught, beta2, steps)
    last = expected_hessian(half, curvature, g2, ess=ess, beta2=beta2, steps=steps)
    assert beta2**steps * half / last == pytest.approx(0.5)


def test_the_ratio_is_ess_over_the_images_seen():
    steps, batch = 840, 50
    assert drift_over_curvature(1e4, 1 - 2 / steps, batch) == pytest.approx(1e4 / (steps * batch))


# ------------------------------------------------------------------ the benchmark
def test_the_benchmark_sums_the_squared_gradients_of_every_step():
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = IVON([weight], lr=0.1, ess=1e3, hess_init=0.1, beta2=0.9)
    squares = torch.zeros(4)
    with bench.Drift() as drift:
        for i in range(7):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                ((i + 1) * weight * torch.arange(1.0, 5.0)).sum().backward()
            optimizer.step()
            squares = 0.9 * squares + ((i + 1) * torch.arange(1.0, 5.0)) ** 2
    measured, added = drift.measures(), 0.5 * 0.1**2 * 1e3 * squares
    assert measured["hess_mean"] == pytest.approx(float(optimizer.state[weight]["hess"].mean()), rel=1e-6)
    assert measured["drift_mean"] == pytest.approx(float(added.mean()), rel=1e-5)
    assert measured["drift_share"] == pytest.approx(float((added / (added + 0.1 * 0.9**7)).median()), rel=1e-5)
    with optimizer.sampled_params(train=True):
        weight.sum().backward()
    optimizer.step()  # the hook is gone
    assert drift.measures()["drift_mean"] == measured["drift_mean"]


def test_cells_are_those_of_the_text_and_have_keys_of_their_own():
    cells = [cell for name in bench.PROTOCOL_OF for cell in bench.grid(name, 2)]
    keys = {bench.config_of(cell).key for cell in cells}
    assert len(keys) == len(cells) == 2 * 2 * 2 * 25 + 4 + 8 + 2
    assert set(TABLE["key"]) <= {
        bench.config_of(cell).key for name in bench.PROTOCOL_OF for cell in bench.grid(name, 9)
    }
    for cell in cells:
        config = bench.config_of(cell).resolved()
        steps = config.epochs * (config.images // 50)
        assert config.ess == cell.ratio * config.images and config.beta2 == pytest.approx(1 - 2 / steps)
        if cell.start == "matched":
            assert config.std_start == pytest.approx(RunConfig(dataset="cifar10").std_start, rel=1e-6)
    assert bench.RATIOS == regimes.RATIOS and bench.STARTS == regimes.STARTS
    assert bench.PAPER_PRECISION == regimes.PAPER_PRECISION


def test_one_clipped_cell_is_the_setting_of_the_package():
    ours = RunConfig(dataset="digits", train_size=1437, posterior="learned").resolved()
    (ratio, start, clip) = bench.CLIPS[-1]
    assert (ratio * 1437, start, clip) == (ours.ess, ours.hess_init, ours.hess_clip)


def test_rows_are_added_in_order_and_those_of_others_stay(tmp_path):
    path = tmp_path / "regimes.csv"
    row = {"dataset": "digits", "corruption": "none", "seed": 0, "start": 0.01, "ess_over_n": 4, "key": "a"}
    bench.add_row(path, row)
    bench.add_row(path, {**row, "ess_over_n": 1, "key": "b"})
    bench.add_row(path, {**row, "seed": 1, "key": "a"})  # made again
    table = pd.read_csv(path)
    assert list(table["key"]) == ["b", "a"] and list(table["seed"]) == [0, 1] and list(table) == bench.COLUMNS


def test_a_stopped_benchmark_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    made = []

    def stand_in(cell):
        made.append(cell)
        if len(made) == 3:
            raise KeyboardInterrupt
        row = {"dataset": cell.dataset, "corruption": cell.corruption, "seed": cell.seed, "start": cell.start}
        named = {"protocol": cell.protocol, "ess_over_n": cell.ratio, "status": "diverged", "seconds": 0.0}
        return {**dict.fromkeys(bench.COLUMNS), **row, **named, "key": bench.config_of(cell).key}

    monkeypatch.setattr(bench, "measured", stand_in)
    monkeypatch.setattr(bench, "grid", lambda name, seeds: list(_grid(name, seeds))[:5])
    monkeypatch.setattr("sys.argv", ["bench_regimes.py", "--output", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        bench.main()
    bench.main()
    assert len(made) == 6 and made[2] == made[3] and len(set(made)) == 5
    assert "5 cells, of which 2 were there before" in capsys.readouterr().out


_grid = bench.grid


# ------------------------------------------------------------------ marks and figures
def cells(places=None, **changes):
    """Return a map for 1,000 images; ``places`` has the changes to a cell that trains and does not learn."""
    every = [(ratio, start) for ratio in regimes.RATIOS for start in ("matched", *map(str, regimes.STARTS))]
    usual = {"learned_share": 0.01, "test_accuracy": 0.9, "posterior_ece": 0.1, "posterior_nll": 0.4, "spread": 1.1}
    usual |= {"train_images": 1000, "seeds": 2, "trains": True, "total": 0.02, "std_start": 0.005}
    usual |= {"beta2": 0.99, "steps": 200, "curvature": 0.002, "drift": 0.001, "hess_init": 0.1} | changes
    chosen = {place: {} for place in every} if places is None else places
    return pd.DataFrame([{"ess_over_n": r, "start": s, **usual, **of} for (r, s), of in chosen.items()])


def test_a_mark_begins_as_a_run_of_its_place_does():
    for mark in (*regimes.MARKS, *regimes.marks(1437)):
        (low, high), starts = mark.place(1437)
        assert low * 1437 == pytest.approx(mark.ess[0]) and high * 1437 == pytest.approx(mark.ess[1])
        assert starts == mark.hess_init
    paper = RunConfig(dataset="cifar10").resolved()
    (ratio, _), (start, _) = regimes.MARKS[0].place(1437)
    here = (ratio * 1437 * (start + 0.001)) ** -0.5
    assert here == pytest.approx(paper.std_start, rel=1e-6) and start == paper.hess_init


def test_our_mark_is_the_setting_of_the_package():
    config = RunConfig(dataset="digits", train_size=1000, posterior="learned").resolved()
    ours = regimes.marks(1000)[-1]
    assert ours.ess[0] == config.ess and ours.hess_init[0] == config.hess_init


def test_marks_are_drawn_at_their_places_in_every_panel():
    figure = plot_regimes(cells(), (Mark("A", "somebody", (2e4, 2e4), (0.1, 0.1)),))
    assert len(figure.axes) == 4
    for ax in figure.axes:
        (drawn,) = (text for text in ax.texts if text.get_gid() == "mark A")
        np.testing.assert_allclose(drawn.get_position(), (np.log10(20), -1))
    assert "A: somebody" in figure.get_suptitle()


@pytest.mark.parametrize("there", [25, 7, 1])
def test_the_figure_draws_the_cells_that_are_there(there):
    found = cells().iloc[:there].assign(test_accuracy=np.linspace(0.1, 0.99, there))
    figure = plot_regimes(found, ())
    numbers = [text.get_text() for text in figure.axes[1].texts]
    assert numbers == [f"{100 * value:.0f}" for value in found["test_accuracy"]]
    assert regimes.cells_there(found) == f"{there} of 25 cells, 2 seeds"


def test_a_map_without_cells_is_told():
    with pytest.raises(ValueError, match=r"there are no cells; pass a map of runs that are finished"):
        plot_regimes(cells().iloc[:0])


def test_the_map_takes_means_over_seeds_and_leaves_other_runs_out():
    found = the_map(TABLE, "digits", "symmetric")
    assert set(found["start"]) == {"matched", *map(str, regimes.STARTS)} and len(found) == 25
    one = TABLE.query("dataset == 'digits' and corruption == 'symmetric' and ess_over_n == 20 and start == '0.1'")
    here = found.query("ess_over_n == 20 and start == '0.1'").iloc[0]
    assert here["test_accuracy"] == pytest.approx(one[one["protocol"] == "smoke"]["test_accuracy"].mean())
    assert (one["protocol"] == "live").sum() == 1


# ------------------------------------------------------------------ sentences
LEARNS = {"learned_share": 0.8, "test_accuracy": 0.95}


@pytest.mark.parametrize(("nll", "side"), [(0.3, "for"), (0.5, "against")])
def test_calibration_is_for_or_against_learning_as_the_table_says(nll, side):
    found = cells({(1, "0.9"): {}, (200, "0.001"): {**LEARNS, "posterior_nll": nll, "posterior_ece": nll}})
    said = regimes.calibration_in_words(found)
    assert f"NLL speaks {side} learning: it is {nll:.3f}" in said and "ess = 200 N and h₀ = 0.001" in said
    assert ("ECE speaks against learning" in said) == (nll > 0.1)


@pytest.mark.parametrize(
    ("nll", "first"), [(0.3, "On some data the best cell that learns"), (0.5, "**A small h₀ alone does not")]
)
def test_the_advice_follows_the_table(nll, first):
    found = cells({(1, "0.9"): {}, (200, "0.001"): {**LEARNS, "posterior_nll": nll}})
    said = regimes.advice_in_words({"some data": found}, pd.DataFrame([runs()]))
    assert said.startswith(first)
    best = "ess = 200 N and h₀ = 0.001" if nll < 0.4 else "ess = 1 N and h₀ = 0.9"
    assert f"The lowest on some data is at {best}, where σ begins 1.1 times" in said


@pytest.mark.parametrize(("accuracy", "told"), [(0.99, "is more accurate than"), (0.8, "is not more accurate than")])
def test_the_clipped_setting_is_held_against_the_map(accuracy, told):
    clipped = runs(protocol="clipped", ess_over_n=1000, hess_clip=100.0, test_accuracy=accuracy, posterior_nll=0.5)
    said = regimes.advice_in_words({"digits, 40 % symmetric errors": cells()}, pd.DataFrame([runs(), clipped]))
    assert told in said and f"({accuracy:.1%}, the best cell 90.0%)" in said
    assert "its averaged NLL is above the lowest (0.500, 0.400)" in said and "clip of 100 (1 seed)" in said


def test_cells_are_counted_by_whether_they_train_and_learn():
    places = {(1, "0.9"): {}, (1, "0.1"): {"trains": False}, (200, "0.001"): LEARNS}
    said = regimes.regimes_in_words(cells(places))
    assert "3 of 25 cells, 2 seeds; 2 train, and 1 of these learn more than half" in said
    assert "ess = 200 N and h₀ = 0.001, with 95.0% (learned 80.0%" in said
    assert regimes.regimes_in_words(cells({(1, "0.1"): {"trains": False}})).endswith("no network trains.")


def test_the_rule_predicts_a_cell_from_the_others_of_its_column():
    kept = 0.99**200
    starts = (0.01, 0.1, 0.9)
    shares = [0.003 / (0.003 + h0 * kept) for h0 in starts]
    told = [{"hess_init": h0, "total": share} for h0, share in zip(starts, shares, strict=True)]
    places = dict(zip([(4, str(h0)) for h0 in starts], told, strict=True))
    found = regimes.predicted_shares(cells(places))
    np.testing.assert_allclose(found["predicted"], shares)
    assert "predict the share to 0 points" in regimes.rule_in_words(cells(places))
    assert "too few cells" in regimes.rule_in_words(cells({(4, "0.1"): {}}))


def runs(**changes):
    """Return a run of the table, as the benchmark writes it."""
    row = {"dataset": "digits", "protocol": "smoke", "corruption": "symmetric", "ess_over_n": 200, "start": "0.01"}
    row |= {"status": "finished", "seed": 0, "beta2": 0.99, "steps": 200, "hess_init": 0.01, "weight_decay": 0.001}
    row |= {"hess_mean": 0.1, "drift_mean": 0.08, "std_5": 0.1, "std_95": 0.2, "test_accuracy": 0.9, "epochs": 200}
    row |= {"learned_share": 0.8, "ess": 1e5, "batch_size": 50, "hess_clip": np.nan, "train_images": 1000}
    return row | changes


@pytest.mark.parametrize(("drift", "said"), [(0.08, "squared gradients more than"), (0.02, "of the learned part.")])
def test_what_was_learned_is_named_by_the_larger_part(drift, said):
    text = regimes.causes_in_words(pd.DataFrame([runs(drift_mean=drift), runs(drift_mean=drift, seed=1)]))
    assert said in text and "In the 2 runs of the usual length" in text
    assert f"the drift is {drift / (0.1 - 0.01 * 0.99**200 * 1.01):.0%}" in text


@pytest.mark.parametrize(("share", "taken"), [(0.01, True), (0.7, False)])
def test_what_the_clip_leaves_is_told(share, taken):
    clipped = runs(protocol="clipped", hess_clip=1.0, learned_share=share, drift_mean=np.nan)
    more = {"posterior_ece": 0.4, "posterior_nll": 0.6}
    text = regimes.clip_in_words(pd.DataFrame([runs(), clipped | more]))
    assert (
        f"80.0% without a clip, {100 * share:.1f}% with a clip of 1 (at the largest clip: test accuracy 90.0%" in text
    )
    assert ("removes the drift" in text) == taken
    alone = regimes.clip_in_words(pd.DataFrame([clipped | more]))
    assert "without" not in alone and "removes" not in alone
    assert "no runs" in regimes.clip_in_words(pd.DataFrame([runs()]))


# ------------------------------------------------------------------ the record
def test_parts_of_the_hessian_add_up():
    rows = with_parts(TABLE)
    rows = rows[rows["hess_clip"].isna()]
    np.testing.assert_allclose(rows["kept"] + rows["curvature"] + rows["drift"], rows["hess_mean"])
    assert (rows["drift"] > 0).all()


def test_the_record_says_what_the_chapter_does():
    rows = regimes._trained(TABLE)
    off = rows["drift"] / rows["curvature"] / (rows["ess"] / rows["seen"])
    assert off.between(1 / 5, 5).mean() > 0.95
    usual = the_map(TABLE, "digits", "symmetric")
    assert (usual.query("start == 'matched' and ess_over_n == 1")["learned_share"] < 0.01).all()
    assert (usual.query("start == '0.001' and ess_over_n == 2000")["learned_share"] > 0.9).all()
    found = regimes.predicted_shares(usual)
    assert (found["predicted"] - found["total"]).abs().median() < 0.05
    assert TABLE["key"].is_unique and TABLE[["torch", "vlls", "date", "seed", "protocol"]].notna().all(axis=None)


@pytest.mark.slow
def test_live_cells_equal_the_record():
    found = regimes.live_and_recorded(TABLE)
    assert list(found["ess / N"]) == [ratio for ratio, _ in bench.LIVE]
    assert (found["share"] - found["share, recorded"]).abs().max() < 0.03
    assert (found["accuracy"] - found["accuracy, recorded"]).abs().max() < 0.05
    assert replace(bench.live_cells()[0], seed=1) not in bench.live_cells()
