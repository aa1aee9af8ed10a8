"""The figures that the reader moves: their data, their HTML, and what they do in a browser."""

import base64
import io
import json
import re
from importlib.resources import files

import numpy as np
import pytest
import torch
from browser import chromium, console_errors, missing, resize
from bs4 import BeautifulSoup
from figures.interactive import explore_examples, explore_label_noise, explore_von_steps
from figures.interactive.html import InteractiveFigure
from PIL import Image

from vlls import GLM, Bernoulli, Categorical, GaussianPosterior, von_step
from vlls.noise import LabelNoise

NAMES = ("label_noise", "von", "examples")
PHONE = 390  # pixels


# ------------------------------------------------------------------ the three figures, small
def features(inputs):
    return torch.cat([inputs, inputs.square(), inputs.prod(1, keepdim=True)], 1).double()


POINTS = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GLM_ = GLM(Bernoulli(), features(POINTS), (POINTS.prod(1) > 0).double())
X, Y = torch.linspace(-3, 3, 31, dtype=torch.float64), torch.linspace(-2, 2, 21, dtype=torch.float64)


def posteriors():
    found = [GaussianPosterior(torch.zeros(5), 1.0)]
    for _ in range(5):
        found.append(von_step(GLM_, found[-1], lr=0.3))
    return {t: found[t] for t in (0, 1, 2, 5)}


def network_noise(num=10, k=4):
    generator = torch.Generator().manual_seed(0)
    std = torch.rand(num, k, generator=generator) * torch.logspace(-8, -1, num)[:, None]
    return LabelNoise(
        logits=torch.randn(num, k, generator=generator),
        mean_shift=torch.zeros(num, k),
        covariance=torch.diag_embed(std.square()),
        std=std,
        magnitude=std.norm(dim=1),
        standard_error=torch.zeros(num, k),
        magnitude_error=None,
        logit_covariance=None,
    )


