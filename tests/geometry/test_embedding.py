import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from geodm_lightning.geometry import Euclidean, Hyperbolic, Spherical, Stereographic

BENT = 0.7


SPACES = {
    "flat": Euclidean,
    "hyperbolic": lambda: Hyperbolic(BENT, learnable=True),
    "spherical": lambda: Spherical(BENT, learnable=True),
    "stereographic": lambda: Stereographic(BENT, learnable=True),
    "stereographic, open": lambda: Stereographic(-BENT, learnable=True),
}


@pytest.fixture(params=SPACES)
def embedded(request, device, rng):
    """A space, tangents ``(2, 5, 4)`` with the origin among them, and their embedding."""
    space = SPACES[request.param]().to(device, torch.float64)
    u = torch.randn(2, 5, 4, generator=rng, device=device, dtype=torch.float64)
    u[0, 0] = 0
    u.requires_grad_()
    return space, u, space.embedding(u, u.norm(dim=-1))


def slopes(value, space, u, extra=()):
    weights = torch.arange(1.0, 1 + value.numel(), device=u.device, dtype=u.dtype)
    inputs = [u, *space.parameters(), *extra]
    total = (value.flatten() * weights).sum()
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def test_inner_products_are_those_of_the_coordinates(embedded, rng):
    space, u, embedding = embedded
    others = torch.randn(3, embedding.width, generator=rng, device=u.device, dtype=u.dtype)
    others.requires_grad_()
    expected, actual = space.embed(u) @ others.mT, embedding.inner(others)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    pairs = zip(
        slopes(actual, space, u, [others]), slopes(expected, space, u, [others]), strict=True
    )
    for own, plain in pairs:
        torch.testing.assert_close(own, plain, rtol=1e-10, atol=1e-10)


def test_length_is_that_of_the_coordinates_and_its_slope_is_finite(embedded):
    space, u, embedding = embedded
    expected, actual = space.embed(u).norm(dim=-1), embedding.length()
    assert actual[0, 0] == 0
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    for own, plain in zip(slopes(actual, space, u), slopes(expected, space, u), strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-10, atol=1e-10)


def test_a_factor_multiplies_every_coordinate(embedded):
    space, u, embedding = embedded
    factor = torch.arange(1.0, 6.0, device=u.device, dtype=u.dtype)
    expected = factor[:, None] * space.embed(u)
    torch.testing.assert_close(embedding.times(factor).coordinates(), expected)


def test_coordinates_are_ambient_ones(embedded):
    space, u, embedding = embedded
    ambient = space.expmap0(u)
    if isinstance(space, Hyperbolic):
        ambient = ambient[..., 1:]
    elif isinstance(space, Spherical):
        ambient = ambient - space.expmap0(torch.zeros_like(u))
    elif isinstance(space, Stereographic):
        ambient = 2 * ambient
    torch.testing.assert_close(embedding.coordinates(), ambient, rtol=1e-12, atol=1e-12)


def test_known_scales_and_heights(device):
    radius = torch.tensor([0.0, 1.0, 2.0], device=device, dtype=torch.float64)
    scale, height = Hyperbolic(1.0).to(device).lift(radius)
    assert height is None
    expected = [1.0, math.sinh(1), math.sinh(2) / 2]
    torch.testing.assert_close(scale.double(), radius.new_tensor(expected))
    scale, height = Spherical(1.0).to(device).lift(radius)
    expected = [1.0, math.sin(1), math.sin(2) / 2]
    torch.testing.assert_close(scale.double(), radius.new_tensor(expected))
    expected = [0.0, math.cos(1) - 1, math.cos(2) - 1]
    torch.testing.assert_close(height.double(), radius.new_tensor(expected))


def test_a_gradient_of_the_curvature_alone_needs_no_second_product(device, rng):
    space = Spherical(BENT, learnable=True).to(device)
    u, others = (torch.randn(6, d, generator=rng, device=device) for d in (4, 5))
    with FlopCounterMode(display=False) as forward:
        value = space.embedding(u, u.norm(dim=-1)).inner(others).sum()
    with FlopCounterMode(display=False) as backward:
        value.backward()
    assert space.log_magnitude.grad != 0
    assert (forward.get_total_flops(), backward.get_total_flops()) == (2 * 6 * 6 * 4, 0)
