"""A process is prepared as its settings say."""

import pytest
import torch

from geodm_lightning.processes import Processes
from geodm_lightning.site import open_site


@pytest.fixture
def threads():
    """The CPU threads of this process, which are restored afterwards."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_a_process_computes_with_the_threads_it_is_given(threads):
    options = {"precision": "32-true", "processes": Processes()}
    open_site("cpu", threads=threads + 1, **options)
    assert torch.get_num_threads() == threads + 1
    open_site("cpu", threads=None, **options)
    assert torch.get_num_threads() == threads + 1


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    place = Processes(rank=11, world_size=16, local_rank=3)
    for accelerator, device in (("cuda", torch.device("cuda", 3)), ("cpu", torch.device("cpu"))):
        site = open_site(accelerator, precision="bf16-mixed", threads=None, processes=place)
        assert site == (device, "bf16-mixed", place)