IMAGES = torch.rand(10, 7, 5, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(10) % 4


@pytest.fixture(scope="module")
def figures():
    return {
        "label_noise": explore_label_noise(mean=1.0, variance=1.0),
        "von": explore_von_steps(GLM_, posteriors(), features, POINTS, X, Y),
        "examples": explore_examples(IMAGES, LABELS, network_noise(), shown=3),
    }


def embedded(figure):
    """Return the data that stand in a figure's HTML."""
    return json.loads(BeautifulSoup(figure._repr_html_(), "html.parser").find(type="application/json").string)


def opacities(address):
    """Return what a picture in an address was made of."""
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGBA"))[..., 3] / 255


# ------------------------------------------------------------------ data
def test_the_table_of_the_label_noise_is_that_of_vlls(figures):
    data = embedded(figures["label_noise"])
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


def test_between_the_entries_of_the_table_the_cubic_is_off_by_less_than_is_said(figures):
    data = figures["label_noise"].data
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


def test_every_step_of_von_tells_the_noise_and_the_elbo_of_its_posterior(figures):
    data = embedded(figures["von"])
    assert [step["iteration"] for step in data["steps"]] == [0, 1, 2, 5]
    for step, q in zip(data["steps"], posteriors().values(), strict=True):
        noise = GLM_.label_noise(q).abs()
        assert step["largest"] == pytest.approx(float(noise.max()), abs=1e-6)
        assert step["mean"] == pytest.approx(float(noise.mean()), abs=1e-6)
        assert step["elbo"] == pytest.approx(float(GLM_.elbo(q)), abs=1e-4)
    assert data["first"] == max(range(4), key=lambda i: data["steps"][i]["mean"])
    assert np.array(data["points"])[:, :2] == pytest.approx(POINTS.numpy(), abs=1e-3)
    assert np.array(data["points"])[:, 2].tolist() == GLM_.targets.tolist()


def test_the_plane_is_the_noise_of_the_posterior_in_255_levels(figures):
    data = figures["von"].data
    grid = torch.stack([X.expand(21, 31), Y[:, None].expand(21, 31)], 2).reshape(-1, 2)
    for step, q in zip(data["steps"], posteriors().values(), strict=True):
        noise = Bernoulli().label_noise(*q.marginal(features(grid))).abs().reshape(21, 31).numpy()
        shown = data["top"] * opacities(step["plane"])[::-1]  # a picture's first row is its top
        assert np.abs(shown - noise).max() < data["top"] / 509
    assert data["x"] == pytest.approx([-3.1, 3.1]) and data["y"] == pytest.approx([-2.1, 2.1])


def test_the_lines_run_where_the_averaged_prediction_has_their_level(figures):
    for step, q in zip(figures["von"].data["steps"][1:], list(posteriors().values())[1:], strict=True):
        for name, levels in (("half", (0.5,)), ("tenths", (0.1, 0.9))):
            places = torch.tensor([value for line in step[name] for value in line]).reshape(-1, 2)
            assert len(places) > 10
            p = Bernoulli().expected_mean(*q.marginal(features(places)))
            assert float(torch.stack([(p - level).abs() for level in levels]).amin(0).max()) < 0.03


def test_examples_are_those_of_the_most_and_of_the_least_noise(figures):
    noise, page = network_noise(), BeautifulSoup(figures["examples"]._repr_html_(), "html.parser")
    rows = [9, 8, 7, 0, 1, 2]  # the made-up noise ascends
    assert noise.magnitude.argsort(descending=True).tolist()[:3] == rows[:3]
    pictures = page.select(".vlls-images img")
    for row, example, picture in zip(rows, embedded(figures["examples"])["examples"], pictures, strict=True):
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


# ------------------------------------------------------------------ HTML
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_of_a_network(figures, name):
    html = figures[name]._repr_html_()
    assert not re.search(r"https?:|url\(|@import|import\(|fetch\(|XMLHttp|eval\(|Function\(|innerHTML", html)
    page = BeautifulSoup(html, "html.parser")
    addresses = [tag[key] for tag in page.find_all(True) for key in ("src", "href", "srcset", "action") if tag.get(key)]
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert len(html) < 400_000


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_however_often_a_figure_is_shown(figures, name):
    page = BeautifulSoup(figures[name]._repr_html_() + figures[name]._repr_html_(), "html.parser")
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    groups = {tag["name"] for tag in page.select("input[type=radio]")}
    assert len(groups) == (2 if name == "examples" else 0)
    assert "@id@" not in str(page)


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_can_be_moved_has_a_name(figures, name):
    page = BeautifulSoup(figures[name]._repr_html_(), "html.parser")
    figure = page.find("figure")
    assert figure["role"] == "group" and figure["aria-label"]
    controls = page.find_all("input")
    assert controls
    for control in controls:
        label = control.find_parent("label") or page.find("label", attrs={"for": control["id"]})
        assert label.get_text(strip=True) and (control["type"] == "range" or label.img["alt"])
    assert all(button.get_text(strip=True) and button["type"] == "button" for button in page.find_all("button"))
    for drawing in page.find_all("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and drawing["aria-label"])


@pytest.mark.parametrize("name", NAMES)
def test_without_its_script_a_figure_says_what_would_be_seen(figures, name):
    page = BeautifulSoup(figures[name]._repr_html_(), "html.parser")
    for tag in page(["script", "style"]):
        tag.decompose()
    for tag in page.find_all(hidden=True):
        tag.decompose()
    assert "need" in page.get_text() and "JavaScript" in page.get_text()
    assert len(page.find_all("img")) == (6 if name == "examples" else 0)
    assert figures[name].name in repr(figures[name])


def test_no_rule_of_the_style_reaches_outside_of_the_figures():
    style = re.sub(r"/\*.*?\*/", "", files("figures.interactive").joinpath("figure.css").read_text(), flags=re.S)
    rules = [rule for rule in re.findall(r"([^{}]+)\{", style) if not rule.strip().startswith("@")]
    assert len(rules) > 40
    for rule in rules:
        outside_brackets = re.sub(r"(?<!:has)\([^()]*\)", "", rule)
        assert all(".vlls-figure" in selector for selector in outside_brackets.split(",")), rule


def test_names_cannot_break_out_of_the_page():
    evil = "</script><script>alert('\"')</script>"
    figure = explore_examples(IMAGES, LABELS, network_noise(), shown=5, classes=[evil, "b", "c", "d"])
    page = BeautifulSoup(figure._repr_html_(), "html.parser")
    assert len(page.find_all("script")) == 2 and embedded(figure)["classes"][0] == evil
    assert any(evil in image["alt"] for image in page.find_all("img"))
    named = InteractiveFigure("von", '"><script>', "<b>", "", {})
    assert len(BeautifulSoup(named._repr_html_(), "html.parser").find_all("script")) == 2


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": 9.0}, r"mean=9.0 is not allowed; choose a number from -8 to 8"),
        ({"mean": float("nan")}, "mean=nan"),
        ({"mean": "1"}, "mean='1'"),
        ({"variance": 0.0}, r"variance=0.0 is not allowed; choose a number from 0.05 to 16"),
        ({"variance": 17.0}, "variance=17"),
        ({"limit": float("inf")}, "limit=inf"),
        ({"largest_variance": 101}, "largest_variance=101"),
    ],
)
def test_label_noise_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        explore_label_noise(**arguments)


