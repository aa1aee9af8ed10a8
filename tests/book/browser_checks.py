"""Checks of the built site in a browser, opened from the disk and without a network.

`make book` runs these after site_checks.py if Chromium and its driver are installed, and skips them otherwise. `make
test`, which needs no site, does not collect them. test_browser.py tests the checks themselves.
"""

import importlib.util
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from browser import chromium, console_errors, missing, resize, theme
from chapters import chapters
from site_checks import HTML, SITE, built, names

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

PHONES = (390, 320)  # pixels
FIRST_PAGE = 300_000  # bytes of the first page and of all that it loads, uncompressed
SETTLED = """
    const done = arguments[arguments.length - 1];
    const mathematics = window.MathJax && MathJax.startup ? MathJax.startup.promise : Promise.resolve();
    Promise.all([mathematics, document.fonts.ready]).then(() => requestAnimationFrame(() => done()));
"""
# Missing images, also those that load lazily.
BROKEN_IMAGES = """
    const done = arguments[arguments.length - 1];
    const images = [...document.images];
    images.forEach(image => image.loading = 'eager');
    Promise.all(images.map(image => image.decode().then(() => null, () => image.src)))
        .then(found => done(found.filter(Boolean)));
"""
# Images that are shown in a wrong proportion.
STRETCHED = """
    return [...document.images].filter(({clientWidth: width, clientHeight: height, naturalWidth, naturalHeight}) =>
        width && height && naturalWidth && Math.abs(width * naturalHeight / (height * naturalWidth) - 1) > 0.05)
        .map(image => image.src);
"""
UNRENDERED = """
    const open = [...document.querySelectorAll('.math')].filter(tag => !tag.querySelector('mjx-container'));
    const wrong = [...document.querySelectorAll('mjx-merror, [data-mjx-error]')];
    return [...open, ...wrong].map(tag => tag.textContent.slice(0, 200));
"""
# Elements that extend beyond the right edge and are not inside one that scrolls or hides them.
TOO_WIDE = """
    const width = document.documentElement.clientWidth, found = [];
    if (document.documentElement.scrollWidth <= width) return found;
    const kept = tag => {
        for (; tag && tag !== document.body; tag = tag.parentElement) {
            const style = getComputedStyle(tag);
            if (style.position === 'fixed' || style.overflowX !== 'visible') return true;
        }
        return false;
    };
    for (const tag of document.querySelectorAll('body *'))
        if (tag.getBoundingClientRect().right > width + 1 && !kept(tag))
            found.push(tag.tagName + '.' + tag.className + ': ' + tag.textContent.trim().slice(0, 80));
    return ['the page is ' + document.documentElement.scrollWidth + ' pixels wide', ...found.slice(0, 8)];
"""
# Formulas with a scroll bar although there is room for them.
SCROLLED = """
    return [...document.querySelectorAll('.bd-content span.math')].filter(tag => tag.scrollWidth > tag.clientWidth
        && tag.clientWidth < tag.parentElement.clientWidth - 8).map(tag => tag.textContent.slice(0, 80));
"""
# Displayed formulas that are cut although they could be set smaller.
CUT = """
    return [...document.querySelectorAll(".bd-content mjx-container[display='true']")].filter(box =>
        box.querySelector('mjx-math').getBoundingClientRect().width > box.clientWidth
        && !(parseFloat(box.style.fontSize) <= 0.61 * parseFloat(box.dataset.size)))
        .map(box => box.textContent.slice(0, 80));
"""
# Plots of a dark page, or pieces of one, that are not turned to light lines exactly once, and photographs that are.
NOT_TURNED = """
    const turned = tag => tag ? (getComputedStyle(tag).filter !== 'none') + turned(tag.parentElement) : 0;
    return [...document.querySelectorAll('.cell_output img:not(.vlls-figure *), .parts image')]
        .filter(tag => turned(tag) !== (tag.closest('.photographs') ? 0 : 1)).map(tag => tag.outerHTML.slice(0, 200));
"""
# Contrast of texts by WCAG 2: at least 4.5, of large ones 3. Only visible text counts.
CONTRAST = """
    const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const over = ([r, g, b, a = 1], under) => [r, g, b].map((c, i) => a * c + (1 - a) * under[i]);
    const ground = tag => {
        const layers = [];
        for (; tag; tag = tag.parentElement) {
            const colour = parse(getComputedStyle(tag).backgroundColor);
            layers.push(colour);
            if (colour.length === 3) break;
        }
        return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
    };
    const found = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const tag = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
        if (!text || tag.closest('script, style, noscript, mjx-assistive-mml, svg, canvas') || !tag.checkVisibility(
            {opacityProperty: true, visibilityProperty: true})) continue;
        const style = getComputedStyle(tag), size = parseFloat(style.fontSize), bold = style.fontWeight >= 600;
        const under = ground(tag), [a, b] = [luminance(over(parse(style.color), under)), luminance(under)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < (size >= 24 || bold && size >= 18.66 ? 3 : 4.5)) {
            const name = tag.tagName + '.' + tag.className + ' ' + style.color + ' on ' + under.map(Math.round);
            if (!found.has(name)) found.set(name, ratio.toFixed(2) + ' ' + name + ': ' + text.slice(0, 60));
        }
    }
    return [...found.values()];
"""
# Barriers of WCAG that axe-core calls serious or critical, and the order of headings and landmarks; with a list of
# rules, those alone. Contrast is four fifths of axe-core's time, and CONTRAST has measured it. A link in a text must
# differ from it in more than its colour, whose contrast to the text is therefore not measured.
BARRIERS = """
    axe.configure({rules: [{id: 'link-in-text-block', any: ['link-in-text-block-style']}]});
    const done = arguments[arguments.length - 1];
    const only = arguments.length > 1 ? {runOnly: arguments[0]} : {rules: {'color-contrast': {enabled: false}}};
    const order = rule => ['region', 'heading-order'].includes(rule.id) || rule.id.startsWith('landmark-');
    axe.run(document, {preload: false, resultTypes: ['violations'], ...only}).then(found => done(found.violations
        .filter(rule => ['serious', 'critical'].includes(rule.impact) || order(rule))
        .map(rule => rule.id + ': ' + rule.nodes[0].html.slice(0, 200))));
"""
# Letters of formulas and words of code are nine tenths of a page and of axe-core's time. CONTRAST has measured them, so
# here a formula is reduced to one letter unless something scrolls it, and code and signatures to their text and links.
SIMPLER = """
    const moves = (style, inner, outer) => ['auto', 'scroll'].includes(style) && inner > outer;
    const scrolls = (tag, style) => moves(style.overflowX, tag.scrollWidth, tag.clientWidth)
        || moves(style.overflowY, tag.scrollHeight, tag.clientHeight);
    const scrolled = tag => tag !== document.body
        && (scrolls(tag, getComputedStyle(tag)) || scrolled(tag.parentElement));
    const formulas = [...document.querySelectorAll('mjx-container')].filter(tag => !scrolled(tag));
    for (const formula of formulas) formula.replaceWith('x');
    for (const word of document.querySelectorAll('.highlight span, .sig span')) word.replaceWith(...word.childNodes);
"""
# Focused elements that are hidden, or that have no ring around themselves, their container or a part of them. The check
# is made after a key was pressed, so that a browser shows its rings.
UNSEEN_FOCUS = """
    const ring = tag => {
        const style = getComputedStyle(tag);
        return [style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1, style.boxShadow].join();
    };
    const found = new Set();
    for (const tag of document.querySelectorAll('a[href], button, input, select, summary, [tabindex]')) {
        if (tag.tabIndex < 0 || tag.disabled || !tag.checkVisibility({visibilityProperty: true})) continue;
        const around = [tag.parentElement, tag, ...tag.children], before = around.map(ring);
        tag.focus({preventScroll: true});
        const shown = around.some((other, i) => ring(other) !== before[i]) || ring(tag).startsWith('true');
        const seen = tag.type === 'radio' || tag.checkVisibility({opacityProperty: true});
        if (document.activeElement === tag && !(shown && seen)) found.add(tag.outerHTML.slice(0, 120));
        tag.blur();
    }
    return [...found];
"""
ARRIVED = """
    return document.readyState === 'complete' && !document.querySelector('meta[http-equiv="refresh" i]');
"""
# Faults of a page without JavaScript: LaTeX instead of formulas, controls without effect, missing sentences.
DEAF = """
    const seen = tag => Boolean(tag) && tag.checkVisibility(), all = name => [...document.querySelectorAll(name)];
    const formulas = all('article .math, .page-toc .math').filter(tag => {
        const beside = tag.nextElementSibling;
        const text = [...tag.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        return text && getComputedStyle(tag).fontSize !== '0px' || !beside || !beside.querySelector('math');
    });
    const figures = all('.vlls-figure').filter(tag => seen(tag.querySelector('.vlls-live'))
        || !seen(tag.querySelector('.vlls-instead')) || !tag.textContent.includes('JavaScript'));
    const buttons = all('article button, .bd-header-article button').filter(seen);
    if (!document.querySelector('article')) return [];
    const coloured = getComputedStyle(document.documentElement).getPropertyValue('--pst-color-background');
    const told = seen(document.querySelector('.no-script'));
    return [...formulas, ...figures, ...buttons].map(tag => tag.outerHTML.slice(0, 150))
        .concat(told ? [] : ['it does not say so'], coloured ? [] : ['it has no colours']);
"""
# Of an interactive figure: its picture, and the controls at which Tab stops (of choices, the one that is chosen).
PICTURE = (
    "return [...arguments[0].querySelectorAll('svg, img[data-part], .vlls-bars')].map(tag => tag.outerHTML).join('')"
)
STOPS = """
    return [...arguments[0].querySelectorAll('input, button')].filter(tag =>
        tag.checkVisibility() && !tag.disabled && (tag.type !== 'radio' || tag.checked));
"""
BEFORE = """
    const place = document.createElement('span');
    place.tabIndex = -1;
    arguments[0].before(place);
    place.focus();
"""


