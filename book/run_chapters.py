"""Execute the chapters with papermill, with their larger setting for a GPU if asked, and report the time of each.

``make run`` executes all of them unchanged, ``make run SETTING=gpu`` with the parameters of ``gpu`` in
``book/settings.yml``.
The executed notebooks and ``times.json`` go to ``_build/run``. A failing chapter does not stop the others; the failures
are listed at the end.
"""

import argparse
import json
import os
import sys
import time
from datetime import date
from pathlib import Path

import papermill
import torch
import yaml
from nbclient.exceptions import CellExecutionError
from papermill.exceptions import PapermillExecutionError

BOOK = Path(__file__).resolve().parent
SETTINGS = BOOK / "settings.yml"
OUTPUT = BOOK.parent / "_build" / "run"
KERNEL = "python3"


def chosen(setting: str, names: list[str]) -> dict[Path, dict[str, object]]:
    """Return the chapters to execute, each with its parameters.

    Args:
        setting: ``default``, or a setting of the file.
        names: beginnings of the chapters' names, such as ``09``; all of them if there are none.

    Raises:
        ValueError: naming the choices, for an unknown setting or chapter.
    """
    settings = yaml.safe_load(SETTINGS.read_text())
    if setting != "default" and setting not in settings:
        raise ValueError(
            f"there is no setting '{setting}'; choose from default, {', '.join(settings)}"
        )
    chapters = sorted([*BOOK.glob("[0-9][0-9]_*.ipynb"), *BOOK.glob("appendix_*.ipynb")])
    for name in names:
        if not any(path.name.startswith(name) for path in chapters):
            there = ", ".join(path.stem.partition("_")[0] for path in chapters)
            raise ValueError(f"no chapter begins with '{name}'; choose from {there}")
    found = [path for path in chapters if not names or path.name.startswith(tuple(names))]
    return {path: settings.get(setting, {}).get(path.stem, {}) for path in found}


def execute(chapter: Path, parameters: dict[str, object], output: Path) -> str:
    """Execute one chapter; return the error, or nothing."""
    try:
        papermill.execute_notebook(
            chapter,
            output / chapter.name,
            parameters,
            kernel_name=KERNEL,
            cwd=BOOK,
            progress_bar=False,
        )
    except (PapermillExecutionError, CellExecutionError) as error:
        return f"{error.ename}: {error.evalue}"
    return ""


def main() -> int:
    """Read the command line, execute; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition(".")[0] + ".")
    parser.add_argument(
        "--setting", default="default", help="default, or one of book/settings.yml: gpu"
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help="folder of the executed chapters"
    )
    parser.add_argument(
        "chapters", nargs="*", metavar="CHAPTER", help="such as 06 09; all if none is named"
    )
    asked = parser.parse_args()
    try:
        waiting = chosen(asked.setting, asked.chapters)
        if asked.setting == "gpu" and not torch.cuda.is_available():
            raise ValueError(
                "--setting gpu needs a GPU, and torch finds none; leave it out to run on the CPU"
            )
    except ValueError as error:
        print(f"run_chapters: {error}", file=sys.stderr)
        return 2
    asked.output.mkdir(parents=True, exist_ok=True)
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    )
    told = {
        "setting": asked.setting,
        "device": device,
        "torch": torch.__version__,
        "date": str(date.today()),
    }
    seconds: dict[str, float] = {}
    failed = {}
    for chapter, parameters in waiting.items():
        print(f"{chapter.stem} {parameters or ''}".rstrip(), flush=True)
        began = time.perf_counter()
        if problem := execute(chapter, parameters, asked.output):
            failed[chapter.stem] = problem
        seconds[chapter.stem] = round(time.perf_counter() - began, 1)
        print(f"  {seconds[chapter.stem]} s{': FAILED' if problem else ''}", flush=True)
        record = json.dumps({**told, "seconds": seconds, "failed": failed}, indent=1)
        (asked.output / "times.json").write_text(record + "\n")
    for name, problem in failed.items():
        print(f"{name} failed: {problem}", file=sys.stderr)
    print(f"{len(waiting) - len(failed)} of {len(waiting)} chapters were executed: {asked.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
