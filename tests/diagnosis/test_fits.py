"""Fits of constant curvature on points of known spaces, the control and the proposal."""

import pytest
import torch

from geodm_lightning.diagnosis.cloud import diagnose, gaussian_control
from geodm_lightning.diagnosis.constant_curvature import (
    best_fit,
    flat_residual,
    hyperbolic_residual,
    spherical_residual,
    stress,
)
from geodm_lightning.diagnosis.measured import Sampling, average, measure
from geodm_lightning.diagnosis.proposal import propose
from geodm_lightning.types import InputError
from tests.diagnosis.test_hyperbolicity import random_tree

SAMPLING = Sampling(num_images=60, num_controls=2, num_triangles=200)


@pytest.fixture
def distances(draw, build):
    """Distances of 40 points of a space, at any precision."""

    def points(name, magnitude=1.0, *, dim=3, dtype=torch.float64):
        radius = torch.linspace(0.1, 1, 40)[:, None].to(draw(1, 1, dtype=dtype).device)
        u = draw(40, dim, radius=radius, dtype=dtype)
        manifold = build(name, magnitude)
        manifold = manifold.double() if dtype is torch.float64 else manifold
        return manifold.cdist(u, u)

    return points


@pytest.mark.parametrize("magnitude", [0.5, 2.0])
@pytest.mark.parametrize("dim", [2, 10])
def test_residual_vanishes_in_the_space_of_the_points(distances, magnitude, dim):
    at = torch.tensor(magnitude, device=distances("euclidean").device)
    assert flat_residual(distances("euclidean", dim=dim)) < 1e-5
    assert hyperbolic_residual(distances("hyperbolic", magnitude, dim=dim), at) < 1e-5
    assert spherical_residual(distances("spherical", magnitude, dim=dim), at) < 1e-5


@pytest.mark.parametrize("magnitude", [0.3, 1.0, 3.0])
def test_best_curvature_is_that_of_the_space(distances, dtype, magnitude):
    for name, residual in (("hyperbolic", hyperbolic_residual), ("spherical", spherical_residual)):
        own = distances(name, magnitude, dtype=dtype)
        found = best_fit(own, residual)
        assert found.magnitude.item() == pytest.approx(magnitude, rel=0.11)
        assert found.residual < 0.2 * flat_residual(own)


def test_wrong_sign_and_flat_points_fit_best_where_flattest(distances):
    for name in ("hyperbolic", "spherical", "euclidean"):
        others = {"hyperbolic": hyperbolic_residual, "spherical": spherical_residual}
        others.pop(name, None)
        for residual in others.values():
            found = best_fit(distances(name), residual)
            assert found.magnitude.item() == pytest.approx(0.1)
            assert found.residual > flat_residual(distances(name))


def test_small_curvature_is_flat(distances):
    own = distances("hyperbolic", 2.0)
    tiny = torch.tensor(1e-6, device=own.device)
    expected = flat_residual(own).item()
    assert hyperbolic_residual(own, tiny).item() == pytest.approx(expected, rel=1e-2)
    assert spherical_residual(own, tiny).item() == pytest.approx(expected, rel=1e-2)


def test_residuals_scale_with_length_and_inverse_square_of_curvature(distances):
    own = distances("euclidean")
    at = torch.tensor(1.0, device=own.device)
    for residual in (hyperbolic_residual, spherical_residual):
        torch.testing.assert_close(residual(3 * own, at / 9), residual(own, at))
    torch.testing.assert_close(flat_residual(own[None] * 3)[0], flat_residual(own))


def test_tree_fits_hyperbolic_space_better_the_more_it_is_curved(device, rng):
    tree = random_tree(rng, 40, device)
    tree = tree / tree.mean()
    found = best_fit(tree, hyperbolic_residual)
    assert found.magnitude.item() == pytest.approx(5.0)
    assert found.residual < 0.7 * flat_residual(tree)
    assert best_fit(tree, spherical_residual).residual > found.residual


def test_points_further_apart_than_a_sphere_reaches_come_to_its_ends(device):
    """Half of a great circle at curvature 1 is pi: of a distance of 5 the rest is missing."""
    two = 5 * (1 - torch.eye(2, dtype=torch.float64, device=device))
    found = spherical_residual(two, torch.tensor(1.0, device=device))
    assert found.item() == pytest.approx((5 - torch.pi) / 5)


def test_stress_is_relative(device):
    own = 1 - torch.eye(4, device=device)
    torch.testing.assert_close(stress(1.1 * own, own), torch.tensor(0.1, device=device))
    assert stress(own, torch.zeros_like(own)) == 0


def test_control_has_mean_and_covariance_of_the_points(device, rng):
    mixing = torch.tensor([[2.0, 0, 0], [1, 0.5, 0], [0, 0, 0.1]], device=device)
    points = torch.randn(400, 3, generator=rng, device=device) @ mixing + 1
    generator = torch.Generator().manual_seed(0)
    control = gaussian_control(points, 8000, num_clouds=2, generator=generator)
    assert control.shape == (2, 8000, 3)
    for cloud in control:
        torch.testing.assert_close(cloud.mean(0), points.mean(0), rtol=0, atol=0.05)
        torch.testing.assert_close(cloud.T.cov(), points.T.cov(), rtol=0.05, atol=0.05)