Q = GaussianPosterior(torch.zeros(5), 1.0)
NAN = torch.full((40, 2), float("nan"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"glm": GLM(Categorical(3), features(POINTS), torch.zeros(40))}, "Categorical; pass one of Bernoulli labels"),
        ({"posteriors": {}}, "posteriors is empty"),
        ({"posteriors": {2: Q, 1: Q}}, r"iterations \[2, 1\]; pass integers >= 0 in ascending order"),
        ({"posteriors": {0.5: Q}}, r"iterations \[0.5\]"),
        ({"posteriors": {0: GaussianPosterior(torch.zeros(3), 1.0)}}, r"needs \(N, 3\)"),
        ({"points": POINTS[:3]}, r"points have shape \(3, 2\); the model's examples need \(40, 2\)"),
        ({"points": POINTS.flip(0)}, "not the model's features"),
        ({"points": NAN}, "points holds 80 value"),
        ({"x": X[:1]}, "two or more coordinates"),
        ({"x": X.flip(0)}, "x does not ascend in equal steps"),
        ({"y": Y.square()}, "y does not ascend"),
        ({"y": NAN[0]}, "y holds 2 value"),
        ({"feature_map": lambda inputs: inputs}, "not the model's features"),
    ],
)
def test_von_steps_refuses(changed, message):
    arguments = {"glm": GLM_, "posteriors": {0: Q}, "feature_map": features, "points": POINTS, "x": X, "y": Y}
    with pytest.raises(ValueError, match=message):
        explore_von_steps(**(arguments | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": IMAGES[:4]}, r"images have shape \(4, 7, 5\); the noise of 10 examples needs \(10, H, W\)"),
        ({"images": IMAGES[..., None]}, "images have shape"),
        ({"images": IMAGES[:, :0]}, "images have shape"),
        ({"images": IMAGES * float("nan")}, "images holds 350 value"),
        ({"images": IMAGES - 0.5}, "pass grey values >= 0"),
        ({"labels": LABELS[:4]}, r"labels have shape \(4,\)"),
        ({"labels": LABELS + 1}, "labels hold 4; pass integers from 0 to 3"),
        ({"labels": LABELS - 0.5}, "labels hold -0.5"),
        ({"noise": network_noise(10, 1)}, "single logit"),
        ({"shown": 6}, "shown=6 of 10 examples at each end; choose an integer from 1 to 5"),
        ({"shown": 0}, "shown=0"),
        ({"classes": ["a", "b"]}, "classes has 2 names; the noise has 4 classes"),
    ],
)
def test_examples_refuses(changed, message):
    arguments = {"images": IMAGES, "labels": LABELS, "noise": network_noise(), "shown": 3}
    with pytest.raises(ValueError, match=message):
        explore_examples(**(arguments | changed))


def test_a_plane_without_noise_and_images_without_ink_are_shown():
    assert embedded(explore_von_steps(GLM_, {0: Q}, features, POINTS, X, Y))["top"] == 0
    assert embedded(explore_examples(0 * IMAGES, LABELS, network_noise(), shown=1))["examples"]


