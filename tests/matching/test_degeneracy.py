"""Minimised jointly, the geometry shrinks its distances unless it is regularised.

The pixels of the digits are the features, twelve images of each class the synthetic set, which
does not move: only curvatures and weights are learned.
"""

import pytest
import torch
from sklearn.datasets import load_digits

from geodm_lightning.geometry import build_product
from geodm_lightning.matching import GeometricMatching, MeanMatching, TransportMatching

FACTORS = ["euclidean", "hyperbolic", "spherical"]


@pytest.fixture(scope="module")
def classes():
    """Real ``(10, 100, 64)`` and synthetic ``(10, 12, 64)`` features."""
    digits = load_digits()
    pixels, labels = torch.from_numpy(digits.data).float(), torch.from_numpy(digits.target)
    by_class = torch.stack([pixels[labels == label][:112] for label in range(10)])
    return by_class[:, :100], by_class[:, 100:]


def learn(classes, *, curvature_weight, entropy_weight, learning="joint", num_steps=100):
    """Learn the geometry alone and return what it ends with."""
    geometry = build_product(FACTORS, curvature=1.0, learning=learning, skip_below=0.0)
    matching = GeometricMatching(
        MeanMatching(),
        geometry,
        TransportMatching(num_iters=10, max_real=25),
        curvature_weight=curvature_weight,
        entropy_weight=entropy_weight,
    )
    optimizer = torch.optim.Adam(matching.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_steps):
        optimizer.zero_grad()
        matching(*classes, generator=generator).total.sum().backward()
        for parameter in matching.ascending_parameters():
            parameter.grad.neg_()
        optimizer.step()
        geometry.clamp_()
    return geometry.state()


def test_without_regularisers_the_shortest_distance_takes_all(classes):
    state = learn(classes, curvature_weight=0.0, entropy_weight=0.0)
    assert state["weight/spherical"] > 0.99
    assert state["curvature/spherical"] > 4.5  # of at most 5: the sphere shrinks


def test_regularisers_far_smaller_than_transport_do_not_help(classes):
    state = learn(classes, curvature_weight=1.0, entropy_weight=1.0)
    assert state["weight/spherical"] > 0.99


def test_with_them_the_geometry_stays_inside(classes):
    state = learn(classes, curvature_weight=30.0, entropy_weight=30.0)
    assert min(state[f"weight/{name}"] for name in FACTORS) > 0.1
    assert 0.3 < state["curvature/spherical"] < 3
    assert 0.3 < -state["curvature/hyperbolic"] < 3


def test_an_adversary_goes_to_the_longest_distance(classes):
    state = learn(classes, curvature_weight=0.0, entropy_weight=0.0, learning="adversarial")
    assert state["weight/hyperbolic"] > 0.99
    assert state["curvature/hyperbolic"] < -3.5


def test_a_regularised_adversary_stays_inside(classes):
    state = learn(classes, curvature_weight=30.0, entropy_weight=30.0, learning="adversarial")
    assert min(state[f"weight/{name}"] for name in FACTORS) > 0.1
    assert 0.3 < -state["curvature/hyperbolic"] < 3
