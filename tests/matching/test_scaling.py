import pytest
import torch

from geodm_lightning.matching import scale_features


def test_real_features_have_unit_mean_norm_in_every_class(features, dtype):
    real, synthetic = features(dtype)
    scaled = scale_features(real, synthetic)
    mean_norm = scaled.real.norm(dim=-1).mean(-1)
    torch.testing.assert_close(mean_norm, torch.ones_like(mean_norm))
    for side, unscaled in ((scaled.real, real), (scaled.synthetic, synthetic)):
        torch.testing.assert_close(side * scaled.norm[:, None, None], unscaled)


def test_norms_keep_their_differences(features, dtype):
    real, synthetic = features(dtype)
    ratio = scale_features(real, synthetic).real.norm(dim=-1) / real.norm(dim=-1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


@pytest.mark.parametrize("factor", [1e-3, 40.0])
def test_unit_of_the_features_does_not_matter(features, dtype, factor):
    real, synthetic = features(dtype)
    one, other = scale_features(real, synthetic), scale_features(factor * real, factor * synthetic)
    torch.testing.assert_close(one.real, other.real)
    torch.testing.assert_close(one.synthetic, other.synthetic)
    torch.testing.assert_close(one.norm * factor, other.norm)


def test_the_divisor_has_no_gradient(features):
    real, synthetic = features(torch.float64)
    scaled = scale_features(real.requires_grad_(), synthetic)
    assert not scaled.norm.requires_grad
    (gradient,) = torch.autograd.grad(scaled.real.sum(), real)
    torch.testing.assert_close(gradient, (1 / scaled.norm)[:, None, None].expand_as(real))


def test_half_precision_is_raised_and_zero_features_stay_finite(features):
    real, synthetic = features(torch.float32)
    assert scale_features(real.bfloat16(), synthetic.bfloat16()).synthetic.dtype == torch.float32
    assert all(member.isfinite().all() for member in scale_features(0 * real, 0 * synthetic))
