"""The record that every benchmark writes: one JSON file with numbers, machine, versions and date."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from vlls.train._machine import processor


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
