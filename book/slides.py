"""Make slides of Part I, ``_build/slides.html``, from the built site: a lecturer's kit.

``make slides`` calls this after ``make book``. Each chapter gives its title with its question, its numbered claims
without their proofs, its figures with the first sentence of their captions, and its summary. The page is beside the
site and takes pictures and MathJax from there. The arrow keys change the slide; printed, each slide has a page.
"""

import html
import os
import re
import sys
from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import PageElement, Tag

import build

SLIDES = build.BUILD / "slides.html"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Variational learning induces adaptive label smoothing: slides of Part I</title>
<style>
@page { size: 33.87cm 19.05cm; margin: 0 }
body { margin: 0; font: 1.55rem/1.45 system-ui, sans-serif; color: #1c2733; background: #fff }
section { box-sizing: border-box; width: 100vw; min-height: 100vh; padding: 2.2rem 4rem 3.5rem; display: none;
  flex-direction: column; justify-content: center; position: relative; break-after: page }
section:target, body:not(:has(section:target)) section:first-of-type { display: flex }
@media print { section { display: flex; width: auto; height: 19.05cm; min-height: 0 } nav { display: none } }
h1 { font-size: 2.6rem; margin: 0 0 1rem } h2 { font-size: 1.7rem; margin: 0 0 1rem; color: #0a58ca }
img { max-width: 100%; max-height: 68vh; margin: auto; object-fit: contain }
figure { margin: 0; display: flex; flex-direction: column } figcaption { font-size: 1.15rem; padding-top: 1rem }
footer { position: absolute; bottom: 1rem; left: 4rem; right: 4rem; font-size: .95rem; color: #56636f;
  display: flex; justify-content: space-between } a { color: #0a58ca } .headerlink, .eqno { display: none }
li { margin-bottom: .7rem } mjx-container { overflow: auto hidden; max-width: 100% }
</style>
<script>
addEventListener("keydown", event => {
  const step = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = [...document.querySelectorAll("section")];
  const at = Math.max(0, all.findIndex(slide => "#" + slide.id === location.hash));
  location.hash = all[Math.min(all.length - 1, Math.max(0, at + step))].id;
});
</script>
<script defer src="html/_static/mathjax/tex-chtml.js"></script></head><body>
"""


def chapters() -> list[Path]:
    """Return the built pages of Part I, in order."""
    toc = (build.ROOT / "_toc.yml").read_text()
    part = toc.partition("Part I. Theory")[2].partition("- caption:")[0]
    return [build.HTML / f"{name}.html" for name in re.findall(r"file: *(\S+)", part)]


def slides_of(path: Path) -> list[tuple[str, str]]:
    """Return the heading and the HTML of each slide of a chapter."""
    article = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").select_one("article")
    assert article is not None
    for name, key in (("img", "src"), ("a", "href")):
        for tag in article.select(f"{name}[{key}]"):
            address = str(tag[key])
            if not re.match(r"\w+:", address):
                target = f"{path}{address}" if address.startswith("#") else path.parent / address
                tag[key] = os.path.relpath(target, SLIDES.parent)
    title = article.select_one("h1")
    question = article.select_one("h1 + p")
    slides = [("", f"<h1>{text_of(title)}</h1><p>{text_of(question)}</p>")]
    for block in article.select("div.proof:not(#proof, .is-proof), div.cell_output"):
        image, content = block.select_one("img"), block.select_one("section")
        if block.find_parent("section", id="exercises"):
            continue
        if "proof" in block.get_attribute_list("class"):
            if content is not None and block.get("id"):
                slides.append(
                    (text_of(block.select_one(".admonition-title")), content.decode_contents())
                )
        elif image is not None:
            slides.append(("", figure(image, block.find_parent("div", class_="cell"))))
    if (summary := article.select_one("section[id^=summary] ul")) is not None:
        slides.append(("Summary", str(summary)))
    return slides


def figure(image: Tag, cell: Tag | None) -> str:
    """Return a figure with the first sentence of the caption below its cell."""
    below = cell.find_next_sibling() if cell is not None else None
    drawn = isinstance(below, Tag) and below.name == "figure"
    text = below.select_one(".caption-text") if drawn else None
    caption = re.split(r"(?<!Eq\.)(?<!Eqs\.)(?<=[.!?])\s", text_of(text), maxsplit=1)[0]
    source, alt = html.escape(str(image["src"])), html.escape(str(image.get("alt", "")))
    return f'<figure><img src="{source}" alt="{alt}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def text_of(tag: PageElement | None) -> str:
    """Return the text of a tag without the sign of its link."""
    return "" if tag is None else " ".join(tag.get_text().replace("#", "").split())


def main() -> int:
    """Write the slides; return the exit code."""
    if not (build.HTML / "index.html").exists():
        print("The site is not built; make book first.", file=sys.stderr)
        return 1
    parts, number = [PAGE], 0
    for path in chapters():
        for heading, body in slides_of(path):
            number += 1
            head = f"<h2>{heading}</h2>" if heading else ""
            source = f'<a href="html/book/{path.name}">Chapter {int(path.stem[:2])}</a>'
            parts.append(
                f'<section id="s{number}">{head}{body}<footer>{source}<span>{number}</span></footer></section>\n'
            )
    SLIDES.write_text("".join(parts) + "</body></html>\n", encoding="utf-8")
    print(f"{number} slides: {SLIDES.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
