"""Batches by the number of their step, and trainings that end as if never interrupted."""

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.diffusion.autoencoder import (
    AutoencoderSettings,
    AutoencoderTraining,
    build_autoencoder,
)
from geodm_lightning.diffusion.weights import load_autoencoder
from geodm_lightning.distillers import diffusion_training
from geodm_lightning.distillers.diffusion_training import CHECKPOINT, UnitBatches, trained_model
from geodm_lightning.site import Site
from geodm_lightning.types import InputError
from tests.experiment import TINY, compose_settings


@pytest.fixture(scope="module")
def table():
    return assembly.build_data(compose_settings(*TINY), torch.device("cpu")).train.head(5)


def batches(table, steps, **changed):
    return UnitBatches(table, steps, **{"batch_size": 16, "resolution": 8, "seed": 0, **changed})


def test_a_resumed_stream_goes_on_as_if_it_had_not_stopped(table):
    whole = list(batches(table, range(10)))
    resumed = [*batches(table, range(4)), *batches(table, range(4, 10))]
    assert len(whole) == len(resumed) == len(batches(table, range(10)))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_an_epoch_shows_no_image_twice_and_the_next_another_order(table):
    first, second = ([], [])
    for step, (images, labels) in enumerate(batches(table, range(6))):  # 3 batches of 50 images
        assert images.shape == (16, 1, 8, 8)
        assert images.amin() >= 0
        assert images.amax() <= 1
        (first if step < 3 else second).extend(
            (image.numpy().tobytes(), label)
            for image, label in zip(images, labels.tolist(), strict=True)
        )
    assert len({key for key, _ in first}) == len({key for key, _ in second}) == 48
    assert first != second
    known = {
        table.gather(torch.tensor(index)).numpy().tobytes(): int(table.labels[index])
        for index in range(len(table))
    }
    assert all(known[key] == label for key, label in first + second)


def test_half_the_images_are_mirrored_where_that_keeps_the_class(table, monkeypatch):
    plain = torch.cat([images for images, _ in batches(table, range(12))])
    monkeypatch.setattr(table, "spec", table.spec._replace(flip=True))
    mirrored = torch.cat([images for images, _ in batches(table, range(12))])
    same = (plain == mirrored).flatten(1).all(1)
    turned = (plain.flip(-1) == mirrored).flatten(1).all(1)
    assert (same | turned).all()
    assert 66 < int(turned.sum()) < 126  # 96 ± 4 sigma of 192


def test_few_images_fill_one_smaller_batch_of_the_wanted_size(table):
    images, labels = next(iter(batches(table, range(1), batch_size=1000, resolution=12)))
    assert images.shape == (50, 1, 12, 12)
    assert labels.bincount().tolist() == [5] * 10


def train(table, folder, callbacks=lambda first: []):
    settings = AutoencoderSettings(num_steps=7)

    def build():
        generator = torch.Generator().manual_seed(0)
        fresh = build_autoencoder(1, widths=(8,), latent_channels=1, generator=generator)
        return AutoencoderTraining(fresh, settings=settings, seed=0)

    return trained_model(
        build,
        lambda module: module.autoencoder,
        table=table,
        folder=folder,
        identity={},
        num_steps=7,
        batch_size=8,
        resolution=8,
        seed=0,
        site=Site(torch.device("cpu")),
        callbacks=callbacks,
    )


class StopAt(diffusion_training.Callback):
    """Ends the process, as far as a test can, after a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("killed")


class Watch(diffusion_training.Callback):
    """Keeps the batches that a training is shown."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.seen.append(batch)


def test_stretches_follow_each_other_through_the_stream(table, tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion_training, "STRETCH", 2)
    watch = Watch()
    train(table, tmp_path, lambda first: [watch])
    expected = list(batches(table, range(7), batch_size=8))
    torch.testing.assert_close([[*b] for b in watch.seen], [[*b] for b in expected], rtol=0, atol=0)


@pytest.mark.parametrize("step", [3, 5, 7])
def test_a_training_killed_anywhere_ends_with_the_same_model(table, tmp_path, monkeypatch, step):
    monkeypatch.setattr(diffusion_training, "STRETCH", 2)
    whole = load_autoencoder(train(table, tmp_path / "whole"))
    with pytest.raises(RuntimeError, match="killed"):
        train(table, tmp_path / "killed", lambda first: [StopAt(step)])
    begun = []
    folder = train(table, tmp_path / "killed", lambda first: begun.append(first) or [])
    assert begun == [step // 2 * 2]
    resumed = load_autoencoder(folder)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert resumed.config.scaling_factor == whole.config.scaling_factor != 0.18215
    assert not (folder / CHECKPOINT).exists()
    assert train(table, tmp_path / "killed", lambda first: 1 / 0) == folder  # there already


def test_killed_before_the_model_is_written_it_is_finished_all_the_same(
    table, tmp_path, monkeypatch
):
    monkeypatch.setattr(diffusion_training, "STRETCH", 2)
    whole = load_autoencoder(train(table, tmp_path / "whole"))
    with monkeypatch.context() as patched:
        patched.setattr(diffusion_training, "save_weights", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(table, tmp_path / "killed")
    resumed = load_autoencoder(train(table, tmp_path / "killed"))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert resumed.config.scaling_factor == whole.config.scaling_factor


def test_a_damaged_checkpoint_is_one_line(table, tmp_path, monkeypatch):
    monkeypatch.setattr(diffusion_training, "STRETCH", 2)
    with pytest.raises(RuntimeError, match="killed"):
        train(table, tmp_path, lambda first: [StopAt(3)])
    (path,) = tmp_path.rglob(CHECKPOINT)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"damaged checkpoint .*last.ckpt: .*delete it") as caught:
        train(table, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))
