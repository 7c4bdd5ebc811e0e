import pytest
import torch

from geodm_lightning.diffusion.autoencoder import build_autoencoder
from geodm_lightning.diffusion.codec import AutoencoderCodec, PixelCodec
from geodm_lightning.types import InputError


@pytest.fixture
def autoencoder():
    generator = torch.Generator().manual_seed(0)
    built = build_autoencoder(3, widths=(8, 16), latent_channels=4, generator=generator)
    built.register_to_config(scaling_factor=0.2)
    return built.double()


@pytest.fixture
def images(rng):
    return torch.rand(5, 3, 8, 8, generator=rng, device=rng.device, dtype=torch.float64)


def test_pixels_fill_the_range_from_minus_one_to_one(images):
    codec = PixelCodec(8)
    latents = codec.encode(images, generator=torch.Generator())
    torch.testing.assert_close(latents, 2 * images - 1)
    torch.testing.assert_close(codec.decode(latents), images)
    assert codec.latent_shape(8) == (3, 8, 8)


def test_pixels_of_another_size_are_refused(images):
    with pytest.raises(InputError, match="images of 28 px for a diffusion model of 8 px"):
        PixelCodec(8, channels=1).latent_shape(28)
    with pytest.raises(InputError, match=r"images of shape \(3, 8, 8\) .* 1 channels and 8 px"):
        PixelCodec(8, channels=1).encode(images, generator=torch.Generator())
    assert PixelCodec(8).identity() != PixelCodec(8, channels=1).identity()


def test_latents_are_the_scaled_posterior(autoencoder, images):
    codec = AutoencoderCodec(autoencoder, chunk=300)
    image = images[:1].cpu()
    posterior = autoencoder.encode(image * 2 - 1).latent_dist
    draws = codec.encode(image.expand(400, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    assert draws.shape == (400, *codec.latent_shape(8))
    error = (draws.mean(0) / 0.2 - posterior.mean) / posterior.std
    assert error.abs().max() < 5 / 400**0.5  # five standard errors
    torch.testing.assert_close(draws.std(0) / 0.2, posterior.std[0], rtol=0.2, atol=0)


def test_chunks_change_nothing(autoencoder, images):
    found = []
    for chunk in (1, 2, 5):
        codec = AutoencoderCodec(autoencoder, chunk=chunk)
        latents = codec.encode(images.cpu(), generator=torch.Generator().manual_seed(3))
        found.append((latents, codec.decode(latents)))
    for latents, decoded in found[1:]:
        torch.testing.assert_close(latents, found[0][0], rtol=0, atol=1e-10)
        torch.testing.assert_close(decoded, found[0][1], rtol=0, atol=1e-10)


def test_decoding_undoes_the_scale_and_is_differentiable(autoencoder):
    codec = AutoencoderCodec(autoencoder)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 4, 4, generator=generator, dtype=torch.float64)
    expected = (autoencoder.decode(latents / 0.2).sample + 1) / 2
    torch.testing.assert_close(codec.decode(latents), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda x: codec.decode(x).square().sum(), (latents.requires_grad_(),)
    )


def test_sixteen_bits_keep_latents_and_images_in_float32(autoencoder, images):
    codec = AutoencoderCodec(autoencoder.float(), precision="bf16-mixed")
    latents = codec.encode(images.cpu().float(), generator=torch.Generator().manual_seed(0))
    assert latents.dtype == codec.decode(latents).dtype == torch.float32


def test_the_identity_is_the_autoencoders(autoencoder):
    codec = AutoencoderCodec(autoencoder)
    before = codec.identity()
    assert codec.identity() == before
    with torch.no_grad():
        next(autoencoder.parameters()).add_(1e-3)
    assert AutoencoderCodec(autoencoder).identity() != before


@pytest.mark.parametrize("resolution", [7, 1, 0])
def test_resolutions_the_encoder_cannot_halve_are_refused(autoencoder, resolution):
    with pytest.raises(InputError, match=f"images of {resolution} px do not fit"):
        AutoencoderCodec(autoencoder).latent_shape(resolution)


def test_wrong_images_and_settings_are_refused(autoencoder, images):
    codec = AutoencoderCodec(autoencoder)
    for wrong in (images.cpu()[:, :1], images.cpu()[..., :6]):
        with pytest.raises(InputError, match="for an autoencoder of 3 channels and square images"):
            codec.encode(wrong, generator=torch.Generator())
    with pytest.raises(InputError, match="precision=half"):
        AutoencoderCodec(autoencoder, precision="half")
    with pytest.raises(InputError, match="chunk=0"):
        AutoencoderCodec(autoencoder, chunk=0)
