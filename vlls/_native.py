"""Kernels in plain C, compiled on first use and called through ctypes.

They include no headers of torch or Python, so building one takes the compiler a second; the result is kept in a cache
folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

FLAGS = ["-O3", "-std=c11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
_ENVIRONMENT = ("CC", "PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR")  # decides whether a kernel can be built


class Kernel:
    """A function of a C file; ``argtypes`` are those of ctypes, and it returns nothing."""

    def __init__(self, source: Path, name: str, *argtypes: Any) -> None:
        self.source, self.name, self.argtypes = source, name, argtypes
        self._function: Any = None
        self._path: Path | None = None
        self._failed: tuple[str | None, ...] | None = None  # the environment in which it could not be built
        self._building = threading.Lock()

    def function(self) -> Callable[..., None]:
        """Return the function, which is built if it is not in the cache.

        Raises:
            RuntimeError: if there is no compiler, or it fails.
            OSError: if the library cannot be written or loaded.
            AttributeError: if the library lacks the function.
        """
        if self._function is None:
            with self._building:  # one thread at a time
                self._path = _built(self.source)
                function = getattr(ctypes.CDLL(str(self._path)), self.name)
                function.restype, function.argtypes = None, self.argtypes
                self._function = function
        return self._function

    def available(self) -> bool:
        """Whether it can be called; after a failure it is built again only if an environment variable changes."""
        environment = tuple(os.environ.get(name) for name in _ENVIRONMENT)
        if self._function is None and self._failed != environment:
            try:
                self.function()
            except (OSError, RuntimeError, AttributeError):
                self._failed = environment
        return self._function is not None

    def label(self) -> str:
        """Return the library's name with a hash of its source, compiler options and processor."""
        self.function()
        assert self._path is not None
        return self._path.stem


def in_parallel(part: Callable[[int], None], number: int) -> None:
    """Call part(0), ..., part(number - 1) side by side, and return when all are done.

    Threads are Python's: a kernel releases the interpreter lock, and a second OpenMP runtime beside torch's would
    compete with it for the cores.
    """
    others: list[Future[None]] = []
    try:
        for k in range(1, number):
            others.append(_threads(os.getpid()).submit(part, k))
    except RuntimeError:  # at its exit Python starts no thread, but the work must be done
        for k in range(len(others) + 1, number):
            part(k)
    try:
        part(0)
    finally:  # also when interrupted: no thread may write after this returns
        wait(others)
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def _threads(pid: int) -> ThreadPoolExecutor:
    """Return a pool for this process: a forked child must not wait for its parent's threads."""
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="vlls-kernel")


def compiler() -> list[str] | None:
    """Return the C compiler's command: ``$CC``, else the first of cc, gcc and clang that is installed."""
    if os.environ.get("CC"):
        command = shlex.split(os.environ["CC"])
        return command if shutil.which(command[0]) else None
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    return [found] if found else None


def _built(source: Path) -> Path:
    """Return the library's path; compile it if it is not there."""
    command = compiler()
    if command is None:
        raise RuntimeError("needs a C compiler and found none of cc, gcc, clang; install one, or point $CC to it")
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    build = [*command, *FLAGS, native, "-shared", "-fPIC", "-x", "c", "-"]
    code = source.read_bytes()
    name = hashlib.sha256(b"\0".join([code, repr(build).encode(), _processor().encode()])).hexdigest()[:16]
    path = _folder() / f"{source.stem.removeprefix('_')}-{name}.so"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.partial")
        built = subprocess.run([*build, "-o", str(partial), "-lm"], input=code, capture_output=True, check=False)
        if built.returncode != 0:
            raise RuntimeError(
                f"needs a C compiler, and {shlex.join(build)} failed on {source.name}: "
                f"{built.stderr.decode(errors='replace').strip()[:500]}; point $CC to another one"
            )
        partial.replace(path)  # atomic, also if another process builds it
    return path


def _processor() -> str:
    """Return the processor's features, on which ``-march=native`` depends: machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _folder() -> Path:
    """Return the folder for kernels: the user's cache or, if it is not writable, a temporary folder of this user."""
    with suppress(RuntimeError):  # there is no home folder
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vlls"
        if _is_writable(cache, 0o777):
            return cache
    if hasattr(os, "getuid"):
        own = Path(tempfile.gettempdir(), f"vlls-{os.getuid()}")
        # another user could have made this folder first, with a library in it
        if _is_writable(own, 0o700) and (own.lstat().st_uid, own.lstat().st_mode & 0o77) == (os.getuid(), 0):
            return own
    return Path(tempfile.mkdtemp(prefix="vlls-"))


def _is_writable(folder: Path, mode: int) -> bool:
    """Make the folder if it is missing; return whether it can be written to."""
    try:
        folder.mkdir(mode, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
