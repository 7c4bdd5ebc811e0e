"""Samples depend on class, index and seed, and on nothing else."""

import pytest
import torch

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.diffusion.codec import PixelCodec
from geodm_lightning.diffusion.denoiser import Denoiser
from geodm_lightning.diffusion.latent_table import LatentTable
from geodm_lightning.diffusion.sampler import Sampler
from geodm_lightning.diffusion.training import build_transformer
from geodm_lightning.distillers.generation import decode_images, generate_latents
from geodm_lightning.guidance.deviation import DeviationGuidance
from geodm_lightning.processes import Processes
from geodm_lightning.randomness import keyed_generator

LATENT = (1, 8, 8)
LABELS = torch.tensor([2, 0, 3, 1])


class Deviation(DeviationGuidance):
    """Deviation that keeps what it was shown."""

    def begin(self, memory):
        self.seen = memory.clone()
        super().begin(memory)


@pytest.fixture(scope="module")
def sampler():
    generator = torch.Generator().manual_seed(0)
    sizes = {"hidden": 16, "depth": 1, "heads": 2, "patch_size": 4, "learned_variance": False}
    transformer = build_transformer(LATENT, 4, **sizes, generator=generator)
    with torch.no_grad():
        for parameter in transformer.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3, generator=generator)
    return Sampler(Denoiser(transformer, guidance_scale=2.0, guided_channels=None), num_steps=4)


def table_at(folder, ipc=2):
    return LatentTable.open(folder, (4, ipc), LATENT, torch.float32, {})


def sample(sampler, table, *, batch_size=16, guides=None, processes=None, labels=LABELS, stop=None):
    reports = []

    def report(count, statistics):
        reports.append(count)
        if len(reports) == stop:
            raise KeyboardInterrupt

    cost = generate_latents(
        sampler,
        table,
        labels=labels,
        seed=0,
        batch_size=batch_size,
        guides=guides,
        processes=processes or Processes(),
        device=torch.device("cpu"),
        report=report,
    )
    assert cost.num_images == sum(reports)
    return cost


def everything(table):
    num_classes, ipc = table.rows_shape
    return table.read(torch.arange(num_classes)[:, None], torch.arange(ipc)[None])


def strong(classes):
    return Deviation(scale=5e3, window=(0.0, 1.0))


def test_each_latent_is_what_the_sampler_makes_of_its_label_and_noise_alone(sampler, tmp_path):
    table = table_at(tmp_path)
    sample(sampler, table, batch_size=3)
    for row, label in enumerate(LABELS.tolist()):
        for index in range(2):
            alone = sampler.sample(
                torch.tensor([label]),
                generators=[keyed_generator(0, "generation", row, index)],
                guidance=None,
            )
            found = table.read(torch.tensor([row]), torch.tensor([index]))
            torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("guides", [None, strong], ids=["unguided", "guided"])
def test_neither_batches_nor_processes_nor_wanted_images_change_a_latent(sampler, tmp_path, guides):
    tables = {name: table_at(tmp_path / name) for name in ("one", "small", "shared")}
    sample(sampler, tables["one"], guides=guides)
    sample(sampler, tables["small"], guides=guides, batch_size=3)
    for rank in range(2):
        cost = sample(
            sampler, tables["shared"], guides=guides, processes=Processes(rank, world_size=2)
        )
        assert cost.num_images == 4
    tables["more"] = table_at(tmp_path / "more", ipc=3)
    sample(sampler, tables["more"], guides=guides)
    expected = everything(tables["one"])
    for table in tables.values():
        torch.testing.assert_close(everything(table)[:, :2], expected, rtol=1e-5, atol=1e-3)


def test_guidance_sees_the_finished_images_of_its_class_alone(sampler, tmp_path):
    seen = []

    def guides(classes):
        seen.append((classes.tolist(), strong(classes)))
        return seen[-1][1]

    table = table_at(tmp_path, ipc=3)
    cost = sample(sampler, table, guides=guides, batch_size=3)
    assert [classes for classes, _ in seen] == [[0, 1, 2]] * 3 + [[3]] * 3
    made = everything(table)
    for (classes, guidance), count in zip(seen, (0, 1, 2) * 2, strict=True):
        assert torch.equal(guidance.seen, made[classes, :count])
    assert 0 < cost.guidance_seconds < cost.seconds


def test_an_interrupted_sampling_goes_on_with_the_same_latents(sampler, tmp_path):
    whole, broken = table_at(tmp_path / "whole"), table_at(tmp_path / "broken")
    sample(sampler, whole, guides=strong, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        sample(sampler, broken, guides=strong, batch_size=2, stop=3)
    assert int(broken.missing().sum()) == 2
    assert sample(sampler, broken, guides=strong, batch_size=2).num_images == 2
    assert torch.equal(everything(broken), everything(whole))
    assert sample(sampler, broken, guides=strong).num_images == 0


@pytest.mark.parametrize("side", [8, 16])
def test_pictures_are_rounded_clamped_and_brought_to_size(tmp_path, side):
    table = table_at(tmp_path)
    values = torch.linspace(-1.5, 1.5, 8).reshape(4, 2, 1, 1, 1).expand(4, 2, *LATENT)
    table.write(torch.arange(4)[:, None], torch.arange(2)[None], values)
    images = decode_images(
        PixelCodec(8, channels=1),
        table,
        spec=dataset_spec("digits")._replace(resolution=side),
        processes=Processes(),
        device=torch.device("cpu"),
    )
    assert (images.dtype, images.shape) == (torch.uint8, (4, 2, 1, side, side))
    expected = ((values[..., 0, 0, 0] + 1) / 2 * 255).clamp(0, 255).round()
    assert torch.equal(images.flatten(2).float().amin(2), expected)
    assert torch.equal(images.flatten(2).float().amax(2), expected)
