"""book/slim.py: the parts of a site that it removes and those that it keeps."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import slim
from fontTools.ttLib import TTFont
from PIL import Image

FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
PAGE = """<html><head>
    <script src="../_static/clipboard.min.js?v=1"></script>
    <script defer="defer" src="../_static/mathjax/tex-chtml.js"></script>
    <script src="../_static/togglebutton.js"></script>
    <script src="../searchindex.js"></script>
    <link rel="preload" as="script" href="../_static/scripts/bootstrap.js?digest=2" />
    <script src="../_static/book.js"></script>
</head><body>{body}</body></html>"""


def scripts(body):
    text = slim.light(PAGE.format(body=body), Path())
    names = ("clipboard", "mathjax", "togglebutton", "searchindex", "bootstrap", "book.js")
    return {name for name in names if name in text}


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("<p>Some text.</p>", set()),
        ("<pre>code</pre>", {"clipboard"}),
        ('<span class="math notranslate">x</span>', {"mathjax"}),
        ('<div class="dropdown admonition"></div>', {"togglebutton"}),
        ('<div class="cell toggle"></div>', {"togglebutton"}),
        ('<div class="dropdown-menu"></div>', set()),
        ('<div id="search-results"></div>', {"searchindex"}),
    ],
)
def test_a_page_keeps_the_scripts_that_it_has_a_use_for(body, kept):
    assert scripts(body) == kept | {"book.js"}


def test_space_goes_where_it_is_not_seen_and_stays_in_code():
    page = "<p>one\n\n\n   two</p>\n<pre>a\n\n    b</pre>\n\n  <p>three</p>"
    light = "<p>one\ntwo</p>\n<pre>a\n\n    b</pre>\n<p>three</p>"
    assert slim.light(page, Path()) == light
    assert slim.light(light, Path()) == light


def test_pictures_get_their_sizes_and_are_loaded_when_they_come_into_sight(tmp_path):
    (tmp_path / "_images").mkdir()
    Image.new("RGB", (30, 20), "white").save(tmp_path / "_images" / "a.png")
    slim.to_webp(tmp_path / "_images" / "a.png", tmp_path / "store")
    page = '<a href="_images/a.png"><img alt="x" src="_images/a.png" /></a><img src="data:image/png;base64,iVB">'
    light = slim.light(page, tmp_path)
    assert '<img loading="lazy" width="30" height="20" alt="x" src="_images/a.webp" />' in light
    assert '<a href="_images/a.webp">' in light and '<img src="data:image/png;base64,iVB">' in light
    assert slim.light(light, tmp_path) == light


def test_the_menus_are_bound_to_buttons_that_can_be_seen():
    """The theme's script takes the first button on the page."""
    bar = '<header id="pst-header" class="bd-header"><button class="primary-toggle">a</button></header>'
    light = slim.light(f'{bar}<button class="primary-toggle">b</button>', Path())
    assert light == '<header id="pst-header" class="bd-header"></header><button class="primary-toggle">b</button>'
    assert slim.light(light, Path()) == light


def test_a_page_without_scripts_has_colours_and_says_so():
    page = '<html data-content_root="../" data-theme="auto"><article class="bd-article">'
    light = slim.light(page, Path())
    assert 'data-theme="light"' in light and 'href="../book/intro.html#map"' in light and "font-size: 0; }" in light
    assert slim.light(light, Path()) == light


def test_a_plot_gets_a_palette_and_a_photograph_keeps_its_colours(tmp_path):
    random = np.random.default_rng(0)
    plot = np.full((90, 120, 3), 255, np.uint8)
    plot[20:25] = (31, 119, 180)
    photograph = random.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name, pixels in {"plot": plot, "photograph": photograph}.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(pixels).save(path)
        slim.to_webp(path, tmp_path / "store")
        assert not path.exists()
        with Image.open(path.with_suffix(".webp")) as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), pixels)


def test_a_picture_is_converted_once(tmp_path, monkeypatch):
    Image.new("RGB", (30, 20), "white").save(tmp_path / "a.png")
    png, store = (tmp_path / "a.png").read_bytes(), tmp_path / "store"
    made = slim.as_webp(png, store)
    monkeypatch.setattr(slim.Image, "open", None)
    slim.to_webp(tmp_path / "a.png", store)
    assert (tmp_path / "a.webp").read_bytes() == made and len(list(store.iterdir())) == 1


