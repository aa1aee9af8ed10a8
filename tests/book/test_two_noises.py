"""The figure of the two noises: its formulas against vlls, and their display in a browser."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from browser import chromium, console_errors, missing
from figures.interactive import explore_two_noises
from figures.interactive.two_noises import DRAWS, LARGEST_LOGIT, LARGEST_VARIANCE, SMALLEST_VARIANCE
from scipy.special import expit, softmax

from vlls import Bernoulli, Categorical, taylor_label_noise

LOGITS = (-LARGEST_LOGIT, -3.0, -0.7, 0.0, 1.5, 4.1, LARGEST_LOGIT)
VARIANCES = (SMALLEST_VARIANCE, 0.4, 2.0, 5.3, LARGEST_VARIANCE)
TWO = [(f, v) for f in LOGITS for v in VARIANCES]
THREE = [(a, b, v) for a in LOGITS[::2] for b in (-LARGEST_LOGIT, 0.0, 2.5) for v in VARIANCES[::2]]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Open a page with the figure and its formulas, the lines of its script before the function that shows it."""
    if missing():
        pytest.skip(missing())
    script = files("figures.interactive").joinpath("two_noises.js").read_text("utf-8")
    formulas, show, _ = script.partition("const show")
    assert show
    page = tmp_path_factory.mktemp("page") / "figure.html"
    body = f"{explore_two_noises()._repr_html_()}<script>{formulas}</script>"
    page.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8"><body>{body}</body></html>', "utf-8")
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.get(page.as_uri())
        yield driver
        assert console_errors(driver) == []


def computed(browser, settings):
    """Return the page's numbers: mean, size and order, each (settings, classes)."""
    found = browser.execute_script("return arguments[0].map(([f, v]) => noises(f, v))", settings)
    return {name: torch.tensor([noise[name] for noise in found], dtype=torch.float64) for name in found[0]}


# ------------------------------------------------------------------ the formulas
def test_of_two_classes_the_page_computes_the_noises_of_vlls(browser):
    found = computed(browser, [[[f, 0.0], v] for f, v in TWO])
    f, v = torch.tensor(TWO, dtype=torch.float64).T
    torch.testing.assert_close(found["mean"][:, 0], Bernoulli().label_noise(f, v), rtol=0, atol=1e-6)
    torch.testing.assert_close(found["mean"][:, 1], -found["mean"][:, 0], rtol=0, atol=1e-12)
    first_order = taylor_label_noise(Bernoulli(), f, v, torch.tensor(1.0))
    torch.testing.assert_close(found["order"], first_order[:, None].expand(-1, 2), rtol=0, atol=1e-12)
    # E[(p - q)^2] = (p - E q)^2 + E q - E[q (1 - q)] - (E q)^2 from the moments that vlls integrates
    p, q = Bernoulli().mean(f), Bernoulli().expected_mean(f, v)
    square = (p - q).square() + q - Bernoulli().expected_curvature(f, v) - q.square()
    torch.testing.assert_close(found["size"], square.sqrt()[:, None].expand(-1, 2), rtol=0, atol=1e-6)


def moments_of_a_class(own, others, var):
    """Return E[p] and E[p (1 - p)] of a class whose logits are independent, each (settings,).

    Given the other two logits p is logistic in its own, whose Gaussian vlls integrates; a dense sum does the rest.
    """
    e = torch.arange(-7, 7.001, 0.25, dtype=torch.float64)
    normal = torch.exp(-e.square() / 2)
    weights = (normal / normal.sum()).outer(normal / normal.sum())
    spread = var.sqrt()[:, None, None]
    first, second = others[:, :1, None] + spread * e[:, None], others[:, 1:, None] + spread * e
    given = own[:, None, None] - torch.logaddexp(first, second)
    found = Bernoulli().expected_derivatives(given, var[:, None, None].expand_as(given))
    return [(weights * values).sum((1, 2)) for values in found]


