"""Accuracies over noise levels, fixed variances and starts of the Hessian (Figures 6, 7 and 10), read back."""

import numpy as np
import pandas as pd
import pytest
from drawn_runs import A, B, curve, legend, level, run, seeds, std, sweep, table, texts

from vlls.plots._experiments import fixed_variance, hessian_init, noise_levels, sensitivity


def test_noise_levels_show_the_best_value_of_each_panel():
    other = [*sweep(B, -0.3), *seeds("ls", 0.59, 0.60, value=0.9, panel=B)]
    figure = noise_levels(table(other, sweep(A), run("sam", 0.1, value=0.5, status="diverged")))
    (ax,) = figure.axes
    assert legend(figure) == ["IVON", "LS", "SAM", "SGD"]
    expected = {"IVON": [91, 61], "LS": [86, 59.5], "SAM": [93, 63], "SGD": [80, 50]}
    for name, mean in expected.items():
        x, y, bar = curve(ax, name)
        assert x == [0.2, 0.4] and y == pytest.approx(mean)
        assert bar == pytest.approx([std(0, 0.02), std(0.59, 0.60) if name == "LS" else std(0, 0.02)])
    tops = [pytest.approx((0.2, 93 + std(0, 0.02))), pytest.approx((0.4, 63 + std(0, 0.02)))]  # the tops of SAM's bars
    assert [(text.get_text(), text.xy) for text in ax.texts] == [
        *zip(["ρ = 0.05", "ρ = 0.05"], tops, strict=True),
        *zip(["α = 0.3", "α = 0.9"], tops, strict=True),
    ]
    assert "κ" in ax.get_xlabel() and ax.get_xlabel().endswith("\n1 run diverged") and "(%)" in ax.get_ylabel()


def test_noise_levels_must_differ():
    rows = table(sweep(A), sweep(B, -0.3))
    with pytest.raises(ValueError, match=rf"of the panels {A}, {B} two have the same rate; pass panels that differ"):
        noise_levels(rows.assign(rate=0.2))
    (ax,) = noise_levels(rows[rows["method"].isin(["ivon", "sgd"])]).axes
    assert curve(ax, "LS") is None and curve(ax, "SGD")[1] == pytest.approx([80, 50]) and not ax.texts


def test_sgd_can_be_the_best_label_smoothing_at_a_noise_level():
    rows = table(run("ivon", 0.9), run("sgd", 0.85), run("ls", 0.8, value=0.1))
    (ax,) = noise_levels(rows).axes
    assert texts(ax) == ["α = 0"] and curve(ax, "LS")[1] == pytest.approx([85])


def test_fixed_variances_stand_on_a_log_axis_under_the_learned_one():
    rows = [*seeds("ivon_fixed", 0.7, 0.8, value=3.0, posterior_std=0.002), *seeds("ivon", 0.9, 0.92)]
    rows += seeds("ivon_fixed", 0.86, 0.88, value=0.03, posterior_std=0.02)
    rows += seeds("ivon_fixed", 0.5, value=0.1, posterior_std=0.01, panel=B)
    figure = fixed_variance(table(rows, run("ivon_fixed", 0.1, posterior_std=0.002, status="diverged")))
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
    figure = fixed_variance(table(rows))
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
    (ax,) = (figure := hessian_init(table(rows))).axes
    x, y, bar = curve(ax, A)
    assert x == [0.01, 0.9] and y == pytest.approx([55, 91])
    assert bar == pytest.approx([std(0.5, 0.6), std(0.9, 0.92)])
    assert curve(ax, B)[:2] == ([0.9], pytest.approx([70])) and legend(figure) == [A, B]
    assert ax.get_xscale() == "log" and [tick.get_text() for tick in ax.get_xticklabels()] == ["0.01", "0.9"]
    assert texts(hessian_init(table(run("ivon", 0.9))).axes[0])[0].startswith("No runs yet")


@pytest.mark.parametrize("plot", [sensitivity, noise_levels, fixed_variance, hessian_init])
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
