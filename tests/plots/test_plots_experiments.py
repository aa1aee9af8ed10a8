"""Figures of the experiments: what is drawn is read back from the axes and compared with means computed by hand."""

import doctest
import math
import statistics
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgba

pd = pytest.importorskip("pandas")
plots = pytest.importorskip("vlls.plots._experiments")
from vlls.plots import plot_smoothed_labels  # noqa: E402 (it needs what the lines above look for)
from vlls.train import METHODS  # noqa: E402

A, B = "symmetric 20 %", "pair flip 40 %"
RUN_FIGURES = [
    plots.plot_calibration,
    plots.plot_fixed_variance,
    plots.plot_hessian_init,
    plots.plot_memorisation,
    plots.plot_noise_levels,
    plots.plot_sensitivity,
]
FIGURES = [*RUN_FIGURES, plot_smoothed_labels]


def by_name(function):
    return function.__name__


@pytest.fixture(autouse=True)
def _close_figures():
    """A figure is not closed where drawing it raises an error."""
    yield
    plots.plt.close("all")


def run(method, accuracy, *, value=math.nan, panel=A, seed=0, **fields):
    """One row of a table; the metrics that are not given follow from the accuracy."""
    return {
        "experiment": "fig5",
        "protocol": "paper",
        "role": "main",
        "panel": panel,
        "rate": 0.2 if panel == A else 0.4,
        "method": method,
        "value": value,
        "seed": seed,
        "status": "finished",
        "test_accuracy": accuracy,
        "test_nll": 2 * (1 - accuracy),
        "test_ece": (1 - accuracy) / 4,
        "posterior_nll": 1 - accuracy if method == "ivon" else None,
        "posterior_ece": (1 - accuracy) / 8 if method == "ivon" else None,
        "memorised": 0.5 * (1 - accuracy),
        "recovered": 0.5 * accuracy,
        "posterior_std": math.nan,
        "reduced": "",
        **fields,
    }


def seeds(method, *accuracies, **fields):
    return [run(method, accuracy, seed=seed, **fields) for seed, accuracy in enumerate(accuracies)]


def sweep(panel=A, shift=0.0, ivon=(0.90, 0.92)):
    """Two seeds of every method; the best LS has α = 0.3, the best SAM ρ = 0.05."""
    cells = [("sgd", math.nan, 0.80), ("ls", 0.3, 0.86), ("ls", 0.1, 0.84)]
    cells += [("sam", 0.05, 0.93), ("sam", 0.01, 0.82), ("sam", 0.5, 0.30)]
    rows = seeds("ivon", *(accuracy + shift for accuracy in ivon), panel=panel)
    for method, value, accuracy in cells:
        rows += seeds(method, accuracy + shift - 0.01, accuracy + shift + 0.01, value=value, panel=panel)
    return rows


def table(*rows):
    return pd.DataFrame([one for part in rows for one in (part if isinstance(part, list) else [part])])


def curve(ax, name):
    """The points of a line with error bars: x, y and the length of the bars, NaN where there is none."""
    for container in ax.containers:
        if container.get_label() == name:
            line, _, (bars,) = container.lines
            lengths = [(s[1, 1] - s[0, 1]) / 2 if len(s) else math.nan for s in bars.get_segments()]
            return list(line.get_xdata()), list(line.get_ydata()), lengths
    return None


def level(ax):
    """The heights of the horizontal lines."""
    return [
        line.get_ydata()[0] for line in ax.lines if list(line.get_xdata()) == [0, 1] and line.get_marker() == "None"
    ]


def bars(ax):
    """For each label the heights of its bars."""
    found = {}
    for container in ax.containers:
        if hasattr(container, "patches"):
            found[container.get_label()] = [patch.get_height() for patch in container.patches]
    return found


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(figure):
    return [text.get_text() for part in figure.legends for text in part.get_texts()]


def std(*values):
    return 100 * statistics.stdev(values)


# ------------------------------------------------------------------ what is common to all
@pytest.mark.parametrize("plot", FIGURES, ids=by_name)
def test_a_figure_of_no_runs_says_how_to_make_them(plot):
    for nothing in (pd.DataFrame(), table(run("ivon", 0.9)).iloc[:0]):
        (ax,) = plot(nothing, name="fig8").axes
        assert texts(ax) == ["No runs yet: vlls sweep fig8"] and not ax.axison
        assert texts(plot(nothing).axes[0]) == ["No runs yet: vlls sweep …"]