def test_of_three_classes_the_page_computes_the_noises_of_vlls(browser):
    found = computed(browser, [[[a, b, 0.0], v] for a, b, v in THREE])
    a, b, v = torch.tensor(THREE, dtype=torch.float64).T
    f, family = torch.stack([a, b, torch.zeros_like(a)], 1), Categorical(3)
    p = family.mean(f)
    for k in range(3):
        q, bend = moments_of_a_class(f[:, k], f[:, [(k + 1) % 3, (k + 2) % 3]], v / 2)
        torch.testing.assert_close(found["mean"][:, k], p[:, k] - q, rtol=0, atol=1e-6)
        square = (p[:, k] - q).square() + q - bend - q.square()
        torch.testing.assert_close(found["size"][:, k], square.sqrt(), rtol=0, atol=1e-6)
    covariance = v[:, None, None] / 2 * torch.eye(3, dtype=torch.float64)
    average, error = family.expected_mean_with_error(f, covariance)
    assert bool((found["mean"] - (p - average)).abs().le(6 * error + 1e-6).all())  # of 8 replicates
    curvature = family.curvature(f)
    first_order = (curvature @ covariance @ curvature).diagonal(dim1=1, dim2=2).sqrt()
    torch.testing.assert_close(found["order"], first_order, rtol=0, atol=1e-12)


def test_the_package_and_a_plain_sum_agree_on_the_size():
    """The size is formed here from vlls's moments; a dense sum over draws knows nothing of them."""
    e = np.arange(-10, 10, 0.01)
    weights = 0.01 * np.exp(-(e**2) / 2) / np.sqrt(2 * np.pi)
    for mean, var in TWO:
        f, v = torch.tensor(mean, dtype=torch.float64), torch.tensor(var, dtype=torch.float64)
        p, q = Bernoulli().mean(f), Bernoulli().expected_mean(f, v)
        square = float((p - q).square() + q - Bernoulli().expected_curvature(f, v) - q.square())
        assert square == pytest.approx((expit(mean) - expit(mean + np.sqrt(var) * e)) ** 2 @ weights, abs=1e-13)


# ------------------------------------------------------------------ the draws
def test_the_draws_are_equally_likely_points_of_a_standard_normal():
    two, three = (np.array(draws) for draws in explore_two_noises().data["draws"])
    assert two.shape == (DRAWS, 1) and three.shape == (DRAWS, 2)
    assert (two < 0).sum() == DRAWS / 2
    for points in (two, three):
        assert np.abs(points.mean(0)).max() < 0.05 and np.abs(points.std(0) - 1).max() < 0.08
    radii = np.sort(np.square(three).sum(1))
    assert 1 - np.exp(-radii / 2) == pytest.approx((np.arange(DRAWS) + 0.5) / DRAWS, abs=1e-3)


def test_differences_of_logits_have_the_variance_one(browser):
    for k in (2, 3):
        directions = torch.tensor(browser.execute_script("return DIRECTIONS[arguments[0]]", k), dtype=torch.float64)
        differences = directions - directions.roll(1, 1)
        assert differences.square().sum(0).tolist() == pytest.approx(k * [1.0])


# ------------------------------------------------------------------ display
def find(browser, part):
    return browser.find_element("css selector", f'[data-part="{part}"]')


def move(browser, **values):
    for part, value in values.items():
        browser.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
            find(browser, part),
            value,
        )


def number(text):
    return float(text.replace("−", "-"))


def told(browser, *parts):
    return [number(find(browser, part).text) for part in parts]


def bars(browser, panel):
    """Return the numbers beside the bars of a panel: of the labels that are shown as "label ± size", the sizes."""
    script = "return [...arguments[0].querySelectorAll('text[text-anchor=end]')].map(text => text.textContent)"
    texts = browser.execute_script(script, find(browser, f"{panel}-plot"))
    return [number(text.split("±")[-1]) for text in texts if "±" in text or len(text.partition(".")[2]) == 3]


