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
        for name in ("light", "dark"):
            theme(browser, name)
            names |= {name} if browser.execute_script(checks.CONTRAST) else set()
        resize(browser, checks.PHONES[0])
        names |= {"cut"} if browser.execute_script(checks.CUT) else set()
        names |= {"width"} if browser.execute_script(checks.TOO_WIDE) else set()
        resize(browser, 1280)
        theme(browser, "light")
        checks.press(browser, "TAB")
        names |= {"focus"} if browser.execute_script(checks.UNSEEN_FOCUS) else set()
        browser.execute_script(checks.SIMPLER)
        browser.execute_script(checks.axe_core())
        for rules in ([], [["color-contrast"]]):
            names |= {"barrier"} if browser.execute_async_script(checks.BARRIERS, *rules) else set()
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
        ("light, barrier", "color: #222", "color: #999"),
        ("dark", "background: #111; color: #ddd", "background: #444; color: #777"),
        ("stretched", 'width="300"', 'width="300" height="100"'),
        ("barrier", ' alt="a dot"', ""),
        ("barrier", ' lang="en"', ""),
        ("barrier", "<main>", "<div>"),
        ("barrier", "<p>Some text.</p>", "<h1>One</h1><h3>Three</h3>"),
        ("barrier", "Some text.", "<span style='display: block; height: 1em; overflow: auto'>a<br>b<br>c</span>"),
        ("barrier", "Some text.", "Some <a href='#' style='color: inherit; text-decoration: none'>text</a>."),
        (
            "scroll bar, barrier",
            'tabindex="0" class="math"\nstyle="display: inline-flex; overflow: auto hidden">\n<mjx-container>',
            'class="math" style="display: inline-flex; width: 20px; overflow: auto"><mjx-container>a long line',
        ),
        ("focus", "Some text.", "<button style='outline: none'>a</button>"),
        ("focus", "Some text.", "<a href='#' style='opacity: 0'>a</a>"),
        ("console", "<p>", "<script>nothing.there</script><p>"),
    ],
)
def test_the_checks_find(found, name, old, new):
    assert old in GOOD
    assert found(GOOD.replace(old, new, 1)) == set(name.split(", "))


def test_a_missing_picture_and_a_request_to_the_network_are_found(found):
    assert found(GOOD.replace("pixel.png", "none.png")) == {"image", "console"}
    assert found(GOOD.replace("pixel.png", "https://example.org/x.png")) == {"image", "console"}


DEAF = """<!doctype html><html lang="en" style="--pst-color-background: #fff"><head><title>A page</title></head><body>
<article class="bd-content"><noscript><style>.math { font-size: 0 }</style>
<p class="no-script">JavaScript is off.</p></noscript>
<p><span class="math">x</span><noscript><math><mi>x</mi></math></noscript></p>
<figure class="vlls-figure"><div class="vlls-instead">It needs JavaScript.</div><div class="vlls-live" hidden>0</div>
</figure></article>
<nav class="page-toc"><span class="math">y</span><noscript><math><mi>y</mi></math></noscript></nav></body></html>"""


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        ("", "", 0),
        ("<noscript><math><mi>x</mi></math></noscript>", "", 1),
        ("<noscript><math><mi>y</mi></math></noscript>", "", 1),
        (".math {", ".none {", 2),
        (' style="--pst-color-background: #fff"', "", 1),
        ('class="no-script"', "hidden", 1),
        (" hidden>0", ">0", 1),
        ("It needs JavaScript.", "", 1),
        ("</figure>", "</figure><button>Press</button>", 1),
    ],
)
def test_faults_of_a_page_without_javascript_are_found(browser, tmp_path, old, new, faults):
    assert old in DEAF
    (tmp_path / "page.html").write_text(DEAF.replace(old, new, 1))
    with checks.scripts_off(browser):
        browser.get((tmp_path / "page.html").as_uri())
        assert len(browser.execute_script(checks.DEAF)) == faults
