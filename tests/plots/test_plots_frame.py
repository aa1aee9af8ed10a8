"""The common parts of all figures of runs: the runs that they draw, bad tables, panels, the footnote."""

import io
import json
import math
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from drawn_runs import A, B, curve, level, run, seeds, sweep, table, texts
from matplotlib.colors import to_rgba
from PIL import Image

from vlls.experiments import load_table
from vlls.plots import plot_experiment
from vlls.plots._experiments import FIGURES, calibration, fixed_variance, memorisation, noise_levels, sensitivity
from vlls.plots._style import legend_above, styled
from vlls.train import METHODS

BOOK = Path(__file__).parents[2] / "book"
RUN_FIGURES = [name for name in FIGURES if name != "smoothed_labels"]


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_of_no_runs_says_how_to_make_them(figure):
    for nothing in (pd.DataFrame(), table(run("ivon", 0.9)).iloc[:0]):
        (ax,) = plot_experiment("fig8", nothing, figure=figure).axes
        assert texts(ax) == ["No runs yet: vlls sweep fig8"] and not ax.axison


@pytest.mark.parametrize("figure", RUN_FIGURES)
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": math.nan}, r"1 row\(s\) of the table have no seed; fill it in"),
        ({"panel": None}, r"1 row\(s\) of the table have no panel; fill it in"),
        ({"test_accuracy": "high"}, "the column test_accuracy of the table holds 'high'; pass numbers"),
    ],
)
def test_rows_that_cannot_be_placed_are_told(figure, changes, told):
    rows = table(run("ivon", 0.9) | changes, run("sgd", 0.8))
    with pytest.raises(ValueError, match=told):
        plot_experiment("fig5", rows, figure=figure)


def test_the_figure_of_an_experiment_is_its_own_or_one_that_is_named_or_given():
    rows = table(sweep())
    assert len(plot_experiment("fig5", rows).axes) == 2  # LS above SAM
    assert plot_experiment("fig5", rows, figure="memorisation").axes[0].get_ylabel().startswith("memorised")
    own = sensitivity(rows)
    assert plot_experiment("fig5", rows, figure=lambda table, *, name: own) is own
    with pytest.raises(ValueError, match=r"figure='memorization' is unknown \(did you mean 'memorisation'\?\)"):
        plot_experiment("fig5", rows, figure="memorization")


def test_the_highest_protocol_is_drawn():
    rows = [*sweep(), *[{**one, "protocol": "smoke", "test_accuracy": 0.1} for one in sweep()]]
    assert level(plot_experiment("fig5", table(rows)).axes[0]) == pytest.approx([91])


def test_only_runs_of_the_main_role_are_drawn():
    assert texts(sensitivity(table(run("ivon", 0.9, role="tune"))).axes[0]) == ["No runs yet: vlls sweep …"]


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match=r"lacks the columns status, reduced, test_accuracy; pass one"):
        sensitivity(table(sweep()).drop(columns=["reduced", "test_accuracy", "status"]))
    with pytest.raises(ValueError, match=r"lacks the columns protocol; pass one"):
        plot_experiment("fig5", table(sweep()).drop(columns="protocol"))


@pytest.mark.parametrize(
    ("plot", "column"),
    [
        (noise_levels, "rate"),
        (fixed_variance, "posterior_std"),
        (calibration, "posterior_ece"),
        (memorisation, "recovered"),
    ],
)
def test_a_missing_column_that_one_figure_needs_is_named(plot, column):
    rows = table(sweep()).drop(columns=column)
    with pytest.raises(ValueError, match=rf"lacks the columns {column};"):
        plot(rows)
    sensitivity(rows)  # other figures do not need it


@pytest.mark.parametrize(("column", "other"), [("protocol", "smoke"), ("experiment", "fig7")])
def test_mixed_protocols_or_experiments_are_refused(column, other):
    mixed = table(sweep(), {**sweep()[-1], column: other})
    with pytest.raises(ValueError, match=rf"{column} .* and {other}; choose one {column}$"):
        sensitivity(mixed)


def test_figures_say_which_protocol_it_is_unless_it_is_the_papers():
    assert sensitivity(table(sweep())).get_supxlabel() == ""
    figure = sensitivity(table(sweep()).assign(protocol="reduced", reduced="60 epochs instead of 200"))
    assert figure.get_supxlabel() == "reduced protocol, 2 seeds: 60 epochs instead of 200"


def test_the_footnote_says_which_panels_and_how_many_seeds():
    short, long = "60 epochs", ", ".join(f"{n} epochs" for n in range(40, 60))
    rows = table(
        run("ivon", 0.9, reduced=short), run("ls", 0.9, value=0.1, reduced=short), run("ivon", 0.9, panel=B)
    ).assign(protocol="smoke")
    assert sensitivity(rows).get_supxlabel() == f"smoke protocol, 1 seed: 60 epochs ({A})"
    both = rows.assign(reduced=[f"60 epochs, β2 = {i}" if i else "60 epochs, 1,000 images" for i in range(len(rows))])
    text = sensitivity(both.iloc[:2].assign(panel=A)).get_supxlabel()
    assert text == "smoke protocol, 1 seed: 60 epochs, 1,000 images, β2 = 1"
    more = table(rows.to_dict("records"), run("ivon", 0.9, seed=1, protocol="smoke", reduced=short))
    assert sensitivity(more).get_supxlabel().startswith("smoke protocol, 1 to 2 seeds: ")
    assert plot_experiment("fig5", more, panels=[B]).get_supxlabel() == "smoke protocol, 1 seed"
    lines = sensitivity(rows.assign(reduced=long)).get_supxlabel().splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 124


