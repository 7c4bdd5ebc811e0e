import pytest
import torch

from geodm_lightning.diffusion.autoencoder import (
    AutoencoderSettings,
    AutoencoderTraining,
    build_autoencoder,
)
from geodm_lightning.diffusion.codec import AutoencoderCodec
from geodm_lightning.diffusion.weights import identity_of, load_autoencoder, save_weights
from geodm_lightning.types import InputError

from .conftest import fit


def built(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return build_autoencoder(1, widths=(8, 16), latent_channels=4, generator=generator)


def trained(num_steps=50):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 1, 2, 2, generator=generator)
    images = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    settings = AutoencoderSettings(num_steps=num_steps, lr=3e-3)
    module = AutoencoderTraining(built(), settings=settings, seed=0)
    return images, fit(module, [(images, None)] * num_steps).autoencoder


def test_it_learns_to_rebuild_and_brings_latents_to_unit_scale():
    images, autoencoder = trained()
    errors = []
    for each in (built(), autoencoder):
        codec = AutoencoderCodec(each)
        latents = codec.encode(images, generator=torch.Generator().manual_seed(1))
        errors.append((codec.decode(latents) - images).abs().mean())
    assert errors[1] < 0.5 * errors[0]
    assert 0.7 < latents.square().mean().sqrt() < 1.4


def test_the_scale_is_kept_with_the_weights(tmp_path):
    _, autoencoder = trained(num_steps=2)
    loaded = load_autoencoder(save_weights(autoencoder, tmp_path / "vae"))
    assert loaded.config.scaling_factor == autoencoder.config.scaling_factor
    assert loaded.config.scaling_factor != built().config.scaling_factor
    assert identity_of(loaded) == identity_of(autoencoder)


def test_training_is_decided_by_its_seeds_alone():
    state = torch.get_rng_state()
    first, second = (trained(num_steps=2)[1] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert identity_of(first) == identity_of(second)
    assert identity_of(built(0)) != identity_of(built(1))


@pytest.mark.parametrize("widths", [(), (8, 12), (0,)])
def test_widths_that_groups_do_not_divide_are_refused(widths):
    with pytest.raises(InputError, match="are not all multiples of 8"):
        build_autoencoder(1, widths=widths, latent_channels=4, generator=torch.Generator())
