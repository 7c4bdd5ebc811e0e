"""An iteration reads nothing back from its device: each reading makes a GPU wait for the host.

What lies on the device is followed through the operations on a CPU, where reading costs nothing:
pixels, networks and geometry, and all that is computed from them. Draws are made on the CPU.
"""

import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import geodm_lightning
from geodm_lightning import assembly
from geodm_lightning.distillers.matching import MatchingDistiller
from geodm_lightning.site import Site
from tests.experiment import TINY, compose_settings

ROOT = Path(geodm_lightning.__file__).parent
METHODS = {"cpu", "numpy", "tolist"}  # which read without one of these operations
OPERATIONS = {"_local_scalar_dense", "_unique2", "equal", "is_nonzero", "masked_select", "nonzero"}
# Whether scalings have left their range, once in 25 rounds.
TRANSPORT = "transport/rounds.py scaling_rounds"
CASES = {
    "default": ((), {TRANSPORT: 2}),
    "dsdm": (("strategy=dsdm", "pool.count=2"), {TRANSPORT: 2}),
    "history": (("strategy=hdd",), {TRANSPORT: 2}),
    "sliced": (("transport=sliced",), {}),
    "calibrated": (
        ("strategy=ncfm", "pool.count=2", "matching.base.num_frequencies=16"),
        {TRANSPORT: 2},
    ),
}


class Device(TorchDispatchMode):
    """Follows the storages that come from a few tensors.

    Attributes:
        reads: File and function of every reading.
    """

    def __init__(self, tensors):
        super().__init__()
        self._kept = []  # so that no address is used again
        self._storages = set()
        self.reads = []
        for tensor in tensors:
            self._add(tensor)

    def _add(self, tensor):
        self._kept.append(tensor)
        self._storages.add(tensor.untyped_storage()._cdata)

    def holds(self, value):
        """Whether a value is a tensor that lies on the device."""
        return isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in self._storages

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_there = any(map(self.holds, tree_leaves((args, kwargs))))
        if is_there and func.overloadpacket.__name__ in OPERATIONS:
            self.note()
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result) if is_there else ():
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        return result

    def note(self):
        """Remember which function of the package reads."""
        frames = [f for f in traceback.extract_stack() if ROOT in Path(f.filename).parents]
        last = frames[-1] if frames else traceback.extract_stack()[-3]
        name = last.filename.removeprefix(f"{ROOT}/")
        self.reads.append(f"{name} {last.name}")


class Methods(TorchFunctionMode):
    """Tells a device of methods that read from it without an operation."""

    def __init__(self, device):
        super().__init__()
        self._device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in METHODS and self._device.holds(args[0]):
            self._device.note()
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def data():
    return assembly.build_data(compose_settings(*TINY), torch.device("cpu"))


def build(data, tmp_path, *overrides):
    settings = compose_settings(
        *TINY, *overrides, "distiller.log_every=50", f"cache_dir={tmp_path}"
    )
    site = Site(torch.device("cpu"))
    real = assembly.build_real_features(settings, data, site)
    distiller = assembly.build_distiller(settings, data, site, real)
    distiller.manual_backward = torch.Tensor.backward
    return distiller


def reads_of(distiller: MatchingDistiller, iteration: int) -> list[str]:
    """Return where an iteration reads from the device."""
    network = distiller.real.pool.network(iteration)
    state = (*distiller.parameters(), *distiller.buffers(), *network.state_dict().values())
    device = Device((distiller.real.table._images, *state))
    with Methods(device), device:
        distiller.training_step(iteration)
    return device.reads


@pytest.mark.parametrize("case", CASES)
def test_an_iteration_between_two_rows_reads_nothing_but(data, tmp_path, case):
    overrides, known = CASES[case]
    distiller = build(data, tmp_path, *overrides)
    distiller.training_step(0)
    distiller.training_step(1)
    assert Counter(reads_of(distiller, 2)) == known


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t.sum().item(),
        lambda t: t.tolist(),
        lambda t: bool(t.sum() > 0),
        lambda t: t.nonzero(),
        lambda t: t.cpu().numpy(),
        lambda t: torch.equal(t, t),
    ],
    ids=["item", "tolist", "bool", "nonzero", "cpu", "equal"],
)
def test_a_planted_reading_is_found(data, tmp_path, read):
    distiller = build(data, tmp_path, "transport=sliced")
    clamp = distiller.synthetic.clamp_
    distiller.synthetic.clamp_ = lambda: (clamp(), read(distiller.synthetic.pixels.detach()))
    distiller.training_step(0)
    distiller.training_step(1)
    assert reads_of(distiller, 2)
