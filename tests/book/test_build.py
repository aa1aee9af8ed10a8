"""book/build.py: when the execution cache is dropped, and the state after a failed build."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import build
import nbformat
import pytest
from jupyter_cache import get_cache


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a made-up project in which jupyter-book and the checks only record that they ran."""
    (tmp_path / "vlls").mkdir()
    (tmp_path / "vlls" / "glm.py").write_text("x = 1")
    (tmp_path / "_config.yml").touch()
    (tmp_path / "_toc.yml").touch()
    calls = []

    def run(*arguments):
        calls.append(arguments)
        build.HTML.mkdir(parents=True, exist_ok=True)
        (build.HTML / "index.html").touch()
        return True

    for name in ("BUILD", "HTML", "DOCTREES", "CACHE", "FINGERPRINT", "COMPLETE", "CHECKED"):
        monkeypatch.setattr(build, name, tmp_path / getattr(build, name).relative_to(build.ROOT))
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "run", run)
    return calls


def test_the_cache_is_kept_when_nothing_changed_and_dropped_with_the_package(project):
    assert build.main() == 0
    executed = build.CACHE / "an executed chapter"
    executed.touch()
    assert build.main() == 0
    assert executed.exists()
    (build.ROOT / "vlls" / "glm.py").write_text("x = 2")
    assert build.main() == 0
    assert not executed.exists()


def test_the_cache_is_dropped_when_the_data_folder_or_a_file_that_chapters_read_changes(project, monkeypatch):
    before = build.fingerprint()
    monkeypatch.setenv("VLLS_DATA", "/elsewhere")
    assert build.fingerprint() != before
    for name in (
        "book/results/runs.json",
        "book/figures/von.py",
        "book/figures/interactive/von.js",
        "benchmarks/goals.py",
    ):
        before = build.fingerprint()
        (build.ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (build.ROOT / name).write_text("{}")
        assert build.fingerprint() != before, name


def test_another_setting_builds_every_page_again_and_executes_none(project):
    assert build.main() == 0
    page, executed = build.HTML / "page.html", build.CACHE / "an executed chapter"
    page.touch()
    executed.touch()
    assert build.main() == 0
    assert page.exists()
    (build.ROOT / "_config.yml").write_text("title: another")
    assert build.main() == 0
    assert executed.exists()
    assert not page.exists()


def test_the_checks_run_again_only_for_another_site(project):
    def checked():
        return sum("site_checks" in " ".join(arguments) for arguments in project)

    assert build.main() == 0 and checked() == 1
    assert build.main() == 0 and checked() == 1
    (build.HTML / "page.html").write_text("another")
    assert build.main() == 0 and checked() == 2


@pytest.mark.parametrize("failing", ["jupyter_book", "site_checks"])
def test_a_failed_build_leaves_no_site_but_keeps_what_was_executed(project, monkeypatch, capsys, failing):
    assert build.main() == 0
    executed = build.CACHE / "an executed chapter"
    executed.touch()
    monkeypatch.setattr(build, "run", lambda *arguments: failing not in " ".join(arguments))
    assert build.main() == 1
    assert not build.HTML.exists()
    assert executed.exists()
    assert "NOT built" in capsys.readouterr().err


def test_an_interrupted_build_starts_again_from_an_empty_site(project, monkeypatch):
    def interrupted(*arguments):
        (build.HTML / "half.html").touch()
        raise KeyboardInterrupt

    assert build.main() == 0
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "run", interrupted)
        build.main()
    assert not (build.HTML / "index.html").exists()
    assert build.main() == 0
    assert not (build.HTML / "half.html").exists()


def test_chapters_are_executed_one_thread_each_and_leave_no_files(project):
    left = "import os, tempfile; print(os.environ['OMP_NUM_THREADS'], tempfile.mkdtemp())"
    for name, source in (("good", left), ("bad", "1 / 0")):
        cell = nbformat.v4.new_code_cell(source)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), build.ROOT / f"{name}.ipynb")
    (build.ROOT / "_toc.yml").write_text("- file: good\n- file: bad\n")
    build.CACHE.mkdir(parents=True)
    build.execute()
    (executed,) = get_cache(build.CACHE).list_cache_records()
    assert executed.uri.endswith("good.ipynb")
    notebook = get_cache(build.CACHE).get_cache_bundle(executed.pk).nb
    threads, folder = notebook.cells[0].outputs[0].text.split()
    assert threads == "1" and not Path(folder).exists()
    assert "ZeroDivisionError" in get_cache(build.CACHE).list_project_records()[-1].traceback


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends the signal of Ctrl-C to a group of processes")
def test_ctrl_c_ends_the_execution_of_chapters(project):
    begun = build.ROOT / "begun"
    cell = nbformat.v4.new_code_cell(f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(99)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), build.ROOT / "long.ipynb")
    (build.ROOT / "_toc.yml").write_text("- file: long\n")
    script = (
        f"import build, pathlib; build.ROOT = pathlib.Path({str(build.ROOT)!r}); build.CACHE = build.ROOT / 'cache'"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(build.__file__).parent)}
    command = [sys.executable, "-c", f"{script}; build.execute()"]
    with subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        try:
            assert process.wait(20) != 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
