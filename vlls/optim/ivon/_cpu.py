"""IVON's fused executor for float32 parameters on the CPU: builds and calls ``_ivon.c``.

The kernel is plain C without headers of torch or Python, so building it takes the compiler a second; the result is
kept in a cache folder. Threads are Python's: the call leaves the interpreter lock, and a second OpenMP runtime beside
torch's would fight with it over the cores.
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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlls.optim.ivon._executors import EXCHANGE, UPDATE, Fused, States
from vlls.optim.ivon._state import ParameterState

TILE = 4096  # of _ivon.c
SOURCE = Path(__file__).with_name("_ivon.c")
FLAGS = ["-O3", "-std=c11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]

_COLUMNS = (
    (ctypes.c_void_p, "param other grad statistic momentum hess"),
    (ctypes.c_int64, "numel stream"),
    (ctypes.c_float, "lr ess weight_decay beta1 rate1 rate2 inverse_bias clip estimate_clip"),
    (ctypes.c_int64, "gradsq"),
)


class _Row(ctypes.Structure):  # of _ivon.c
    _fields_ = [(name, dtype) for dtype, names in _COLUMNS for name in names.split()]


def compiler() -> list[str] | None:
    """The C compiler's command: ``$CC``, else the first of cc, gcc and clang that is installed."""
    if os.environ.get("CC"):
        command = shlex.split(os.environ["CC"])
        return command if shutil.which(command[0]) else None
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    return [found] if found else None


def _processor() -> str:
    """The processor's features, on which ``-march=native`` depends: unlike machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    command = compiler()
    if command is None:
        raise RuntimeError(
            "fused=True needs a C compiler for parameters on the CPU and found none of cc, gcc, clang; "
            "install one, point $CC to it, or leave fused=None"
        )
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    build = [*command, *FLAGS, native, "-x", "c", "-"]
    source = SOURCE.read_bytes()
    name = hashlib.sha256(b"\0".join([source, repr(build).encode(), _processor().encode()])).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vlls")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.mkdtemp(prefix="vlls-"))
    path = folder / f"ivon-{name}.so"
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}.partial")
        built = subprocess.run([*build, "-o", str(partial), "-lm"], input=source, capture_output=True, check=False)
        if built.returncode != 0:
            raise RuntimeError(
                f"{shlex.join(build)} failed on {SOURCE.name}: {built.stderr.decode(errors='replace').strip()[:500]}; "
                "point $CC to another compiler, or leave fused=None"
            )
        partial.replace(path)  # at once whole, also beside another process that builds it
    library = ctypes.CDLL(str(path))
    library.ivon_run.restype = None
    library.ivon_run.argtypes = [ctypes.c_int, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_int, ctypes.c_int]
    return library


def available() -> bool:
    """Whether a compiler is installed and compiles the kernel."""
    try:
        _library()
    except (OSError, RuntimeError):
        return False
    return True


@lru_cache(maxsize=1)
def _threads(pid: int) -> ThreadPoolExecutor:
    """A pool for this process: a forked child must not wait for its parent's threads."""
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="vlls-ivon")


class FusedCPU(Fused):
    """Alg. 1, the mean's exchange and the next sample in one pass each; three numbers a parameter beside itself."""

    _last: tuple[States, Any] | None = None  # the parameters of the last call and their table

    @classmethod
    def supports(cls, param: Tensor) -> bool:
        return param.device.type == "cpu" and cls.takes(param)

    @classmethod
    def label(cls) -> str:
        """The compiled library, by the hash of its source, compiler options and processor."""
        return f"cpu {Path(_library()._name).stem}"

    def save(self, states: States) -> None:
        _library()  # builds the kernel
        super().save(states)

    def _run(self, mode: int, states: States, key: Tensor | None, at_sample: bool, resample: bool) -> None:
        library, number = _library(), 0 if key is None else int(key)
        keep: list[Tensor] = []  # tensors made here live until the kernel is done
        if mode == EXCHANGE and self._last is not None and self._last[0] is states:
            table = self._last[1]  # of the draw that is taken back: the same addresses
        else:
            table = (_Row * len(states))()
            for row, state in zip(table, states, strict=True):
                _fill(row, state, mode, keep)
            self._last = states, table
        tiles = sum(-(-row.numel // TILE) for row in table)
        threads = min(torch.get_num_threads(), max(1, tiles // 4))
        cuts = [tiles * k // threads for k in range(threads + 1)]

        def part(k: int) -> None:
            address = ctypes.addressof(table)
            library.ivon_run(mode, address, len(states), cuts[k], cuts[k + 1], number, at_sample, resample)

        others: list[Future[None]] = []
        try:
            for k in range(1, threads):
                others.append(_threads(os.getpid()).submit(part, k))
        except RuntimeError:  # Python ends and starts no thread; the mean must come back all the same
            for k in range(len(others) + 1, threads):
                part(k)
        try:
            part(0)
        finally:  # also when interrupted: no thread may write after this returns
            wait(others)
        for other in others:
            other.result()


def _fill(row: _Row, state: ParameterState, mode: int, keep: list[Tensor]) -> None:
    group = state.group
    row.param, row.other = state.param.data_ptr(), state.other.data_ptr()
    row.numel, row.stream = state.param.numel(), state.index
    row.hess = state.hess.data_ptr()
    row.ess, row.weight_decay = group["ess"], group["weight_decay"]
    if mode != UPDATE:
        return
    row.grad, row.statistic = (Fused.address(tensor, state, keep) for tensor in (state.grad, state.statistic))
    row.momentum = state.momentum.data_ptr()
    row.lr, row.clip, row.estimate_clip = float(state.lr), group["clip_radius"], group["hess_clip"] / group["ess"]
    row.beta1, row.rate1, row.rate2 = group["beta1"], 1.0 - group["beta1"], 1.0 - state.beta2
    row.inverse_bias = 1.0 / state.bias_correction
    row.gradsq = group["hess_approx"] == "gradsq"
