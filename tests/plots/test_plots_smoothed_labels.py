"""Heat maps of smoothed labels (Figure 4), read back from the axes."""

import math

import numpy as np
import pandas as pd
import pytest
from drawn_runs import A, B, table, texts

from vlls.plots import plot_experiment
from vlls.plots._smoothed_labels import smoothed_labels


def pairs(method, matrix, *, value=math.nan, panel=A, seed=0, **fields):
    """Return a table with a row for each entry of a matrix of smoothed labels."""
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
    figure = smoothed_labels(table(rows, pairs("ivon", second, seed=1), pairs("sgd", IVON)))
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
    figure = smoothed_labels(table(pairs("ivon", IVON), pairs("ols", OLS)))
    assert figure.subfigs[0].get_suptitle() == f"{A}: rank correlation of IVON and OLS {expected:.2f}"
    assert smoothed_labels(table(pairs("ivon", IVON))).subfigs[0].get_suptitle() == A


def test_ten_of_many_classes_are_shown_evenly_and_the_title_says_so():
    matrix = np.arange(1, 24 * 24 + 1).reshape(24, 24) / 1000
    (part,) = smoothed_labels(table(pairs("ols", matrix))).subfigs
    ax = part.axes[0]
    chosen = [0, 3, 5, 8, 10, 13, 15, 18, 20, 23]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"c{i}" for i in chosen]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == [f"c{i}" for i in chosen]
    assert ax.images[0].get_array()[2, 1] == pytest.approx(matrix[5, 3])
    assert part.get_suptitle() == f"{A}, 10 of 24 classes"


def test_smoothed_labels_have_a_row_a_panel_and_leave_out_what_is_not_there():
    rows = table(pairs("ivon", IVON, panel=B), pairs("ivon", IVON), pairs("ols", OLS)).assign(protocol="reduced")
    figure = smoothed_labels(rows)
    assert [part.get_suptitle().split(":")[0] for part in figure.subfigs] == [B, A]
    assert np.ma.getmaskarray(np.ma.masked_invalid(figure.subfigs[0].axes[1].images[0].get_array())).all()
    assert figure.get_supxlabel() == "reduced protocol, 1 seed"
    more = table(rows.to_dict("records"), pairs("ivon", IVON, panel=B, seed=1, protocol="reduced"))
    assert smoothed_labels(more).get_supxlabel() == "reduced protocol, 1 to 2 seeds"
    chosen = plot_experiment("fig4", pd.DataFrame(), more, panels=[A])
    assert chosen.get_supxlabel() == "reduced protocol, 1 seed"
    (only,) = chosen.subfigs
    assert only.get_suptitle().startswith(A)
    with pytest.raises(ValueError, match=r"lacks the columns other, smoothed; pass"):
        smoothed_labels(rows.drop(columns=["smoothed", "other"]))
    with pytest.raises(ValueError, match="the table holds protocol reduced and smoke; choose one protocol$"):
        smoothed_labels(table(rows.to_dict("records"), pairs("ivon", IVON, protocol="smoke")))
    assert texts(smoothed_labels(table(pairs("sgd", IVON))).axes[0])[0].startswith("No runs yet")


def test_smoothed_labels_without_a_positive_entry_are_all_grey():
    figure = smoothed_labels(table(pairs("ls", -np.ones((3, 3)), value=0.1)))
    figure.canvas.draw()
    image = figure.axes[0].images[0]
    assert (image.get_array()[~np.eye(3, dtype=bool)] < image.norm.vmin).all()
