"""What pushes samples is built once for all rows, and its caches are trusted only when whole."""

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.assembly.guides import Influence, ground_cost
from geodm_lightning.diffusion.codec import PixelCodec
from geodm_lightning.guidance.ground import AbsoluteGround, ProductGround
from geodm_lightning.pipeline import run
from geodm_lightning.site import Site
from geodm_lightning.types import DenoisingStep, InputError
from tests.experiment import compose_config, compose_settings, generative_overrides

CPU = torch.device("cpu")


def built(folder, *more):
    settings = compose_settings(*generative_overrides(folder), *more)
    data = assembly.build_data(settings, CPU)
    return settings, assembly.build_generator(settings, data, Site(CPU)), data


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return built(tmp_path_factory.mktemp("guides"))


def step_of(latents):
    half = torch.tensor(0.5)
    return DenoisingStep(3, 4, latents, latents / 2, latents / 3, half)


class Spent(PixelCodec):
    """A codec that is not asked again."""

    def encode(self, images, *, generator):
        raise AssertionError("all latents are there")


def test_nothing_to_push_builds_nothing(tmp_path):
    settings, generator, data = built(tmp_path, "guidance=none")
    assert assembly.build_guides(settings, generator, data, Site(CPU)) is None
    assert not (tmp_path / "cache" / "latents").exists()


def test_real_latents_are_the_pixels_of_each_class_and_reused(parts):
    settings, generator, data = parts
    first = assembly.guides.real_latents(settings, generator, data, Site(CPU))
    spent = generator._replace(codec=Spent(8, channels=1))
    again = assembly.guides.real_latents(settings, spent, data, Site(CPU))
    assert (again.folder, again.rows_shape) == (first.folder, (10, 8))
    found = again.read(torch.full((8,), 3), torch.arange(8))
    own = data.train.gather((data.train.labels == 3).nonzero().flatten()) * 2 - 1
    distances = torch.cdist(found.flatten(1), own.flatten(1)).amin(1)
    assert distances.max() < 0.01  # 16 bits; each is an image of the class
    assert len({row.numpy().tobytes() for row in found}) == 8


def test_latents_of_another_model_are_refused_in_one_line(tmp_path, parts):
    settings, generator, data = parts
    table = assembly.guides.real_latents(settings, generator, data, Site(CPU))
    before = {p: p.read_bytes() for p in table.folder.iterdir()}
    another = (
        "generator=trained_latent",
        "generator.training.autoencoder.architecture.widths=[8,8]",
        "generator.training.autoencoder.recipe={num_steps: 1, batch_size: 8, lr: 1e-3}",
    )
    for more, key in ((["generator.num_real=7"], "num_real"), (another, "autoencoder")):
        config = compose_config(
            *generative_overrides(tmp_path),
            *(*more, f"generator.latents={table.folder}"),
            *("baselines=[]", "stages=[distill]", f"name={key}"),
        )
        with pytest.raises(InputError, match=f"made with another {key} .*delete the f") as caught:
            run(config)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "runs" / key / "0" / "distilled").exists()
    assert {p: p.read_bytes() for p in table.folder.iterdir()} == before
    assert not list(tmp_path.rglob("*partial*"))


def test_the_ground_is_the_papers_or_the_runs_geometry(parts):
    settings, _, _ = parts
    assert isinstance(ground_cost(settings, CPU), AbsoluteGround)
    product = compose_settings(*generative_overrides("x"), "guidance.transport.ground=product")
    assert isinstance(ground_cost(product, CPU), ProductGround)


def test_classes_side_by_side_are_pushed_as_each_alone(parts):
    settings, generator, data = parts
    guides = assembly.build_guides(settings, generator, data, Site(CPU))
    latents = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    memory = torch.randn(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([7, 1, 4])

    def push(chosen):
        guidance = guides(classes[chosen])
        guidance.begin(memory[chosen])
        return guidance.push(step_of(latents[chosen]))

    together = push(torch.arange(3))
    for row in range(3):
        alone = push(torch.tensor([row]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    assert together.abs().max() > 0


def test_influence_asks_real_images_once_for_the_classes_of_a_batch(parts, tmp_path):
    more = (
        "guidance=otg_igd",
        "guidance.influence.network={name: convnet, width: 4}",
        "guidance.influence.epochs=[0, 1]",
        "guidance.influence.num_real=4",
    )
    settings = compose_settings(*generative_overrides(tmp_path), *more)
    _, generator, data = parts
    maker = assembly.guides.influence_maker(settings, generator, data, Site(CPU))
    assert isinstance(maker, Influence)
    classes = torch.tensor([2, 5])
    maker(classes)
    kept = maker._kept
    maker(classes)
    assert maker._kept is kept
    maker(classes[:1])
    assert maker._kept[0] == [2]
    batches = list(maker._batches(classes))
    assert [labels.unique().tolist() for _, labels in batches] == [[2], [5]]
    assert sum(len(images) for images, _ in batches) == 8
    assert len(maker.surrogates) == 2
    assert not any(surrogate.training for surrogate in maker.surrogates)
