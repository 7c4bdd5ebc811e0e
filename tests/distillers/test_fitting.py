"""Laws of a geometry fitted on real features: it finds the space they were drawn in."""

import warnings

import pytest
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # geoopt still uses torch.jit.script
    import geoopt

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.table import TensorTable
from geodm_lightning.distillers.fitting import (
    FittingSettings,
    class_costs,
    fit_geometry,
)
from geodm_lightning.geometry import build_product
from geodm_lightning.types import DatasetSpec, InputError, LabelledImages

CLASSES, IMAGES, SIDE = 12, 120, 2  # features of 4 numbers: the pixels of 2×2 images
REACH = 6.0  # largest pixel
SETTINGS = FittingSettings(num_steps=60, real_batch=120, lr=0.05, log_every=30)


SHORT = SETTINGS._replace(num_steps=5, log_every=5)


class Pixels(nn.Module):
    """A network whose features are its images, stretched."""

    def __init__(self, stretch=1.0):
        super().__init__()
        self.stretch = stretch

    def embed(self, images):
        return self.stretch * images.flatten(1)


class PixelPool:
    def __init__(self, stretch=1.0):
        self.only = Pixels(stretch)

    def network(self, step):
        return self.only


def table_of(features):
    """A table whose normalised images are ``features (C, R, 4)``."""
    spec = DatasetSpec(
        name="points",
        num_classes=len(features),
        channels=1,
        resolution=SIDE,
        mean=(0.5,),
        std=(0.5 / REACH,),
        class_names=tuple(f"class {index}" for index in range(len(features))),
        licence="none",
        flip=False,
    )
    pixels = ((features / REACH + 1) / 2 * 255).round().clamp(0, 255).to(torch.uint8)
    labels = torch.arange(len(features)).repeat_interleave(features.shape[1])
    return TensorTable(LabelledImages(pixels.reshape(-1, 1, SIDE, SIDE), labels), spec)


def centres_and_noise(*, radius, noise):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, 1, 4, generator=generator)
    depth = torch.linspace(0.3, 1, CLASSES)[:, None, None]
    centres = centres / centres.norm(dim=-1, keepdim=True) * depth * radius
    return centres, torch.randn(CLASSES, IMAGES, 4, generator=generator) * noise


def hyperbolic_table():
    """Classes wrapped around centres of hyperbolic space, in normal coordinates at its origin."""
    lorentz = geoopt.Lorentz(k=1.0)
    centres, noise = centres_and_noise(radius=2.0, noise=0.5)
    origin = lorentz.expmap0(nn.functional.pad(centres, (1, 0)))
    sideways = lorentz.transp0(origin, nn.functional.pad(noise, (1, 0)))
    return table_of(lorentz.logmap0(lorentz.expmap(origin, sideways))[..., 1:])


def flat_table():
    centres, noise = centres_and_noise(radius=2.0, noise=0.5)
    return table_of(centres + noise)


def mean_norm(table):
    pixels = table.gather(torch.arange(len(table))).flatten(1)
    return ((2 * pixels - 1) * REACH).norm(dim=-1).mean().item()


def product(factors=("euclidean", "hyperbolic"), **options):
    return build_product(list(factors), curvature=1.0, learning="from_real", **options)


def fit(table, geometry, *, stretch=1.0, settings=SETTINGS, seed=0):
    return fit_geometry(
        geometry,
        table=table,
        pool=PixelPool(stretch),
        augmentation=Augmentation("none"),
        settings=settings,
        seed=seed,
    )


@pytest.fixture(scope="module")
def tables():
    return {"hyperbolic": hyperbolic_table(), "flat": flat_table()}


@pytest.fixture(scope="module")
def products(tables):
    """The default product fitted on both tables, with its histories."""
    made = {}
    for name, table in tables.items():
        geometry = product(("euclidean", "hyperbolic", "spherical"))
        made[name] = geometry, fit(table, geometry)
    return made


def net_curvature(geometry):
    """What the product looks like from nearby: the mean of its curvatures by weight."""
    state, curved = geometry.state(), ("hyperbolic", "spherical")
    return sum(state.get(f"weight/{n}", 0) * state.get(f"curvature/{n}", 0) for n in curved)


@pytest.mark.parametrize("factors", [["hyperbolic"], ["euclidean", "hyperbolic", "spherical"]])
def test_curvature_is_that_of_the_space_the_features_were_drawn_in(tables, products, factors):
    geometry = products["hyperbolic"][0]
    if len(factors) == 1:
        geometry = product(factors)
        fit(tables["hyperbolic"], geometry)
    expected = -(mean_norm(tables["hyperbolic"]) ** 2)  # curvature -1, at unit mean norm
    assert net_curvature(geometry) == pytest.approx(expected, rel=0.35)


def test_flat_features_leave_the_product_nearly_flat(products):
    assert -0.6 < net_curvature(products["flat"][0]) < 0.6