@pytest.mark.parametrize("plot", RUN_FIGURES, ids=by_name)
def test_only_runs_of_the_main_role_are_drawn(plot):
    assert texts(plot(table(run("ivon", 0.9, value=0.5, role="tune"))).axes[0])[0].startswith("No runs yet")


@pytest.mark.parametrize("plot", RUN_FIGURES, ids=by_name)
def test_missing_columns_are_named(plot):
    with pytest.raises(ValueError, match=r"lacks the columns status, reduced, test_accuracy; pass one"):
        plot(table(sweep()).drop(columns=["reduced", "test_accuracy", "status"]))


@pytest.mark.parametrize(
    ("plot", "column"),
    [
        (plots.plot_noise_levels, "rate"),
        (plots.plot_fixed_variance, "posterior_std"),
        (plots.plot_calibration, "posterior_ece"),
        (plots.plot_memorisation, "recovered"),
    ],
)
def test_a_missing_column_that_one_figure_needs_is_named(plot, column):
    rows = table(sweep()).drop(columns=column)
    with pytest.raises(ValueError, match=rf"lacks the columns {column};"):
        plot(rows)
    plots.plot_sensitivity(rows)  # the others do not need it


@pytest.mark.parametrize("plot", FIGURES, ids=by_name)
@pytest.mark.parametrize(("column", "other"), [("protocol", "smoke"), ("experiment", "fig7")])
def test_mixed_protocols_or_experiments_are_refused(plot, column, other):
    rows = pairs("ivon", [[0, 1], [1, 0]]) if plot is plot_smoothed_labels else sweep()
    mixed = table(rows, {**rows[-1], column: other})
    with pytest.raises(ValueError, match=rf"{column} .* and {other}; choose one {column}$"):
        plot(mixed)


@pytest.mark.parametrize("plot", RUN_FIGURES, ids=by_name)
def test_figures_say_which_protocol_it_is_unless_it_is_the_papers(plot):
    rows = table(sweep(), seeds("ivon", 0.8, 0.8, value=0.1), seeds("ivon_fixed", 0.8, 0.8, posterior_std=0.01))
    assert plot(rows).get_supxlabel() == ""
    figure = plot(rows.assign(protocol="reduced", reduced="60 epochs instead of 200"))
    assert figure.get_supxlabel() == "reduced protocol, 2 seeds: 60 epochs instead of 200"


def test_the_footnote_says_which_panels_and_how_many_seeds():
    short, long = "60 epochs", ", ".join(f"{n} epochs" for n in range(40, 60))
    rows = table(
        run("ivon", 0.9, reduced=short), run("ls", 0.9, value=0.1, reduced=short), run("ivon", 0.9, panel=B)
    ).assign(protocol="smoke")
    assert plots.plot_sensitivity(rows).get_supxlabel() == f"smoke protocol, 1 seed: 60 epochs ({A})"
    both = rows.assign(reduced=[f"60 epochs, β2 = {i}" if i else "60 epochs, 1,000 images" for i in range(len(rows))])
    text = plots.plot_sensitivity(both.iloc[:2].assign(panel=A)).get_supxlabel()
    assert text == "smoke protocol, 1 seed: 60 epochs, 1,000 images, β2 = 1"
    more = table(rows.to_dict("records"), run("ivon", 0.9, seed=1, protocol="smoke", reduced=short))
    assert plots.plot_sensitivity(more).get_supxlabel().startswith("smoke protocol, 1 to 2 seeds: ")
    assert plots.plot_sensitivity(more, panels=[B]).get_supxlabel() == "smoke protocol, 1 seed"
    lines = plots.plot_sensitivity(rows.assign(reduced=long)).get_supxlabel().splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 124


def test_every_method_has_a_name_and_its_own_colour():
    assert len({to_rgba(method.colour) for method in METHODS.values()}) == len(METHODS)
    assert len({method.label for method in METHODS.values()}) == len(METHODS)
    ax = plots.plot_sensitivity(table(sweep())).axes[0]
    assert to_rgba(ax.containers[0].lines[0].get_color()) == to_rgba(METHODS["ls"].colour)
    patches = plots.plot_calibration(table(sweep())).axes[0].containers
    colours = {c.get_label(): c.patches[0].get_facecolor() for c in patches if hasattr(c, "patches")}
    assert colours["SGD"] == to_rgba(METHODS["sgd"].colour)
    assert colours["IVON at the mean"][:3] == colours["IVON averaged over the posterior"][:3]


