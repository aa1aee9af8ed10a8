"""The page of ``vlls clean`` in a browser: keys, undo, reloads, the file that it saves, 10,000 suspects."""

import json
from pathlib import Path

import browser_checks as checks
import numpy as np
import pytest
from browser import chromium, console_errors, missing, resize

from vlls.cli._pages import data_uri, render
from vlls.data._labelled import LabelledImages
from vlls.label_errors._decisions import Decision, corrected_list, read_decisions

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
pytest.importorskip("PIL.Image")

CLASSES = ("cat", "dog", 'a "very, very" long name of a class, as some data sets have them', "crab")


def suspects_of(number, classes=CLASSES, source=None):
    """Return suspects as the command writes them: given class i, suggested the next one, with a third one listed."""
    k = len(classes)
    if source is None:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 1)).astype(np.uint8)
        source = data_uri(pixels, 64, "the test")
    return [
        {
            "key": f"{classes[i % k]}/{i}, it's.png",
            "given": i % k,
            "suggested": (i + 1) % k,
            "score": 0.9,
            "flag": True,
            "p": [[(i + 1) % k, 0.8], [(i + 2) % k, 0.15], [i % k, 0.0004]],
            "same": ["dog/5.png", 1] if i == 1 else None,
            "src": source if i != 3 else "",
        }
        for i in range(number)
    ]


def labels_of(suspects, classes=CLASSES):
    keys = tuple(suspect["key"] for suspect in suspects)
    labels = np.array([suspect["given"] for suspect in suspects])
    return LabelledImages("pets", keys, labels, classes, np.array(["train"] * len(keys)), tuple(map(Path, keys)))


def write(path, suspects, classes=CLASSES):
    """Write a page, and return its labels."""
    data = labels_of(suspects, classes)
    content = {"name": "pets", "kind": "path", "fingerprint": data.fingerprint, "classes": list(classes)}
    content |= {"file": "pets-decisions.csv", "suspects": suspects}
    values = {"name": "pets", "command": "vlls clean pets --apply", "how": "a network"}
    values |= {"judged": 20_000, "flagged": len(suspects), "more": 0, "content": content}
    path.write_text(render("clean.html", "the test", **values), "utf-8")
    return data


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class Page:
    """A page that is open."""

    def __init__(self, driver, path):
        self.driver, self.path, self.folder = driver, path, path.parent
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior",
            {"behavior": "allow", "downloadPath": str(self.folder), "eventsEnabled": True},
        )
        driver.get(path.as_uri())

    def find(self, name):
        return self.driver.find_element("id", name)

    def text(self, name):
        return self.find(name).text

    def press(self, *keys):
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def decisions(self):
        """The decisions that the browser keeps, by key."""
        kept = self.driver.execute_script("return localStorage.getItem(Object.keys(localStorage)[0])")
        return {key: tuple(made) for key, made in json.loads(kept)["decisions"]} if kept else {}

    def saved(self):
        from selenium.webdriver.support.ui import WebDriverWait

        path = self.folder / "pets-decisions.csv"
        path.unlink(missing_ok=True)
        self.find("save").click()
        WebDriverWait(self.driver, 60, poll_frequency=0.05).until(lambda _: path.exists() and path.stat().st_size)
        return path


@pytest.fixture
def opened(driver, tmp_path):
    """Twelve suspects, in a page whose decisions are forgotten afterwards."""
    resize(driver, 1280)
    suspects = suspects_of(12)
    data = write(tmp_path / "labels.html", suspects)
    page = Page(driver, tmp_path / "labels.html")
    yield page, suspects, data
    assert console_errors(driver) == []
    driver.execute_script("localStorage.clear()")


