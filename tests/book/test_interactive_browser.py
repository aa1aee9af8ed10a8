"""The interactive figures in a browser."""

import pytest
import torch
from browser import chromium, console_errors, missing, resize
from moving_figures import (
    NAMES,
    figures,
)

from vlls import Bernoulli

PHONE = 390  # pixels


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Open a page of the figures, the first of them twice, from its file."""
    if missing():
        pytest.skip(missing())
    page = tmp_path_factory.mktemp("page") / "figures.html"
    shown = "\n".join(figure._repr_html_() for figure in (*figures().values(), figures()["label_noise"]))
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
    assert shown == 2 * (len(NAMES) + 1) * [True]


def test_every_label_has_a_text_or_a_picture(browser):
    empty = (
        "return [...document.querySelectorAll('label')].filter(e => !e.textContent.trim() && !e.querySelector('img'))"
    )
    assert browser.execute_script(empty) == []


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

    first, second = browser.find_elements(By.CSS_SELECTOR, '[data-vlls="label_noise"] [data-part="mean"]')
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
    browser.execute_script("arguments[0].click()", radios[0])  # as a tap does
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
def test_a_figure_runs_as_an_output_of_jupyter(browser, name):
    assert browser.execute_script(AS_JUPYTER_DOES, figures()[name]._repr_html_())


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


def test_theorem_1_holds_with_its_noise_and_with_no_other(browser):
    says = find(browser, "says", "theorem_1")
    browser.execute_script("arguments[0].scrollIntoView()", says)
    assert "rounding. They are one algorithm" in says.text
    for name in ("stale", "sign", "none"):
        find(browser, name, "theorem_1").click()
        assert "they are two algorithms" in says.text
        move(browser, find(browser, "step", "theorem_1"), 0)
        assert "After 0 steps the two are 0 apart" in says.text
        find(browser, "next", "theorem_1").click()
        assert find(browser, "step-value", "theorem_1").text == "1"
        move(browser, find(browser, "step", "theorem_1"), 60)
    find(browser, "exact", "theorem_1").click()
    browser.execute_script(OWN_TIMER)
    find(browser, "play", "theorem_1").click()
    assert find(browser, "step-value", "theorem_1").text == "0"
    for _ in range(60):
        browser.execute_script("window.tick()")
        assert "one algorithm" in says.text
    assert find(browser, "play", "theorem_1").text == "Play" and "After 60 steps" in says.text
