"""The kernels of a GPU compute what PyTorch's operations do, one after the other.

Without a GPU the laws on values are run by Triton's interpreter, which must be asked for before
Triton is imported: in a process of their own.
"""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from geodm_lightning.networks import gpu
from geodm_lightning.processes import say_once

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FORMATS = (torch.contiguous_format, torch.channels_last)
# h, w: even, both odd, one pooled pixel, several channels in a tile, several tiles in a map
SHAPES = ((2, 3, 8, 8), (1, 5, 7, 9), (2, 2, 2, 3), (2, 70, 4, 4), (1, 2, 50, 48))
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2**-7}  # in shares of the largest value
EPS = 1e-5


@pytest.fixture(autouse=True)
def usable(request):
    """Skip laws that need the kernels where these run neither compiled nor interpreted."""
    asked = "device" in request.fixturenames and request.getfixturevalue("device").type
    if asked == "cpu" and not INTERPRETED:
        pytest.skip("runs interpreted, see test_laws_hold_interpreted")


def test_laws_hold_interpreted():
    if INTERPRETED:
        pytest.skip("this is the interpreted run")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 25


def drawn(shape, device, *, dtype=torch.float32, memory_format=torch.contiguous_format):
    """Return maps that are far from centred, weight, bias and a gradient by the pooled maps."""
    generator = torch.Generator().manual_seed(0)
    images, channels, height, width = shape
    maps = torch.randn(shape, generator=generator) * 3 + 20
    affine = [torch.randn(channels, generator=generator) for _ in range(2)]
    pushes = torch.randn(images, channels, height // 2, width // 2, generator=generator)
    maps, pushes = (t.to(device, dtype, memory_format=memory_format) for t in (maps, pushes))
    return maps, *(t.to(device) for t in affine), pushes


def answers(compute, maps, weight, bias, pushes):
    """Return pooled maps and the gradients by maps, weight and bias."""
    leaves = [t.detach().clone().requires_grad_() for t in (maps, weight, bias)]
    pooled = compute(*leaves, EPS)
    return [pooled, *torch.autograd.grad(pooled, leaves, pushes)]


def assert_near(ours, plain, bound):
    assert ours.dtype == plain.dtype
    torch.testing.assert_close(ours, plain, rtol=0, atol=bound * float(plain.detach().abs().max()))


def in_float64(maps, weight, bias, eps):
    return gpu.one_by_one(maps.double(), weight.double(), bias.double(), eps).to(maps.dtype)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_pytorch(device, shape, dtype, memory_format):
    inputs = drawn(shape, device, dtype=dtype, memory_format=memory_format)
    fused, plain = answers(gpu.one_kernel, *inputs), answers(in_float64, *inputs)
    for ours, theirs in zip(fused, plain, strict=True):
        assert_near(ours, theirs, BOUNDS[dtype])
    assert all(t.is_contiguous(memory_format=memory_format) for t in fused[:2])


def test_a_gradient_that_is_differentiated_is_that_of_the_kernel(device):
    """The formula of the second derivatives, differentiated once less, is the backward kernel."""
    maps, weight, bias, pushes = drawn((2, 3, 7, 6), device)
    formula = gpu.gradients_by_formula(pushes, maps, weight, bias, EPS)
    for ours, theirs in zip(
        formula, answers(gpu.one_kernel, maps, weight, bias, pushes)[1:], strict=True
    ):
        assert_near(ours, theirs, 1e-5)


def test_second_derivatives_are_those_of_pytorch(device):
    inputs = drawn((2, 3, 5, 6), device)
    found = []
    for compute in (gpu.one_kernel, gpu.one_by_one):
        leaves = [t.clone().requires_grad_() for t in inputs]
        pooled = compute(*leaves[:3], EPS)
        first = torch.autograd.grad(pooled, leaves[:3], leaves[3], create_graph=True)
        by = [leaves[0], leaves[1], leaves[3]]  # the bias decides only where the ReLU bends
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), by))
    for ours, theirs in zip(*found, strict=True):
        assert_near(ours, theirs, 1e-4)


