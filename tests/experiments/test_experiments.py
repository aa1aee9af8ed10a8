import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sweeping import tiny

from vlls.experiments import (
    EXPERIMENTS,
    PROTOCOLS,
    cells,
    choose,
    collate,
    compare,
    experiment,
    highest_protocol,
    load_table,
    protocol,
)
from vlls.experiments._comparison import gains
from vlls.experiments._folder import ResultsFolder
from vlls.experiments._protocols import reductions
from vlls.experiments._results import save_table
from vlls.train import RunConfig
from vlls.train._files import save_record

SMOOTHING = {0.1, 0.3, 0.5, 0.7, 0.9}


def values(grid, method, parameter):
    return {getattr(cell.config, parameter) for cell in grid if cell.config.method == method}


# ---------------------------------------------------------------------- the paper's values
@pytest.mark.parametrize(
    "name, rho",
    [
        ("fig5", {0.01, 0.05, 0.1, 0.2, 0.5}),
        ("fig7", {0.05, 0.1, 0.15, 0.2, 0.5}),
        ("fig8", {0.01, 0.05, 0.1, 0.2, 0.5}),
    ],
)
def test_label_smoothing_and_sam_are_tried_with_the_papers_values(name, rho):
    grid = cells(name, "paper", seeds=1, tune=False)
    for panel in {cell.panel for cell in grid}:
        of_panel = [cell for cell in grid if cell.panel == panel]
        assert values(of_panel, "ls", "smoothing") == SMOOTHING
        assert values(of_panel, "sam", "rho") == rho
        assert [cell.config.method for cell in of_panel].count("sgd") == 1  # α = 0 and ρ = 0
        assert [cell.config.method for cell in of_panel].count("ivon") == 1


def test_cifar10_runs_are_those_of_appendix_c2():
    for name in ("fig5", "fig7"):
        for cell in cells(name, "paper", tune=False):
            config = cell.config
            assert (config.dataset, config.model) == ("cifar10", "resnet34")
            assert (config.epochs, config.batch_size, config.weight_decay) == (200, 50, 0.001)
            assert config.momentum == 0.9 and config.train_size is None and not cell.reduced
            if config.method == "ivon":
                assert (config.lr, config.schedule, config.warmup_epochs) == (0.2, "cosine", 5)
                assert (config.hess_init, config.beta2, config.ess) == (0.9, 1 - 1e-5, None)  # λ = N
            else:
                assert (config.lr, config.schedule, config.milestones) == (0.05, "step", (0.5, 0.75))
    assert {cell.config.seed for cell in cells("fig5", "paper")} == {0, 1, 2, 3, 4}


def test_class_dependent_errors_are_those_of_section_4_3_2():
    grid = cells("fig7", "paper", seeds=1)
    assert sorted({cell.config.rate for cell in grid}) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert {(cell.config.corruption, cell.config.rate_step) for cell in grid} == {("class_dependent", 0.05)}


def test_label_errors_hold_the_rates_of_figures_5_and_8():
    for name, dataset in (("fig5", "cifar10"), ("fig8", "cifar100")):
        found = {(c.config.dataset, c.config.corruption, c.config.rate) for c in cells(name, "paper", seeds=1)}
        assert found >= {(dataset, "symmetric", 0.2), (dataset, "symmetric", 0.4), (dataset, "pair_flip", 0.2)}


@pytest.mark.parametrize(
    "corruption, rate, weight_decay, ls, sam, ivon, hess_init",
    [
        ("symmetric", 0.2, 2e-4, 0.1, 0.05, 0.8, 0.2),
        ("symmetric", 0.4, 2e-4, 0.1, 0.1, 0.8, 0.2),
        ("pair_flip", 0.2, 5e-4, 0.1, 0.1, 0.5, 0.5),
    ],
)
def test_cifar100_runs_are_those_of_table_1(corruption, rate, weight_decay, ls, sam, ivon, hess_init):
    grid = [
        c.config for c in cells("fig8", "paper", seeds=1) if (c.config.corruption, c.config.rate) == (corruption, rate)
    ]
    assert {config.weight_decay for config in grid} == {weight_decay}
    assert {c.lr for c in grid if c.method in ("ls", "sgd")} == {ls}
    assert {c.lr for c in grid if c.method == "sam"} == {sam}
    assert {(c.lr, c.hess_init) for c in grid if c.method == "ivon"} == {(ivon, hess_init)}


