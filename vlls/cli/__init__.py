"""The command ``vlls``; ``python -m vlls`` and ``python -m vlls.cli`` are the same. It needs the extra ``train``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from vlls._errors import missing

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0, 1 (diverged), 2 (wrong use), 128 + signal (stopped).

    Args:
        arguments: those after the command's name; None for this process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show Greek gets question marks, not a traceback
            stream.reconfigure(errors="replace")
    try:
        if find_spec("torchmetrics") is None:  # else it fails at the first evaluation, too late
            raise ModuleNotFoundError(name="torchmetrics")
        from vlls.cli._app import app
    except ModuleNotFoundError as error:
        told = missing(error, "the command vlls", "train")
        if told is error or os.environ.get("VLLS_TRACEBACK"):
            raise
        print(f"error: {told}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    app(args=arguments, prog_name="vlls")