@pytest.mark.parametrize("factor", ["hyperbolic", "spherical"])
def test_flat_features_flatten_a_factor_alone(tables, factor):
    geometry = product([factor])
    fit(tables["flat"], geometry)
    assert abs(net_curvature(geometry)) < 0.5


def test_hyperbolic_features_give_the_hyperbolic_factor_the_weight(products):
    curved, flat = products["hyperbolic"][0].state(), products["flat"][0].state()
    assert curved["weight/hyperbolic"] > 0.8
    assert flat["weight/hyperbolic"] < 0.6


def test_nothing_is_gained_by_shrinking_distances(products):
    """The matching loss would raise the sphere's weight and curvature and flatten the other."""
    for geometry, _ in products.values():
        state = geometry.state()
        assert state["weight/spherical"] < 1 / 3
        assert state["curvature/hyperbolic"] < -1 < 0 < state["curvature/spherical"] < 1


def test_curvature_stays_in_its_range(tables):
    geometry = product(["hyperbolic"], curvature_range=(0.5, 1.5))
    fit(tables["hyperbolic"], geometry)
    assert -geometry.state()["curvature/hyperbolic"] == pytest.approx(1.5)


def test_loss_falls_and_is_told(products):
    for _, history in products.values():
        first, last = history[0], history[-1]
        assert (first["step"], last["step"]) == (30, 60)
        assert last["loss"] < first["loss"]
        assert last["accuracy"] > 5 / CLASSES
        assert {"temperature", "curvature/hyperbolic", "weight/spherical"} <= set(last)


def test_unit_of_the_features_does_not_matter(tables):
    one, other = product(), product()
    fit(tables["flat"], one, settings=SHORT)
    fit(tables["flat"], other, stretch=1000.0, settings=SHORT)
    assert one.state() == pytest.approx(other.state(), rel=1e-4)


def test_costs_are_distances_to_the_centroids_of_the_other_half(device, rng):
    features = torch.randn(3, 7, 5, generator=rng, device=device)
    geometry = build_product(["euclidean", "hyperbolic", "spherical"], curvature=0.7).to(device)
    costs = class_costs(geometry, features)
    unit = features / features.norm(dim=-1).mean()
    for label in range(3):
        for other in range(3):
            expected = sum(
                weight * factor.cdist(unit[label, 3:], factor.centroid(unit[other, :3])[None]) ** 2
                for _, factor, weight in geometry.active_factors()
            )
            torch.testing.assert_close(costs[label, :, other], expected[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", ["split", "learned"])
def test_costs_see_the_features_through_the_heads(device, rng, heads):
    features = torch.randn(3, 6, 5, generator=rng, device=device)
    options = {"curvature": 1.0, "heads": heads, "dims": [2, 3], "num_features": 5}
    geometry = build_product(["euclidean", "hyperbolic"], **options).to(device)
    unit = features / features.norm(dim=-1).mean()
    costs = class_costs(geometry, features)
    centroids, points = geometry.centroids(unit[:, :3]), geometry.coordinates(unit[:, 3:])
    for label in range(3):
        for other in range(3):
            pairs = [centroid[other].expand(3, -1) for centroid in centroids]
            expected = geometry.squared_distance([point[label] for point in points], pairs)
            torch.testing.assert_close(costs[label, :, other], expected, rtol=1e-4, atol=1e-5)


def test_same_seed_same_fit_another_seed_another(tables):
    states = []
    for seed in (0, 0, 1):
        geometry = product()
        fit(tables["flat"], geometry, settings=SHORT, seed=seed)
        states.append(geometry.state())
    assert states[0] == states[1] != states[2]


def test_chunks_of_classes_change_memory_only(tables):
    one, other = product(), product()
    fit(tables["flat"], one, settings=SHORT)
    fit(tables["flat"], other, settings=SHORT._replace(classes_per_step=5))
    assert one.state() == other.state()


def test_nothing_is_learned_afterwards(products):
    for geometry, _ in products.values():
        assert not any(parameter.requires_grad for parameter in geometry.parameters())
        assert (geometry.learn_weights, geometry.learn_curvature) == (False, False)


def test_refuses_a_geometry_that_learns_nothing_and_classes_of_one_image(tables):
    fixed = product(learn_curvature=False, learn_weights=False)
    with pytest.raises(InputError, match="nothing of the geometry is learned"):
        fit(tables["flat"], fixed)
    with pytest.raises(InputError, match="needs two of every class"):
        fit(tables["flat"].head(1), product())


@pytest.mark.parametrize("key", ["num_steps", "log_every", "real_batch"])
def test_refuses_sizes_too_small(tables, key):
    with pytest.raises(InputError, match=f"{key} of the fit must be at least"):
        fit(tables["flat"], product(), settings=SETTINGS._replace(**{key: 0}))
