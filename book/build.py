"""Build the book into ``_build/html`` and check it; remove the site again if anything failed.

``make book`` calls this. Three things jupyter-book does not do by itself are done here:

* It executes one chapter after the other. Here as many are executed side by side as there are cores, a thread each.
* Its execution cache compares the cells of a notebook and nothing else. The cache is dropped when the package,
  the recorded results, the data folder or an installed version changes, and kept otherwise.
* It reports a warning only for pages that it reads again, and reads none again for a new setting. After a build that
  failed or was interrupted, or with another configuration, it therefore starts from an empty site (executed
  chapters stay cached).
"""

import base64
import hashlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors.basic import REPORT_LEVEL, ExecutionWorkerLocalMProc, ProcessData
from jupyter_cache.executors.utils import single_nb_execution

from slim import as_webp, slim

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
HTML = BUILD / "html"
DOCTREES = BUILD / ".doctrees"
CACHE = BUILD / ".jupyter_cache"
FINGERPRINT = CACHE / "made-with"
PICTURES = CACHE / "pictures"
COMPLETE = BUILD / ".complete"
CHECKED = BUILD / ".checked"
CHECKS = (
    "tests/book/site_checks.py",
    "tests/book/browser_checks.py",
)  # of the site, and of the site in a browser
CELL_TIMEOUT = 600  # seconds, as in _config.yml
# Of a chapter that fails, show the cell and its own traceback, not those of the tools around it.
# Sphinx makes millions of objects that stay; looking through them for garbage took a third of its time.
JUPYTER_BOOK = """
import gc, sys
from jupyter_book.cli.main import main
gc.set_threshold(100_000, 50, 1000)
sys.tracebacklimit = 0
main()
"""


def fingerprint() -> str:
    """Return a hash of everything that a chapter's outputs depend on besides its own cells."""
    digest = hashlib.sha256()
    read = (
        "vlls/**/*.py",
        "book/figures/**/*.*",
        "benchmarks/*.py",
        "book/results/**/*.*",
        "benchmarks/records/*.json",
    )
    for path in sorted(path for pattern in read for path in ROOT.glob(pattern)):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    versions = sorted(f"{d.metadata['Name']}=={d.version}" for d in distributions())
    digest.update("\0".join([sys.version, os.environ.get("VLLS_DATA", ""), *versions]).encode())
    return digest.hexdigest()


def drop(*folders: Path) -> None:
    """Remove those of the folders that exist."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def run(*arguments: str) -> bool:
    """Run this Python in the project's root and say whether it succeeded."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode == 0


class Worker(ExecutionWorkerLocalMProc):
    """Executes one chapter; its kernel is killed, because an orderly end takes two seconds."""

    @staticmethod
    def execute(project_nb, data):
        folder = str(Path(project_nb.uri).parent)
        return single_nb_execution(
            project_nb.nb,
            cwd=folder,
            timeout=data.timeout,
            allow_errors=data.allow_errors,
            shutdown_kernel="immediate",
        )


def execute() -> None:
    """Execute the chapters that are not in the cache, side by side; jupyter-book reports those that fail."""
    pages = re.findall(r"file: *(\S+)", (ROOT / "_toc.yml").read_text())
    chapters = [str(path) for page in pages if (path := ROOT / f"{page}.ipynb").exists()]
    cache = get_cache(CACHE)
    for chapter in chapters:
        cache.add_nb_to_project(chapter)
    waiting = cache.list_unexecuted(filter_uris=chapters) if chapters else []
    if not waiting:
        return
    print(f"Executing {len(waiting)} of {len(chapters)} chapters.", flush=True)
    multiprocessing.log_to_stderr(REPORT_LEVEL)  # a line as each begins and ends
    jobs = [ProcessData(record.pk, record.uri, cache, CELL_TIMEOUT, False) for record in waiting]
    jobs.sort(key=lambda job: job.uri, reverse=True)  # the last chapters are the longest
    # killed kernels leave files
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as left:
        environment = {"OMP_NUM_THREADS": "1", "TMPDIR": left}  # each core executes one chapter
        with ProcessPoolExecutor(initializer=os.environ.update, initargs=(environment,)) as pool:
            try:
                list(pool.map(Worker(), jobs))
            except BaseException:  # interrupted: a process in nbclient would not end by itself
                for process in multiprocessing.active_children():
                    process.kill()
                raise


def execute_what_is_new() -> None:
    """Execute the chapters that changed, or all of them if the package, its data or a version has changed."""
    made_with = fingerprint()
    if not FINGERPRINT.exists() or FINGERPRINT.read_text() != made_with:
        print("The package or what it runs with is new: every chapter is executed.")
        drop(CACHE, DOCTREES, HTML)
        CACHE.mkdir(parents=True)
        FINGERPRINT.write_text(made_with)
    execute()


def pictures() -> Iterator[bytes]:
    """Yield the pictures of the executed chapters."""
    cache = get_cache(CACHE)
    for record in cache.list_cache_records():
        for cell in cache.get_cache_bundle(record.pk).nb.cells:
            for output in cell.get("outputs", ()):
                if png := output.get("data", {}).get("image/png"):
                    yield base64.b64decode(png)


def settings() -> str:
    """Return the contents of the files that all pages depend on."""
    files = [
        ROOT / "_config.yml",
        ROOT / "_toc.yml",
        *sorted((ROOT / "book" / "_ext").glob("*.py")),
    ]
    return "".join(path.read_text() for path in files)


def contents() -> str:
    """Return a hash of the built site and of its checks."""
    digest = hashlib.sha256()
    for path in sorted([*HTML.rglob("*"), *(ROOT / "tests" / "book").glob("*.py")]):
        if path.is_file():
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def check() -> bool:
    """Check the site, unless this very site passed before."""
    if CHECKED.exists() and CHECKED.read_text() == contents():
        print("The site is the one that was checked before.")
        return True
    options = "-rs --noconftest -p no:cacheprovider --numprocesses=auto --dist=loadgroup".split()
    passed = run("-m", "pytest", *options, *CHECKS)
    if passed:
        CHECKED.write_text(contents())
    return passed


def main() -> int:
    """Build and check; return the exit code."""
    execute_what_is_new()
    made_of = settings()
    if not COMPLETE.exists() or COMPLETE.read_text() != made_of:
        drop(DOCTREES, HTML)
    COMPLETE.unlink(missing_ok=True)
    (HTML / "index.html").unlink(missing_ok=True)

    with multiprocessing.Pool(1) as pool:  # Sphinx takes one core
        pool.map_async(partial(as_webp, store=PICTURES), pictures())
        built = run(
            *("-c", JUPYTER_BOOK, "build", ".", "--nitpick", "--warningiserror", "--keep-going")
        )
    slim(HTML, PICTURES)
    if not (built and check()):
        drop(DOCTREES, HTML)
        print(
            "\nThe book was NOT built: see the errors above. No site was left behind.",
            file=sys.stderr,
        )
        return 1
    COMPLETE.write_text(made_of)
    print(f"\nThe book is ready: {(HTML / 'index.html').as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