def axe_core() -> str:
    """Return the script of axe-core, from a package whose other parts are not used."""
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        pytest.skip("axe-playwright-python is not installed")
    return Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.parametrize("path", HTML, ids=names)
def test_page_can_be_seen_and_nothing_bars_a_screen_reader_or_a_keyboard(browser, path):
    """A page is loaded once for all of this, which takes longer than most checks."""
    resize(browser, 1280)
    browser.get(path.as_uri())
    browser.execute_async_script(SETTLED)
    assert browser.execute_script(UNRENDERED) == []
    assert browser.execute_async_script(BROKEN_IMAGES) == []
    assert browser.execute_script(STRETCHED) == []
    assert browser.execute_script(TOO_WIDE) == []
    assert browser.execute_script(SCROLLED) == []
    assert browser.execute_script(CUT) == []
    for name in ("light", "dark"):
        theme(browser, name)
        assert browser.execute_script(CONTRAST) == [], name
    assert browser.execute_script(NOT_TURNED) == []
    theme(browser, "light")
    press(browser, "TAB")
    assert browser.execute_script(UNSEEN_FOCUS) == []
    for width in PHONES:
        resize(browser, width)
        browser.execute_async_script(SETTLED)
        assert browser.execute_script(TOO_WIDE) == [], width
        assert browser.execute_script(CUT) == [], width
    browser.execute_script(SIMPLER)
    resize(browser, 1280)  # without the formulas, which take long to lay out
    browser.execute_script(axe_core())
    assert browser.execute_async_script(BARRIERS) == []
    assert console_errors(browser) == []


