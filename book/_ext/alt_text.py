"""Gives the pictures of the chapters the descriptions that they carry (`vlls.plots` writes them into the PNG files)."""

from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx


def describe_images(app: Sphinx, doctree: nodes.document, docname: str = "") -> None:
    """Set the alternative text of each picture that has none and brings its description along."""
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir, image["uri"].lstrip("/"))
        if "alt" not in image and path.suffix == ".png" and path.is_file():
            with Image.open(path) as picture:
                if text := picture.info.get("Description"):
                    image["alt"] = text


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("doctree-read", describe_images)
    app.connect("doctree-resolved", describe_images)  # pictures that a page takes from another one
    return {"parallel_read_safe": True, "parallel_write_safe": True}