# ------------------------------------------------------------------ in a browser
@pytest.fixture(scope="module")
def browser(figures, tmp_path_factory):
    """A page of the three figures, the first of them twice, opened from its file."""
    if missing():
        pytest.skip(missing())
    page = tmp_path_factory.mktemp("page") / "figures.html"
    shown = "\n".join(figure._repr_html_() for figure in (*figures.values(), figures["label_noise"]))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>-</title>'
    page.write_text(f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{shown}</body></html>', "utf-8")
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.get(page.as_uri())
        yield driver
        assert console_errors(driver) == []


def find(browser, part, kind=None):
    from selenium.webdriver.common.by import By

    within = f'[data-vlls="{kind}"] ' if kind else ""
    return browser.find_element(By.CSS_SELECTOR, f'{within}[data-part="{part}"]')


def move(browser, slider, value):
    browser.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
        slider,
        value,
    )


def read(element):
    return float(element.text.replace("−", "-"))


def wait(browser, condition, seconds=120):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, seconds, poll_frequency=0.05).until(lambda _: condition())


def test_scripts_run_and_take_away_the_sentences_that_stood_for_them(browser):
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.vlls-live')].map(e => e.checkVisibility())"
        ".concat([...document.querySelectorAll('.vlls-instead')].map(e => !e.checkVisibility()))"
    )
    assert shown == 8 * [True]


@pytest.mark.parametrize(("mean", "variance"), [(2.3, 0.35), (-1.4, 16.0), (0.0, 4.0), (8.0, 0.05), (-7.9, 9.15)])
def test_sliders_tell_the_numbers_of_vlls(browser, mean, variance):
    move(browser, find(browser, "mean", "label_noise"), mean)
    move(browser, find(browser, "variance", "label_noise"), variance)
    f, v = torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)
    noise, sigma = float(Bernoulli().label_noise(f, v)), float(torch.sigmoid(f))
    expected = {"sigma": sigma, "expected": sigma - noise, "noise": noise, "zero": noise, "one": 1 + noise}
    found = {name: read(find(browser, name, "label_noise")) for name in expected}
    assert found == pytest.approx(expected, abs=6e-5)  # four decimals
    assert read(find(browser, "mean-value")) == mean and read(find(browser, "variance-value")) == variance


