import ot
import pytest
import torch

from geodm_lightning.matching import OptimalTransport, TransportMatching, scale_features
from geodm_lightning.types import InputError


def loss(geometry, real, synthetic, **options):
    matching = OptimalTransport(TransportMatching(**options))
    return matching(scale_features(real, synthetic), geometry, generator=torch.Generator())


def test_one_synthetic_sample_costs_the_mean_squared_distance(features, flat, dtype):
    real, synthetic = features(dtype, num_synthetic=1)
    expected = (real - synthetic).square().sum(-1).mean(-1)
    torch.testing.assert_close(loss(flat, real, synthetic), expected, rtol=1e-5, atol=0)


def test_sharp_transport_is_the_exact_cost_in_the_unit_of_the_features(features, flat):
    real, synthetic = features(torch.float64)
    expected = torch.tensor(
        [
            ot.emd2([], [], torch.cdist(r, s).square().cpu().numpy())
            for r, s in zip(real, synthetic, strict=True)
        ],
        dtype=torch.float64,
    )
    actual = loss(flat, real, synthetic, epsilon=1e-3, num_iters=2000)
    torch.testing.assert_close(actual.cpu(), expected, rtol=5e-3, atol=0)


def test_loss_is_the_transport_term_at_its_own_weight(features, learned, dtype):
    """So curvature and entropy keep the balance with transport that they have in GeoDM."""
    real, synthetic = features(dtype)
    matching = OptimalTransport(TransportMatching())
    scaled = scale_features(real, synthetic)
    term = 30 * matching.magnitude(scaled) * matching.transport(scaled, learned).cost
    actual = matching(scaled, learned, generator=torch.Generator())
    torch.testing.assert_close(actual, term)


def test_slices_come_from_the_generator_alone(features, learned):
    scaled = scale_features(*features(torch.float64))
    matching = OptimalTransport(TransportMatching(ground="factors", solver="sliced"))
    seeds = (1, 1, 2)
    one, same, other = (
        matching(scaled, learned, generator=torch.Generator().manual_seed(seed)) for seed in seeds
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_refuses_a_norm_that_is_not_positive():
    with pytest.raises(InputError, match="reference_norm must be positive, got -1"):
        OptimalTransport(TransportMatching(), reference_norm=-1.0)
