"""The stream of labelled batches: every image once per epoch, the same stream every time."""

import pytest
import torch

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.data.batches import LabelledBatches, fetch_from_table
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.data.normalise import normalise


def stream(num_steps: int, key: tuple = (0, "test"), **options) -> LabelledBatches:
    values = torch.arange(10.0)[:, None, None, None].expand(-1, 1, 8, 8)
    labels = torch.arange(10)
    return LabelledBatches(
        lambda indices: values[indices],
        labels,
        batch_size=4,
        num_steps=num_steps,
        key=key,
        **options,
    )


def test_every_epoch_visits_every_image_once():
    batches = list(stream(8))
    assert [len(labels) for _, labels in batches] == [4, 4, 2, 4, 4, 2, 4, 4]
    epochs = [torch.cat([labels for _, labels in batches[at : at + 3]]) for at in (0, 3)]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not torch.equal(*epochs)
    assert all(torch.equal(images[:, 0, 0, 0].long(), labels) for images, labels in batches)


def test_stream_depends_on_its_key_only():
    options = {"augmentation": Augmentation("color_crop"), "cutmix_probability": 0.5}
    first, again = list(stream(20, **options)), list(stream(20, **options))
    for batch, twin in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch[:3], twin[:3], strict=True))
        assert batch[3] == twin[3]
    other = next(iter(stream(1, key=(1, "test"), **options)))
    assert not torch.equal(other[0], first[0][0])
    assert {batch[3] < 1 for batch in first} == {True, False}


def test_images_of_a_batch_have_parameters_of_their_own():
    batches = stream(1, augmentation=Augmentation("color"))
    images, _ = batches.batch(torch.zeros(4, dtype=torch.long), step=0)
    assert len(images.flatten(1).unique(dim=0)) == 4


@pytest.mark.parametrize("count", [1, 5])
def test_table_images_are_normalised(count):
    data = RealDataModule("digits")
    data.setup()
    indices = torch.arange(count)
    expected = normalise(data.train.gather(indices), data.spec)
    assert torch.equal(fetch_from_table(data.train)(indices), expected)
