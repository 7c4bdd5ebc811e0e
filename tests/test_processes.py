import pytest
import torch

from geodm_lightning.processes import Processes


@pytest.mark.parametrize("num_items", [1, 7, 10, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 16])
def test_shards_cover_all_items_once_and_evenly(num_items, world_size):
    shards = [Processes(rank, world_size).shard(num_items) for rank in range(world_size)]
    items = [item for shard in shards for item in range(num_items)[shard]]
    assert items == list(range(num_items))
    sizes = [shard.stop - shard.start for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_one_process_gathers_what_it_owns():
    owned = torch.rand(4, 2)
    assert Processes().gather(owned, 4) is owned
    assert Processes().sum_(owned) is owned
