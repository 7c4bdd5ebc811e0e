import pytest
import torch

from geodm_lightning.matching import MeanMatching, scale_features

RTOL = {torch.float32: 1e-6, torch.float64: 1e-12}


def loss(geometry, real, synthetic, generator):
    return MeanMatching()(scale_features(real, synthetic), geometry, generator=generator)


def test_flat_geometry_is_dm(features, flat, rng, dtype):
    real, synthetic = features(dtype)
    expected = (real.mean(1) - synthetic.mean(1)).square().sum(-1)
    torch.testing.assert_close(loss(flat, real, synthetic, rng), expected, rtol=RTOL[dtype], atol=0)


@pytest.mark.parametrize("offset", [1e-5, 1e-3])
def test_float32_holds_where_the_centroids_nearly_coincide(features, flat, learned, rng, offset):
    real, synthetic = features(torch.float32)
    near = real + offset * synthetic[:, :1]  # every feature of a class is moved alike
    for geometry in (flat, learned):
        actual = loss(geometry, real, near, rng).double()
        expected = loss(geometry, real.double(), near.double(), rng)
        # centroids are rounded before they are subtracted: 1e-7 of their size
        atol = 4 * (1e-7 * expected.sqrt() * real.norm(dim=-1).mean()).max().item()
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=atol)


def test_batched_equals_a_loop_over_classes(features, learned, rng, dtype):
    real, synthetic = features(dtype)
    loop = [loss(learned, real[i], synthetic[i], rng) for i in range(3)]
    torch.testing.assert_close(loss(learned, real, synthetic, rng), torch.stack(loop))


def test_order_and_rotation_do_not_matter(features, learned, device, rng, dtype):
    real, synthetic = features(dtype)
    q = torch.linalg.qr(torch.randn(8, 8, generator=rng, device=device, dtype=dtype)).Q
    expected = loss(learned, real, synthetic, rng)
    torch.testing.assert_close(loss(learned, real.flip(1), synthetic.flip(1), rng), expected)
    torch.testing.assert_close(loss(learned, real @ q, synthetic @ q, rng), expected)


def test_identical_sets_have_no_loss_and_no_gradient(features, learned, rng, dtype):
    real, _ = features(dtype)
    synthetic = real.clone().requires_grad_()
    value = loss(learned, real, synthetic, rng)
    gradients = torch.autograd.grad(value.sum(), [synthetic, *learned.parameters()])
    assert (value == 0).all()
    assert all((gradient == 0).all() for gradient in gradients)


def test_gradient_matches_finite_differences(features, learned, rng):
    real, synthetic = features(torch.float64)
    learned.double()
    assert torch.autograd.gradcheck(
        lambda synthetic, *_: loss(learned, real, synthetic, rng),
        (synthetic.requires_grad_(), *learned.parameters()),
    )
