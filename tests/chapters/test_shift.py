"""Chapter 5's test under distribution shift: its corruptions, and the sentence that is written from the numbers."""

import pytest
import torch
from figures.shift import CORRUPTIONS, corrupted, differences_in_words, plot_shift
from scipy import stats

SOME = torch.rand(400, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25


def one_pixel(row=3, column=4):
    images = torch.zeros(64, 9, 9)
    images[:, row, column] = 1
    return images


# ------------------------------------------------------------------ the corruptions
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_keeps_shape_and_range_and_is_drawn_from_its_seed(kind):
    before = SOME.clone()
    changed = corrupted(SOME, kind, 3)
    assert changed.shape == SOME.shape and changed.dtype == SOME.dtype and torch.equal(SOME, before)
    assert float(changed.min()) >= 0 and float(changed.max()) <= 1
    assert torch.equal(changed, corrupted(SOME, kind, 3))
    assert torch.equal(changed, SOME) == (kind == "clean")
    drawn = kind in ("Gaussian noise", "translation", "rotation")
    assert torch.equal(changed, corrupted(SOME, kind, 4)) != drawn


def test_noise_blur_and_contrast_are_as_strong_as_they_say():
    grey = torch.full((400, 8, 8), 0.5)
    noise = corrupted(grey, "Gaussian noise") - grey  # clipped at two standard deviations
    clipped = torch.randn(100_000, generator=torch.Generator().manual_seed(1)).clamp(-2, 2).std()
    assert float(noise.std()) == pytest.approx(0.25 * float(clipped), rel=0.02)
    assert abs(float(noise.mean())) < 5 * 0.25 / noise.numel() ** 0.5
    weights = torch.exp(-(torch.arange(-3, 4.0) ** 2) / (2 * 0.8**2))
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    blurred = corrupted(one_pixel(4, 4), "blur")[0]
    torch.testing.assert_close(blurred[1:8, 1:8], kernel, rtol=0, atol=2e-4)
    low, means = corrupted(SOME, "contrast"), SOME.mean((1, 2), keepdim=True)
    torch.testing.assert_close(low, means + 0.3 * (SOME - means))


def test_a_translation_is_by_one_pixel_along_an_axis():
    changed = corrupted(one_pixel(), "translation")
    at = changed.flatten(1).argmax(1)
    found = {(int(i) // 9 - 3, int(i) % 9 - 4) for i in at}
    assert found == {(0, 1), (1, 0), (0, -1), (-1, 0)}
    torch.testing.assert_close(changed.flatten(1).amax(1), torch.ones(64))


def test_a_rotation_is_by_25_degrees_either_way():
    bar = torch.zeros(64, 41, 41)
    bar[:, 20, 5:36] = 1  # horizontal
    rows, columns = torch.meshgrid(torch.arange(-20.0, 21), torch.arange(-20.0, 21), indexing="ij")
    angles = set()
    for image in corrupted(bar, "rotation"):
        slope = float((image * rows * columns).sum() / (image * columns**2).sum())
        angles.add(round(torch.tensor(slope).atan().rad2deg().item()))
    assert angles == {-25, 25}


def test_an_unknown_corruption_is_named():
    with pytest.raises(ValueError, match=r"unknown corruption 'fog'; choose one of clean, Gaussian noise, blur"):
        corrupted(SOME, "fog")


# ------------------------------------------------------------------ the sentence
def runs_with(mean, half, number=8):
    """Differences of ``number`` runs with this mean and this half-width of the 95 % interval."""
    values = torch.linspace(-1, 1, number, dtype=torch.float64)
    width = stats.t.ppf(0.975, number - 1) * float(values.std()) / number**0.5
    return mean + values * half / width


@pytest.mark.parametrize(
    ("mean", "half", "sentence"),
    [
        (1.0, 0.9, "IVON above SGD: blur (+1.0 ± 0.9)."),
        (-1.0, 0.9, "IVON below SGD: blur (-1.0 ± 0.9)."),
        (1.0, 1.1, "not settled: blur (+1.0 ± 1.1)."),
        (-1.0, 1.1, "not settled: blur (-1.0 ± 1.1)."),
        (0.0, 0.0, "not settled: blur (+0.0 ± 0.0)."),
    ],
)
def test_a_difference_counts_if_its_interval_leaves_out_zero(mean, half, sentence):
    assert differences_in_words({"blur": runs_with(mean, half)}, "IVON", "SGD") == sentence


def test_all_sides_are_told_in_one_sentence():
    differences = {
        "clean": runs_with(0.2, 0.5),
        "blur": runs_with(-2.0, 0.5),
        "contrast": runs_with(3.0, 1.0),
        "rotation": runs_with(4.0, 1.0),
    }
    assert differences_in_words(differences, "IVON", "LS") == (
        "IVON above LS: contrast (+3.0 ± 1.0), rotation (+4.0 ± 1.0); IVON below LS: blur (-2.0 ± 0.5); "
        "not settled: clean (+0.2 ± 0.5)."
    )
    flipped = {kind: -values for kind, values in differences.items()}
    assert differences_in_words(flipped, "IVON", "LS").startswith("IVON above LS: blur (+2.0 ± 0.5); IVON below LS:")
    with pytest.raises(ValueError, match=r"1 run under blur"):
        differences_in_words({"blur": torch.ones(1)}, "IVON", "SGD")


# ------------------------------------------------------------------ the figure
def test_the_figure_shows_every_corruption_and_the_mean_of_every_method():
    example = {kind: corrupted(SOME[:1], kind)[0] for kind in CORRUPTIONS}
    accuracy = {
        method: {kind: torch.tensor([50.0 + 5 * i + j, 54.0 + 5 * i + j]) for j, kind in enumerate(CORRUPTIONS)}
        for i, method in enumerate(("SGD", "IVON"))
    }
    figure = plot_shift(example, accuracy)
    *pictures, below = figure.axes
    assert [ax.get_title().replace("\n", " ") for ax in pictures] == list(CORRUPTIONS)
    assert [label.get_text().replace("\n", " ") for label in below.get_xticklabels()] == list(CORRUPTIONS)
    for container, by_kind in zip(below.containers, accuracy.values(), strict=True):
        assert container[0].get_ydata().tolist() == [float(v.mean()) for v in by_kind.values()]
