"""C kernels are compiled once; where they cannot be, PyTorch does the work and a line says so."""

import ctypes
import logging
import os
import subprocess
import sys

import pytest
import torch

from geodm_lightning.native import library
from geodm_lightning.networks.convnet import ConvNet
from geodm_lightning.networks.convolution import Convolution
from geodm_lightning.processes import say_once
from tests.kernels import needs_kernels


def forget():
    for function in (library.obstacle, library._library, say_once):
        function.cache_clear()


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Let this test's kernels be compiled into a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield tmp_path / "geodm_lightning"
    monkeypatch.undo()
    forget()


def network():
    generator = torch.Generator().manual_seed(0)
    shape = {"num_classes": 10, "channels": 3, "resolution": 32, "width": 32}
    return ConvNet(**shape, generator=generator)


def images():
    return torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@needs_kernels
def test_kernels_are_compiled_once(fresh, monkeypatch):
    assert library.is_able()
    (path,) = fresh.iterdir()
    written = path.stat().st_mtime_ns
    forget()
    assert library.is_able()
    assert [own.stat().st_mtime_ns for own in fresh.iterdir()] == [written]
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-O2"))
    forget()
    assert library.is_able()
    assert len(list(fresh.iterdir())) == 2  # what another command makes has another name


@needs_kernels
@pytest.mark.parametrize("flag", ["-DLANES=8", "-DLANES=16", "-O0"])
def test_kernels_of_other_processors_are_the_layers_too(fresh, monkeypatch, flag):
    """Vectors wider than this processor's are made of several of its own."""
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, flag))
    own, exact = network(), network().double()
    seen, expected = images().requires_grad_(), images().double().requires_grad_()
    weights = [[seen, *own.parameters()], [expected, *exact.parameters()]]
    logits = [own(seen), exact(expected)]
    pairs = zip(
        [logits[0], *torch.autograd.grad(logits[0].sum(), weights[0])],
        [logits[1], *torch.autograd.grad(logits[1].sum(), weights[1])],
        strict=True,
    )
    for found, wanted in pairs:
        # A constant before a norm has no gradient but rounding.
        assert (found - wanted).norm() <= 1e-3 * wanted.norm() + 1e-3
    with torch.no_grad():
        torch.testing.assert_close(own.embed(images()), exact.embed(images().double()).float())
    assert list(fresh.iterdir())


@pytest.mark.parametrize(
    ("compiler", "words"),
    [
        ("no-such-compiler -x", "no C compiler no-such-compiler was found; install one, or name"),
        ("false", "false fails"),
        ("true", "true says that all went well and has made nothing"),
    ],
)
def test_without_a_compiler_layers_are_pytorchs(fresh, monkeypatch, caplog, compiler, words):
    monkeypatch.setenv("CC", compiler)
    own, expected = network(), network()
    for layer in expected.modules():
        if isinstance(layer, Convolution):
            layer.algorithm = "direct"
    with caplog.at_level(logging.WARNING):
        found = own(images())
        own.embed(images())
    assert torch.equal(found, expected(images()))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("convolutions on the CPU are PyTorch's, which are slower: ")
    assert words in line
    assert "\n" not in line
    assert not fresh.exists() or not list(fresh.iterdir())  # nothing half-made


@needs_kernels
def test_kernels_that_do_not_agree_are_not_used(fresh, monkeypatch):
    call = library.call

    def astray(name, *values):
        call(name, *values)
        if name == "winograd_convolve":
            values[-3].mul_(1.01)

    monkeypatch.setattr(library, "call", astray)
    assert library.obstacle() == "the compiled kernels do not agree with PyTorch"


@needs_kernels
def test_where_the_cache_cannot_be_written_a_process_compiles_its_own(fresh):
    fresh.parent.mkdir(exist_ok=True)
    fresh.write_text("in the way")
    assert library.obstacle() is None
    assert fresh.read_text() == "in the way"


@needs_kernels
def test_without_a_home_a_process_compiles_its_own(fresh, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", no_home)
    assert library.obstacle() is None


@needs_kernels
def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError):
        library.call("winograd_kernels", torch.zeros(4))
    with pytest.raises(ctypes.ArgumentError):
        library.call("winograd_kernels", *[0.5] * 8)


@needs_kernels
def test_processes_that_compile_at_once_do_not_disturb_each_other(tmp_path):
    program = "from geodm_lightning.native import library; print(library.obstacle())"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    runs = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    assert [run.communicate(timeout=120)[0].strip() for run in runs] == [b"None"] * 3
    assert len(list((tmp_path / "geodm_lightning").iterdir())) == 1


@needs_kernels
@pytest.mark.parametrize("bad", [torch.zeros(4, dtype=torch.float64), torch.zeros(4, 4).t()[:2]])
def test_tensors_that_kernels_cannot_read_are_refused(bad):
    with pytest.raises(ValueError, match="contiguous float32"):
        library.call("winograd_kernels", bad)