def test_what_is_not_a_number_stays_so(device):
    maps, weight, bias, _ = drawn((1, 2, 4, 4), device)
    maps[0, 1, 2, 3] = torch.nan
    pooled = gpu.one_kernel(maps, weight, bias, EPS)
    assert pooled[0, 1].isnan().all()
    assert pooled[0, 0].isfinite().all()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, nullcontext])
def test_a_kernel_that_agrees_is_taken(device, mode):
    """Whoever comes first, with a graph or without, in autocast as well."""
    inputs = drawn((2, 3, 6, 6), device)[:3]
    gpu.obstacle.cache_clear()
    with mode(), torch.autocast(device.type, torch.bfloat16):
        assert gpu.obstacle(device) is None
    assert torch.equal(gpu.norm_relu_pool_on_gpu(*inputs, EPS), gpu.one_kernel(*inputs, EPS))


@pytest.mark.parametrize("kernel", ["forward_kernel", "backward_kernel"])
@pytest.mark.parametrize(("capability", "dtype"), [(80, "fp32"), (90, "bf16")])
def test_kernels_compile_for_gpus_that_are_not_here(
    kernel, capability, dtype, tmp_path, monkeypatch
):
    if INTERPRETED:
        pytest.skip("interpreted kernels are not compiled")
    import triton
    from triton.backends.compiler import GPUTarget

    from geodm_lightning.networks import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(triton_kernels, kernel)
    layout = FORMATS[capability == 90]
    sizes = triton_kernels.plan_of(torch.empty(2, 5, 9, 7).to(memory_format=layout)).sizes
    kept = {"maps": dtype, "pooled": dtype, "pushes": dtype, "gradients": dtype}
    tensors = ("weight", "bias", "means", "scales", "weight_parts", "bias_parts")
    kinds = {name: f"*{kept.get(name, 'fp32')}" for name in (*kept, *tensors)}
    signature = {
        name: "constexpr" if name in sizes else kinds.get(name, "fp32" if name == "eps" else "i32")
        for name in function.arg_names
    }
    source = triton.compiler.ASTSource(fn=function, signature=signature, constexprs=sizes)
    target = GPUTarget("cuda", capability, 32)
    built = triton.compile(source, target=target, options={"enable_fp_fusion": True})
    assert len(built.asm["cubin"]) > 1000
    assert built.metadata.shared <= 48 * 1024  # fits every GPU without asking for more


def test_without_triton_pytorch_computes_and_says_why_once(caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "geodm_lightning.networks.triton_kernels", None)
    assert_told_once(caplog, "Triton is missing")


def test_kernels_that_cannot_be_built_leave_it_to_pytorch_and_say_why_once(caplog):
    """Triton finds no driver for tensors on a CPU."""
    if INTERPRETED:
        pytest.skip("interpreted kernels are not built")
    assert_told_once(caplog, "Triton cannot build it (")


def test_a_kernel_that_answers_otherwise_is_refused(caplog, monkeypatch):
    monkeypatch.setattr(gpu, "one_kernel", lambda *given: 1.01 * gpu.one_by_one(*given))
    assert_told_once(caplog, "Triton's kernel does not agree with PyTorch")


def assert_told_once(caplog, reason):
    """Whether maps are pooled by PyTorch, twice, and one line tells the reason."""
    gpu.obstacle.cache_clear()
    say_once.cache_clear()
    inputs = drawn((2, 3, 6, 6), torch.device("cpu"))[:3]
    try:
        for _ in range(2):
            pooled = gpu.norm_relu_pool_on_gpu(*inputs, EPS)
            assert torch.equal(pooled, gpu.one_by_one(*inputs, EPS))
    finally:
        gpu.obstacle.cache_clear()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"norm, ReLU and pooling run one by one on cpu: {reason}")