def test_a_ground_that_is_seen_through_stays_so(tmp_path):
    pixels = np.zeros((30, 40, 4), np.uint8)
    pixels[10:20] = (200, 30, 90, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    slim.to_webp(tmp_path / "a.png", tmp_path / "store")
    with Image.open(tmp_path / "a.webp") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGBA")), pixels)


SHEET = """/* why */ @charset "UTF-8";
.here { color: red } .nowhere, #gone:hover { color: red } .here > .nowhere { top: 0 }
p, .nowhere a { top: 0 } a:not(.nowhere)::after { content: "\\f00d" } .x\\.y { top: 0 }
@media (max-width: 9px) { .nowhere { top: 0 } } @media print { #there:is(.nowhere) b { top: 0 } }
@font-face { font-family: f; src: url(a.woff2) format("woff2"), url(a.ttf) format("truetype") }
"""


def test_rules_stay_for_classes_and_identifiers_that_are_there():
    kept = slim.purge(SHEET, {"here", "there"})
    rest = [".here{color: red}", "p{top: 0}", 'a:not(.nowhere)::after{content: "\uf00d"}', "@media print"]
    assert all(rule in kept for rule in rest)
    assert "why" not in kept and "#gone" not in kept and ".here >" not in kept and "9px" not in kept
    assert "woff2" not in kept and 'url(a.ttf) format("truetype")' in kept
    assert r".x\.y" in slim.purge(SHEET, {"x.y"}) and r".x\.y" not in kept
    assert slim.purge(kept, {"here", "there"}) == kept


def test_custom_properties_go_that_nothing_uses(tmp_path):
    sheet = tmp_path / "a.css"
    sheet.write_text(
        ':root{--a:var(--b);--b:url("data:x;y");--c:var(--d);--d:1;--e:"}";--f:2}p{color:var(--a, red);--g:3}'
    )
    slim.forget_unused_properties([sheet], {"--f"})
    assert sheet.read_text() == ':root{--a:var(--b);--b:url("data:x;y");--f:2}p{color:var(--a, red);}'


def test_names_are_those_of_pages_and_of_scripts(tmp_path):
    page, script = tmp_path / "a.html", tmp_path / "a.js"
    page.write_text('<p class="one two-3" id="four">five</p><script>f("six")</script>')
    script.write_text('e.classList.add("seven")')
    names = slim.names_in([page], [script])
    assert {"one", "two-3", "four", "six", "seven"} <= names and "five" not in names


def test_a_font_keeps_the_signs_that_are_used(tmp_path):
    font = tmp_path / "a.ttf"
    font.write_bytes(FONT.read_bytes())
    slim.only_icons(font, {ord("A"), 0xF00D})
    with TTFont(font) as few:
        assert set(few.getBestCmap()) == {ord("A")}
    small = font.read_bytes()
    assert len(small) < 0.1 * FONT.stat().st_size
    slim.only_icons(font, {ord("A")})
    assert font.read_bytes() == small
    for _ in range(2):
        slim.only_icons(font, set())
    assert font.stat().st_size < len(small)


def test_a_site_loses_the_parts_that_no_page_loads_and_twice_is_once(tmp_path):
    static = tmp_path / "_static"
    kept = ("mathjax/tex-chtml.js", "mathjax/input/tex/extensions/color.js", "book.js")
    gone = (
        "mathjax/tex-svg.js",
        "mathjax/sre/mathmaps/en.json",
        "mathjax/ui/menu.js",
        "scripts/bootstrap.js",
        "b.js.map",
    )
    parts = [f"mathjax/{name}.js" for name in slim.MATHJAX]
    for name in (*kept, *gone, *parts):
        (static / name).parent.mkdir(parents=True, exist_ok=True)
        (static / name).write_text(f"/* {name} */")
    (tmp_path / "page.html").write_text(PAGE.format(body='<span class="math">x</span>'))
    for _ in range(2):
        slim.slim(tmp_path, tmp_path / "store")
        assert [name for name in (*kept, *gone, *parts) if (static / name).exists()] == list(kept)
        bundle = (static / "mathjax" / "tex-chtml.js").read_text()
        assert [bundle.index(part) for part in parts] == sorted(bundle.index(part) for part in parts)
        assert bundle.count(slim.PRELOAD) == 1 and "tex-chtml" not in bundle