def test_figures_6_and_10_hold_what_they_compare():
    fixed = [c.config for c in cells("fig6", "paper", seeds=1)]
    assert {c.dataset for c in fixed} == {"cifar100"} and {c.method for c in fixed} == {"ivon", "ivon_fixed"}
    assert len({c.hess_init for c in fixed if c.method == "ivon_fixed"}) >= 5
    starts = [c.config for c in cells("fig10", "paper", seeds=1)]
    assert {c.method for c in starts} == {"ivon"} and {c.dataset for c in starts} == {"cifar10"}
    assert {0.05, 0.9} < {c.hess_init for c in starts} and min(c.hess_init for c in starts) < 0.05


def test_figure_4_compares_the_three_methods_and_keeps_their_labels():
    grid = cells("fig4", "paper", seeds=1)
    assert {(c.config.dataset, c.config.method) for c in grid} == {
        (dataset, method) for dataset in ("cifar10", "cifar100") for method in ("ivon", "ls", "ols")
    }
    assert {c.also for c in grid} == {"smoothed_labels"} and {c.config.corruption for c in grid} == {"none"}


def test_real_label_errors_are_clothing1m_and_what_people_gave():
    assert {(c.config.dataset, c.config.model) for c in cells("fig9", "paper")} == {("clothing1m", "resnet50")}
    labels = {c.config.labels for c in cells("cifar_n", "paper")}
    assert labels == {"cifar10n:aggre_label", "cifar10n:random_label1", "cifar10n:worse_label", "cifar100n:noisy_label"}