# ------------------------------------------------------------------ sensitivity
def test_sensitivity_draws_means_and_standard_deviations_with_sgd_at_zero():
    ls, sam = plots.plot_sensitivity(table(sweep())).axes
    x, y, bar = curve(ls, "LS")
    assert x == pytest.approx([0, 0.1, 0.3]) and y == pytest.approx([80, 84, 86])
    assert bar == pytest.approx([std(0.01, -0.01)] * 3)
    x, y, _ = curve(sam, "SAM")
    assert x == [0, 1, 2, 3] and y == pytest.approx([80, 82, 93, 30])  # the values of ρ stand side by side
    assert [tick.get_text() for tick in sam.get_xticklabels()] == ["0", "0.01", "0.05", "0.5"]
    assert [tick.get_text() for tick in ls.get_xticklabels()] == ["0", "0.1", "0.3"]
    for ax in (ls, sam):
        assert level(ax) == pytest.approx([91])
        band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
        assert (band.y0, band.y1) == pytest.approx((91 - std(0.90, 0.92), 91 + std(0.90, 0.92)))
    assert "α" in ls.get_xlabel() and "ρ" in sam.get_xlabel()


def test_numbers_that_were_read_as_text_are_numbers():
    ls, _ = plots.plot_sensitivity(table(sweep()).astype({"value": str, "test_accuracy": str})).axes
    assert curve(ls, "LS")[1] == pytest.approx([80, 84, 86]) and level(ls) == pytest.approx([91])


def test_improvements_stand_over_the_best_candidate_negative_ones_too():
    ls, sam = plots.plot_sensitivity(table(sweep())).axes
    assert texts(ls) == ["+5.0"] and texts(sam) == ["−2.0"]
    assert ls.texts[0].xy[0] == pytest.approx(0.3) and sam.texts[0].xy[0] == 2
    assert ls.texts[0].xy[1] == pytest.approx(91 + std(0.90, 0.92))  # above IVON's band
    assert sam.texts[0].xy[1] == pytest.approx(93 + std(0.92, 0.94))  # above the candidate's bar
    red, green, blue, _ = to_rgba(ls.texts[0].get_color())
    assert blue > 0.7 and max(red, green) < 0.3


def test_the_best_candidate_is_that_of_the_best_mean_not_of_the_best_run_or_median():
    wide, even = seeds("ls", 0.88, 0.83, 0.30, value=0.1), seeds("ls", 0.80, 0.80, 0.83, value=0.3)
    ax = plots.plot_sensitivity(table(seeds("ivon", 0.9, 0.9, 0.9), wide, even)).axes[0]
    assert curve(ax, "LS")[1:] == (pytest.approx([67, 81]), pytest.approx([std(0.88, 0.83, 0.3), std(0.8, 0.8, 0.83)]))
    assert texts(ax) == ["+9.0"] and ax.texts[0].xy[0] == pytest.approx(0.3)


def test_sgd_can_be_the_best_candidate():
    rows = table(run("ivon", 0.9), run("sgd", 0.85), run("ls", 0.8, value=0.1), run("sam", 0.8, value=0.1))
    for ax in plots.plot_sensitivity(rows).axes:
        assert texts(ax) == ["+5.0"] and ax.texts[0].xy[0] == 0


def test_panels_keep_their_order_and_can_be_chosen():
    rows = table(sweep(B, -0.1), sweep(A))
    figure = plots.plot_sensitivity(rows)
    assert [ax.get_title() for ax in figure.axes] == [B, A, "", ""]
    assert [level(ax)[0] for ax in figure.axes] == pytest.approx([81, 91, 81, 91])
    fewer = plots.plot_sensitivity(rows[(rows["panel"] == A) | (rows["value"] != 0.5)])
    assert fewer.axes[2].get_xlim() == figure.axes[2].get_xlim() == figure.axes[3].get_xlim()  # panels can be compared
    assert [ax.get_title() for ax in plots.plot_sensitivity(rows, panels=[A, B]).axes[:2]] == [A, B]
    assert [ax.get_title() for ax in plots.plot_sensitivity(rows, panels=[A]).axes] == [A, ""]
    with pytest.raises(ValueError, match=r"panel='pair flip' is unknown \(did you mean 'pair flip 40 %'\?\); choose"):
        plots.plot_sensitivity(rows, panels=["pair flip"])


