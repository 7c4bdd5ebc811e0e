"""Models from folders of ``save_pretrained``, trained ones, and those that do not fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from geodm_lightning import assembly
from geodm_lightning.assembly.check import check_buildable
from geodm_lightning.assembly.generator import class_labels
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.diffusion.autoencoder import build_autoencoder
from geodm_lightning.diffusion.training import build_transformer
from geodm_lightning.diffusion.weights import identity_of, load_autoencoder, load_transformer
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.pipeline import run
from geodm_lightning.site import Site
from geodm_lightning.types import InputError
from tests.experiment import compose_config, compose_settings, generative_overrides

CLASSES = ("apple", "fig", "pear")
CPU = torch.device("cpu")
INFLUENCE = (
    "guidance=otg_igd",
    "guidance.influence.network={name: convnet, width: 4}",
    "guidance.influence.epochs=[0, 1]",
    "guidance.influence.num_real=4",
)


@pytest.fixture(scope="module")
def fruit(tmp_path_factory):
    """Three classes of noisy colour images, 20 by 24 pixels."""
    root = tmp_path_factory.mktemp("fruit")
    rng = np.random.default_rng(0)
    for index, name in enumerate(CLASSES):
        for split, count in (("train", 8), ("val", 3)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (20, 24, 3), dtype=np.uint8)
                pixels[..., index] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A pixel model, and a latent model in the layout of a pipeline, for 16 pixels."""
    root = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    sizes = {"hidden": 16, "depth": 1, "heads": 2, "patch_size": 4}
    for name, shape, learned in (("pixels", (3, 16, 16), False), ("latent", (4, 8, 8), True)):
        transformer = build_transformer(
            shape, 3, **sizes, learned_variance=learned, generator=generator
        )
        with torch.no_grad():
            transformer.proj_out_2.weight.normal_(std=0.02, generator=generator)
        part = root / name / "transformer" if name == "latent" else root / name
        transformer.save_pretrained(part)
    autoencoder = build_autoencoder(3, widths=(8, 8), latent_channels=4, generator=generator)
    autoencoder.save_pretrained(root / "latent" / "vae")
    return root


def overrides(folder, fruit, *more):
    return [
        *generative_overrides(folder),
        *("data=image_folder", f"data.root={fruit}", "network.depth=3"),
        "teachers.pool=[{source: trained, name: convnet, depth: 3, width: 8}]",
        *more,
    ]


def sources(models, name):
    autoencoder = f"{models}/latent" if name == "latent" else "null"
    return (f"generator.transformer={models}/{name}", f"generator.autoencoder={autoencoder}")


@pytest.mark.parametrize(
    ("name", "side"),
    [("pixels", 32), ("latent", 12), pytest.param("latent", 32, marks=pytest.mark.slow)],
)
def test_models_of_a_folder_make_a_set_of_image_folders(tmp_path, fruit, models, name, side):
    """Models of 16 pixels; pictures, real latents and gradients are resized on the way."""
    more = (f"data.resolution={side}", "ipc=3", "stages=[distill,relabel,evaluate]", *INFLUENCE)
    run(compose_config(*overrides(tmp_path, fruit, *sources(models, name), *more)))
    path = tmp_path / "runs" / "tiny" / "0"
    made = load_set(path / "distilled")
    assert (made.images.dtype, tuple(made.images.shape)) == (torch.uint8, (9, 3, side, side))
    assert made.manifest["dataset"]["class_names"] == list(CLASSES)
    transformer = load_transformer(models / name)
    assert made.manifest["generator"]["transformer"] == identity_of(transformer)
    unguided = load_set(path / "baselines" / "unguided")
    assert not torch.equal(unguided.images, made.images)
    results = load_results(path / "results.json")
    assert [(r.method, len(r.students)) for r in results[::3]] == [
        ("random", 2),
        ("unguided", 2),
        (results[-1].method, 2),
    ]
    assert len(results) == 9
    assert not list((tmp_path / "cache").glob("diffusion/*"))  # nothing is trained


