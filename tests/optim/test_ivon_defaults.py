"""The code that takes IVON's steps by default: the kernel if it works here, else torch's operations."""

import os
import subprocess
import sys
import tempfile
import warnings

import pytest
import torch
from ivon_problems import batch, cnn, images, mlp, needs_compiler, train_step, unbuilt, weights

from vlls import EVON, IVON, _native
from vlls.optim.ivon import _cpu, _cuda

OPTIONS = {"lr": 0.1, "ess": 30.0}


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder with the cache and the temporary files of a machine on which no kernel was built."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(_cpu, "KERNEL", unbuilt(_cpu.KERNEL))
    return tmp_path


def trained(make=IVON, dtype=torch.float32, **options):
    model = mlp(dtype)
    optimizer = make(model.parameters(), **OPTIONS, **options)
    torch.manual_seed(3)
    for _ in range(3):
        train_step(model, optimizer, batch(dtype=dtype))
    return weights(model), optimizer


# ---------------------------------------------------------------------- with a compiler
@needs_compiler
@pytest.mark.parametrize("make", [IVON, EVON])
def test_the_default_is_the_kernel(make):
    ours, optimizer = trained(make)
    assert torch.equal(ours, trained(make, fused=True)[0])
    assert not torch.equal(ours, trained(make, fused=False)[0])
    assert "cpu ivon-" in optimizer.executor and f"executor: {optimizer.executor}" in repr(optimizer)
    assert optimizer.capturable == (make is IVON)


@needs_compiler
@pytest.mark.parametrize("options", [{"foreach": True}, {"foreach": False}, {"fused": False}], ids=str)
def test_an_option_that_is_given_counts(options):
    optimizer = trained(**options)[1]
    assert optimizer.executor == ("foreach" if options.get("foreach") else "single") and not optimizer.capturable


@needs_compiler
def test_other_dtypes_take_torch_s_operations():
    assert torch.equal(trained(dtype=torch.float64)[0], trained(dtype=torch.float64, fused=False)[0])
    params = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]
    optimizer = IVON(params, **OPTIONS)
    assert optimizer.executor.startswith("cpu ivon-") and optimizer.executor.endswith(", single")
    assert not optimizer.capturable


@needs_compiler
def test_processors_that_share_a_home_folder_have_kernels_of_their_own(folder, monkeypatch):
    first = _cpu.KERNEL.label()
    monkeypatch.setattr(_native, "_processor", lambda: "another")
    assert unbuilt(_cpu.KERNEL).label() != first


@needs_compiler
def test_it_is_built_at_the_first_sample_and_once_on_a_machine(folder):
    optimizer = IVON([torch.nn.Parameter(torch.ones(3))], **OPTIONS)
    assert not (folder / "cache").exists()
    with optimizer.sampled_params():
        pass
    (built,) = (folder / "cache" / "vlls").iterdir()
    before = built.stat()
    code = "import torch, vlls; print(vlls.IVON([torch.nn.Parameter(torch.ones(3))], 0.1, 30.0).executor)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == optimizer.executor == f"cpu {built.stem}"
    assert built.stat() == before and len(list(built.parent.iterdir())) == 1


