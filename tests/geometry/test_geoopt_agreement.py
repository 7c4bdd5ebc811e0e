"""Distances, maps and centroids against geoopt, in float64."""

import warnings

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # geoopt still uses torch.jit.script
    import geoopt

from geodm_lightning.geometry import build_product

DTYPE = torch.float64
CLOSE = {"rtol": 1e-7, "atol": 1e-9}
CURVATURES = [0.1, 1.0, 2.0]


@pytest.mark.parametrize("magnitude", CURVATURES)
def test_lorentz_model(draw, build, magnitude):
    manifold = build("hyperbolic", magnitude).double()
    reference = geoopt.Lorentz(k=1 / manifold.magnitude)
    u, v = draw(6, 4, radius=1.5, dtype=DTYPE), draw(5, 4, radius=0.7, dtype=DTYPE)
    x, y = manifold.expmap0(u), manifold.expmap0(v)
    lifted = torch.cat([torch.zeros_like(u[:, :1]), u], dim=-1)
    torch.testing.assert_close(x, reference.expmap0(lifted), **CLOSE)
    torch.testing.assert_close(manifold.cdist(u, v), reference.dist(x[:, None], y[None]), **CLOSE)


@pytest.mark.parametrize("magnitude", CURVATURES)
def test_poincare_ball(draw, build, magnitude):
    manifold = build("hyperbolic", magnitude).double()
    reference = geoopt.PoincareBall(c=manifold.magnitude)
    u, v = draw(6, 4, radius=1.5, dtype=DTYPE), draw(5, 4, radius=0.7, dtype=DTYPE)
    x, y = reference.expmap0(u / 2), reference.expmap0(v / 2)  # the ball's metric is 4 at 0
    torch.testing.assert_close(manifold.cdist(u, v), reference.dist(x[:, None], y[None]), **CLOSE)


def test_sphere(draw, build):
    manifold, reference = build("spherical"), geoopt.Sphere()
    u, v = draw(6, 4, radius=1.5, dtype=DTYPE), draw(5, 4, radius=0.7, dtype=DTYPE)
    x, y = manifold.expmap0(u), manifold.expmap0(v)
    pole = torch.zeros_like(x)
    pole[:, 0] = 1.0
    lifted = torch.cat([torch.zeros_like(u[:, :1]), u], dim=-1)
    torch.testing.assert_close(x, reference.expmap(pole, lifted), **CLOSE)
    torch.testing.assert_close(manifold.cdist(u, v), reference.dist(x[:, None], y[None]), **CLOSE)


@pytest.mark.parametrize("magnitude", CURVATURES)
def test_spherical_projection(draw, build, magnitude):
    manifold = build("spherical", magnitude).double()
    reference = geoopt.SphereProjection(k=manifold.magnitude)
    u, v = draw(6, 4, radius=0.9, dtype=DTYPE), draw(5, 4, radius=0.5, dtype=DTYPE)
    x, y = reference.expmap0(u / 2), reference.expmap0(v / 2)
    torch.testing.assert_close(manifold.cdist(u, v), reference.dist(x[:, None], y[None]), **CLOSE)


def test_product(draw, device):
    weights = [0.2, 0.5, 0.3]
    geometry = build_product(
        ["euclidean", "hyperbolic", "spherical"], curvature=1.0, weights=weights
    ).to(device)
    spaces = [geoopt.Stereographic(k=0.0), geoopt.PoincareBall(c=1.0), geoopt.SphereProjection()]
    reference = geoopt.StereographicProductManifold(*((space, 4) for space in spaces))
    u, v = draw(6, 4, radius=1.2, dtype=DTYPE), draw(5, 4, radius=0.7, dtype=DTYPE)
    x, y = (reference.pack_point(*(space.expmap0(w / 2) for space in spaces)) for w in (u, v))
    squared = [
        factor.dist(a[:, None], b[None]).square()
        for factor, a, b in zip(spaces, x.split(4, -1), y.split(4, -1), strict=True)
    ]
    torch.testing.assert_close(
        sum(squared), reference.dist2(x[:, None], y[None])
    )  # the reference agrees with itself at equal weights
    expected = sum(w * s for w, s in zip(weights, squared, strict=True))
    torch.testing.assert_close(geometry.cost(u, v), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("magnitude", CURVATURES)
def test_lorentz_centroid(draw, build, magnitude):
    manifold = build("hyperbolic", magnitude).double()
    k = 1 / manifold.magnitude
    u = draw(2, 9, 4, radius=1.5, dtype=DTYPE)
    mean = manifold.expmap0(u).mean(-2)
    norm = (-geoopt.Lorentz(k=k).inner(None, mean, mean)).sqrt()  # HDD's form
    expected = manifold.logmap0(k**0.5 * mean / norm[:, None])
    torch.testing.assert_close(manifold.centroid(u), expected, **CLOSE)
