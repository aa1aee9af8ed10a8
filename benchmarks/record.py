"""The record that every benchmark writes: one JSON file with numbers, machine, versions and date."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from vlls._files import expanded, make_folder
from vlls.train._machine import processor

RECORDS = Path(__file__).parent / "records"
RESULTS = Path(__file__).resolve().parents[1] / "book" / "results"


def add_output(parser: argparse.ArgumentParser, default: Path = RECORDS) -> None:
    """Add ``--output``, the record's folder, which is refused before anything is measured if it cannot be written."""
    parser.add_argument("--output", type=output_folder, default=str(default), help="folder of the record")


def output_folder(text: str) -> Path:
    """Return a folder, made if need be, as the type of an argument of the command line."""
    try:
        path = expanded(text)
        make_folder(path)
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(error.strerror if isinstance(error, OSError) else str(error)) from None
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"the folder {path} cannot be written; choose another one")
    return path


def write_record(path: Path, question: str, **measured: Any) -> None:
    """Write the record beside the others: to a temporary file first, then in place.

    Args:
        path: the JSON file.
        question: the benchmark's docstring; its first line is kept.
        **measured: the numbers and how they were measured.
    """
    threads = torch.get_num_threads()
    record = {
        "question": question.splitlines()[0],
        "machine": f"{processor()}, {threads} thread{'s' if threads > 1 else ''}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        **measured,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(path)
    print(f"record written to {path}")
