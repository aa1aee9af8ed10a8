"""The HTML of the interactive figures: it holds all it needs, has accessible names, and loads nothing else."""

import re
from importlib.resources import files

import pytest
from bs4 import BeautifulSoup
from figures.interactive import explore_examples
from figures.interactive.html import InteractiveFigure
from moving_figures import IMAGES, LABELS, NAMES, embedded, figures, network_noise


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_of_a_network(name):
    html = figures()[name]._repr_html_()
    assert not re.search(r"https?:|url\(|@import|import\(|fetch\(|XMLHttp|eval\(|Function\(|innerHTML", html)
    page = BeautifulSoup(html, "html.parser")
    addresses = [tag[key] for tag in page.find_all(True) for key in ("src", "href", "srcset", "action") if tag.get(key)]
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert len(html) < 400_000


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_however_often_a_figure_is_shown(name):
    page = BeautifulSoup(figures()[name]._repr_html_() + figures()[name]._repr_html_(), "html.parser")
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    groups = {tag["name"] for tag in page.select("input[type=radio]")}
    assert len(groups) == (2 if name in ("examples", "two_noises", "theorem_1") else 0)
    assert "@id@" not in str(page)


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_can_be_moved_has_a_name(name):
    page = BeautifulSoup(figures()[name]._repr_html_(), "html.parser")
    figure = page.find("figure")
    assert figure["role"] == "group" and figure["aria-label"]
    controls = page.find_all("input")
    assert controls
    for control in controls:
        label = control.find_parent("label") or page.find("label", attrs={"for": control["id"]})
        named = label.get_text(strip=True) or label.find(attrs={"data-part": True})  # the script writes the name
        assert named and (label.img is None or label.img["alt"])
    assert all(button.get_text(strip=True) and button["type"] == "button" for button in page.find_all("button"))
    for drawing in page.find_all("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and drawing["aria-label"])


@pytest.mark.parametrize("name", NAMES)
def test_without_its_script_a_figure_says_what_would_be_seen(name):
    page = BeautifulSoup(figures()[name]._repr_html_(), "html.parser")
    for tag in page(["script", "style"]):
        tag.decompose()
    for tag in page.find_all(hidden=True):
        tag.decompose()
    assert "need" in page.get_text() and "JavaScript" in page.get_text()
    assert len(page.find_all("img")) == {"examples": 6}.get(name, 1)
    assert figures()[name].name in repr(figures()[name])


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
    named = InteractiveFigure("von", '"><script>', "<b>", "", {}, b"")
    assert len(BeautifulSoup(named._repr_html_(), "html.parser").find_all("script")) == 2
