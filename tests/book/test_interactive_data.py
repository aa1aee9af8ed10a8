"""The data of the interactive figures are the package's numbers."""

import io

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from figures.interactive import explore_examples, explore_theorem_1, explore_von_steps
from moving_figures import (
    GLM_,
    IMAGES,
    LABELS,
    POINTS,
    X,
    Y,
    embedded,
    features,
    figures,
    network_noise,
    opacities,
    posteriors,
)
from PIL import Image

from vlls import Bernoulli, GaussianPosterior


def test_the_table_of_the_label_noise_is_that_of_vlls():
    data = embedded(figures()["label_noise"])
    means = data["step"] * torch.arange(data["columns"], dtype=torch.float64)
    stds = data["step"] * torch.arange(len(data["noise"]) // data["columns"], dtype=torch.float64)
    noise = Bernoulli().label_noise(means, stds.square()[:, None]).flatten()
    assert float((torch.tensor(data["noise"], dtype=torch.float64) - noise).abs().max()) < 1e-6
    assert np.abs(np.array(data["sigmoid"]) - torch.sigmoid(means).numpy()).max() < 1e-6
    assert float(means[-1]) > data["axis"] and float(stds[-1]) > 4.0


def cubic(values, t):
    """Lagrange's cubic through values at -1, 0, 1, 2 (the last axis), as label_noise.js has it."""
    a, b, c, d = np.moveaxis(values, -1, 0)
    return (
        -a * t * (t - 1) * (t - 2) / 6
        + b * (t + 1) * (t - 1) * (t - 2) / 2
        - c * (t + 1) * t * (t - 2) / 2
        + d * (t + 1) * t * (t - 1) / 6
    )


def test_between_the_entries_of_the_table_the_cubic_is_off_by_less_than_is_said():
    data = figures()["label_noise"].data
    table = np.array(data["noise"]).reshape(-1, data["columns"])
    rng = np.random.default_rng(0)
    mean, variance = rng.uniform(-data["axis"], data["axis"], 20_000), rng.uniform(0, 16, 20_000)
    at, row = mean / data["step"], np.sqrt(variance) / data["step"]
    i = np.floor(at).astype(int)[:, None, None] + np.arange(-1, 3)
    j = np.floor(row).astype(int)[:, None, None] + np.arange(-1, 3)[:, None]
    values = np.sign(i) * table[np.abs(j), np.abs(i)]
    found = cubic(cubic(values, (at - np.floor(at))[:, None]), row - np.floor(row))
    exact = Bernoulli().label_noise(torch.from_numpy(mean), torch.from_numpy(variance)).numpy()
    assert np.abs(found - exact).max() < 5e-6


def test_every_step_of_von_tells_the_noise_and_the_elbo_of_its_posterior():
    data = embedded(figures()["von"])
    assert [step["iteration"] for step in data["steps"]] == [0, 1, 2, 5]
    for step, q in zip(data["steps"], posteriors().values(), strict=True):
        noise = GLM_.label_noise(q).abs()
        assert step["largest"] == pytest.approx(float(noise.max()), abs=1e-6)
        assert step["mean"] == pytest.approx(float(noise.mean()), abs=1e-6)
        assert step["elbo"] == pytest.approx(float(GLM_.elbo(q)), abs=1e-4)
    assert data["first"] == max(range(4), key=lambda i: data["steps"][i]["mean"])
    assert np.array(data["points"])[:, :2] == pytest.approx(POINTS.numpy(), abs=1e-3)
    assert np.array(data["points"])[:, 2].tolist() == GLM_.targets.tolist()


def test_the_plane_is_the_noise_of_the_posterior_in_255_levels():
    data = figures()["von"].data
    grid = torch.stack([X.expand(21, 31), Y[:, None].expand(21, 31)], 2).reshape(-1, 2)
    for step, q in zip(data["steps"], posteriors().values(), strict=True):
        noise = Bernoulli().label_noise(*q.marginal(features(grid))).abs().reshape(21, 31).numpy()
        shown = data["top"] * opacities(step["plane"])[::-1]  # a picture's first row is its top
        assert np.abs(shown - noise).max() < data["top"] / 509
    assert data["x"] == pytest.approx([-3.1, 3.1]) and data["y"] == pytest.approx([-2.1, 2.1])


def test_the_lines_run_where_the_averaged_prediction_has_their_level():
    for step, q in zip(figures()["von"].data["steps"][1:], list(posteriors().values())[1:], strict=True):
        for name, levels in (("half", (0.5,)), ("tenths", (0.1, 0.9))):
            places = torch.tensor([value for line in step[name] for value in line]).reshape(-1, 2)
            assert len(places) > 10
            p = Bernoulli().expected_mean(*q.marginal(features(places)))
            assert float(torch.stack([(p - level).abs() for level in levels]).amin(0).max()) < 0.03


def test_examples_are_those_of_the_most_and_of_the_least_noise():
    noise, page = network_noise(), BeautifulSoup(figures()["examples"]._repr_html_(), "html.parser")
    rows = [9, 8, 7, 0, 1, 2]  # the made-up noise ascends
    assert noise.magnitude.argsort(descending=True).tolist()[:3] == rows[:3]
    pictures = page.select(".vlls-images img")
    for row, example, picture in zip(rows, embedded(figures()["examples"])["examples"], pictures, strict=True):
        assert example["label"] == row % 4 and example["predicted"] == int(noise.logits[row].argmax())
        assert example["bars"] == pytest.approx(noise.std[row].tolist(), rel=0.01)
        assert number(example["noise"]) == pytest.approx(float(noise.magnitude[row]), rel=0.05)
        assert [number(text) for text in example["std"]] == pytest.approx(noise.std[row].tolist(), rel=0.06)
        assert picture["alt"] == f"label {row % 4}, predicted {example['predicted']}, noise {example['noise']}"
        assert np.abs(opacities(picture["src"]) - (IMAGES / IMAGES.max())[row].numpy()).max() < 1 / 509


def number(text):
    """Read 3.1·10⁻⁷."""
    digits, _, power = text.partition("·10⁻")
    return float(digits) * 10.0 ** -int(power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")) or 0)


def test_a_plane_without_noise_and_images_without_ink_are_shown():
    start = GaussianPosterior(torch.zeros(5), 1.0)
    assert embedded(explore_von_steps(GLM_, {0: start}, features, POINTS, X, Y))["top"] == 0
    assert embedded(explore_examples(0 * IMAGES, LABELS, network_noise(), shown=1))["examples"]


def test_the_paths_of_theorem_1_are_those_of_plain_loops():
    figure, steps, lr = figures()["theorem_1"], 60, 0.03
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(24, 2, dtype=torch.float64, generator=generator) * torch.tensor([1.6, 1.1])
    chances = torch.sigmoid(x @ torch.tensor([1.2, -0.8], dtype=torch.float64))
    y = (torch.rand(24, dtype=torch.float64, generator=generator) < chances).double()
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def averaged(theta):
        spread = x.norm(dim=1)[:, None] * torch.from_numpy(nodes)
        return torch.sigmoid((x @ theta)[:, None] + spread) @ torch.from_numpy(weights)

    variational = torch.tensor([-1.5, 1.5], dtype=torch.float64)
    first = torch.sigmoid(x @ variational) - averaged(variational)
    plain = dict.fromkeys(("exact", "stale", "sign", "none"), variational)
    for step in range(steps + 1):
        for name, theta in plain.items():
            found = figure.data["noises"][name]
            assert found["variational"][step] == pytest.approx(variational.tolist(), abs=1e-5)
            assert found["plain"][step] == pytest.approx(theta.tolist(), abs=1e-5)
            now = torch.sigmoid(x @ theta) - averaged(theta)
            noise = {"exact": now, "stale": first, "sign": -now, "none": 0 * now}[name]
            plain[name] = theta - lr * (x.T @ (torch.sigmoid(x @ theta) - (y + noise)) + theta)
        variational = variational - lr * (x.T @ (averaged(variational) - y) + variational)
    ends = {name: found["distance"][-1] for name, found in figure.data["noises"].items()}
    assert ends.pop("exact") < 1e-14 and min(ends.values()) > 0.1


def test_a_picture_stands_for_each_figure_where_nothing_moves():
    for figure in figures().values():
        with Image.open(io.BytesIO(figure._repr_png_())) as picture:
            assert picture.width > 1000  # 150 dots an inch on the width of the page
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
        shown = BeautifulSoup(figure._repr_html_(), "html.parser").select(".vlls-instead img")
        assert len(shown) == (not figure.still)
    with pytest.raises(ValueError, match=r"examples=1 is not allowed; choose a number of 2 or more"):
        explore_theorem_1(examples=1)