def test_many_panels_are_stacked_in_pairs_of_rows():
    names = [f"κ = {i}" for i in range(5)]
    figure = plots.plot_sensitivity(table(*(sweep(name, -0.01 * i) for i, name in enumerate(names))))
    assert len(figure.axes) == 10 and figure.get_size_inches()[0] <= 7
    place = {ax.get_title(): ax.get_subplotspec() for ax in figure.axes if ax.get_title()}
    assert list(place) == names
    assert [(spec.rowspan.start, spec.colspan.start) for spec in place.values()] == [
        (0, 0), (0, 1), (0, 2), (2, 0), (2, 1)
    ]  # fmt: skip
    below = {(s.rowspan.start, s.colspan.start): ax for ax in figure.axes for s in [ax.get_subplotspec()]}
    for i, spec in enumerate(place.values()):
        ax = below[spec.rowspan.start + 1, spec.colspan.start]
        assert "ρ" in ax.get_xlabel() and level(ax) == pytest.approx([91 - i])


def test_runs_to_choose_values_and_runs_that_diverged_are_left_out_and_the_latter_told():
    extra = [
        run("ls", 0.99, value=0.9, role="tune"),
        run("ivon", 0.10, seed=7, role="tune", status="diverged"),
        run("sam", 0.10, value=0.05, seed=8, status="diverged"),
        run("sam", math.nan, value=0.7, seed=9, status="diverged"),
    ]
    plain, more = (plots.plot_sensitivity(rows) for rows in (table(sweep()), table(sweep(), extra)))
    for before, after, name in zip(plain.axes, more.axes, ("LS", "SAM"), strict=True):
        assert curve(before, name)[1:] == curve(after, name)[1:] and texts(before) == texts(after)
        assert "diverged" not in before.get_xlabel()
    assert "diverged" not in more.axes[0].get_xlabel() and more.axes[1].get_xlabel().endswith("\n2 runs diverged")
    assert more.axes[1].get_xticklabels()[-1].get_text() == "0.7"  # nothing stands over it, which shows what happened
    one = plots.plot_sensitivity(table(sweep(), extra[:3]))
    assert one.axes[1].get_xlabel().endswith("\n1 run diverged")


@pytest.mark.parametrize(
    "plot", [plots.plot_sensitivity, plots.plot_noise_levels, plots.plot_fixed_variance, plots.plot_hessian_init]
)
def test_accuracies_end_at_100_and_0_per_cent(plot):
    rows = seeds("ivon", 1.0, 0.6, value=0.1) + seeds("ls", 1.0, 0.5, value=0.1) + seeds("sam", 0.0, 0.5, value=0.1)
    rows += seeds("ivon_fixed", 0.0, 1.0, posterior_std=0.1)
    figure = plot(pd.DataFrame(rows))
    figure.draw_without_rendering()
    for ax in figure.axes:
        bottom, top = ax.get_ylim()
        assert -6 < bottom and 100 < top < 106
        assert max(tick for tick in ax.get_yticks() if tick <= top) <= 100
        ends = [path.vertices for lines in ax.containers for bars in lines[2] for path in bars.get_paths()]
        ends += [patch.get_bbox().get_points() for patch in ax.patches]
        heights = np.concatenate(ends)[:, 1]
        assert heights.min() >= 0 and heights.max() == pytest.approx(100)


def test_error_bars_of_shares_end_at_100_and_0_per_cent():
    rows = seeds("ivon", 0.9, 0.9) + seeds("ls", 0.8, 0.8, value=0.1)
    table = pd.DataFrame(rows).assign(memorised=[0.0, 0.5, 0.0, 1.0], recovered=[1.0, 0.6, 1.0, 0.9])
    for ax in plots.plot_memorisation(table).axes:
        for bars in (lines.errorbar for lines in ax.containers if getattr(lines, "errorbar", None)):
            heights = np.concatenate([path.vertices for path in bars[2][0].get_paths()])[:, 1]
            assert heights.min() >= 0 and heights.max() <= 100 + 1e-9


def test_the_axis_says_that_small_noise_is_drawn_higher():
    from vlls.plots import plot_noise_order

    for least, told in ((1e-4, False), (1e-7, True)):
        noise, classes = np.array([0.1, least]), np.array([0, 1])
        figure = plot_noise_order(noise, 0.05, np.zeros((2, 4, 4)), classes, classes, shown=1)
        assert ("values below 1e-5 are drawn there" in figure.axes[0].get_xlabel()) == told