@pytest.mark.parametrize(("f", "v"), [(1.5, 2.0), (-3.0, 9.0), (0.0, 0.05)])
def test_sliders_tell_the_noises_of_two_classes(browser, f, v):
    find(browser, "two-classes").click()
    move(browser, first=f, variance=v)
    noise = float(Bernoulli().label_noise(torch.tensor(f, dtype=torch.float64), torch.tensor(v, dtype=torch.float64)))
    draws = expit(f) - expit(f + np.sqrt(v) * np.linspace(-10, 10, 4001))
    density = np.exp(-(np.linspace(-10, 10, 4001) ** 2) / 2)
    size = float(np.sqrt(np.average(draws**2, weights=density)))
    first_order = expit(f) * expit(-f) * np.sqrt(v)
    assert told(browser, "mean", "size", "order") == pytest.approx([noise, size, first_order], abs=6e-5)
    assert bars(browser, "mean") == pytest.approx([noise, 1 + noise], abs=6e-4)
    assert bars(browser, "sampled") == pytest.approx([size, size], abs=6e-4)
    says = find(browser, "says").text
    assert ("undecided" in says) == (f == 0) and ("label 0, which the model contradicts" in says) == (f > 0)
    assert not find(browser, "second").is_displayed()


def test_sliders_tell_the_noises_of_three_classes(browser):
    find(browser, "three-classes").click()
    assert find(browser, "second").is_displayed()
    move(browser, first=1.0, second=2.0, variance=4.0)
    expected = {name: value[0].tolist() for name, value in computed(browser, [[[1.0, 2.0, 0.0], 4.0]]).items()}
    names = ("mean", "size", "order")
    assert told(browser, *names) == pytest.approx([expected[name][0] for name in names], abs=6e-5)
    labels = np.add([1, 0, 0], expected["mean"])
    assert bars(browser, "mean") == pytest.approx(labels.tolist(), abs=6e-4)
    assert bars(browser, "sampled") == pytest.approx(expected["size"], abs=6e-4)
    assert "predicts B; the label is A. The mean noise takes it out of [0, 1]." in find(browser, "says").text
    move(browser, first=-3.0, second=0.0)
    says = find(browser, "says").text
    assert "undecided between B and C; the label is A. The mean noise smooths it, within [0, 1]." in says
    move(browser, first=0.0, second=0.0)
    assert "undecided between A and B and C" in find(browser, "says").text


def test_bars_and_draws_move_beyond_one_where_the_labels_do(browser):
    """The right ends of the strong rectangles and of the ticks, in the units of the labels' axis."""
    script = """
        const svg = arguments[0], band = svg.querySelector('rect'), zero = Number(band.getAttribute('x'));
        const unit = Number(band.getAttribute('width')), ends = [], ticks = [];
        for (const rect of svg.querySelectorAll('rect[opacity="1"]'))
            ends.push((Number(rect.getAttribute('x')) + Number(rect.getAttribute('width')) - zero) / unit);
        for (const tick of svg.querySelectorAll('path.vlls-curve'))
            if (!tick.classList.contains('vlls-dashed') && tick.getAttribute('d').split('M').length > 10)
                ticks.push(tick.getAttribute('d').split('M').slice(1).map(d => (parseFloat(d) - zero) / unit));
        return [ends, ticks];
    """
    find(browser, "two-classes").click()
    move(browser, first=1.5, variance=2.0)
    ends, _ = browser.execute_script(script, find(browser, "mean-plot"))
    noise = told(browser, "mean")[0]
    assert noise > 0.05 and ends == pytest.approx([1 + noise], abs=2e-3)  # label 0 stays inside
    ends, ticks = browser.execute_script(script, find(browser, "sampled-plot"))
    assert max(ends) == pytest.approx(1 + told(browser, "size")[0], abs=2e-3)
    e = np.array(explore_two_noises().data["draws"][0])[:, 0]
    draws = expit(1.5) - softmax([1.5 + np.sqrt(2) * e, 0 * e], axis=0)[0]
    assert np.array(ticks) == pytest.approx(np.array([draws, 1 + draws]), abs=2e-3)


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logit": 7.0}, r"logit=7.0 is not allowed; choose a number from -6 to 6"),
        ({"logit": float("nan")}, "logit=nan"),
        ({"logit": "1"}, "logit='1'"),
        ({"variance": 0.0}, r"variance=0.0 is not allowed; choose a number from 0.05 to 9"),
        ({"variance": True}, "variance=True"),
    ],
)
def test_two_noises_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        explore_two_noises(**arguments)
