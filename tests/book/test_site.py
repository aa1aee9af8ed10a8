"""The checks of the site, on made-up pages; site_checks.py runs them on the real ones."""

import pytest
from site_checks import anchors, dead_links, network_requests, page, wrong_outputs

GOOD = """<html><head><link rel="stylesheet" href="a.css"></head><body><article>
<h1 id="top">A page</h1><a href="#top">up</a><a href="sub/other.html#there">other</a><a href="https://x.org">far</a>
<p class="math">\\[ x $$ \\]</p><code>{eq}</code>
<div class="cell_output"><pre>largest error 1e-16, tolerance 1e-12</pre></div></article></body></html>"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "a.css").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.html").write_text('<p id="there"><a href="../page.html">back</a></p>')

    def write(text):
        path = tmp_path / "page.html"
        path.write_text(text)
        page.cache_clear()
        anchors.cache_clear()
        return path

    return write


def test_a_page_without_faults_passes(site):
    path = site(GOOD)
    assert dead_links(path) == network_requests(path) == wrong_outputs(path) == []
    assert dead_links(path.parent / "sub" / "other.html") == []


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (dead_links, "#top", "#bottom"),
        (dead_links, "#there", "#elsewhere"),
        (dead_links, "sub/other", "sub/none"),
        (dead_links, "a.css", "b.css"),
        (dead_links, "<h1", "<img src='none.png'><h1"),
        (network_requests, "a.css", "https://cdn.org/a.css"),
        (network_requests, "a.css", "//cdn.org/a.css"),
        (network_requests, "<h1", "<script src='https://cdn.org/x.js'></script><h1"),
        (network_requests, "<h1", "<script>const URL = 'https://cdn.org/x.js'</script><h1"),
        (wrong_outputs, "1e-16", "nan"),
        (wrong_outputs, "largest", "Traceback (most recent call last):"),
        (wrong_outputs, "A page", "A page, see {prf:ref}`thm-x`"),
        (wrong_outputs, "A page", "$$ x $$"),
        (wrong_outputs, "A page", "<span class='problematic'>x</span>"),
    ],
)
def test_the_checks_find(site, check, old, new):
    assert old in GOOD
    assert check(site(GOOD.replace(old, new, 1))) != []