def sphere_and_tree(rng, device):
    """Two clouds whose inner geometry is known: a round sphere, branches at right angles."""
    sphere = torch.randn(100, 3, generator=rng, device=device)
    sphere = sphere / sphere.norm(dim=-1, keepdim=True)
    along = torch.linspace(0.05, 1, 12, device=device)[:, None]
    tree = torch.cat([along * axis for axis in torch.eye(8, device=device)])
    return {"sphere": sphere, "tree": tree}


def test_graph_of_a_sphere_is_round_and_that_of_a_tree_is_hyperbolic(device, rng):
    clouds = sphere_and_tree(rng, device)
    generator = torch.Generator().manual_seed(0)
    sphere = diagnose(clouds["sphere"], num_neighbours=8, generator=generator)
    assert sphere.spherical.magnitude.item() == pytest.approx(1, rel=0.15)
    assert sphere.triangles.curvature.item() == pytest.approx(1, rel=0.3)
    assert sphere.spherical.residual < 0.5 * sphere.flat
    tree = diagnose(clouds["tree"], num_neighbours=4, generator=generator)
    assert tree.hyperbolic.residual < 0.8 * tree.flat
    assert tree.triangles.negative > 0.3
    assert tree.triangles.curvature < -2


def test_a_sphere_is_told_from_its_control_and_a_gaussian_is_not(rng, device):
    sphere = sphere_and_tree(rng, device)["sphere"].reshape(10, 10, 3)
    proposal = measure("sphere", sphere, sampling=SAMPLING, seed=0).proposal
    assert proposal.curvature["spherical"] == pytest.approx(1, rel=0.25)
    assert proposal.curvature["hyperbolic"] == 1  # no evidence
    assert proposal.weights["spherical"] > 0.4
    gaussian = torch.randn(10, 10, 3, generator=rng, device=device)
    flat = measure("gaussian", gaussian, sampling=SAMPLING, seed=0).proposal
    assert all(abs(weight - 1 / 3) < 0.1 for weight in flat.weights.values())


def test_measures_do_not_depend_on_the_unit_of_the_features(rng, device):
    features = torch.randn(10, 8, 5, generator=rng, device=device)
    one = measure("a", features, sampling=SAMPLING, seed=3)
    other = measure("a", 50 * features, sampling=SAMPLING, seed=3)
    assert other.data == pytest.approx(one.data, rel=1e-3)
    assert all(len(values) == 2 for values in one.controls.values())


def test_average_is_of_every_number(rng):
    rows = [
        measure("a", torch.randn(10, 8, 5, generator=rng), sampling=SAMPLING, seed=seed)
        for seed in range(2)
    ]
    both = average(rows, "both")
    for key, value in both.data.items():
        assert value == pytest.approx((rows[0].data[key] + rows[1].data[key]) / 2)
        expected = (rows[0].controls[key][1] + rows[1].controls[key][1]) / 2
        assert both.controls[key][1] == pytest.approx(expected)


EQUAL = {"euclidean": 0.2, "hyperbolic": 0.3, "spherical": 0.1}


def test_fits_like_those_of_the_controls_change_nothing():
    found = propose(EQUAL, {name: [value] * 3 for name, value in EQUAL.items()}, {"spherical": 4.0})
    assert list(found.weights.values()) == pytest.approx([1 / 3] * 3, abs=1e-3)
    assert sum(found.weights.values()) == pytest.approx(1, abs=1e-6)
    assert found.curvature == {"spherical": 1.0}
    assert "stays at 1" in found.reason


def test_weights_follow_the_gain_and_one_better_control_withholds_the_curvature():
    fits = {**EQUAL, "hyperbolic": 0.1}
    controls = {name: [value] * 3 for name, value in EQUAL.items()}
    found = propose(fits, controls, {"hyperbolic": 2.5})
    assert list(found.weights.values()) == pytest.approx([0.2, 0.6, 0.2])
    assert found.curvature == {"hyperbolic": 2.5}
    controls["hyperbolic"] = [0.3, 0.3, 0.09]
    assert propose(fits, controls, {"hyperbolic": 2.5}).curvature == {"hyperbolic": 1.0}


def test_refusals(rng):
    features = torch.randn(10, 4, 5, generator=rng)
    with pytest.raises(InputError, match="num_images is 60, but only 40"):
        measure("few", features, sampling=SAMPLING, seed=0)
    with pytest.raises(InputError, match="all zero or not finite"):
        measure("none", torch.zeros(10, 8, 5), sampling=SAMPLING, seed=0)
    with pytest.raises(InputError, match="n >= 4"):
        diagnose(torch.randn(3, 5, generator=rng), generator=rng)
    with pytest.raises(InputError, match="a covariance needs points"):
        gaussian_control(features[0, :1], 5, generator=rng)