def test_every_method_has_a_name_and_its_own_colour():
    assert len({to_rgba(method.colour) for method in METHODS.values()}) == len(METHODS)
    assert len({method.label for method in METHODS.values()}) == len(METHODS)
    ax = sensitivity(table(sweep())).axes[0]
    assert to_rgba(ax.containers[0].lines[0].get_color()) == to_rgba(METHODS["ls"].colour)
    patches = calibration(table(sweep())).axes[0].containers
    colours = {c.get_label(): c.patches[0].get_facecolor() for c in patches if hasattr(c, "patches")}
    assert colours["SGD"] == to_rgba(METHODS["sgd"].colour)
    assert colours["IVON at the mean"][:3] == colours["IVON averaged over the posterior"][:3]


def test_panels_keep_their_order_and_can_be_chosen():
    rows = table(sweep(B, -0.1), sweep(A))
    figure = sensitivity(rows)
    assert [ax.get_title() for ax in figure.axes] == [B, A, "", ""]
    assert [level(ax)[0] for ax in figure.axes] == pytest.approx([81, 91, 81, 91])
    fewer = sensitivity(rows[(rows["panel"] == A) | (rows["value"] != 0.5)])
    assert fewer.axes[2].get_xlim() == figure.axes[2].get_xlim() == figure.axes[3].get_xlim()  # panels can be compared
    assert [ax.get_title() for ax in plot_experiment("fig5", rows, panels=[A, B]).axes[:2]] == [A, B]
    assert [ax.get_title() for ax in plot_experiment("fig5", rows, panels=[A]).axes] == [A, ""]
    with pytest.raises(ValueError, match=r"panel='pair flip' is unknown \(did you mean 'pair flip 40 %'\?\); choose"):
        plot_experiment("fig5", rows, panels=["pair flip"])


def test_runs_to_choose_values_and_runs_that_diverged_are_left_out_and_the_latter_told():
    extra = [
        run("ls", 0.99, value=0.9, role="tune"),
        run("ivon", 0.10, seed=7, role="tune", status="diverged"),
        run("sam", 0.10, value=0.5, seed=8, status="diverged"),
        run("sam", math.nan, value=0.7, seed=9, status="diverged"),
    ]
    plain, more = (sensitivity(rows) for rows in (table(sweep()), table(sweep(), extra)))
    for before, after, name in zip(plain.axes, more.axes, ("LS", "SAM"), strict=True):
        assert curve(before, name)[1:] == curve(after, name)[1:] and texts(before) == texts(after)
        assert "diverged" not in before.get_xlabel()
    assert "diverged" not in more.axes[0].get_xlabel() and more.axes[1].get_xlabel().endswith("\n2 runs diverged")
    assert more.axes[1].get_xticklabels()[-1].get_text() == "0.7"  # the empty place shows that its runs diverged
    one = sensitivity(table(sweep(), extra[:3]))
    assert one.axes[1].get_xlabel().endswith("\n1 run diverged")


@pytest.mark.parametrize("figure", RUN_FIGURES)
@pytest.mark.parametrize("kept", [["ivon"], ["sgd"], ["ls"], ["ivon_fixed"], ["ivon", "sam"]], ids="+".join)
def test_any_part_of_a_sweep_is_drawn_without_a_warning(figure, kept):
    rows = [*sweep(A), *sweep(B, -0.3), *seeds("ivon_fixed", 0.8, 0.7, posterior_std=0.01, value=0.9)]
    of_kept = table(rows)[lambda t: t["method"].isin(kept)]
    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning, FutureWarning):  # of matplotlib, numpy and pandas
            warnings.simplefilter("error", category)
        for part in (of_kept, of_kept.assign(status="diverged", test_accuracy=None)):
            FIGURES[figure](part).canvas.draw()


def test_the_footnote_tells_how_wide_the_posterior_was_and_how_much_of_it_was_learned():
    results = load_table(BOOK / "results" / "fig5.csv")
    rows = results[results["protocol"] == "mnist"]
    text = plot_experiment("fig5", rows).get_supxlabel()
    ivon = rows[(rows["method"] == "ivon") & (rows["role"] == "main")]
    (start,) = {f"{value:.2g}" for value in ivon["std_start"]}
    ends = dict.fromkeys(f"{100 * value:.2g}" for value in (ivon["learned_share"].min(), ivon["learned_share"].max()))
    assert f"IVON's σ: {start} at the start," in " ".join(text.split())
    assert f"learned share {' to '.join(ends)} %" in " ".join(text.split())
    assert start == f"{(50_000 * 0.901) ** -0.5:.2g}"  # with the paper's number of images
    assert "σ" not in plot_experiment("fig5", rows.drop(columns="std_50")).get_supxlabel()


def test_entries_of_a_legend_are_whole_in_their_pieces_of_the_picture():
    @styled
    def plot():
        """Draw two panels whose legend has large marks."""
        figure, axes = plt.subplots(1, 2, figsize=(7, 3))
        for ax in axes:
            ax.errorbar([0, 1], [0, 1], 0.1, marker="s", markersize=9, label="Σ, a method")
            ax.plot([0, 1], [1, 0], label="Γ, another")
        legend_above(figure, 2)
        return figure

    picture = Image.open(io.BytesIO(plot()._repr_mimebundle_()[0]["image/png"]))
    cut = json.loads(picture.info["Parts"])
    scale, pixels = picture.width / cut["width"], np.asarray(picture.convert("L"))
    entries = [part[0] for part in cut["parts"][:2]]
    for left, top, width, height, *_ in entries:
        piece = pixels[round(top * scale) : round((top + height) * scale), :]
        piece = piece[:, round(left * scale) : round((left + width) * scale)]
        assert piece.min() < 100 and piece[[0, -1]].min() > 250  # nothing is cut off above or below
