"""Resident memory of this process, and its peak while something runs."""

from __future__ import annotations

import resource
import sys
import threading
from pathlib import Path


def resident_bytes() -> int:
    """Return the current resident memory of this process, or its peak if the system does not report the current one."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class PeakMemory:
    """Samples resident memory every millisecond in a separate thread."""

    def __enter__(self) -> PeakMemory:
        self.peak, self._stop = resident_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self.peak = max(self.peak, resident_bytes())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