def build(folder, fruit, *more):
    settings = compose_settings(*overrides(folder, fruit, "data.resolution=16", *more))
    data = assembly.build_data(settings, CPU)
    return assembly.build_generator(settings, data, Site(CPU))


def test_both_models_are_trained_once_where_that_is_said(tmp_path, fruit):
    more = (
        "generator=trained_latent",
        "generator.training.autoencoder.architecture.widths=[8,8]",
        "generator.training.autoencoder.recipe={num_steps: 2, batch_size: 8, lr: 1e-3}",
    )
    first = build(tmp_path, fruit, *more)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    second = build(tmp_path, fruit, *more)
    assert len(times) == 2
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == times
    assert first.identity == second.identity
    folders = {p.parent for p in times}
    assert sum(try_load(load_autoencoder, folder) for folder in folders) == 1
    assert first.codec.latent_shape(16) == first.sampler.denoiser.latent_shape == (4, 8, 8)


def try_load(load, folder):
    try:
        load(folder)
    except InputError:
        return False
    return True


def test_labels_of_the_model_follow_the_list():
    spec = dataset_spec("digits")
    assert class_labels(None, spec, 10).tolist() == list(range(10))
    reverse = list(range(9, -1, -1))
    assert class_labels(reverse, spec, 10).tolist() == reverse
    woof = class_labels("imagenet", dataset_spec("imagewoof"), 1000).tolist()
    assert (len(woof), woof[0], woof[-1]) == (10, 155, 273)  # Shih-Tzu, dingo
    with pytest.raises(InputError, match="class_labels lists 2 different labels, digits has 10"):
        class_labels([1, 2], spec, 10)
    with pytest.raises(InputError, match="lists 9 different labels"):
        class_labels([0, *range(9)], spec, 10)
    with pytest.raises(InputError, match=r"holds -1, the diffusion model knows labels 0 to 9"):
        class_labels([-1, *range(9)], spec, 10)
    with pytest.raises(InputError, match=r"holds 10, the diffusion model knows labels 0 to 9"):
        class_labels(range(1, 11), spec, 10)
    with pytest.raises(InputError, match=r"knows 1000 classes, digits has 10.*class_labels"):
        class_labels(None, spec, 1000)
    with pytest.raises(InputError, match=r"unknown generator\.class_labels 'imagenett'"):
        class_labels("imagenett", dataset_spec("imagewoof"), 1000)
    with pytest.raises(InputError, match="must be whole numbers"):
        class_labels(["a", *range(9)], spec, 10)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["generator.autoencoder=null"], r"makes images of 4 channels, image_folder has 3.*PATH"),
        (["generator.transformer={models}/pixels"], r"makes latents of shape \(3, 16, 16\), the a"),
        (["generator.class_labels=[0,1]"], r"lists 2 different labels, image_folder has 3"),
        (["generator.class_labels=[0,1,3]"], r"holds 3, the diffusion model knows labels 0 to 2"),
        (["generator.transformer={models}/none"], r"no folder .*none with a DiTTransformer2DModel"),
        (["generator.transformer={models}/latent/vae"], r"holds a AutoencoderKL, not a DiT"),
        (["guidance.transport.window=[0.9,0.1]"], r"window"),
        (["guidance.transport.ground=product", "geometry.factors=[flat]"], r"flat.*euclidean"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(tmp_path, fruit, models, more, message):
    more = [item.format(models=models) for item in more]
    config = compose_config(*overrides(tmp_path, fruit, *sources(models, "latent"), *more))
    with pytest.raises(InputError, match=message) as caught:
        run(config)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_autoencoder_of_other_channels_is_refused(models):
    settings = compose_settings(
        *generative_overrides("none"), *sources(models, "latent"), "generator.class_labels=null"
    )
    with pytest.raises(InputError, match="autoencoder takes images of 3 channels, digits has 1"):
        check_buildable(settings, dataset_spec("digits"))
