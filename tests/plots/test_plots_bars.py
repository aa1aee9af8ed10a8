"""Bars of the calibration error and of memorised labels, read back from the axes."""

import numpy as np
import pandas as pd
import pytest
from drawn_runs import A, B, bars, legend, run, seeds, std, sweep, table

from vlls.plots._experiments import calibration, memorisation


def test_calibration_has_ivon_twice_and_label_smoothing_at_its_best_value():
    rows = [*sweep(A), *seeds("ols", 0.88, 0.88), *seeds("ivon", 0.7, 0.7, panel=B), run("ols", 0.2, status="diverged")]
    figure = calibration(table(rows))
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
    assert bars(calibration(rows).axes[0]) == {
        "SGD": pytest.approx([2.5]),
        "LS, α = 0.1": pytest.approx([5]),
    }
    memorised = bars(memorisation(rows).axes[0])
    assert memorised == {"LS, α = 0": pytest.approx([5]), "SGD": pytest.approx([5])}


def test_runs_without_metrics_of_the_posterior_have_no_bars_for_it():
    rows = table(sweep()).assign(posterior_ece=None, posterior_nll=None)  # columns of type object
    error, likelihood = (bars(ax) for ax in calibration(rows).axes)
    assert error["IVON at the mean"] == pytest.approx([2.25])
    assert np.isnan([shown["IVON averaged over the posterior"] for shown in (error, likelihood)]).all()


def test_memorisation_shows_both_shares_of_the_best_of_each_method():
    figure = memorisation(table(sweep(B, -0.3), seeds("ls", 0.9, 0.9, value=0.9, panel=B), sweep(A)))
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
    figure = memorisation(table([one for one in sweep() if one["seed"] == 0]))
    spread = [container for container in figure.axes[0].containers if not hasattr(container, "patches")]
    for container in spread:
        assert all(np.isnan(segment).any() or not len(segment) for segment in container.lines[2][0].get_segments())
    assert bars(figure.axes[0])["IVON"] == pytest.approx([5])


def test_error_bars_of_shares_end_at_100_and_0_per_cent():
    rows = seeds("ivon", 0.9, 0.9) + seeds("ls", 0.8, 0.8, value=0.1)
    table = pd.DataFrame(rows).assign(memorised=[0.0, 0.5, 0.0, 1.0], recovered=[1.0, 0.6, 1.0, 0.9])
    for ax in memorisation(table).axes:
        for error_bars in (lines.errorbar for lines in ax.containers if getattr(lines, "errorbar", None)):
            heights = np.concatenate([path.vertices for path in error_bars[2][0].get_paths()])[:, 1]
            assert heights.min() >= 0 and heights.max() <= 100 + 1e-9
