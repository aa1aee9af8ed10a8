"""book/run_chapters.py: the chapters that are executed, their parameters, and the effect of a failing one."""

import ast
import json

import nbformat
import pytest
import run_chapters
import yaml
from clean_notebooks import METADATA
from nbformat.v4 import new_code_cell, new_notebook


def parameters(path):
    """Return the parameters of a chapter and their values."""
    (cell,) = (c for c in nbformat.read(path, as_version=4).cells if "parameters" in c.metadata.get("tags", []))
    found = {}
    for node in ast.parse(cell.source).body:
        target = node.targets[0]
        if isinstance(target, ast.Name):
            found[target.id] = ast.literal_eval(node.value)
    return found


def test_settings_name_chapters_and_their_parameters():
    for setting in yaml.safe_load(run_chapters.SETTINGS.read_text()).values():
        for chapter, values in setting.items():
            there = parameters(run_chapters.BOOK / f"{chapter}.ipynb")
            for name, value in values.items():
                assert there[name] is None or type(there[name]) is type(value), f"{chapter}: {name}={value!r}"
                assert there[name] != value


def test_chapters_are_chosen_by_their_beginning():
    names = [path.stem.partition("_")[0] for path in run_chapters.chosen("default", [])]
    assert names == [*(f"{n:02}" for n in range(1, 15)), "appendix"]
    (item,) = run_chapters.chosen("gpu", ["06"]).items()
    assert item[0].stem.startswith("06_") and item[1]["device"] == "cuda"
    assert list(run_chapters.chosen("default", ["06"]).values()) == [{}]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--setting", "tpu"], "no setting 'tpu'; choose from default, gpu"), (["99"], "no chapter begins with '99'")],
)
def test_unknown_settings_and_chapters_are_refused(arguments, words, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["run_chapters", "--output", str(tmp_path / "out"), *arguments])
    assert run_chapters.main() == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_gpu_is_missed_at_once(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run_chapters.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["run_chapters", "--output", str(tmp_path / "out"), "--setting", "gpu"])
    assert run_chapters.main() == 2
    assert "torch finds none" in capsys.readouterr().err


@pytest.mark.slow
def test_a_failing_chapter_is_told_and_the_others_are_run(monkeypatch, capsys, tmp_path):
    def chapter(name, source):
        cells = [new_code_cell("x = 1", metadata={"tags": ["parameters"]}), new_code_cell(source)]
        nbformat.write(new_notebook(cells=cells, metadata=METADATA), tmp_path / name)

    chapter("01_wrong.ipynb", "assert x == 1, 'another x'")
    chapter("02_right.ipynb", "print('x is', x)")
    (tmp_path / "settings.yml").write_text("large: {01_wrong: {x: 2}, 02_right: {x: 3}}")
    monkeypatch.setattr(run_chapters, "BOOK", tmp_path)
    monkeypatch.setattr(run_chapters, "SETTINGS", tmp_path / "settings.yml")
    monkeypatch.setattr("sys.argv", ["run_chapters", "--output", str(tmp_path / "out"), "--setting", "large"])
    assert run_chapters.main() == 1
    told = capsys.readouterr()
    assert "01_wrong failed: AssertionError: another x" in told.err and "1 of 2 chapters were executed" in told.out
    record = json.loads((tmp_path / "out" / "times.json").read_text())
    assert set(record["seconds"]) == {"01_wrong", "02_right"} and set(record["failed"]) == {"01_wrong"}
    done = nbformat.read(tmp_path / "out" / "02_right.ipynb", as_version=4)
    assert "x is 3" in str(done.cells[-1].outputs)
