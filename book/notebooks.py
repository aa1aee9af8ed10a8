"""Write the executed chapters, with their figures, into ``_build/notebooks``: a set to show on a code host.

``make notebooks`` calls this. The chapters in ``book`` are committed without outputs; these are for a branch or a folder
that is published. Outputs come from the cache of ``make book``. Pictures are previews. Interactive figures are left
out, because code hosts run no scripts.
"""

import base64
import io
import sys

import nbformat
from jupyter_cache import get_cache
from nbformat import NotebookNode
from PIL import Image

import build

OUT = build.BUILD / "notebooks"
WIDTH = 800  # pixels of a preview


def preview(encoded: str) -> str:
    """Return a smaller version of a PNG in base64, with 256 colours and a white background."""
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as whole:
        whole = whole.convert("RGBA")
    picture = Image.new("RGB", whole.size, "white")
    picture.paste(whole, mask=whole.getchannel("A"))
    if picture.width > WIDTH:
        picture = picture.resize(
            (WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS
        )
    small = io.BytesIO()
    picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    return base64.b64encode(small.getvalue()).decode()


def lighten(notebook: NotebookNode) -> NotebookNode:
    """Make the outputs of an executed chapter small, in place, and return it."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = preview(data["image/png"])
                data.pop("text/html", None)
            elif "<script" in data.get("text/html", ""):
                data["text/html"] = "<em>A figure to move: it is in the built book.</em>"
    return notebook


def main() -> int:
    """Write the set; return the exit code."""
    build.execute_what_is_new()
    cache = get_cache(build.CACHE)
    build.drop(OUT)
    OUT.mkdir(parents=True)
    for chapter in sorted((build.ROOT / "book").glob("*.ipynb")):
        try:
            _, notebook = cache.merge_match_into_file(str(chapter))
        except KeyError:
            print(
                f"notebooks: {chapter.name} has failed or was not executed; make book says why",
                file=sys.stderr,
            )
            return 1
        nbformat.write(lighten(notebook), OUT / chapter.name)
    size = sum(path.stat().st_size for path in OUT.iterdir())
    print(f"{len(list(OUT.iterdir()))} executed notebooks, {size / 1e6:.1f} MB, are ready: {OUT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