def test_keys_move_a_slider_and_the_other_figure_of_its_kind_stays(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    first, second = browser.find_elements(By.CSS_SELECTOR, '[data-part="mean"][type="range"]')
    move(browser, first, 1.0)
    untouched = second.get_attribute("value")
    first.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert read(find(browser, "mean-value")) == pytest.approx(1.2)
    assert first.get_attribute("aria-valuetext").startswith("1.20; noise ")
    assert second.get_attribute("value") == untouched


def test_pointing_into_the_picture_moves_the_mean(browser):
    from selenium.webdriver.common.action_chains import ActionChains

    plot = find(browser, "plot", "label_noise")
    ActionChains(browser).move_to_element_with_offset(plot, plot.size["width"] // 4, 0).click().perform()
    assert 4 < read(find(browser, "mean-value")) < 6  # of an axis from -10 to 10


OWN_TIMER = """
window.setInterval = (run) => { window.tick = run; return 1; };
window.clearInterval = () => { window.tick = null; };
"""


def test_steps_and_play_go_through_the_iterations(browser):
    iteration, steps = find(browser, "iteration"), data_in(browser, "von")["steps"]
    move(browser, find(browser, "step"), 0)
    assert iteration.text == "0" and not find(browser, "back").is_enabled()
    find(browser, "next").click()
    assert iteration.text == "1"
    assert read(find(browser, "mean", "von")) == pytest.approx(steps[1]["mean"], abs=6e-4)
    assert read(find(browser, "elbo")) == pytest.approx(steps[1]["elbo"], abs=0.06)
    before = browser.execute_script("return document.querySelector('[data-part=plane] image').getAttribute('href')")
    browser.execute_script(OWN_TIMER)
    find(browser, "play").click()
    assert find(browser, "play").text == "Pause" and iteration.text == "1"
    for step in steps[2:]:
        browser.execute_script("window.tick()")
        assert iteration.text == str(step["iteration"])
    assert find(browser, "play").text == "Play" and not find(browser, "next").is_enabled()
    after = browser.execute_script("return document.querySelector('[data-part=plane] image').getAttribute('href')")
    assert (before, after) == (steps[1]["plane"], steps[-1]["plane"])
    find(browser, "play").click()  # at the end it begins again
    assert iteration.text == "0"
    browser.execute_script("window.tick()")
    assert iteration.text == "1"
    find(browser, "play").click()
    assert find(browser, "play").text == "Play"


def data_in(browser, kind):
    data = f'[data-vlls="{kind}"] script[type="application/json"]'
    return browser.execute_script("return JSON.parse(document.querySelector(arguments[0]).textContent)", data)


def test_pointing_and_keys_show_an_image_and_its_noise(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    examples = data_in(browser, "examples")["examples"]

    def shown():
        bars = [span.text.split("\n") for span in browser.find_elements(By.CSS_SELECTOR, ".vlls-bars > span")][1:]
        return find(browser, "noise", "examples").text, [bar[1] for bar in bars]

    images = browser.find_elements(By.CSS_SELECTOR, ".vlls-images label")
    radios = browser.find_elements(By.CSS_SELECTOR, ".vlls-images input")
    ActionChains(browser).move_to_element(images[4]).perform()
    wait(browser, lambda: shown() == (examples[4]["noise"], examples[4]["std"]))
    radios[4].send_keys(Keys.ARROW_LEFT)
    wait(browser, lambda: shown() == (examples[3]["noise"], examples[3]["std"]))
    browser.execute_script("arguments[0].click()", radios[0])  # what a tap does
    assert shown() == (examples[0]["noise"], examples[0]["std"])
    assert (
        find(browser, "image").get_attribute("alt")
        == f"label 1, predicted {examples[0]['predicted']}, noise " + (examples[0]["noise"])
    )


# Jupyter sets an output's HTML before it is in the page, then puts a new script in the place of each.
AS_JUPYTER_DOES = """
    const host = document.createElement('div');
    host.innerHTML = arguments[0];
    for (const old of host.querySelectorAll('script')) {
        const script = document.createElement('script');
        for (const {name, value} of old.attributes) script.setAttribute(name, value);
        script.textContent = old.textContent;
        old.replaceWith(script);
    }
    document.body.append(host);
    const shown = host.querySelector('.vlls-live').checkVisibility();
    host.remove();
    return shown;
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_runs_as_an_output_of_jupyter(browser, figures, name):
    assert browser.execute_script(AS_JUPYTER_DOES, figures[name]._repr_html_())


def test_on_a_phone_nothing_is_wider_than_the_page(browser):
    resize(browser, PHONE)
    wide = "return [...document.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth).length"
    wait(browser, lambda: browser.execute_script(wide) == 0)
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE
    resize(browser, 1280)


@pytest.mark.parametrize(
    "script",
    [
        "document.documentElement.dataset.theme = '{}'",  # the book
        "document.body.dataset.jpThemeLight = '{}' === 'light'",  # Jupyter
        "document.body.dataset.vscodeThemeKind = 'vscode-{}'",
    ],
    ids=["book", "jupyter", "vscode"],
)
def test_the_ground_follows_the_theme(browser, script):
    colour = "return getComputedStyle(document.querySelector('.vlls-figure')).backgroundColor"
    grounds = {}
    for name in ("dark", "light"):
        browser.execute_script(script.format(name))
        grounds[name] = browser.execute_script(colour)
    browser.execute_script(
        "delete document.documentElement.dataset.theme; delete document.body.dataset.jpThemeLight;"
        "delete document.body.dataset.vscodeThemeKind"
    )
    assert grounds == {"dark": "rgb(27, 29, 33)", "light": "rgb(255, 255, 255)"}


def test_without_a_theme_the_ground_follows_the_system(browser):
    for name, ground in (("dark", "rgb(27, 29, 33)"), ("light", "rgb(255, 255, 255)")):
        feature = {"features": [{"name": "prefers-color-scheme", "value": name}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        colour = browser.execute_script("return getComputedStyle(document.querySelector('figure')).backgroundColor")
        assert colour == ground