@pytest.mark.parametrize("name", ["intro", "06_label_noise_of_a_network", "ledger", "api/noise"])
def test_axe_core_agrees_on_contrast_on_a_page_of_each_kind(browser, name):
    resize(browser, 1280)
    browser.get((SITE / "book" / f"{name}.html").as_uri())
    browser.execute_async_script(SETTLED)
    browser.execute_script(SIMPLER)
    browser.execute_script(axe_core())
    for colours in ("light", "dark"):
        theme(browser, colours)
        assert browser.execute_async_script(BARRIERS, ["color-contrast"]) == [], colours
    console_errors(browser)


def press(browser, *names):
    """Press keys wherever the focus is."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    for name in names:
        ActionChains(browser).send_keys(getattr(Keys, name, name)).perform()


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20, poll_frequency=0.05).until(lambda _: condition())


@contextmanager
def scripts_off(browser):
    """Open pages without JavaScript; scripts of the tests themselves still run."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("path", HTML, ids=names)
def test_without_javascript_a_page_can_be_read(browser, path):
    resize(browser, 1280)
    with scripts_off(browser):
        browser.get(path.as_uri())
        wait(browser, lambda: browser.execute_script(ARRIVED))  # the site's first address leads to another page
        assert browser.execute_script(DEAF) == []
        resize(browser, min(PHONES))
        assert browser.execute_script(TOO_WIDE) == []
    console_errors(browser)


INTERACTIVE = [path for path in HTML if 'class="vlls-figure"' in path.read_text(encoding="utf-8")]


def test_interactive_figures_are_on_the_site():
    assert len(INTERACTIVE) >= 4


@pytest.mark.parametrize("path", INTERACTIVE, ids=names)
def test_keys_reach_and_move_every_interactive_figure(browser, path):
    from selenium.webdriver.common.by import By

    resize(browser, 1280)
    browser.get(path.as_uri())
    browser.execute_async_script(SETTLED)
    for figure in browser.find_elements(By.CSS_SELECTOR, ".vlls-figure"):
        stops = browser.execute_script(STOPS, figure)
        browser.execute_script(BEFORE, figure)
        for stop in stops:
            press(browser, "TAB")
            assert browser.switch_to.active_element == stop, stop.get_attribute("outerHTML")
        parts = (
            "input[type=radio]:checked",
            "input[type=range]",
            "[data-part=back]",
            "[data-part=next]",
            "[data-part=play]",
        )
        for control in [tag for part in parts for tag in figure.find_elements(By.CSS_SELECTOR, part)]:
            if not browser.execute_script("return arguments[0].checkVisibility()", control):
                continue
            before = browser.execute_script(PICTURE, figure)
            browser.execute_script("arguments[0].focus()", control)
            highest = control.get_attribute("value") == control.get_attribute("max")
            press(browser, "SPACE" if control.tag_name == "button" else "ARROW_LEFT" if highest else "ARROW_RIGHT")
            wait(browser, lambda before=before, figure=figure: browser.execute_script(PICTURE, figure) != before)
    assert console_errors(browser) == []


