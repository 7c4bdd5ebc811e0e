"""Networks are built from settings in the layout that was asked for."""

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.networks.pool import RandomPool, TrainedPool
from geodm_lightning.site import Site
from tests.experiment import TINY, compose_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return assembly.build_data(compose_settings(*TINY), CPU)


@pytest.mark.parametrize(
    ("pool", "kind"),
    [(("pool=random",), RandomPool), (("pool=trained", "pool.count=2"), TrainedPool)],
    ids=["random", "trained"],
)
def test_channels_that_lie_together_stay_so_and_change_rounding_only(data, tmp_path, pool, kind):
    settings = compose_settings(*TINY, *pool, f"cache_dir={tmp_path}")
    pools = [
        assembly.build_pool(settings, data, Site(CPU, channels_last=together))
        for together in (False, True)
    ]
    assert all(isinstance(own, kind) for own in pools)
    images = torch.randn(5, data.spec.channels, data.spec.resolution, data.spec.resolution)
    for step in (0, 1):
        plain, together = (own.network(step) for own in pools)
        kernels = [p for p in together.parameters() if p.dim() == 4 and p.shape[1] > 1]
        assert kernels
        for kernel in kernels:
            assert kernel.is_contiguous(memory_format=torch.channels_last)
            assert not kernel.is_contiguous()
        for own, other in zip(plain.parameters(), together.parameters(), strict=True):
            assert torch.equal(own, other)
        torch.testing.assert_close(together.embed(images), plain.embed(images))