def test_one_seed_has_neither_bars_nor_band():
    rows = table(sweep())
    ls, sam = plots.plot_sensitivity(rows[rows["seed"] == 0]).axes
    for ax, name in ((ls, "LS"), (sam, "SAM")):
        assert np.isnan(curve(ax, name)[2]).all() and not ax.patches
        assert level(ax) == pytest.approx([90])
    assert texts(ls) == ["+5.0"]
    assert len(plots.plot_sensitivity(rows).axes[0].patches) == 1


def test_a_stopped_sweep_draws_what_there_is():
    rows = table(sweep(), sweep(B))
    only = plots.plot_sensitivity(rows[rows["method"] == "ivon"])
    assert [level(ax) for ax in only.axes] == [pytest.approx([91])] * 4 and legend(only) == ["IVON"]
    assert not any(texts(ax) or ax.containers for ax in only.axes)
    without = plots.plot_sensitivity(rows[rows["method"] != "ivon"])
    assert curve(without.axes[0], "LS")[1] == pytest.approx([80, 84, 86]) and not texts(without.axes[0])
    half = plots.plot_sensitivity(rows[(rows["panel"] == A) | rows["method"].isin(["ivon", "sgd"])])
    assert texts(half.axes[0]) == ["+5.0"] and curve(half.axes[1], "LS")[:2] == ([0], pytest.approx([80]))
    assert not texts(half.axes[1])  # SGD alone is not the best of LS


# ------------------------------------------------------------------ the other curves
def test_noise_levels_show_the_best_value_of_each_panel():
    other = [*sweep(B, -0.3), *seeds("ls", 0.59, 0.60, value=0.9, panel=B)]
    figure = plots.plot_noise_levels(table(other, sweep(A), run("sam", 0.1, value=0.5, status="diverged")))
    (ax,) = figure.axes
    assert legend(figure) == ["IVON", "LS", "SAM", "SGD"]
    expected = {"IVON": [91, 61], "LS": [86, 59.5], "SAM": [93, 63], "SGD": [80, 50]}
    for name, mean in expected.items():
        x, y, bar = curve(ax, name)
        assert x == [0.2, 0.4] and y == pytest.approx(mean)
        assert bar == pytest.approx([std(0, 0.02), std(0.59, 0.60) if name == "LS" else std(0, 0.02)])
    tops = [pytest.approx((0.2, 93 + std(0, 0.02))), pytest.approx((0.4, 63 + std(0, 0.02)))]  # of SAM's bars
    assert [(text.get_text(), text.xy) for text in ax.texts] == [
        *zip(["ρ = 0.05", "ρ = 0.05"], tops, strict=True),
        *zip(["α = 0.3", "α = 0.9"], tops, strict=True),
    ]
    assert "κ" in ax.get_xlabel() and ax.get_xlabel().endswith("\n1 run diverged") and "(%)" in ax.get_ylabel()


def test_noise_levels_can_be_another_column_and_must_differ():
    rows = table(sweep(A), sweep(B, -0.3))
    renamed = rows.rename(columns={"rate": "share"})
    (ax,) = plots.plot_noise_levels(renamed, x="share", xlabel="share of wrong labels").axes
    assert curve(ax, "IVON")[0] == [0.2, 0.4] and ax.get_xlabel() == "share of wrong labels"
    with pytest.raises(ValueError, match=rf"of the panels {A}, {B} two have the same rate; pass panels that differ"):
        plots.plot_noise_levels(rows.assign(rate=0.2))
    (ax,) = plots.plot_noise_levels(rows[rows["method"].isin(["ivon", "sgd"])]).axes
    assert curve(ax, "LS") is None and curve(ax, "SGD")[1] == pytest.approx([80, 50]) and not ax.texts


def test_sgd_can_be_the_best_label_smoothing_at_a_noise_level():
    rows = table(run("ivon", 0.9), run("sgd", 0.85), run("ls", 0.8, value=0.1))
    (ax,) = plots.plot_noise_levels(rows).axes
    assert texts(ax) == ["α = 0"] and curve(ax, "LS")[1] == pytest.approx([85])


