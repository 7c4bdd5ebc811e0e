"""Latents of real images are made once, wherever that was interrupted."""

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.diffusion.autoencoder import build_autoencoder
from geodm_lightning.diffusion.codec import AutoencoderCodec
from geodm_lightning.diffusion.latent_table import LatentTable
from geodm_lightning.distillers.real_latents import encode_real, resized
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_generator
from tests.experiment import TINY, compose_settings

LATENT = (4, 8, 8)


@pytest.fixture(scope="module")
def images():
    return assembly.build_data(compose_settings(*TINY), torch.device("cpu")).train


@pytest.fixture(scope="module")
def codec():
    generator = torch.Generator().manual_seed(0)
    return AutoencoderCodec(
        build_autoencoder(1, widths=(8, 8), latent_channels=4, generator=generator)
    )


class Counted:
    """A codec that counts and may be interrupted."""

    def __init__(self, codec, limit=10**9):
        self.codec, self.limit, self.num = codec, limit, 0

    def encode(self, images, *, generator):
        self.num += len(images)
        if self.num > self.limit:
            raise KeyboardInterrupt
        return self.codec.encode(images, generator=generator)


def encode(table, images, codec, processes=None):
    counted = codec if isinstance(codec, Counted) else Counted(codec)
    encode_real(
        table,
        images,
        images.draw(table.rows_shape[1], generator=keyed_generator(0, "x")),
        codec=counted,
        resolution=16,
        processes=processes or Processes(),
        device=torch.device("cpu"),
    )
    return counted.num


def table_at(folder, num=5):
    return LatentTable.open(folder, (10, num), LATENT, torch.float16, {})


def everything(table):
    return table.read(torch.arange(10)[:, None], torch.arange(table.rows_shape[1])[None])


def test_a_latent_is_the_codecs_of_the_resized_image_by_its_own_noise(images, codec, tmp_path):
    table = table_at(tmp_path)
    assert encode(table, images, codec) == 50
    index = int(images.draw(5, generator=keyed_generator(0, "x"))[7, 3])
    picture = resized(images.gather(torch.tensor([index])), 16)
    expected = codec.encode(picture, generator=keyed_generator(0, "encode", index))
    assert torch.equal(everything(table)[7, 3], expected[0].half().float())


def test_complete_latents_are_not_made_again(images, codec, tmp_path):
    encode(table_at(tmp_path), images, codec)
    assert encode(table_at(tmp_path), images, codec) == 0


def test_partly_written_latents_are_completed_on_any_number_of_processes(images, codec, tmp_path):
    whole, broken = table_at(tmp_path / "whole"), table_at(tmp_path / "broken")
    encode(whole, images, codec)
    with pytest.raises(KeyboardInterrupt):
        encode(broken, images, Counted(codec, limit=40))
    assert int(broken.missing().sum()) == 18  # a batch of 32 was whole
    values = bytearray((tmp_path / "broken" / "latents.bin").read_bytes())
    values[0] ^= 1
    (tmp_path / "broken" / "latents.bin").write_bytes(values)
    made = [encode(broken, images, codec, NoWaiting(rank, 2)) for rank in range(2)]
    assert made == [1, 18]  # the damaged one, the missing ones
    assert torch.equal(everything(broken), everything(whole))


class NoWaiting(Processes):
    """One of several processes that are run one after the other."""

    def barrier(self):
        pass


def test_a_picture_keeps_its_mean_when_resized():
    picture = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert resized(picture, 8) is picture
    smaller = resized(picture, 4)
    assert smaller.shape == (2, 1, 4, 4)
    torch.testing.assert_close(smaller.mean((2, 3)), picture.mean((2, 3)), rtol=0, atol=0.05)
    flat = torch.full((1, 3, 5, 5), 0.25)
    torch.testing.assert_close(resized(flat, 16), torch.full((1, 3, 16, 16), 0.25))
