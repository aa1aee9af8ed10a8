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
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlls.optim._executors import Fused
from vlls.optim._slot import Slot

__all__ = ["FusedCPU", "available", "compiler", "in_order", "new_key"]

TILE = 4096  # of _ivon.c
SOURCE = Path(__file__).with_name("_ivon.c")
FLAGS = ["-O3", "-std=c11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
SAVE_AND_SAMPLE, EXCHANGE, UPDATE = 0, 1, 2

_POINTERS = ("param", "other", "grad", "statistic", "momentum", "hess")
_FLOATS = ("lr", "ess", "weight_decay", "beta1", "rate1", "rate2", "inverse_bias", "clip")


class _CSlot(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("numel", ctypes.c_int64),
        ("stream", ctypes.c_int64),
        *((name, ctypes.c_float) for name in _FLOATS),
        ("gradsq", ctypes.c_int64),
    ]


def compiler() -> list[str] | None:
    """The C compiler's command: ``$CC``, else the first of cc, gcc and clang that is installed."""
    if os.environ.get("CC"):
        command = shlex.split(os.environ["CC"])
        return command if shutil.which(command[0]) else None
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    return [found] if found else None


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "vlls"


def _processor() -> str:
    """What ``-march=native`` depends on, so that a home folder can be shared by unlike machines."""
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
    folder = _cache_folder()
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
    library.ivon_run.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 4,
        ctypes.c_int,
        ctypes.c_int,
    ]
    return library


def available() -> bool:
    """Whether the kernel can be had here: there is a compiler, and it compiles."""
    try:
        _library()
    except (OSError, RuntimeError):
        return False
    return True


@lru_cache(maxsize=1)
def _threads(pid: int) -> ThreadPoolExecutor:
    """A pool for this process: a forked child must not wait for its parent's threads."""
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="vlls-ivon")


def new_key(generator: torch.Generator | None, device: torch.device | str | None = None) -> Tensor:
    """A fresh 63-bit key for a counter-based draw, from ``generator`` or torch's own."""
    device = generator.device if generator is not None else device
    return torch.empty((), dtype=torch.int64, device=device).random_(generator=generator)


class FusedCPU(Fused):
    """Alg. 1, the mean's exchange and the next sample in one pass each; three numbers a parameter beside itself."""

    _last: tuple[Sequence[Slot], Any] | None = None  # the slots of the last call and their table

    @staticmethod
    def supports(param: Tensor) -> bool:
        """Whether the kernel can take this parameter."""
        return (
            param.device.type == "cpu"
            and param.dtype == torch.float32
            and torch.ops.aten.is_non_overlapping_and_dense(param)
        )

    def save(self, slots: Sequence[Slot]) -> None:
        """Make the memory that the kernel needs, and the kernel."""
        _library()
        super().save(slots)

    def draw(self, slots: Sequence[Slot], generator: torch.Generator | None) -> None:
        """Save the mean and write a sample of the posterior into each parameter."""
        self._run(SAVE_AND_SAMPLE, slots, key=int(new_key(generator)))

    def restore(self, slots: Sequence[Slot]) -> None:
        """Exchange sample and mean: the noise is their difference."""
        self._run(EXCHANGE, slots, again=True)

    def update(
        self, slots: Sequence[Slot], *, at_sample: bool, resample: bool, generator: torch.Generator | None
    ) -> None:
        """Apply Alg. 1 in one pass; leave the mean, or the next sample of it."""
        key = int(new_key(generator)) if resample else 0
        self._run(UPDATE, slots, key=key, at_sample=at_sample, resample=resample)

    def _run(
        self,
        mode: int,
        slots: Sequence[Slot],
        *,
        key: int = 0,
        at_sample: bool = False,
        resample: bool = False,
        again: bool = False,
    ) -> None:
        library = _library()
        keep: list[Tensor] = []  # tensors made here live until the kernel is done
        if again and self._last is not None and self._last[0] is slots:
            table = self._last[1]  # of the draw that is taken back: the same addresses
        else:
            table = (_CSlot * len(slots))()
            for row, slot in zip(table, slots, strict=True):
                self._fill(row, slot, mode, keep)
            self._last = slots, table
        tiles = sum(-(-row.numel // TILE) for row in table)
        threads = min(torch.get_num_threads(), max(1, tiles // 4))
        cuts = [tiles * k // threads for k in range(threads + 1)]

        def part(k: int) -> None:
            address = ctypes.addressof(table)
            library.ivon_run(mode, address, len(slots), cuts[k], cuts[k + 1], key, at_sample, resample)

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

    @staticmethod
    def _fill(row: _CSlot, slot: Slot, mode: int, keep: list[Tensor]) -> None:
        row.param, row.other = slot.param.data_ptr(), slot.buffer("other").data_ptr()
        row.numel, row.stream = slot.param.numel(), slot.index
        row.hess = slot.state["hess"].data_ptr()
        group = slot.group
        row.ess, row.weight_decay = group["ess"], group["weight_decay"]
        if mode != UPDATE:
            return
        assert slot.grad is not None
        row.grad = in_order(slot.grad, slot, keep).data_ptr()
        row.statistic = None if slot.statistic is None else in_order(slot.statistic, slot, keep).data_ptr()
        row.momentum = slot.state["momentum"].data_ptr()
        row.lr, row.clip = float(slot.lr), group["clip_radius"]
        row.beta1, row.rate1, row.rate2 = group["beta1"], 1.0 - group["beta1"], 1.0 - group["beta2"]
        row.inverse_bias = 1.0 / slot.bias_correction
        row.gradsq = group["hess_approx"] == "gradsq"


def in_order(tensor: Tensor, slot: Slot, keep: list[Tensor]) -> Tensor:
    """The tensor in the parameter's own order of elements; ``keep`` holds a copy alive for the kernel."""
    if tensor.stride() != slot.param.stride() or tensor.dtype != torch.float32:
        tensor = torch.empty_like(slot.param, dtype=torch.float32, requires_grad=False).copy_(tensor)
        keep.append(tensor)
    return tensor
