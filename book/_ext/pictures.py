"""The pictures of the chapters: their descriptions, the numbers of their captions, and their parts for narrow screens.

`vlls.plots` writes description and parts into the PNG files. A caption is a paragraph in italics with a label that begins
with ``fig-``, such as ``(fig-peak)=``, below the cell that draws the figure; ``{numref}`fig-peak``` refers to it.
"""

import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from PIL import Image
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

IMG = re.compile(r'<img [^>]*?src="[^"]*?(?P<name>[^"/]+\.png)"[^>]*>')
SHARE = 0.8  # largest scale of a part


class NumberCaptions(SphinxTransform):
    """Turn captions into figures, which Sphinx numbers; the pictures stay in the cells above."""

    default_priority = 840  # before the domains collect labels

    def apply(self, **kwargs: Any) -> None:
        for paragraph in list(self.document.findall(nodes.paragraph)):
            labels = [label for label in paragraph["ids"] if label.startswith("fig-")]
            if labels and isinstance(paragraph[0], nodes.emphasis):
                caption = nodes.caption("", "", *paragraph[0].children, *paragraph[1:])
                figure = nodes.figure("", caption, ids=paragraph["ids"], names=paragraph["names"])
                figure.source = caption.source = paragraph.source
                figure.line = caption.line = paragraph.line
                paragraph.replace_self(figure)
                for label in labels:
                    self.document.ids[label] = figure


@cache
def about(path: Path) -> dict[str, str]:
    """Return the metadata of a picture, and whether it has transparent pixels."""
    with Image.open(path) as picture:
        clear = picture.mode == "RGBA" and picture.getchannel("A").getextrema()[0] == 0
        return {**picture.info, "clear": clear}


def describe_images(app: Sphinx, doctree: nodes.document, docname: str = "") -> None:
    """Set the alternative text of each picture that has none, from the description in its file."""
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir, image["uri"].lstrip("/"))
        if "alt" not in image and path.suffix == ".png" and path.is_file():
            if text := about(path).get("Description"):
                image["alt"] = text


def add_parts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Put the parts of each picture after it; style sheets show one or the other."""
    sources = {name: Path(app.srcdir, path) for path, name in app.builder.images.items()}

    def with_parts(img: re.Match[str]) -> str:
        if img["name"] not in sources:
            return img[0]
        told = about(sources[img["name"]])
        kind = "photographs" if told["clear"] else ""  # which keep their colours on a dark page
        shown = img[0].replace("<img ", f'<img class="{kind}" ', 1) if kind else img[0]
        cut = json.loads(told.get("Parts", '{"parts": []}'))
        src = re.search(r'src="([^"]*)"', img[0])[1]
        return shown + drawn(src, cut, kind) if cut["parts"] else shown

    if "body" in context:
        context["body"] = IMG.sub(with_parts, context["body"])


def with_formulas(text: str) -> str:
    """Return a text of a figure as HTML, with formulas between dollar signs as MathML."""
    pieces = enumerate(text.split("$"))
    return "".join(convert(piece) if k % 2 else html.escape(piece) for k, piece in pieces)


def drawn(src: str, cut: dict[str, Any], kind: str = "") -> str:
    """Return the parts of a picture as HTML: pieces of it, and texts."""
    picture = f'<image href="{src}" width="{cut["width"]}" height="{cut["height"]}"/>'
    found = []
    for part in cut["parts"]:
        if isinstance(part, str):
            found.append(f"<span>{with_formulas(part)}</span>")
            continue
        pieces, wide, high = [], 0, 0
        for left, top, width, height, x, y in part:
            view = f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}"'
            pieces.append(f'<svg x="{x}" y="{y}" {view}>{picture}</svg>')
            wide, high = max(wide, x + width), max(high, y + height)
        size = f'viewBox="0 0 {wide} {high}" style="width: {SHARE * wide:.0f}px"'
        found.append(f"<svg {size}>{''.join(pieces)}</svg>")
    names = " ".join(["parts", *kind.split()])
    return f'<span class="{names}" aria-hidden="true">{"".join(found)}</span>'


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_transform(NumberCaptions)
    app.connect("doctree-read", describe_images)
    app.connect("doctree-resolved", describe_images)  # pictures that a page takes from another one
    app.connect("html-page-context", add_parts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