def test_fixed_variances_stand_on_a_log_axis_under_the_learned_one():
    rows = [*seeds("ivon_fixed", 0.7, 0.8, value=3.0, posterior_std=0.002), *seeds("ivon", 0.9, 0.92)]
    rows += seeds("ivon_fixed", 0.86, 0.88, value=0.03, posterior_std=0.02)
    rows += seeds("ivon_fixed", 0.5, value=0.1, posterior_std=0.01, panel=B)
    figure = plots.plot_fixed_variance(table(rows, run("ivon_fixed", 0.1, posterior_std=0.002, status="diverged")))
    first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == [A, B] and first.get_xscale() == "log"
    x, y, bar = curve(first, "IVON, fixed variance")
    assert x == [0.002, 0.02] and y == pytest.approx([75, 87])
    assert bar == pytest.approx([std(0.7, 0.8), std(0.86, 0.88)])
    assert level(first) == pytest.approx([91]) and len(first.patches) == 1
    assert curve(second, "IVON, fixed variance")[:2] == ([0.01], [50]) and level(second) == []
    assert first.get_xlabel().endswith("σ\n1 run diverged") and "diverged" not in second.get_xlabel()
    assert set(legend(figure)) == {"IVON, fixed variance", "IVON, learned variance"}


def test_fixed_variance_ticks_are_numbers_that_are_apart():
    rows = [run("ivon_fixed", 0.8, posterior_std=(20_000 * h) ** -0.5) for h in (0.03, 0.1, 0.3, 0.9, 3, 10, 30)]
    figure = plots.plot_fixed_variance(table(rows))
    figure.canvas.draw()
    (ax,) = figure.axes
    low, high = ax.get_xlim()
    shown = [
        label.get_text() for at, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True) if low < at < high
    ]
    assert shown == ["0.002", "0.005", "0.01", "0.02"]


def test_hessian_starts_have_a_line_a_panel():
    rows = [*seeds("ivon", 0.5, 0.6, value=0.01), *seeds("ivon", 0.9, 0.92, value=0.9)]
    rows += [run("ivon", 0.7, value=0.9, panel=B), run("ivon", 0.99), run("sgd", 0.99, value=0.9)]
    (ax,) = (figure := plots.plot_hessian_init(table(rows))).axes
    x, y, bar = curve(ax, A)
    assert x == [0.01, 0.9] and y == pytest.approx([55, 91])
    assert bar == pytest.approx([std(0.5, 0.6), std(0.9, 0.92)])
    assert curve(ax, B)[:2] == ([0.9], pytest.approx([70])) and legend(figure) == [A, B]
    assert ax.get_xscale() == "log" and [tick.get_text() for tick in ax.get_xticklabels()] == ["0.01", "0.9"]
    assert texts(plots.plot_hessian_init(table(run("ivon", 0.9))).axes[0])[0].startswith("No runs yet")


# ------------------------------------------------------------------ bars
def test_calibration_has_ivon_twice_and_label_smoothing_at_its_best_value():
    rows = [*sweep(A), *seeds("ols", 0.88, 0.88), *seeds("ivon", 0.7, 0.7, panel=B), run("ols", 0.2, status="diverged")]
    figure = plots.plot_calibration(table(rows))
    error, likelihood = (bars(ax) for ax in figure.axes)
    labels = [
        "IVON at the mean",
        "IVON averaged over the posterior",
        "SGD",
        "LS, α = 0.3, –",
        "SAM, ρ = 0.05, –",
        "OLS",
    ]
    assert list(error) == list(likelihood) == labels == legend(figure)
    shown = np.array(list(error.values()))
    np.testing.assert_allclose(shown[:, 0], [2.25, 1.125, 5, 3.5, 1.75, 3])  # (1 - accuracy) / 4 or / 8, in per cent
    np.testing.assert_allclose(shown[:2, 1], [7.5, 3.75])
    assert np.isnan(shown[2:, 1]).all()
    np.testing.assert_allclose(np.array(list(likelihood.values()))[:, 0], [0.18, 0.09, 0.4, 0.28, 0.14, 0.24])
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == [f"{A}\n1 run diverged", B]
    assert "(%)" in figure.axes[0].get_ylabel() and "(nats)" in figure.axes[1].get_ylabel()


def test_calibration_of_label_smoothing_is_not_that_of_sgd():
    rows = table(run("sgd", 0.9), run("ls", 0.8, value=0.1))
    assert bars(plots.plot_calibration(rows).axes[0]) == {
        "SGD": pytest.approx([2.5]),
        "LS, α = 0.1": pytest.approx([5]),
    }
    memorised = bars(plots.plot_memorisation(rows).axes[0])
    assert memorised == {"LS, α = 0": pytest.approx([5]), "SGD": pytest.approx([5])}


