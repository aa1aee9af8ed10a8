"""Numbers the claims of the PDF as the site does: by chapter."""

from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def count_by_chapter(app: Sphinx) -> None:
    """Undo, while claims are numbered, that jupyter-book counts by section where the book has parts."""
    if app.builder.name == "latex":
        app.config["numfig_secnum_depth"] = 1


def count_below_parts(app: Sphinx, env: BuildEnvironment) -> None:
    """Restore it for the equations, which LaTeX numbers itself: its chapters are the second level, below the parts."""
    if app.builder.name == "latex":
        app.config["numfig_secnum_depth"] = 2


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("builder-inited", count_by_chapter, priority=900)
    app.connect("env-check-consistency", count_below_parts)  # claims are numbered before
    return {"parallel_read_safe": True, "parallel_write_safe": True}
