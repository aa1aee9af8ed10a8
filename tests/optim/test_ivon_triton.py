"""The kernel for GPUs: interpreted on a CPU, compiled for a GPU without one, and run where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vlls import IVON

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]
COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from vlls.optim.ivon._cuda import LANES
from vlls.optim.ivon._triton import ivon_kernel

names = ["MODE", "AT_SAMPLE", "RESAMPLE", "AVERAGED", "GRADSQ"]
for values in [(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (2, 1, 1, 0, 0), (2, 0, 0, 1, 0), (2, 0, 0, 0, 1)]:
    constants = dict(zip(names, [values[0], *map(bool, values[1:])])) | {"LANES": LANES}
    signature = {"table": "*i64", "numbers": "*fp32", "tiles": "*i32", "key": "*i64"}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(ivon_kernel, signature, constexprs=constants)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "st.global" in ptx
print("compiled")
"""


def run(arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": str(HERE), **environment}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=HERE.parent
    )


def test_the_interpreted_kernel_follows_alg_1():
    done = run(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "triton_interpreted.py")], TRITON_INTERPRET="1"
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "........" in done.stdout


def test_the_kernel_compiles_for_a_gpu():
    try:
        from triton.backends.compiler import GPUTarget  # noqa: F401
        from triton.compiler import ASTSource  # noqa: F401
    except ImportError:
        pytest.skip("this Triton compiles otherwise")
    done = run(["-c", COMPILE])
    assert done.returncode == 0, done.stderr[-3000:]
    assert "compiled" in done.stdout


# ---------------------------------------------------------------------------------------------- with a GPU
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


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
