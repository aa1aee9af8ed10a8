"""Make the book as a PDF: ``_build/vlls-book.pdf``.

``make pdf`` calls this. It needs LaTeX (xelatex) and takes the chapters' outputs from the cache that ``make
book`` fills. Interactive figures are shown in their initial state.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import build

WORK = build.BUILD / "pdf"  # a separate build, so that the site's stays unchanged
LATEX = WORK / "_build" / "latex"
PDF = build.BUILD / "vlls-book.pdf"
PROGRAMS = ("xelatex", "makeindex", "kpsewhich")
PACKAGES = (
    "texlive-xetex texlive-latex-extra texlive-latex-recommended texlive-fonts-recommended texlive-pictures "
    "fonts-freefont-otf fonts-dejavu-core fonts-dejavu-extra"
)
RUNS = 5  # of xelatex, at most, until every reference is known
FIRST = r"\phantomsection\label{\detokenize{book/intro::doc}}"
BOLD_HEADING = r"\\begin\{DUlineblock\}\{0em\}\n\\item\[\] \\sphinxstylestrong\{\\[Ll]arge (.*)\}\n\\end\{DUlineblock\}"
BIBLIOGRAPHY = r"\\begin\{sphinxthebibliography\}.*?\\end\{sphinxthebibliography\}\n"
REFERENCES = r"\\chapter\{References\}\n(\\label.*)"
WIDEST = 10.0  # points, a fifth of the margin, by which a line may be too long
BLANK = 150.0  # points that a page may leave blank below, where no chapter ends: the place of a heading and of a box


def numbered_parts() -> list[str]:
    """Return the parts of the book whose chapters have numbers."""
    toc = yaml.safe_load((build.ROOT / "_toc.yml").read_text())
    return [part["caption"] for part in toc["parts"] if part.get("numbered")]


def breakable(code: re.Match[str]) -> str:
    """Return inline code with places where a line may end."""
    return re.sub(r"\\_(?=\w)|:(?=[:\w])", r"\g<0>\\allowbreak{}", code[0])


def complete(tex: str, numbered: list[str]) -> str:
    """Return the LaTeX source with numbers for the chapters of these parts alone.

    Raises:
        RuntimeError: if one of them is not in the source.
    """
    if lacking := [part for part in numbered if rf"\part{{{part}}}" not in tex]:
        raise RuntimeError(f"jupyter-book has made no part {lacking[0]!r}")
    none = r"\setcounter{secnumdepth}{-2}"
    for part in re.findall(r"^\\part\{(.*)\}$", tex, re.MULTILINE):
        heading = rf"\part{{{part}}}"
        below = r"\setcounter{secnumdepth}{2}" if part in numbered else ""
        tex = tex.replace(heading, f"{none}\n{heading}\n{below}", 1)
    # a heading for the first page, whose own is the title of the book
    tex = tex.replace(FIRST, r"\chapter{About this book}" + FIRST, 1)
    # sphinx-proof puts no space between the number of a claim and its title
    tex = re.sub(r"(\{note\}\{\w+ [\d.]+)(?=\N{EN DASH})", r"\1 ", tex)
    # code in a line of text may break where names and paths do
    tex = re.sub(r"\\sphinxupquote\{(?:[^{}]|\{[^{}]*\})*\}", breakable, tex)
    # the headings of the first page, which jupyter-book sets as lines in bold type
    tex = re.sub(BOLD_HEADING, r"\\section{\1}", tex)
    # the list of works, which LaTeX would put at the end, under a second heading
    works = re.search(BIBLIOGRAPHY, tex, re.DOTALL)
    if works and (heading := re.search(REFERENCES, tex)):
        tex = tex.replace(works[0], "")
        place = rf"\clearpage\phantomsection{heading[1]}"
        tex = tex.replace(
            heading[0], f"{place}\n\\renewcommand{{\\bibname}}{{References}}\n{works[0]}"
        )
    # a picture from another page: the pages of a PDF lie in no folders
    tex = tex.replace("{{../", "{{")
    return tex.replace(r"\begin{document}", none + "\n" + r"\begin{document}", 1)


def problems(log: str) -> list[str]:
    """Return the complaints in a log of LaTeX that concern a reader."""
    found = [
        f"{name} leads nowhere"
        for name in re.findall(r"(?:Reference|Hyper reference|Citation) `([^']*)'", log)
    ]
    found += re.findall(r"^! (.*)", log, re.MULTILINE)
    found += [
        f"no {character} in {font}"
        for character, font in re.findall(
            r"Missing character: There is no (\S+).* in font ([^:/;!]*)", log
        )
    ]
    found += [
        f"a line too long by {width} points, {place}"
        for width, place in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\) (.*)", log)
        if float(width) > WIDEST
    ]
    found += [
        f"a picture too high by {height} points, {place}"
        for height, place in re.findall(r"Float too large for page by ([\d.]+)pt (.*)\.", log)
    ]
    found += [
        f"page {page} is blank below, {height} points high"
        for height, page in re.findall(r"^Blank: ([\d.]+)pt on page (\w+)", log, re.MULTILINE)
        if float(height) > BLANK
    ]
    return list(dict.fromkeys(found))


def typeset(source: Path) -> None:
    """Run xelatex and makeindex until every reference is known.

    Raises:
        RuntimeError: if it leaves no PDF, with the end of its log, or one with problems.
    """
    log, index = source.with_suffix(".log"), source.with_suffix(".ind")
    source.with_suffix(".pdf").unlink(missing_ok=True)
    quiet = {"cwd": source.parent, "check": False, "stdout": subprocess.DEVNULL}
    for _ in range(RUNS):
        before = index.read_text() if index.exists() else ""
        subprocess.run(
            ["xelatex", "-interaction=batchmode", source.name],
            env=os.environ | {"max_print_line": "10000"},  # no line of the log is broken
            **quiet,
        )
        subprocess.run(["makeindex", "-q", "-s", "python.ist", f"{source.stem}.idx"], **quiet)
        text = log.read_text(errors="replace") if log.exists() else ""
        now = index.read_text() if index.exists() else ""
        if not re.search(r"Rerun (?:to|LaTeX)", text) and now == before:
            break
    if not source.with_suffix(".pdf").exists():
        raise RuntimeError(f"xelatex made no PDF; its log, {log}, ends with\n{text[-2000:]}")
    if found := problems(text):
        raise RuntimeError("\n".join([f"{len(found)} problems, told by {log}:", *found]))


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
    source.write_text(complete(source.read_text(), numbered_parts()))
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