def test_runs_without_metrics_of_the_posterior_have_no_bars_for_it():
    rows = table(sweep()).assign(posterior_ece=None, posterior_nll=None)  # of type object
    error, likelihood = (bars(ax) for ax in plots.plot_calibration(rows).axes)
    assert error["IVON at the mean"] == pytest.approx([2.25])
    assert np.isnan([shown["IVON averaged over the posterior"] for shown in (error, likelihood)]).all()


def test_memorisation_shows_both_shares_of_the_best_of_each_method():
    figure = plots.plot_memorisation(table(sweep(B, -0.3), seeds("ls", 0.9, 0.9, value=0.9, panel=B), sweep(A)))
    memorised, recovered = (bars(ax) for ax in figure.axes)
    assert list(memorised) == ["IVON", "LS, α = 0.9, 0.3", "SAM, ρ = 0.05", "SGD"] == legend(figure)
    np.testing.assert_allclose(list(memorised.values()), [[19.5, 4.5], [5, 7], [18.5, 3.5], [25, 10]])
    np.testing.assert_allclose(list(recovered.values()), [[30.5, 45.5], [45, 43], [31.5, 46.5], [25, 40]])
    spread = [container for container in figure.axes[0].containers if not hasattr(container, "patches")]
    (lines,) = spread[0].lines[2]
    assert [(s[1, 1] - s[0, 1]) / 2 for s in lines.get_segments()] == pytest.approx([std(0, 0.01)] * 2)
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == [B, A]
    widths = {patch.get_width() for c in figure.axes[0].containers for patch in getattr(c, "patches", ())}
    assert max(widths) * 4 < 1  # the groups do not touch


def test_bars_of_one_seed_have_no_error_bars():
    figure = plots.plot_memorisation(table([one for one in sweep() if one["seed"] == 0]))
    spread = [container for container in figure.axes[0].containers if not hasattr(container, "patches")]
    for container in spread:
        assert all(np.isnan(segment).any() or not len(segment) for segment in container.lines[2][0].get_segments())
    assert bars(figure.axes[0])["IVON"] == pytest.approx([5])


# ------------------------------------------------------------------ smoothed labels
def pairs(method, matrix, *, value=math.nan, panel=A, seed=0, **fields):
    """A row for each entry of a matrix of smoothed labels."""
    place = {"experiment": "fig4", "protocol": "paper", "panel": panel, "method": method, "value": value, "seed": seed}
    return [
        {**place, "label": f"c{i}", "other": f"c{j}", "smoothed": float(entry), **fields}
        for i, row in enumerate(matrix)
        for j, entry in enumerate(row)
    ]


IVON = [[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.04, 0.06, 0.9]]
OLS = [[0.9, 0.09, 0.01], [0.03, 0.95, 0.02], [0.0, 0.02, 0.98]]


def test_heat_maps_show_the_mean_label_without_its_own_class():
    second = np.array(IVON) + 0.02
    rows = [*pairs("ls", np.full((3, 3), 0.1), value=0.3), *pairs("ols", OLS), *pairs("ivon", IVON)]
    figure = plot_smoothed_labels(table(rows, pairs("ivon", second, seed=1), pairs("sgd", IVON)))
    *maps, bar = figure.axes
    assert [ax.get_title() for ax in maps] == ["IVON", "OLS", "LS, α = 0.3"]
    images = [ax.images[0] for ax in maps]
    ivon = images[0].get_array()
    own = np.eye(3, dtype=bool)
    np.testing.assert_allclose(ivon[~own], (np.array(IVON) + 0.01)[~own])
    assert np.isnan(np.ma.filled(ivon, np.nan)[own]).all()
    assert [(image.norm.vmin, image.norm.vmax) for image in images] == [pytest.approx((0.01, 0.21))] * 3
    assert type(images[0].norm).__name__ == "LogNorm"
    assert images[1].get_array()[2, 0] < images[1].norm.vmin  # zero: the colour under the scale
    red, green, blue, _ = images[1].cmap(images[1].norm(images[1].get_array()[2, 0]))
    assert red == green == blue == pytest.approx(0.75) and "grey: 0 or less" in bar.get_ylabel()
    assert [tick.get_text() for tick in maps[0].get_yticklabels()] == ["c0", "c1", "c2"]


