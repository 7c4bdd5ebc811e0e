"""The loss is built for the network it will see."""

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.data.catalog import dataset_spec
from tests.experiment import compose_settings


@pytest.mark.parametrize("data", ["digits", "mnist"])
@pytest.mark.parametrize("width", [6, 12])
def test_split_heads_divide_the_features_of_the_network(data, width):
    spec = dataset_spec(data)
    settings = compose_settings("geometry=split", "network=convnet", f"network.width={width}")
    network = assembly.network_builder(settings["network"], spec)(torch.Generator())
    geometry = assembly.build_matching(settings, spec).geometry
    blocks = geometry.coordinates(torch.zeros(1, network.num_features))
    assert sum(block.shape[-1] for block in blocks) == network.num_features