# ---------------------------------------------------------------------- order, protocols
@pytest.mark.parametrize("size", PROTOCOLS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_method_of_seed_0_comes_first_in_every_panel(name, size):
    if not any(PROTOCOLS[size].takes(dict(panel.fields)) for panel in EXPERIMENTS[name].panels):
        with pytest.raises(ValueError, match=f"{size}.*has none of the panels of.*{name}.*; choose one of paper"):
            cells(name, size)
        return
    grid = cells(name, size, seeds=2)
    methods, panels = {(c.config.method, c.variant) for c in grid}, {c.panel for c in grid}
    head = grid[: len(methods) * len(panels)]
    assert {((c.config.method, c.variant), c.panel) for c in head} == {(m, p) for m in methods for p in panels}
    seeds = [c.config.seed for c in grid]
    assert seeds == sorted(seeds) and set(seeds) == {0, 1}
    roles = [c.role for c in grid if c.config.seed == 0]
    assert roles == sorted(roles)  # main before tune
    assert len({(c.panel, c.role, c.config.key) for c in grid}) == len(grid)
    assert all(c.config == c.config.resolved() for c in grid)


def test_runs_to_tune_hold_out_a_part_and_only_where_values_are_chosen():
    grid = cells("fig7", "paper", seeds=2)
    tune = [c for c in grid if c.role == "tune"]
    assert {c.config.method for c in tune} == {"sgd", "ls", "sam"} and {c.config.seed for c in tune} == {0}
    assert {c.config.validation_size for c in tune} == {5000} and {c.config.train_size for c in tune} == {None}
    main = [c for c in grid if c.role == "main" and c.config.seed == 0 and c.config.method != "ivon"]
    assert len(tune) == len(main) and {c.config.validation_size for c in main} == {0}
    small = [c for c in cells("fig7", "reduced") if c.role == "tune"]
    assert {(c.config.train_size, c.config.validation_size) for c in small} == {(9000, 1000)}
    assert not [c for c in cells("fig7", "paper", tune=False) if c.role == "tune"]
    assert not [c for c in cells("fig10", "paper") if c.role == "tune"]  # IVON is not tuned
    assert not [c for c in cells("fig9", "paper") if c.role == "tune"]  # Clothing1M holds images out itself


def test_a_reduced_run_says_what_is_reduced():
    assert all(cell.reduced for cell in cells("fig5", "reduced"))
    for name, steps in (
        ("fig5", 12_000),
        ("fig8", 16_000),
    ):  # a share of e^-2 of the Hessian's start is left, as in the paper
        ivon = next(cell for cell in cells(name, "reduced") if cell.config.method == "ivon")
        assert ivon.config.beta2**steps == pytest.approx((1 - 1e-5) ** 200_000, rel=1e-3)
    first = cells("fig5", "smoke")[0]
    assert first.reduced == "digits instead of CIFAR-10, cnn3 instead of resnet34, 30 epochs instead of 200"
    assert first.panel == "digits, symmetric 20 %"
    config = RunConfig(dataset="clothing1m")
    assert reductions(config, RunConfig(dataset="clothing1m", image_size=112)) == "112 pixels instead of 224"
    assert reductions(config, config) == ""


@pytest.mark.parametrize("size", ["paper", "short", "mnist", "smoke"])
def test_a_learning_rate_of_a_candidate_keeps_its_ratio_to_that_of_others(size):
    learned = {c.config.method: c.config for c in cells("ladder", size, seeds=1) if c.config.posterior == "learned"}
    assert learned["evon"].resolved().lr == pytest.approx(5 * learned["ivon"].resolved().lr)


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: experiment("fig55"), ("fig55", "fig5", "cifar_n")),
        (lambda: protocol("tiny"), ("tiny", "paper", "reduced", "smoke")),
        (lambda: cells("fig7", "papr"), ("papr", "paper")),
        (lambda: cells("fig7", seeds=0), ("seeds=0", ">= 1")),
        (lambda: cells("fig7", seeds=True), ("seeds=True",)),
    ],
)
def test_unknown_names_and_no_seeds_are_refused(call, named):
    with pytest.raises(ValueError) as caught:
        call()
    for part in named:
        assert part in str(caught.value)


# ---------------------------------------------------------------------- the folder
def put(folder, cell, accuracy=0.5, status="finished"):
    """Write a record as a run would."""
    path = folder.run(cell.config)
    path.mkdir(parents=True, exist_ok=True)
    record = {
        "key": cell.config.key,
        "config": cell.config.to_dict(),
        "status": status,
        "reason": "",
        "counts": {"train_images": 100},
        "epochs": [],
        "final": {"test_accuracy": accuracy, "validation_accuracy": accuracy},
        "machine": {"device": "a processor", "torch": "2", "wall_seconds": 3.0},
    }
    save_record(path / "record.json", record)


def test_a_folder_remembers_its_cells_and_what_is_done(tmp_path):
    folder, grid = ResultsFolder(tmp_path), tiny()
    with folder.locked():
        folder.add_sweep(grid[:2])
        folder.add_sweep(grid)  # a cell that is noted twice is kept once
        put(folder, grid[1])
    again = ResultsFolder(tmp_path)
    assert set(again.cells()) == set(grid) and len(again.cells()) == len(grid)
    assert [again.is_done(cell) for cell in grid] == [False, True, False, False]
    table = collate(tmp_path)
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["experiment"], row["protocol"], row["method"], row["seed"]) == ("fig5", "smoke", "sgd", 0)
    assert (row["test_accuracy"], row["device"], row["reduced"], row["epochs"]) == (0.5, "a processor", "all of it", 2)


def test_a_cell_whose_config_has_changed_takes_the_place_of_the_old_one(tmp_path):
    folder, old = ResultsFolder(tmp_path), tiny()[0]
    new = replace(old, config=replace(old.config, lr=0.7))
    with folder.locked():
        folder.add_sweep([old])
        put(folder, old, 0.1)
        folder.add_sweep([new])
        assert collate(tmp_path).empty
        put(folder, new, 0.2)
    assert collate(tmp_path)["test_accuracy"].tolist() == [0.2]


