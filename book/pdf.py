"""Make the book as a PDF: ``_build/vlls-book.pdf``.

``make pdf`` calls this. It needs LaTeX (xelatex) and takes the chapters' outputs from the cache that ``make
book`` fills. What the site shows in motion, the PDF shows as it stands at the start.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build

WORK = build.BUILD / "pdf"  # a build of its own, so that the site's is left as it is
LATEX = WORK / "_build" / "latex"
PDF = build.BUILD / "vlls-book.pdf"
PROGRAMS = ("xelatex", "kpsewhich")
PACKAGES = (
    "texlive-xetex texlive-latex-extra texlive-latex-recommended texlive-fonts-recommended texlive-plain-generic "
    "fonts-freefont-otf"
)
RUNS = 4  # of xelatex, at most, until every reference is known


def complete(tex: str) -> str:
    """Return the LaTeX source with the site's numbers, and without what jupyter-book leaves wrong in it."""
    first = r"\part{Part I. Theory}"
    numbered = r"\setcounter{secnumdepth}{2}\setcounter{chapter}{0}"
    tex = tex.replace(first, numbered + "\n" + first, 1)
    # a picture from another page: the pages of a PDF lie in no folders
    tex = tex.replace("{{../", "{{")
    # sphinx-proof forgets the page of some claims
    for label in set(re.findall(r"\\label\{None:([\w-]+)\}", tex)):
        if page := re.search(rf"\{{(book/\w+):{label}\}}", tex):
            tex = tex.replace(rf"\label{{None:{label}}}", rf"\label{{{page[1]}:{label}}}")
    names = r"\renewcommand{\partname}{}\renewcommand{\thepart}{}\setcounter{secnumdepth}{-2}"
    return tex.replace(r"\begin{document}", names + "\n" + r"\begin{document}", 1)


def undefined(log: str) -> list[str]:
    """Return the references of which a run of LaTeX did not know where they lead."""
    return re.findall(r"(?:Reference|Hyper reference|Citation) `([^']*)'", log.replace("\n", ""))


def typeset(source: Path) -> None:
    """Run xelatex until every reference is known.

    Raises:
        RuntimeError: if it leaves no PDF, with the end of its log, or references that lead nowhere.
    """
    log = source.with_suffix(".log")
    source.with_suffix(".pdf").unlink(missing_ok=True)
    for _ in range(RUNS):
        command = ["xelatex", "-interaction=batchmode", source.name]
        subprocess.run(command, cwd=source.parent, check=False, stdout=subprocess.DEVNULL)
        text = log.read_text(errors="replace") if log.exists() else ""
        if "Rerun" not in text:
            break
    if not source.with_suffix(".pdf").exists():
        raise RuntimeError(f"xelatex made no PDF; its log, {log}, ends with\n{text[-2000:]}")
    if missing := undefined(text):
        raise RuntimeError(
            f"{len(missing)} references lead nowhere in the PDF: {', '.join(sorted(set(missing))[:5])}"
        )


def main() -> int:
    """Build the PDF; return the exit code."""
    if lacking := [name for name in PROGRAMS if shutil.which(name) is None]:
        print(
            f"The PDF needs {', '.join(lacking)}, not found on the PATH. On Debian and Ubuntu: apt-get install "
            f"--no-install-recommends {PACKAGES}",
            file=sys.stderr,
        )
        return 2
    build.execute_what_is_new()
    build.drop(LATEX, WORK / "_build" / ".doctrees")
    (WORK / "_build").mkdir(parents=True, exist_ok=True)
    cache = WORK / "_build" / build.CACHE.name
    if not cache.is_symlink():
        cache.symlink_to(os.path.relpath(build.CACHE, cache.parent))
    if not build.run(
        "-c", build.JUPYTER_BOOK, "build", ".", "--builder", "latex", "--path-output", str(WORK)
    ):
        return 1
    (source,) = LATEX.glob("*.tex")
    source.write_text(complete(source.read_text()))
    if subprocess.run(["kpsewhich", "bbm.sty"], capture_output=True, check=False).returncode:
        # jupyter-book's class asks for this package, which lies in half a gigabyte of fonts, and the book does not use it
        (LATEX / "bbm.sty").write_text(
            "\\ProvidesPackage{bbm}\n\\providecommand{\\mathbbm}[1]{\\mathbb{#1}}\n"
        )
    try:
        typeset(source)
    except RuntimeError as error:
        print(f"The PDF was NOT made: {error}", file=sys.stderr)
        return 1
    os.replace(source.with_suffix(".pdf"), PDF)
    print(f"\nThe PDF is ready: {PDF.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
