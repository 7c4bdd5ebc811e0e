"""Fixtures shared by all tests."""

import os

from geodm_lightning.openmp import wait_briefly

wait_briefly()  # before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process per core: more threads would wait

import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def rng(device: torch.device) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(0)