def test_keys_copy_unfold_search_and_open_the_menus(browser):
    from selenium.webdriver.common.by import By

    def focus(name):
        browser.execute_script("arguments[0].focus()", (found := browser.find_element(By.CSS_SELECTOR, name)))
        return found

    resize(browser, 1280)
    browser.get(built(chapters()[1]).as_uri())
    browser.execute_async_script(SETTLED)
    press(browser, "TAB")
    copy = focus("div.doctest button.copybtn, .cell:not(.tag_hide-input) button.copybtn")
    assert browser.execute_script("return getComputedStyle(arguments[0]).outlineStyle", copy) != "none"
    press(browser, "ENTER")
    wait(browser, lambda: "success" in copy.get_attribute("class"))
    solution = focus(".toggle-button-hidden")
    press(browser, "SPACE")
    wait(browser, lambda: "toggle-button-hidden" not in solution.get_attribute("class"))
    cell = focus("details.above-input > summary")
    press(browser, "SPACE")
    assert cell.find_element(By.XPATH, "..").get_attribute("open")
    menu = focus('[data-bs-toggle="dropdown"]')
    press(browser, "SPACE", "TAB")
    assert menu.get_attribute("aria-expanded") == "true"
    assert browser.execute_script("return document.activeElement.matches('.dropdown-menu *')")
    press(browser, "ESCAPE")
    assert menu.get_attribute("aria-expanded") == "false"
    before = browser.execute_script("return document.documentElement.dataset.mode")
    focus(".theme-switch-button")
    press(browser, "SPACE")
    assert browser.execute_script("return document.documentElement.dataset.mode") != before
    resize(browser, PHONES[0])
    focus(".bd-header-article .primary-toggle")
    press(browser, "ENTER")
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#pst-primary-sidebar-modal[open]"))
    press(browser, "ESCAPE")
    wait(browser, lambda: not browser.find_elements(By.CSS_SELECTOR, "#pst-primary-sidebar-modal[open]"))
    resize(browser, 1280)
    focus(".search-button-field")
    press(browser, "SPACE")
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#pst-search-dialog[open]"))
    press(browser, *"IVON", "ENTER")
    wait(browser, lambda: browser.current_url.endswith("search.html?q=IVON"))
    console_errors(browser)


def test_the_first_page_is_light(browser):
    served = set()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            served.add(Path(self.translate_path(self.path)))

    resize(browser, 1280)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=SITE)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        browser.get(f"http://127.0.0.1:{server.server_port}/book/intro.html")
        browser.execute_async_script(SETTLED)
        server.shutdown()
    sizes = {path.name: path.stat().st_size for path in served if path.is_file()}
    console_errors(browser)
    assert len(sizes) > 5 and sum(sizes.values()) < FIRST_PAGE, sorted(sizes.items(), key=lambda size: -size[1])


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("Theorem 2", "04_newton_and_von"),
        ("Theorem 1", "02_logistic_regression"),
        ("IVON", "05_from_von_to_ivon"),
        ("Eq. 20", "06_label_noise_of_a_network"),
        ("label noise", "book/0"),
        ("Eq. 21", "book/paper.html"),
        ("GLM.elbo", "book/api/glm.html"),
    ],
)
def test_search_finds_first(browser, words, page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    resize(browser, 1280)
    browser.get(f"{(SITE / 'search.html').as_uri()}?q={words.replace(' ', '+')}")
    WebDriverWait(browser, 20).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, "#search-results ul.search a")
    )
    found = [
        link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#search-results ul.search a")
    ]
    assert page in found[0], found[:5]
    assert console_errors(browser) == []


def test_the_theme_button_is_remembered(browser):
    from selenium.webdriver.common.by import By

    resize(browser, 1280)
    browser.get((SITE / "book" / "intro.html").as_uri())
    before = browser.execute_script("return document.documentElement.dataset.theme")
    button = browser.find_element(By.CSS_SELECTOR, ".theme-switch-button")
    themes = {before}
    for _ in range(3):
        button.click()
        themes.add(browser.execute_script("return document.documentElement.dataset.theme"))
    assert themes == {"light", "dark"}
    kept = browser.execute_script("return document.documentElement.dataset.mode")
    browser.refresh()
    assert browser.execute_script("return document.documentElement.dataset.mode") == kept