def test_a_failure_is_noted_and_forgotten(tmp_path):
    folder, cell = ResultsFolder(tmp_path), tiny()[0]
    assert folder.failure(cell.config) is None
    folder.note_failure(cell, "no luck")
    assert folder.failure(cell.config) == "no luck" and not folder.is_done(cell)
    folder.clear_failure(cell)
    assert folder.failure(cell.config) is None


def test_a_folder_of_another_version_is_refused_and_kept(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"results_format": 99, "vlls": "7.0"}))
    with pytest.raises(
        ValueError, match=r"another version \(format 99, written by vlls 7.0; this is format "
    ) as caught:
        ResultsFolder(tmp_path)
    assert "choose another folder" in str(caught.value)
    assert json.loads((tmp_path / "results.json").read_text())["results_format"] == 99


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "{"])
def test_a_damaged_manifest_is_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"results.json cannot be read.*choose another results folder"):
        ResultsFolder(tmp_path)


def test_what_is_no_results_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; choose a folder"):
        ResultsFolder(tmp_path / "file")
    (tmp_path / "other" / "runs").mkdir(parents=True)
    with pytest.raises(ValueError, match="is no results folder"):
        ResultsFolder(tmp_path / "other")
    with pytest.raises(ValueError, match="there is no results folder"):
        collate(tmp_path / "nothing")


def test_a_folder_is_held_by_one_sweep(tmp_path):
    with ResultsFolder(tmp_path).locked():
        with pytest.raises(ValueError, match=r"another sweep is at work in .*; wait for it, or choose another folder"):
            with ResultsFolder(tmp_path).locked():
                pass
    with ResultsFolder(tmp_path).locked():  # and then free again
        pass


def test_a_damaged_list_of_cells_says_what_to_do(tmp_path):
    folder = ResultsFolder(tmp_path)
    with folder.locked():
        folder.add_sweep(tiny())
    (tmp_path / "sweeps" / "fig5-smoke.json").write_text('{"cells": [{"config": {"colour": 1}}]}')
    with pytest.raises(ValueError, match=r"fig5-smoke.json cannot be read.*its runs are kept"):
        folder.cells()


# ---------------------------------------------------------------------- tables
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_table_comes_back_as_it_was(tmp_path, ending):
    folder, grid = ResultsFolder(tmp_path / "results"), cells("fig7", "smoke", seeds=1, tune=False)[:20]
    with folder.locked():
        folder.add_sweep(grid)
        for i, cell in enumerate(grid):
            put(folder, cell, i / 20, "diverged" if i == 3 else "finished")
    table = collate(tmp_path / "results")
    assert len(table) == 20 and (table["status"] == "diverged").sum() == 1
    save_table(table, tmp_path / f"table{ending}")
    again = load_table(tmp_path / f"table{ending}")
    for name in ("panel", "method", "parameter", "value", "seed", "test_accuracy", "device", "reduced", "key"):
        pd.testing.assert_series_equal(again[name], table[name], check_dtype=False)


def test_the_std_of_a_fixed_posterior_is_in_the_table(tmp_path):
    folder = ResultsFolder(tmp_path)
    cell = next(c for c in cells("fig6", "smoke", seeds=1) if c.config.method == "ivon_fixed")
    with folder.locked():
        folder.add_sweep([cell])
        put(folder, cell)
    expected = 1 / math.sqrt(100 * (cell.config.hess_init + cell.config.weight_decay))
    assert collate(tmp_path)["posterior_std"].tolist() == [pytest.approx(expected)]


def test_a_table_needs_a_known_ending_and_a_place(tmp_path):
    with pytest.raises(ValueError, match=r"table.xlsx ends in .xlsx; choose a name that ends in .csv or .parquet"):
        save_table(pd.DataFrame(), tmp_path / "table.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be made"):
        save_table(pd.DataFrame(), tmp_path / "file" / "table.csv")