# ------------------------------------------------------------------ deciding
def test_keys_decide_and_lead_to_the_next_suspect(opened):
    page, suspects, _ = opened
    assert page.text("name") == suspects[0]["key"] and page.text("place") == "1 of 12"
    assert page.text("given").startswith("cat < 0.1 %") and page.text("suggested") == "dog 80.0 %"
    page.press("s")
    assert page.text("name") == suspects[1]["key"] and "corrected to dog" in page.text("said")
    assert page.text("same") == "The same image is labelled dog: dog/5.png"
    page.press("k", "u")
    assert page.find("lost").is_displayed() and not page.find("image").is_displayed()  # the fourth has no image
    page.press("2")  # the second class that is listed
    page.press("c", "crab", "\n")
    assert page.decisions() == {
        suspects[0]["key"]: ("correct", 1),
        suspects[1]["key"]: ("keep", 1),
        suspects[2]["key"]: ("unsure", 2),
        suspects[3]["key"]: ("correct", 1),
        suspects[4]["key"]: ("correct", 3),
    }
    assert page.text("count") == "5 of 12 decided: 3 corrected, 1 kept, 1 unsure"
    assert page.text("place") == "6 of 12"


def test_the_arrows_move_and_decide_nothing(opened):
    from selenium.webdriver.common.keys import Keys

    page, suspects, _ = opened
    page.press(Keys.ARROW_LEFT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.text("name") == suspects[2]["key"] and page.decisions() == {}
    page.press(Keys.ARROW_LEFT)
    assert page.text("name") == suspects[1]["key"]
    page.press("c", "cr", Keys.ESCAPE)  # leaves the field; keys typed there made no decisions
    page.press("k")
    assert page.decisions() == {suspects[1]["key"]: ("keep", 1)}


def test_undo_goes_back_step_by_step(opened):
    from selenium.webdriver.common.keys import Keys

    page, suspects, _ = opened
    page.press("s", "k", Keys.ARROW_LEFT, "u", "z")
    assert page.decisions() == {suspects[0]["key"]: ("correct", 1), suspects[1]["key"]: ("keep", 1)}
    assert page.text("name") == suspects[1]["key"]
    page.press(Keys.CONTROL + "z")
    assert page.decisions() == {suspects[0]["key"]: ("correct", 1)}
    page.find("undo").click()
    assert page.decisions() == {} and page.text("name") == suspects[0]["key"]
    assert not page.find("undo").is_enabled()
    page.press("z")
    assert page.text("said") == "There is nothing to undo."


def test_classes_are_chosen_by_the_beginning_of_their_name(opened):
    page, suspects, _ = opened
    page.press("c", "c", "\n")
    assert "2 classes begin with" in page.text("said") and page.decisions() == {}
    page.press("r", "\n")
    assert page.decisions() == {suspects[0]["key"]: ("correct", 3)}
    page.press("c", "zebra", "\n")
    assert "There is no class" in page.text("said") and len(page.decisions()) == 1


def test_buttons_do_what_the_keys_do(opened):
    page, suspects, _ = opened
    for name in ("take", "keep", "unsure"):
        page.find(name).click()
    page.driver.find_elements("css selector", "#classes button")[1].click()
    assert [made[0] for made in page.decisions().values()] == ["correct", "keep", "unsure", "correct"]
    page.driver.find_elements("css selector", "#grid button")[8].click()
    assert page.text("name") == suspects[8]["key"]


# ------------------------------------------------------------------ reloads
def test_a_reload_keeps_decisions_and_undo(opened):
    from selenium.webdriver.support.ui import WebDriverWait

    page, suspects, _ = opened
    page.press("s", "k", "u")
    before = page.decisions()

    def kept(_):
        page.driver.refresh()
        return page.decisions() == before

    WebDriverWait(page.driver, 20).until(kept)  # the browser stores what a key decided a moment after it
    assert len(before) == 3 and page.text("count").startswith("3 of 12 decided")
    assert page.text("name") == suspects[3]["key"]
    page.press("z")
    assert len(page.decisions()) == 2


def test_pages_of_other_data_have_their_own_decisions(opened):
    page, *_ = opened
    page.press("s")
    write(page.folder / "other.html", suspects_of(11))
    page.driver.get((page.folder / "other.html").as_uri())
    assert page.text("count").startswith("0 of 11 decided")


def test_saved_decisions_are_those_that_the_command_applies(opened):
    page, suspects, data = opened
    assert not page.find("save").is_enabled()
    page.press("s", "s", "k", "u", "c", "crab", "\n")
    decisions = read_decisions(page.saved(), data)
    assert decisions == {
        suspects[0]["key"]: Decision("correct", "dog"),
        suspects[1]["key"]: Decision("correct", CLASSES[2]),
        suspects[2]["key"]: Decision("keep", CLASSES[2]),
        suspects[3]["key"]: Decision("unsure", "crab"),
        suspects[4]["key"]: Decision("correct", "crab"),
    }
    assert "5 decisions saved as pets-decisions.csv" in page.text("said")
    assert corrected_list(data, decisions).decode().splitlines()[1] == '"cat/0, it\'s.png",dog'
    with pytest.raises(ValueError, match="holds decisions on other data"):
        read_decisions(page.folder / "pets-decisions.csv", labels_of(suspects_of(11)))


# ------------------------------------------------------------------ many
def test_filters_by_pair_and_by_decision(opened):
    from selenium.webdriver.support.ui import Select

    page, suspects, _ = opened
    pairs = Select(page.find("pair"))
    assert [option.text for option in pairs.options][:2] == ["all (12)", "cat → dog (3)"]
    pairs.select_by_visible_text("cat → dog (3)")
    assert page.text("place") == "1 of 3"
    page.press("s")  # the list keeps the focus: letters there choose options, and decide nothing
    assert page.decisions() == {}
    page.find("ask").click()
    page.find("take").click()
    assert page.text("name") == suspects[4]["key"]
    Select(page.find("kind")).select_by_value("open")
    assert page.text("place") == "1 of 2"
    Select(page.find("kind")).select_by_value("unsure")
    assert page.find("nothing").is_displayed() and not page.find("work").is_displayed()
    Select(page.find("kind")).select_by_value("")
    page.find("rest").click()
    page.driver.switch_to.alert.accept()
    assert list(page.decisions().values()) == 3 * [("correct", 1)]
    page.find("undo").click()  # the two of them at once
    assert len(page.decisions()) == 1


def test_ten_thousand_suspects(driver, tmp_path):
    suspects = suspects_of(10_000)
    data = write(tmp_path / "labels.html", suspects)
    page = Page(driver, tmp_path / "labels.html")
    try:
        assert page.text("count").startswith("0 of 10,000 decided") and page.text("page") == "page 1 of 417"
        elements = "return document.querySelectorAll('body *').length"
        assert driver.execute_script(elements) < 400  # only those that one sees
        page.press("s" * 60)
        assert page.text("place") == "61 of 10,000" and page.text("page") == "page 3 of 417"
        page.find("rest").click()
        driver.switch_to.alert.accept()
        assert page.text("count").startswith("10,000 of 10,000 decided: 10,000 corrected")
        page.press("u")
        driver.refresh()
        assert page.text("count") == "10,000 of 10,000 decided: 9,999 corrected, 0 kept, 1 unsure"
        assert len(read_decisions(page.saved(), data)) == 10_000
        page.press("z", "z")  # the unsure one, then the rest
        assert page.text("count").startswith("60 of 10,000 decided")
        assert driver.execute_script(elements) < 400 and console_errors(driver) == []
    finally:
        driver.execute_script("localStorage.clear()")


def test_digits_have_the_keys_of_their_names(driver, tmp_path):
    classes = tuple("0123456789")
    suspects = suspects_of(12, classes)
    write(tmp_path / "labels.html", suspects, classes)
    page = Page(driver, tmp_path / "labels.html")
    try:
        page.press("7", "1", "0")
        assert list(page.decisions().values()) == [("correct", 7), ("keep", 1), ("correct", 0)]
        assert "the class of that name" in page.text("digit")
    finally:
        driver.execute_script("localStorage.clear()")


# ------------------------------------------------------------------ accessibility
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_contrast_width_and_names(opened, mode):
    page, *_ = opened
    driver = page.driver
    page.press("s", "k", "u")
    media = {"features": [{"name": "prefers-color-scheme", "value": mode}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for width in (1280, *checks.PHONES):
        resize(driver, width)
        assert driver.execute_script(checks.CONTRAST) == []
        assert driver.execute_script(checks.TOO_WIDE) == []
    nameless = """
        return [...document.querySelectorAll('button, input, select, progress, img')].filter(tag => !(
            tag.textContent.trim() || tag.getAttribute('aria-label') || tag.labels?.length || tag.alt
            || tag.closest('button'))).map(tag => tag.outerHTML);
    """
    assert driver.execute_script(nameless) == []
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