def test_the_title_has_the_rank_correlation_of_what_is_shown():
    # Off the diagonal IVON's ranks are 6, 5, 2.5, 2.5, 1, 4 and those of OLS 6, 2, 5, 3.5, 1, 3.5.
    covariance = 6 * 6 + 5 * 2 + 2.5 * 5 + 2.5 * 3.5 + 1 * 1 + 4 * 3.5 - 6 * 3.5**2
    expected = covariance / (17.5 - 0.5)  # each has one tie
    figure = plot_smoothed_labels(table(pairs("ivon", IVON), pairs("ols", OLS)))
    assert figure.subfigs[0].get_suptitle() == f"{A}: rank correlation of IVON and OLS {expected:.2f}"
    assert plot_smoothed_labels(table(pairs("ivon", IVON))).subfigs[0].get_suptitle() == A


def test_ten_of_many_classes_are_shown_evenly_and_the_title_says_so():
    matrix = np.arange(1, 24 * 24 + 1).reshape(24, 24) / 1000
    (part,) = plot_smoothed_labels(table(pairs("ols", matrix))).subfigs
    ax = part.axes[0]
    chosen = [0, 3, 5, 8, 10, 13, 15, 18, 20, 23]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"c{i}" for i in chosen]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [f"c{i}" for i in chosen]
    assert ax.images[0].get_array()[2, 1] == pytest.approx(matrix[5, 3])
    assert part.get_suptitle() == f"{A}, 10 of 24 classes"


def test_smoothed_labels_have_a_row_a_panel_and_leave_out_what_is_not_there():
    rows = table(pairs("ivon", IVON, panel=B), pairs("ivon", IVON), pairs("ols", OLS)).assign(protocol="reduced")
    figure = plot_smoothed_labels(rows)
    assert [part.get_suptitle().split(":")[0] for part in figure.subfigs] == [B, A]
    assert np.ma.getmaskarray(np.ma.masked_invalid(figure.subfigs[0].axes[1].images[0].get_array())).all()
    assert figure.get_supxlabel() == "reduced protocol, 1 seed"
    more = table(rows.to_dict("records"), pairs("ivon", IVON, panel=B, seed=1, protocol="reduced"))
    assert plot_smoothed_labels(more).get_supxlabel() == "reduced protocol, 1 to 2 seeds"
    chosen = plot_smoothed_labels(more, panels=[A])
    assert chosen.get_supxlabel() == "reduced protocol, 1 seed"
    (only,) = chosen.subfigs
    assert only.get_suptitle().startswith(A)
    with pytest.raises(ValueError, match=r"panel='C' is unknown; choose one of pair flip"):
        plot_smoothed_labels(rows, panels=["C"])
    with pytest.raises(ValueError, match=r"lacks the columns other, smoothed; pass"):
        plot_smoothed_labels(rows.drop(columns=["smoothed", "other"]))
    assert texts(plot_smoothed_labels(table(pairs("sgd", IVON))).axes[0])[0].startswith("No runs yet")


def test_smoothed_labels_without_a_positive_entry_are_all_grey():
    figure = plot_smoothed_labels(table(pairs("ls", -np.ones((3, 3)), value=0.1)))
    figure.canvas.draw()
    image = figure.axes[0].images[0]
    assert (image.get_array()[~np.eye(3, dtype=bool)] < image.norm.vmin).all()


# ------------------------------------------------------------------ all of them
@pytest.mark.parametrize("plot", RUN_FIGURES, ids=by_name)
@pytest.mark.parametrize("kept", [["ivon"], ["sgd"], ["ls"], ["ivon_fixed"], ["ivon", "sam"]], ids="+".join)
def test_any_part_of_a_sweep_is_drawn_without_a_warning(plot, kept):
    rows = [*sweep(A), *sweep(B, -0.3), *seeds("ivon_fixed", 0.8, 0.7, posterior_std=0.01, value=0.9)]
    of_kept = table(rows)[lambda t: t["method"].isin(kept)]
    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning, FutureWarning):  # matplotlib's, numpy's and pandas's
            warnings.simplefilter("error", category)
        for part in (of_kept, of_kept.assign(status="diverged", test_accuracy=None)):
            plot(part).canvas.draw()


def test_docstring_examples_run():
    result = doctest.testmod(plots)
    assert result.failed == 0 and result.attempted >= len(FIGURES)