def test_the_highest_protocol_wins():
    table = pd.DataFrame({"protocol": ["smoke", "reduced", "smoke"], "n": [0, 1, 2]})
    assert highest_protocol(table)["n"].tolist() == [1]
    assert highest_protocol(table[table["protocol"] == "smoke"])["n"].tolist() == [0, 2]
    assert highest_protocol(load_table("nothing.csv")).empty
    with pytest.raises(ValueError, match="tiny"):
        highest_protocol(pd.DataFrame({"protocol": ["tiny"]}))


def runs(rows):
    names = ["method", "value", "seed", "role", "test_accuracy", "validation_accuracy", "status"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(panel="p", experiment="fig5", protocol="smoke")


NAN = float("nan")
RUNS = [
    ("ivon", NAN, 0, "main", 0.90, NAN, "finished"),
    ("ivon", NAN, 1, "main", 0.94, NAN, "finished"),
    ("sgd", NAN, 0, "main", 0.50, NAN, "finished"),
    ("sgd", NAN, 0, "tune", 0.10, 0.40, "finished"),
    ("ls", 0.1, 0, "main", 0.60, NAN, "finished"),
    ("ls", 0.1, 1, "main", 0.70, NAN, "finished"),
    ("ls", 0.1, 0, "tune", 0.99, 0.30, "finished"),
    ("ls", 0.5, 0, "main", 0.64, NAN, "finished"),
    ("ls", 0.5, 1, "main", 0.99, NAN, "diverged"),
    ("ls", 0.5, 0, "tune", 0.20, 0.80, "finished"),
    ("sam", 0.1, 0, "main", 0.40, NAN, "finished"),
    ("sam", 0.1, 0, "tune", 0.90, 0.30, "finished"),
]


def test_values_are_chosen_as_the_paper_does_and_by_images_held_out():
    by_test = choose(runs(RUNS)).set_index("method")
    assert by_test.loc["ivon", "accuracy"] == pytest.approx(92)
    assert by_test.loc["ivon", "std"] == pytest.approx(100 * np.std([0.9, 0.94], ddof=1))
    assert math.isnan(by_test.loc["ivon", "value"])
    assert (by_test.loc["ls", "value"], by_test.loc["ls", "accuracy"], by_test.loc["ls", "seeds"]) == (
        0.1,
        pytest.approx(65),
        2,
    )
    assert (by_test.loc["sam", "value"], by_test.loc["sam", "accuracy"]) == (0.0, pytest.approx(50))  # SGD was better
    fair = choose(runs(RUNS), how="validation").set_index("method")
    assert (fair.loc["ls", "value"], fair.loc["ls", "accuracy"]) == (0.5, pytest.approx(64))
    assert (fair.loc["ls", "diverged"], fair.loc["ls", "seeds"]) == (1, 1)
    assert fair.loc["sam", "value"] == 0.0 and fair.loc["ivon", "accuracy"] == pytest.approx(92)


def test_no_value_wins_by_its_seeds_or_by_the_runs_that_it_lost():
    rows = [(0.1, 0, 0.82), (0.1, 1, 0.60), (0.5, 0, 0.80), (0.7, 0, 0.75), (0.7, 1, 0.72)]
    rows = [("ls", value, seed, "main", accuracy, NAN, "finished") for value, seed, accuracy in rows]
    chosen = choose(runs(rows), methods=["ls"]).set_index("method").loc["ls"]
    assert (chosen["value"], chosen["accuracy"], chosen["seeds"]) == (0.1, pytest.approx(71), 2)  # on seed 0
    apart = choose(runs(rows[1:3]), methods=["ls"]).set_index("method").loc["ls"]  # no seed is shared
    assert (apart["value"], apart["accuracy"]) == (0.5, pytest.approx(80))
    rows[1] = (*rows[1][:-1], "diverged")
    assert choose(runs(rows), methods=["ls"])["value"].tolist() == [0.5]
    assert choose(runs(rows[:2]), methods=["ls"])[["value", "seeds", "diverged"]].values.tolist() == [[0.1, 1, 1]]


def test_a_choice_needs_runs_of_one_protocol_and_experiment():
    table = runs(RUNS)
    for name, other in (("protocol", "paper"), ("experiment", "fig7")):
        with pytest.raises(ValueError, match=f"several values of {name}"):
            choose(pd.concat([table, table.assign(**{name: other})]))
    with pytest.raises(ValueError, match=r"how='luck'.*test.*validation"):
        choose(table, how="luck")
    assert choose(table[table["method"] == "ivon"])["method"].tolist() == ["ivon"]  # a sweep that was stopped early
    assert choose(table.iloc[:0]).empty


def test_without_held_out_images_there_is_no_fair_choice():
    table = runs([row for row in RUNS if row[3] == "main"])
    assert choose(table, how="validation")["method"].tolist() == ["ivon", "sgd"]


def test_images_that_a_data_set_holds_out_itself_choose_among_runs_on_all_others():
    rows = [(0.1, 0.60, 0.9), (0.5, 0.64, 0.8), (0.7, 0.50, 0.7)]
    table = runs([("ls", value, 0, "main", test, held_out, "finished") for value, test, held_out in rows])
    for how, value in (("test", 0.5), ("validation", 0.1)):
        assert choose(table, how=how, methods=["ls"])["value"].tolist() == [value]


def test_a_value_that_wins_and_has_diverged_leaves_its_method_out():
    rows = [("ls", 0.1, 0, "main", 0.6, NAN, "finished"), ("ls", 0.5, 0, "main", 0.1, NAN, "diverged")]
    rows += [("ls", value, 0, "tune", 0.6, held_out, "finished") for value, held_out in ((0.1, 0.3), (0.5, 0.8))]
    assert choose(runs(rows), how="validation", methods=["ls"]).empty


def test_gains_of_ivon_have_the_standard_error_of_both_means():
    ls = gains(runs(RUNS), "ls", "test").loc["p"]
    error = 100 * math.hypot(np.std([0.9, 0.94], ddof=1), np.std([0.6, 0.7], ddof=1)) / math.sqrt(2)
    assert (ls["gain"], ls["error"], ls["clear"]) == (pytest.approx(27), pytest.approx(error), True)
    worse = ("ivon", NAN, 1, "main", 0.45, NAN, "finished")
    narrow = gains(runs([RUNS[0], worse, *RUNS[4:6]]), "ls", "test").loc["p"]
    assert narrow["gain"] == pytest.approx(2.5) and not narrow["clear"]
    sam = gains(runs(RUNS), "sam", "test").loc["p"]  # SGD's single run is the best of them
    assert sam["gain"] == pytest.approx(42) and math.isnan(sam["error"]) and not sam["clear"]
    assert gains(runs(RUNS), "ls", "validation").loc["p", "gain"] == pytest.approx(28)
    assert gains(runs(RUNS[2:]), "ls", "test").empty


def test_a_comparison_counts_the_panels():
    below = runs([("ivon", NAN, 0, "main", 0.2, NAN, "finished"), *RUNS[2:]]).assign(panel="q")
    text = compare(pd.concat([runs(RUNS), below]), "ls")
    assert text.startswith("IVON against the best LS, chosen by test accuracy, in 2 panels:")
    assert "above it in 1 (1 clear), below it in 1 (0 clear); from -45.0 to +27.0 points" in text
    assert compare(runs(RUNS), "sgd").startswith("IVON against SGD, in 1 panel:")
    fixed = runs([*RUNS[:2], ("ivon_fixed", 0.3, 0, "main", 0.8, NAN, "finished")])
    assert compare(fixed, "ivon_fixed").startswith(
        "IVON against the best fixed variance, chosen by test accuracy, in 1"
    )
    assert compare(runs(RUNS[2:]), "sam", how="validation").endswith("chosen by validation accuracy: no panel has both")
