"""The checks that a browser makes, on made-up pages; browser_checks.py makes them on the real ones."""

import base64

import browser_checks as checks
import pytest
from browser import chromium, console_errors, missing, resize, theme

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
GOOD = """<!doctype html><html lang="en" data-theme="light"><head><title>A page</title>
<meta name="viewport" content="width=device-width">
<style>html { background: #fff; color: #222 } [data-theme=dark] { background: #111; color: #ddd }</style></head><body>
<main><img src="pixel.png" alt="a dot" width="300"><p>Some text.</p>
<div style="overflow-x: auto"><pre>A line that is long enough to
reach beyond the right edge of a phone, aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa</pre></div>
<p class="bd-content"><span tabindex="0" class="math"
style="display: inline-flex; overflow: auto hidden">
<mjx-container>x</mjx-container></span></p><div class="bd-content"><mjx-container display="true"
style="display: block; overflow: hidden"><mjx-math style="display: inline-block">y</mjx-math></mjx-container></div>
</main></body></html>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def found(browser, tmp_path):
    """Return a function that opens a page and says which checks find something."""
    (tmp_path / "pixel.png").write_bytes(PIXEL)

    def find(text):
        (tmp_path / "page.html").write_text(text)
        resize(browser, 1280)
        console_errors(browser)
        browser.get((tmp_path / "page.html").as_uri())
        browser.execute_async_script(checks.SETTLED)
        names = {"formula"} if browser.execute_script(checks.UNRENDERED) else set()
        names |= {"scroll bar"} if browser.execute_script(checks.SCROLLED) else set()
        names |= {"image"} if browser.execute_async_script(checks.BROKEN_IMAGES) else set()
        names |= {"stretched"} if browser.execute_script(checks.STRETCHED) else set()
        browser.execute_script(checks.axe_core())
        names |= {"barrier"} if browser.execute_async_script(checks.BARRIERS) else set()
        for name in ("light", "dark"):
            theme(browser, name)
            names |= {name} if browser.execute_script(checks.CONTRAST) else set()
        resize(browser, checks.PHONES[0])
        names |= {"cut"} if browser.execute_script(checks.CUT) else set()
        names |= {"width"} if browser.execute_script(checks.TOO_WIDE) else set()
        return names | ({"console"} if console_errors(browser) else set())

    return find


def test_a_page_without_faults_passes(found):
    assert found(GOOD) == set()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("formula", "<mjx-container>x</mjx-container>", "$x$"),
        ("formula", "<mjx-container>x</mjx-container>", "<mjx-container><mjx-merror>x</mjx-merror></mjx-container>"),
        ("scroll bar", "<mjx-container>x", "<mjx-container style='width: 1px'>xxx"),
        ("width", "overflow-x: auto", ""),
        ("cut", "inline-block", "inline-block; width: 500px"),
        ("light", "color: #222", "color: #999"),
        ("dark", "background: #111; color: #ddd", "background: #444; color: #777"),
        ("stretched", 'width="300"', 'width="300" height="100"'),
        ("barrier", ' alt="a dot"', ""),
        ("barrier", ' lang="en"', ""),
        ("console", "<p>", "<script>nothing.there</script><p>"),
    ],
)
def test_the_checks_find(found, name, old, new):
    assert old in GOOD
    assert found(GOOD.replace(old, new, 1)) == {name}


def test_a_missing_picture_and_a_request_to_the_network_are_found(found):
    assert found(GOOD.replace("pixel.png", "none.png")) == {"image", "console"}
    assert found(GOOD.replace("pixel.png", "https://example.org/x.png")) == {"image", "console"}
