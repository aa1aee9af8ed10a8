"""Numbers the claims of the PDF as the site does: by chapter."""

from typing import Any

from sphinx.application import Sphinx


def number_by_chapter(app: Sphinx) -> None:
    """Undo that jupyter-book counts claims by section where the book has parts."""
    if app.builder.name == "latex":
        app.config["numfig_secnum_depth"] = 1


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("builder-inited", number_by_chapter, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
