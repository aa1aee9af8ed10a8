"""The kernel for GPUs: interpreted on a CPU, compiled without a GPU, and run on a GPU if there is one."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vlls import IVON

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("interpreted", [True, pytest.param(False, marks=needs_gpu)])
def test_the_kernel_follows_alg_1(interpreted):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "triton_kernel.py")],
        env={**os.environ, "PYTHONPATH": str(TESTS), "TRITON_INTERPRET": str(int(interpreted))},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "........" in done.stdout


# ------------------------------------------------------------------------------- compiled, without a GPU
# The kernel's constants, and how many tensors a tile reads and writes; a sample is read only for its statistic.
VARIANTS = {
    "draw": ({"MODE": 0}, 2, 2),
    "exchange": ({"MODE": 1}, 2, 2),
    "context": ({"MODE": 2}, 5, 3),
    "closure": ({"MODE": 2, "AT_SAMPLE": True}, 5, 3),
    "kept": ({"MODE": 2, "AT_SAMPLE": True, "RESAMPLE": True}, 5, 4),
    "averaged": ({"MODE": 2, "AVERAGED": True}, 5, 3),
    "gradsq": ({"MODE": 2, "GRADSQ": True}, 4, 3),
    "averaged gradsq": ({"MODE": 2, "AT_SAMPLE": True, "AVERAGED": True, "GRADSQ": True}, 5, 3),
}
variants = pytest.mark.parametrize("variant", VARIANTS)


@cache
def compiled(variant):
    """Compile the kernel for an H100, as for a launch with tables at multiples of 16: assembly and machine code."""
    compiler = pytest.importorskip("triton.compiler", reason="this Triton compiles otherwise")
    backends = pytest.importorskip("triton.backends.compiler", reason="this Triton compiles otherwise")
    from vlls.optim.ivon._cuda import LANES
    from vlls.optim.ivon._triton import ivon_kernel

    constants = dict.fromkeys(("AT_SAMPLE", "RESAMPLE", "AVERAGED", "GRADSQ"), False) | VARIANTS[variant][0]
    constants["LANES"] = LANES
    signature = {"table": "*i64", "numbers": "*fp32", "tiles": "*i32", "key": "*i64"}
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(signature))}
    signature |= dict.fromkeys(constants, "constexpr")
    source = compiler.ASTSource(ivon_kernel, signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=backends.GPUTarget("cuda", 90, 32)).asm


@variants
def test_whole_tiles_move_16_bytes_at_a_time(variant):
    from vlls.optim.ivon._cuda import TILE

    ptx, (_, reads, writes) = compiled(variant)["ptx"], VARIANTS[variant]
    quads = TILE // (4 * int(re.search(r"\.reqntid (\d+)", ptx)[1]))  # of a thread, in each tensor
    for move, tensors in (("ld", reads), ("st", writes)):
        wide = re.findall(rf"{move}\.global[\w.:]*\.v4\.[bf]32", ptx)
        assert len(wide) == quads * tensors, move
        assert len(re.findall(rf"{move}\.global[\w.:]*\.[bf]32", ptx)) >= 5 * len(wide), move  # the ragged end


@variants
def test_noise_is_drawn_where_it_is_used(variant):
    constants, ptx = VARIANTS[variant][0], compiled(variant)["ptx"]
    draws = constants["MODE"] == 0 or constants.get("RESAMPLE", False)
    for factor in (0xD2511F53, 0xCD9E8D57):  # of Philox
        assert any(str(value) in ptx for value in (factor, factor - 2**32)) == draws


@variants
def test_nothing_spills_and_registers_leave_room_for_many_threads(variant, tmp_path):
    assert ".local" not in compiled(variant)["ptx"]
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton comes without cuobjdump")
    binary = tmp_path / "ivon.cubin"
    binary.write_bytes(compiled(variant)["cubin"])
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage.stdout + usage.stderr))
    assert found["STACK"] == found["LOCAL"] == "0"
    assert int(found["REG"]) <= 96  # at least 640 threads of the 2048 that a multiprocessor can hold


# ---------------------------------------------------------------------------------------------- with a GPU
def problem(device):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 36, 5),
    )
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 3, 8, 8, generator=generator), torch.randint(5, (32,), generator=generator)
    return model.to(device), x.to(device), y.to(device)


@needs_gpu
@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_every_executor_learns_on_a_gpu(options):
    model, x, y = problem("cuda")
    optimizer = IVON(model.parameters(), lr=0.1, ess=32.0, hess_init=0.5, **options)
    losses = []
    for _ in range(60):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@needs_gpu
def test_parameters_on_two_devices():
    params = [torch.nn.Parameter(torch.ones(50)), torch.nn.Parameter(torch.ones(50, device="cuda"))]
    for options in ({"fused": True}, {"foreach": True}, {"foreach": False}):
        optimizer = IVON(params, lr=0.1, ess=50.0, **options)
        for _ in range(3):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                (params[0].square().sum() + params[1].square().sum().cpu()).backward()
            optimizer.step()
    assert all((p < 1).float().mean() > 0.9 for p in params)


@needs_gpu
def test_model_moved_to_the_gpu_after_some_steps():
    model, x, y = problem("cpu")
    optimizer = IVON(model.parameters(), lr=0.1, ess=32.0, foreach=False)
    for device in ("cpu", "cuda"):
        model.to(device)
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x.to(device)), y.to(device)).backward()
        optimizer.step()
    assert all(optimizer.state[p]["hess"].is_cuda and optimizer.state[p]["step"] == 2 for p in model.parameters())


@needs_gpu
@pytest.mark.parametrize("how", ["context", "closure", "kept"])
def test_captured_in_a_cuda_graph(how):
    """Replayed steps equal eager ones with the same seeds, also when the learning rate's tensor changes."""

    def train(captured):
        model, x, y = problem("cuda")
        lr = torch.tensor(0.1, device="cuda")
        optimizer = IVON(model.parameters(), lr=lr, ess=32.0, hess_init=0.5, fused=True)

        def backward():
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        def step():
            if how == "closure":
                optimizer.step(backward)
            elif how == "kept":
                backward()
                optimizer.step()
            else:
                with optimizer.sampled_params(train=True):
                    backward()
                optimizer.step()

        def steps():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            run_step = step
            if captured:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    step()
                run_step = graph.replay
            torch.cuda.manual_seed(5)
            for i in range(6):
                lr.fill_(0.1 if i < 3 else 0.02)
                run_step()

        if how == "kept":
            with optimizer.keep_sampled():
                steps()
        else:
            steps()
        torch.cuda.synchronize()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.testing.assert_close(train(True), train(False), rtol=1e-4, atol=1e-5)
