"""The slides of Part I, made from a made-up site."""

import build
import pytest
import slides
from bs4 import BeautifulSoup

PAGE = """<html><body><article><h1>2. A title<a class="headerlink" href="#a">#</a></h1><p>Why so?</p>
<div class="proof theorem admonition" id="thm-a"><p class="admonition-title">Theorem 2.1</p><section id="proof-content">
<p>One is <a href="03_b.html#x">one</a>.</p></section></div>
<div class="proof admonition" id="proof"><p>Proof. It is.</p><section><p>Because.</p></section></div>
<div class="cell"><div class="cell_output"><img src="../_images/a.png" alt="A &quot;line&quot;"></div></div>
<figure id="fig-a"><figcaption><p><span class="caption-number">Figure 2.1 </span><span class="caption-text">
<em>The line of (Eq. 14). More of it.</em></span><a class="headerlink" href="#fig-a">#</a></p></figcaption></figure>
<div class="cell"><div class="cell_output"><img src="../_images/b.png" alt="b"></div></div><p>No <em>caption</em>.</p>
<section id="exercises"><div class="cell"><div class="cell_output"><img src="../_images/c.png"></div></div></section>
<section id="summary"><ul><li>It is so.</li></ul></section></article></body></html>"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    html = tmp_path / "_build" / "html"
    (html / "book").mkdir(parents=True)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "HTML", html)
    monkeypatch.setattr(slides, "SLIDES", html.parent / "slides.html")
    parts = "- caption: Part I. Theory\n    - file: book/02_a\n- caption: Part II\n    - file: book/08_x\n"
    (tmp_path / "_toc.yml").write_text(parts)
    (html / "book" / "02_a.html").write_text(PAGE)
    return html


def test_slides_have_question_claims_figures_and_summary(site):
    (site / "index.html").touch()
    assert slides.main() == 0
    page = BeautifulSoup(slides.SLIDES.read_text(), "html.parser")
    assert [slide.get_text(" ", strip=True).removesuffix(f"Chapter 2 {n}").strip() for n, slide in
            enumerate(page.select("section"), start=1)] == [
        "2. A title Why so?", "Theorem 2.1 One is one .", "The line of (Eq. 14).", "", "Summary It is so."
    ]  # fmt: skip
    assert [image["src"] for image in page.select("img")] == ["html/_images/a.png", "html/_images/b.png"]
    assert page.select_one("img")["alt"] == 'A "line"'
    assert page.select_one("#s2 a")["href"] == "html/book/03_b.html#x"
    assert page.select_one("footer a")["href"] == "html/book/02_a.html"


def test_without_a_site_it_says_what_to_do(site, capsys):
    assert slides.main() == 1 and "make book" in capsys.readouterr().err
    assert not slides.SLIDES.exists()