# ---------------------------------------------------------------------- without a working compiler or cache
def compiler_that(folder, does):
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="compilers that are shell scripts")
@pytest.mark.parametrize(
    "does",
    [None, "echo no >&2; exit 1", "exit 0", 'while [ "$1" != -o ]; do shift; done; echo no library > "$2"'],
    ids=["none", "fails", "writes nothing", "writes something else"],
)
@pytest.mark.parametrize("make", [IVON, EVON])
def test_a_compiler_that_fails_leaves_torch_s_operations_without_a_word(make, does, folder, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler" if does is None else compiler_that(folder, does))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, optimizer = trained(make)
    assert torch.equal(ours, trained(make, fused=False)[0])
    assert "cpu ivon-" not in optimizer.executor and not optimizer.capturable
    with pytest.raises((RuntimeError, OSError)):
        trained(make, fused=True)


def test_a_compiler_that_fails_is_tried_once(folder, monkeypatch):
    count = folder / "count"
    monkeypatch.setenv("CC", compiler_that(folder, f"echo once >> {count}; exit 1"))
    for _ in range(3):
        trained()
    assert count.read_text().split() == ["once"]


def test_repr_tells_of_a_kernel_that_cannot_be_had(folder, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "executor: fused=True needs a C compiler" in repr(IVON(mlp().parameters(), **OPTIONS, fused=True))


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users without numbers")
@pytest.mark.parametrize("taken", [False, True], ids=["own folder", "a folder that others may write to"])
def test_a_read_only_cache(folder, monkeypatch, taken):
    """The cache's folder is a file: the kernel is built once, in this user's folder for temporary files."""
    own = folder / f"vlls-{os.getuid()}"
    if taken:
        own.mkdir()
        own.chmod(0o777)
    (folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    assert trained()[1].executor.startswith("cpu ivon-")
    if taken:
        assert not list(own.iterdir())
        return
    assert own.stat().st_mode & 0o777 == 0o700
    (built,) = own.iterdir()
    before = built.stat()
    monkeypatch.setattr(_cpu, "KERNEL", unbuilt(_cpu.KERNEL))
    trained()
    assert built.stat().st_mtime_ns == before.st_mtime_ns and list(own.iterdir()) == [built]


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users without numbers")
@pytest.mark.parametrize("home", [None, "file"], ids=["no home", "a home that cannot be written"])
def test_without_a_home_the_kernel_goes_to_the_temporary_files(folder, monkeypatch, home):
    """A container's user may have no home, neither in HOME nor in the table of users."""
    import pwd

    monkeypatch.setattr(pwd, "getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home:
        (folder / home).write_text("")
        monkeypatch.setenv("HOME", str(folder / home))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, optimizer = trained()
    assert optimizer.executor.startswith("cpu ivon-")
    assert [file.suffix for file in (folder / f"vlls-{os.getuid()}").iterdir()] == [".so"]
    monkeypatch.setattr(_cpu, "KERNEL", unbuilt(_cpu.KERNEL))
    assert torch.equal(ours, trained(fused=True)[0])


# ---------------------------------------------------------------------- on a GPU
@pytest.fixture
def taken_for_a_gpu(monkeypatch):
    """Treat parameters on the CPU as on a GPU, as under Triton's interpreter; no kernel has been tried yet."""
    monkeypatch.setattr(_cuda, "INTERPRETED", True)
    for asks in ("supports", "works"):
        monkeypatch.setattr(_cpu.FusedCPU, asks, lambda param: False)
    monkeypatch.delitem(sys.modules, _cuda.__name__.replace("_cuda", "_triton"), raising=False)
    _cuda._runs_on.cache_clear()
    yield monkeypatch
    _cuda._runs_on.cache_clear()


class Uncompiled:
    """Triton's kernel on a machine where it cannot compile."""

    tried = 0

    def __getitem__(self, grid):
        Uncompiled.tried += 1
        raise RuntimeError("Failed to find C compiler.")


@pytest.mark.parametrize("lacks", ["Triton", "C compiler"])
@pytest.mark.parametrize("make", [IVON, EVON])
def test_a_gpu_without_triton_or_its_compiler_takes_torch_s_operations_without_a_word(make, lacks, taken_for_a_gpu):
    Uncompiled.tried = 0
    if lacks == "Triton":
        taken_for_a_gpu.setitem(sys.modules, "triton", None)  # its import fails
    else:
        taken_for_a_gpu.setattr(_cuda, "_kernel", Uncompiled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, optimizer = trained(make)
        again, _ = trained(make)
    assert torch.equal(ours, trained(make, fused=False)[0]) and torch.equal(ours, again)
    assert "triton" not in optimizer.executor and f"executor: {optimizer.executor}" in repr(optimizer)
    assert not optimizer.capturable and Uncompiled.tried == (lacks != "Triton")
    with pytest.raises(RuntimeError, match=lacks):
        trained(make, fused=True)


def test_repr_tells_of_a_triton_that_is_missing(taken_for_a_gpu):
    taken_for_a_gpu.setitem(sys.modules, "triton", None)
    told = repr(IVON(mlp().parameters(), **OPTIONS, fused=True))
    assert "executor: fused=True needs Triton" in told and "pip install triton, or leave fused=None" in told


# ---------------------------------------------------------------------- other memory formats, convolutions
@needs_compiler
def test_layouts_that_the_kernel_cannot_take_are_torch_s():
    model = cnn()
    strided = torch.nn.Parameter(torch.ones(4, 6)[:, ::2])
    optimizer = IVON([*model.parameters(), strided], **OPTIONS)
    assert optimizer.executor.endswith(", single")
    strided.grad = torch.zeros(4, 3)
    train_step(model, optimizer, images())
    assert torch.isfinite(strided).all()
