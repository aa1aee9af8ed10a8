"""book/notebooks.py: the executed chapters that a code host shows."""

import base64
import io

import notebooks
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image


def encoded(width, height):
    png = io.BytesIO()
    Image.effect_noise((width, height), 50).save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode()


def test_pictures_become_previews_and_scripts_stay_with_the_site(monkeypatch, tmp_path):
    shown = [
        new_output("display_data", {"image/png": encoded(1600, 400), "text/plain": "<Figure>"}),
        new_output("display_data", {"text/html": "<div></div><script>1</script>"}),
        new_output("display_data", {"text/html": "<table></table>"}),
    ]
    before = shown[0].data["image/png"]
    first, second, third = notebooks.lighten(new_notebook(cells=[new_code_cell("x", outputs=shown)])).cells[0].outputs
    with Image.open(io.BytesIO(base64.b64decode(first.data["image/png"]))) as picture:
        assert picture.size == (800, 200)
    assert len(first.data["image/png"]) < len(before) / 2
    assert "<script" not in second.data["text/html"] and third.data["text/html"] == "<table></table>"


def test_a_clear_ground_becomes_white():
    png = io.BytesIO()
    Image.new("RGBA", (4, 3), (0, 0, 0, 0)).save(png, "PNG")
    small = notebooks.preview(base64.b64encode(png.getvalue()).decode())
    with Image.open(io.BytesIO(base64.b64decode(small))) as picture:
        assert picture.convert("RGB").getextrema() == ((255, 255),) * 3


class Cache:
    def __init__(self, found):
        self.found = found

    def merge_match_into_file(self, path):
        if not self.found:
            raise KeyError(path)
        return 1, new_notebook(cells=[new_code_cell("x")])


@pytest.mark.parametrize("found", [True, False])
def test_every_chapter_is_written_or_the_one_that_is_missing_is_named(monkeypatch, tmp_path, capsys, found):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "01_a.ipynb").touch()
    monkeypatch.setattr(notebooks.build, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks.build, "execute_what_is_new", lambda: None)
    monkeypatch.setattr(notebooks, "OUT", tmp_path / "out")
    monkeypatch.setattr(notebooks, "get_cache", lambda _: Cache(found))
    assert notebooks.main() == (0 if found else 1)
    told = capsys.readouterr()
    assert ("1 executed notebooks" in told.out) if found else ("01_a.ipynb has failed" in told.err)
